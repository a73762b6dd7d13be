"""A scorer and a benchmark's name, or data -> `Result`.

name, hub id, file, data set or list  ->  prepare  ->  the benchmark and its rows  ->  run  ->  Result
"""

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_rewardplug.checks import RefusedRows, check_choice, is_whole
from hf_rewardplug.data.adapters import get_adapter, rename_columns
from hf_rewardplug.data.columns import check_ignored, unread_columns
from hf_rewardplug.data.origin import Origin
from hf_rewardplug.data.pipeline import ON_BAD_ROW, adapter_of
from hf_rewardplug.data.raw import plain_rows

from .examples import file_names
from .registry import BENCHMARKS, Benchmark, Result, Rows, benchmark_of_format, detect_benchmark, get_benchmark

logger = logging.getLogger(__name__)

_OF_FORMATS = ("preference", "steps")  # benchmarks that read their rows by adapters
_PROBED = 100  # rows among which a named format must be able to read one


def evaluate(
    scorer: Any,
    name_or_data: Any,
    *,
    data: Any = None,
    split: str | None = None,
    max_rows: int | None = None,
    adapter: str | None = None,
    column_mapping: Mapping[str, str] | None = None,
    ignore_columns: Sequence[str] | None = None,
    on_bad_row: str = "error",
    **options: Any,
) -> Result:
    """Run a benchmark: by name on its own data or on `data`, or the one that the data's columns tell.

        evaluate(scorer, "rewardbench")                         its data from the hub
        evaluate(scorer, "rewardbench", data="copy.parquet")    the same from here
        evaluate(scorer, "pairs.jsonl")                         found from the columns
        evaluate(scorer, "allenai/reward-bench")                a benchmark's own data are its name

    Args:
        scorer: has `score(prompts, completions)`.
        name_or_data: a benchmark's name, or data (then the benchmark is detected).
        data: a hub id; a json, jsonl, csv, parquet or arrow file, gzipped or not, or a folder of them; a data set of
            `datasets`; or a list of rows.
        split: of a hub data set, where it is not the benchmark's own.
        max_rows: so many rows, spread evenly over the data (of a stream: the first), since data are sorted by subset.
        adapter: format of the rows, by name or as "my_format.py:my_format", for `preference` and `steps`, which read
            every format that training reads; found from the columns when None.
        column_mapping: {column that the benchmark or the format expects: column of the data}.
        ignore_columns: columns that are not to be read, though they look like parts of the prompt.
        on_bad_row: what becomes of a row that the format, the checks or the chat template refuses: "error", or "drop":
            the figures are those of the other rows, and `Result.refused` names it.
        options: the benchmark's own.

    Raises:
        RefusedRows: a bad row, by its number. ValueError: an unknown name or option, data that cannot be read, columns
            that are missing or that look like parts of the prompt and are not read, or every row is refused.
    """
    wanted = {"data": data, "split": split, "max_rows": max_rows, "column_mapping": column_mapping}
    benchmark, rows = prepare(name_or_data, adapter=adapter, ignore_columns=ignore_columns, **wanted)
    if adapter is not None:
        options = {"adapter": adapter, **options}
    return run(benchmark, scorer, rows, on_bad_row=on_bad_row, **options)


def run(benchmark: Benchmark, scorer: Any, rows: Rows, *, on_bad_row: str = "error", **options: Any) -> Result:
    """`benchmark.run`, over the rows that are not refused. Arguments and errors are those of `evaluate`."""
    check_choice("on_bad_row", on_bad_row, ON_BAD_ROW)
    _check_options(benchmark, options)
    kept, refused = rows, {}
    while True:
        try:
            result = benchmark.run(scorer, kept, **options)
            break
        except RefusedRows as error:
            named = {rows.called(place): of_row for place, of_row in error.refused.items()}
            if on_bad_row == "error":
                raise RefusedRows(error.name, named) from error.__cause__
            refused |= named
            kept = kept.without(error.refused)
            if not kept:
                place, first = next(iter(refused.items()))
                raise ValueError(
                    f"benchmark '{error.name}': every row was refused. The first, {place}: {first.what}. Name the "
                    "format (adapter=...), or map columns (column_mapping={expected: yours})."
                ) from error
    result = replace(result, unread=rows.unread)
    if not refused:
        return result
    reasons: dict[str, list[str]] = {}
    for place, error in refused.items():
        reasons.setdefault(error.general, []).append(place)
    return replace(result, figures={**result.figures, "refused": len(refused)}, refused=reasons)


