"""Names of data sets to rows: local files and folders, and data sets of the hub.

In: a name (hub id, a file of `formats`, or a folder of one format) and a split. Out: a `Dataset` or a stream, or a
`ValueError` that names the file and the line. Recipes, the commands and axolotl's configs all load their rows here.
"""

import re
from pathlib import Path
from typing import Any

import datasets

from .formats.file_rows import FILE_FORMATS, BrokenFile, file_format
from .formats.unpacked import linked_folder, plain_file
from .local import exact_names, split_of, stream_of, table_of
from .origin import remember_files

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
}
"""words in the names of files and folders that `datasets` takes for splits"""

_SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(_SPLIT_WORDS)})(?![a-z])")
_DOCUMENTS = ("readme", "license")  # how the names of files begin that hold no rows


def load_split(
    name: str,
    split: str,
    *,
    config: str | None = None,
    data_files: str | list | dict | None = None,
    ds_type: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    numbered: bool = False,
):
    """One split of a hub data set; or a json, jsonl, csv, parquet or arrow file, gzipped or not; or a folder of one
    format, of `save_to_disk`, or as the hub keeps data sets (with a README.md).

    Args:
        split: as `datasets.load_dataset` takes it. A local file has one split whatever its name, and so has a folder
            whose files are not named after several splits; parts of it are "train[:100]".
        config, data_files, revision: `name`, `data_files` and `revision` of `datasets.load_dataset`; of a local folder,
            `data_files` are the files to read.
        ds_type: the reader of `datasets` for local files whose name does not say their format, such as "text".
        numbered: a stream of local files gets the columns `FILE_ROW` and `FILE_NAME`, which the trainers name rows by.
            (`origin.py` finds where the rows of a `Dataset` come from.)

    Raises:
        ValueError: `name` is nowhere, a file or folder of another format, has no such split, or is a file that cannot
            be read (with the line).
    """
    path, options = Path(name), {"split": split, "streaming": streaming}
    if not path.exists():
        return _by_datasets(name, name=config, data_files=data_files, revision=revision, **options)
    if "+" in split:
        same = {"config": config, "data_files": data_files, "ds_type": ds_type, "streaming": streaming}
        return datasets.concatenate_datasets(
            [load_split(name, part, numbered=numbered, **same) for part in split.split("+")]
        )
    if data_files is None and is_saved(path):
        saved = _of_saved(path, split)
        return saved.to_iterable_dataset() if streaming else saved
    if data_files is None and path.is_dir() and (config is not None or (path / "README.md").is_file()):
        return _by_datasets(str(linked_folder(path)), shown=name, name=config, **options)
    files = _named_files(path, data_files)
    if ds_type is not None and {ds_type} != {file_format(file) for file in files}:
        return _by_datasets(ds_type, shown=name, data_files=exact_names(files), **options)
    return _of_files(name, _checked_files(path, files), split, streaming=streaming, numbered=numbered)


def _of_files(name: str, files: list[Path], split: str, *, streaming: bool, numbered: bool):
    """The rows of files of one format that belong to the split."""
    base, bracket, part = split.partition("[")
    if splits := _splits_of(Path(name), files):
        if base not in splits:
            raise ValueError(f"'{name}' has no split '{base}'; it has {', '.join(sorted(splits))}.")
        files = splits[base]
    if streaming:
        return stream_of(name, files, split, numbered)
    dataset = table_of(name, files, f"train{bracket}{part}")
    remember_files(dataset, files)
    return dataset


def _by_datasets(path: str, *, shown: str | None = None, split: str, data_files: Any = None, **options: Any):
    """`datasets.load_dataset`, whose errors do not say what was loaded; `shown` is what the user calls it."""
    if data_files and path in FILE_FORMATS.values():  # a reader of `datasets`, and the files for it
        data_files = exact_names(data_files)
    try:
        return datasets.load_dataset(path, data_files=data_files, split=split, **options)
    except (OSError, ValueError, StopIteration, datasets.exceptions.DatasetsError) as error:
        name = shown or path
        if isinstance(error, OSError) and shown is None and not data_files:
            raise ValueError(f"'{name}' is neither a file or folder here nor a data set of the hub: {error}") from error
        raise ValueError(f"'{name}', split '{split}', cannot be loaded: {error or 'it has no rows'}") from error


# ---- local files ---------------------------------------------------------------------------------------------------


