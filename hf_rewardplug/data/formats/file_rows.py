"""Names of files and rows of files: in goes a file's name or one of its rows, out come its format and the row's place.

>>> file_format("pairs.jsonl.gz"), file_format("PAIRS.CSV"), file_format("notes.txt")
('json', 'csv', None)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE_FORMATS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}
"""suffix -> format; each may be followed by `.gz`"""

FILE_ROW, FILE_NAME = "rewardplug_row", "rewardplug_file"
"""columns of a stream of files: the row's number in its file, and the file's name where there are several"""


def file_format(path: str | Path) -> str | None:
    """The format by a file's name, or None."""
    name = Path(path).name.lower().removesuffix(".gz")
    return FILE_FORMATS.get(Path(name).suffix)


def bare_name(path: str | Path) -> str:
    """A file's name without the suffixes of its format.

    >>> bare_name("data/pairs.jsonl.gz"), bare_name("nvidia/HelpSteer2"), bare_name("pairs-v1.5")
    ('pairs', 'HelpSteer2', 'pairs-v1.5')
    """
    name = Path(path).name
    if file_format(name) is None:
        return name
    return Path(name[:-3] if name.lower().endswith(".gz") else name).stem


class BrokenFile(ValueError):
    """A file that cannot be read, or not on from a line; the message names both and what is wrong.

    >>> raise BrokenFile("pairs.csv", "3 cells, but the header has 2", line=7)
    Traceback (most recent call last):
    hf_rewardplug.data.formats.file_rows.BrokenFile: 'pairs.csv', line 7: 3 cells, but the header has 2
    """

    def __init__(self, file: str | Path, why: str, line: int | None = None):
        super().__init__(f"'{file}' {why}" if line is None else f"'{file}', line {line}: {why}")


@dataclass(frozen=True)
class FileRow:
    """A row of a file.

    Attributes:
        number: its place among the file's rows, from 0.
        line: where it begins, from 1; None where the format has no lines.
        row: what it holds; None where `error` says what is wrong with it.
    """

    number: int
    line: int | None = None
    row: dict[str, Any] | None = None
    error: str | None = None

    @property
    def place(self) -> str:
        """
        >>> FileRow(7, line=8).place, FileRow(7).place
        ('line 8', 'row 7')
        """
        return f"row {self.number}" if self.line is None else f"line {self.line}"
