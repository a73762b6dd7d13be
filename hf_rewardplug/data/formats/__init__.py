"""Files of rows, read strictly: json, jsonl, csv, parquet and arrow, each also gzipped.

In: files of one format. Out: `FileRow`s in order, each with its number in the file, its line where the format has
lines, and its row or what is wrong with it; or a `BrokenFile`, with the line, where the rest of the file cannot be
read.

    json      a list of objects, one object, or one object a line, whatever the suffix      json_rows.py
    jsonl     the same; blank lines are no rows
    csv       a header and cells (RFC 4180)                                                 csv_cells.py
    parquet   as it is
    arrow     the stream or the file format of Arrow, as `datasets` writes them too
    .gz       unpacked once                                                                 unpacked.py
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from .csv_cells import csv_records
from .file_rows import BrokenFile, FileRow, file_format
from .json_rows import read_json
from .unpacked import opened, table_files

_BATCH = 1024


def read_files(paths: Sequence[str | Path]) -> Iterator[tuple[Path, FileRow]]:
    """The rows of files of one format, a batch in memory (of a JSON list the whole text), with the file of each.

    Raises:
        BrokenFile: one is no whole file of its format.
    """
    for path, table in zip(paths, table_files(paths), strict=True):
        for row in read_file(path, table=table):
            yield Path(path), row


def read_file(path: str | Path, *, table: Path | None = None) -> Iterator[FileRow]:
    """The rows of a file; `table` is what `table_files` gives for it."""
    path, (table,) = Path(path), table_files([path]) if table is None else [table]
    return _READERS[file_format(path) or "json"](path, table)


def count_rows(path: str | Path) -> int:
    """How many rows a file has."""
    (table,) = table_files([path])
    if table.suffix == ".parquet":
        with _whole(Path(path)):
            return pq.ParquetFile(table).metadata.num_rows
    return sum(1 for _ in read_file(path, table=table))


def line_of(path: str | Path, number: int) -> int | None:
    """The line of row `number`; None where the format has no lines."""
    return next((row.line for row in read_file(path) if row.line is None or row.number == number), None)


def check_rows(path: str | Path) -> int:
    """How many rows a file has.

    Raises:
        BrokenFile: the first row that cannot be read.
    """
    path, count = Path(path), 0
    for row in read_file(path):
        count += 1
        if row.error is not None:
            raise BrokenFile(
                path, f"{row.error}. Expected one JSON object a line, or a list of them, in UTF-8.", row.line
            )
    return count


def _read_parquet(path: Path, table: Path) -> Iterator[FileRow]:
    with _whole(path):
        yield from _of_batches(pq.ParquetFile(table).iter_batches(_BATCH))


def _read_csv(path: Path, table: Path) -> Iterator[FileRow]:
    """The typed cells, beside the lines of the text."""
    with opened(path) as file:
        records = csv_records(file)
        next(records)
        for row, (line, _) in zip(_read_parquet(path, table), records, strict=True):
            yield FileRow(row.number, line, row.row)


def _read_arrow(path: Path, table: Path) -> Iterator[FileRow]:
    with _whole(path), pa.memory_map(str(table)) as file:
        try:
            batches = pa.ipc.open_stream(file)
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        yield from _of_batches(batches)


def _of_batches(batches: Any) -> Iterator[FileRow]:
    number, decode = 0, None
    for batch in batches:
        decode = decode or datasets.Features.from_arrow_schema(batch.schema).decode_example  # JSON within columns
        for row in batch.to_pylist():
            yield FileRow(number, row=decode(row))
            number += 1


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise BrokenFile(path, f"is no whole {file_format(path)} file: {error}") from error


_READERS = {"json": read_json, "csv": _read_csv, "parquet": _read_parquet, "arrow": _read_arrow}
