"""Which prompts a scorer refuses, each by itself: the scorer names the first one, and stops there.

In: a scorer, prompts and what is scored of them. Out: {index of the prompt: what is wrong with it}.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from ..checks import RowError
from .forward import ScoredRows


def refusals(
    scorer: Any, prompts: Sequence[Any], items: Sequence[Any], *, method: str = "score", **more: Sequence[Any]
) -> dict[int, RowError]:
    """What `scorer` says of each prompt that it refuses.

    Args:
        method: "score" or "score_steps".
        more: arguments of it, with a value for each prompt.

    A `RewardScorer` encodes the prompts and computes nothing. Any other scorer is asked for halves, down to the prompts
    that are at fault.
    """
    if isinstance(scorer, ScoredRows):
        call, size = getattr(_without_model(scorer), method), 1
    else:
        call, size = getattr(scorer, method), len(prompts)
    indices = range(len(prompts))
    refused: dict[int, RowError] = {}
    for start in range(0, len(prompts), size or 1):
        refused |= _refused(call, prompts, items, indices[start : start + size], more)
    return refused


def _refused(
    call: Any, prompts: Sequence[Any], items: Sequence[Any], indices: Sequence[int], more: dict[str, Sequence[Any]]
) -> dict[int, RowError]:
    if not indices:
        return {}
    try:
        of_indices = {name: [values[index] for index in indices] for name, values in more.items()}
        call([prompts[index] for index in indices], [items[index] for index in indices], **of_indices)
    except ValueError as error:
        if len(indices) == 1:
            return {indices[0]: _of_prompt(error)}
        middle = len(indices) // 2
        halves = (_refused(call, prompts, items, half, more) for half in (indices[:middle], indices[middle:]))
        return {index: reason for half in halves for index, reason in half.items()}
    return {}


def _of_prompt(error: ValueError) -> RowError:
    """What is wrong with the only prompt that was asked for.

    >>> str(_of_prompt(RowError("is None", "completion", row="completions[0][1]", item=1)))
    "completion 1: column 'completion': is None"
    """
    if not isinstance(error, RowError):  # another class of scorers raised it
        return RowError(str(error))
    place = f"completion {error.item}: " if error.item else ""
    return RowError(place + error.what, general=place + error.general)


def _without_model(scorer: ScoredRows) -> ScoredRows:
    """A copy of the scorer that encodes every row, computes nothing, and gives zeros as scores."""
    probe = object.__new__(type(scorer))
    vars(probe).update(vars(scorer), flat_outputs=lambda rows: _zeros(scorer, rows))
    return probe


def _zeros(scorer: ScoredRows, rows: Any) -> Iterator[list[Any]]:
    for row in rows:
        count = sum(label == 1 for label in scorer.encode(row)["labels"])
        yield [0.0] * count if scorer.kind == "prm" else [[0.0] * len(scorer.attributes or "1")] * count
