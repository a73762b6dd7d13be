"""Text of JSON to rows, one by one, each with the line that it begins in.

In: the bytes of a list of objects, of one object, or of one object a line, whatever the file's suffix. Out: `FileRow`s.
Stricter than the readers of other packages: no comma behind the last object, no column twice, no bytes beside UTF-8.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .rows import FileRow
from .unpacked import BrokenFile

_BEGINNING = 1024
_BOM = b"\xef\xbb\xbf"
_SPACE = " \t\r\n"
_DEEPEST = 200
_TOO_DEEP = f"lists and objects are nested more than {_DEEPEST} deep"


def read_json(path: Path, table: Path) -> Iterator[FileRow]:
    """The rows of a json or jsonl file; of a list the whole text is in memory.

    Args:
        path: what errors call it. table: the unpacked file.

    Raises:
        BrokenFile: a list that is no JSON, or no UTF-8. A line that is none is a row with an `error`.
    """
    with open(table, "rb") as file:
        start = file.read(_BEGINNING).removeprefix(_BOM).lstrip()
        file.seek(0)
        if start.startswith(b"["):
            yield from _list(path, file.read())
        elif (row := _one_object(file)) is not None:
            yield FileRow(0, line=1, row=row)
        else:
            file.seek(0)
            yield from _lines(file)


def is_list(table: Path) -> bool:
    """Whether a json file holds a list, not lines."""
    with open(table, "rb") as file:
        return file.read(_BEGINNING).removeprefix(_BOM).lstrip().startswith(b"[")


def _one_object(file: IO[bytes]) -> dict[str, Any] | None:
    """An object that goes on behind its first line, as one that is printed for readers does."""
    first = next((line for line in file if line.strip()), b"")
    if first.strip().removeprefix(_BOM) != b"{":
        return None
    try:
        row = _parsed((first + file.read()).decode("utf-8-sig"))
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _lines(file: IO[bytes]) -> Iterator[FileRow]:
    number = 0
    for line, text in enumerate(file, 1):
        if text.strip():
            yield parse_line(text, number=number, line=line)
            number += 1


def parse_line(text: bytes, *, number: int, line: int) -> FileRow:
    """A line of jsonl.

    >>> parse_line(b'{"prompt": "a",}', number=0, line=1).error
    'no JSON: Expecting property name enclosed in double quotes at character 16'
    """
    try:
        row = _parsed(text.decode("utf-8-sig" if line == 1 else "utf-8"))
    except json.JSONDecodeError as error:
        return FileRow(number, line, error=f"no JSON: {error.msg} at character {error.pos + 1}")
    except UnicodeDecodeError as error:
        return FileRow(number, line, error=f"no UTF-8: {error}")
    except ValueError as error:
        return FileRow(number, line, error=str(error))
    if not isinstance(row, dict):
        return FileRow(number, line, error=_no_object(row))
    return FileRow(number, line, row)


def _list(path: Path, content: bytes) -> list[FileRow]:
    """The objects of a JSON list; the whole text is read before the first one is given."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BrokenFile(path, f"no UTF-8: {error}", line) from error

    def fault(why: str, place: int) -> BrokenFile:
        return BrokenFile(path, f"no JSON: {why}", text.count("\n", 0, place) + 1)

    decoder, rows, line, seen = json.JSONDecoder(object_pairs_hook=_each_once), [], 1, 0
    place = _behind_space(text, text.index("[") + 1)
    ended = text[place : place + 1] == "]"
    while not ended:
        line, seen = line + text.count("\n", seen, place), place
        try:
            row, end = decoder.raw_decode(text, place)
            _shallow(row, text[place:end])
        except json.JSONDecodeError as error:
            raise fault(error.msg, error.pos) from error
        except RecursionError:
            raise fault(_TOO_DEEP, place) from None
        except ValueError as error:
            raise fault(str(error), place) from error
        wrong = None if isinstance(row, dict) else _no_object(row)
        rows.append(FileRow(len(rows), line, None if wrong else row, wrong))
        place = _behind_space(text, end)
        ended, mark = text[place : place + 1] == "]", text[place : place + 1] or "the end of the file"
        if not ended and mark != ",":
            raise fault(f"expected ',' or ']' behind an object, found {mark}", place)
        if not ended:
            comma, place = place, _behind_space(text, place + 1)
            if text[place : place + 1] == "]":
                raise fault("there is a comma behind the last object", comma)
    if (rest := _behind_space(text, place + 1)) < len(text):
        raise fault("there is more behind the list", rest)
    return rows


def _behind_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in _SPACE:
        place += 1
    return place


def _parsed(text: str) -> Any:
    try:
        return _shallow(json.loads(text, object_pairs_hook=_each_once), text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def _shallow(value: Any, text: str) -> Any:
    """The value, unless it is nested so deep that who reads or writes it later would run out of stack."""
    if text.count("[") + text.count("{") > _DEEPEST:
        level, depth = [value], 0
        while level := [inner for outer in level for inner in _inner(outer)]:
            depth += 1
            if depth > _DEEPEST:
                raise ValueError(_TOO_DEEP)
    return value


def _inner(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"'{twice}' is there twice in one object")
    return row


def _no_object(row: Any) -> str:
    return f"found {type(row).__name__}; expected a JSON object"
