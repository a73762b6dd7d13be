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

An entry has the names of TRL's `DatasetConfig` (but `data_dir` and `fraction`) and more: see
`hf_rewardplug.data.entries.DataEntry`.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_type_hints

from ..checks import nearest
from ..data.entries import DataEntry, load_entry, parts_of
from ..data.files import at_most
from ..data.mixing import Part, equal_share, mixed, mixed_and_held_out

_KINDS = get_type_hints(DataEntry)


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
    most = arguments.max_eval_rows
    with args.main_process_first(desc="mixing the data sets"):
        parts = _load(entries, "datasets", arguments.dataset_train_split, arguments, args.seed)
        if not eval_entries:
            train, held_out = mixed_and_held_out(parts, test_size=arguments.test_size, max_eval_rows=most, **how)
        else:
            train = mixed(parts, shuffle=True, **how)
            eval_parts = _load(eval_entries, "eval_datasets", arguments.dataset_test_split, arguments, args.seed)
            most = equal_share(most, len(eval_parts))
            eval_parts = [replace(part, dataset=at_most(part.dataset, most)) for part in eval_parts]
            held_out = mixed(eval_parts, seed=args.seed, **reading)
    return at_most(train, arguments.max_train_rows), held_out


def read_entries(listed: Sequence[str | dict] | None, option: str) -> list[DataEntry]:
    """The entries of the list `option`, each a mapping, JSON of one, or a path.

    >>> read_entries(["pairs.jsonl", '{"path": "sums.jsonl", "weight": 2}'], "datasets")[1].weight
    2
    >>> read_entries([{"path": "pairs.jsonl", "wieght": 2}], "datasets")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: `datasets`, entry 1: 'wieght' is unknown; do you mean 'weight'? Known: path, name, ...
    """
    if listed is None:
        return []
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"`{option}` is {listed!r}; expected a list of entries, such as [{{path: pairs.jsonl}}].")
    entries = []
    for number, entry in enumerate(listed, 1):
        try:
            if isinstance(entry, str):
                entry = json.loads(entry) if entry.lstrip().startswith("{") else {"path": entry}
            _check(entry)
            entries.append(DataEntry(**entry))
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
    for name in ("max_rows", "shards"):
        if entry.get(name) is not None and entry[name] < 1:
            raise ValueError(f"{name}={entry[name]}; expected 1 or more. Leave out an entry without rows.")


def _load(entries: list[DataEntry], option: str, split: str, arguments, seed: int) -> list[Part]:
    rows = []
    for number, entry in enumerate(entries, 1):
        try:
            rows.append(load_entry(entry, split=split, streaming=arguments.dataset_streaming, seed=seed))
        except ValueError as error:
            raise ValueError(f"`{option}`, entry {number}: {error}") from error
    return parts_of(entries, rows)