def prepare(
    name_or_data: Any,
    *,
    data: Any = None,
    split: str | None = None,
    max_rows: int | None = None,
    adapter: str | None = None,
    column_mapping: Mapping[str, str] | None = None,
    ignore_columns: Sequence[str] | None = None,
) -> tuple[Benchmark, Rows]:
    """The benchmark and its rows, for one or many runs. Arguments and errors are those of `evaluate`.

    >>> rows = [{"prompt": "1+1?", "chosen": "2", "rejected": str(wrong)} for wrong in range(3, 9)]
    >>> benchmark, rows = prepare(rows, max_rows=2)
    >>> benchmark.name, rows.numbers
    ('preference', [0, 3])
    """
    benchmark = None
    if isinstance(name_or_data, str) and not Path(name_or_data).exists():
        name_or_data = next((known.name for known in BENCHMARKS.values() if known.hub == name_or_data), name_or_data)
    if isinstance(name_or_data, str) and (data is not None or not _is_data(name_or_data)):
        benchmark = get_benchmark(name_or_data)
    elif data is not None:
        raise ValueError(f"data are given twice: {name_or_data!r:.80} and {data!r:.80}. Give a benchmark's name first.")
    else:
        data = name_or_data
    rows = _sample(_ungrouped(_load(benchmark, data, split)), max_rows)
    if not rows:
        raise ValueError(f"the data {data!r:.80} have no rows. Give some.")
    if ignored := check_ignored(ignore_columns, dict.fromkeys(name for row in rows for name in row)):
        rows = rows.changed(lambda row: {name: value for name, value in row.items() if name not in ignored})
    raw, of_mapping = rows, column_mapping or {}
    if column_mapping:
        rows = rows.changed(lambda row: rename_columns(row, column_mapping))
    benchmark = benchmark or _detected(rows, adapter)
    rows.unread = _unread(benchmark, raw, rows, adapter, column_mapping=of_mapping, ignored=ignored)
    return benchmark, rows


def _unread(benchmark: Benchmark, raw: Rows, rows: Rows, adapter: str | None, **columns: Any) -> str:
    """Which columns the format of the rows does not read, told once.

    Raises:
        ValueError: one of them looks like a part of the prompt.
    """
    if benchmark.name in _OF_FORMATS:
        try:
            chosen = adapter_of(rows, adapter, None)
        except ValueError:  # which the benchmark will say
            return ""
    else:
        formats = [known.format for known in BENCHMARKS.values() if known.run is benchmark.run and known.format]
        chosen = next((form for form in formats if form.has_columns(rows[0])), None)
        if chosen is None:  # published data, whose columns are known
            return ""
    unread = unread_columns(chosen, raw, **columns)
    if unread:
        logger.warning("%s: %s", benchmark.name, unread)
    return str(unread)


def _detected(rows: Rows, adapter: str | None) -> Benchmark:
    """The benchmark of the first row; of a named format the one that rates it, by the first row that it can read."""
    if adapter is None:
        return detect_benchmark(list(rows[0]), rows[0])
    chosen = get_adapter(adapter)
    name = next(filter(None, (benchmark_of_format(row, chosen) for row in rows[:_PROBED])), None)
    if name is None:
        raise ValueError(
            f"adapter '{adapter}' reads none of the first rows as pairs, ranked lists or steps, which benchmarks rate. "
            "Name the benchmark, or another adapter."
        )
    return BENCHMARKS[name]


def _check_options(benchmark: Benchmark, options: Mapping[str, Any]) -> None:
    known = list(inspect.signature(benchmark.run).parameters.values())[2:]  # behind scorer and rows
    names = {option.name: option.default for option in known}
    for name, value in options.items():
        if name not in names and not any(option.kind is option.VAR_KEYWORD for option in known):
            has = f"it has {', '.join(names)}" if names else "it has none"
            raise ValueError(f"benchmark '{benchmark.name}' has no option '{name}'; {has}. Leave it out or rename it.")
        if isinstance(names.get(name), bool) and not isinstance(value, bool):
            raise ValueError(f"benchmark '{benchmark.name}': {name}={value!r} is neither True nor False. Give one.")


def _is_data(name: str) -> bool:
    return name not in BENCHMARKS and ("/" in name or Path(name).exists())


