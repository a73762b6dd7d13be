"""Local data files and hub data sets to rows, and rows to train and held-out ones.

In: a name (hub id, a file of `formats`, or a folder of one kind of them). Out: a `Dataset` or a stream, or a
`ValueError` that names the file and the line.
"""

import json
import random
from collections.abc import Sequence, Set
from pathlib import Path

import datasets

from .formats.file_rows import FILE_FORMATS, BrokenFile, file_format
from .formats.unpacked import plain_file
from .local import exact_names, split_of, stream_of, table_of
from .origin import remember_files

_PROMPT_COLUMNS = ("prompt", "input", "instruction", "question", "problem", "context")


def load_split(
    name: str,
    split: str,
    *,
    config: str | None = None,
    data_files: str | list | dict | None = None,
    streaming: bool = False,
    numbered: bool = False,
):
    """One split of a hub data set; or a json, jsonl, csv, parquet or arrow file, gzipped or not; or a folder of one
    kind of them, one that `save_to_disk` wrote too.

    Args:
        split: as `datasets.load_dataset` takes it. Local files have one split whatever its name, and parts of it:
            "train[:100]".
        config, data_files: `name` and `data_files` of `datasets.load_dataset`; of a local folder, `data_files` are the
            files to read.
        numbered: a stream of local files gets the columns `FILE_ROW` and `FILE_NAME`, which the trainers name rows by.
            (A `Dataset`'s rows are told by `origin.py`.)

    Raises:
        ValueError: `name` is nowhere, a file or folder of another kind, or a file that cannot be read (with the line).
    """
    path = Path(name)
    if not path.exists():
        if data_files and name in FILE_FORMATS.values():  # a reader of `datasets`, and the files for it
            data_files = exact_names(data_files)
        try:
            return datasets.load_dataset(name, config, data_files=data_files, split=split, streaming=streaming)
        except OSError as error:
            raise ValueError(f"'{name}' is neither a file or folder here nor a data set of the hub: {error}") from error
    if data_files is None and is_saved(path):
        saved = of_saved(path, split)
        return saved.to_iterable_dataset() if streaming else saved
    files = local_files(path, data_files)
    if streaming:
        return stream_of(name, files, split, numbered)
    _, bracket, slice_ = split.partition("[")
    dataset = table_of(name, files, f"train{bracket}{slice_}")
    remember_files(dataset, files)
    return dataset


def local_files(path: str | Path, data_files: str | list | dict | None = None) -> list[Path]:
    """A file, or the files of a folder in the order of their names, all of one format.

    Raises:
        ValueError: there is none, or they are of several formats or of none.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no file or folder '{path}'. Give its path from here, or a whole one.")
    files = _named_files(path, data_files)
    formats = {file_format(file) if file.is_file() else None for file in files}
    if len(formats) != 1 or None in formats:
        found = ", ".join(file.name for file in files[:8]) or "nothing"
        raise ValueError(
            f"'{path}' holds {found}; expected {', '.join(FILE_FORMATS)} files of one kind, gzipped (.gz) or not."
        )
    for file in files:
        if not file.stat().st_size:
            raise BrokenFile(file, "is empty. Fill it or take it away.")
    return files


def _named_files(path: Path, data_files: str | list | dict | None) -> list[Path]:
    if data_files is None:
        return [file for file in sorted(path.iterdir()) if file.name[0] != "."] if path.is_dir() else [path]
    if isinstance(data_files, dict) or not path.is_dir():
        raise ValueError(
            f"data_files={data_files!r} does not go with '{path}': it names files of a local folder, one or a list."
        )
    files = [path / name for name in ([data_files] if isinstance(data_files, str) else data_files)]
    if missing := [file.name for file in files if not file.is_file()]:
        found = ", ".join(sorted(file.name for file in path.iterdir())[:8])
        raise ValueError(f"'{path}' has no file {', '.join(missing)}. It holds {found or 'nothing'}.")
    return files


def is_saved(path: str | Path) -> bool:
    """Whether it is a folder that `save_to_disk` wrote."""
    return any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json"))


def of_saved(path: str | Path, split: str, *, single: str | None = None) -> datasets.Dataset:
    """The split of a folder that `save_to_disk` wrote.

    Args:
        single: what a single data set is called, which has one split; None for any name.

    Raises:
        ValueError: there is no such split.
    """
    saved = datasets.load_from_disk(str(plain_file(path)))
    splits = saved if isinstance(saved, dict) else {single or split.partition("[")[0]: saved}
    try:
        return split_of(splits, split)
    except ValueError as error:
        raise ValueError(f"'{path}' has no split '{split}'; it has {', '.join(splits)}.") from error


# ---- train and held-out rows ---------------------------------------------------------------------------------------


def at_most(dataset, rows: int | None):
    if rows is None or not isinstance(dataset, datasets.Dataset):
        return dataset if rows is None else dataset.take(rows)
    return dataset.select(range(min(rows, len(dataset))))


def hold_out(
    dataset: datasets.Dataset,
    share: float,
    seed: int,
    *,
    shuffle: bool = True,
    own_rows: str = "eval_dataset_name",
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Shuffle and split; rows with the same prompt stay on one side, so that no prompt is known at evaluation.

    Args:
        shuffle: False leaves both sides in the order of the rows.
        own_rows: what messages call the option for held-out rows of one's own.

    Raises:
        ValueError: `share` is not between 0 and 1, or there is one prompt only.
    """
    check_share(share, own_rows)
    column = next((name for name in _PROMPT_COLUMNS if name in dataset.column_names), None)
    values = range(len(dataset)) if column is None else dataset[column]
    keys = [json.dumps(value, sort_keys=True, default=str) for value in values]
    prompts = sorted(set(keys))
    if len(prompts) < 2:
        raise ValueError(
            f"{len(dataset)} rows with {len(prompts)} different prompts cannot be split by prompt. Give held-out rows "
            f"of their own ({own_rows})."
        )
    random.Random(seed).shuffle(prompts)
    held = set(prompts[: held_count(share, len(prompts))])
    return split_by_prompt(dataset, keys, held, seed if shuffle else None)


def check_share(share: float, own_rows: str) -> None:
    """`test_size` is a share, or a `ValueError` that names the option for held-out rows of one's own."""
    if not isinstance(share, int | float) or not 0 < share < 1:
        raise ValueError(f"test_size={share!r} is not between 0 and 1. For held-out rows of your own: {own_rows}.")


def held_count(share: float, prompts: int) -> int:
    """How many of two or more prompts are held out: one at least, and one at least stays.

    >>> held_count(0.05, 100), held_count(0.05, 2), held_count(0.95, 2)
    (5, 1, 1)
    """
    return min(max(1, round(share * prompts)), prompts - 1)


def split_by_prompt(dataset: datasets.Dataset, prompts: Sequence[str], held: Set[str], seed: int | None):
    """The rows whose prompt is not in `held`, and those whose prompt is; `prompts` has one a row.

    Both are shuffled, unless `seed` is None.
    """
    rows = list(range(len(prompts)))
    if seed is not None:
        random.Random(seed).shuffle(rows)
    sides = [[row for row in rows if (prompts[row] in held) is side] for side in (False, True)]
    return dataset.select(sides[0]), dataset.select(sides[1])
