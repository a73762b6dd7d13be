"""The examples of an evaluation -> what the report shows of them: figures, standard errors, parts, bins.

    N examples (pairs or solutions), S labelled steps

The figures are those of training, from `hf_rewardplug/figures.py`; here come the standard errors and the parts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ... import figures
from ...data.canonical import UNLABELLED
from ...figure_names import longer_wins
from ...figures import Bin, first_below


class Share(NamedTuple):
    """A share with its standard error, and what `n` counts."""

    value: float
    error: float
    n: int


class LengthBin(NamedTuple):
    """Pairs whose difference in tokens lies in [low, high]; `longer`: accuracy of "the longer one wins"."""

    low: int
    high: int
    share: Share
    longer: float


def share(hits_N: np.ndarray, counts_N: np.ndarray | None = None) -> Share:
    """Hits over counts. Steps of a solution are no independent draws: the error is that of a ratio over examples.

    >>> share(np.array([1, 1, 0, 1]))
    Share(value=0.75, error=0.21650635094610965, n=4)
    >>> share(np.array([2, 0]), np.array([2, 2]))  # all right, all wrong: two draws, not four
    Share(value=0.5, error=0.3535533905932738, n=4)
    """
    counts_N = np.ones(len(hits_N)) if counts_N is None else counts_N
    total = counts_N.sum()
    if total == 0:
        return Share(math.nan, math.nan, 0)
    value = hits_N.sum() / total
    return Share(float(value), float(np.sqrt(((hits_N - value * counts_N) ** 2).sum()) / total), int(total))


def by_subset(names: Sequence[str | None], hits_N: np.ndarray, counts_N: np.ndarray | None = None) -> dict[str, Share]:
    """Shares of each subset, the best first; empty where no example has one."""
    if not any(names):
        return {}
    labels = np.array([name or "(none)" for name in names])
    counts_N = np.ones(len(hits_N)) if counts_N is None else counts_N
    found = {str(name): share(hits_N[labels == name], counts_N[labels == name]) for name in np.unique(labels)}
    return dict(sorted(found.items(), key=lambda pair: (-pair[1].value, pair[0])))


def length_bins(differences_N: np.ndarray, right_N: np.ndarray, most: int = 4) -> list[LengthBin]:
    """Accuracy by chosen - rejected tokens: up to `most` bins of like size on each side of 0, and 0 itself.

    >>> [(each.low, each.high, each.longer) for each in length_bins(np.array([-3, 0, 5]), np.array([True] * 3))]
    [(-3, -3, 0.0), (0, 0, 0.5), (5, 5, 1.0)]
    """
    found = []
    for side in (-1, 0, 1):
        order = np.argsort(differences_N, kind="stable")
        order = order[np.sign(differences_N[order]) == side]
        bins = 1 if side == 0 else min(most, max(1, len(order) // 10))
        values = differences_N[order]
        cuts = np.searchsorted(values, [values[len(order) * k // bins] for k in range(bins)]) if len(order) else []
        for part in np.split(order, np.unique(cuts)) if len(order) else []:  # equal differences stay together
            if len(part):
                low, high = int(differences_N[part[0]]), int(differences_N[part[-1]])
                found.append(LengthBin(low, high, share(right_N[part]), float(longer_wins(side, 0))))
    return found


# ---- an evaluation ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluated:
    """Of items of any form.

    Attributes:
        values: {name: figure} as `hf_rewardplug/figures.py` names them; some are shares with their standard error.
        bins: of the calibration curve.
        subsets: accuracy of each subset.
    """

    values: dict[str, float | Share]
    bins: list[Bin]
    subsets: dict[str, Share]

    @property
    def accuracy(self) -> Share:
        return self.values["accuracy"]


@dataclass(frozen=True)
class PairFigures(Evaluated):
    """Of pairs; `lengths` is empty, and `longer` NaN, where a pair has no lengths."""

    scores_N2: np.ndarray
    margins_N: np.ndarray
    lengths: list[LengthBin]
    longer: float


def pair_figures(items: Sequence[dict[str, Any]]) -> PairFigures:
    scores_N2 = np.array([item["scores"] for item in items], dtype=float)
    with np.errstate(invalid="ignore"):  # inf - inf
        margins_N = scores_N2[:, 0] - scores_N2[:, 1]
        values = figures.pair_figures(*scores_N2.T)
        values["loss"] = float(np.logaddexp(0, -margins_N).mean())
    right_N = margins_N > 0
    lengths: list[LengthBin] = []
    longer = math.nan
    if all(item.get("lengths") for item in items):
        chosen_N, rejected_N = np.array([item["lengths"] for item in items], dtype=float).T
        lengths = length_bins(chosen_N - rejected_N, right_N)
        longer = float(longer_wins(chosen_N, rejected_N).mean())
    return PairFigures(
        values={**values, "accuracy": share(right_N)},
        bins=figures.calibration_bins(*figures.pair_views(margins_N)),
        subsets=by_subset([item.get("subset") for item in items], right_N),
        scores_N2=scores_N2,
        margins_N=margins_N,
        lengths=lengths,
        longer=longer,
    )


@dataclass(frozen=True)
class StepFigures(Evaluated):
    """Of labelled steps, at the threshold 0.5."""

    probabilities_S: np.ndarray
    right_S: np.ndarray


def step_figures(items: Sequence[dict[str, Any]]) -> StepFigures | None:
    """None where no step is labelled."""
    if not (labelled := _labelled(items)):
        return None
    probabilities_S, labels_S, owners_S = (np.array(column) for column in zip(*labelled, strict=True))
    back_S = (np.diff(owners_S, prepend=-1) == 0).astype(int)
    right_S, found_wrong_S = labels_S >= 0.5, probabilities_S < 0.5
    hits_S = found_wrong_S == ~right_S
    counts_N = np.bincount(owners_S, minlength=len(items))
    hits_N = np.bincount(owners_S, weights=hits_S, minlength=len(items))
    clipped_S = np.clip(probabilities_S, 1e-7, 1 - 1e-7)
    values = {
        "auroc": math.nan,  # where there is one kind of step
        **figures.step_figures(probabilities_S, labels_S, back_S),
        "accuracy": share(hits_N, counts_N),
        "first_wrong_accuracy": share(figures.first_wrong_hits(found_wrong_S, ~right_S, back_S)),
        "ece": figures.calibration_error(probabilities_S, right_S),
        "loss": float(-(labels_S * np.log(clipped_S) + (1 - labels_S) * np.log1p(-clipped_S)).mean()),
    }
    return StepFigures(
        values=values,
        bins=figures.calibration_bins(probabilities_S, right_S),
        subsets=by_subset([item.get("subset") for item in items], hits_N, counts_N),
        probabilities_S=probabilities_S,
        right_S=right_S,
    )


def _labelled(items: Sequence[dict[str, Any]]) -> list[tuple[float, float, int]]:
    """(probability, label, which item) of each labelled step."""
    return [
        (float(probability), float(label), owner)
        for owner, item in enumerate(items)
        for probability, label in zip(item["probabilities"], item["labels"], strict=True)
        if label != UNLABELLED
    ]


def first_wrong(item: dict[str, Any]) -> tuple[int, int]:
    """(found, labelled): index of a solution's first wrong step among the labelled ones; -1 is none.

    >>> first_wrong({"probabilities": [0.9, 0.1, 0.2], "labels": [1.0, -100, 0.0]})
    (2, 2)
    """
    known = [label != UNLABELLED for label in item["labels"]]
    sides = (zip(item[key], known, strict=True) for key in ("probabilities", "labels"))
    return tuple(first_below(value if is_known else 1.0 for value, is_known in side) for side in sides)
