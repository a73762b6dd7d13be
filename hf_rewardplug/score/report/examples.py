"""Examples worth reading -> dicts for the template: the most wrong pairs and completions, solutions step by step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...data.canonical import UNLABELLED
from .figures import PairFigures, first_wrong
from .plots import MOST_STEPS, SHADES, digits

MOST_PAIRS, MOST_SOLUTIONS, MOST_TEXTS = 4, 2, 4


@dataclass(frozen=True)
class Examples:
    """A group of examples: pairs (`sides`), solutions (`steps`) or scored completions (`rows`), for the template."""

    title: str
    lead: str
    pairs: Sequence[dict[str, Any]] = ()
    solutions: Sequence[dict[str, Any]] = ()
    texts: Sequence[dict[str, Any]] = ()


def pair_examples(items: list[dict], evaluated: PairFigures) -> list[Examples]:
    margins = evaluated.margins_N
    order = sorted((index for index in range(len(items)) if margins[index] < 0), key=lambda index: margins[index])
    wrong = order[:MOST_PAIRS]
    near = sorted(
        (index for index in range(len(items)) if index not in wrong and math.isfinite(margins[index])),
        key=lambda index: abs(margins[index]),
    )[:MOST_PAIRS]
    groups = [
        ("The most wrong", f"{len(order)} of {len(items)} pairs have the rejected one above the chosen one.", wrong),
        ("The closest", "Pairs whose two scores differ least.", near),
    ]
    return [
        Examples(title, lead, pairs=[_pair(items[i], float(margins[i])) for i in which])
        for title, lead, which in groups
    ]


def _pair(item: dict[str, Any], margin: float) -> dict[str, Any]:
    lengths = item.get("lengths") or (None, None)
    sides = zip(("chosen", "rejected"), item["completions"], item["scores"], lengths, strict=True)
    return {
        "head": _head(item, f"margin {_reward(margin)}"),
        "prompt": item["prompt"],
        "sides": [
            {"name": name, "text": text, "score": _reward(score), "tokens": "" if n is None else f"{n:,.0f} tokens"}
            for name, text, score, n in sides
        ],
    }


def _reward(value: float) -> str:
    """A reward for people; more digits where two do not tell it from 0."""
    return digits(value, 2 if abs(value) >= 0.05 or value == 0 else 5)


def _head(item: dict[str, Any], first: str) -> list[str]:
    return [first, *([item["subset"]] if item.get("subset") else []), f"line {item['line']} of eval_items.jsonl"]


def scored_examples(items: list[dict]) -> list[Examples]:
    """The completions that are furthest from a score, and the nearest ones."""

    def off(item: dict) -> float:
        """The greatest error of a score; NaN where none is rated."""
        rewards = item.get("rewards") or item["probabilities"]
        found = [abs(rewards[name] - score) for name, score in item["scores"].items() if score is not None]
        return max(found) if found and all(map(math.isfinite, found)) else math.nan

    rated = sorted((item for item in items if math.isfinite(off(item))), key=off)
    far = rated[::-1][:MOST_TEXTS]
    near = rated[: min(MOST_TEXTS // 2, len(rated) - len(far))]
    groups = [
        ("The furthest from their scores", "By the greatest error of a completion.", far),
        ("The nearest", "Completions whose greatest error is least.", near),
    ]
    return [
        Examples(title, lead, texts=[_scored(item, off(item)) for item in which])
        for title, lead, which in groups
        if which
    ]


def _scored(item: dict[str, Any], off: float) -> dict[str, Any]:
    rewards = item.get("rewards") or item["probabilities"]
    return {
        "head": _head(item, f"off by {_reward(off)}"),
        "text": item["text"],
        "of": "reward" if "rewards" in item else "probability",
        "rows": [
            (name, _reward(rewards[name]), "not rated" if score is None else _reward(score))
            for name, score in item["scores"].items()
        ],
    }


def outcome_examples(items: list[dict]) -> list[Examples]:
    """Of solutions whose steps are not labelled: those that are surest of the other outcome."""
    found = [(min(item["probabilities"]), item) for item in items if item.get("outcome") is not None]
    missed = sorted((pair for pair in found if pair[1]["outcome"] < 0.5 <= pair[0]), key=lambda pair: -pair[0])
    alarms = sorted((pair for pair in found if pair[0] < 0.5 <= pair[1]["outcome"]), key=lambda pair: pair[0])
    groups = [
        ("Missed", f"{len(missed)} of {len(found)} solutions are wrong, but no step is held for wrong.", missed),
        ("False alarms", f"{len(alarms)} solutions are right, but a step is held for wrong.", alarms),
    ]
    return [
        Examples(title, lead, solutions=[_solution(item) for _, item in which[:MOST_SOLUTIONS]])
        for title, lead, which in groups
    ]


def solution_examples(items: list[dict]) -> list[Examples]:
    """The worst errors that were missed, the worst false alarms, and some that were found."""

    def sureness(item: dict, wrong: bool) -> float:
        """How sure the model is of the worst step with this label that it takes for the other kind; 0: of none."""
        pairs = (
            (p, label) for p, label in zip(item["probabilities"], item["labels"], strict=True) if _differs(p, label)
        )
        return max((p if wrong else 1 - p for p, label in pairs if (label < 0.5) == wrong), default=0.0)

    missed, alarms = (
        sorted((item for item in items if sureness(item, wrong)), key=lambda item: -sureness(item, wrong))
        for wrong in (True, False)
    )
    found = [item for item in items if first_wrong(item)[0] == first_wrong(item)[1] >= 0]
    groups = [
        (
            "Missed",
            f"{len(missed)} of {len(items)} solutions have a wrong step that is held for right; the surest.",
            missed,
        ),
        ("False alarms", f"{len(alarms)} solutions have a right step that is held for wrong; the surest.", alarms),
        (
            "Found",
            f"{len(found)} solutions have a wrong step, and the first one is found; the first in the file.",
            found,
        ),
    ]
    return [
        Examples(title, lead, solutions=[_solution(item) for item in which[:MOST_SOLUTIONS]])
        for title, lead, which in groups
    ]


def _solution(item: dict[str, Any]) -> dict[str, Any]:
    steps = [
        {
            "text": text,
            "p": digits(p, 2),
            "shade": min(int(p * len(SHADES)), len(SHADES) - 1) if math.isfinite(p) else None,
            "label": _label(label),
            "verdict": "" if not _differs(p, label) else "missed" if label < 0.5 else "false alarm",
        }
        for text, p, label in zip(item["steps"], item["probabilities"], item["labels"], strict=True)
    ]
    least = min((p for p in item["probabilities"] if math.isfinite(p)), default=math.nan)
    head = [f"least probability {digits(least, 2)}"]
    if item.get("outcome") is not None:
        head.append(f"the solution is {_label(item['outcome'])}")
    return {
        "head": [*head, *_head(item, "")[1:]],
        "prompt": item["prompt"],
        "steps": steps[:MOST_STEPS],
        "more": len(steps[MOST_STEPS:]),
    }


def _differs(probability: float, label: float) -> bool:
    return label != UNLABELLED and (probability < 0.5) != (label < 0.5)


def _label(label: float) -> str:
    if label == UNLABELLED:
        return "not labelled"
    return {0.0: "labelled wrong", 1.0: "labelled right"}.get(float(label), f"labelled {label:.2f}")
