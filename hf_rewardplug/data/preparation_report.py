"""What became of a data set's rows: how many gave examples, which were left out or cut, and why.

In: each row's number and fate. Out: a report that prints itself, in the log, in `inspect` and in the model card.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from ..texts import one_line
from .canonical import Row
from .columns import Unread
from .unrendered import UNRENDERED

REMEDY = "Name another `adapter`, or map columns with `column_mapping`."
"""What to do where no row of a data set can be read."""

_REASONS, _ROWS, _REFUSED = 20, 10, 50  # reasons, rows of each, and refused rows of each that are printed


@dataclass
class PreparationReport:
    """What became of a data set's rows.

    Attributes:
        name: which data set ("train", "eval" or the eval set's key).
        rows: raw rows read. examples: encoded examples kept (a ranked row gives several pairs).
        dropped: reason -> raw row numbers, from 0. Where the data set was read from a file, they are the numbers of its
            rows there, before any split, shuffle or selection; several files are numbered through, in the order of
            their names. In a mixture, and where rows were made in Python, they are the places in the data set.
        refused: those reasons that are faults of the rows, which `on_bad_row="drop"` passes over.
        cut_rows: raw row numbers. cut_tokens, cut_labels: what they lost together.
        places: number -> what the row is called where its number does not say it: "row 3 of b.jsonl".
        unrendered: what the chat template leaves out -> raw row numbers.
        unread: columns that nobody reads.
        seen: the report of a stream, whose rows are not known at the start: the first 1,000 rows that were left out or
            cut while it was read in this process.

    >>> print(PreparationReport("train", rows=5, examples=3, dropped={"chosen and rejected are identical": [1, 4]}))
    train: 5 rows gave 3 examples.
      left out, chosen and rejected are identical: 2 (rows 1, 4)
    """

    name: str
    rows: int = 0
    examples: int = 0
    dropped: dict[str, list[int]] = field(default_factory=dict)
    cut_rows: list[int] = field(default_factory=list)
    cut_tokens: int = 0
    cut_labels: int = 0
    refused: list[str] = field(default_factory=list)
    places: dict[int, str] = field(default_factory=dict)
    unrendered: dict[str, list[int]] = field(default_factory=dict)
    unread: Unread = field(default_factory=Unread)
    seen: "PreparationReport | None" = field(default=None, compare=False)

    def __bool__(self) -> bool:
        """Whether there is anything to report."""
        return bool(self.dropped or self.cut_rows or self.unrendered or self.unread)

    def __str__(self) -> str:
        if self.seen is not None:
            lines = [f"{self.name}: a stream; the log has what was left out or cut in other processes."]
            return "\n".join(map(one_line, [*lines, *str(self.seen).splitlines()[1:], *self._columns()]))
        lines = [f"{self.name}: {self.rows} rows gave {self.examples} examples."]
        for reason, rows in list(self.dropped.items())[:_REASONS]:
            refused = reason in self.refused
            named = self.counted(rows, most=_REFUSED if refused else _ROWS)
            lines.append(f"  {'refused' if refused else 'left out'}, {reason}: {named}")
        if more := list(self.dropped.values())[_REASONS:]:
            lines.append(f"  left out for {len(more)} more reasons: {self.counted(chain(*more))}")
        if self.cut_rows:
            lost = f"{self.cut_tokens} tokens" + (f" and {self.cut_labels} labelled steps" if self.cut_labels else "")
            lines.append(f"  cut to fit, {lost} lost: {self.counted(self.cut_rows)}")
        if 2 * len(bad := self.refused_rows()) > self.rows > 0:
            lines.append(f"  {len(bad)} of {self.rows} rows were refused. Is it the right format?")
        for what, rows in self.unrendered.items():
            lines.append(f"  not rendered by the chat template, {what}: {self.counted(rows)}")
        return "\n".join(map(one_line, [*lines, *self._columns()]))

    def _columns(self) -> list[str]:
        return [f"  {self.unread}"] if str(self.unread) else []

    def refused_rows(self) -> set[int]:
        """The numbers of the rows with a fault."""
        return {row for reason in self.refused for row in self.dropped[reason]}

    def counted(self, rows: Iterable[int], *, most: int = _ROWS) -> str:
        """
        >>> PreparationReport("train", places={7: "row 3 of b.jsonl"}).counted([7, 1])
        '2 (row 1, row 3 of b.jsonl)'
        """
        rows = sorted(set(rows))
        shown, more = rows[:most], ", ..." if len(rows) > most else ""
        if any(row in self.places for row in shown):
            return f"{len(rows)} ({', '.join(self.places.get(row, f'row {row}') for row in shown)}{more})"
        return f"{len(rows)} (row{'s' if len(rows) > 1 else ''} {', '.join(map(str, shown))}{more})"

    def count(self, example: Row, row: int, place: str | None) -> None:
        """Count an encoded example of a row, or what stands for one that was left out (`RowPipeline.examples`)."""
        self.note_unrendered(row, example[UNRENDERED], place)
        if example["dropped"] is not None:
            self.leave_out(row, example["dropped"], refused=example["refused"], place=place)
            return
        self.examples += 1
        if example["cut"]:
            self.cut_rows.append(row)
            self.cut_tokens += example["cut"]
            self.cut_labels += example["cut_labels"]
            self.call(row, place)

    def leave_out(self, row: int, reason: str, *, refused: str | None = None, place: str | None = None) -> None:
        """Count a row that gives no example.

        Args:
            refused: of a row with a fault, the reason without what only this row has in it (`RowError.general`).
        """
        self.dropped.setdefault(refused or reason, []).append(row)
        if refused is not None and refused not in self.refused:
            self.refused.append(refused)
        self.call(row, place)

    def note_unrendered(self, row: int, names: str | None, place: str | None) -> None:
        """Note the names of what the chat template leaves out of a row, one a line."""
        for name in (names or "").splitlines():
            if row not in self.unrendered.setdefault(name, []):
                self.unrendered[name].append(row)
                self.call(row, place)

    def call(self, row: int, place: str | None) -> None:
        if place is not None:
            self.places[row] = place


def check_left(report: PreparationReport) -> None:
    """Some row has given an example.

    Raises:
        ValueError: none has; with the reasons.
    """
    if not report.examples:
        left = f"No example is left of the {report.name} data set's {report.rows} rows."
        raise ValueError(f"{left}{length_remedy(report) or f' {REMEDY}'}\n{report}")


def length_remedy(report: PreparationReport) -> str:
    """What to do where rows are left out for their length. It is empty if there are none.

    >>> length_remedy(PreparationReport("train", dropped={"chosen and rejected are identical": [0]}))
    ''
    """
    if any(words in reason for reason in report.dropped for words in ("longer than", "the cut")):
        return " A larger `max_length` (or `max_completion_length`) keeps those that are too long."
    return ""


def check_refused(report: PreparationReport, parts: Sequence[str] | None = None) -> None:
    """Rows that are passed over must not hide a wrong format.

    Args:
        parts: of a mixture, the part that each row belongs to.

    Raises:
        ValueError: every row was refused, or every row of a part, with what is wrong with the first one.
    """
    reasons = {row: reason for reason in report.refused for row in report.dropped[reason]}
    refused = sorted(reasons)
    if refused and len(refused) == report.rows:
        first = report.places.get(refused[0], f"row {refused[0]}")
        raise ValueError(f"{report.name}: every row was refused. The first, {first}: {reasons[refused[0]]}. {REMEDY}")
    if parts is None:
        return
    rows_of = Counter(parts)
    for part, count in Counter(parts[row] for row in refused).items():
        if count == rows_of[part]:
            reason = next(reasons[row] for row in refused if parts[row] == part)
            raise ValueError(
                f"{report.name} data set: every row of part '{part}' was refused, "
                f"the first for this: {reason}. {REMEDY}"
            )
