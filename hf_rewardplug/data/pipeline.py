"""One raw row to its encoded examples: adapter, canonical form, encoder.

In: a raw row and its number. Out: encoded examples with `BOOKKEEPING` columns that say why a row was left out, and what
was cut from it. A bad row is a `ValueError` with the adapter, the row number and the column.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from datasets import Features, Value

from .adapters import Adapter, detect_adapter, get_adapter, rename_columns
from .canonical import EXAMPLE_ID, PROMPT_KEY, SUBSET, EmptyRow, Row, RowError, prompt_key
from .encoding import DropRow

BOOKKEEPING = {
    "row": Value("int64"),
    "dropped": Value("string"),
    "cut": Value("int64"),
    "cut_labels": Value("int64"),
}
"""columns that tell what became of a row, and go when it is told"""

TREE_COLUMNS = ("node_lengths", "node_parents")
OPTIONAL = ("margin", "weight", "chosen_probability")
"""columns that all examples have, or none"""


@dataclass(frozen=True, kw_only=True)
class RowPipeline:
    """One raw row -> its encoded examples: adapter, canonical form, encoder. Runs inside `datasets.map`.

    Args:
        name: the data set's name in messages.
        columns: output columns of `encode` with their types.
        encode: canonical row -> {column: value, ..., "cut", "cut_labels"}; raises `RowError` or `DropRow`.
        expand: canonical row -> rows that `encode` takes (one of `expansion.py`).
        adapter: raw row -> canonical rows; None where the rows are tokenized already.
        column_mapping: {expected column: column of the data}.
        subset: raw column that goes into the column `SUBSET`, if `columns` has it.
        kept: raw columns that stay beside the encoded ones.
    """

    name: str
    columns: Features
    encode: Callable[[Row], Row]
    expand: Callable[[Row], list[Row]]
    adapter: Adapter | None = None
    column_mapping: dict[str, str] | None = None
    subset: str = "subset"
    kept: tuple[str, ...] = ()

    def keeping(self, raw_columns: list[str], wanted: bool) -> "RowPipeline":
        """The same, with the raw columns kept that do not get in the way of its own, if they are `wanted`."""
        ours = {*self.columns, *BOOKKEEPING, EXAMPLE_ID}
        return replace(self, kept=tuple(name for name in raw_columns if wanted and name not in ours))

    def examples(self, raw: Row, number: int) -> list[Row]:
        """The encoded examples of raw row `number`; a row or pair that is left out gives one with `dropped` set."""
        try:
            canonical, subset = [raw], raw.get(self.subset)
            if self.adapter is not None:
                raw = rename_columns(raw, self.column_mapping) if self.column_mapping else raw
                canonical = [row for found in self.adapter(raw) for row in self._expanded(found)]
            return [self._example(row, number, subset) for row in canonical] or [
                self._left_out("the adapter gives none (a tie)", number)
            ]
        except EmptyRow as error:
            return [self._left_out(str(error), number)]
        except Exception as error:  # a third party's adapter can fail in any way; the user must learn at which row
            source = "tokenized data" if self.adapter is None else f"adapter '{self.adapter.name}'"
            found = error if isinstance(error, RowError) else f"{type(error).__name__}: {error}"
            part = f" (row {raw['source_row']} of '{subset}')" if "source_row" in raw else ""  # of a mixture
            raise ValueError(f"{self.name} data set, {source}, row {number}{part}: {found}.") from error

    def _expanded(self, canonical: Row) -> list[Row | EmptyRow]:
        """What holds nothing to learn from is left out by itself: an adapter may give several rows."""
        try:
            return self.expand(canonical)
        except EmptyRow as error:
            return [error]

    def _example(self, row: Row | EmptyRow, number: int, subset: Any) -> Row:
        if isinstance(row, EmptyRow):
            return self._left_out(str(row), number)
        try:
            encoded = {"row": number, "dropped": None, **self.encode(row)}
            if PROMPT_KEY in self.columns:
                encoded[PROMPT_KEY] = prompt_key(row)
            if SUBSET in self.columns:
                encoded[SUBSET] = None if subset is None else str(subset)
            return encoded
        except DropRow as drop:
            return self._left_out(drop.reason, number)

    def _left_out(self, reason: str, number: int) -> Row:
        empty = {key: None if isinstance(kind, Value) else [] for key, kind in self.columns.items()}
        return {"row": number, "dropped": reason, "cut": 0, "cut_labels": 0, **empty}

    def __call__(self, batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        """`datasets.map(batched=True, with_indices=True)`'s form."""
        output = defaultdict(list)
        for position, number in enumerate(indices):
            raw = {key: values[position] for key, values in batch.items()}
            for example in self.examples(raw, number):
                full = {**{key: raw[key] for key in self.kept}, **dict.fromkeys(self.columns), **example}
                for key, value in full.items():
                    output[key].append(value)
        return dict(output)


def choose_adapter(first: Row, name: str | None, column_mapping: dict | None) -> Adapter:
    """The adapter called `name`, or the one that the columns of the `first` row tell.

    Raises:
        ValueError: unknown name, unknown format, or a mapped column that the data do not have.
    """
    if name is not None:
        return get_adapter(name)
    first = rename_columns(first, column_mapping) if column_mapping else first
    return detect_adapter(list(first), first)
