"""The raw rows of one part of a mixture -> rows of the columns that all parts have in common.

In: a `Part`. Out: a data set or stream with `COLUMNS`: each row what the part's own adapter gave for one raw row, as
JSON: the list of its canonical rows; or {"empty": why} where it holds nothing to learn from; or, if bad rows are passed
over, {"refused": what is wrong with it}. `adapters/mixed.py` reads them again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from datasets import Dataset, Features, IterableDataset, Value

from ..checks import DropRow, RowError
from .adapters import Adapter, rename_columns
from .canonical import Row
from .columns import Unread, refuse_prompts
from .fingerprint import code_state
from .origin import Origin
from .pipeline import numbered_row
from .preparation_report import REMEDY
from .raw import UNREAD_OF_PART, opened

_REFUSED = '{"refused": '  # how the text of a row begins that its adapter cannot read
_PROBED = 1000  # rows of a stream among which its adapter must be able to read one

COLUMNS = Features(canonical=Value("string"), subset=Value("string"), source_row=Value("int64"))


@dataclass(frozen=True, kw_only=True)
class Part:
    """One data set of a mixture.

    Args:
        dataset: a `Dataset` or an `IterableDataset` of raw rows of one format.
        subset: its name in the mixture. A `subset` column of its own is not read.
        adapter: name of its format; found from its columns when None.
        column_mapping: {column that the format expects: column of the data}.
        ignore_columns: columns that are not to be read.
        weight: its share of the rows drawn, relative to the other parts'; for all parts or for none.
    """

    dataset: Dataset | IterableDataset
    subset: str
    adapter: str | None = None
    column_mapping: dict[str, str] | None = None
    ignore_columns: Sequence[str] | None = None
    weight: float | None = None


def canonical_rows(part: Part, *, num_proc: int | None = None, on_bad_row: str = "error") -> Dataset | IterableDataset:
    """A part's rows in the mixture's columns; a stream is read when the mixture is.

    Raises:
        ValueError: no rows, an unknown format, columns with a part of the prompt that it does not read, or (a stream:
            when it is read) a row that its adapter cannot read; or all rows, of a stream the first ones.
    """
    options: dict[str, Any] = {"adapter": part.adapter, "column_mapping": part.column_mapping}
    try:
        raw = opened(part.dataset, ignore_columns=part.ignore_columns, beside=("subset",), **options)
    except ValueError as error:
        raise ValueError(f"part '{part.subset}': {error}") from error
    if raw is None:
        raise ValueError(f"part '{part.subset}' has no rows.")
    dataset, origin = raw.rows, Origin()
    options = {"features": COLUMNS, "remove_columns": dataset.column_names or list(raw.first)}
    if isinstance(dataset, Dataset):
        origin = Origin.of(dataset)
        options |= {"num_proc": num_proc if num_proc and num_proc > 1 else None, "desc": f"Reading {part.subset}"}
    write = _Writer(
        subset=part.subset,
        adapter=raw.adapter,
        column_mapping=part.column_mapping,
        unread=raw.unread,
        on_bad_row=on_bad_row,
        code=code_state(raw.adapter.function),
        numbers=origin.file_numbers,
    )
    try:
        rows = dataset.map(write, batched=True, batch_size=256, with_indices=True, **options)
    except RowError as error:  # of a `Dataset`: a stream has not been read yet
        error.row = origin.described(error.number)
        raise
    if on_bad_row == "drop":
        _check_readable(rows, part.subset)
    if str(raw.unread):  # for the trainer's report
        rows.info.description = f"{UNREAD_OF_PART}'{part.subset}': {raw.unread}"
    return rows


def _check_readable(rows: Dataset | IterableDataset, subset: str) -> None:
    """A `ValueError` where a part has no row that its format can read: the other parts' rows would hide it."""
    texts = rows["canonical"] if isinstance(rows, Dataset) else (row["canonical"] for row in islice(rows, _PROBED))
    first = None
    for text in texts:
        if not text.startswith(_REFUSED):
            return
        first = first or json.loads(text)["refused"]
    raise ValueError(f"part '{subset}': every row was refused. The first: {first}. {REMEDY}")


@dataclass(frozen=True, kw_only=True)
class _Writer:
    """Raw rows -> `COLUMNS`; runs inside `datasets.map`."""

    subset: str
    adapter: Adapter
    column_mapping: dict[str, str] | None
    unread: Unread
    on_bad_row: str
    code: str  # by which `datasets` finds its cache
    numbers: Sequence[int] | None

    def __call__(self, batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        written = {"canonical": [], "subset": [self.subset] * len(indices), "source_row": []}
        for position, index in enumerate(indices):
            number = index if self.numbers is None else int(self.numbers[index])
            row, number, place = numbered_row({key: values[position] for key, values in batch.items()}, number)
            written["canonical"].append(self._text(row, index, place))
            written["source_row"].append(number)
        return written

    def _text(self, row: Row, index: int, place: str | None) -> str:
        try:
            canonical = self.adapter(rename_columns(row, self.column_mapping))
            refuse_prompts(self.adapter, row, self.unread, canonical)
            return json.dumps(canonical)
        except DropRow as error:  # the trainer leaves it out and reports it
            return json.dumps({"empty": error.what})
        except Exception as error:  # as in `RowPipeline`: a third party's adapter can fail in any way
            if self.on_bad_row == "drop":
                return json.dumps({"refused": f"adapter '{self.adapter.name}': {RowError.of(error).what}"})
            where = f"part '{self.subset}', adapter '{self.adapter.name}'"
            raise RowError.of(error, number=index, row=place, where=where) from error
