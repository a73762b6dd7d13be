"""What people read of a figure: its label, its direction, and what a rule reaches that reads no text.

Out: a table of `Metric`s for each sort of item, {name of the figure: what people read of it}, in the order of the
tables; and the baselines, from lengths and labels. The figures themselves are computed in `figures.py`; nothing else of
the package is known here. A next figure is declared here and computed there, and each table, chart and tile shows it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Metric(NamedTuple):
    """What people read of a figure.

    Attributes:
        label: its name in a table; without one it stands in no table.
        chart: the title of its course during training; without one it is not drawn.
        baseline: the name of what a rule reaches that reads no text, where there is such a rule.
        lower_is_better: whether it is an error.
        is_share: whether it lies between 0 and 1.
    """

    label: str = ""
    chart: str = ""
    baseline: str = ""
    lower_is_better: bool = False
    is_share: bool = True

    @property
    def short(self) -> str:
        """The label without what it says in brackets."""
        return self.label.partition(" (")[0]


_LONGER = '"the longer one wins"'
_MAJORITY = "the majority outcome everywhere"
ECE = {"ece": Metric("calibration error", lower_is_better=True)}

LOSS = {"loss": Metric("loss", "Loss", lower_is_better=True, is_share=False)}
SPREAD = {
    "min_reward": Metric(is_share=False),
    "mean_reward": Metric(chart="Reward, mean ± standard deviation", is_share=False),
    "max_reward": Metric(is_share=False),
    "std_reward": Metric(is_share=False),
}
PAIRS = {
    "accuracy": Metric("accuracy", "Accuracy", _LONGER),
    **LOSS,
    "margin": Metric("margin (chosen - rejected)", is_share=False),
    **ECE,
    "ties": Metric(lower_is_better=True),
    **SPREAD,
}
PAIRS_AND_TIES = {
    "accuracy": PAIRS["accuracy"],
    "outcome_accuracy": Metric("better, tie or worse, as told", "Outcome accuracy"),
    **PAIRS,
}
"""of a loss with a model of ties: `verdict_figures` come to those of pairs"""
LISTS = {
    "accuracy": Metric("accuracy of the pairs", "Accuracy", _LONGER),
    "best_accuracy": Metric("best of its list found", "Best of its list found", "any one of the list"),
    **LOSS,
    **ECE,
    **SPREAD,
}
ERRORS = {
    "mse": Metric("squared error", "Squared error", "the mean score everywhere", lower_is_better=True, is_share=False),
    "mae": Metric("absolute error", lower_is_better=True, is_share=False),
    "pearson": Metric("correlation (Pearson)", "Correlation of reward and score", is_share=False),
}
STEPS = {
    "accuracy": Metric("step accuracy", "Accuracy", "the majority label everywhere"),
    "f1_wrong": Metric("F1 of the wrong steps", "F1 of the wrong steps", '"wrong" everywhere'),
    "auroc": Metric("AUROC", "AUROC"),
    "first_wrong_accuracy": Metric("first wrong step found", "First wrong step found"),
    "wrong_rate": Metric(),
}
OUTCOMES = {"accuracy": Metric("accuracy", "Accuracy", _MAJORITY), "auroc": STEPS["auroc"], **ECE}
SOLUTIONS = {
    "outcome_accuracy": Metric("outcome, by the worst step", "Outcome accuracy", _MAJORITY),
    "outcome_auroc": Metric("AUROC", "AUROC of the outcomes"),
    "outcome_ece": ECE["ece"],
}
"""`outcome_figures` of solutions, each as right as its worst step"""

METRICS = {**LOSS, **ERRORS, **STEPS, **OUTCOMES, **SOLUTIONS, **LISTS, **PAIRS_AND_TIES}
"""all of them, in the order of their charts; a name's chart is the same whatever the items are"""

_ERRORS_OF_OTHERS = ("error", "rmse", "brier", "brier_score", "nll", "tie_rate")


def lower_is_better(name: str) -> bool:
    """Whether a figure is an error: one that is declared so, or one of that name of a data set, of a subset, of an
    attribute or of `compute_metrics`.

    >>> [lower_is_better(name) for name in ("eval_ece", "helpful_mse", "eval_calibration_error", "accuracy")]
    [True, True, True, False]
    """
    errors = [name for name, metric in METRICS.items() if metric.lower_is_better]
    return f"_{name}".endswith(tuple(f"_{error}" for error in (*errors, *_ERRORS_OF_OTHERS)))


def of_attributes(metrics: dict[str, Metric], names: Iterable[str]) -> dict[str, Metric]:
    """`metrics`, and the same of each attribute, as `attribute_figures` names them.

    >>> [*of_attributes({"mae": Metric("absolute error")}, ["brief"]).items()][1][1].label
    'brief: absolute error'
    """
    named = {}
    for name in names:
        for key, metric in metrics.items():
            named[f"{name}_{key}"] = metric._replace(label=f"{name}: {metric.label}")
    return {**metrics, **named}


# ---- baselines: what a rule reaches that reads no text ---------------------------------------------------------------


def longer_wins(better: np.ndarray, worse: np.ndarray) -> np.ndarray:
    """Accuracy of "the longer one wins" on each pair, from both lengths in tokens; half where they are the same.

    >>> longer_wins(np.array([3, 2, 2]), np.array([1, 2, 5])).tolist()
    [1.0, 0.5, 0.0]
    """
    return (1 + np.sign(np.subtract(better, worse))) / 2


def pair_baselines(lengths_N2: Sequence) -> dict[str, float]:
    """Of pairs, from the lengths of the better and the worse completion; none without pairs.

    >>> pair_baselines([[3, 1], [2, 5]])
    {'accuracy': 0.5}
    """
    return {"accuracy": float(longer_wins(*np.transpose(lengths_N2)).mean())} if len(lengths_N2) else {}


def list_baselines(lengths_N2: Sequence, scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """Of ranked lists: of their pairs, and of any completion taken for the best; from the scores of each list.

    >>> list_baselines([[3, 1]], [[1.0, 0.0, 0.0, 1.0]])
    {'accuracy': 1.0, 'best_accuracy': 0.5}
    """
    shares = [list(of_list).count(max(of_list)) / len(of_list) for of_list in scores]
    return {**pair_baselines(lengths_N2), "best_accuracy": float(np.mean(shares))}


def score_baselines(scores: np.ndarray) -> dict[str, float]:
    """Of scored completions: the mean score everywhere, or of outcomes the majority's; NaN is not rated.

    >>> score_baselines(np.array([1.0, 1.0, 0.0, 0.0, np.nan]))
    {'mse': 0.25, 'accuracy': 0.5}
    """
    known = scores[~np.isnan(scores)]
    if not len(known):
        return {}
    return {"mse": float(known.var()), "accuracy": _majority(float(np.mean(known >= 0.5)))}


def step_baselines(wrong_rate: float) -> dict[str, float]:
    """Of steps: the majority's label everywhere, and "wrong" everywhere.

    >>> step_baselines(0.25)
    {'accuracy': 0.75, 'f1_wrong': 0.4}
    """
    return {"accuracy": _majority(wrong_rate), "f1_wrong": 2 * wrong_rate / (1 + wrong_rate)}


def _majority(share: float) -> float:
    return max(share, 1 - share)
