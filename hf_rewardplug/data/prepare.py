"""Raw data sets to encoded ones, with a report of every row that was left out or cut.

In: a `datasets.Dataset` or `IterableDataset` of raw rows and a `RowPipeline`. Out: the data set with its token columns
and a `rewardplug_id` (one number an encoded example, which tells evaluation what it has seen already), and a
`PreparationReport`.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from datasets import Dataset, Features, IterableDataset

from .canonical import EXAMPLE_ID, Row, hash63
from .pipeline import BOOKKEEPING, OPTIONAL, TREE_COLUMNS, RowPipeline

logger = logging.getLogger(__name__)


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
    pipeline = pipeline.keeping(dataset.column_names, keep_columns)
    kinds = {name: dataset.features[name] for name in pipeline.kept}
    encoded = dataset.map(
        pipeline,
        batched=True,
        batch_size=256,
        with_indices=True,
        num_proc=num_proc if num_proc and num_proc > 1 else None,
        remove_columns=[name for name in dataset.column_names if name not in pipeline.kept],
        features=Features({**kinds, **pipeline.columns, **BOOKKEEPING}),
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
        encoded = encoded.remove_columns([*TREE_COLUMNS])
    encoded = encoded.remove_columns(list(BOOKKEEPING))
    return encoded.add_column(EXAMPLE_ID, list(range(len(encoded)))), report


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
    for column in OPTIONAL:
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
    absent, trees = [], () if "source_row" in raw_columns else TREE_COLUMNS  # of a mixture any row may be one
    if sample["dropped"] is None:
        absent = [name for name in (*OPTIONAL, *trees) if name in pipeline.columns and not _given(sample, name)]
    pipeline = pipeline.keeping(raw_columns, keep_columns)
    dataset = dataset.map(
        pipeline,
        batched=True,
        batch_size=16,
        with_indices=True,
        remove_columns=[name for name in raw_columns if name not in pipeline.kept],
    )
    dataset = dataset.filter(_StreamFilter(pipeline.name, trees="node_lengths" not in absent))
    number = partial(_number_example, columns=tuple(pipeline.columns))
    return dataset.map(number, with_indices=True, remove_columns=[*BOOKKEEPING, *absent])


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
        for column in OPTIONAL:
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
