"""Which columns an adapter reads, seen by letting it read: for adapters that do not declare it.

In: a function and a raw row. Out: the columns whose values it asked for. What a function reads under a condition alone
is not seen where the condition does not hold; `optional` of `register_adapter` says it.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any


def columns_read(function: Callable, row: dict[str, Any]) -> set[str]:
    """The columns of `row` that `function` asks for, up to its error if it raises one.

    >>> sorted(columns_read(lambda row: row["good"] + row.get("bad", ""), {"good": "a", "bad": "b", "id": 3}))
    ['bad', 'good']
    >>> sorted(columns_read(lambda row: {**row}, {"good": "a", "id": 3}))
    ['good', 'id']
    """
    recorded = RecordedRow(row)
    with suppress(Exception):  # a third party's function can fail in any way; the row's error is told where it is read
        function(recorded)
    return recorded.read & row.keys()


class RecordedRow(dict):
    """A row that remembers in `read` which of its values were asked for. What copies it has asked for all.

    >>> row = RecordedRow({"good": "a", "id": 3})
    >>> "id" in row, row["good"], row.read
    (True, 'a', {'good'})
    """

    def __init__(self, row: dict[str, Any]):
        super().__init__(row)
        self.read: set[str] = set()

    def __getitem__(self, column: str) -> Any:
        self.read.add(column)
        return super().__getitem__(column)

    def get(self, column: str, default: Any = None) -> Any:
        self.read.add(column)
        return super().get(column, default)

    def pop(self, column: str, *default: Any) -> Any:
        self.read.add(column)
        return super().pop(column, *default)

    def setdefault(self, column: str, default: Any = None) -> Any:
        self.read.add(column)
        return super().setdefault(column, default)

    def __iter__(self) -> Iterator[str]:
        """Without it, Python copies a dict past the methods of this class."""
        return super().__iter__()

    def _all(self) -> dict[str, Any]:
        self.read.update(super().keys())
        return dict(super().items())

    def items(self) -> Any:
        return self._all().items()

    def values(self) -> Any:
        return self._all().values()

    def copy(self) -> dict[str, Any]:
        return self._all()

    def __or__(self, other: Any) -> dict[str, Any]:
        return self._all() | other

    def __ror__(self, other: Any) -> dict[str, Any]:
        return other | self._all()

    def __eq__(self, other: Any) -> bool:
        return self._all() == other

    def __repr__(self) -> str:
        return repr(self._all())

    __hash__ = None
