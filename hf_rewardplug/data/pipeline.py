"""One raw row to its encoded examples: adapter, canonical form, encoder.

In: a raw row and its number. Out: encoded examples with `BOOKKEEPING` columns that say why a row was left out, and how
much was cut from it. A row that the adapter, the checks or the chat template refuses raises a `RowError` with the
adapter, the row number and the column, or it is left out, if `on_bad_row` says so.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from datasets import Features, Value

from ..checks import DropRow, OverlongRow, RowError
from .adapters import Adapter, detect_adapter, get_adapter, rename_columns
from .canonical import EXAMPLE_ID, PROMPT_KEY, SUBSET, Row, prompt_key, subset_name
from .columns import Unread, refuse_prompts
from .formats.file_rows import FILE_NAME, FILE_ROW
from .row_forms import ROW_LOOK, look_of
from .unrendered import UNRENDERED, Unrendered

BOOKKEEPING = {
    "row": Value("int64"),
    "place": Value("string"),  # what a row that is left out or cut is called, where its number does not say it
    "dropped": Value("string"),
    "refused": Value("string"),  # of a row with a fault: `dropped` without the details of this row
    "cut": Value("int64"),
    "cut_labels": Value("int64"),
    UNRENDERED: Value("string"),
    ROW_LOOK: Value("string"),
}
"""Columns that say what became of a row. They are removed when a report has counted them."""

_PROBED = 100  # the first of these rows that can be read determines the format

ON_BAD_ROW = ("error", "drop")
"""What becomes of a row that cannot be used: the run stops, or the row is left out, counted and reported."""


@dataclass(frozen=True, kw_only=True)
class RowPipeline:
    """One raw row -> its encoded examples: adapter, canonical form, encoder. It runs inside `datasets.map`.

    Args:
        name: the data set's name in messages.
        columns: output columns of `encode` with their types.
        encode: canonical row -> {column: value, ..., "cut", "cut_labels"}; raises `RowError` or `DropRow`.
        expand: canonical row -> rows that `encode` takes (one of `expansion.py`).
        unrendered: names what the chat template leaves out of a row; None where the rows are tokenized already.
        adapter: raw row -> canonical rows; None where the rows are tokenized already.
        column_mapping: {expected column: column of the data}.
        subset: raw column that goes into the column `SUBSET`, if `columns` has it.
        kept: raw columns that stay beside the encoded ones.
        unread: raw columns that the adapter does not read; a part of a prompt in one of them makes a bad row.
        code: state of the code that encodes and of the files that rows come from (`fingerprint.py`), by which
            `datasets` finds its cache.
        on_bad_row: one of `ON_BAD_ROW`. For rows that are too long the encoder's `overlong` decides.
    """

    name: str
    columns: Features
    encode: Callable[[Row], Row]
    expand: Callable[[Row], list[Row]]
    unrendered: Unrendered | None = None
    adapter: Adapter | None = None
    column_mapping: dict[str, str] | None = None
    subset: str = "subset"
    kept: tuple[str, ...] = ()
    unread: Unread = field(default_factory=Unread)
    code: str = ""
    on_bad_row: str = "error"

    def keeping(self, raw_columns: list[str], wanted: bool) -> "RowPipeline":
        """The same pipeline; if the raw columns are `wanted`, those stay whose names it does not use itself."""
        ours = {*self.columns, *BOOKKEEPING, EXAMPLE_ID, FILE_ROW, FILE_NAME}
        return replace(self, kept=tuple(name for name in raw_columns if wanted and name not in ours))

    def examples(self, raw: Row, number: int) -> list[Row]:
        """The encoded examples of raw row `number`; a row or pair that is left out gives one with `dropped` set.

        Raises:
            RowError: the row cannot be used, and `on_bad_row` is "error".
        """
        raw, number, place = numbered_row(raw, number)
        try:
            examples = self._examples(raw, number)
        except DropRow as error:
            examples = [self._left_out(error, number)]
        except Exception as error:  # a third party's adapter can fail in any way; the user must learn at which row
            if self.on_bad_row == "error" or isinstance(error, OverlongRow):
                source = "tokenized data" if self.adapter is None else f"adapter '{self.adapter.name}'"
                of_mixture = place is not None and "source_row" in raw
                row = f"row {number} ({place})" if of_mixture else place
                where = f"{self.name} data set, {source}"
                raise RowError.of(error, number=number, row=row, where=where) from error
            examples = [self._left_out(RowError.of(error), number)]
        for example in examples:
            if example["dropped"] is not None or example["cut"] or example[UNRENDERED]:
                example["place"] = place
        return examples

    def _examples(self, raw: Row, number: int) -> list[Row]:
        subset = raw.get(self.subset)
        if self.adapter is None:
            return [self._example(raw, number, subset)]
        adapted = self.adapter(rename_columns(raw, self.column_mapping) if self.column_mapping else raw)
        refuse_prompts(self.adapter, raw, self.unread, adapted)
        examples = []
        for canonical in adapted:
            try:
                examples += [self._example(row, number, subset) for row in self.expand(canonical)]
            except DropRow as error:  # an adapter may give several rows, and the others stay
                examples.append(self._left_out(error, number))
        return examples or [self._left_out(DropRow("the adapter gives no row for it"), number)]

    def _example(self, row: Row, number: int, subset: Any) -> Row:
        try:
            encoded = {**self._bookkeeping(number), **self.encode(row)}
            if self.unrendered is not None:
                encoded[UNRENDERED] = "\n".join(self.unrendered(row)) or None
                encoded[ROW_LOOK] = look_of(row, self.unrendered.source.chat_template_kwargs)
            if PROMPT_KEY in self.columns:
                encoded[PROMPT_KEY] = prompt_key(row)
            if SUBSET in self.columns:
                encoded[SUBSET] = subset_name(subset)
            return encoded
        except DropRow as error:
            return self._left_out(error, number)

    def _left_out(self, error: RowError, number: int) -> Row:
        empty = {name: None if isinstance(feature, Value) else [] for name, feature in self.columns.items()}
        refused = None if isinstance(error, DropRow) else error.general
        return {**self._bookkeeping(number), "dropped": error.what, "refused": refused, **empty}

    @staticmethod
    def _bookkeeping(number: int) -> Row:
        return {**dict.fromkeys(BOOKKEEPING), "row": number, "cut": 0, "cut_labels": 0}

    def of_batch(self, batch: dict[str, list], indices: list[int]) -> Iterator[Row]:
        """The encoded examples of a batch of raw rows, with the raw columns that are kept and all of `columns`."""
        for position, number in enumerate(indices):
            raw = {key: values[position] for key, values in batch.items()}
            beside = {key: raw[key] for key in self.kept}
            for example in self.examples(raw, number):
                yield {**beside, **dict.fromkeys(self.columns), **example}

    def __call__(self, batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        """`datasets.map(batched=True, with_indices=True)`'s form."""
        output = defaultdict(list)
        for example in self.of_batch(batch, indices):
            for key, value in example.items():
                output[key].append(value)
        return dict(output)


