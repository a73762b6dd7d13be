"""Rows of files to scores, as many in memory as a window has.

In: files of any format that training reads, or lines of jsonl. Out: `Line`s, each with its place, its row and what a
scorer is asked, or what is wrong with it; and their scores, in order.
"""

import contextlib
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..checks import DropRow, RowError
from ..data.formats import count_rows, read_files
from ..data.formats.file_rows import FileRow
from ..data.formats.json_rows import parse_line
from ..data.formats.unpacked import table_files
from .requests import Requests

__all__ = [
    "WINDOW",
    "Line",
    "Requests",
    "count_source",
    "flat",
    "read_lines",
    "read_source",
    "scored_lines",
    "seekable",
]

WINDOW = 1024
"""rows that are read and scored at a time"""


@dataclass(frozen=True)
class Line:
    """A row of the input.

    Attributes:
        index: its place among all rows, from 0.
        number: its line, from 1; None where the format has no lines.
        row: what it holds. requests: what the scorer is asked, mostly one.
        error: what is wrong with it. general: the same as far as other rows can have it too, where it differs.
        left_out: whether that is no fault, but nothing to score (a tie).
        source: its file, and its number there, from 0. several: whether there are other files.
    """

    index: int
    number: int | None
    row: dict[str, Any] | None = None
    requests: tuple[dict[str, Any], ...] = ()
    error: str | None = None
    general: str | None = None
    left_out: bool = False
    source: tuple[Path | None, int] = (None, 0)
    several: bool = False

    @property
    def request(self) -> dict[str, Any]:
        """The only request."""
        (request,) = self.requests
        return request

    @property
    def record(self) -> dict[str, Any]:
        """What tells it from other rows, for a file of JSON."""
        file, number = self.source
        names = {"file": file.name} if self.several else {}
        return {**names, **({} if self.number is None else {"line": self.number}), "row": number}

    @property
    def place(self) -> str:
        """Where it is, for errors: "'pairs.jsonl', line 8"."""
        return f"'{self.source[0]}', {self.called}"

    @property
    def called(self) -> str:
        return f"row {self.source[1]}" if self.number is None else f"line {self.number}"


def read_lines(lines: Iterable[bytes], request: Callable[[Any], dict], *, start: int = 1) -> Iterator[Line]:
    """Parsed lines, one at a time, numbered from `start`; blank ones are passed over.

    >>> [line.error for line in read_lines([b'{"prompt": "a", "completion": "b"}', b"", b"{"], Requests())]
    [None, 'no JSON: Expecting property name enclosed in double quotes at character 2']
    """
    index = 0
    for number, text in enumerate(lines, start):
        if text.strip():
            yield _line(parse_line(text, number=index, line=number), index, request)
            index += 1


def read_source(files: Sequence[Path], request: Callable[[Any], Any], *, start: int = 0) -> Iterator[Line]:
    """The rows of files of one format from row `start` on, one at a time.

    Raises:
        BrokenFile: a file that cannot be read on.
    """
    for index, (file, row) in enumerate(read_files(files)):
        if index >= start:
            yield _line(row, index, request, file=file, several=len(files) > 1)


@contextlib.contextmanager
def seekable(source: Path) -> Iterator[Path]:
    """The same file or folder. Rows are read more than once, so standard input and pipes are copied into a file."""
    if str(source) != "-" and (source.is_file() or source.is_dir() or not source.exists()):
        yield source
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        pipe = sys.stdin.buffer if str(source) == "-" else stack.enter_context(open(source, "rb"))
        copy = Path(folder) / "stdin.jsonl"
        with open(copy, "wb") as file:
            shutil.copyfileobj(pipe, file)
        yield copy


def count_source(files: list[Path]) -> int | None:
    """How many rows the files have, for a progress bar: lines of text, rows of parquet; None if none are counted."""
    lines = 0
    for table in table_files(files):
        if table.suffix == ".parquet":
            lines += count_rows(table)
            continue
        with open(table, "rb") as file:
            while piece := file.read(1 << 20):
                lines += piece.count(b"\n")
    return lines or None


def _line(row: FileRow, index: int, request: Any, *, file: Path | None = None, several: bool = False) -> Line:
    line = Line(index, row.line, row.row, error=row.error, source=(file, row.number), several=several)
    if row.error is not None:
        return line
    try:
        requests = request.all(row.row) if isinstance(request, Requests) else [request(row.row)]
        return replace(line, requests=tuple(requests))
    except DropRow as error:
        return replace(line, error=error.what, left_out=True)
    except Exception as error:  # a third party's adapter can fail in any way
        return replace(line, error=str(error) if isinstance(error, ValueError) else repr(error))


def scored_lines(scorer: Any, lines: Iterable[Line], *, window: int = WINDOW) -> Iterator[tuple[Line, Any]]:
    """(line, scores of its requests) in order, `window` lines in memory; one without scores has its `error` set."""
    lines = iter(lines)
    while batch := list(islice(lines, window)):
        scores = _scores(scorer, [line for line in batch if line.error is None])
        for line in batch:
            yield next(scores) if line.error is None else (line, None)


def _scores(scorer: Any, lines: list[Line]) -> Iterator[tuple[Line, Any]]:
    """The scorer refuses a window as a whole: its halves are tried, down to the lines that are at fault."""
    if not lines:
        return
    requests = [request for line in lines for request in line.requests]
    try:
        scores_of_requests = iter(list(scorer.score_rows(requests, window=len(requests))))
    except ValueError as error:
        if len(lines) > 1:
            middle = len(lines) // 2
            yield from _scores(scorer, lines[:middle])
            yield from _scores(scorer, lines[middle:])
        else:
            yield replace(lines[0], **_fault(error, lines[0]), left_out=isinstance(error, DropRow)), None
        return
    for line in lines:
        scores = list(islice(scores_of_requests, len(line.requests)))
        finite = all(map(math.isfinite, flat(scores)))
        yield line if finite else replace(line, error=f"the score is not finite: {scores}"), scores


def _fault(error: ValueError, line: Line) -> dict[str, str]:
    """What a scorer finds wrong with a line, without the row number that it counts: the caller knows the line's."""
    if not isinstance(error, RowError):  # another class of scorers raised it
        return {"error": str(error)}
    column = [*line.requests[0]][-1]
    place = "" if error.item is None else f"{column}[{error.item}]: "
    return {"error": place + error.what, "general": place + error.general}


def flat(score: Any) -> Iterator[float]:
    """The numbers of a nested list.

    >>> list(flat([0.5, [1.0]]))
    [0.5, 1.0]
    """
    if isinstance(score, list):
        for part in score:
            yield from flat(part)
    else:
        yield score
