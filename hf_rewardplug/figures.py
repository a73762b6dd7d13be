"""Every figure of an evaluation, defined once: numpy arrays in, floats out. Their names: `figure_names.py`.

The trainers, the tables at a run's end, `rewardplug inspect`, the report and the benchmarks call these functions, which
import nothing of the package. A figure is a mean or a count over items, so it is the same for every batch size and
number of processes. The loss of an item is no business of this module: `train/losses/` has the formulas.

    N pairs, ranked lists or scored completions      K completions of the longest list      A attributes
    S labelled steps                                 B bins of a calibration curve
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

# ---- pairs and lists -------------------------------------------------------------------------------------------------


def pair_figures(chosen_N: np.ndarray, rejected_N: np.ndarray, better_N: np.ndarray | None = None) -> dict[str, float]:
    """Accuracy (equal rewards count as wrong, as in TRL), ties, margin, calibration error, the rewards' spread.

    Args:
        better_N: probability that chosen is better; 1 when None. Accuracy and calibration leave out 0.5, which is a tie
            of the data's, and take the other side below. Where it has soft labels there is no calibration error.

    >>> figures = pair_figures(np.array([1.0, 0.0]), np.array([0.0, 0.0]))
    >>> figures["accuracy"], figures["ties"], figures["margin"], figures["mean_reward"]
    (0.5, 0.5, 0.5, 0.25)
    """
    better_N = np.ones(len(chosen_N)) if better_N is None else better_N
    margins_N = chosen_N - rejected_N
    decided = np.where(better_N < 0.5, -margins_N, margins_N)[better_N != 0.5]
    figures = {
        "accuracy": float((decided > 0).mean()) if len(decided) else math.nan,
        "ties": float((margins_N == 0).mean()),
        "margin": float(margins_N.mean()),
    }
    if _are_hard(better_N):
        figures["ece"] = expected_calibration_error(decided)
    return {**figures, **reward_spread(np.concatenate([chosen_N, rejected_N]))}


def verdict_figures(probabilities_N3: np.ndarray, better_N: np.ndarray) -> dict[str, float]:
    """Figures of a model of ties, from its probabilities that chosen is better, of a tie, and that rejected is.

    `outcome_accuracy`: share of pairs whose most probable verdict is the true one; the calibration error is that of
    "better" among the pairs that are no ties. `better_N`: 1, 0.5 of a tie, or 0.

    >>> verdict_figures(np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]]), np.array([1.0, 0.5]))["outcome_accuracy"]
    0.5
    """
    verdicts_N = probabilities_N3.argmax(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        odds_N = np.log(probabilities_N3[:, 0]) - np.log(probabilities_N3[:, 2])
    return {
        "outcome_accuracy": float((verdicts_N == np.sign(1 - 2 * better_N) + 1).mean()),
        "ece": expected_calibration_error(odds_N[better_N != 0.5]),
    }


def ranked_figures(rewards_NK: np.ndarray, scores_NK: np.ndarray) -> dict[str, float]:
    """Accuracy over all pairs with different scores; `best_accuracy`, share of lists whose greatest reward has the
    greatest score; calibration error of the pairs; the rewards' spread. Scores are NaN where a list is shorter.

    >>> figures = ranked_figures(np.array([[2.0, 1.0, 0.0]]), np.array([[1.0, 3.0, np.nan]]))
    >>> figures["accuracy"], figures["best_accuracy"], figures["mean_reward"]
    (0.0, 0.0, 1.5)
    """
    is_there_NK = ~np.isnan(scores_NK)
    better_NKK = scores_NK[:, :, None] > scores_NK[:, None, :]
    margins = (rewards_NK[:, :, None] - rewards_NK[:, None, :])[better_NKK]
    best_N = np.where(is_there_NK, rewards_NK, -np.inf).argmax(1)
    score_of_best_N = scores_NK[np.arange(len(best_N)), best_N]
    return {
        "accuracy": float((margins > 0).mean()),
        "best_accuracy": float((score_of_best_N == np.nanmax(scores_NK, axis=1)).mean()),
        "ece": expected_calibration_error(margins),
        **reward_spread(rewards_NK[is_there_NK]),
    }


def reward_spread(rewards: np.ndarray) -> dict[str, float]:
    """Least, mean and greatest reward, and their standard deviation."""
    return {
        "min_reward": float(rewards.min()),
        "mean_reward": float(rewards.mean()),
        "max_reward": float(rewards.max()),
        "std_reward": float(rewards.std()),
    }


# ---- scores and outcomes ---------------------------------------------------------------------------------------------


def attribute_figures(
    figures_of: Callable, rewards_NA: np.ndarray, scores_NA: np.ndarray, attributes: Iterable[str] = ()
) -> dict[str, float]:
    """`error_figures` or `outcome_figures` of all scores, and of each attribute under its name.

    >>> figures = attribute_figures(error_figures, np.eye(2), np.zeros((2, 2)), ["kind", "brief"])
    >>> figures["mae"], figures["brief_mae"]
    (0.5, 0.5)
    """
    figures = figures_of(rewards_NA.ravel(), scores_NA.ravel())
    for name, rewards_N, scores_N in zip(attributes, rewards_NA.T, scores_NA.T, strict=False):
        of_attribute = figures_of(rewards_N, scores_N)
        figures |= {f"{name}_{key}": value for key, value in of_attribute.items()}
    return figures


def error_figures(rewards: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Squared and absolute error, and Pearson's correlation where neither side is constant; NaN is not rated.

    >>> error_figures(np.array([1.0, 2.0, 9.0]), np.array([1.0, 4.0, np.nan]))["mse"]
    2.0
    """
    is_rated = ~np.isnan(scores)
    rewards, scores = rewards[is_rated], scores[is_rated]
    if not len(scores):
        return {}
    off = rewards - scores
    figures = {"mse": float((off**2).mean()), "mae": float(np.abs(off).mean())}
    with np.errstate(invalid="ignore"):  # of infinite rewards the correlation is NaN
        if rewards.std() and scores.std():
            figures["pearson"] = float(np.corrcoef(rewards, scores)[0, 1])
    return figures


