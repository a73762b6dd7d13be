"""How far a file of scores got with its rows: what is there already is not scored again, and is of these rows.

In: the rows and the output of a run that was stopped, with its rejects. Out: a `Progress`.
"""

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data.files import local_files
from .lines import WINDOW, Line, read_source

_PROOF = 4  # rows of an unfinished file that are scored again: the model must be the same


@dataclass
class Progress:
    """What an output file holds already: `lines` whole ones (`size` bytes), up to row `last` of the input, from 1.

    Attributes:
        proof: its last rows with a score, each behind its line.
        rejected: the records of rows of the input that its rejects name, up to `last`.
        dropped: rows of the input that have no score there, and why.
    """

    lines: int = 0
    size: int = 0
    last: int = 0
    proof: tuple[tuple[int, dict[str, Any]], ...] = ()
    rejected: tuple[dict[str, Any], ...] = ()
    dropped: tuple[tuple[Line, str], ...] = ()


def find_progress(
    source: str | Path, out: str | Path, *, column: str = "score", overwrite: bool = False, window: int = WINDOW
) -> Progress:
    """How far `out` got with `source`: its whole lines, each of which must be a row of `source` with a score.

    Of a window that is not complete nothing counts: it is scored as a whole, so that a run that was stopped and taken
    up again gives the bits of one that was not.

    Raises:
        ValueError: `out` cannot be written, or holds something else; with the remedy.
    """
    source, out = Path(source), Path(out)
    files = _checked_files(source, out)
    if overwrite or not out.exists():
        return Progress()
    rejects, seen, last = _read_rejects(rejects_of(out)), 0, 0
    progress, whole = Progress(), Progress()
    proof, dropped, rejected = deque(maxlen=_PROOF), [], []
    with open(out, "rb") as written:
        rest = read_source(files, lambda row: {})
        for text in written:
            if not text.endswith(b"\n"):  # half a line: the run was stopped there
                break
            line = None
            for line in rest:
                if seen and seen % window == 0:
                    whole = replace(progress, last=last, proof=tuple(proof))
                seen, last = seen + 1, line.index + 1
                if (record := rejects.get(_key(line.record)) or rejects.get((None, None, line.number))) is None:
                    break
                rejected.append((line.index, record))
                line = None
            if (scored := _same_row(text, line, column)) is None:
                raise _other_rows(source, out, progress.lines + 1, line)
            row, why = scored
            if why is None:
                proof.append((progress.lines + 1, row))
            else:
                dropped.append((line, why))
            progress.lines, progress.size, progress.last = progress.lines + 1, progress.size + len(text), last
        done = seen % window == 0 or next((line for line in rest if _key(line.record) not in rejects), None) is None
    found = replace(progress, proof=tuple(proof)) if done else whole
    rejected = tuple(record for index, record in rejected if index < found.last)
    dropped = tuple((line, why) for line, why in dropped if line.index < found.last)
    return replace(found, dropped=dropped, rejected=rejected)


def _checked_files(source: Path, out: Path) -> list[Path]:
    if not source.exists():
        raise ValueError(f"'{source}' is no file or folder; expected rows: json, jsonl, csv, parquet or arrow.")
    if not out.parent.is_dir():
        raise ValueError(
            f"'{out.parent}' is no folder, so '{out}' cannot be written. Make it, or choose another place."
        )
    if out.is_dir() or (out.exists() and out.samefile(source)):
        raise ValueError(f"'{out}' is {'a folder' if out.is_dir() else 'the input itself'}. Choose another output.")
    if source.is_dir() and out.parent.samefile(source):
        raise ValueError(f"'{out}' would be one of the inputs, for it is in '{source}'. Choose another output.")
    return local_files(source)


def _other_rows(source: Path, out: Path, number: int, line: Line | None) -> ValueError:
    what = (
        f"'{source}' has no line for it"
        if line is None
        else f"it is not {line.called} of '{line.source[0]}' with a score"
    )
    return ValueError(
        f"'{out}', line {number}: {what}. Choose another output, or start again with --overwrite (overwrite=True)."
    )


def _same_row(text: bytes, line: Line | None, column: str) -> tuple[dict, str | None] | None:
    """The output's row, if it is the input's with a score; and why it has none, if it is one without."""
    try:
        scored = json.loads(text)
    except ValueError:
        return None
    names = {column, f"{column}s"}
    if line is None or not isinstance(scored, dict) or not names & scored.keys():
        return None
    before, why, error = bare(line), None, error_column(line, column)
    if scored.get(column, ...) is None and error in scored:
        why, names = scored[error], {*names, error}
    rest = {key: value for key, value in scored.items() if key not in names}
    return (scored, why) if _written(rest) == _written(before) else None


def bare(line: Line) -> dict[str, Any]:
    """What the output has of a row beside its score: the row; or where it is, if it cannot be read."""
    return line.record if line.row is None else line.row


def error_column(line: Line, column: str) -> str:
    return f"{column}_error" if "error" in bare(line) else "error"


def _written(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, default=str)


def rejects_of(out: str | Path) -> Path:
    """Where the lines are told that could not be scored.

    >>> rejects_of("scores.jsonl").name
    'scores.jsonl.rejects'
    """
    return Path(f"{out}.rejects")


def _read_rejects(path: Path) -> dict[tuple, dict]:
    if not path.exists():
        return {}
    records = [json.loads(text) for text in path.read_bytes().split(b"\n")[:-1]]
    return {_key(record): record for record in records}


def _key(record: dict) -> tuple:
    return record.get("file"), record.get("row"), record.get("line")


def write_rejects(path: Path, records: Iterable[dict], mode: str) -> None:
    text = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    if text:
        with open(path, mode) as file:
            file.write(text)
    elif mode == "wb":
        path.unlink(missing_ok=True)
