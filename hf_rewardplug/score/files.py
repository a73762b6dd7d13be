"""Files of rows to a file of rows with scores: in order, a window at a time, to be taken up again where it stopped.

In: a scorer and a file or folder of any format that training reads. Out: a jsonl file, line by line the rows that came
in with a score behind their columns.

    {"prompt", "completion"}                + "score": 0.3
    {"prompt", "completions": [a, b]}       + "scores": [0.3, -1.2]
    {"chosen", "rejected"}, any format      + "scores": [0.3, -1.2]          of the chosen one, of the rejected one
    {"prompt", "steps": [a, b]}, PRM        + "scores": [0.9, 0.2], "score": 0.2       of each step, aggregated
    a tree of steps, PRM                    + "scores": one a node, "score": one a path to a last step
    what an adapter makes several rows of   + "scores" (and "score"), a list of the above

A row that cannot be scored stops the run; or (`on_bad_row="drop"`) it gets `"score": null, "error": why`; or
(`skip_bad`) it goes to `OUT.rejects` as {"line": 7, "error": why}; when it is mended, the same command scores it. A row
with nothing to score (a tie of the annotators, or one over `max_length`) gets null in the first two cases.

The rows may come from standard input, and the scores go to standard output: "-".
"""

import contextlib
import inspect
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from tqdm.auto import tqdm

from ..checks import listed
from ..data.files import local_files
from ..data.pipeline import ON_BAD_ROW
from ..data.preparation_report import PreparationReport, check_refused
from .lines import WINDOW, Line, count_source, read_source, scored_lines, seekable
from .progress import Progress, check_places, digest, encoded, error_column, find_progress
from .requests import Requests
from .score_columns import check_proof, score_columns
from .sidecars import check_options, is_stream, opened, read_rejects, rejects_of, write_rejects

__all__ = ["Outcome", "Progress", "find_progress", "rejects_of", "score_file"]


@dataclass
class Outcome:
    """What `score_file` did.

    Attributes:
        before: lines found in the output. scored: rows scored now. rejected: rows rejected in all.
        report: all rows of the input, and those without a score by their numbers.
    """

    before: int = 0
    scored: int = 0
    rejected: int = 0
    report: PreparationReport = field(default_factory=lambda: PreparationReport("scores"))


def score_file(
    scorer: Any,
    source: str | Path,
    out: str | Path,
    *,
    on_bad_row: str = "error",
    skip_bad: bool = False,
    overwrite: bool = False,
    column: str = "score",
    window: int = WINDOW,
    adapter: str | None = None,
    column_mapping: Mapping[str, str] | None = None,
    ignore_columns: Sequence[str] | None = None,
) -> Outcome:
    """Score the rows of `source` into `out`; where `out` has some already, go on behind them.

    Args:
        scorer: a `RewardScorer`, or a function that loads it, which is called when all else is in order.
        source: a json, jsonl, csv, parquet or arrow file, gzipped or not, or a folder of one kind of them; "-" or a
            pipe has jsonl.
        out: a file, for one run at a time; "-" is standard output, which nothing is taken up from.
        on_bad_row: "error" stops at a row that cannot be scored; "drop" writes it with `null` and what is wrong.
        skip_bad: go on behind rows that cannot be scored, and write them to `rejects_of(out)` instead of `out`.
        overwrite: start again.
        column: name of the new column; "s" is added where a row has several scores.
        window: rows in memory, and those that a stopped run loses.
        adapter, column_mapping, ignore_columns: format of the rows, as in the trainers' configs. When None, plain rows
            are taken as they are, and another format is found from the columns.

    Raises:
        ValueError: a row that cannot be scored (those before it are written), every row, or `out` holds other rows or
            scores, was begun with other options, or another run writes to it.
    """
    _check_bad_rows(on_bad_row, skip_bad)
    row_format = {"adapter": adapter, "column_mapping": column_mapping, "ignore_columns": ignore_columns}
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(seekable(Path(source)))
        check_places(source, Path(out))
        written = stack.enter_context(opened(Path(out)))
        progress = find_progress(source, out, column=column, overwrite=overwrite, window=window)
        if skip_bad:
            _check_rejects(out)
        files, request = local_files(source), Requests(column, **row_format, any_format=True)
        deque(islice(read_source(files, request), WINDOW), maxlen=0)  # the format and the columns, before a run goes on
        request.check_ignored()
        scorer = scorer() if inspect.isfunction(scorer) else scorer
        check_proof(scorer, progress, request, column, out)
        check_options(out, _options(scorer, request), goes_on=progress.last > 0)
        run = _Run(Path(out), scorer, column, keep_bad=not skip_bad, stop=on_bad_row == "error" and not skip_bad)
        return _score_rest(run, files, request, progress, written, window)


def _check_bad_rows(on_bad_row: str, skip_bad: bool) -> None:
    """A `ValueError` unless they say one thing."""
    if on_bad_row not in ON_BAD_ROW or (skip_bad and on_bad_row == "drop"):
        known = f"{listed(ON_BAD_ROW)}, or skip_bad=True"
        raise ValueError(f"on_bad_row={on_bad_row!r}, skip_bad={skip_bad}: expected one of {known}.")