def local_files(path: str | Path, data_files: str | list | dict | None = None) -> list[Path]:
    """A file, or the files of a folder and of those within it in the order of their names, all of one format.

    Raises:
        ValueError: there is none, or they are of several formats or of none.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no file or folder '{path}'. Give its path from here, or a whole one.")
    return _checked_files(path, _named_files(path, data_files))


def _checked_files(path: Path, files: list[Path]) -> list[Path]:
    formats = {file_format(file) for file in files}
    if len(formats) != 1 or None in formats:
        names = ", ".join(_name_within(path, file) for file in files[:8]) or "nothing"
        raise ValueError(
            f"'{path}' holds {names}; expected {', '.join(FILE_FORMATS)} files of one kind, gzipped (.gz) or not."
        )
    for file in files:
        if not file.stat().st_size:
            raise BrokenFile(file, "is empty. Fill it or take it away.")
    return files


def _named_files(path: Path, data_files: str | list | dict | None) -> list[Path]:
    if data_files is None:
        return _files_within(path) if path.is_dir() else [path]
    if isinstance(data_files, dict) or not path.is_dir():
        raise ValueError(
            f"data_files={data_files!r} does not go with '{path}': it names files of a local folder, one or a list."
        )
    files = [path / name for name in ([data_files] if isinstance(data_files, str) else data_files)]
    if missing := [file.name for file in files if not file.is_file()]:
        names = ", ".join(sorted(file.name for file in path.iterdir())[:8])
        raise ValueError(f"'{path}' has no file {', '.join(missing)}. It holds {names or 'nothing'}.")
    return files


def _files_within(folder: Path) -> list[Path]:
    """The visible files of a folder at every depth, without those that describe it."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    visible = [file for file in files if not any(part[0] == "." for part in file.relative_to(folder).parts)]
    return [file for file in visible if not file.name.lower().startswith(_DOCUMENTS)]


def _name_within(path: Path, file: Path) -> str:
    return file.name if file == path else str(file.relative_to(path)) if file.is_relative_to(path) else str(file)


def split_names(path: str | Path, data_files: str | list | None = None) -> list[str]:
    """The splits that the names of local files say, as on the hub; none where all rows are one split."""
    return sorted(_splits_of(Path(path), _named_files(Path(path), data_files)))


def _splits_of(path: Path, files: list[Path]) -> dict[str, list[Path]]:
    """The files of each split, where their names say several splits.

    Without this, a folder of `train.jsonl` and `test.jsonl` would be trained on as a whole.
    """
    splits: dict[str | None, list[Path]] = {}
    for file in files:
        splits.setdefault(_split_of_name(_name_within(path, file)), []).append(file)
    unnamed = splits.pop(None, [])
    if len(splits) < 2:
        return {}
    if unnamed:
        raise ValueError(
            f"'{path}' holds files of the splits {', '.join(sorted(splits))}, but the name of "
            f"{_name_within(path, unnamed[0])} says none of them. Rename it, or name the files to read in `data_files`."
        )
    return splits


def _split_of_name(name: str) -> str | None:
    """The split that a file's name says.

    >>> [_split_of_name(name) for name in ("data/train-0.jsonl", "my_eval.csv", "dev/a.json", "contest.json", "a.csv")]
    ['train', 'test', 'validation', None, None]
    """
    word = _SPLIT_WORD.search(name.lower())
    return None if word is None else _SPLIT_WORDS[word[1]]


def is_saved(path: str | Path) -> bool:
    """Whether it is a folder that `save_to_disk` wrote."""
    return any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _of_saved(path: Path, split: str) -> datasets.Dataset:
    """The split of a folder that `save_to_disk` wrote; a single data set has one split whatever its name."""
    saved = datasets.load_from_disk(str(plain_file(path)))
    splits = saved if isinstance(saved, dict) else {split.partition("[")[0]: saved}
    try:
        return split_of(splits, split)
    except ValueError as error:
        raise ValueError(f"'{path}' has no split '{split}'; it has {', '.join(splits)}.") from error


def at_most(dataset: Any, rows: int | None):
    """The first `rows` rows of a data set or a stream; all of them when None."""
    if rows is None or not isinstance(dataset, datasets.Dataset):
        return dataset if rows is None else dataset.take(rows)
    return dataset.select(range(min(rows, len(dataset))))
