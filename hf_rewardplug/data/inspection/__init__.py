"""What training would see of a data set, before it trains.

In: raw rows, and a tokenizer or none. Out: an `Inspection`: the format, how many rows are kept, left out, cut or
refused and why, an example; with a tokenizer also lengths, padding, sharing, and step separators that merge. Rows go
through the adapter, the checks and the encoder of the trainers, but a bad one stops nothing. `cli/wording.py`
has the words.
"""

import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
from transformers import AutoTokenizer
from transformers.utils import cached_file

from ..adapters import Adapter, rename_columns
from ..canonical import UNLABELLED, Row
from ..chat_templates import set_chat_template
from ..encoding import DropRow, Encoder
from ..expansion import row_type, to_pairs, to_steps
from ..prefix_tree import common_prefix_length
from ..prepare import PreparationReport, RowPipeline, choose_adapter
from .tokens import Merges, TokenFigures, token_text

OVERLONG_OF = {"pairs": "drop", "steps": "truncate"}
"""what becomes of long rows by default: that of `RewardConfig` and of `PRMConfig`"""

MAX_LENGTH = 1024
"""the default of both configs"""

_PROBED = 1000  # rows among which one must give an example that tells pairs from steps
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
        kind: "pairs" (RewardTrainer) or "steps" (PRMTrainer).
        rows: raw rows there are; None of a stream. `report.rows` of them were read.
        report: rows that were left out or cut, as in training.
        refusals: rows that stop training: what is wrong -> row numbers.
        counts: of the kept examples: "margin", "labels", "wrong", "trees", "longer_wins" (chosen has more tokens, half
            where both have as many).
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
    counts: dict[str, float] = field(default_factory=dict)
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
    max_rows: int | None = None,
    overlong: str | None = None,
    **encoding: Any,
) -> Inspection:
    """Run rows through what training does to them.

    Args:
        tokenizer: the model's; None looks at the raw rows alone.
        max_rows: of the first ones; None for all.
        overlong: the trainer's default when None.
        encoding: `max_length` (1024 by default, None for no limit), `step_separator`, ... of `Encoder`.

    Raises:
        ValueError: no rows, an unknown format, or options that cannot be.
    """
    dataset = dataset.with_format(None)
    first = next(iter(dataset), None)
    if first is None:
        raise ValueError(f"'{name}' has no rows.")
    chosen = choose_adapter(first, adapter, column_mapping)
    kind = _kind(islice(dataset, _PROBED), chosen, column_mapping)
    found = Inspection(name, chosen.name, list(dataset.column_names or first), kind, named=adapter is not None)
    found.rows = len(dataset) if isinstance(dataset, datasets.Dataset) else None
    found.report.name = name
    found.options = {"max_length": MAX_LENGTH, "overlong": overlong or OVERLONG_OF[kind], **encoding}
    encoder = None if tokenizer is None else Encoder(tokenizer=tokenizer, **found.options)
    if encoder is not None and kind == "steps":
        _ = encoder.separator_ids  # a separator that cannot be used is no row's fault
    found.merges = Merges() if encoder is not None and kind == "steps" else None
    pipeline = RowPipeline(
        name=name,
        columns=datasets.Features(),
        encode=_Encode(found, encoder),
        expand=to_pairs if kind == "pairs" else to_steps,
        adapter=chosen,
        column_mapping=column_mapping,
    )
    _read(found, islice(dataset, max_rows), pipeline, tokenizer)
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
        tokenizer = AutoTokenizer.from_pretrained(name)
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


class _Encode:
    """Canonical row -> example with its `sequences`, the tokens of its `prompt` and the numbers for `counts`."""

    def __init__(self, found: Inspection, encoder: Encoder | None):
        self.found, self.encoder = found, encoder

    def __call__(self, row: Row) -> Row:
        example = {"canonical": row, "cut": 0, "cut_labels": 0}
        return example | (self._pair(row) if "chosen" in row else self._steps(row))

    def _pair(self, row: Row) -> Row:
        counts = {"margin": int("margin" in row)}
        if self.encoder is None:
            if row["chosen"] == row["rejected"]:
                raise DropRow("chosen and rejected are identical")
            return {"counts": counts}
        encoded = self.encoder.pair(row)
        chosen, rejected = sequences = [array("i", encoded[key]) for key in ("chosen_ids", "rejected_ids")]
        counts["longer_wins"] = (len(chosen) > len(rejected)) + 0.5 * (len(chosen) == len(rejected))
        return {**encoded, "counts": counts, "sequences": sequences, "prompt": common_prefix_length(chosen, rejected)}

    def _steps(self, row: Row) -> Row:
        labels, encoded = row["labels"], {}
        if self.encoder is None and all(label == UNLABELLED for label in labels):
            raise DropRow("no labelled step")
        if self.encoder is not None:
            self.found.merges.add(self.encoder, row)
            encoded = self.encoder.steps({"parents": list(range(-1, len(labels) - 1)), **row})
            labels = encoded["labels"]
            encoded |= {"sequences": _paths(encoded), "prompt": encoded["node_lengths"][0]}
        labels = [label for label in labels if label != UNLABELLED]
        wrong = sum(label < 0.5 for label in labels)
        return {**encoded, "counts": {"trees": int("parents" in row), "labels": len(labels), "wrong": wrong}}