def _check_rejects(out: str | Path) -> None:
    """A `ValueError` if `rejects_of(out)` is a file of somebody else's, which must stay as it is."""
    if read_rejects(out) is None:
        raise ValueError(
            f"'{rejects_of(out)}' is not a file of this command, which keeps rows without a score there. Move it, "
            "or choose another output."
        )


def _score_rest(
    run: "_Run", files: list[Path], request: Requests, progress: Progress, written: IO[bytes], window: int
) -> Outcome:
    """Score the rows behind those that `progress` has."""
    run.outcome.before, run.outcome.rejected = progress.lines, len(progress.rejected)
    run.outcome.report.examples = progress.lines - len(progress.dropped)
    for line, why in progress.dropped:
        run.leave_out(line, why)
    bar = tqdm(desc="Reading", total=count_source(files), initial=progress.last, unit="row", leave=False, disable=None)
    with bar:
        if not is_stream(run.out):
            written.truncate(progress.size)
            if read_rejects(run.out) is not None:
                write_rejects(run.out, progress.rejected, "w")
        lines = scored_lines(run.scorer, read_source(files, request, start=progress.last), window=window)
        while batch := list(run.until_bad(islice(lines, window))):
            run.write(batch, written)
            bar.update(len(batch))
    run.outcome.report.rows = run.outcome.report.examples + sum(map(len, run.outcome.report.dropped.values()))
    check_refused(run.outcome.report)
    return run.outcome


def _options(scorer: Any, request: Requests) -> dict[str, Any]:
    """What scores depend on beside the model and the rows, by the names of the options."""
    encoder, prm = getattr(scorer, "encoder", None), getattr(scorer, "kind", None) == "prm"
    options = {name: getattr(scorer, name, None) for name in ("normalize", "as_text")}
    options |= {name: getattr(scorer, name, None) for name in ("aggregate", "separator") if prm}
    options |= {name: getattr(encoder, name, None) for name in ("step_separator", "step_token") if prm}
    options |= getattr(scorer, "label_options", {})
    if getattr(encoder, "overlong", None) == "truncate":
        options["max_length"] = encoder.max_length
    options["chat_template_kwargs"] = getattr(encoder, "chat_template_kwargs", None)
    options["dtype"] = str(getattr(scorer.model, "dtype", None)).removeprefix("torch.")
    options["adapter"] = request.adapter and request.adapter.name
    return options | {"column_mapping": request.mapping, "ignore_columns": request.ignored}


@dataclass
class _Run:
    """Where scores go, and what becomes of rows that have none.

    Attributes:
        keep_bad: rows without a score are written to `out`, or else to its rejects.
        stop: the first bad one is an error.
    """

    out: Path
    scorer: Any
    column: str
    keep_bad: bool
    stop: bool
    outcome: Outcome = field(default_factory=Outcome)

    def until_bad(self, pairs: Iterable[tuple[Line, Any]]) -> Iterator[tuple[Line, Any]]:
        """All pairs, or those up to the first that stops the run."""
        for line, score in pairs:
            yield line, score
            if self._stops(line):
                return

    def _stops(self, line: Line) -> bool:
        return self.stop and line.error is not None and not line.left_out

    def write(self, batch: list[tuple[Line, Any]], written: IO[bytes]) -> None:
        """Append a window's rows; its rejects first: who goes on must know which rows are not among those written.

        Raises:
            ValueError: the last row stops the run.
        """
        outcome, stops = self.outcome, self._stops(batch[-1][0])
        bad = [line for line, _ in batch if line.error is not None]
        if not self.keep_bad:
            records = [{**line.record, "error": line.error, "digest": digest(line)} for line in bad]
            write_rejects(self.out, records, "a")
            outcome.rejected += len(bad)
            batch = [(line, scores) for line, scores in batch if line.error is None]
        batch = batch[:-1] if stops else batch
        written.write(b"".join(encoded(line, self._new_columns(line, scores)) for line, scores in batch))
        written.flush()
        for line, _ in batch:
            if line.error is not None:
                self.leave_out(line, line.error)
        now = sum(line.error is None for line, _ in batch)
        outcome.scored, outcome.report.examples = outcome.scored + now, outcome.report.examples + now
        if stops:
            raise self._stopped(bad[-1])

    def leave_out(self, line: Line, why: str) -> None:
        file, number = line.source
        place = f"row {number} of {file.name}" if line.several else None
        refused = None if line.left_out else line.general or why
        self.outcome.report.leave_out(line.index, why, refused=refused, place=place)

    def _new_columns(self, line: Line, scores: Any) -> dict[str, Any]:
        if line.error is not None:
            return {self.column: None, error_column(line, self.column): line.error}
        return score_columns(line.requests, scores, self.scorer, self.column)

    def _stopped(self, line: Line) -> ValueError:
        rows, why = self.outcome.before + self.outcome.scored, line.error.removesuffix(".")
        before = f"'{self.out}' has the {rows} rows before it: mend the row and go on with the same command"
        before = f"{rows} rows stand before it: mend the row and start again" if is_stream(self.out) else before
        return ValueError(
            f"{line.place}: {why}. {before}; or write such rows without a score, --on-bad-row drop "
            "(on_bad_row='drop'); or pass over them, --skip-bad (skip_bad=True)."
        )
