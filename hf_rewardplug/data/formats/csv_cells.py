"""Text of a csv file to typed columns.

In: bytes of csv (RFC 4180: commas, double quotes, UTF-8, a header, as many cells in each record as in the header). Out:
a parquet file of the same rows. A csv file holds text alone, so this is the rule:

    text       every cell as it is written ("007", "NA", "None" and "1e5" in a column of text stay text)
    numbers    a column in which every cell that is not empty is a number as JSON writes it
    bools      a column in which every such cell is true or false, in any case
    None       an empty cell, in every column
    lists      are not read: a list, an object or a conversation that was written into a cell is an error

A column that is called as texts are (`chosen`, `response_a`, ...) is text, even if every answer is a number.
"""

import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ...checks import listed

_TEXTS = re.compile(
    r"(prompt|input|instruction|question|query|problem|context|system|chosen|rejected|completion|response|answer"
    r"|output|solution|text|content)(_?[a-d0-9])?",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_MESSAGE_KEYS = [
    [re.compile(rf"""['"]{key}['"]\s*:""") for key in keys] for keys in (("role", "content"), ("from", "value"))
]
_BOOLS = ("true", "false")
_AS_JSON = ("tools", "chat_template_kwargs")  # which are taken as JSON text too
_BATCH = 1024
_MOST_CHARACTERS = 2**31 - 1  # of a cell; the csv module allows 131,072
_MOST_DIGITS = 18  # of a whole number in 64 bits


class CsvError(ValueError):
    """What is wrong with the text, and in which line."""

    def __init__(self, why: str, line: int):
        super().__init__(why)
        self.line = line


def csv_records(file: Iterable[bytes]) -> Iterator[tuple[int, list[str]]]:
    """The records, the header first, each with the line that it begins in; blank lines are none.

    >>> list(csv_records([b'prompt,chosen\\n', b'"a\\n', b'b",c\\n', b'\\n', b'd,e\\n']))
    [(1, ['prompt', 'chosen']), (2, ['a\\nb', 'c']), (5, ['d', 'e'])]

    Raises:
        CsvError: another number of cells than in the header, quotes that do not close, or no UTF-8.
    """
    csv.field_size_limit(_MOST_CHARACTERS)
    lines = (text.decode("utf-8-sig" if number == 1 else "utf-8") for number, text in enumerate(file, 1))
    reader = csv.reader(lines, strict=True)
    header, line = None, 1
    try:
        for record in reader:
            header = header or record
            if record and len(record) != len(header):
                raise CsvError(
                    f"{len(record)} cells, but the header has {len(header)} ({', '.join(header)}). Put a cell with "
                    "commas or line breaks in double quotes",
                    line,
                )
            if record:
                yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        remedy = "Put a cell with quotes, commas or line breaks in double quotes, and double the quotes within"
        raise CsvError(f"no csv: {error}. {remedy}", line) from error
    except UnicodeDecodeError as error:
        raise CsvError(f"no UTF-8: {error}", reader.line_num + 1) from error


def column_kinds(file: Iterable[bytes]) -> dict[str, set[str]]:
    """What the cells of each column are: "int", "float", "bool" or "text".

    >>> column_kinds([b"chosen,margin\\n", b"4,1\\n", b"5,0.5\\n"])["margin"] == {"int", "float"}
    True

    Raises:
        CsvError: as `csv_records`; no header, a column twice or without a name, or a list in a cell.
    """
    records = csv_records(file)
    _, names = next(records, (1, []))
    if not names or "" in names or len({*names}) < len(names):
        raise CsvError(
            f"the header holds {listed(names) or 'nothing'}; expected the names of the columns, each once", 1
        )
    if len(names) == 1 and (mark := re.search(r"[;\t|]", names[0])):
        raise CsvError(f"the header is one cell, {names[0]!r}; expected commas between cells, not {mark[0]!r}", 1)
    texts = {name for name in names if _TEXTS.fullmatch(name)}
    kinds: dict[str, set[str]] = {name: set() for name in names}
    lists: dict[str, int] = {}  # column of other cells: the line of its first list
    for line, record in records:
        for name, cell in zip(names, record, strict=True):
            if name not in _AS_JSON and is_written_list(cell, messages_alone=name in texts):
                if name in texts:
                    raise _holds_list(name, line)
                lists.setdefault(name, line)
            elif cell:
                kinds[name].add("text" if name in texts else _kind(cell))
    for name in filter(lists.get, names):
        if not kinds[name]:
            raise _holds_list(name, lists[name])
        kinds[name].add("text")
    return kinds


def _holds_list(name: str, line: int) -> CsvError:
    return CsvError(
        f"column '{name}' holds a list or an object, written as text, and csv has none. Write the rows as "
        "jsonl or parquet, or leave the column out",
        line,
    )


def write_parquet(file: Iterable[bytes], target: Path, kinds: dict[str, set[str]]) -> None:
    """The rows of a csv file as a parquet file, typed by `kinds`, a batch in memory."""
    schema = pa.schema([(name, _type(of_name)) for name, of_name in kinds.items()])
    records = csv_records(file)
    next(records)
    with pq.ParquetWriter(target, schema) as writer:
        while batch := list(itertools.islice(records, _BATCH)):
            rows = [{name: cell or None for name, cell in zip(kinds, record, strict=True)} for _, record in batch]
            texts = pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in kinds]))
            writer.write_table(texts.cast(schema))


def _type(kinds: set[str]) -> pa.DataType:
    if kinds == {"bool"}:
        return pa.bool_()
    if kinds == {"int"}:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {"int", "float"} else pa.string()


def _kind(cell: str) -> str:
    """
    >>> [_kind(cell) for cell in ("12", "-0.5", "1e5", "True", "007", "NA", "+1")]
    ['int', 'float', 'float', 'bool', 'text', 'text', 'text']
    """
    if cell.lower() in _BOOLS:
        return "bool"
    number = _NUMBER.fullmatch(cell)
    if number is None or len(cell) > _MOST_DIGITS:  # an id loses digits as a float
        return "text"
    return "float" if number[2] or number[3] else "int"


def is_written_list(cell: str, *, messages_alone: bool) -> bool:
    """Whether a cell is a list or an object as JSON, Python or numpy write it; or messages.

    >>> is_written_list('["4", "5"]', messages_alone=False), is_written_list("[1 2]", messages_alone=False)
    (True, True)
    >>> is_written_list("[{'role': 'user', 'content': 'Hi'}]", messages_alone=True)
    True
    """
    ends = cell.strip()
    if (ends[:1], ends[-1:]) not in (("[", "]"), ("{", "}")):
        return False
    return not messages_alone or any(all(key.search(ends) for key in keys) for keys in _MESSAGE_KEYS)
