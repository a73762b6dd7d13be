"""What training would see of a data set, before it trains.

In: raw rows, and a tokenizer or none. Out: an `Inspection`: the format, which losses take the rows, how many are kept,
left out, cut or refused and why, an example; with a tokenizer also lengths, padding, sharing, and step separators that
merge. Rows go through the adapter, the checks and the encoder of the trainers, but a bad one stops nothing. `kinds.py`
tells pairs, scored completions and steps apart; `cli/wording.py` has the words.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
from transformers import AutoTokenizer
from transformers.utils import cached_file

from ..checks import RowError
from ..data.canonical import PAIR_NUMBERS, Row, subset_name
from ..data.chat_templates import set_chat_template
from ..data.encoding import Encoder
from ..data.origin import Origin
from ..data.pipeline import RowPipeline
from ..data.prepare import PreparationReport
from ..data.raw import opened
from ..data.row_forms import form_of
from ..data.unrendered import Unrendered
from .kinds import KINDS, Kind, kind_of
from .tokens import Merges, TokenFigures, token_text

OVERLONG_OF = {kind.name: kind.overlong for kind in KINDS}
"""what becomes of long rows by default: that of `RewardConfig` and of `PRMConfig`"""

MAX_LENGTH = 1024
"""the default of both configs"""

_PROBED = 1000  # rows whose types say of which kind the data are
_MODEL_FILES = ("config.json", "reward_config.json")  # a model's, an adapter's


@dataclass(frozen=True)
class Segment:
    """A part of an example: its tokens as texts, of which the one at `scored` gets a score."""

    title: str
    tokens: list[str]
    scored: int | None = None


@dataclass
class Inspection:
    """What was found.

    Attributes:
        name, adapter, columns: of the data; `named` says that the adapter was given by name.
        kind: "pairs" or "scored" (RewardTrainer), or "steps" (PRMTrainer).
        losses: every `loss_type` that takes all rows but those that are refused, the trainer's order.
        attributes: names of the scores that a completion has; None where it has one.
        rows: raw rows there are; None of a stream. `report.rows` of them were read.
        report: rows that were left out or cut, as in training.
        refusals: rows that stop training: what is wrong -> row numbers.
        counts: of the kept examples: those that have a column of `PAIR_NUMBERS`, "longer_wins" (chosen has more
            tokens, half where both have as many), "solutions", "trees", "labels", "wrong", "soft" (labels that are
            neither 0 nor 1), "outcomes" (solutions without labels), "bad_outcomes"; and by their form "text" and
            "turns". Of all rows: "ties" (pairs that are ties), "lists" (ranked rows), "lists of 4" (those of four
            completions).
        scores: {attribute or "score": every score}, of ranked rows too. weights: of the kept examples.
        subsets: rows of each `subset`.
        tokens, merges, example: see there. The first two are None without a tokenizer.
    """

    name: str
    adapter: str
    columns: list[str]
    kind: str
    named: bool = False
    rows: int | None = None
    report: PreparationReport = field(default_factory=lambda: PreparationReport("data"))
    refusals: dict[str, list[int]] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)
    attributes: list[str] | None = None
    counts: Counter = field(default_factory=Counter)
    scores: dict[str, list[float]] = field(default_factory=dict)
    weights: list[float] = field(default_factory=list)
    subsets: Counter = field(default_factory=Counter)
    tokens: TokenFigures | None = None
    merges: Merges | None = None
    example: list[Segment] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


def inspect_rows(
    dataset: datasets.Dataset | datasets.IterableDataset,
    tokenizer: Any = None,
    *,
    name: str = "data",
    adapter: str | None = None,
    column_mapping: dict[str, str] | None = None,
    ignore_columns: list[str] | None = None,
    max_rows: int | None = None,
    overlong: str | None = None,
    on_bad_row: str = "error",
    **encoding: Any,
) -> Inspection:
    """Run rows through what training does to them.

    Args:
        tokenizer: the model's; None looks at the raw rows alone.
        adapter, column_mapping, ignore_columns, overlong, on_bad_row: as in the trainers' configs; defaults are the
            trainer's. With "error" rows that would stop training are in `refusals`, with "drop" in the report.
        max_rows: of the first ones; None for all.
        encoding: `max_length` (1024 by default, None for no limit), `step_separator`, ... of `Encoder`.

    Raises:
        ValueError: no rows, an unknown format, columns with a part of the prompt that it does not read, or options that
            cannot be.
    """
    columns = list(dataset.column_names or ())
    raw = opened(
        dataset,
        adapter=adapter,
        column_mapping=column_mapping,
        ignore_columns=ignore_columns,
        beside=[(column_mapping or {}).get("subset", "subset")],
    )
    if raw is None:
        raise ValueError(f"'{name}' has no rows.")
    dataset, chosen = raw.rows, raw.adapter
    kind_class = kind_of(islice(dataset, min(_PROBED, max_rows or _PROBED)), chosen, column_mapping)
    found = Inspection(name, chosen.name, columns or list(raw.first), kind_class.name, named=adapter is not None)
    found.rows = len(dataset) if isinstance(dataset, datasets.Dataset) else None
    found.report.name, found.report.unread = name, raw.unread
    found.options = {"max_length": MAX_LENGTH, "overlong": overlong or kind_class.overlong, **encoding}
    kind = kind_class(None if tokenizer is None else Encoder(tokenizer=tokenizer, **found.options))
    if kind.encoder is not None:
        found.options["max_length"] = kind.encoder.max_length  # which the model's positions may have lowered
    pipeline = RowPipeline(
        name=name,
        columns=datasets.Features(),
        encode=kind.encode,
        expand=kind.expand,
        unrendered=kind.encoder and Unrendered(kind.encoder),
        adapter=chosen,
        column_mapping=column_mapping,
        unread=raw.unread,
    )
    origin = Origin.of(dataset) if isinstance(dataset, datasets.Dataset) else Origin()
    _read(found, islice(dataset, max_rows), pipeline, kind, tokenizer, origin=origin, on_bad_row=on_bad_row)
    return found


def load_tokenizer(name: str, chat_template: str | None = None) -> tuple[Any, dict[str, Any]]:
    """The tokenizer of a model or of a folder with a tokenizer alone, and what the model's config says of encoding.

    Returns:
        The tokenizer, and options of `Encoder`: `vocab_size` where the config has it, and of a process reward model
        the separator that it was trained with.

    Raises:
        ValueError: there is none that can be loaded.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"'{name}' has no tokenizer that can be loaded ({why}). Give a folder with one, or a hub id."
        ) from error
    if chat_template is not None:
        set_chat_template(tokenizer, chat_template)
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
    options: dict[str, Any] = {}
    if path := next((path for file in _MODEL_FILES if (path := cached_file(name, file, **quiet))), None):
        config = json.loads(Path(path).read_text(encoding="utf-8"))
        options["vocab_size"] = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
        description = config.get("rewardplug") or {}
        options |= {key: description[key] for key in ("step_separator", "step_token") if description.get(key)}
    return tokenizer, options


