"""Names -> benchmarks: in goes a name, or the columns and the first row of data; out comes the benchmark.

Registration is all that happens at import. A benchmark's function reads its rows with `read_rows`, gets their scores
with one `scored`, and returns a `Result`:

    @register_benchmark("my_bench", kind="orm", columns=["question", "good", "bad"], source="my paper")
    def my_bench(scorer, rows): ...
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_rewardplug.checks import RefusedRows, RowError
from hf_rewardplug.data.adapters import Adapter, detect_adapter
from hf_rewardplug.data.expansion import row_type
from hf_rewardplug.registry import Registry

Row = dict[str, Any]

_OF_STEPS = {"steps", "labels", "label", "nodes", "outcome"}
"""columns by which a row of steps is known that its adapter cannot read"""


@dataclass(frozen=True)
class Result:
    """What one benchmark gave.

    Attributes:
        name: the benchmark.
        figures: flat: "accuracy", "accuracy/Chat", ..., and the counts "n", "n/Chat".
        items: one an example, JSON-able: prompt, completions, scores, right (bool or float), subset.
        refused: what is wrong with rows -> their names ("row 7"), which `on_bad_row="drop"` passed over.
        unread: which columns nobody read, in words.
    """

    name: str
    figures: dict[str, float]
    items: list[dict]
    refused: dict[str, list[str]] = field(default_factory=dict)
    unread: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A registered benchmark.

    Attributes:
        run: (scorer, rows, **options) -> Result.
        kind: the models it is for, "orm" or "prm".
        hub, config, split: its data on the hub (None: it has none of its own).
        columns: what its rows must have, and what it is detected from.
        matches: a look at the first row, where columns do not tell benchmarks apart.
        detected: False where it is used by name only.
        by_row: True where its columns tell it only together with `matches`, so that columns without a row do not.
        source: paper and code.
        format: what reads the rows where they are a user's own; columns beside it are told, or an error.
    """

    name: str
    run: Callable[..., Result]
    kind: str
    hub: str | None
    split: str
    columns: tuple[str, ...]
    source: str
    config: str | None = None
    matches: Callable[[Row], bool] | None = None
    detected: bool = True
    by_row: bool = False
    format: Adapter | None = None

    def fits(self, columns: Iterable[str], first_row: Row | None) -> bool:
        if not self.detected or not set(self.columns) <= set(columns):
            return False
        return not self.by_row if first_row is None else self.matches is None or self.matches(first_row)


BENCHMARKS: Registry[Benchmark] = Registry(  # detection prefers the last one registered
    "benchmark", function="run", remedy="Or give a file or a hub id."
)


