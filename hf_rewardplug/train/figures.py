"""Evaluation figures of all items, each once: numpy arrays in, a dict of floats out.

N pairs, lists or completions, K completions of the longest list, A attributes, S labelled steps
"""

import numpy as np
import torch

from .losses import LOSSES
from .losses.pairs import rao_kupper_probabilities

_ERRORS = ("loss", "error", "ece", "mse", "rmse", "mae", "brier", "brier_score", "nll", "ties", "tie_rate")


_SPREAD = ("min_reward", "mean_reward", "max_reward", "std_reward")
_OUTCOME = ("accuracy", "ece", "auroc")

OF_EVERY_EVALUATION = (
    *("num_tokens", "runtime", "samples_per_second", "steps_per_second"),
    *("model_preparation_time", "jit_compilation_time"),
)
"""what this package and transformers add to the figures of any loss"""


def figure_names(loss_type: str, attributes: list[str] | None = None) -> tuple[str, ...]:
    """All that an evaluation can tell of a loss; some figures depend on the data.

    >>> figure_names("cross_entropy")
    ('loss', 'accuracy', 'f1_wrong', 'wrong_rate', 'first_wrong_accuracy', 'auroc')
    """
    loss = LOSSES[loss_type]
    if loss.form == "pairs":
        return (
            "loss",
            "accuracy",
            "ties",
            "margin",
            "ece",
            *_SPREAD,
            *["outcome_accuracy"] * ("tie" in loss.columns),
        )
    if loss.form == "lists":
        return ("loss", "accuracy", "best_accuracy", "ece", *_SPREAD)
    if loss.form == "steps":
        steps = ("loss", "accuracy", "f1_wrong", "wrong_rate", "first_wrong_accuracy", "auroc")
        return (*steps, *(f"outcome_{name}" for name in _OUTCOME if "outcome" in loss.rows))
    of_scores = _OUTCOME if loss.labels == "shares" else ("mse", "mae", "pearson")
    return ("loss", *of_scores, *(f"{one}_{name}" for one in attributes or () for name in of_scores), *_SPREAD)


def lower_is_better(name: str) -> bool:
    """Whether a figure is an error: one of these, or a figure of that name of `compute_metrics`, of a data set, of a
    subset or of an attribute.

    >>> [lower_is_better(name) for name in ("eval_ece", "helpful_mse", "eval_calibration_error", "accuracy")]
    [True, True, True, False]
    """
    return f"_{name}".endswith(tuple(f"_{error}" for error in _ERRORS))


def mean_loss(losses: np.ndarray, weights: np.ndarray) -> float:
    """Losses, each times its weight already, by the sum of the weights.

    >>> mean_loss(np.array([0.5, 2.0]), np.array([1.0, 2.0]))  # 0.5 once and 1.0 twice
    0.8333333333333334
    """
    total = float(weights.sum())
    return float(losses.sum() / total) if total else 0.0


def pair_figures(
    losses_N: np.ndarray,
    chosen_N: np.ndarray,
    rejected_N: np.ndarray,
    better_N: np.ndarray | None = None,
    weights_N: np.ndarray | None = None,
    tie_threshold: float | None = None,
) -> dict[str, float]:
    """Loss, accuracy (equal rewards count as wrong, as in TRL), ties, margin, calibration error, the rewards' spread.

    Args:
        better_N: probability that chosen is better; 1 when None. Accuracy and calibration leave out 0.5, which is a tie
            of the data's, and take the other side below.
        tie_threshold: of the Rao-Kupper model; adds `outcome_accuracy`, the share of pairs of which the most probable
            outcome (better, tie, worse) is the true one, and its calibration.

    Where `better_N` has soft labels there is no calibration error.

    >>> figures = pair_figures(np.array([0.1, 0.9]), np.array([1.0, 0.0]), np.array([0.0, 0.0]))
    >>> figures["accuracy"], figures["ties"], figures["margin"], figures["mean_reward"]
    (0.5, 0.5, 0.5, 0.25)
    """
    better_N = np.ones(len(chosen_N)) if better_N is None else better_N
    margins_N = chosen_N - rejected_N
    decided = np.where(better_N < 0.5, -margins_N, margins_N)[better_N != 0.5]
    hard = np.isin(better_N, (0.0, 0.5, 1.0)).all()
    figures = {
        "loss": mean_loss(losses_N, np.ones(len(losses_N)) if weights_N is None else weights_N),
        "accuracy": float((decided > 0).mean()) if len(decided) else float("nan"),
        "ties": float((margins_N == 0).mean()),
        "margin": float(margins_N.mean()),
        **({"ece": expected_calibration_error(decided)} if hard else {}),
        **reward_spread(np.concatenate([chosen_N, rejected_N])),
    }
    if tie_threshold is not None:
        probabilities_N3 = rao_kupper_probabilities(torch.from_numpy(margins_N).double(), tie_threshold)
        outcomes = probabilities_N3.argmax(-1).numpy()
        figures["outcome_accuracy"] = float((outcomes == np.sign(1 - 2 * better_N) + 1).mean())
        odds = (probabilities_N3[:, 0].log() - probabilities_N3[:, 2].log()).numpy()[better_N != 0.5]
        figures["ece"] = expected_calibration_error(odds)  # of "better" where there is no tie
    return figures


