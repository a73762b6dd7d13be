"""A solution's score from the probabilities of its steps."""

import math
from collections.abc import Callable, Sequence

SOFT_MIN_TEMPERATURE = 0.1


def soft_min(probabilities: Sequence[float]) -> float:
    """The probabilities' mean with the weights softmax(-p / 0.1): near the least, but every step counts.

    Cheng et al. 2025 (PURE, arXiv:2504.15275, eq. 4 and its temperature).

    >>> round(soft_min([0.9, 0.1]), 4), soft_min([0.5, 0.5])
    (0.1003, 0.5)
    """
    least = min(probabilities)
    weights = [math.exp((least - p) / SOFT_MIN_TEMPERATURE) for p in probabilities]
    return sum(w * p for w, p in zip(weights, probabilities, strict=True)) / sum(weights)


AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "prod": math.prod,
    "last": lambda probabilities: probabilities[-1],
    "mean": lambda probabilities: sum(probabilities) / len(probabilities),
    "soft-min": soft_min,
}
"""min: Wang et al. 2024 (Math-Shepherd, arXiv:2312.08935); prod: Lightman et al. 2023 (arXiv:2305.20050)"""


def aggregated(probabilities: Sequence[float], aggregate: str) -> float:
    """One number of a solution's steps.

    >>> [round(aggregated([0.5, 0.8], name), 4) for name in ("min", "prod", "last", "mean")]
    [0.5, 0.4, 0.8, 0.65]
    """
    return AGGREGATES[aggregate](probabilities)
