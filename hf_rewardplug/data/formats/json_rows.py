"""Text of JSON to rows, one by one, each with the line that it begins in.

In: the bytes of a list of objects, of one object, or of one object a line, whatever the file's suffix. Out: `FileRow`s.
Stricter than the readers of other packages: no comma after the last object, no column twice, nothing but UTF-8.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .file_rows import BrokenFile, FileRow

_BEGINNING = 1024
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\n]*")
_DEEPEST = 200
_TOO_DEEP = f"lists and objects are nested more than {_DEEPEST} deep"


def read_json(path: Path, table: Path) -> Iterator[FileRow]:
    """The rows of a json or jsonl file; of a list the whole text is in memory.

    Args:
        path: what errors call it. table: the unpacked file.

    Raises:
        BrokenFile: a list that is no JSON, or no UTF-8. A line that is none is a row with an `error`.
    """
    if is_list(table):
        yield from _list(path, table.read_bytes())
        return
    with open(table, "rb") as file:
        if (row := _one_object(file)) is not None:
            yield FileRow(0, line=1, row=row)
            return
        file.seek(0)
        number = 0
        for line, text in enumerate(file, 1):
            if text.strip():
                yield parse_line(text, number=number, line=line)
                number += 1


def is_list(table: Path) -> bool:
    """Whether a json file holds a list, not lines."""
    with open(table, "rb") as file:
        return file.read(_BEGINNING).removeprefix(_BOM).lstrip().startswith(b"[")


def _one_object(file: IO[bytes]) -> dict[str, Any] | None:
    """The only object of a file, if it is written over several lines."""
    first = next((line for line in file if line.strip()), b"")
    if first.strip().removeprefix(_BOM) != b"{":
        return None
    try:
        row = _parsed((first + file.read()).decode("utf-8-sig"))
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def parse_line(text: bytes, *, number: int, line: int) -> FileRow:
    """A line of jsonl.

    >>> parse_line(b'{"prompt": "a", 5}', number=0, line=1).error
    'no JSON: Expecting property name enclosed in double quotes at character 17'
    """
    try:
        return _row(number, line, _parsed(text.decode("utf-8-sig" if line == 1 else "utf-8")))
    except json.JSONDecodeError as error:
        wrong = f"no JSON: {error.msg} at character {error.pos + 1}"
    except UnicodeDecodeError as error:
        wrong = f"no UTF-8: {error}"
    except ValueError as error:
        wrong = str(error)
    return FileRow(number, line, error=wrong)


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
    mark, place = "[", text.index("[")
    while mark != "]":
        before, place = place, _behind_space(text, place + 1)
        if text.startswith("]", place):
            if mark == ",":
                raise fault("there is a comma behind the last object", before)
            break
        line, seen = line + text.count("\n", seen, place), place
        try:
            row, end = decoder.raw_decode(text, place)
            _check_depth(row, text[place:end])
        except json.JSONDecodeError as error:
            raise fault(error.msg, error.pos) from error
        except RecursionError:
            raise fault(_TOO_DEEP, place) from None
        except ValueError as error:
            raise fault(str(error), place) from error
        rows.append(_row(len(rows), line, row))
        place = _behind_space(text, end)
        mark = text[place : place + 1]
        if mark not in (",", "]"):
            raise fault(f"expected ',' or ']' behind an object, found {mark or 'the end of the file'}", place)
    if (rest := _behind_space(text, place + 1)) < len(text):
        raise fault("there is more behind the list", rest)
    return rows


def _behind_space(text: str, place: int) -> int:
    return _SPACE.match(text, place).end()


def _parsed(text: str) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=_each_once)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check_depth(value, text)
    return value


def _check_depth(value: Any, text: str) -> None:
    """What is nested deeper would let those run out of stack who read or write it later."""
    if text.count("[") + text.count("{") > _DEEPEST:
        level = [value]
        for _ in range(_DEEPEST + 1):
            level = [inner for outer in level for inner in _inner(outer)]
        if level:
            raise ValueError(_TOO_DEEP)


def _inner(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"'{twice}' is there twice in one object")
    return row


def _row(number: int, line: int, value: Any) -> FileRow:
    if isinstance(value, dict):
        return FileRow(number, line, value)
    return FileRow(number, line, error=f"found {type(value).__name__}; expected a JSON object")