def ranked_figures(
    losses_N: np.ndarray, rewards_NK: np.ndarray, scores_NK: np.ndarray, weights_N: np.ndarray
) -> dict[str, float]:
    """Loss; accuracy over all pairs with different scores; `best_accuracy`, share of lists whose greatest reward has
    the greatest score; calibration error of the pairs; the rewards' spread. Scores are NaN where a list is shorter.

    >>> rewards, scores = np.array([[2.0, 1.0, 0.0]]), np.array([[1.0, 3.0, np.nan]])
    >>> figures = ranked_figures(np.ones(1), rewards, scores, np.ones(1))
    >>> figures["accuracy"], figures["best_accuracy"], figures["mean_reward"]
    (0.0, 0.0, 1.5)
    """
    given = ~np.isnan(scores_NK)
    better_NKK = scores_NK[:, :, None] > scores_NK[:, None, :]
    margins = (rewards_NK[:, :, None] - rewards_NK[:, None, :])[better_NKK]
    best = np.where(given, rewards_NK, -np.inf).argmax(1)
    return {
        "loss": mean_loss(losses_N, weights_N),
        "accuracy": float((margins > 0).mean()),
        "best_accuracy": float((scores_NK[np.arange(len(best)), best] == np.nanmax(scores_NK, axis=1)).mean()),
        "ece": expected_calibration_error(margins),
        **reward_spread(rewards_NK[given]),
    }


def scored_figures(
    losses_N: np.ndarray,
    rewards_NA: np.ndarray,
    scores_NA: np.ndarray,
    weights_N: np.ndarray,
    total_N: np.ndarray,
    attributes: list[str] | None = None,
    logits: bool = False,
) -> dict[str, float]:
    """Loss; squared and absolute error and Pearson's correlation of reward and score, also for each attribute; with
    `logits` accuracy at the probability 0.5, calibration error and AUROC instead. `total_N`: the reward that scoring
    gives, whose spread is told.

    >>> rewards, scores = np.array([[1.0], [2.0]]), np.array([[1.0], [4.0]])
    >>> figures = scored_figures(np.zeros(2), rewards, scores, np.ones(2), rewards[:, 0])
    >>> figures["mse"], figures["mae"], round(figures["pearson"], 6), figures["mean_reward"]
    (2.0, 1.0, 1.0, 1.5)
    """
    describe = outcome_figures if logits else _error_figures
    figures = {"loss": mean_loss(losses_N, weights_N)}
    figures |= describe(rewards_NA.ravel(), scores_NA.ravel())
    for index, name in enumerate(attributes or ()):
        figures |= {
            f"{name}_{key}": value for key, value in describe(rewards_NA[:, index], scores_NA[:, index]).items()
        }
    return {**figures, **reward_spread(total_N)}


