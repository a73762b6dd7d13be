"""Where the rows of a data set stand in the files that they were read from.

In: a `Dataset`, after any split, shuffle, selection or filter. Out: an `Origin`, which has the number and the name of
each row. Rows are numbered from 0, lines from 1 as in editors.

    read from a file        its row                                  "row 7", in errors "row 7 (line 8 of a.jsonl)"
    from several files      its row in all files, by their names     "row 3 of b.jsonl"
    made in Python          its row as it is                         "row 2 (row 7 before it was selected)"
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from datasets import Dataset
from datasets.table import ConcatenationTable, InMemoryTable, MemoryMappedTable, Table

from .fingerprint import file_state
from .formats import count_rows, line_of

_FILES: dict[str, tuple[Path, ...]] = {}  # a data set's cache file -> the files that were read into it
_SHARD = re.compile(r"-(\d{5})-of-\d{5}\.arrow$")


def remember_files(dataset: Dataset, files: Sequence[Path]) -> None:
    """`dataset` was read from `files`, in this order; `datasets` itself forgets it."""
    for block in _blocks(dataset.data):
        _FILES[block.path] = tuple(files)


@dataclass(frozen=True)
class Origin:
    """Where each row of a data set comes from.

    Attributes:
        numbers: of each row, the number before the data set was split, shuffled or selected; None where it was not.
        stored: whether the data set was read from files (or from the cache of `datasets`), where that number counts.
        files: the files, where they are known.
    """

    numbers: Sequence[int] | None = None
    stored: bool = False
    files: tuple[Path, ...] = ()

    @classmethod
    def of(cls, dataset: Dataset) -> "Origin":
        blocks = _blocks(dataset.data)
        files = {_FILES.get(block.path, ()) for block in blocks}
        return cls(_numbers(dataset, blocks), bool(blocks), files.pop() if len(files) == 1 else ())

    @property
    def file_numbers(self) -> Sequence[int] | None:
        """The number of each row in the file that it was read from; None where it is the row's position."""
        return self.numbers if self.stored else None

    def number(self, position: int) -> int:
        """The number of the row at `position`: of the file, where there is one."""
        return position if self.file_numbers is None else int(self.file_numbers[position])

    def name(self, position: int) -> str | None:
        """What the row is called, where its number does not say it."""
        if not self.stored:
            before = None if self.numbers is None else int(self.numbers[position])
            return None if before in (None, position) else f"row {position} (row {before} before it was selected)"
        if len(self.files) < 2:
            return None
        try:
            file, number = self._within(self.number(position))
        except (OSError, ValueError):  # gone or changed since it was read
            return None
        return f"row {number} of {file.name}"

    def described(self, position: int) -> str:
        """What the row is called where it is the only one: its line too, if the file has lines."""
        number = self.number(position)
        name = self.name(position) or f"row {number}"
        try:
            file, within = self._within(number)
            line = line_of(file, within)
        except (OSError, ValueError):  # no file, or gone or changed since it was read
            return name
        return name if line is None else f"{name} (line {line} of {file.name})"

    def _within(self, number: int) -> tuple[Path, int]:
        """The file that has row `number` of all files, and the row's number there."""
        *before, last = self.files
        for file in before:
            count = _count_rows(file, file_state(file))
            if number < count:
                return file, number
            number -= count
        return last, number


@lru_cache(maxsize=1024)
def _count_rows(file: Path, state: tuple) -> int:
    return count_rows(file)


def _numbers(dataset: Dataset, blocks: list[MemoryMappedTable]) -> np.ndarray | None:
    """The rows' numbers in the table that `datasets` read or made; None where they are their positions.

    `_indices` are the rows that `select`, `shuffle`, `filter` and `sort` leave; a slice of neighbours is cut from the
    table itself. `datasets` has no public name for either.
    """
    starts = [_rows_before(block.path) + _sliced(block) for block in blocks] or [_sliced_in_memory(dataset.data)]
    lengths = [len(block) for block in blocks] or [len(dataset.data)]
    rows = None
    if len(starts) > 1 or any(starts):
        rows = np.concatenate([np.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)])
    if dataset._indices is None:
        return rows
    places = dataset._indices.column(0).to_numpy()
    return places if rows is None else rows[places]


def _blocks(table: Table) -> list[MemoryMappedTable]:
    """The pieces of files that a data set is mapped from; none where it is in memory, or of several data sets."""
    blocks = [parts[0] for parts in table.blocks] if isinstance(table, ConcatenationTable) else [table]
    if not all(isinstance(block, MemoryMappedTable) for block in blocks):
        return []
    paths = {block.path for block in blocks}
    if len(paths) > 1 and (len({_SHARD.sub("", path) for path in paths}) > 1 or not all(map(_SHARD.search, paths))):
        return []
    return blocks


def _sliced(block: MemoryMappedTable) -> int:
    return sum(arguments[0] for name, arguments, _ in block.replays or () if name == "slice" and arguments)


def _sliced_in_memory(table: Table) -> int:
    """Rows that were cut off before the first one; 0 where the table has several pieces, which do not say it."""
    if not isinstance(table, InMemoryTable) or not table.num_columns or table.column(0).num_chunks != 1:
        return 0
    return table.column(0).chunk(0).offset


@lru_cache(maxsize=1024)
def _rows_before(path: str) -> int:
    """Rows of the cache files before this one, where there are several."""
    shard = _SHARD.search(path)
    if shard is None:
        return 0
    whole, first = int(shard[1]), path[: shard.start(1)]
    earlier = [f"{first}{index:05}{path[shard.end(1) :]}" for index in range(whole)]
    return sum(len(MemoryMappedTable.from_file(name)) for name in earlier)
