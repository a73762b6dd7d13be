"""What training would see of a data set, before it trains.

In: raw rows, and a tokenizer or none. Out: an `Inspection`: the format, which losses take the rows, how many are kept,
left out, cut or refused and why, an example; with a tokenizer also lengths, padding, sharing, and step separators that
merge. Rows go through the adapter, the checks and the encoder of the trainers, but a bad row stops nothing.

    readers.py    pairs, completions or steps: what is counted, and the losses that take the rows
    tokens.py     lengths, padding, sharing, separators that merge
    tokenizer.py  a model's tokenizer, and what its config says of encoding

`cli/wording.py` puts an `Inspection` into words.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import datasets

from ..checks import RowError
from ..data.canonical import PAIR_NUMBERS, Row, subset_name
from ..data.encoding import Encoder
from ..data.origin import Origin
from ..data.pipeline import RowPipeline
from ..data.preparation_report import PreparationReport
from ..data.raw import opened
from ..data.row_forms import form_of
from ..data.unrendered import Unrendered
from .readers import READERS, Reader, reader_of
from .tokenizer import load_tokenizer
from .tokens import Merges, TokenFigures, sequences_of, token_text

__all__ = ["MAX_LENGTH", "OVERLONG_OF", "Inspection", "Segment", "inspect_rows", "load_tokenizer"]

OVERLONG_OF = {reader.form: reader.overlong for reader in READERS}
"""what becomes of long rows by default, in `RewardConfig` and in `PRMConfig`"""

MAX_LENGTH = 1024
"""the default of both configs"""

_PROBED = 1000  # rows whose types say which reader takes the data


@dataclass(frozen=True)
class Segment:
    """A part of an example: the texts of its tokens. The one at `scored` gets a score."""

    title: str
    tokens: list[str]
    scored: int | None = None


@dataclass
class Inspection:
    """What training would see.

    Attributes:
        name, adapter, columns: of the data; `named` says that the user named the adapter.
        form: "pairs" or "completions" (RewardTrainer), or "steps" (PRMTrainer).
        losses: every `loss_type` that takes all rows but those that are refused, in the trainer's order.
        attributes: names of the scores that a completion has; None where it has one.
        rows: how many raw rows there are; None of a stream. `report.rows` of them were read.
        report: rows that were left out or cut, as in training.
        refusals: rows that stop training: what is wrong -> row numbers.
        counts: of the kept examples: those that have a column of `PAIR_NUMBERS`, "longer_wins" (chosen has more
            tokens, half where both have as many), "trees", "labels", "wrong", "soft" (labels that are neither 0 nor 1),
            "outcomes" (solutions without labels), "bad_outcomes"; and by their form "text" and "turns". Of all rows:
            "ties" (pairs that are ties), "lists" (ranked rows), "lists of 4" (those of four completions).
        scores: {attribute or "score": every score}, of ranked rows too. weights: of the kept examples.
        subsets: rows of each `subset`.
        tokens, merges, example: see there. The first two are None without a tokenizer.
        options: of the encoder, as they apply.
    """

    name: str
    adapter: str
    columns: list[str]
    form: str
    report: PreparationReport
    named: bool = False
    rows: int | None = None
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
        tokenizer: the model's; without one the raw rows alone are looked at.
        adapter, column_mapping, ignore_columns, overlong, on_bad_row: as in the trainers' configs; defaults are the
            trainer's. With "error" rows that would stop training are in `refusals`, with "drop" in the report.
        max_rows: of the first ones; None for all.
        encoding: `max_length` (1024 by default, None for no limit), `step_separator`, ... of `Encoder`.

    Raises:
        ValueError: no rows, an unknown format, an unread part of the prompt, or options that cannot be.
    """
    subset = (column_mapping or {}).get("subset", "subset")
    raw = opened(
        dataset, adapter=adapter, column_mapping=column_mapping, ignore_columns=ignore_columns, beside=[subset]
    )
    if raw is None:
        raise ValueError(f"'{name}' has no rows.")
    probed = islice(raw.rows, min(_PROBED, max_rows or _PROBED))
    reader_class = reader_of(probed, raw.adapter, column_mapping)
    options = {"max_length": MAX_LENGTH, "overlong": overlong or reader_class.overlong, **encoding}
    reader = reader_class(_encoder(tokenizer, options))
    pipeline = RowPipeline(
        name=name,
        columns=datasets.Features(),
        encode=reader.encode,
        expand=reader.expand,
        unrendered=reader.encoder and Unrendered(reader.encoder),
        adapter=raw.adapter,
        column_mapping=column_mapping,
        subset=subset,
        unread=raw.unread,
        on_bad_row=on_bad_row,
    )
    columns, report = [*(dataset.column_names or raw.first)], PreparationReport(name, unread=raw.unread)
    inspection = Inspection(name, raw.adapter.name, columns, reader.form, report, adapter is not None, options=options)
    return _read(inspection, raw.rows, pipeline, reader, max_rows=max_rows)


