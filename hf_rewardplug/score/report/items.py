"""eval_items.jsonl, line by line, checked: what a run's held-out examples are, by the first key that a line has.

    completions    a pair                     PAIR        "lengths" and "subset" may be null or left out
    text           a scored completion        SCORED      by attribute, or by "score"; a score that is null is not rated
    steps          a solution                 SOLUTION    "outcome" may be left out

All lines of a file are of one kind.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...checks import is_number, shown
from ...data.canonical import UNLABELLED
from ...texts import clean

PAIR = '{"prompt": str, "completions": [chosen, rejected], "scores": [2 numbers], "lengths": [2 tokens], "subset": str}'
SCORED = '{"text": str, "rewards" or "probabilities": {name: number}, "scores": {name: number or null}, "subset": str}'
SOLUTION = (
    '{"prompt": str, "steps": [str], "probabilities": [0 to 1], "labels": [0 to 1, or -100], "outcome": 0 to 1, '
    '"subset": str}'
)
_MOST = 3.4e38  # fp32's greatest number

FORMS = {"completions": PAIR, "text": SCORED, "steps": SOLUTION}


def parsed(text: str) -> Any:
    """JSON. A number that no fp32 holds is infinite, and control characters have names: neither can be drawn.

    Raises:
        ValueError: it is none, or is nested too deeply to be read.
    """
    try:
        return _cleaned(json.loads(text, parse_int=_number, parse_float=_number))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _cleaned(value: Any) -> Any:
    if isinstance(value, list):
        return [_cleaned(part) for part in value]
    if isinstance(value, dict):
        return {clean(key): _cleaned(part) for key, part in value.items()}
    return clean(value) if isinstance(value, str) else value


def _number(text: str) -> int | float:
    value = float(text)
    return math.copysign(math.inf, value) if abs(value) > _MOST else int(text) if text.lstrip("-").isdigit() else value


def form_of(item: Any) -> str | None:
    """Which of `FORMS` a line is; None: of none."""
    return next((form for form in FORMS if isinstance(item, dict) and form in item), None)


def read_items(path: Path) -> Iterator[dict[str, Any]]:
    """Examples in the file's order, each with its "line"; none where there is no file.

    Raises:
        ValueError: a line cannot be read, by its number.
    """
    if not path.is_file():
        return
    form = None
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                item = parsed(line)
                why = _fault(item, form)
            except ValueError as error:
                why = f"no JSON: {error}"
            if why:
                expected = " or ".join(FORMS.values()) if form is None else FORMS[form]
                raise ValueError(
                    f"'{path}', line {number}: {why}. Expected {expected}; write it anew, or remove the file."
                )
            form = form_of(item)
            yield {**item, "line": number}


def _fault(item: Any, form: str | None) -> str | None:
    """What is wrong with a line, or None."""
    found = form_of(item)
    if found is None or found != (form or found):
        return f"found {shown(sorted(item)) if isinstance(item, dict) else type(item).__name__}"
    key = "text" if found == "text" else "prompt"
    if not isinstance(item.get(key), str):
        return f"'{key}' is no text"
    if not isinstance(item.get("subset"), str | None):
        return f"'subset' is a {type(item['subset']).__name__}, not text"
    return {"completions": _pair_fault, "text": _scored_fault, "steps": _solution_fault}[found](item)


def _pair_fault(item: dict) -> str | None:
    if fault := _list_fault(item, "completions", 2, str) or _list_fault(item, "scores", 2):
        return fault
    if item.get("lengths") is None or (fault := _list_fault(item, "lengths", 2)):
        return fault
    strange = [length for length in item["lengths"] if not 0 <= length < math.inf]
    return f"'lengths' holds {strange[0]}, no number of tokens" if strange else None


def _scored_fault(item: dict) -> str | None:
    key = "probabilities" if "probabilities" in item else "rewards"
    if {"probabilities", "rewards"} <= item.keys():
        return "found both 'rewards' and 'probabilities'"
    rewards, scores = item.get(key), item.get("scores")
    if not isinstance(rewards, dict) or not isinstance(scores, dict) or not rewards or rewards.keys() != scores.keys():
        return f"'{key}' and 'scores' are no objects with the same names"
    if strange := [value for value in rewards.values() if not is_number(value)]:
        return f"'{key}' holds {shown(strange[0])}"
    if strange := [score for score in scores.values() if not (score is None or is_number(score))]:
        return f"'scores' holds {shown(strange[0])}"
    bounded = (
        [] if key == "rewards" else [*rewards.values(), *(score for score in scores.values() if score is not None)]
    )
    strange = [value for value in bounded if not _is_share(value)]
    return f"'{key}' or 'scores' holds {strange[0]}, no probability" if strange else None


def _solution_fault(item: dict) -> str | None:
    steps = item["steps"]
    if not isinstance(steps, list) or not steps:
        return "'steps' is no list of texts, or empty"
    fault = (
        _list_fault(item, "steps", len(steps), str)
        or _list_fault(item, "probabilities", len(steps))
        or _list_fault(item, "labels", len(steps))
    )
    if fault:
        return fault
    if strange := [p for p in item["probabilities"] if not _is_share(p)]:
        return f"'probabilities' holds {strange[0]}"
    if strange := [label for label in item["labels"] if label != UNLABELLED and not 0 <= label <= 1]:
        return f"'labels' holds {strange[0]}"
    outcome = item.get("outcome")
    fits = outcome is None or (is_number(outcome) and 0 <= outcome <= 1)
    return None if fits else f"'outcome' is {shown(outcome)}"


def _is_share(value: float) -> bool:
    return 0 <= value <= 1 or math.isnan(value)


def _list_fault(item: dict, key: str, length: int, of: type | None = None) -> str | None:
    values = item.get(key)
    fits = isinstance(values, list) and len(values) == length
    if fits and all(isinstance(value, of) if of else is_number(value) for value in values):
        return None
    found = f"{len(values)} values" if isinstance(values, list) else type(values).__name__
    return f"'{key}' is no list of {length} {'texts' if of else 'numbers'} (found: {found})"
