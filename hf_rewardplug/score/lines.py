"""Lines of jsonl to scores, as many in memory as a window has.

In: lines as bytes. Out: `Line`s, each with its number, its row and what a scorer is asked, or what is wrong with it;
and their scores, in order.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from ..data.adapters import Adapter, detect_adapter
from ..data.canonical import RowError, template_arguments
from ..data.expansion import to_pairs
from .inputs import EXPECTED, key_of

WINDOW = 1024
"""lines that are read and scored at a time"""


@dataclass(frozen=True)
class Line:
    """A line of the input: its number from 1, its row, what the scorer is asked; or what is wrong with it."""

    number: int
    row: dict[str, Any] | None = None
    request: dict[str, Any] | None = None
    error: str | None = None


class Requests:
    """Rows of jsonl -> what `RewardScorer.score_rows` takes. Formats of pairs are told from the first one.

    >>> Requests()({"prompt": "2+2?", "chosen": "4", "rejected": "5"})
    {'prompt': '2+2?', 'completions': ['4', '5']}
    """

    def __init__(self, column: str = "score") -> None:
        self.adapter: Adapter | None = None
        self.taken = (column, f"{column}s")

    def __call__(self, row: Any) -> dict[str, Any]:
        """Raises `ValueError` where the row has nothing to score."""
        if not isinstance(row, dict):
            raise RowError(f"found {type(row).__name__}; expected a JSON object")
        if taken := [key for key in self.taken if key in row]:
            raise RowError("is there already; name the new one otherwise: --column (column=...)", column=taken[0])
        if key := key_of(row):
            solution = key == "completions" and row.get("labels") is not None  # as it trains, no list of completions
            asked = {"prompt": row["prompt"] or "", **template_arguments(row)}
            return {**asked, "steps" if solution else key: row[key]}  # the key last: `_without_row_number`
        if "chosen" in row and "rejected" in row:
            self.adapter = self.adapter or detect_adapter(list(row), row)
            pairs = [pair for found in self.adapter(row) for pair in to_pairs(found)]
            if len(pairs) != 1:
                raise RowError(f"adapter '{self.adapter.name}' gives {len(pairs)} pairs; expected one")
            pair = pairs[0]
            asked = {"prompt": pair.get("prompt", ""), **template_arguments(pair)}
            return {**asked, "completions": [pair["chosen"], pair["rejected"]]}
        raise RowError(f"found {sorted(row)}; {EXPECTED}, or 'chosen' and 'rejected'. Rename the columns")


def read_lines(lines: Iterable[bytes], request: Callable[[Any], dict], *, start: int = 1) -> Iterator[Line]:
    """Parsed lines, one at a time, numbered from `start`; blank ones are passed over.

    >>> [line.error for line in read_lines([b'{"prompt": "a", "completion": "b"}', b"", b"{"], Requests())]
    [None, 'no JSON: Expecting property name enclosed in double quotes at character 2']
    """
    for number, text in enumerate(lines, start):
        if not text.strip():
            continue
        try:
            row = json.loads(text.decode("utf-8-sig" if number == 1 else "utf-8"))
        except json.JSONDecodeError as error:
            yield Line(number, error=f"no JSON: {error.msg} at character {error.pos + 1}")
            continue
        except UnicodeDecodeError as error:
            yield Line(number, error=f"no UTF-8: {error.reason} at byte {error.start + 1}")
            continue
        try:
            yield Line(number, row, request(row))
        except Exception as error:  # a third party's adapter can fail in any way
            yield Line(number, row, error=str(error) if isinstance(error, ValueError) else repr(error))


def scored_lines(scorer: Any, lines: Iterable[Line], *, window: int = WINDOW) -> Iterator[tuple[Line, Any]]:
    """(line, score) in order, `window` lines in memory; one that cannot be scored has its `error` set."""
    lines = iter(lines)
    while batch := list(islice(lines, window)):
        scores = _scores(scorer, [line for line in batch if line.error is None])
        for line in batch:
            yield next(scores) if line.error is None else (line, None)


def _scores(scorer: Any, lines: list[Line]) -> Iterator[tuple[Line, Any]]:
    """The scorer refuses a window as a whole: its halves are tried, down to the lines that are at fault."""
    if not lines:
        return
    try:
        found = list(scorer.score_rows([line.request for line in lines], window=len(lines)))
    except ValueError as error:
        if len(lines) > 1:
            middle = len(lines) // 2
            yield from _scores(scorer, lines[:middle])
            yield from _scores(scorer, lines[middle:])
        else:
            yield replace(lines[0], error=_without_row_number(str(error), lines[0])), None
        return
    for line, score in zip(lines, found, strict=True):
        finite = all(map(math.isfinite, flat(score)))
        yield line if finite else replace(line, error=f"the score is not finite: {score}"), score


def _without_row_number(message: str, line: Line) -> str:
    """The scorer's "row 0[1]: ..." as "completions[1]: ..."; the caller knows the line's number."""
    key = [*line.request][-1]
    return re.sub(r"^row 0(\[\d+\])?(:?) ", lambda m: f"{key}{m[1] or ''}{m[2]} " if m[1] or not m[2] else "", message)


def flat(score: Any) -> Iterator[float]:
    """The numbers of a nested list.

    >>> list(flat([0.5, [1.0]]))
    [0.5, 1.0]
    """
    if isinstance(score, list):
        for one in score:
            yield from flat(one)
    else:
        yield score