def outcome_figures(logits: np.ndarray, outcomes: np.ndarray) -> dict[str, float]:
    """Accuracy at the probability 0.5, calibration error where no outcome is a share, AUROC where there are both kinds;
    NaN is not rated.

    >>> outcome_figures(np.array([1.0, -1.0, 1.0, 5.0]), np.array([1.0, 0.0, 0.0, np.nan]))["auroc"]
    0.75
    """
    is_rated = ~np.isnan(outcomes)
    logits, outcomes = logits[is_rated], outcomes[is_rated]
    if not len(logits):
        return {}
    is_good = outcomes >= 0.5
    figures = {"accuracy": float(((logits >= 0) == is_good).mean())}
    if _are_hard(outcomes):
        figures["ece"] = calibration_error(probability_of(logits), is_good)
    return {**figures, **_auroc_of_both_kinds(logits, is_good)}


def _are_hard(labels: np.ndarray) -> bool:
    """Whether none is a share between two of 0, 0.5 (a tie) and 1."""
    return bool(np.isin(labels, (0.0, 0.5, 1.0)).all())


# ---- steps -----------------------------------------------------------------------------------------------------------


def step_figures(probabilities_S: np.ndarray, labels_S: np.ndarray, back_S: np.ndarray) -> dict[str, float]:
    """Figures of steps at the threshold 0.5 (a soft label counts by it too), and the AUROC where there are both kinds.

    `first_wrong_accuracy`: share of solutions (of a tree: paths to a leaf) whose first wrong step, or that there is
    none, is found; as ProcessBench counts a solution (arXiv:2412.06559, section 4). `back_S`: see `steps_back`.

    >>> probabilities, labels = np.array([0.9, 0.2, 0.1, 0.6]), np.array([1.0, 0.0, 1.0, 0.0])
    >>> figures = step_figures(probabilities, labels, back_S=np.array([0, 1, 1, 0]))
    >>> figures["accuracy"], figures["f1_wrong"], figures["wrong_rate"], figures["auroc"]
    (0.5, 0.5, 0.5, 0.5)
    >>> figures["first_wrong_accuracy"]  # found in the first solution of three steps, missed in the second of one
    0.5
    """
    found_wrong_S, is_wrong_S = probabilities_S < 0.5, labels_S < 0.5
    hits = (found_wrong_S & is_wrong_S).sum()
    return {
        "accuracy": float((found_wrong_S == is_wrong_S).mean()),
        "f1_wrong": float(2 * hits / max(found_wrong_S.sum() + is_wrong_S.sum(), 1)),
        "wrong_rate": float(is_wrong_S.mean()),
        "first_wrong_accuracy": float(first_wrong_hits(found_wrong_S, is_wrong_S, back_S).mean()),
        **_auroc_of_both_kinds(probabilities_S, ~is_wrong_S),
    }


