"""Scores as columns of a row, and the proof that those in a file are this model's.

In: a row's requests (`requests.py`) and their nested scores. Out: {"score": ...} and {"scores": ...}, as `files.py`
draws them.
"""

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from .aggregates import aggregated
from .lines import flat
from .progress import Progress
from .requests import Requests, node_scores


def score_columns(
    requests: Sequence[dict[str, Any]], scores: Sequence[Any], scorer: Any, column: str
) -> dict[str, Any]:
    """The columns that are written after a row's own: the scores of its only request, or a list with each request's."""
    each = [_of_request(request, score, scorer) for request, score in zip(requests, scores, strict=True)]
    if len(each) == 1:
        ((several, total),) = each
    else:
        several = [total if scores is None else scores for scores, total in each]
        total = [total for _, total in each]
        total = None if all(value is None for value in total) or several == total else total
    return {
        **({} if several is None else {f"{column}s": several}),
        **({} if total is None else {column: total}),
    }


def _of_request(request: dict[str, Any], score: Any, scorer: Any) -> tuple[Any, Any]:
    """(scores, score): those of several completions or steps, and the one of a completion or aggregated of steps."""
    if "steps" not in request:
        return (score, None) if isinstance(score, list) else (None, score)
    several = not score or isinstance(score[0], list)
    total = [aggregated(steps, scorer.aggregate) for steps in (score if several else [score])]
    scores = node_scores(request["parents"], score) if "parents" in request else score
    return scores, total if several else total[0]


def check_proof(scorer: Any, progress: Progress, request: Requests, column: str, out: str | Path) -> None:
    """The last rows that were written have this scorer's scores, aggregated ones too, up to rounding."""
    names = {column, f"{column}s"}
    bare = [{key: value for key, value in row.items() if key not in names} for _, row in progress.proof]
    requests = [request.all(row) for row in bare]
    scores = iter(list(scorer.score_rows(list(chain.from_iterable(requests)))))
    near = 1e-3 if str(getattr(scorer.model, "dtype", "")) == "torch.float32" else 0.05
    for (number, row), asked in zip(progress.proof, requests, strict=True):
        columns = score_columns(asked, list(islice(scores, len(asked))), scorer, column)
        before, now = (list(flat([of[name] for name in (column, f"{column}s") if name in of])) for of in (row, columns))
        if len(before) != len(now) or any(abs(a - b) > near * max(1, abs(b)) for a, b in zip(before, now, strict=True)):
            old, new = (", ".join(f"{score:.4f}" for score in scores[:4]) for scores in (before, now))
            raise ValueError(
                f"'{out}', line {number}, has the score {old}, but this model gives {new}: another model or "
                "other options made it. Choose another output, or start again with --overwrite (overwrite=True)."
            )
