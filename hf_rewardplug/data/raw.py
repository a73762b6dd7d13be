"""A raw data set as its user sees it, and the format that reads it.

In: a `Dataset` or `IterableDataset` of raw rows, and the user's options about formats and columns. Out: plain rows
(lists and numbers, with a transform applied, without the columns to ignore), the adapter, and the columns that nobody
reads.

    with_transform, set_transform           applied, once, as the `map` of TRL's trainers does
    set_format("torch", ...), with_format   lists and numbers again
    set_format(columns=[...])               these columns alone
    Image, Audio, Video                     not decoded, since nobody looks at their content
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, IterableDataset
from datasets.fingerprint import Hasher

from .adapters import Adapter
from .columns import Unread, check_ignored, looked_at, unread_columns
from .fingerprint import code_state
from .pipeline import adapter_of

_MEDIA = ("Image", "Audio", "Video", "Pdf", "Nifti")  # types of `datasets`; older versions lack some of them

UNREAD_OF_PART = "Of the part "
"""A mixture's description has a line that begins so for each part with columns that nobody reads."""


@dataclass(frozen=True)
class Opened:
    """A raw data set.

    Attributes:
        rows: the data set with plain rows, without the columns to ignore.
        first: its first row.
        adapter: the format that reads it.
        unread: columns that the format does not read.
    """

    rows: Dataset | IterableDataset
    first: dict[str, Any]
    adapter: Adapter
    unread: Unread


def opened(
    dataset: Dataset | IterableDataset,
    *,
    adapter: str | None = None,
    column_mapping: dict[str, str] | None = None,
    ignore_columns: Iterable[str] | None = None,
    beside: Iterable[str] = (),
) -> Opened | None:
    """The data set with the adapter called `adapter`, or the one that fits its columns; None where it has no rows.

    Args:
        column_mapping: {column that the format expects: column of the data}.
        ignore_columns: columns that are not to be read, by nobody.
        beside: columns that something else than the adapter reads.

    Raises:
        ValueError: an unknown format or column, or columns that look like parts of a prompt and are not read.
    """
    dataset = plain_rows(dataset)
    first = next(iter(dataset), None)
    if first is None:
        return None
    columns = list(dataset.column_names or first)
    if ignored := check_ignored(ignore_columns, columns):
        dataset = dataset.remove_columns(list(ignored))
        first = {name: value for name, value in first.items() if name not in ignored}
    chosen = adapter_of(dataset, adapter, column_mapping)
    options = {"column_mapping": column_mapping, "beside": beside, "ignored": ignored}
    unread = unread_columns(chosen, looked_at(dataset), **options)
    lines = tuple(line for line in (dataset.info.description or "").splitlines() if line.startswith(UNREAD_OF_PART))
    return Opened(dataset, first, chosen, replace(unread, of_parts=lines) if chosen.name == "mixed" else unread)


def plain_rows(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """The data set's rows as lists, numbers and texts, as the user sees them.

    Raises:
        ValueError: Arrow cannot store the rows that a transform gives.

    >>> shout = lambda batch: {"chosen": [text.upper() for text in batch["chosen"]]}
    >>> rows = Dataset.from_dict({"chosen": ["four"], "id": [3]})
    >>> plain_rows(rows.with_transform(shout))[0], plain_rows(rows.with_format("numpy", columns=["id"]))[0]
    ({'chosen': 'FOUR'}, {'id': 3})
    """
    if not isinstance(dataset, Dataset):
        return dataset.with_format(None)
    shown = dataset.format
    columns, plain = shown["columns"], dataset.with_format(None)
    rest = [name for name in dataset.column_names if name not in columns] if shown["output_all_columns"] else []
    if shown["type"] == "custom":
        seen = _transformed(dataset.select_columns(columns))
        plain = datasets.concatenate_datasets([seen, plain.select_columns(rest)], axis=1) if rest else seen
    elif len(columns) + len(rest) < len(dataset.column_names):
        plain = plain.select_columns(columns)
    return _undecoded(plain)


def _transformed(dataset: Dataset) -> Dataset:
    """The rows that the user's transform gives, stored once."""
    transform = dataset.format["format_kwargs"].get("transform")  # its name alone is in the fingerprint
    fingerprint = Hasher.hash((dataset._fingerprint, code_state(transform)))
    options = {"batched": True, "remove_columns": dataset.column_names, "new_fingerprint": fingerprint}
    try:
        return dataset.map(dict, desc="Applying the data set's transform", **options).with_format(None)
    except pa.ArrowException as error:
        raise ValueError(
            f"The data set's transform gives rows that Arrow cannot store: {error}. Apply it yourself (`map`), so that "
            "a column has one type."
        ) from error


def _undecoded(dataset: Dataset) -> Dataset:
    """Decoding a picture that nobody looks at costs time, and fails where the decoder is not installed."""
    for name, feature in dataset.features.items():
        is_list = isinstance(feature, datasets.List | datasets.Sequence | datasets.LargeList)
        media = feature.feature if is_list else feature
        if type(media).__name__ in _MEDIA and media.decode:
            stored = type(media)(decode=False)
            dataset = dataset.cast_column(name, type(feature)(stored) if is_list else stored)
    return dataset
