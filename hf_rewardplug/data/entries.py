"""Entries of a list of data sets: one type, one loader and one way to name them, for recipes and axolotl's configs.

In: `DataEntry`s, read from a recipe (`train/mixture.py`) or from an axolotl config (`integrations/axolotl/data.py`).
Out: their rows, and the `Part`s of a mixture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from .files import at_most, load_split
from .formats.file_rows import FILE_NAME, FILE_ROW, bare_name
from .mixture_rows import Part


@dataclass(frozen=True, kw_only=True)
class DataEntry:
    """One data set of a list.

    Args:
        path: hub id, a json, jsonl, csv, parquet or arrow file (gzipped or not), or a folder of one kind of them.
        name, data_files, revision, split: as `datasets.load_dataset` takes them; without `split` the run's own.
        ds_type: the reader of `datasets` for files whose names do not say their format.
        shards, shards_idx: use one of so many random parts of the rows.
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
    revision: str | None = None
    ds_type: str | None = None
    shards: int | None = None
    shards_idx: int = 0
    columns: list | None = None
    adapter: str | None = None
    column_mapping: dict | None = None
    ignore_columns: list | None = None
    subset: str | None = None
    weight: int | float | None = None
    max_rows: int | None = None


def load_entry(entry: DataEntry, *, split: str = "train", streaming: bool = False, seed: int = 0):
    """The rows of an entry, a `Dataset` or a stream.

    Args:
        split: what is read of an entry that names none.
        seed: of the shuffle before `shards`.

    Raises:
        ValueError: there is no such data set or column, or it cannot be read.
    """
    rows = load_split(
        entry.path,
        entry.split or split,
        config=entry.name,
        data_files=entry.data_files,
        ds_type=entry.ds_type,
        revision=entry.revision,
        streaming=streaming,
        numbered=True,
    )
    return used_rows(entry, rows, seed=seed)


def used_rows(entry: DataEntry, rows: Any, *, seed: int) -> Any:
    """Of an entry's data set or stream the columns and the rows that the entry asks for."""
    if entry.columns is not None:
        places = [FILE_ROW, FILE_NAME] if rows.column_names is None else []  # of the rows of a stream of files
        rows = rows.select_columns([*entry.columns, *places])
    if entry.shards is not None:
        if not isinstance(rows, Dataset):
            raise ValueError(f"shards={entry.shards}: a stream has none. Do not stream, or leave `shards` out.")
        rows = rows.shuffle(seed=seed).shard(num_shards=entry.shards, index=entry.shards_idx)
    return at_most(rows, entry.max_rows)


def parts_of(entries: Sequence[DataEntry], rows: Sequence[Any], *, weigh: bool = True) -> list[Part]:
    """The parts of a mixture. Held-out rows come once each, whatever their weight (`weigh=False`)."""
    return [
        Part(
            dataset=dataset,
            subset=subset,
            adapter=entry.adapter,
            column_mapping=entry.column_mapping,
            ignore_columns=entry.ignore_columns,
            weight=entry.weight if weigh else None,
        )
        for entry, dataset, subset in zip(entries, rows, subset_names(entries), strict=True)
    ]


def subset_names(entries: Sequence[DataEntry]) -> list[str]:
    """What the figures call each entry: its `subset`, or the name of its data with a number where that is taken.

    >>> subset_names([DataEntry(path="a/hh.jsonl"), DataEntry(path="b/hh"), DataEntry(path="c", subset="hh-2")])
    ['hh', 'hh-3', 'hh-2']
    """
    names, taken = [], {entry.subset for entry in entries}
    for entry in entries:
        name = numbered = entry.subset or _name_of_data(entry.path)
        number = 1
        while entry.subset is None and numbered in taken:
            number += 1
            numbered = f"{name}-{number}"
        names.append(numbered)
        taken.add(numbered)
    return names


def _name_of_data(path: str) -> str:
    """
    >>> [_name_of_data(path) for path in ("data/hh.jsonl", "nvidia/HelpSteer2", "argilla/pairs-v1.5")]
    ['hh', 'HelpSteer2', 'pairs-v1.5']
    """
    return bare_name(Path(path).resolve() if Path(path).exists() else path) or path
