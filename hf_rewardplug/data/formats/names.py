"""Names of files -> their format.

>>> file_format("pairs.jsonl.gz"), file_format("PAIRS.CSV"), file_format("notes.txt")
('json', 'csv', None)
"""

from pathlib import Path

FILE_FORMATS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}
"""suffix -> format; a `.gz` may stand behind each"""


def file_format(path: str | Path) -> str | None:
    """The format that a file's name tells, or None."""
    name = Path(path).name.lower().removesuffix(".gz")
    return FILE_FORMATS.get(Path(name).suffix)


def bare_name(path: str | Path) -> str:
    """A file's name without the suffixes of its format.

    >>> bare_name("data/pairs.jsonl.gz"), bare_name("nvidia/HelpSteer2"), bare_name("pairs-v1.5")
    ('pairs', 'HelpSteer2', 'pairs-v1.5')
    """
    name = Path(path).name
    if file_format(name) is None:
        return name
    return Path(name[:-3] if name.lower().endswith(".gz") else name).stem