def _load(benchmark: Benchmark | None, data: Any, split: str | None) -> Any:
    config = None
    if data is None:
        if benchmark.hub is None:
            raise ValueError(f"benchmark '{benchmark.name}' has no data of its own. Give it some: data='pairs.jsonl'.")
        data, config = benchmark.hub, benchmark.config
    if isinstance(data, str | Path):
        from hf_rewardplug.data.files import is_saved, load_split

        if Path(data).exists() and not is_saved(data) and "[" not in (split or ""):
            return _rows_of_files(Path(data))
        return load_split(str(data), split or (benchmark.split if benchmark else "test"), config=config)
    return data


def _rows_of_files(path: Path) -> Rows:
    """As the files hold them: a table would fill columns up, and refuse one that is text here and a list there."""
    from hf_rewardplug.data.files import local_files
    from hf_rewardplug.data.formats import read_files
    from hf_rewardplug.data.formats.file_rows import BrokenFile, bare_name

    inside = [file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file()]
    inside = [file for file in inside if not any(part.startswith(".") for part in file.parts)]
    inside = [str(file) for file in inside if len(file.parts) == 1] or [str(file) for file in inside]
    files, rows, bare, names = local_files(path, inside or None), [], [], {}
    for file, row in read_files(files):
        if row.error is not None:
            raise BrokenFile(file, f"{row.error}.", row.line)
        if len(files) > 1:
            names[len(rows)] = f"row {row.number} of {file.name}"
        rows.append(row.row)
        bare.append(bare_name(file))
    return Rows(rows, files=bare, names=names)


def _ungrouped(data: Any) -> Any:
    """The rows themselves, where the data are objects {key: rows with that key}, as Mr-Ben's files are.

    >>> _ungrouped([{"5972e0f6": [{"input": "b a", "steps": ["a b"], "mistake_index": None}]}])
    [{'input': 'b a', 'steps': ['a b'], 'mistake_index': None}]
    >>> _ungrouped([{"chosen": [{"role": "user", "content": "Hi"}]}])
    [{'chosen': [{'role': 'user', 'content': 'Hi'}]}]
    """
    if not isinstance(data, list) or not data or not _is_grouped(data[0]):
        return data
    firsts = (group[0] for grouped in data if _is_grouped(grouped) for group in grouped.values() if group)
    if not any(known.fits(first, first) for first in firsts for known in BENCHMARKS.values()):
        return data
    named = [
        (row, name)
        for grouped, name in zip(data, file_names(data), strict=True)
        for group in grouped.values()
        for row in group or ()
    ]
    return Rows([row for row, _ in named], files=[name for _, name in named])


def _is_grouped(row: Any) -> bool:
    """Whether each value is a list of dicts, or None where another row has the key."""
    groups = [group for group in row.values() if group is not None] if isinstance(row, Mapping) else []
    return bool(groups) and all(isinstance(group, list) and all(isinstance(e, dict) for e in group) for group in groups)


def _sample(data: Any, max_rows: int | None) -> Rows:
    """So many rows at even distances, the first one with them.

    >>> _sample(list("abcdef"), 3)
    ['a', 'c', 'e']
    """
    if max_rows is not None and not is_whole(max_rows, 1):
        raise ValueError(f"max_rows={max_rows!r} is no number of rows. Give 1 or more, or None for all.")
    if isinstance(data, Mapping):
        raise ValueError(f"the data are a mapping of {sorted(data, key=str)}, not rows. Choose one of its splits.")
    numbers, names = getattr(data, "numbers", None), getattr(data, "names", {})
    if hasattr(data, "with_format"):
        data = plain_rows(data)
        if hasattr(data, "__len__"):
            origin = Origin.of(data)
            numbers, called = origin.file_numbers, map(origin.name, range(len(data)))
            names = {} if numbers is not None else {place: name for place, name in enumerate(called) if name}
    if not hasattr(data, "__len__"):
        return Rows(row for row, _ in zip(data, range(max_rows or 10**12), strict=False))
    places, files = range(len(data)), file_names(data)
    if max_rows is not None and max_rows < len(data):
        places = [index * len(data) // max_rows for index in range(max_rows)]
    numbers = places if numbers is None else [int(numbers[place]) for place in places]
    return Rows((data[place] for place in places), numbers, files=[files[place] for place in places], names=names)