def numbered_row(raw: Row, number: int) -> tuple[Row, int, str | None]:
    """The row without the columns that number the rows of a stream, its number, and how it is called by name.

    >>> numbered_row({"prompt": "2+2?", "rewardplug_row": 7, "rewardplug_file": "b.jsonl"}, 0)
    ({'prompt': '2+2?'}, 7, 'row 7 of b.jsonl')
    >>> numbered_row({"canonical": "[]", "subset": "sums", "source_row": 7}, 12)[1:]
    (12, "row 7 of 'sums'")
    """
    if "source_row" in raw and "subset" in raw:  # of a mixture
        return raw, number, f"row {raw['source_row']} of '{raw['subset']}'"
    if FILE_ROW not in raw:
        return raw, number, None
    bare = {key: value for key, value in raw.items() if key not in (FILE_ROW, FILE_NAME)}
    number, file = raw[FILE_ROW], raw.get(FILE_NAME)
    return bare, number, None if file is None else f"row {number} of {file}"


def choose_adapter(first: Row, name: str | None, column_mapping: dict | None) -> Adapter:
    """The adapter called `name`, or the one that fits the columns of the `first` row.

    Raises:
        ValueError: unknown name, unknown format, or a mapped column that the data do not have.
    """
    if name is not None:
        return get_adapter(name)
    first, _, _ = numbered_row(first, 0)
    first = rename_columns(first, column_mapping) if column_mapping else first
    return detect_adapter(list(first), first)


def adapter_of(rows: Iterable[Row], name: str | None, column_mapping: dict | None) -> Adapter:
    """The adapter called `name`, or else the one of the first row that can be read in the format of its columns.

    A bad first row must not change the format of a data set. Where none of the first rows can be read, the format is
    that of the first one.

    >>> hh = {"chosen": "\\n\\nHuman: Hi\\n\\nAssistant: Hello", "rejected": "\\n\\nHuman: Hi\\n\\nAssistant: No"}
    >>> adapter_of([{"chosen": None, "rejected": "No"}, hh], None, None).name
    'hh_rlhf'

    Raises:
        ValueError: as `choose_adapter`.
    """
    if name is not None:
        return get_adapter(name)
    first = None
    for row in islice(rows, _PROBED):
        first = row if first is None else first
        with suppress(Exception):  # an adapter can fail in any way; the error shows where all rows are read
            adapter = choose_adapter(row, None, column_mapping)
            adapter(rename_columns(numbered_row(row, 0)[0], column_mapping))
            return adapter
    return choose_adapter(first, None, column_mapping)
