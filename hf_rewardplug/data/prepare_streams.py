"""Streams of raw rows to streams of encoded ones; rows left out or cut are counted while they are read.

In: an `IterableDataset` and a `RowPipeline`. Out: the encoded stream, and a `PreparationReport` whose `seen` grows.
"""

import logging
from collections import Counter
from functools import partial
from itertools import islice

from datasets import IterableDataset

from .canonical import EXAMPLE_ID, PAIR_NUMBERS, Row, hash63
from .pipeline import BOOKKEEPING, RowPipeline
from .preparation_report import PreparationReport, check_refused
from .unrendered import UNRENDERED

logger = logging.getLogger(__name__)

_PROBED = 1000  # rows among which one must be kept
_NAMED = 1000  # rows that a report names


def prepare_stream(
    dataset: IterableDataset, pipeline: RowPipeline, *, keep_columns: bool
) -> tuple[IterableDataset, PreparationReport]:
    """
    Raises:
        RowError: the first row cannot be used, where `pipeline.on_bad_row` is "error".
        ValueError: none of the first rows can be used, where it is "drop".
    """
    first = next(iter(dataset))
    raw_columns = dataset.column_names or list(first)
    sample = _first_kept(dataset, pipeline)
    absent = []
    if sample is not None:
        absent = [name for name in PAIR_NUMBERS if name in pipeline.columns and sample.get(name) is None]
    pipeline = pipeline.keeping(raw_columns, keep_columns)
    dataset = dataset.map(
        pipeline,
        batched=True,
        batch_size=16,
        with_indices=True,
        remove_columns=[name for name in raw_columns if name not in pipeline.kept],
    )
    seen = PreparationReport(pipeline.name)
    dataset = dataset.filter(_StreamFilter(pipeline.name, seen))
    number = partial(_number_example, columns=tuple(pipeline.columns))
    dataset = dataset.map(number, with_indices=True, remove_columns=[*BOOKKEEPING, *absent])
    return dataset, PreparationReport(pipeline.name, seen=seen)


def _first_kept(dataset: IterableDataset, pipeline: RowPipeline) -> Row | None:
    """The first example that is not left out, among those of the first rows."""
    report = PreparationReport(f"the first {_PROBED} rows of {pipeline.name}")
    for number, raw in enumerate(islice(dataset, _PROBED)):
        report.rows += 1
        for example in pipeline.examples(raw, number):
            if example["dropped"] is None:
                return example
            report.count(example, number, example["place"])
    check_refused(report)
    return None


def _number_example(example: Row, index: int, columns: tuple[str, ...]) -> Row:
    """63 bits of the place and the tokens: each shard and each worker counts places from 0."""
    return {EXAMPLE_ID: hash63(repr((index, [example[column] for column in columns])))}


class _StreamFilter:
    """Keeps encoded rows; counts those left out or cut aloud, and sees to it that all have a margin or none."""

    def __init__(self, name: str, seen: PreparationReport):
        self.name, self.seen, self.read, self.counts = name, seen, 0, Counter()
        self.first: dict[str, bool] = {}  # whether the first example had it
        self.numbers: dict[str, int] = {}  # what a row is called -> its number in `seen`

    def __call__(self, example: Row) -> bool:
        self.read += 1
        place = example["place"] or f"row {example['row']}"
        fates = {
            "left out": example["dropped"],
            "cut to fit": f"{example['cut']} tokens lost" if example["cut"] else None,
            "not rendered in full": example[UNRENDERED] and example[UNRENDERED].replace("\n", ", "),
        }
        for what, why in fates.items():
            if why is not None:
                self._count(what, place, why)
                self._report(example, place)
        if example["dropped"] is not None:
            return False
        for column in PAIR_NUMBERS:
            given = example.get(column) is not None
            if self.first.setdefault(column, given) != given:
                raise ValueError(
                    f"{self.name} data set: '{column}' is {'there' if given else 'missing'} in {place}, "
                    "unlike in the rows before. Give every row one, or none."
                )
        return True

    def _count(self, what: str, place: str, why: str) -> None:
        self.counts[what] += 1
        if str(self.counts[what]).strip("0") == "1":
            logger.warning(
                "%s stream: %d of %d examples %s so far; the last one is %s: %s.",
                *(self.name, self.counts[what], self.read, what, place, why),
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
