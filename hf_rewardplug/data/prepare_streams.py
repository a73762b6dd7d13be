"""Streams of raw rows to streams of encoded ones. Rows that are left out or cut are counted while they are read.

In: an `IterableDataset` and a `RowPipeline`. Out: the encoded stream, and a `PreparationReport` whose `seen` grows.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice

from datasets import IterableDataset

from .canonical import EXAMPLE_ID, PAIR_NUMBERS, Row, hash63
from .pipeline import RowPipeline
from .preparation_report import PreparationReport, check_refused
from .row_forms import ROW_LOOK, RowLooks
from .unrendered import UNRENDERED

logger = logging.getLogger(__name__)

_PROBED = 1000  # rows among which one must be kept
_NAMED = 1000  # rows that a report names


def prepare_stream(
    dataset: IterableDataset, pipeline: RowPipeline, looks: RowLooks, *, keep_columns: bool
) -> tuple[IterableDataset, PreparationReport]:
    """
    Raises:
        RowError: the first row cannot be used, where `pipeline.on_bad_row` is "error".
        ValueError: none of the first rows can be used, where it is "drop".
    """
    raw_columns = dataset.column_names or list(next(iter(dataset)))
    _check_first_rows(dataset, pipeline)
    pipeline = pipeline.keeping(raw_columns, keep_columns)
    seen = PreparationReport(pipeline.name)
    dataset = dataset.map(
        _StreamEncoder(pipeline, seen, looks),
        batched=True,
        batch_size=16,
        with_indices=True,
        remove_columns=[name for name in raw_columns if name not in pipeline.kept],
    )
    return dataset, PreparationReport(pipeline.name, seen=seen)


def _check_first_rows(dataset: IterableDataset, pipeline: RowPipeline) -> None:
    """A wrong format must show before training, though the rows are read in training."""
    report = PreparationReport(f"the first {_PROBED} rows of {pipeline.name}")
    for number, raw in enumerate(islice(dataset, _PROBED)):
        report.rows += 1
        for example in pipeline.examples(raw, number):
            if example["dropped"] is None:
                return
            report.count(example, number, example["place"])
    check_refused(report)


@dataclass(eq=False)
class _StreamEncoder:
    """Raw rows -> encoded ones, in `datasets.map`. It logs how many are left out or cut, and demands that either all
    rows or none have a margin.

    Attributes:
        seen: the report that grows.
        looks: counts what the rows looked like.
        read: how many examples have been read.
        counts: how many of them were left out, cut or not rendered in full.
        first: {column: whether the first example has it}.
        numbers: {what a row is called: its number in `seen`}.
    """

    pipeline: RowPipeline
    seen: PreparationReport
    looks: RowLooks
    read: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, bool] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    def __call__(self, batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        """The columns of the examples that are kept, without `margin` and other numbers that none of them has."""
        columns = [*self.pipeline.columns]
        output = {name: [] for name in (*self.pipeline.kept, *columns, EXAMPLE_ID)}
        for index, example in enumerate(self.pipeline.of_batch(batch, indices)):
            if self._keeps(example):
                # 63 bits of the place and the tokens: each shard and each worker counts places from 0
                place = (indices[0], index, [example[name] for name in columns])
                example[EXAMPLE_ID] = hash63(repr(place))
                for name, values in output.items():
                    values.append(example[name])
        for name in {*PAIR_NUMBERS} & {*columns}:
            if all(value is None for value in output[name]):
                del output[name]
        return output

    def _keeps(self, example: Row) -> bool:
        self.read += 1
        place = example["place"] or f"row {example['row']}"
        fates = {
            "left out": example["dropped"],
            "cut to fit": f"{example['cut']} tokens lost" if example["cut"] else None,
            "not rendered in full": example[UNRENDERED] and example[UNRENDERED].replace("\n", ", "),
        }
        for fate, why in fates.items():
            if why is not None:
                self._count(fate, place, why)
                self._report(example, place)
        if example["dropped"] is not None:
            return False
        for column in PAIR_NUMBERS:
            has_number = example.get(column) is not None
            if self.first.setdefault(column, has_number) != has_number:
                raise ValueError(
                    f"{self.pipeline.name} data set: '{column}' is {'there' if has_number else 'missing'} in {place}, "
                    "unlike in the rows before. Give every row one, or none."
                )
        if example[ROW_LOOK] is not None:
            self.looks.add(example[ROW_LOOK])
        return True

    def _count(self, fate: str, place: str, why: str) -> None:
        self.counts[fate] += 1
        if str(self.counts[fate]).strip("0") == "1":
            logger.warning(
                "%s stream: %d of %d examples %s so far; the last one is %s: %s.",
                *(self.pipeline.name, self.counts[fate], self.read, fate, place, why),
            )

    def _report(self, example: Row, place: str) -> None:
        """Each row once, however often the stream is read."""
        if place in self.numbers or len(self.numbers) == _NAMED:
            return
        row = example["row"]
        while row in self.numbers.values():  # of another file
            row += 1
        self.numbers[place] = row
        self.seen.count(example, row, example["place"])
