"""A scorer and a benchmark's name, or data -> `Result`.

name, hub id, file, data set or list  ->  prepare  ->  the benchmark and its rows  ->  run  ->  Result
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_rewardplug.data.adapters import rename_columns

from .examples import file_names
from .registry import BENCHMARKS, Benchmark, Result, Rows, detect_benchmark, get_benchmark


def evaluate(
    scorer: Any,
    name_or_data: Any,
    *,
    data: Any = None,
    split: str | None = None,
    max_rows: int | None = None,
    column_mapping: Mapping[str, str] | None = None,
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
        data: a hub id, a file that training reads, a folder of them or of folders of them, a `datasets` data set, or a
            list of rows.
        split: of a hub data set, where it is not the benchmark's own.
        max_rows: so many rows, spread evenly over the data (of a stream: the first), since data are sorted by subset.
        column_mapping: {column that the benchmark expects: column of the data}.
        options: the benchmark's own.

    Raises:
        ValueError: an unknown name or option, data that cannot be read, columns that are missing, or a bad row, by its
            number.
    """
    wanted = {"data": data, "split": split, "max_rows": max_rows, "column_mapping": column_mapping}
    benchmark, rows = prepare(name_or_data, **wanted)
    _check_options(benchmark, options)
    return benchmark.run(scorer, rows, **options)


def prepare(
    name_or_data: Any,
    *,
    data: Any = None,
    split: str | None = None,
    max_rows: int | None = None,
    column_mapping: Mapping[str, str] | None = None,
) -> tuple[Benchmark, Rows]:
    """The benchmark and its rows, for one or many runs. Arguments and errors are those of `evaluate`.

    >>> rows = [{"prompt": "1+1?", "chosen": "2", "rejected": str(wrong)} for wrong in range(3, 9)]
    >>> benchmark, rows = prepare(rows, max_rows=2)
    >>> benchmark.name, rows.numbers
    ('preference', [0, 3])
    """
    benchmark = None
    if data is None and isinstance(name_or_data, str) and not Path(name_or_data).exists():
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
    if column_mapping:
        rows = Rows([rename_columns(row, column_mapping) for row in rows], rows.numbers, files=rows.files)
    return benchmark or detect_benchmark(list(rows[0]), rows[0]), rows


def _check_options(benchmark: Benchmark, options: Mapping[str, Any]) -> None:
    known = list(inspect.signature(benchmark.run).parameters.values())[2:]  # behind scorer and rows
    names = {one.name: one.default for one in known}
    for name, value in options.items():
        if name not in names and not any(one.kind is one.VAR_KEYWORD for one in known):
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
    from hf_rewardplug.data.formats import BrokenFile, bare_name, read_files

    inside = [file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file()]
    inside = [file for file in inside if not any(part.startswith(".") for part in file.parts)]
    inside = [str(file) for file in inside if len(file.parts) == 1] or [str(file) for file in inside]
    rows, names = [], []
    for file, row in read_files(local_files(path, inside or None)):
        if row.error is not None:
            raise BrokenFile(file, f"{row.error}.", row.line)
        rows.append(row.row)
        names.append(bare_name(file))
    return Rows(rows, files=names)


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
    if max_rows is not None and (isinstance(max_rows, bool) or not isinstance(max_rows, int) or max_rows < 1):
        raise ValueError(f"max_rows={max_rows!r} is no number of rows. Give 1 or more, or None for all.")
    if isinstance(data, Mapping):
        raise ValueError(f"the data are a mapping of {sorted(data, key=str)}, not rows. Choose one of its splits.")
    if hasattr(data, "with_format"):
        data = data.with_format(None)  # lists and numbers, no tensors
    if not hasattr(data, "__len__"):
        return Rows(row for row, _ in zip(data, range(max_rows or 10**12), strict=False))
    numbers = range(len(data))
    if max_rows is not None and max_rows < len(data):
        numbers = [index * len(data) // max_rows for index in range(max_rows)]
    names = file_names(data)
    return Rows((data[number] for number in numbers), numbers, files=[names[number] for number in numbers])
