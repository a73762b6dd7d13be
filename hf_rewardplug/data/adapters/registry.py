"""Names -> adapters: in goes a name, or the columns and the first row of a data set; out comes the adapter.

Registration is all that happens at import. Third parties' entry points are loaded at the first look-up, once.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...registry import Registry
from . import python_file
from .recorded import columns_read

Row = dict[str, Any]

ENTRY_POINT_GROUP = "hf_rewardplug.adapters"

TRL_COLUMNS = (("prompt", "chosen", "rejected"), ("prompt", "completions", "labels"), ("prompt", "completion", "label"))
"""TRL's own formats: no further column makes another format of a row that has these"""


@dataclass(frozen=True)
class Adapter:
    """A registered format. Called with a raw row, it gives a list of canonical rows, whatever its function returns.

    Attributes:
        columns: what a data set must have for this format to be detected (None: it is used by name only).
        matches: a look at the first row, where columns do not tell formats apart.
        optional: further columns that the adapter reads where a row has them; None where it does not say, and is seen
            by letting it read.
        ignored: columns of the published format that hold nothing to train a reward on: ids, sources, names of models,
            scores that the adapter does not use.
    """

    name: str
    function: Callable[[Row], Row | list[Row]]
    columns: tuple[str, ...] | None = None
    matches: Callable[[Row], bool] | None = None
    optional: tuple[str, ...] | None = None
    ignored: tuple[str, ...] = ()

    def __call__(self, row: Row) -> list[Row]:
        result = self.function(row)
        rows = result if isinstance(result, list) else [result]
        if wrong := [type(row).__name__ for row in rows if not isinstance(row, dict)]:
            returned = f"a list with {wrong[0]}" if rows is result else wrong[0]
            raise TypeError(f"adapter '{self.name}' returned {returned}; expected a row (dict) or a list of rows")
        return rows

    def has_columns(self, columns: Iterable[str]) -> bool:
        return self.columns is not None and set(self.columns) <= set(columns)

    def reads(self, row: Row) -> set[str]:
        """The columns of `row` that the adapter reads, by its own word or by what it asks `row` for."""
        declared = {*(self.columns or ()), *(self.optional or ())} & row.keys()
        return declared if self.optional is not None else declared | columns_read(self.function, row)

    def fails(self, row: Row) -> bool:
        """Whether it finds fault with a row that has something in every column that it needs."""
        if not _filled(row, self.columns or ()):
            return False
        try:
            self(dict(row))
        except Exception:  # a third party's function can fail in any way
            return True
        return False


ADAPTERS: Registry[Adapter] = Registry(  # detection prefers the last one registered
    "adapter",
    function="function",
    remedy="Add yours with @register_adapter",
    group=ENTRY_POINT_GROUP,
    register=lambda name, function: register_adapter(name)(function),
)


def register_adapter(
    name: str,
    *,
    columns: Iterable[str] | None = None,
    matches: Callable[[Row], bool] | None = None,
    optional: Iterable[str] | None = None,
    ignored: Iterable[str] = (),
    overwrite: bool = False,
) -> Callable[[Callable], Callable]:
    """Decorator: `function` is the adapter called `name`, and stays as it is.

    Args:
        columns, matches, optional, ignored: as `Adapter` has them. A column with a part of the prompt in it that the
            adapter neither reads nor has in `ignored` stops the run.

    A function defined again (a notebook cell that runs twice) replaces itself; another function needs `overwrite`.
    """

    def register(function: Callable) -> Callable:
        needed = None if columns is None else tuple(columns)
        more = None if optional is None else tuple(optional)
        ADAPTERS.add(name, Adapter(name, function, needed, matches, more, tuple(ignored)), overwrite=overwrite)
        return function

    return register


def get_adapter(name: str) -> Adapter:
    """The adapter called `name`, or of a Python file ("my_format.py:my_format"); or a ValueError with the nearest name.

    >>> get_adapter("ultrafeedbck")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: unknown adapter 'ultrafeedbck'. Known, the nearest first: ultrafeedback, ...
    """
    known = name in ADAPTERS or name in ADAPTERS.broken
    return _of_file(name) if not known and python_file.is_place(name) else ADAPTERS.find(name)