def _kind(rows: Iterable[Row], adapter: Adapter, column_mapping: dict | None) -> str:
    """Whether the first row that the adapter can read gives pairs or steps."""
    for row in rows:
        try:
            canonical = adapter(rename_columns(row, column_mapping) if column_mapping else row)
            if canonical:
                return "pairs" if row_type(canonical[0]) in ("preference", "ranked") else "steps"
        except Exception:  # a bad row, or a third party's adapter: told where all rows are read
            continue
    return "steps" if adapter.columns and {"labels", "label", "nodes"} & {*adapter.columns} else "pairs"


def _read(found: Inspection, rows: Iterable[Row], pipeline: RowPipeline, tokenizer: Any) -> None:
    report, sequences, prompts = found.report, [], []
    for number, raw in enumerate(rows):
        report.rows += 1
        try:
            examples = pipeline.examples(raw, number)
        except ValueError as error:
            why = str(error).split(f", row {number}: ", 1)[-1]
            found.refusals.setdefault(why, []).append(number)
            continue
        for example in examples:
            if example["dropped"] is not None:
                report.dropped.setdefault(example["dropped"], []).append(number)
                continue
            report.examples += 1
            for key, value in example["counts"].items():
                found.counts[key] = found.counts.get(key, 0) + value
            if example["cut"]:
                report.cut_rows.append(number)
                report.cut_tokens += example["cut"]
                report.cut_labels += example["cut_labels"]
            if tokenizer is not None:
                sequences.append(example["sequences"])
                prompts.append(example["prompt"])
            if not found.example:
                found.example = list(_segments(example, tokenizer))
    with_margin = found.counts.get("margin", 0)
    if 0 < with_margin < report.examples:
        why = (
            f"'margin' is missing in {report.examples - with_margin} of {report.examples} pairs; all or none have one."
        )
        found.refusals[why] = []
    if sequences:
        found.tokens = TokenFigures.of(prompts, sequences)


def _paths(encoded: Row) -> list[array]:
    """The tokens of each path of a tree of steps, from the beginning to a leaf."""
    ids, parents, pieces, start = encoded["input_ids"], encoded["node_parents"], [], 0
    for length in encoded["node_lengths"]:
        pieces.append(ids[start : start + length])
        start += length
    paths, inner = [], set(parents)
    for leaf in range(len(pieces)):
        if leaf not in inner:
            path, node = [], leaf
            while node >= 0:
                path.append(pieces[node])
                node = parents[node]
            paths.append(array("i", [index for piece in reversed(path) for index in piece]))
    return paths


def _segments(example: Row, tokenizer: Any) -> Iterator[Segment]:
    """The example in parts, each token as text; without a tokenizer the parts as they are."""
    row = example["canonical"]
    if tokenizer is None:
        for key in ("prompt", "chosen", "rejected"):
            if key in row:
                yield Segment(key, [_as_text(row[key])])
        for index, step in enumerate(row.get("completions", ())):
            yield Segment(_step_title(row, index), [step])
        return
    if "chosen" in row:
        prefix = example["prompt"]
        parts = [("both begin with", example["chosen_ids"][:prefix])]
        parts += [(key, example[f"{key}_ids"][prefix:]) for key in ("chosen", "rejected")]
    else:
        ids, parts, start = example["input_ids"], [], 0
        for node, length in enumerate(example["node_lengths"]):
            title = "prompt" if node == 0 else _step_title(row, node - 1)
            parts.append((title, ids[start : start + length]))
            start += length
    for number, (title, ids) in enumerate(parts):
        tokens = [token_text(tokenizer, index) for index in ids]
        yield Segment(title, tokens, scored=len(tokens) - 1 if number and tokens else None)


def _step_title(row: Row, index: int) -> str:
    label = row["labels"][index]
    words = {1: "right", 0: "wrong", UNLABELLED: "unlabelled"}.get(label, f"label {label}")
    parent = row["parents"][index] if "parents" in row else index - 1
    return f"step {index + 1}, {words}" + ("" if parent == index - 1 else f", after step {parent + 1}")


def _as_text(value: str | list[dict]) -> str:
    return value if isinstance(value, str) else "\n".join(f"{turn['role']}: {turn.get('content')}" for turn in value)
