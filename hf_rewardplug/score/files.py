"""A file of rows to a file of rows with scores: in order, a window at a time, to be taken up again where it stopped.

In: a scorer and a jsonl file. Out: a jsonl file, line by line the rows that came in with a score behind their columns.

    {"prompt", "completion"}                + "score": 0.3
    {"prompt", "completions": [a, b]}       + "scores": [0.3, -1.2]
    {"chosen", "rejected"}, any format      + "scores": [0.3, -1.2]          of the chosen one, of the rejected one
    {"prompt", "steps": [a, b]}, PRM        + "scores": [0.9, 0.2], "score": 0.2       of each step, aggregated

Lines that cannot be scored stop the run, or (`skip_bad`) go to `OUT.rejects` as {"line": 7, "error": ...}.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .aggregates import aggregated
from .lines import WINDOW, Line, Requests, flat, read_lines, scored_lines

_PROOF = 4  # rows of an unfinished file that are scored again: the model must be the same


@dataclass
class Progress:
    """What an output file holds already: `lines` whole ones (`size` bytes), up to line `last` of the input.

    `proof`: its last rows; `rejected`: the lines of the input that its rejects name, up to `last`.
    """

    lines: int = 0
    size: int = 0
    last: int = 0
    proof: tuple[dict[str, Any], ...] = ()
    rejected: tuple[dict[str, Any], ...] = ()


@dataclass
class Outcome:
    """What `score_file` did: lines found in the output before, lines scored now, lines rejected in all."""

    before: int = 0
    scored: int = 0
    rejected: int = 0


def find_progress(
    source: str | Path, out: str | Path, *, column: str = "score", overwrite: bool = False, window: int = WINDOW
) -> Progress:
    """How far `out` got with `source`: its whole lines, each of which must be a line of `source` with a score.

    Of a window that is not complete nothing counts: it is scored as a whole, so that a run that was stopped and taken
    up again gives the bits of one that was not.

    Raises:
        ValueError: `out` cannot be written, or holds something else; with the remedy.
    """
    source, out = Path(source), Path(out)
    _check_paths(source, out)
    if overwrite or not out.exists():
        return Progress()
    rejects, seen, last = _read_rejects(rejects_of(out)), 0, 0
    progress, proof, whole = Progress(), deque(maxlen=_PROOF), Progress()
    with open(source, "rb") as source_lines, open(out, "rb") as written:
        rest = read_lines(source_lines, lambda row: {})
        for text in written:
            if not text.endswith(b"\n"):  # half a line: the run was stopped there
                break
            line = None
            for line in rest:
                if seen and seen % window == 0:
                    whole = replace(progress, last=last, proof=tuple(proof))
                seen, last = seen + 1, line.number
                if line.number not in rejects:
                    break
                line = None
            if (scored := _same_row(text, line, column)) is None:
                raise _other_rows(source, out, progress.lines + 1, line)
            proof.append(scored)
            progress.lines, progress.size, progress.last = progress.lines + 1, progress.size + len(text), line.number
        done = seen % window == 0 or next((line for line in rest if line.number not in rejects), None) is None
    found = replace(progress, proof=tuple(proof)) if done else whole
    return replace(found, rejected=tuple(rejects[number] for number in sorted(rejects) if number <= found.last))


def _check_paths(source: Path, out: Path) -> None:
    if not source.is_file():
        raise ValueError(f"'{source}' is no file; expected jsonl, one row a line.")
    if not out.parent.is_dir():
        raise ValueError(
            f"'{out.parent}' is no folder, so '{out}' cannot be written. Make it, or choose another place."
        )
    if out.is_dir() or (out.exists() and out.samefile(source)):
        raise ValueError(f"'{out}' is {'a folder' if out.is_dir() else 'the input itself'}. Choose another output.")


def _other_rows(source: Path, out: Path, number: int, line: Line | None) -> ValueError:
    what = (
        f"'{source}' has no line for it" if line is None else f"it is not line {line.number} of '{source}' with a score"
    )
    return ValueError(
        f"'{out}', line {number}: {what}. Choose another output, or start again with --overwrite (overwrite=True)."
    )


def _same_row(text: bytes, line: Line | None, column: str) -> dict | None:
    """The output's row, if it is the input's with a score."""
    try:
        scored = json.loads(text)
    except ValueError:
        return None
    names = {column, f"{column}s"}
    if line is None or not isinstance(scored, dict) or not names & scored.keys():
        return None
    bare = {key: value for key, value in scored.items() if key not in names}
    return scored if json.dumps(bare, sort_keys=True) == json.dumps(line.row, sort_keys=True) else None


def rejects_of(out: str | Path) -> Path:
    """Where the lines are told that could not be scored.

    >>> rejects_of("scores.jsonl").name
    'scores.jsonl.rejects'
    """
    return Path(f"{out}.rejects")


def _read_rejects(path: Path) -> dict[int, dict]:
    if not path.exists():
        return {}
    records = [json.loads(text) for text in path.read_bytes().split(b"\n")[:-1]]
    return {record["line"]: record for record in records}


def score_file(
    scorer: Any,
    source: str | Path,
    out: str | Path,
    *,
    skip_bad: bool = False,
    overwrite: bool = False,
    column: str = "score",
    window: int = WINDOW,
    progress: Progress | None = None,
) -> Outcome:
    """Score the lines of `source` into `out`; where `out` has some already, go on behind them.

    Args:
        scorer: a `RewardScorer`.
        skip_bad: go on behind lines that cannot be scored, and write them to `rejects_of(out)`.
        overwrite: start again.
        column: name of the new column; "s" is added where a row has several scores.
        window: lines in memory, and those that a stopped run loses.
        progress: what `find_progress` found, if it was asked before.

    Raises:
        ValueError: a line that cannot be scored (those before it are written), or `out` holds other rows or scores.
    """
    if progress is None:
        progress = find_progress(source, out, column=column, overwrite=overwrite, window=window)
    request = Requests(column)
    with open(source, "rb") as lines:  # a format of pairs is told from the first of them, in a run resumed too
        any(request.adapter for _ in islice(read_lines(lines, request), WINDOW))
    _check_proof(scorer, progress, request, column, out)
    outcome = Outcome(before=progress.lines, rejected=len(progress.rejected))
    bar = tqdm(desc="Reading", total=Path(source).stat().st_size, unit="B", unit_scale=True, leave=False, disable=None)
    with open(source, "rb") as lines, open(out, "ab") as written, bar:
        written.truncate(progress.size)
        _write_rejects(rejects_of(out), progress.rejected, "wb")
        bar.update(sum(map(len, islice(lines, progress.last))))
        found = scored_lines(scorer, read_lines(lines, request, start=progress.last + 1), window=window)
        while batch := list(_until_bad(islice(found, window), skip_bad)):
            bad = [line for line, _ in batch if line.error is not None]
            good = [(line, score) for line, score in batch if line.error is None]
            if skip_bad:  # before the rows: who goes on must know which lines are not among them
                _write_rejects(rejects_of(out), [{"line": line.number, "error": line.error} for line in bad], "ab")
            written.write(b"".join(_encoded(line, score, scorer, column) for line, score in good))
            written.flush()
            outcome.scored, outcome.rejected = outcome.scored + len(good), outcome.rejected + len(bad)
            if bad and not skip_bad:
                raise _stopped(source, out, bad[0], outcome.before + outcome.scored)
            bar.update(lines.tell() - bar.n)
    return outcome


def _stopped(source: str | Path, out: str | Path, line: Line, rows: int) -> ValueError:
    return ValueError(
        f"'{source}', line {line.number}: {line.error.rstrip('.')}. '{out}' has the {rows} rows before it: mend the "
        "line and go on with the same command, or pass over such lines with --skip-bad (skip_bad=True)."
    )


def _until_bad(pairs: Iterable[tuple[Line, Any]], skip_bad: bool) -> Iterator[tuple[Line, Any]]:
    for line, score in pairs:
        yield line, score
        if line.error is not None and not skip_bad:
            return


def _write_rejects(path: Path, records: Iterable[dict], mode: str) -> None:
    text = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    if text:
        with open(path, mode) as file:
            file.write(text)
    elif mode == "wb":
        path.unlink(missing_ok=True)


def _columns(request: dict[str, Any], score: Any, scorer: Any, column: str) -> dict[str, Any]:
    """What is written behind a row's columns."""
    scores = {f"{column}s" if isinstance(score, list) else column: score}
    if "steps" in request:
        several = not score or isinstance(score[0], list)
        total = [aggregated(steps, scorer.aggregate) for steps in (score if several else [score])]
        scores[column] = total if several else total[0]
    return scores


