"""The `datasets:` of an axolotl config: entries read and checked, their rows loaded, and some held out.

In: the entries as the YAML has them. Out: `DataEntry`s, the options of a run that axolotl has by data set (step
separators, limits), and two data sets of raw rows, which the trainers encode.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import datasets

from ...data.adapters import get_adapter
from ...data.files import hold_out, is_saved, load_split, local_files, of_saved
from ...data.formats.file_rows import FILE_FORMATS, BrokenFile, file_format
from ...data.formats.unpacked import linked_folder
from ...data.local import exact_names
from ...data.mixing import Part, mixed, mixed_and_held_out
from .keys import IGNORED_OF_DATA, REFUSED_OF_DATA, unknown_key
from .values import set_values

RUN_OPTIONS = {"step_separator": str, "max_completion_length": int, "train_on_last_step_only": bool}
"""options that axolotl has by data set and drops, and their types; a model has one of each"""

_AS_HERE = {"message_field_role": "role", "message_field_content": "content"}
"""values of refused keys that ask for nothing"""

_SPLIT = re.compile(r"(?<![a-z])(train|test|valid|val|dev|eval)")  # `datasets` tells a folder's splits by such names
_FIELDS = {"field_chosen": "chosen", "field_rejected": "rejected", "field_tools": "tools"}


@dataclass(frozen=True, kw_only=True)
class DataEntry:
    """One entry of `datasets:`; `adapter` is its `type`, the last four are this package's.

    Args:
        path, split, name, data_files, ds_type, revision, shards, shards_idx: axolotl's.
        column_mapping: {column that the format expects: column of the data}, `field_chosen` and the like within.
        ignore_columns: columns that are not to be read.
        subset: name of these rows in evaluation. weight: share of these rows in the mixture.
    """

    path: str
    adapter: str | None = None
    split: str = "train"
    name: str | None = None
    data_files: str | list[str] | None = None
    ds_type: str | None = None
    revision: str | None = None
    shards: int | None = None
    shards_idx: int = 0
    column_mapping: dict[str, str] | None = None
    ignore_columns: list[str] | None = None
    subset: str | None = None
    weight: float | None = None


TAKEN_OF_DATA = {"type", *_FIELDS, *RUN_OPTIONS, *(one.name for one in fields(DataEntry))} - {"adapter"}
_TYPES = {one.name: one.type for one in fields(DataEntry) if one.name not in ("adapter", "name")} | RUN_OPTIONS


def read_entries(
    raw: Any, *, where: str = "datasets", template: str | None = None
) -> tuple[list[DataEntry], dict[str, Any], dict[str, str]]:
    """Entries, options of the run that they name, and {key: why it is not taken}.

    >>> entries, options, ignored = read_entries(
    ...     [{"path": "steps.jsonl", "type": "stepwise_supervised", "step_separator": "|", "conversation": "x"}]
    ... )
    >>> entries[0].path, entries[0].adapter, options, list(ignored)
    ('steps.jsonl', 'stepwise_supervised', {'step_separator': '|'}, ['datasets[0].conversation'])

    Args:
        template: the run's `chat_template`, which an entry may repeat.

    Raises:
        ValueError: an unknown key or type, a key that would change what is trained, or two values of a run's option.
    """
    if not isinstance(raw, list) or not raw or not all(isinstance(one, dict) for one in raw):
        raise ValueError(f"`{where}` is {raw!r}; expected a list of entries with `path` and `type`.")
    as_here = _AS_HERE | {"chat_template": template or "tokenizer_default"}
    entries, options, ignored = [], {}, {}
    for index, entry in enumerate(raw):
        place = f"{where}[{index}]"
        given = {
            key: value
            for key, value in set_values(entry, options=_TYPES, place=f"{place}.").items()
            if value != as_here.get(key)
        }
        ignored |= _not_taken(given, place)
        for key in RUN_OPTIONS:
            if key in given and options.setdefault(key, given[key]) != given[key]:
                raise ValueError(
                    f"`{place}.{key}` is {given[key]!r}, but {options[key]!r} in an entry before: a model has one."
                )
        names = given["name"] if isinstance(given.get("name"), list) and given["name"] else [given.get("name")]
        default = "test" if where == "test_datasets" and not _has_one_split(given) else "train"
        entries += [_entry({"split": default, **given, "name": name}, place) for name in names]
    missing = [key for key in options if len({str(one.get(key)) for one in raw}) > 1]
    if missing:
        raise ValueError(f"`{missing[0]}` is set in some entries of `{where}` alone: a model has one. Set it in all.")
    if len(entries) == 1 and entries[0].weight is not None:
        ignored[f"{where}[0].weight"] = "it is a share of a mixture; a part of the rows is `split: 'train[:50%]'`"
    return entries, options, ignored


def _has_one_split(given: dict[str, Any]) -> bool:
    """Whether these are files, or one data set of `save_to_disk`; what they hold is called "train"."""
    path = Path(given.get("path", ""))
    return "data_files" in given or path.is_file() or (path / "state.json").is_file()


def _not_taken(given: dict[str, Any], place: str) -> dict[str, str]:
    ignored = {}
    for key, value in given.items():
        if key in TAKEN_OF_DATA or value is False:
            continue
        if key in REFUSED_OF_DATA:
            raise ValueError(f"`{place}.{key}` is not taken: {REFUSED_OF_DATA[key]}.")
        if key not in IGNORED_OF_DATA:
            raise ValueError(f"{unknown_key(key, [*TAKEN_OF_DATA, *IGNORED_OF_DATA])} (in `{place}`)")
        ignored[f"{place}.{key}"] = IGNORED_OF_DATA[key]
    return ignored


def _entry(given: dict[str, Any], place: str) -> DataEntry:
    if "path" not in given:
        raise ValueError(f"`{place}` has no `path`: a hub id, a file or a folder.")
    kind = given.get("type")
    if isinstance(kind, dict):
        raise ValueError(f"`{place}.type` is {kind!r}; expected a format's name, other columns by `column_mapping`.")
    if kind is not None:
        try:
            get_adapter(kind)
        except (ValueError, TypeError) as error:
            raise ValueError(f"`{place}.type`: {error}") from error
    mapping = {_FIELDS[key]: given[key] for key in _FIELDS if key in given} | given.get("column_mapping", {})
    names = {one.name for one in fields(DataEntry)}.difference({"adapter", "column_mapping"})
    return DataEntry(adapter=kind, column_mapping=mapping or None, **{key: given[key] for key in given if key in names})


def load_entry(entry: DataEntry) -> datasets.Dataset:
    """Rows of an entry: a file, a folder of files or of `save_to_disk`, or a data set of the hub.

    Raises:
        ValueError: there is no such thing, or it cannot be read.
    """
    path, files = Path(entry.path), entry.data_files or []
    files = [files] if isinstance(files, str) else files
    if is_saved(path):  # axolotl's loader takes no split of it
        return of_saved(path, entry.split, single="train")
    whole = [str(Path(file).resolve()) for file in files] or None
    if _is_ours(entry, whole):
        return load_split(entry.path, entry.split, data_files=whole)
    try:
        if path.is_file() or (path.is_dir() and files):
            files = files or [entry.path]
            kind, files = entry.ds_type or _kind(files[0]), exact_names(files)
            return datasets.load_dataset(kind, data_files=files, split=entry.split)
        if path.is_dir():
            return datasets.load_dataset(str(linked_folder(path)), entry.name, split=entry.split)
        if files and entry.path in FILE_FORMATS.values():  # a reader of `datasets`
            files = exact_names(files)
        options = {"data_files": files or None, "revision": entry.revision, "split": entry.split}
        return datasets.load_dataset(entry.path, entry.name, **options)
    except (OSError, ValueError, StopIteration, datasets.exceptions.DatasetsError) as error:
        why = f"{error or 'nothing was found'}" + ("" if path.exists() else " (no file or folder here has this name)")
        raise ValueError(f"'{entry.path}', split '{entry.split}', cannot be loaded: {why}") from error


def _is_ours(entry: DataEntry, files: list[str] | None) -> bool:
    """Whether this package's reader, which names the line of a fault, gives the split: files that are no splits."""
    try:
        named = local_files(entry.path, files)
    except ValueError as error:
        return isinstance(error, BrokenFile)
    splits = Path(entry.path).is_dir() and not files and any(_SPLIT.search(file.name.lower()) for file in named)
    return not splits and entry.ds_type in (None, file_format(named[0])) and entry.split.split("[")[0] == "train"