def _encoder(tokenizer: Any, options: dict[str, Any]) -> Encoder | None:
    """The encoder of training, whose `max_length` the model's positions may have lowered; `options` say so then."""
    if tokenizer is None:
        return None
    encoder = Encoder(tokenizer=tokenizer, **options)
    options["max_length"] = encoder.max_length
    return encoder


def _read(
    inspection: Inspection,
    rows: datasets.Dataset | datasets.IterableDataset,
    pipeline: RowPipeline,
    reader: Reader,
    *,
    max_rows: int | None,
) -> Inspection:
    """Fill in what the rows say; a row that the pipeline refuses is noted, and the next one is read."""
    origin = Origin()
    if isinstance(rows, datasets.Dataset):
        origin, inspection.rows = Origin.of(rows), len(rows)
    report = inspection.report
    prompts: list[int] = []
    sequences: list[list] = []
    for position, raw in enumerate(islice(rows, max_rows)):
        report.rows += 1
        number, place = origin.number(position), origin.name(position)
        if (subset := subset_name(raw.get(pipeline.subset))) is not None:
            inspection.subsets[subset] += 1
        try:
            examples = pipeline.examples(raw, position)
        except RowError as error:
            inspection.refusals.setdefault(f"{error.what}.", []).append(number)
            report.call(number, place or error.row)
            continue
        for example in examples:
            report.count(example, number, place or example["place"])
            if example["dropped"] is not None:
                continue
            _count(inspection, example)
            if reader.encoder is not None:
                prompts.append(example["prompt"])
                sequences.append(sequences_of(example))
            if not inspection.example:
                inspection.example = list(_segments(reader.parts(example), reader.encoder))
    inspection.losses = reader.fits.losses
    inspection.counts.update(reader.counts)
    inspection.scores, inspection.merges, inspection.attributes = reader.scores, reader.merges, reader.attributes
    _refuse_partial_columns(inspection)
    if sequences:
        inspection.tokens = TokenFigures.of(prompts, sequences)
    return inspection


def _count(inspection: Inspection, example: Row) -> None:
    row = example["canonical"]
    inspection.counts.update(example["counts"])
    inspection.counts.update([form_of(row), *(column for column in PAIR_NUMBERS if column in row)])
    if "weight" in row:
        inspection.weights.append(row["weight"])


def _refuse_partial_columns(inspection: Inspection) -> None:
    """Training stops where some examples alone have a number that a batch needs of all."""
    examples, items = inspection.report.examples, "pairs" if inspection.form == "pairs" else "examples"
    for column in PAIR_NUMBERS:
        missing = examples - inspection.counts[column]
        if 0 < missing < examples:
            why = f"'{column}' is missing in {missing} of {examples} {items}; all or none have one."
            inspection.refusals[why] = []


def _segments(parts: list[tuple[str, Any]], encoder: Encoder | None) -> Iterator[Segment]:
    """The example in parts, each token as text; without an encoder the parts as they are."""
    for index, (title, part) in enumerate(parts):
        if encoder is None:
            yield Segment(title, [_as_text(part)])
        else:
            tokens = [token_text(encoder.tokenizer, token) for token in part]
            yield Segment(title, tokens, scored=len(tokens) - 1 if index and tokens else None)


def _as_text(value: str | Iterable[dict]) -> str:
    return value if isinstance(value, str) else "\n".join(f"{turn['role']}: {turn.get('content')}" for turn in value)
