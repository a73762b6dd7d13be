"""A recipe's lists of data sets to a mixture to train on and held-out rows.

In: `datasets` and `eval_datasets` of a YAML file (or of the command line, an entry a JSON object or a path). Out: two
data sets of `hf_rewardplug.data.mixing`.

    datasets:
      - path: hh_harmless/train.jsonl      # hub id, file or folder
        subset: harmless                   # its name in the figures: eval_subset_harmless_accuracy
        weight: 3
      - path: openbmb/UltraFeedback
        weight: 1
      - path: orca.parquet
        weight: 1
        column_mapping: {input: question}
    stopping_strategy: all_exhausted

An entry has the names of TRL's `DatasetConfig` (but `data_dir` and `fraction`) and more, all told in `Entry`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from ..checks import nearest
from ..data.files import at_most, load_split
from ..data.formats.file_rows import FILE_NAME, FILE_ROW, bare_name
from ..data.mixing import Part, equal_share, mixed, mixed_and_held_out


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One data set of a list.

    Args:
        path: hub id, a json, jsonl, csv, parquet or arrow file (gzipped or not), or a folder of one kind of them.
        name, data_files, split: as `datasets.load_dataset` takes them; without `split` the recipe's own
            (`dataset_train_split`, `dataset_test_split`).
        columns: columns to keep. A part with margins cannot be mixed with one without: leave the column out here.
        adapter, column_mapping, ignore_columns: format of its rows, as in the trainer's config.
        subset: its name in the evaluation figures; the name of the file, folder or data set when None.
        weight: its share of the rows drawn, relative to the others'; for all entries or for none.
        max_rows: use its first so many rows at most.
    """

    path: str
    name: str | None = None
    data_files: str | list | dict | None = None
    split: str | None = None
    columns: list | None = None
    adapter: str | None = None
    column_mapping: dict | None = None
    ignore_columns: list | None = None
    subset: str | None = None
    weight: int | float | None = None
    max_rows: int | None = None


_KINDS = get_type_hints(Entry)


def load_mixture(arguments, args) -> tuple:
    """Train and held-out rows of `arguments.datasets` and `eval_datasets`.

    Args:
        arguments: `RecipeArguments`. args: the trainer's config.

    Raises:
        ValueError: an entry that cannot be read or used, with the list and its place there.
    """
    for option in ("adapter", "column_mapping", "ignore_columns"):
        if getattr(args, option) is not None:
            raise ValueError(f"`{option}` is set beside `datasets`, whose formats may differ. Set it in the entries.")
    entries = read_entries(arguments.datasets, "datasets")
    eval_entries = read_entries(arguments.eval_datasets, "eval_datasets")
    if any(entry.weight is not None for entry in eval_entries):
        raise ValueError("`eval_datasets` are evaluated whole, each row once. Leave `weight` out there.")
    reading = {"num_proc": args.dataset_num_proc, "on_bad_row": args.on_bad_row}
    how = {"seed": args.seed, "stopping_strategy": arguments.stopping_strategy, **reading}
    streaming, most = arguments.dataset_streaming, arguments.max_eval_rows
    with args.main_process_first(desc="mixing the data sets"):
        parts = _load(entries, "datasets", arguments.dataset_train_split, streaming)
        if not eval_entries:
            train, held_out = mixed_and_held_out(parts, test_size=arguments.test_size, max_eval_rows=most, **how)
        else:
            train = mixed(parts, shuffle=True, **how)
            eval_parts = _load(eval_entries, "eval_datasets", arguments.dataset_test_split, streaming)
            most = equal_share(most, len(eval_parts))
            eval_parts = [replace(part, dataset=at_most(part.dataset, most)) for part in eval_parts]
            held_out = mixed(eval_parts, seed=args.seed, **reading)
    return at_most(train, arguments.max_train_rows), held_out


def read_entries(given: Sequence[str | dict] | None, option: str) -> list[Entry]:
    """The entries of the list `option`, each a mapping, JSON of one, or a path.

    >>> read_entries(["pairs.jsonl", '{"path": "sums.jsonl", "weight": 2}'], "datasets")[1].weight
    2
    >>> read_entries([{"path": "pairs.jsonl", "wieght": 2}], "datasets")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: `datasets`, entry 1: 'wieght' is unknown; do you mean 'weight'? Known: path, name, ...
    """
    if given is None:
        return []
    if not isinstance(given, list) or not given:
        raise ValueError(f"`{option}` is {given!r}; expected a list of entries, such as [{{path: pairs.jsonl}}].")
    entries = []
    for number, entry in enumerate(given, 1):
        try:
            if isinstance(entry, str):
                entry = json.loads(entry) if entry.lstrip().startswith("{") else {"path": entry}
            _check(entry)
            entries.append(Entry(**entry))
        except ValueError as error:
            raise ValueError(f"`{option}`, entry {number}: {error}") from error
    return entries


def _check(entry: Any) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"found {entry!r}; expected a mapping such as {{path: pairs.jsonl, weight: 2}}, or a path.")
    if "fraction" in entry:
        raise ValueError("`fraction` is TRL's, which cuts each data set. Take `weight`: its share of the rows drawn.")
    for name in entry:
        if name not in _KINDS:
            raise ValueError(f"'{name}' is unknown; do you mean '{nearest(name, _KINDS)}'? Known: {', '.join(_KINDS)}.")
    if "path" not in entry:
        raise ValueError("`path` is missing: hub id, file or folder.")
    for name, value in entry.items():
        if isinstance(value, bool) or not isinstance(value, _KINDS[name]) or value in ("", [], {}):
            expected = getattr(_KINDS[name], "__name__", str(_KINDS[name]).removesuffix(" | None"))
            raise ValueError(f"{name}={value!r}; expected {expected}.")
    if entry.get("max_rows") is not None and entry["max_rows"] < 1:
        raise ValueError(f"max_rows={entry['max_rows']}; expected 1 or more. Leave out an entry without rows.")


def _load(entries: list[Entry], option: str, split: str, streaming: bool) -> list[Part]:
    parts = []
    for number, entry in enumerate(entries, 1):
        try:
            dataset = load_split(
                entry.path,
                entry.split or split,
                config=entry.name,
                data_files=entry.data_files,
                streaming=streaming,
                numbered=True,
            )
            if entry.columns is not None:
                numbers = [FILE_ROW, FILE_NAME] if dataset.column_names is None else []  # of a stream of files
                dataset = dataset.select_columns([*entry.columns, *numbers])
        except ValueError as error:
            raise ValueError(f"`{option}`, entry {number}: {error}") from error
        parts.append(
            Part(
                dataset=at_most(dataset, entry.max_rows),
                subset=entry.subset or subset_name(entry.path),
                adapter=entry.adapter,
                column_mapping=entry.column_mapping,
                ignore_columns=entry.ignore_columns,
                weight=entry.weight,
            )
        )
    return parts


def subset_name(path: str) -> str:
    """What a part is called that has no name.

    >>> [subset_name(path) for path in ("data/hh.jsonl", "nvidia/HelpSteer2", "argilla/pairs-v1.5")]
    ['hh', 'HelpSteer2', 'pairs-v1.5']
    """
    return bare_name(Path(path).resolve() if Path(path).exists() else path)