def _kind(name: str) -> str:
    """
    >>> _kind("rows.csv"), _kind("rows.jsonl")
    ('csv', 'json')
    """
    kinds = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".txt": "text"}
    suffixes = Path(name.lower()).suffixes  # rows.csv.gz has two
    return next((kinds[suffix] for suffix in suffixes if suffix in kinds), "json")


def is_mixture(entries: list[DataEntry], *, test_entries: list[DataEntry]) -> bool:
    """Whether rows are told apart by the entry that they came from."""
    return len(entries) > 1 or len(test_entries) > 1 or any(one.subset for one in (*entries, *test_entries))


def format_options(entries: list[DataEntry], *, test_entries: list[DataEntry]) -> dict[str, Any]:
    """How the trainer reads the rows of `train_and_held_out`: one entry's by its format, a mixture's by themselves.

    Raises:
        ValueError: the test set's format is another than the train set's.
    """
    if is_mixture(entries, test_entries=test_entries):
        return {}
    formats = [
        {"adapter": one.adapter, "column_mapping": one.column_mapping}
        | ({"ignore_columns": one.ignore_columns} if one.ignore_columns else {})
        for one in (*entries, *test_entries)
    ]
    if formats[0] != formats[-1]:
        raise ValueError(
            "`test_datasets` has another `type` or other columns than `datasets`. Name them alike, or give both a "
            "`subset` name: a mixture may have any."
        )
    return formats[0]