def _of_file(place: str) -> Adapter:
    """What a file registers keeps its columns; a plain function is used by name alone."""
    module, name = python_file.module_of(place)
    function = getattr(module, name, None)
    for adapter in ADAPTERS.values():
        of_file = getattr(adapter.function, "__module__", None) == module.__name__
        if of_file and (adapter.function is function or (function is None and adapter.name == name)):
            return adapter
    if not callable(function):
        names = ", ".join(python_file.functions_of(module)) or "none"
        raise ValueError(f"adapter '{place}': the file has no function '{name}'. Its functions: {names}")
    return Adapter(place, function)


def detect_adapter(columns: Iterable[str], first_row: Row) -> Adapter:
    """The format that reads most of what the row holds; of several the most specific: it needs most columns, then it
    looked at the row, then it was registered last. A row in one of TRL's own formats is read as such; a format that
    cannot read the row stands behind one that can.

    >>> detect_adapter(["prompt", "chosen", "rejected"], {"prompt": "Hi", "chosen": "Hello", "rejected": "No"}).name
    'preference'
    >>> hh = {"chosen": "\\n\\nHuman: Hi\\n\\nAssistant: Hello", "rejected": "\\n\\nHuman: Hi\\n\\nAssistant: No"}
    >>> detect_adapter(["chosen", "rejected"], hh).name
    'hh_rlhf'
    """
    columns = list(columns)
    fitting = [
        (len(reads), len(adapter.columns), adapter.matches is not None, order, adapter, reads)
        for order, adapter in enumerate(fitting_adapters(first_row, columns))
        for reads in [adapter.reads(first_row)]
    ]
    if not fitting:
        raise ValueError(_nothing_fits(columns))
    for own in TRL_COLUMNS:
        if _filled(first_row, own):
            fitting = [candidate for candidate in fitting if candidate[5].issuperset(own)] or fitting
    fitting = [candidate for candidate in fitting if not candidate[4].fails(first_row)] or fitting
    return max(fitting, key=lambda candidate: candidate[:4])[4]


def _filled(row: Row, columns: Iterable[str]) -> bool:
    return all(row.get(column) not in (None, "", []) for column in columns)


def fitting_adapters(row: Row, columns: Iterable[str] | None = None) -> list[Adapter]:
    """All formats that a row may be of, in the order of registration.

    >>> [adapter.name for adapter in fitting_adapters({"input": "2+2?", "chosen": "4", "rejected": "5"})]
    ['preference', 'bradley_terry.chat_template']
    """
    columns = list(row if columns is None else columns)
    return [
        adapter
        for adapter in ADAPTERS.values()
        if adapter.has_columns(columns) and (adapter.matches is None or adapter.matches(row))
    ]


def adapter_names() -> list[str]:
    """All names, sorted, with those of installed third parties."""
    return sorted(ADAPTERS)


def rename_names(columns: Iterable[str], column_mapping: Mapping[str, str] | None) -> list[str]:
    """The columns of a data set after `column_mapping`, {expected name: column of the data}.

    >>> rename_names(["question", "chosen", "rejected"], {"input": "question"})
    ['chosen', 'rejected', 'input']
    """
    columns, mapping = list(columns), dict(column_mapping or {})
    for expected, column in mapping.items():
        if column not in columns:
            raise ValueError(
                f"column_mapping reads '{expected}' from column '{column}', which is not there; found {columns}. "
                "It maps {expected name: column of the data}"
            )
    return [name for name in columns if name not in mapping and name not in mapping.values()] + list(mapping)


def rename_columns(row: Row, column_mapping: Mapping[str, str] | None) -> Row:
    """The row after `column_mapping`, {expected name: column of the data}.

    >>> rename_columns({"question": "1+1?", "chosen": "2", "rejected": "3"}, {"input": "question"})
    {'chosen': '2', 'rejected': '3', 'input': '1+1?'}
    """
    mapping = column_mapping or {}
    return {name: row[mapping.get(name, name)] for name in rename_names(row, mapping)}


def _nothing_fits(columns: list[str]) -> str:
    lines = [f"no known format fits the columns {columns}. Known formats:"]
    for name, adapter in sorted(ADAPTERS.items()):
        if adapter.columns is not None:
            why = " (the columns fit, the first row does not)" if adapter.has_columns(columns) else ""
            lines.append(f"  {name}: {', '.join(adapter.columns)}{why}")
    by_name = ", ".join(name for name, adapter in sorted(ADAPTERS.items()) if adapter.columns is None)
    lines.append(f"By name only: {by_name}")
    lines += ADAPTERS.broken.values()
    lines.append(
        "Rename with column_mapping={expected name: column of the data}, name the format, or @register_adapter."
    )
    return "\n".join(lines)
