"""Errors that carry their parts as fields, and checks of single values. Every room may import it; it imports none.

In: a value that a user, a file or a data set brought. Out: the same value, or an error that names it.

    ValueError
    ├── RowError         a row cannot be used: which row, which column and why are its fields
    │   ├── DropRow      it is no fault of the row's, but there is nothing to learn from: left out, counted, reported
    │   └── OverlongRow  the row is too long, and overlong="error" asks to stop there
    ├── RefusedRows      rows of a benchmark cannot be used: a `RowError` for each
    ├── BrokenFile       a file cannot be read, or not on from a line (`data/formats/file_rows.py`)
    └── CsvError         what is wrong with the text of a csv file, and in which line (`data/formats/csv_cells.py`)

Options that are wrong are a plain `ValueError`, or a `TypeError` where the type is wrong: their users read the message
and no program does. `texts.USER_ERRORS` are the types that users can mend, and that the commands show in one line.
"""

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral
from typing import Any

Row = dict[str, Any]

GREATEST = (2 - 2**-23) * 2.0**127
"""the greatest number of fp32, which losses are computed in"""


# ---- errors --------------------------------------------------------------------------------------------------------


class RowError(ValueError):
    """A row cannot be used.

    Attributes:
        reason: what is wrong. column: where in the row, or None.
        number: the row's number in its data, from 0. row: what it is called; "row 7" of number 7 unless set.
        item: which of the row's completions or solutions it is, from 0, where it has several.
        where: which data set and which format.
        general: `what`, without what only this row has in it, so that rows with the same fault are counted together.

    >>> raise RowError("is None", column="chosen")
    Traceback (most recent call last):
    hf_rewardplug.checks.RowError: column 'chosen': is None
    >>> raise RowError("is None", column="chosen", number=7, where="train data set, adapter 'preference'")
    Traceback (most recent call last):
    hf_rewardplug.checks.RowError: train data set, adapter 'preference', row 7: column 'chosen': is None.
    """

    def __init__(
        self,
        reason: str,
        column: str | None = None,
        *,
        number: int | None = None,
        row: str | None = None,
        item: int | None = None,
        where: str | None = None,
        general: str | None = None,
    ):
        super().__init__(reason, column)
        self.reason, self.column = reason, column
        self.number, self.row, self.item, self.where = number, row, item, where
        self.general = (general or self.what).removesuffix(".")

    @classmethod
    def of(cls, error: Exception, **place: Any) -> "RowError":
        """Any error as one of a row. Of an error that is none of a row's, the reason begins with its type.

        >>> str(RowError.of(KeyError("chosen"), number=7))
        "row 7: KeyError: 'chosen'."
        """
        if isinstance(error, RowError):
            return cls(error.reason, error.column, general=error.general, **place)
        return cls(f"{type(error).__name__}: {error}", **place)

    @property
    def what(self) -> str:
        """What is wrong, without the row."""
        reason = self.reason.removesuffix(".")
        return reason if self.column is None else f"column '{self.column}': {reason}"

    def __str__(self) -> str:
        row = self.row or (None if self.number is None else f"row {self.number}")
        if row is None:
            return self.what
        return f"{row if self.where is None else f'{self.where}, {row}'}: {self.what}."


class DropRow(RowError):
    """The row holds nothing to learn from: it is left out, counted and reported, not refused."""


class OverlongRow(RowError):
    """The row is too long, and `overlong="error"` asks to stop there."""


class RefusedRows(ValueError):
    """Rows of a benchmark that cannot be used, told by the first one.

    Attributes:
        name: the benchmark. refused: what each row is called -> what is wrong with it.

    >>> raise RefusedRows("preference", {f"row {row}": RowError("is None", "chosen") for row in (7, 9)})
    Traceback (most recent call last):
    hf_rewardplug.checks.RefusedRows: benchmark 'preference', row 7: column 'chosen': is None.
    """

    def __init__(self, name: str, refused: Mapping[str, RowError]):
        row, error = next(iter(refused.items()))
        super().__init__(f"benchmark '{name}', {row}: {error.what}.")
        self.name, self.refused = name, dict(refused)


# ---- what a value is -----------------------------------------------------------------------------------------------


