"""Raw data sets to encoded ones, with a report of every row that was left out or cut.

In: a `datasets.Dataset` or `IterableDataset` of raw rows and an `Encoder`'s method. Out: the data set with its token
columns and an `rewardplug_id` (one number an encoded example, which tells evaluation what it has seen already), and a
`PreparationReport`. A bad row is a `ValueError` with the adapter, the row number and the column.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from datasets import Dataset, Features, IterableDataset, Value

from .adapters import Adapter, detect_adapter, get_adapter, rename_columns
from .canonical import EXAMPLE_ID, PROMPT_KEY, SUBSET, EmptyRow, Row, RowError, hash63, prompt_key
from .encoding import DropRow

logger = logging.getLogger(__name__)

_BOOKKEEPING = {
    "row": Value("int64"),
    "dropped": Value("string"),
    "cut": Value("int64"),
    "cut_labels": Value("int64"),
}

_TREE_COLUMNS = ("node_lengths", "node_parents")
_OPTIONAL = ("margin", "weight", "chosen_probability")
"""columns that all examples have, or none"""


@dataclass
class PreparationReport:
    """What became of a data set's rows.

    Attributes:
        name: which data set ("train", "eval" or the eval set's key).
        rows: raw rows read. examples: encoded examples kept (a ranked row gives several pairs).
        dropped: reason -> raw row numbers. cut_rows: raw row numbers. cut_tokens, cut_labels: what they lost together.

    >>> print(PreparationReport("train", rows=5, examples=3, dropped={"chosen and rejected are identical": [1, 4]}))
    train: 5 rows gave 3 examples.
      left out, chosen and rejected are identical: 2 (rows 1, 4)
    """

    name: str
    rows: int = 0
    examples: int = 0
    dropped: dict[str, list[int]] = field(default_factory=dict)
    cut_rows: list[int] = field(default_factory=list)
    cut_tokens: int = 0
    cut_labels: int = 0

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.dropped or self.cut_rows)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.rows} rows gave {self.examples} examples."]
        lines += [f"  left out, {reason}: {_counted(rows)}" for reason, rows in self.dropped.items()]
        if self.cut_rows:
            lost = f"{self.cut_tokens} tokens" + (f" and {self.cut_labels} labelled steps" if self.cut_labels else "")
            lines.append(f"  cut to fit, {lost} lost: {_counted(self.cut_rows)}")
        return "\n".join(lines)


def _counted(rows: Iterable[int]) -> str:
    rows = sorted(set(rows))
    shown = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
    return f"{len(rows)} (row{'s' if len(rows) > 1 else ''} {shown})"


@dataclass(frozen=True, kw_only=True)
class RowPipeline:
    """One raw row -> its encoded examples: adapter, canonical form, encoder. Runs inside `datasets.map`.

    Args:
        name: the data set's name in messages.
        columns: output columns of `encode` with their types.
        encode: canonical row -> {column: value, ..., "cut", "cut_labels"}; raises `RowError` or `DropRow`.
        expand: canonical row -> rows that `encode` takes (one of `expansion.py`).
        adapter: raw row -> canonical rows; None where the rows are tokenized already.
        column_mapping: {expected column: column of the data}.
        subset: raw column that goes into the column `SUBSET`, if `columns` has it.
        kept: raw columns that stay beside the encoded ones.
    """

    name: str
    columns: Features
    encode: Callable[[Row], Row]
    expand: Callable[[Row], list[Row]]
    adapter: Adapter | None = None
    column_mapping: dict[str, str] | None = None
    subset: str = "subset"
    kept: tuple[str, ...] = ()

    def examples(self, raw: Row, number: int) -> list[Row]:
        """The encoded examples of raw row `number`; a row or pair that is left out gives one with `dropped` set."""
        try:
            canonical, subset = [raw], raw.get(self.subset)
            if self.adapter is not None:
                raw = rename_columns(raw, self.column_mapping) if self.column_mapping else raw
                canonical = [row for found in self.adapter(raw) for row in self._expanded(found)]
            return [self._example(row, number, subset) for row in canonical] or [
                self._left_out("the adapter gives none (a tie)", number)
            ]
        except EmptyRow as error:
            return [self._left_out(str(error), number)]
        except Exception as error:  # a third party's adapter can fail in any way; the user must learn at which row
            source = "tokenized data" if self.adapter is None else f"adapter '{self.adapter.name}'"
            found = error if isinstance(error, RowError) else f"{type(error).__name__}: {error}"
            part = f" (row {raw['source_row']} of '{subset}')" if "source_row" in raw else ""  # of a mixture
            raise ValueError(f"{self.name} data set, {source}, row {number}{part}: {found}.") from error

    def _expanded(self, canonical: Row) -> list[Row | EmptyRow]:
        """What holds nothing to learn from is left out by itself: an adapter may give several rows."""
        try:
            return self.expand(canonical)
        except EmptyRow as error:
            return [error]

    def _example(self, row: Row | EmptyRow, number: int, subset: Any) -> Row:
        if isinstance(row, EmptyRow):
            return self._left_out(str(row), number)
        try:
            encoded = {"row": number, "dropped": None, **self.encode(row)}
            if PROMPT_KEY in self.columns:
                encoded[PROMPT_KEY] = prompt_key(row)
            if SUBSET in self.columns:
                encoded[SUBSET] = None if subset is None else str(subset)
            return encoded
        except DropRow as drop:
            return self._left_out(drop.reason, number)

    def _left_out(self, reason: str, number: int) -> Row:
        empty = {key: None if isinstance(kind, Value) else [] for key, kind in self.columns.items()}
        return {"row": number, "dropped": reason, "cut": 0, "cut_labels": 0, **empty}

    def __call__(self, batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        """`datasets.map(batched=True, with_indices=True)`'s form."""
        output = defaultdict(list)
        for position, number in enumerate(indices):
            raw = {key: values[position] for key, values in batch.items()}
            for example in self.examples(raw, number):
                full = {**{key: raw[key] for key in self.kept}, **dict.fromkeys(self.columns), **example}
                for key, value in full.items():
                    output[key].append(value)
        return dict(output)


def choose_adapter(first: Row, name: str | None, column_mapping: dict | None) -> Adapter:
    """The adapter called `name`, or the one that the columns of the `first` row tell.

    Raises:
        ValueError: unknown name, unknown format, or a mapped column that the data do not have.
    """
    if name is not None:
        return get_adapter(name)
    first = rename_columns(first, column_mapping) if column_mapping else first
    return detect_adapter(list(first), first)


def prepare_dataset(
    dataset: Dataset | IterableDataset, pipeline: RowPipeline, *, keep_columns: bool = True, num_proc: int | None = None
) -> tuple[Dataset | IterableDataset, PreparationReport]:
    """Run `pipeline` over `dataset`.

    A `Dataset` is encoded now and its report is complete; an `IterableDataset` is encoded while it is read: a bad row
    raises there, and rows left out or cut are counted in warnings (the 1st, the 10th, the 100th, ...).

    Raises:
        ValueError: a row that cannot be used, no rows, or no rows left.
    """
    dataset = dataset.with_format(None)  # tensors are no lists, and their NaN is no None
    if isinstance(dataset, IterableDataset):
        return _prepare_stream(dataset, pipeline, keep_columns), PreparationReport(pipeline.name)
    if not len(dataset):
        raise ValueError(f"The {pipeline.name} data set has no rows.")
    pipeline = _keeping(pipeline, dataset.column_names, keep_columns)
    kinds = {name: dataset.features[name] for name in pipeline.kept}
    encoded = dataset.map(
        pipeline,
        batched=True,
        batch_size=256,
        with_indices=True,
        num_proc=num_proc if num_proc and num_proc > 1 else None,
        remove_columns=[name for name in dataset.column_names if name not in pipeline.kept],
        features=Features({**kinds, **pipeline.columns, **_BOOKKEEPING}),
        desc=f"Encoding {pipeline.name} data",
    )
    report = _report(encoded, pipeline.name, rows=len(dataset))
    if not report.examples:
        raise ValueError(
            f"No example is left of the {pipeline.name} data set's {report.rows} rows; `max_length` and "
            f"`max_completion_length` may be too short for them.\n{report}"
        )
    if report.dropped:
        encoded = encoded.select([index for index, reason in enumerate(encoded["dropped"]) if reason is None])
    encoded = _with_or_without(encoded, pipeline.name)
    if "node_lengths" in encoded.column_names and not any(encoded["node_lengths"]):
        encoded = encoded.remove_columns([*_TREE_COLUMNS])
    encoded = encoded.remove_columns(list(_BOOKKEEPING))
    return encoded.add_column(EXAMPLE_ID, list(range(len(encoded)))), report


def _keeping(pipeline: RowPipeline, raw_columns: list[str], keep_columns: bool) -> RowPipeline:
    ours = {*pipeline.columns, *_BOOKKEEPING, EXAMPLE_ID}
    return replace(pipeline, kept=tuple(name for name in raw_columns if keep_columns and name not in ours))


def _report(encoded: Dataset, name: str, rows: int) -> PreparationReport:
    report = PreparationReport(name, rows=rows)
    dropped = defaultdict(list)
    columns = (encoded[key][:] for key in ("row", "dropped", "cut", "cut_labels"))
    for row, reason, cut, cut_labels in zip(*columns, strict=True):
        if reason is not None:
            dropped[reason].append(row)
            continue
        report.examples += 1
        if cut:
            report.cut_rows.append(row)
            report.cut_tokens += cut
            report.cut_labels += cut_labels
    report.dropped = dict(dropped)
    return report


def _with_or_without(encoded: Dataset, name: str) -> Dataset:
    """A margin for all examples or for none: TRL asks the first row only, and fails in the middle of training."""
    for column in _OPTIONAL:
        if column not in encoded.column_names:
            continue
        missing = [row for row, value in zip(encoded["row"], encoded[column], strict=True) if value is None]
        if len(missing) == len(encoded):
            encoded = encoded.remove_columns(column)
        elif missing:
            raise ValueError(
                f"{name} data set: '{column}' is missing in {_counted(missing)}. Give every row one, or none."
            )
    return encoded


def _prepare_stream(dataset: IterableDataset, pipeline: RowPipeline, keep_columns: bool) -> IterableDataset:
    first = next(iter(dataset))
    raw_columns = dataset.column_names or list(first)
    sample = pipeline.examples(first, 0)[0]
    absent, trees = [], () if "source_row" in raw_columns else _TREE_COLUMNS  # of a mixture any row may be one
    if sample["dropped"] is None:
        absent = [name for name in (*_OPTIONAL, *trees) if name in pipeline.columns and not _given(sample, name)]
    pipeline = _keeping(pipeline, raw_columns, keep_columns)
    dataset = dataset.map(
        pipeline,
        batched=True,
        batch_size=16,
        with_indices=True,
        remove_columns=[name for name in raw_columns if name not in pipeline.kept],
    )
    dataset = dataset.filter(_StreamFilter(pipeline.name, trees="node_lengths" not in absent))
    number = partial(_number_example, columns=tuple(pipeline.columns))
    return dataset.map(number, with_indices=True, remove_columns=[*_BOOKKEEPING, *absent])


def _given(example: Row, column: str) -> bool:
    return example.get(column) not in (None, [])


def _number_example(example: Row, index: int, columns: tuple[str, ...]) -> Row:
    """63 bits of the place and the tokens: each shard and each worker counts places from 0."""
    return {EXAMPLE_ID: hash63(repr((index, [example[column] for column in columns])))}


class _StreamFilter:
    """Keeps encoded rows; counts those left out or cut aloud, and sees to it that all have a margin or none."""

    def __init__(self, name: str, trees: bool):
        self.name, self.trees, self.read, self.counts = name, trees, 0, Counter()
        self.first: dict[str, bool] = {}  # whether the first example had it

    def __call__(self, example: Row) -> bool:
        self.read += 1
        if example["dropped"] is not None:
            self._count("left out", example["row"], example["dropped"])
            return False
        if example["cut"]:
            self._count("cut to fit", example["row"], f"{example['cut']} tokens lost")
        for column in _OPTIONAL:
            given = example.get(column) is not None
            if self.first.setdefault(column, given) != given:
                raise ValueError(
                    f"{self.name} data set: '{column}' is {'there' if given else 'missing'} in row {example['row']}, "
                    "unlike in the rows before. Give every row one, or none."
                )
        if not self.trees and _given(example, "node_lengths"):
            raise ValueError(
                f"{self.name} data set: row {example['row']} is a tree of steps, unlike the first one. "
                "Put a tree first."
            )
        return True

    def _count(self, what: str, row: int, why: str) -> None:
        self.counts[what] += 1
        if str(self.counts[what]).strip("0") == "1":
            logger.warning(
                "%s stream: %d of %d examples %s so far; the last one is row %d: %s.",
                *(self.name, self.counts[what], self.read, what, row, why),
            )