def _encoded(line: Line, score: Any, scorer: Any, column: str) -> bytes:
    scores = _columns(line.request, score, scorer, column)
    text = json.dumps({**line.row, **scores}, ensure_ascii=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps({**line.row, **scores}).encode() + b"\n"


def _check_proof(scorer: Any, progress: Progress, request: Requests, column: str, out: str | Path) -> None:
    """The last rows that were written have this scorer's scores, aggregated ones too, up to rounding."""
    names = {column, f"{column}s"}
    rows = [{key: value for key, value in row.items() if key not in names} for row in progress.proof]
    requests = [request(row) for row in rows]
    found = zip(progress.proof, requests, scorer.score_rows(requests), strict=True)
    near = 1e-3 if str(getattr(scorer.model, "dtype", "")) == "torch.float32" else 0.05
    first = progress.lines - len(rows) + 1
    for number, (row, asked, score) in enumerate(found, first):
        columns = _columns(asked, score, scorer, column)
        before, now = (list(flat([of[name] for name in (column, f"{column}s") if name in of])) for of in (row, columns))
        if len(before) != len(now) or any(abs(a - b) > near * max(1, abs(b)) for a, b in zip(before, now, strict=True)):
            told = [", ".join(f"{score:.4f}" for score in scores[:4]) for scores in (before, now)]
            raise ValueError(
                f"'{out}', line {number}, has the score {told[0]}, but this model gives {told[1]}: another model or "
                "other options made it. Choose another output, or start again with --overwrite (overwrite=True)."
            )
