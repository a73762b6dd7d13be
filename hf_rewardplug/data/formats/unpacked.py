"""Files as pyarrow and `datasets` can read them: unpacked, and of a csv file its typed cells.

In: files of one format. Out: the same rows in files without `.gz` and without csv, written once into the cache of
`datasets` under a name that changes with the file; or a `BrokenFile`.
"""

import contextlib
import gzip
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import IO

import datasets

import hf_rewardplug

from ..fingerprint import file_state
from .csv_cells import CsvError, column_kinds, write_parquet
from .file_rows import BrokenFile, bare_name, file_format

_ODD = re.compile(r"[^\w./ -]")  # x[1], a::b (a chain of URLs to fsspec), $HOME, which datasets reads as something else


def table_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files that `datasets` and pyarrow read in place of `paths`, which have one format.

    They are unpacked, and a csv file's cells are typed: a column has one type in all files.

    Raises:
        BrokenFile: a file that cannot be unpacked or typed, or whose header is another than the first one's.
    """
    files = [Path(path) for path in paths]
    if file_format(files[0]) != "csv":
        return [plain_file(file) for file in files]
    kinds = [_kinds(file) for file in files]
    for file, names in zip(files, kinds, strict=True):
        if {*names} != {*kinds[0]}:
            raise BrokenFile(file, f"its columns are {', '.join(names)}, but '{files[0]}' has {', '.join(kinds[0])}", 1)
    together = {name: sorted({cell for of_file in kinds for cell in of_file[name]}) for name in kinds[0]}
    return [_typed(file, together, list(names)) for file, names in zip(files, kinds, strict=True)]


def plain_file(path: str | Path) -> Path:
    """What `path` unpacks to, or a link to it where its name may be another to `datasets`, or `path` itself."""
    path = Path(path)
    if path.suffix.lower() == ".gz" and path.is_file():
        return cached(path, Path(path.stem).suffix.lower() or ".json", _unpack)
    return cached(path, path.suffix, _link) if _ODD.search(str(path.absolute())) else path


def linked_folder(path: Path) -> Path:
    """A folder of links to the files of `path`. Its name is no pattern, and changes with the files.

    `datasets` takes a folder's name for a pattern, and knows its files by their modification time alone.
    """
    inside = [file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file()]
    inside = [file for file in inside if not any(part.startswith(".") for part in file.parts)]
    folder = _place(path, "", how=repr([file_state(path / file) for file in inside]))
    for file in inside:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (folder / file).symlink_to((path / file).absolute())
    return folder


def _kinds(path: Path) -> dict[str, list[str]]:
    """What the cells of each column of a csv file are."""

    def write(path: Path, target: Path) -> None:
        with opened(path) as file:
            target.write_text(json.dumps({name: sorted(of) for name, of in column_kinds(file).items()}))

    return json.loads(cached(path, ".json", write, how="kinds").read_text())


def _typed(path: Path, kinds: dict[str, list[str]], names: list[str]) -> Path:
    def write(path: Path, target: Path) -> None:
        with opened(path) as file:
            write_parquet(file, target, {name: {*kinds[name]} for name in names})

    return cached(path, ".parquet", write, how=repr([kinds[name] for name in names]))


def cached(path: Path, suffix: str, write: Callable[[Path, Path], None], how: str = "") -> Path:
    """What `write` makes of `path`, in the cache of `datasets`; processes that do it at the same time do no harm."""
    target = _place(path, suffix, how)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, suffix=suffix)
        os.close(handle)
        try:
            write(path, Path(name))
            os.replace(name, target)
        except CsvError as error:
            raise BrokenFile(path, str(error), error.line) from error
        finally:
            Path(name).unlink(missing_ok=True)
    return target


def _place(path: Path, suffix: str, how: str) -> Path:
    key = blake2b(repr((file_state(path), hf_rewardplug.__version__, how)).encode(), digest_size=12).hexdigest()
    return Path(datasets.config.HF_DATASETS_CACHE, "rewardplug", f"{_ODD.sub('_', bare_name(path))[:40]}-{key}{suffix}")


def _link(path: Path, target: Path) -> None:
    target.unlink()
    target.symlink_to(path.absolute())


def _unpack(path: Path, target: Path) -> None:
    with opened(path) as packed, open(target, "wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked; a `BrokenFile` where they end early or are no gzip."""
    if path.suffix.lower() != ".gz":
        with open(path, "rb") as file:
            yield file
        return
    with gzip.open(path, "rb") as file:
        try:
            yield file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            line = _lines_whole(path)
            why = f"is no whole gzip file: {error}" if line is None else f"no more can be unpacked: {error}"
            raise BrokenFile(path, why, line) from error


def _lines_whole(path: Path) -> int | None:
    """The line of a gzipped text at which no more can be unpacked."""
    if file_format(path) not in ("json", "csv"):
        return None
    line = 1
    try:
        with gzip.open(path, "rb") as file:
            while piece := file.read1(1 << 16):
                line += piece.count(b"\n")
    except (EOFError, gzip.BadGzipFile, zlib.error):
        pass
    return line
