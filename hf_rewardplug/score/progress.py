"""How far a file of scores got with its rows: what is there already is not scored again, and is of these rows.

In: the rows and the output of a run that was stopped, with its rejects. Out: a `Progress`.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data.canonical import hash63
from ..data.files import local_files
from .lines import WINDOW, Line, read_source
from .sidecars import is_stream, json_text, place_of, read_rejects

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

    Nothing counts of a window that is not complete: it is scored again as a whole, so that a run that was stopped gives
    the same bits as one that was not. Nor does anything count after a row that had no score and has been mended.

    Raises:
        ValueError: `out` cannot be written, or holds something else; with the remedy.
    """
    source, out = Path(source), Path(out)
    files = check_places(source, out)
    if overwrite or is_stream(out) or not out.exists():
        return Progress()
    rejects, progress, whole = read_rejects(out) or {}, Progress(), Progress()
    last, mended, torn, strange, dropped, rejected = 0, False, False, None, [], []
    with open(out, "rb") as written:
        rest = read_source(files, lambda row: {})
        for text in written:
            line = None
            for line in rest:
                if last and last % window == 0 and not mended:
                    whole = replace(progress, last=last)
                last = line.index + 1
                if (record := _record_of(line, rejects)) is None:
                    break
                mended = mended or _is_mended(line, record)
                rejected.append((line.index, record))
                line = None
            if torn := not text.endswith(b"\n"):  # half a line: the run was stopped there
                if line is None or not _begins(text, line, column):
                    raise _other_rows(source, out, progress.lines + 1, line)
                break
            row, why, same = _row_of(text, line, column)
            if not same:
                strange = _other_rows(source, out, progress.lines + 1, line)
                if why is None:
                    raise strange
                mended = True
            elif why is None:
                progress.proof = (*progress.proof, (progress.lines + 1, row))[-_PROOF:]
            else:
                dropped.append((line, why))
            progress.lines, progress.size, progress.last = progress.lines + 1, progress.size + len(text), last
        has_ended = all(_is_rejected(line, rejects) for line in rest)
    if strange and not (progress.proof or dropped):  # not a row of it is known: it may be anybody's
        raise strange
    done = not mended and not torn and (has_ended or last % window == 0)
    return _without_scores(progress if done else whole, rejected, dropped)


def _without_scores(progress: Progress, rejected: list[tuple[int, dict]], dropped: list[tuple[Line, str]]) -> Progress:
    """The progress, with those of the rejected and the dropped rows that it covers."""
    records = tuple(record for index, record in rejected if index < progress.last)
    lines = tuple((line, why) for line, why in dropped if line.index < progress.last)
    return replace(progress, dropped=lines, rejected=records)


def _is_rejected(line: Line, rejects: dict[tuple, dict]) -> bool:
    """Whether the rejects name the row as it is now."""
    record = _record_of(line, rejects)
    return record is not None and not _is_mended(line, record)


def _record_of(line: Line, rejects: dict[tuple, dict]) -> dict | None:
    return rejects.get(place_of(line.record)) or rejects.get((None, None, line.number))


def _is_mended(line: Line, record: dict) -> bool:
    """Whether a row that was rejected is another one now; earlier versions did not keep what it was."""
    return record.get("digest") not in (None, digest(line))


def digest(line: Line) -> int:
    """Of a row, or of what is wrong where it cannot be read."""
    return hash63(json.dumps(line.error) if line.row is None else _written(line.row))


def check_places(source: Path, out: Path) -> list[Path]:
    """The files of `source`, unless it is not there, or `out` cannot be written or is one of them: a `ValueError`."""
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


def _begins(text: bytes, line: Line, column: str) -> bool:
    """Whether it is the beginning of a row of the input with a score."""
    head = encoded(line, {column: None}).removesuffix(b'": null}\n')
    return text[: len(head)] == head[: len(text)]


def _row_of(text: bytes, line: Line | None, column: str) -> tuple[dict, str | None, bool]:
    """A row of the output with a score; why it has none, if it is one without; and whether it is the input's row."""
    try:
        scored = json.loads(text)
    except (ValueError, RecursionError):
        scored = None
    names = {column, f"{column}s"}
    if line is None or not isinstance(scored, dict) or not names & scored.keys():
        return {}, None, False
    before, why, error = bare(line), None, error_column(line, column)
    if scored.get(column, ...) is None and error in scored:
        why, names = scored[error], {*names, error}
    rest = {key: value for key, value in scored.items() if key not in names}
    return scored, why, _written(rest) == _written(before)


def bare(line: Line) -> dict[str, Any]:
    """What the output has of a row beside its score: the row; or where it is, if it cannot be read."""
    return line.record if line.row is None else line.row


def error_column(line: Line, column: str) -> str:
    return f"{column}_error" if "error" in bare(line) else "error"


def encoded(line: Line, columns: dict[str, Any]) -> bytes:
    """A line of the output: the row, and behind its columns those with its scores."""
    text = json_text({**bare(line), **columns}, ensure_ascii=False)
    return text.encode(errors="backslashreplace") + b"\n"  # half of a surrogate pair, as JSON writes it


def _written(row: dict[str, Any]) -> str:
    return json_text(row, sort_keys=True)
