"""The `datasets:` of an axolotl config: entries read and checked, their rows loaded, and some held out.

In: the entries as the YAML has them. Out: `DataEntry`s, the options of a run that axolotl has by data set (step
separators, limits), and two data sets of raw rows, which the trainers encode.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import datasets

from ...data.adapters import get_adapter
from ...data.entries import DataEntry, load_entry, parts_of
from ...data.files import is_saved, split_names
from ...data.formats.file_rows import file_format
from ...data.held_out import hold_out
from ...data.mixing import mixed, mixed_and_held_out
from .keys import IGNORED_OF_DATA, REFUSED_OF_DATA, unknown_key
from .values import set_values

RUN_OPTIONS = {"step_separator": str, "max_completion_length": int, "train_on_last_step_only": bool}
"""options that axolotl has by data set and drops, and their types; a model has one of each"""

_AS_HERE = {"message_field_role": "role", "message_field_content": "content"}
"""values of refused keys that ask for nothing"""

_FIELDS = {"field_chosen": "chosen", "field_rejected": "rejected", "field_tools": "tools"}

_OTHER_KEYS = ("adapter", "columns", "max_rows")  # axolotl has `type` for the first, and none for the others
_OF_ENTRY = {key: hint for key, hint in get_type_hints(DataEntry).items() if key not in _OTHER_KEYS}
_OF_ENTRY |= {"data_files": str | list, "weight": float}  # what axolotl's schema takes
TAKEN_OF_DATA = {"type", *_FIELDS, *RUN_OPTIONS, *_OF_ENTRY}
_TYPES = {key: hint for key, hint in _OF_ENTRY.items() if key != "name"} | RUN_OPTIONS  # a name may be a list


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
    if not isinstance(raw, list) or not raw or not all(isinstance(entry, dict) for entry in raw):
        raise ValueError(f"`{where}` is {raw!r}; expected a list of entries with `path` and `type`.")
    as_here = _AS_HERE | {"chat_template": template or "tokenizer_default"}
    entries, options, ignored = [], {}, {}
    for index, entry in enumerate(raw):
        place = f"{where}[{index}]"
        values = set_values(entry, options=_TYPES, place=f"{place}.")
        keys = {key: value for key, value in values.items() if value != as_here.get(key)}
        ignored |= _not_taken(keys, place)
        for key in keys.keys() & RUN_OPTIONS:
            if options.setdefault(key, keys[key]) != keys[key]:
                raise ValueError(
                    f"`{place}.{key}` is {keys[key]!r}, but {options[key]!r} in an entry before: a model has one."
                )
        names = keys.get("name")
        one_split = _has_one_split(keys.get("path", ""), keys.get("data_files"))
        keys.setdefault("split", "test" if where == "test_datasets" and not one_split else "train")
        for name in names if isinstance(names, list) and names else [names]:
            entries.append(_entry({**keys, "name": name}, place))
    missing = [key for key in options if len({str(entry.get(key)) for entry in raw}) > 1]
    if missing:
        raise ValueError(f"`{missing[0]}` is set in some entries of `{where}` alone: a model has one. Set it in all.")
    if len(entries) == 1 and entries[0].weight is not None:
        ignored[f"{where}[0].weight"] = "it is a share of a mixture; a part of the rows is `split: 'train[:50%]'`"
    return entries, options, ignored


def _has_one_split(path: str, data_files: list | str | None) -> bool:
    """Whether these are local rows of one split, which axolotl calls "train"."""
    folder = Path(path)
    if not folder.exists() or (folder / "README.md").is_file():
        return bool(data_files)
    return (folder / "state.json").is_file() or not (is_saved(folder) or split_names(folder, data_files))


def _not_taken(keys: dict[str, Any], place: str) -> dict[str, str]:
    """{key: why it is ignored}, unless ignoring a key would change what is trained."""
    ignored = {}
    for key, value in keys.items():
        if key in TAKEN_OF_DATA or value is False:
            continue
        if key in REFUSED_OF_DATA:
            raise ValueError(f"`{place}.{key}` is not taken: {REFUSED_OF_DATA[key]}.")
        if key not in IGNORED_OF_DATA:
            raise ValueError(f"{unknown_key(key, [*TAKEN_OF_DATA, *IGNORED_OF_DATA])} (in `{place}`)")
        ignored[f"{place}.{key}"] = IGNORED_OF_DATA[key]
    return ignored


def _entry(keys: dict[str, Any], place: str) -> DataEntry:
    if "path" not in keys:
        raise ValueError(f"`{place}` has no `path`: a hub id, a file or a folder.")
    adapter = keys.get("type")
    if isinstance(adapter, dict):
        raise ValueError(f"`{place}.type` is {adapter!r}; expected a format's name, other columns by `column_mapping`.")
    if adapter is not None:
        try:
            get_adapter(adapter)
        except (ValueError, TypeError) as error:
            raise ValueError(f"`{place}.type`: {error}") from error
    mapping = {_FIELDS[key]: keys[key] for key in _FIELDS if key in keys} | keys.get("column_mapping", {})
    taken = {key: keys[key] for key in keys if key in _OF_ENTRY}
    return _local(DataEntry(**taken | {"adapter": adapter, "column_mapping": mapping or None}))


def _local(entry: DataEntry) -> DataEntry:
    """The entry with what axolotl knows of local files by rules of its own.

    It looks for `data_files` from here and not from the folder, and takes files of unknown suffixes for JSON. Rows of
    one split are its "train", and no other split.
    """
    path, files = Path(entry.path), entry.data_files or []
    files = [files] if isinstance(files, str) else files
    if path.is_dir() and files:
        files = [str(Path(name).resolve()) for name in files]
        entry = replace(entry, data_files=files)
    if path.exists() and entry.split.partition("[")[0] != "train" and _has_one_split(entry.path, files or None):
        raise ValueError(f"'{entry.path}' has no split '{entry.split}'; it has train.")
    named = files or ([entry.path] if path.is_file() else [])
    if path.exists() and named and entry.ds_type is None and file_format(named[0]) is None:
        entry = replace(entry, ds_type="text" if ".txt" in named[0].lower() else "json")
    return entry


def is_mixture(entries: list[DataEntry], *, test_entries: list[DataEntry]) -> bool:
    """Whether the rows are a mixture, whose figures are shown for each entry."""
    return len(entries) > 1 or len(test_entries) > 1 or any(entry.subset for entry in (*entries, *test_entries))


def format_options(entries: list[DataEntry], *, test_entries: list[DataEntry]) -> dict[str, Any]:
    """The trainer's options for the rows of `train_and_held_out`: the format of a single entry; none for a mixture.

    Raises:
        ValueError: the test set's format is another than the train set's.
    """
    if is_mixture(entries, test_entries=test_entries):
        return {}
    formats = [
        {"adapter": entry.adapter, "column_mapping": entry.column_mapping}
        | ({"ignore_columns": entry.ignore_columns} if entry.ignore_columns else {})
        for entry in (*entries, *test_entries)
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
    """Rows to train on and held-out rows, no prompt on both sides.

    The held-out rows are those of `test_datasets`, or `val_set_size` of the rows: a share below 1, or a number.

    Args:
        ordered: the rows of one entry keep their order.
        on_bad_row: as in the trainers' configs; of a mixture the rows are read here.

    Raises:
        ValueError: both are given, or they cannot be split or mixed.
    """
    if test_entries and val_set_size:
        raise ValueError("Both `test_datasets` and `val_set_size` are set; take one of them.")
    loaded = [load(entry, seed=seed) for entry in entries]
    tests = [load(entry, seed=seed) for entry in test_entries]
    rows = sum(map(len, loaded))
    share = val_set_size if val_set_size < 1 else val_set_size / max(rows, 1)
    if not 0 <= share < 1:
        raise ValueError(f"`val_set_size: {val_set_size}`; expected a share below 1, or fewer than the {rows} rows.")
    if ordered and is_mixture(entries, test_entries=test_entries):
        raise ValueError("`curriculum_sampling` keeps the order of one file, but `datasets` are mixed; give one entry.")
    if not is_mixture(entries, test_entries=test_entries):
        if share:
            options = {"shuffle": not ordered, "own_rows": "test_datasets"}
            return hold_out(loaded[0], share, seed, **options, **format_options(entries, test_entries=[]))
        return loaded[0], tests[0] if tests else None
    parts, how = parts_of(entries, loaded), {"seed": seed, "on_bad_row": on_bad_row}
    if share:
        return mixed_and_held_out(parts, test_size=share, own_rows="test_datasets", **how)
    return mixed(parts, **how), mixed(parts_of(test_entries, tests, weigh=False), **how) if tests else None
