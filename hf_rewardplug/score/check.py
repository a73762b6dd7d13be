"""Is a checkpoint what others will take it for? What must be true of its files, and plain transformers' scores.

In: the folder or hub id of a reward model or of an adapter. Out: a list of `Finding`s. Plain transformers means
`AutoModelFor...` and `AutoTokenizer` (PEFT over the base model for an adapter), right-padded batches in fp32, and
nothing of this package: `plain.py`.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME

from ..data.adapters.fields import TEMPLATE_ARGUMENTS
from ..data.files import local_files
from ..data.row_forms import FORMS, TEXT, TURNS
from ..model.description import Description
from ..model.kinds import LM, Kind, architecture, kind_of_class, kind_of_task, labels_of
from ..model.loading import ADAPTER_MODEL_CONFIG
from ..model.places import check_place, find_file, read
from . import findings
from .findings import Finding
from .inputs import EXPECTED, Completions, Solutions, cut_into_steps, key_of, nested_rows
from .lines import Requests, flat, read_source
from .plain import load_plain, plain_scores, weight_files
from .rendering import TrainedForm
from .scorer import RewardScorer

TOLERANCE = 1e-5
"""how far fp32 scores may be apart; of a score beyond 1, that share of it"""

ROWS = 8
"""rows of a file that are compared"""

_BUILT_IN = (
    ("What is 2 + 2?\n", ("4.", "It is five, I think.", "Two and two\nmake four.")),
    ("Name the capital of France and say one thing about it.\n", ("Paris. It lies on the Seine.", "I do not know.")),
)


def check_model(name: str, *, rows: Iterable[dict[str, Any]] | None = None, dtype: str | None = None) -> list[Finding]:
    """Look at a checkpoint from all sides; a fault that hides what is behind it ends the list.

    Args:
        name: a folder or hub id.
        rows: what is scored both ways, as `RewardScorer.score_rows` takes them; some built-in ones when None.
        dtype: compared with fp32, and told; the checkpoint's own when None.

    Raises:
        ValueError: `name` is nowhere, or a row cannot be scored.
    """
    return list(_findings(name, None if rows is None else list(rows), dtype))


def rows_of_file(path: str | Path, count: int = ROWS) -> list[dict[str, Any]]:
    """The first rows of a file or folder of any format that training reads, as `check_model` takes them.

    Raises:
        ValueError: one of them cannot be scored, with its line.
    """
    lines = list(islice(read_source(local_files(path), Requests(any_format=True)), count))
    for line in lines:
        if line.error is not None:
            raise ValueError(f"{line.place}: {line.error.removesuffix('.')}.")
    if not lines:
        raise ValueError(f"'{path}' has no rows. Give some, or leave it out: there are built-in rows.")
    return [request for line in lines for request in line.requests]


def _findings(name: str, rows: list | None, dtype: str | None) -> Iterator[Finding]:
    folder, adapter = _folder(name)
    yield (weights := _weights(folder))
    if not weights.ok:
        return
    own = {"_configuration_file": ADAPTER_MODEL_CONFIG} if adapter else {}
    try:
        config, tokenizer = read(AutoConfig, name, **own), read(AutoTokenizer, name)
        description = Description.checked(config, f"'{name}'")
    except ValueError as error:
        remedy = "Save the tokenizer and the config in the model's folder."
        yield Finding("config and tokenizer", str(error), False, remedy)
        return
    kind, finding = _kind(folder, config, description, adapter)
    yield finding
    if not finding.ok:
        return
    if not kind.rates_steps:
        yield Finding(
            "problem type",
            str(config.problem_type),
            config.problem_type == "regression",
            'Set `"problem_type": "regression"` in config.json: servers return a sigmoid of the reward otherwise.',
        )
    yield findings.pad_token(tokenizer, config)
    separator = description.step_end
    labels = None
    if kind is LM:
        labels, finding = findings.label_tokens(tokenizer, description.good_token, description.bad_token)
        yield finding
        if labels is None:
            return
    if kind.rates_steps:
        remedy = 'Set `"rewardplug": {"step_separator": ...}` in config.json; until then \'\\n\' is taken.'
        yield Finding("step separator", repr(separator) if separator else "not in the config", bool(separator), remedy)
    yield findings.template(tokenizer, description)
    form = TrainedForm(name, tokenizer, description, description.chat_template_kwargs)
    rows = _built_in(kind, _built_in_forms(tokenizer, form.rows)) if rows is None else rows
    cases = list(_cases(rows, kind, separator or "\n", form))
    yield from _scoring(name, kind, config, tokenizer, cases, adapter=adapter, label_tokens=labels, dtype=dtype)


def _scoring(
    name: str,
    kind: Kind,
    config: Any,
    tokenizer: Any,
    cases: list[dict],
    *,
    adapter: bool,
    label_tokens: tuple[int, int] | None,
    dtype: str | None,
) -> Iterator[Finding]:
    """Load the model with plain transformers, and compare its scores of `cases` with this package's."""
    try:
        model, missing = load_plain(name, kind, config, adapter=adapter)
    except Exception as error:  # weights that do not fit the config: of any kind, as the config goes
        why = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        remedy = "Take the config.json that was saved with the weights."
        yield Finding("loading", f"plain transformers cannot load it: {why}", False, remedy)
        return
    yield findings.head(model, missing)
    description = Description.of(config)
    expected = plain_scores(
        model,
        tokenizer,
        cases,
        separator=description.step_end or "\n",
        label_tokens=label_tokens,
        attribute_weights=description.attribute_weights,
    )
    own_dtype = dtype or str(getattr(config, "dtype", None) or "").removeprefix("torch.")
    del model  # two models at a time may be one too many
    yield from _differences(name, cases, expected, own_dtype)