def first_wrong_hits(found_wrong_S: np.ndarray, is_wrong_S: np.ndarray, back_S: np.ndarray) -> np.ndarray:
    """Of each path to a last labelled step, in their order: whether the first step that is found wrong is the first
    that is, or there is neither."""
    firsts_S2, is_last_S = np.full((len(back_S), 2), -1), np.ones(len(back_S), dtype=bool)
    wrong_S2 = np.stack([found_wrong_S, is_wrong_S], axis=1)
    for step, back in enumerate(back_S.astype(int)):
        firsts_S2[step] = np.where(wrong_S2[step], step, -1)
        if back:
            before, is_last_S[step - back] = firsts_S2[step - back], False
            firsts_S2[step] = np.where(before >= 0, before, firsts_S2[step])
    return (firsts_S2[:, 0] == firsts_S2[:, 1])[is_last_S]


def steps_back(is_labelled: Iterable[bool], parents: Iterable[int]) -> list[int]:
    """Of each labelled step of a tree: how many labelled steps back the one before it on its path stands (0: none).

    `parents`: index of the step before each one, -1 where there is none.

    >>> steps_back([True, False, True, True], [-1, 0, 1, 0])
    [0, 1, 2]
    """
    back: list[int] = []
    last: list[int | None] = []  # labelled step at each step, or nearest before it
    for labelled, parent in zip(is_labelled, parents, strict=True):
        before = last[parent] if parent >= 0 else None
        last.append(len(back) if labelled else before)
        if labelled:
            back.append(0 if before is None else len(back) - before)
    return back


def first_below(probabilities: Iterable[float], threshold: float = 0.5) -> int:
    """The first step whose probability is below the threshold, or -1.

    >>> first_below([0.9, 0.4, 0.1], 0.5), first_below([0.9, 0.5], 0.5)
    (1, -1)
    """
    return next((index for index, value in enumerate(probabilities) if value < threshold), -1)


# ---- calibration and order -------------------------------------------------------------------------------------------


class Bin(NamedTuple):
    """Of a calibration curve: mean prediction, share that came true, predictions."""

    predicted: float
    observed: float
    n: int


def probability_of(logits: np.ndarray) -> np.ndarray:
    """Sigmoid, in fp64; NaN where the logit is no finite number, which promises nothing."""
    logits = np.where(np.isfinite(logits), logits, np.nan).astype(float)
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits))


def pair_views(margins_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and outcomes (2N,) of pairs, each seen from both sides, so that a tie is a fair coin."""
    margins = np.concatenate([margins_N, -margins_N])
    return probability_of(margins), np.arange(len(margins)) < len(margins_N)


def expected_calibration_error(margins_N: np.ndarray) -> float:
    """How far `sigmoid(margin)` is from the share of pairs that it promises, in [0, 1].

    >>> expected_calibration_error(np.array([0.0, 0.0])), round(expected_calibration_error(np.array([2.0, 2.0])), 3)
    (0.0, 0.119)
    """
    return calibration_error(*pair_views(margins_N))


def calibration_error(probabilities: np.ndarray, came_true: np.ndarray) -> float:
    """Expected calibration error of forecasts (Guo et al. 2017, arXiv:1706.04599, eq. 3); NaN where one is NaN.

    >>> round(calibration_error(np.array([0.5, 0.5, 0.9]), np.array([True, False, True])), 3)
    0.033
    """
    if not len(probabilities) or np.isnan(probabilities).any():
        return math.nan
    bins = calibration_bins(probabilities, came_true)
    return sum(abs(each.predicted - each.observed) * each.n for each in bins) / len(probabilities)


def calibration_bins(probabilities: np.ndarray, came_true: np.ndarray) -> list[Bin]:
    """15 bins of equal width, [low, high); exactly 1.0 is one of its own. Those that are empty, and NaN, are left out.

    >>> calibration_bins(np.array([0.5, 0.5, 0.9]), np.array([True, False, True]))
    [Bin(predicted=0.5, observed=0.5, n=2), Bin(predicted=0.9, observed=1.0, n=1)]
    """
    numbers = np.digitize(probabilities, np.linspace(0, 1, 16))
    members = [(numbers == number) & ~np.isnan(probabilities) for number in range(1, 17)]
    return [Bin(float(probabilities[m].mean()), float(came_true[m].mean()), int(m.sum())) for m in members if m.any()]


def auroc(scores: np.ndarray, is_good: np.ndarray) -> float:
    """Share of (good, bad) couples in which the good one scores higher; a tie is half. NaN without both kinds.

    >>> auroc(np.array([0.9, 0.4, 0.4]), np.array([True, True, False]))
    0.75
    """
    good, bad = scores[is_good], np.sort(scores[~is_good])
    if not len(good) or not len(bad) or np.isnan(scores).any():
        return math.nan
    below, upto = (np.searchsorted(bad, good, side=side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(bad))


def _auroc_of_both_kinds(scores: np.ndarray, is_good: np.ndarray) -> dict[str, float]:
    return {"auroc": auroc(scores, is_good)} if is_good.any() and not is_good.all() else {}