def _error_figures(rewards: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    rated = ~np.isnan(scores)
    rewards, scores = rewards[rated], scores[rated]
    if not len(scores):
        return {}
    figures = {"mse": float(((rewards - scores) ** 2).mean()), "mae": float(np.abs(rewards - scores).mean())}
    if rewards.std() and scores.std():
        figures["pearson"] = float(np.corrcoef(rewards, scores)[0, 1])
    return figures


def outcome_figures(logits: np.ndarray, outcomes: np.ndarray) -> dict[str, float]:
    """Accuracy at the probability 0.5, calibration error where no outcome is a share, AUROC where there are both kinds;
    NaN is not rated.

    >>> outcome_figures(np.array([1.0, -1.0, 1.0, 5.0]), np.array([1.0, 0.0, 0.0, np.nan]))["auroc"]
    0.75
    """
    rated = ~np.isnan(outcomes)
    logits, good, hard = logits[rated], outcomes[rated] >= 0.5, np.isin(outcomes[rated], (0.0, 1.0)).all()
    if not len(logits):
        return {}
    figures = {"accuracy": float(((logits >= 0) == good).mean())}
    return figures | ({"ece": _calibration_error(logits, good)} if hard else {}) | _auroc(logits, good)


def reward_spread(rewards: np.ndarray) -> dict[str, float]:
    """Least, mean and greatest reward, and their standard deviation."""
    return {
        "min_reward": float(rewards.min()),
        "mean_reward": float(rewards.mean()),
        "max_reward": float(rewards.max()),
        "std_reward": float(rewards.std()),
    }


def expected_calibration_error(margins_N: np.ndarray) -> float:
    """How far `sigmoid(margin)` is from the share of pairs that it promises, in [0, 1].

    Guo et al. 2017 (arXiv:1706.04599, eq. 3), 15 bins of equal width. A pair is seen from both sides, "chosen wins" and
    "rejected wins", so that a tie is a fair coin.

    >>> expected_calibration_error(np.array([0.0, 0.0])), round(expected_calibration_error(np.array([2.0, 2.0])), 3)
    (0.0, 0.119)
    """
    margins = np.concatenate([margins_N, -margins_N])
    return _calibration_error(margins, np.arange(len(margins)) < len(margins_N))


def _calibration_error(logits: np.ndarray, happened: np.ndarray) -> float:
    from torchmetrics.functional.classification import binary_calibration_error  # takes seconds to import

    if not len(logits) or not np.isfinite(logits).all():
        return float("nan")
    probabilities = torch.from_numpy(logits).double().sigmoid()
    return binary_calibration_error(probabilities, torch.from_numpy(happened).long(), n_bins=15).item()


def _auroc(scores: np.ndarray, good: np.ndarray) -> dict[str, float]:
    """Where there are both kinds."""
    if good.all() or not good.any():
        return {}
    from torchmetrics.functional.classification import binary_auroc  # takes seconds to import

    ranks = torch.from_numpy(np.unique(scores, return_inverse=True)[1].reshape(-1)).double() / len(scores)
    return {"auroc": binary_auroc(ranks, torch.from_numpy(good).long()).item()}


def step_figures(
    losses_S: np.ndarray,
    probabilities_S: np.ndarray,
    labels_S: np.ndarray,
    back_S: np.ndarray,
    weights_S: np.ndarray | None = None,
) -> dict[str, float]:
    """Figures of steps at the threshold 0.5 (a soft label counts by it too), and the AUROC where there are both kinds.

    `first_wrong_accuracy`: share of solutions (of a tree: paths to a leaf) whose first wrong step, or that there is
    none, is found; as ProcessBench counts a solution (arXiv:2412.06559, section 4). `back_S`: see `StepCollator`.

    >>> probabilities, labels = np.array([0.9, 0.2, 0.1, 0.6]), np.array([1.0, 0.0, 1.0, 0.0])
    >>> figures = step_figures(np.zeros(4), probabilities, labels, back_S=np.array([0, 1, 1, 0]))
    >>> figures["accuracy"], figures["f1_wrong"], figures["wrong_rate"], figures["auroc"]
    (0.5, 0.5, 0.5, 0.5)
    >>> figures["first_wrong_accuracy"]  # found in the first solution of three steps, missed in the second of one
    0.5
    """
    found_wrong, is_wrong = probabilities_S < 0.5, labels_S < 0.5
    hits = (found_wrong & is_wrong).sum()
    figures = {
        "loss": mean_loss(losses_S, np.ones(len(losses_S)) if weights_S is None else weights_S),
        "accuracy": float((found_wrong == is_wrong).mean()),
        "f1_wrong": float(2 * hits / max(found_wrong.sum() + is_wrong.sum(), 1)),
        "wrong_rate": float(is_wrong.mean()),
        "first_wrong_accuracy": _first_wrong_accuracy(found_wrong, is_wrong, back_S),
    }
    return figures | _auroc(probabilities_S, ~is_wrong)


def _first_wrong_accuracy(found_wrong_S: np.ndarray, is_wrong_S: np.ndarray, back_S: np.ndarray) -> float:
    firsts, leaf = np.full((len(back_S), 2), -1), np.ones(len(back_S), dtype=bool)
    wrong = np.stack([found_wrong_S, is_wrong_S], axis=1)
    for step, back in enumerate(back_S):
        firsts[step] = np.where(wrong[step], step, -1)
        if back:
            before, leaf[step - back] = firsts[step - back], False
            firsts[step] = np.where(before >= 0, before, firsts[step])
    return float((firsts[:, 0] == firsts[:, 1])[leaf].mean())
