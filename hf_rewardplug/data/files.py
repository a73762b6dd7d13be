"""Local data files and hub data sets to rows, and rows to train and held-out ones.

In: a name (hub id, a json, jsonl or parquet file, or a folder of one kind of them). Out: a `Dataset`, or a `ValueError`
that names the file and the line.
"""

import json
import random
from collections.abc import Sequence, Set
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

FILE_FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_PROMPT_COLUMNS = ("prompt", "input", "instruction", "question", "problem", "context")


def load_split(
    name: str,
    split: str,
    *,
    config: str | None = None,
    data_files: str | list | dict | None = None,
    streaming: bool = False,
):
    """One split of a hub data set; or a json, jsonl or parquet file, or a folder of one kind of them.

    Args:
        split: as `datasets.load_dataset` takes it. Local files have one split whatever its name, and parts of it:
            "train[:100]".
        config, data_files: `name` and `data_files` of `datasets.load_dataset`; of a local folder, `data_files` are the
            files to read.

    Raises:
        ValueError: `name` is nowhere, a file or folder of another kind, or a file that cannot be read (with the line).
    """
    path = Path(name)
    if not path.exists():
        try:
            return datasets.load_dataset(name, config, data_files=data_files, split=split, streaming=streaming)
        except OSError as error:
            raise ValueError(f"'{name}' is neither a file or folder here nor a data set of the hub: {error}") from error
    files = _local_files(path, data_files)
    formats = {FILE_FORMATS.get(file.suffix) for file in files}
    if len(formats) != 1 or None in formats:
        found = ", ".join(file.name for file in files[:8]) or "nothing"
        raise ValueError(f"'{name}' holds {found}; expected {', '.join(FILE_FORMATS)} files of one kind.")
    try:
        names = [str(file) for file in files]
        _, bracket, slice_ = split.partition("[")
        split = f"train{bracket}{slice_}"
        dataset = datasets.load_dataset(formats.pop(), data_files=names, split=split, streaming=streaming)
        next(iter(dataset), None)  # a stream's first fault
        for file in () if streaming else files:  # pyarrow takes any bytes for text, and fails where a row is read
            if file.suffix != ".parquet":
                _check_utf8(file)
        return dataset
    except Exception as error:  # pyarrow's and datasets' own, with the file in the log and not in the message
        raise ValueError(_fault(files) or f"'{name}' cannot be read: {type(error).__name__}: {error}") from error


def _local_files(path: Path, data_files: str | list | dict | None) -> list[Path]:
    if data_files is None:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return [file for file in files if not file.name.startswith(".")]
    if isinstance(data_files, dict) or not path.is_dir():
        raise ValueError(
            f"data_files={data_files!r} does not go with '{path}': it names files of a local folder, one or a list."
        )
    files = [path / name for name in ([data_files] if isinstance(data_files, str) else data_files)]
    if missing := [file.name for file in files if not file.is_file()]:
        found = ", ".join(sorted(file.name for file in path.iterdir())[:8])
        raise ValueError(f"'{path}' has no file {', '.join(missing)}. It holds {found or 'nothing'}.")
    return files


def _check_utf8(file: Path) -> None:
    with open(file, "rb") as lines:
        for line in lines:
            line.decode()


def _fault(files: list[Path]) -> str | None:
    """The first file that cannot be read, with the line and what is wrong there."""
    for file in files:
        if not file.stat().st_size:
            return f"'{file}' is empty. Fill it or take it away."
        if file.suffix == ".parquet":
            try:
                pq.read_schema(file)
            except pa.ArrowException as error:
                return f"'{file}' is no whole parquet file: {error}"
        if file.suffix == ".jsonl":
            for number, line in enumerate(file.read_bytes().splitlines(), 1):
                try:
                    row = json.loads(line or "{}")
                    why = None if isinstance(row, dict) else f"found {type(row).__name__}"
                except ValueError as error:
                    why = str(error)
                if why is not None:
                    return f"'{file}', line {number}: {why}. Expected one JSON object a line, in UTF-8."
    return None


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