def _folder(name: str) -> tuple[Path, bool]:
    """Where the files are, and whether they are an adapter's."""
    config, adapter = (find_file(name, file, {}) for file in (CONFIG_NAME, ADAPTER_CONFIG_NAME))
    if config is None and adapter is None:
        check_place(name, {})
    folder = (config or adapter).parent
    if not Path(name).is_dir():  # of the hub: that file alone has been fetched
        folder = Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json"], ignore_patterns="*/*"))
    return folder, config is None


def _weights(folder: Path) -> Finding:
    files, pickles, faults = weight_files(folder)
    if faults or not files:
        state = "; ".join(faults) or "no safetensors file"
        state += f", but {', '.join(pickles)}" if pickles and not files else ""
        return Finding("weights", state, False, "Copy the folder again, or save the model again.")
    size = sum((folder / file).stat().st_size for file in files)
    state = f"{len(files)} safetensors file{'s' * (len(files) > 1)}, {size / 1e6:,.1f} MB"
    if pickles:
        remedy = "Delete them: a pickle can run code when it is read."
        return Finding("weights", f"{state}, and pickles: {', '.join(pickles)}", False, remedy)
    return Finding("weights", state, True)


def _kind(folder: Path, config: Any, description: Description, adapter: bool) -> tuple[Kind | None, Finding]:
    if adapter:
        from peft import PeftConfig

        peft_config = read(PeftConfig, str(folder))
        name, base = peft_config.task_type, peft_config.base_model_name_or_path
        kind = kind_of_task(name)
        of_base = f" ({getattr(peft_config.peft_type, 'value', peft_config.peft_type)} adapter of {base})"
    else:
        name, of_base = architecture(config), ""
        kind = kind_of_class(name)
    if kind is None or (kind is LM and None in (description.good_token, description.bad_token)):
        remedy = (
            "A reward model is saved as ...ForSequenceClassification (ORM), ...ForTokenClassification (PRM), or "
            '...ForCausalLM with `"rewardplug": {"good_token": ..., "bad_token": ...}` in its config (PRM).'
        )
        return kind, Finding("kind", f"{name}{of_base}", False, remedy)
    words = f"{kind.words} ({kind.config_name.upper()})"
    if kind is LM:
        return kind, Finding("kind", f"{words} by label tokens{of_base}", True)
    expected = labels_of(kind, description)
    labels = f"{config.num_labels} label{'s' * (config.num_labels != 1)}"
    remedy = f"Expected {' or '.join(map(str, expected))} label(s)."
    return kind, Finding("kind", f"{words}, {labels}{of_base}", config.num_labels in expected, remedy)


def _built_in_forms(tokenizer: Any, rows: str | None) -> set[str]:
    """The form that the model was trained on; both where it was both, or nobody knows and there is a template."""
    return {rows} if rows in FORMS else {TEXT, TURNS} if tokenizer.chat_template else {TEXT}


def _built_in(kind: Kind, forms: set[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for prompt, answers in _BUILT_IN:
        if kind.rates_steps:
            items = {"steps": [[f"{answer} " * 2, answer] for answer in answers]}
        else:
            items = {"completions": list(answers)}
        if TEXT in forms:
            rows.append({"prompt": prompt, **items})
        if TURNS in forms:
            rows.append({"prompt": [{"role": "user", "content": prompt.strip()}], **items})
    return rows


def _cases(
    rows: list[dict[str, Any]], kind: Kind, separator: str, form: TrainedForm | None = None
) -> Iterator[dict[str, Any]]:
    """Flat canonical rows: {"prompt", "completion"} for an ORM, {"prompt", "completions"} (steps) for PRMs.

    Each in the form that training had, and with the checkpoint's arguments of the chat template beside its own.
    """
    for index, row in enumerate(rows):
        key = key_of(row)
        if key is None:
            raise ValueError(f"row {index}: found {sorted(row)}; {EXPECTED}. Rename the columns.")
        if key == "steps" and not kind.rates_steps:
            raise ValueError(f"row {index} has steps, but the model is an outcome reward model. Give completions.")
        items = Solutions if key == "steps" else Completions
        more = {name: [row.get(name)] for name in TEMPLATE_ARGUMENTS}
        as_trained = None if form is None else getattr(form, items.name)
        for case in nested_rows([row["prompt"]], [row[key]], items, [f"row {index}"], form=as_trained, **more)[0]:
            if form is not None:
                own = case.get("chat_template_kwargs") or {}
                case["chat_template_kwargs"] = {**form.chat_template_kwargs, **own}
            yield cut_into_steps(case, separator) if kind.rates_steps and key != "steps" else case


def _differences(name: str, cases: list[dict], expected: list[list[float]], dtype: str) -> Iterator[Finding]:
    check = "scores in fp32"
    try:
        own = _own_scores(name, cases, "float32")
    except ValueError as error:
        remedy = "Mend what it names; until then this package cannot score with the model."
        yield Finding(check, f"RewardScorer refuses: {error}", False, remedy)
        return
    apart, worst = _apart(expected, own)
    number = sum(map(len, own))
    difference = f"largest difference from plain transformers {apart:.1e} ({number} scores of {len(cases)} sequences)"
    remedy = "Plain transformers (and servers) score other tokens than training did: see the lines above."
    yield Finding(check, difference, worst <= TOLERANCE, remedy)
    if dtype in ("", "float32"):
        return
    apart, _ = _apart(own, _own_scores(name, cases, dtype))
    scores = list(flat(own))
    difference = f"largest difference from fp32 {apart:.1e}, of scores from {min(scores):.3g} to {max(scores):.3g}"
    yield Finding(f"scores in {dtype}", difference)


def _own_scores(name: str, cases: list[dict], dtype: str) -> list[list[float]]:
    return list(RewardScorer.from_pretrained(name, dtype=dtype, device="cpu").flat_scores(cases))


def _apart(expected: list[list[float]], own: list[list[float]]) -> tuple[float, float]:
    """The largest difference, and the largest as a share of scores beyond 1."""
    pairs = list(zip(flat(expected), flat(own), strict=True))
    differences = [abs(a - b) for a, b in pairs]
    if any(difference != difference for difference in differences):
        return float("nan"), float("nan")
    return max(differences), max(abs(a - b) / max(1.0, abs(a)) for a, b in pairs)
