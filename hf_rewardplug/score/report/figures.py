"""The report's figures, from the examples of an evaluation: numpy arrays in, numbers out.

    N examples (pairs or solutions), S labelled steps, B bins

The definitions are those of training (`hf_rewardplug.train.metrics`): a tie is wrong, a soft label counts by 0.5, the
calibration of a pair is seen from both sides.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...data.canonical import UNLABELLED


class Share(NamedTuple):
    """A share with its standard error, and what `n` counts."""

    value: float
    error: float
    n: int


class Bin(NamedTuple):
    """Of a calibration curve: mean prediction, share that came true, predictions."""

    predicted: float
    observed: float
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


def calibration_bins(probabilities: np.ndarray, right: np.ndarray) -> list[Bin]:
    """15 bins of equal width, those that are not empty.

    Exactly 1.0 is a bin of its own, as in torchmetrics, with which training measures.

    >>> calibration_bins(np.array([0.5, 0.5, 0.9]), np.array([True, False, True]))
    [Bin(predicted=0.5, observed=0.5, n=2), Bin(predicted=0.9, observed=1.0, n=1)]
    """
    indices = np.digitize(probabilities, np.linspace(0, 1, 16)) - 1
    members = [indices == index for index in range(16)]
    return [Bin(float(probabilities[m].mean()), float(right[m].mean()), int(m.sum())) for m in members if m.any()]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, eq. 3).

    >>> round(calibration_error([Bin(0.5, 0.5, 2), Bin(0.9, 1.0, 2)]), 3)
    0.05
    """
    total = sum(each.n for each in bins)
    return sum(abs(each.predicted - each.observed) * each.n for each in bins) / total if total else math.nan


def sigmoid(margins: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * margins))


def auroc(scores: np.ndarray, right: np.ndarray) -> float:
    """Share of (right, wrong) couples in which the right one scores higher; a tie is half. NaN without both kinds.

    >>> auroc(np.array([0.9, 0.4, 0.4]), np.array([True, True, False]))
    0.75
    """
    positives, negatives = scores[right], np.sort(scores[~right])
    if not len(positives) or not len(negatives) or np.isnan(scores).any():
        return math.nan
    below, upto = (np.searchsorted(negatives, positives, side=side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(negatives))


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
    for side, longer in ((-1, 0.0), (0, 0.5), (1, 1.0)):
        order = np.argsort(differences_N, kind="stable")
        order = order[np.sign(differences_N[order]) == side]
        bins = 1 if side == 0 else min(most, max(1, len(order) // 10))
        values = differences_N[order]
        cuts = np.searchsorted(values, [values[len(order) * k // bins] for k in range(bins)]) if len(order) else []
        for part in np.split(order, np.unique(cuts)) if len(order) else []:  # equal differences stay together
            if len(part):
                low, high = int(differences_N[part[0]]), int(differences_N[part[-1]])
                found.append(LengthBin(low, high, share(right_N[part]), longer))
    return found


# ---- an evaluation ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairFigures:
    """Of pairs; `lengths` is empty, and `longer` NaN, where a pair has no lengths."""

    scores_N2: np.ndarray
    margins_N: np.ndarray
    right_N: np.ndarray
    accuracy: Share
    ties: float
    margin: float
    loss: float
    calibration_error: float
    bins: list[Bin]
    subsets: dict[str, Share]
    lengths: list[LengthBin]
    longer: float


def pair_figures(items: Sequence[dict[str, Any]]) -> PairFigures:
    scores_N2 = np.array([item["scores"] for item in items], dtype=float)
    with np.errstate(invalid="ignore"):  # inf - inf
        margins_N = scores_N2[:, 0] - scores_N2[:, 1]
        loss = float(np.logaddexp(0, -margins_N).mean())
    right_N = margins_N > 0
    finite_N = margins_N[np.isfinite(margins_N)]
    both = np.concatenate([finite_N, -finite_N])
    bins = calibration_bins(sigmoid(both), np.arange(len(both)) < len(finite_N))
    lengths: list[LengthBin] = []
    longer = math.nan
    if all(item.get("lengths") for item in items):
        chosen_N, rejected_N = np.array([item["lengths"] for item in items], dtype=float).T
        lengths = length_bins(chosen_N - rejected_N, right_N)
        longer = sum(each.longer * each.share.n for each in lengths) / len(items)
    return PairFigures(
        scores_N2=scores_N2,
        margins_N=margins_N,
        right_N=right_N,
        accuracy=share(right_N),
        ties=float((margins_N == 0).mean()),
        margin=float(margins_N.mean()),
        loss=loss,
        calibration_error=calibration_error(bins) if len(finite_N) == len(items) else math.nan,
        bins=bins,
        subsets=by_subset([item.get("subset") for item in items], right_N),
        lengths=lengths,
        longer=longer,
    )


@dataclass(frozen=True)
class StepFigures:
    """Of labelled steps, at the threshold 0.5."""

    probabilities_S: np.ndarray
    right_S: np.ndarray
    accuracy: Share
    first_wrong: Share
    f1_wrong: float
    wrong_rate: float
    auroc: float
    loss: float
    calibration_error: float
    bins: list[Bin]
    subsets: dict[str, Share]


def step_figures(items: Sequence[dict[str, Any]]) -> StepFigures | None:
    """None where no step is labelled."""
    if not (labelled := _labelled(items)):
        return None
    probabilities_S, labels_S, owners_S = (np.array(column) for column in zip(*labelled, strict=True))
    right_S, found_wrong_S = labels_S >= 0.5, probabilities_S < 0.5
    agreed_S = found_wrong_S == ~right_S
    counts_N = np.bincount(owners_S, minlength=len(items))
    hits_N = np.bincount(owners_S, weights=agreed_S, minlength=len(items))
    firsts_N2 = np.array([first_wrong(item) for item in items])[counts_N > 0]
    known_S = np.isfinite(probabilities_S)
    bins = calibration_bins(probabilities_S[known_S], right_S[known_S])
    clipped_S = np.clip(probabilities_S, 1e-7, 1 - 1e-7)
    return StepFigures(
        probabilities_S=probabilities_S,
        right_S=right_S,
        accuracy=share(hits_N, counts_N),
        first_wrong=share(firsts_N2[:, 0] == firsts_N2[:, 1]),
        f1_wrong=float(2 * (found_wrong_S & ~right_S).sum() / max(found_wrong_S.sum() + (~right_S).sum(), 1)),
        wrong_rate=float((~right_S).mean()),
        auroc=auroc(probabilities_S, right_S),
        loss=float(-(labels_S * np.log(clipped_S) + (1 - labels_S) * np.log1p(-clipped_S)).mean()),
        calibration_error=calibration_error(bins) if known_S.all() else math.nan,
        bins=bins,
        subsets=by_subset([item.get("subset") for item in items], hits_N, counts_N),
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
    steps = [
        (index, p < 0.5, label < 0.5)
        for index, (p, label) in enumerate(zip(item["probabilities"], item["labels"], strict=True))
        if label != UNLABELLED
    ]
    return tuple(next((step[0] for step in steps if step[which]), -1) for which in (1, 2))