def register_benchmark(
    name: str,
    *,
    kind: str,
    columns: Iterable[str],
    source: str,
    hub: str | None = None,
    split: str = "test",
    config: str | None = None,
    matches: Callable[[Row], bool] | None = None,
    detected: bool = True,
    by_row: bool = False,
    format: Adapter | None = None,
    overwrite: bool = False,
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Decorator: `function(scorer, rows, **options) -> Result` is the benchmark called `name`, and stays as it is.

    A name that another function has is an error, unless `overwrite` is set.
    """
    if kind not in ("orm", "prm"):
        raise ValueError(f"benchmark '{name}' has kind {kind!r}. Expected 'orm' or 'prm'.")
    rest = {"columns": tuple(columns), "source": source, "config": config, "matches": matches}
    rest |= {"detected": detected, "by_row": by_row, "format": format}

    def register(function: Callable[..., Result]) -> Callable[..., Result]:
        BENCHMARKS.add(name, Benchmark(name, function, kind, hub, split, **rest), overwrite=overwrite)
        return function

    return register


def get_benchmark(name: str) -> Benchmark:
    """The benchmark called `name`, or a ValueError that begins with the nearest name.

    >>> get_benchmark("reward-bench")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: unknown benchmark 'reward-bench'. Known, the nearest first: rewardbench, ...
    """
    return BENCHMARKS.find(name)


def detect_benchmark(columns: Iterable[str], first_row: Row | None = None) -> Benchmark:
    """The most specific benchmark that fits: most columns, then one that looked at the row, then the last registered.

    What no benchmark fits and an adapter reads as pairs is `preference`, as steps `steps`.

    >>> detect_benchmark(["question", "response_A", "response_B", "label", "source"]).name
    'judge_bench'
    >>> detect_benchmark(["prompt", "chosen", "rejected"]).name
    'preference'
    """
    columns = list(columns)
    fitting = [
        (len(benchmark.columns), benchmark.matches is not None, order, benchmark)
        for order, benchmark in enumerate(BENCHMARKS.values())
        if benchmark.fits(columns, first_row)
    ]
    if fitting:
        return max(fitting, key=lambda candidate: candidate[:3])[3]
    if first_row is not None and (name := benchmark_of_format(first_row)):
        return BENCHMARKS[name]
    lines = [f"no benchmark fits the columns {columns}. Known ones:"]
    lines += [f"  {name}: {', '.join(known.columns) or 'by name'}" for name, known in sorted(BENCHMARKS.items())]
    raise ValueError("\n".join([*lines, "Name the benchmark, or map columns: column_mapping={expected: yours}."]))


class Rows(list):
    """Raw rows, and the number that each has in its data: `max_rows` leaves some out.

    Attributes:
        numbers: of each row, from 0; of a file, those of the file.
        files: the name of each row's file without folder and suffix, where the rows are from files: some benchmarks'
            own files tell a part of the benchmark by their name alone.
        names: number -> what the row is called where its number does not say it: "row 3 of b.jsonl".
        unread: which columns nobody reads, in words.

    >>> Rows(["a", "c"], numbers=[0, 2]).numbers
    [0, 2]
    """

    def __init__(
        self,
        rows: Iterable[Row],
        numbers: Iterable[int] | None = None,
        *,
        files: Iterable[str] | None = None,
        names: Mapping[int, str] | None = None,
    ):
        super().__init__(rows)
        self.numbers = list(range(len(self)) if numbers is None else numbers)
        self.files = [""] * len(self) if files is None else list(files)
        self.names = dict(names or {})
        self.unread = ""

    def without(self, places: Iterable[str]) -> "Rows":
        """The rows but those called so, by `places_of`."""
        left_out = {*places}
        kept = [index for index, place in enumerate(places_of(self)) if place not in left_out]
        numbers, files = ([of[index] for index in kept] for of in (self.numbers, self.files))
        return Rows([self[index] for index in kept], numbers, files=files, names=self.names)

    def changed(self, change: Callable[[Row], Row]) -> "Rows":
        """Each row as `change` makes it."""
        return Rows(map(change, self), self.numbers, files=self.files, names=self.names)

    def called(self, place: str) -> str:
        """What users call a row that `places_of` calls by its number.

        >>> Rows(["a"], numbers=[5], names={5: "row 3 of b.jsonl"}).called("row 5")
        'row 3 of b.jsonl'
        """
        return next((name for number, name in self.names.items() if place == f"row {number}"), place)


def numbers_of(rows: Sequence[Row]) -> Sequence[int]:
    """The number of each row in its data; a plain list is counted from 0.

    >>> list(numbers_of(["a", "c"]))
    [0, 1]
    """
    return getattr(rows, "numbers", range(len(rows)))


def places_of(rows: Sequence[Row]) -> list[str]:
    """What errors call each row, by its number.

    >>> places_of(Rows(["a", "c"], numbers=[0, 2]))
    ['row 0', 'row 2']
    """
    return [f"row {number}" for number in numbers_of(rows)]


def read_rows(
    name: str, rows: Sequence[Row], read: Callable[[Row], Any], *, columns: Iterable[str] | None = None
) -> list:
    """`read` of every row, after a look at the benchmark's columns; what `read` finds wrong gets the row's number.

    Raises:
        RefusedRows: columns are missing, or `read` finds something wrong.

    >>> read_rows("judge_bench", [{"question": "1+1?", "label": "A>B", "source": "mmlu-pro-math"}], dict)
    Traceback (most recent call last):
    hf_rewardplug.checks.RefusedRows: benchmark 'judge_bench', row 0: columns ['response_A', \
'response_B'] are missing; found ['label', 'question', 'source']. Map them: column_mapping={expected: yours}.
    """
    if columns is None:
        columns = BENCHMARKS[name].columns if name in BENCHMARKS else ()
    columns, values, refused, first = list(columns), [], {}, None
    for place, row in zip(places_of(rows), rows, strict=True):
        if missing := [column for column in columns if column not in row]:
            remedy = "Map them: column_mapping={expected: yours}"
            refused[place] = RowError(f"columns {missing} are missing; found {sorted(row, key=str)}. {remedy}")
            continue
        try:
            values.append(read(row))
        except Exception as error:  # a third party's adapter can fail in any way; the user must learn at which row
            refused[place], first = RowError.of(error), first or error
    if refused:
        raise RefusedRows(name, refused) from first
    if not values:
        raise ValueError(f"benchmark '{name}': there are no rows. Give some.")
    return values


def benchmark_of_format(row: Row, adapter: Adapter | None = None) -> str | None:
    """ "preference" or "steps": what rates rows of the format that `adapter`, or the one found, reads; None for others.

    >>> benchmark_of_format({"chosen": "4", "rejected": "5"}), benchmark_of_format({"text": "4"})
    ('preference', None)
    """
    if adapter is None:
        try:
            adapter = detect_adapter(list(row), row)
        except ValueError:
            return None
    try:
        kinds = {row_type(canonical) for canonical in adapter(row)}
    except Exception:  # a third party's adapter can fail in any way; the benchmark will say what is wrong with the row
        return "steps" if _OF_STEPS & row.keys() else "preference"
    if kinds <= {"preference", "ranked"}:
        return "preference"
    return "steps" if kinds <= {"stepwise", "step_tree", "outcome"} else None
