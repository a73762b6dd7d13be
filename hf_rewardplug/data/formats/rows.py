"""A row of a file, wherever it stands there."""

from dataclasses import dataclass
from typing import Any


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