def is_number(value: Any) -> bool:
    """A number; True and False are none.

    >>> is_number(0.5), is_number(float("nan")), is_number(True), is_number("1")
    (True, True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any, least: float = -math.inf) -> bool:
    """An int of `least` or more; True and False are none.

    >>> is_whole(1, 1), is_whole(0, 1), is_whole(1.0), is_whole(True)
    (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def are_texts(values: Any) -> bool:
    """A list or tuple of nothing but text; it may be empty."""
    return isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)


# ---- what errors call a value --------------------------------------------------------------------------------------


def shown(value: Any, most: int = 80) -> str:
    """The value, short enough for an error.

    >>> shown("x" * 100, most=8)
    "'xxxx..."
    """
    written = repr(value)
    return written if len(written) <= most else f"{written[: most - 3]}..."


def listed(names: Iterable[Any]) -> str:
    """
    >>> listed(["drop", "error"])
    "'drop', 'error'"
    """
    return ", ".join(map(repr, names))


def nearest(name: Any, known: Collection[str]) -> str:
    """The one of the known names that is most like `name`.

    >>> nearest("sequnce_len", ["seed", "sequence_len"])
    'sequence_len'
    """
    (name,) = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
    return name


# ---- options -------------------------------------------------------------------------------------------------------


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """The option has one of the values that it may have.

    >>> check_choice("overlong", "cut", ("drop", "error"))
    Traceback (most recent call last):
    ValueError: overlong='cut' is not one of 'drop', 'error'.
    """
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {listed(choices)}.")


def check_type(name: str, value: Any, kind: Any, expected: str) -> None:
    """The option is of the type.

    >>> check_type("step_separator", 3, str, "text")
    Traceback (most recent call last):
    TypeError: step_separator=3 is int; expected text.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name}={value!r} is {type(value).__name__}; expected {expected}.")


def check_that(right: bool, name: str, value: Any, expected: str) -> None:
    """The option is what `expected` says.

    >>> check_that(False, "huber_delta", -1.0, "a number above 0")
    Traceback (most recent call last):
    ValueError: huber_delta=-1.0; expected a number above 0.
    """
    if not right:
        raise ValueError(f"{name}={value!r}; expected {expected}.")


def check_whole(name: str, value: Any, *, least: int = 1) -> None:
    """The option is None or a whole number of `least` or more; numpy's whole numbers are some too.

    >>> check_whole("max_length", "512")
    Traceback (most recent call last):
    TypeError: max_length='512' is no whole number; expected a positive number or None.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r} is no whole number; expected a positive number or None.")
    if value < least:
        why = "leaves no token" if least else "is negative"
        raise ValueError(f"{name}={value} {why}; expected a positive number or None.")


def check_share(name: str, value: Any, remedy: str) -> None:
    """The option is a share of the rows, which leaves some on both sides.

    >>> check_share("test_size", 1.5, "Give 0.05.")
    Traceback (most recent call last):
    ValueError: test_size=1.5 is not between 0 and 1. Give 0.05.
    """
    if not is_number(value) or not 0 < value < 1:
        raise ValueError(f"{name}={value!r} is not between 0 and 1. {remedy}")


# ---- columns of a row ----------------------------------------------------------------------------------------------


def expect(value: Any, kind: Any, words: str, column: str) -> Any:
    """The value of a column, which is of the type; or a `RowError`."""
    if not isinstance(value, kind):
        raise RowError(f"expected {words}, found {shown(value)}", column)
    return value


def nonempty_list(row: Row, key: str, column: str | None = None) -> list:
    """`row[key]`, or a `RowError` for `column`."""
    value = row.get(key)
    if not isinstance(value, list) or not value:
        raise RowError(f"expected a list that is not empty, found {shown(value)}", column or key)
    return value


def finite(value: Any, column: str) -> float:
    """The number as a float, or a `RowError`: a NaN, or an infinity of fp32, would make the whole step's loss one."""
    if not is_number(value) or value != value or abs(value) == math.inf:
        raise RowError(f"expected a finite number, found {shown(value)}", column)
    if abs(value) > GREATEST:
        raise RowError(f"is beyond {GREATEST:.4g}, the greatest number of fp32", column)
    return float(value)