def train_and_held_out(
    entries: list[DataEntry],
    *,
    test_entries: list[DataEntry],
    val_set_size: float,
    seed: int,
    ordered: bool = False,
    on_bad_row: str = "error",
    load: Callable = load_entry,
) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Rows to train on, and held-out ones: of `test_datasets`, or so many (a share below 1), no prompt on both sides.

    Args:
        ordered: the rows of one entry keep their order.
        on_bad_row: as in the trainers' configs; of a mixture the rows are read here.

    Raises:
        ValueError: both are given, or they cannot be split or mixed.
    """
    if test_entries and val_set_size:
        raise ValueError("Both `test_datasets` and `val_set_size` are set; take one of them.")
    loaded = [_loaded(one, seed, load) for one in entries]
    tests = [_loaded(one, seed, load) for one in test_entries]
    rows = sum(map(len, loaded))
    share = val_set_size if val_set_size < 1 else val_set_size / max(rows, 1)
    if not 0 <= share < 1:
        raise ValueError(f"`val_set_size: {val_set_size}`; expected a share below 1, or fewer than the {rows} rows.")
    if ordered and is_mixture(entries, test_entries=test_entries):
        raise ValueError("`curriculum_sampling` keeps the order of one file, but `datasets` are mixed; give one entry.")
    if not is_mixture(entries, test_entries=test_entries):
        if share:
            return hold_out(loaded[0], share, seed, shuffle=not ordered, own_rows="test_datasets")
        return loaded[0], tests[0] if tests else None
    parts, how = _parts(entries, loaded), {"seed": seed, "on_bad_row": on_bad_row}
    if share:
        return mixed_and_held_out(parts, test_size=share, own_rows="test_datasets", **how)
    return mixed(parts, **how), mixed(_parts(test_entries, tests, weigh=False), **how) if tests else None


def _loaded(entry: DataEntry, seed: int, load: Callable) -> datasets.Dataset:
    dataset = load(entry)
    if not entry.shards:
        return dataset
    return dataset.shuffle(seed=seed).shard(num_shards=entry.shards, index=entry.shards_idx)


def _parts(entries: list[DataEntry], loaded: list[datasets.Dataset], *, weigh: bool = True) -> list[Part]:
    """Parts of a mixture; held-out rows come once each, whatever their weight."""
    return [
        Part(
            dataset=dataset,
            subset=name,
            adapter=one.adapter,
            column_mapping=one.column_mapping,
            ignore_columns=one.ignore_columns,
            weight=one.weight if weigh else None,
        )
        for one, dataset, name in zip(entries, loaded, _subset_names(entries), strict=True)
    ]


def _subset_names(entries: list[DataEntry]) -> list[str]:
    """
    >>> _subset_names([DataEntry(path="a/hh"), DataEntry(path="b/hh"), DataEntry(path="c", subset="hh-2")])
    ['hh', 'hh-3', 'hh-2']
    """
    names, taken = [], {one.subset for one in entries}
    for one in entries:
        name, number = Path(one.path).name or one.path, 1
        while not one.subset and (numbered := name if number == 1 else f"{name}-{number}") in taken:
            number += 1
        names.append(one.subset or numbered)
        taken.add(names[-1])
    return names
