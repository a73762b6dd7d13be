"""Local files of one format to a `Dataset` or to a stream of their rows.

In: files of `formats`. Out: rows as `datasets` reads them, or a `ValueError` that names the file and the line.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.data_files import DataFilesList, sanitize_patterns
from datasets.packaged_modules.json.json import JsonConfig

import hf_rewardplug

from .fingerprint import file_state
from .formats import check_rows, read_files
from .formats.file_rows import FILE_NAME, FILE_ROW, BrokenFile, FileRow, file_format
from .formats.json_rows import is_list
from .formats.unpacked import cached, plain_file, table_files

_BUILDERS = {"json": "json", "csv": "parquet", "parquet": "parquet", "arrow": "arrow"}
_PROBED = 1000  # rows of a file whose columns a stream has
_BATCH = 1024


def exact_names(data_files: str | list | dict) -> dict[str, DataFilesList]:
    """`data_files` for `datasets`, which takes all of them for patterns: here the name of a file is a name.

    `datasets` knows a file by its modification time, which copies keep; here other content makes it another file.
    """
    return {split: _exact(names) for split, names in sanitize_patterns(data_files).items()}


def _exact(names: Sequence[str | Path]) -> DataFilesList:
    files, states = [], []
    for name in names:
        if Path(name).is_file():
            table = plain_file(name)
            exact = DataFilesList([str(table.absolute())], [file_state(table)])
        else:
            exact = DataFilesList.from_local_or_remote([name])
        files += exact
        states += exact.origin_metadata
    return DataFilesList(files, states)


def table_of(name: str, files: list[Path], split: str) -> datasets.Dataset:
    """The files read by `datasets`, and what it accepts although it is wrong, refused."""
    tables, is_json = table_files(files), file_format(files[0]) == "json"
    options = {"parse_agent_traces": False} if is_json and hasattr(JsonConfig, "parse_agent_traces") else {}
    reader = _BUILDERS[file_format(files[0])]
    try:
        count = sum(map(_count_json, files, tables)) if is_json else None
        dataset = datasets.load_dataset(reader, data_files=exact_names(tables), split=split, **options)
        if count not in (None, dataset.info.splits["train"].num_examples):
            for file in files:
                check_rows(file)
        return _typed_table(files, split) if is_json and _dates(dataset.features) else dataset
    except BrokenFile:
        raise
    except Exception as error:  # pyarrow's and datasets' own, with the file in the log and not in the message
        try:
            count = sum(map(check_rows, files))
        except BrokenFile as broken:  # which names the line
            raise broken from error
        if not count:
            raise ValueError(f"'{name}' has no rows. Give some.") from error
        raise ValueError(f"'{name}' cannot be read: {type(error).__name__}: {error}") from error


def _count_json(file: Path, table: Path) -> int:
    """The rows of a json file, counted once for a state of the file.

    pyarrow accepts any bytes as text and reads two objects in one line as two rows; `datasets` accepts a comma too many
    in a list.
    """

    def write(_: Path, target: Path) -> None:
        try:
            with open(table, "rb") as lines:
                count = sum(not line.decode().isspace() for line in lines) if not is_list(table) else check_rows(file)
        except UnicodeDecodeError:
            count = None
        count = check_rows(file) if count is None else count
        target.write_text(str(count))

    return int(cached(file, ".count", write).read_text())


def _dates(feature: Any) -> bool:
    """Whether pyarrow made dates of text such as "2024-01-31"; JSON has no dates."""
    if isinstance(feature, datasets.Value):
        return feature.dtype.startswith(("timestamp", "date", "time"))
    if isinstance(feature, dict):
        return any(map(_dates, feature.values()))
    inner = getattr(feature, "feature", None)
    return inner is not None and _dates(inner)


def _typed_table(files: list[Path], split: str) -> datasets.Dataset:
    """The rows of json files with text as text. Python's reader is slower than pyarrow's and makes no dates."""
    schemas, rows = [], (row.row for _, row in read_files(files))
    while batch := list(islice(rows, _BATCH)):
        schemas.append(pa.Table.from_pylist(batch).schema)
    features = datasets.Features.from_arrow_schema(pa.unify_schemas(schemas, promote_options="permissive"))
    states = [(*file_state(file), hf_rewardplug.__version__) for file in files]  # the cache is found by them
    dataset = datasets.Dataset.from_generator(_rows_of, features=features, gen_kwargs={"states": states})
    return split_of({"train": dataset}, split)


def split_of(splits: Mapping[str, datasets.Dataset], split: str) -> datasets.Dataset:
    """The split as `datasets.load_dataset` takes it, such as "train[:100]+test".

    Raises:
        ValueError: there is no such split.
    """
    parts = datasets.ReadInstruction.from_spec(split).to_absolute({name: len(rows) for name, rows in splits.items()})
    ranges = [(splits[part.splitname], range(part.from_, part.to)) for part in parts]
    return datasets.concatenate_datasets([rows.select(numbers) for rows, numbers in ranges])


def _rows_of(states: list[tuple]) -> Iterator[dict[str, Any]]:
    for _, row in read_files([file for file, *_ in states]):
        yield row.row


# ---- streams -------------------------------------------------------------------------------------------------------


def stream_of(name: str, files: list[Path], split: str, numbered: bool) -> datasets.IterableDataset:
    """A stream of a shard a file, read as `rewardplug score` reads them."""
    if "[" in split:
        raise ValueError(f"split='{split}': a stream of '{name}' has no parts. Take max_train_rows, or do not stream.")
    columns: dict[str, None] = {}
    for file in files:
        for _, row in islice(read_files([file]), _PROBED):
            _refuse(file, row)
            columns |= dict.fromkeys(row.row)
    if not columns:
        raise ValueError(f"'{name}' has no rows. Give some.")
    names = tuple(columns)
    several = len(files) > 1
    kwargs = {"files": [str(file) for file in files], "columns": names, "numbered": numbered, "several": several}
    return datasets.IterableDataset.from_generator(_stream_rows, gen_kwargs=kwargs)


def _stream_rows(files: list[str], columns: tuple[str, ...], numbered: bool, several: bool) -> Iterator[dict[str, Any]]:
    for file, row in read_files(files):
        _refuse(file, row)
        if unknown := [name for name in row.row if name not in columns]:
            raise BrokenFile(
                file,
                f"has the column '{unknown[0]}' in {row.place}, which the first {_PROBED} rows lack. Put such a row "
                "first, or do not stream.",
            )
        numbers = {FILE_ROW: row.number, FILE_NAME: file.name if several else None} if numbered else {}
        yield {**{name: row.row.get(name) for name in columns}, **numbers}


def _refuse(file: Path, row: FileRow) -> None:
    if row.error is not None:
        raise BrokenFile(file, f"{row.error}.", row.line)