def _read(
    found: Inspection,
    rows: Iterable[Row],
    pipeline: RowPipeline,
    kind: Kind,
    tokenizer: Any,
    *,
    origin: Origin,
    on_bad_row: str,
) -> None:
    report, sequences, prompts = found.report, [], []
    for position, raw in enumerate(rows):
        report.rows += 1
        number, place = origin.number(position), origin.name(position)
        if (subset := subset_name(raw.get((pipeline.column_mapping or {}).get("subset", "subset")))) is not None:
            found.subsets[subset] += 1
        try:
            examples = pipeline.examples(raw, position)
        except RowError as error:
            if on_bad_row == "drop":
                report.leave_out(number, error.what, refused=error.general, place=place or error.row)
            else:
                found.refusals.setdefault(f"{error.what}.", []).append(number)
                report.call(number, place or error.row)
            continue
        for example in examples:
            report.count(example, number, place or example["place"])
            if example["dropped"] is not None:
                continue
            found.counts.update(example["counts"])
            found.counts[form_of(example["canonical"])] += 1
            if "weight" in example["canonical"]:
                found.weights.append(example["canonical"]["weight"])
            if tokenizer is not None:
                sequences.append(example["sequences"])
                prompts.append(example["prompt"])
            if not found.example:
                found.example = list(_segments(kind.parts(example), tokenizer))
    found.losses = kind.losses(found.counts)
    found.counts.update(kind.counts)
    found.scores, found.merges, found.attributes = kind.scores, kind.merges, getattr(kind, "attributes", None)
    for column in PAIR_NUMBERS:
        if 0 < found.counts[column] < report.examples:
            missing, what = report.examples - found.counts[column], "pairs" if kind.name == "pairs" else "examples"
            why = f"'{column}' is missing in {missing} of {report.examples} {what}; all or none have one."
            found.refusals[why] = []
    if sequences:
        found.tokens = TokenFigures.of(prompts, sequences)


def _segments(parts: list[tuple[str, Any]], tokenizer: Any) -> Iterator[Segment]:
    """The example in parts, each token as text; without a tokenizer the parts as they are."""
    for number, (title, part) in enumerate(parts):
        if tokenizer is None:
            yield Segment(title, [_as_text(part)])
        else:
            tokens = [token_text(tokenizer, index) for index in part]
            yield Segment(title, tokens, scored=len(tokens) - 1 if number and tokens else None)


def _as_text(value: str | list[dict]) -> str:
    return value if isinstance(value, str) else "\n".join(f"{turn['role']}: {turn.get('content')}" for turn in value)
