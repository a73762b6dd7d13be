"""figures.py against torchmetrics and counting by hand; what is said of a figure is said in one place."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc, binary_calibration_error, binary_f1_score

from hf_rewardplug import figure_names, figures

PACKAGE = Path(figures.__file__).parent


def examples(scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits in fp32, with ties and such as no fp64 sigmoid tells from 1, and what came true."""
    generator = np.random.default_rng(seed)
    logits = (scale * generator.normal(size=300)).round(1).astype(np.float32)
    return logits, generator.random(300) < 1 / (1 + np.exp(-logits.astype(float)))


@pytest.mark.parametrize("scale", [0.0, 0.3, 3.0, 60.0])
def test_calibration_and_order_are_those_of_torchmetrics(scale):
    logits, came_true = examples(scale)
    probabilities, labels = torch.from_numpy(logits).double().sigmoid(), torch.from_numpy(came_true).long()
    found = figures.outcome_figures(logits, came_true.astype(float))
    expected = binary_calibration_error(probabilities, labels, n_bins=15).item()
    assert found["ece"] == pytest.approx(expected, abs=1e-12)
    ranks = torch.from_numpy(np.unique(logits, return_inverse=True)[1].reshape(-1)).double() / len(logits)
    assert found["auroc"] == pytest.approx(binary_auroc(ranks, labels).item(), abs=1e-6)  # theirs is fp32
    both = torch.cat([probabilities, torch.from_numpy(-logits).double().sigmoid()])
    wins = torch.arange(len(both)) < len(logits)
    expected = binary_calibration_error(both, wins.long(), n_bins=15).item()
    assert figures.expected_calibration_error(logits) == pytest.approx(expected, abs=1e-12)


def test_f1_of_the_wrong_steps_is_that_of_torchmetrics():
    logits, right = examples(1.0, seed=1)
    found = figures.step_figures(figures.probability_of(logits), right.astype(float), np.zeros(300, int))
    expected = binary_f1_score(torch.from_numpy(logits < 0).long(), torch.from_numpy(~right).long())
    assert found["f1_wrong"] == pytest.approx(expected.item(), abs=1e-6)


def test_the_verdicts_of_a_model_of_ties_by_hand():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5], [0.1, 0.6, 0.3]])
    found = figures.verdict_figures(probabilities, np.array([1.0, 0.5, 1.0, 0.0]))
    assert found["outcome_accuracy"] == 2 / 4
    assert 0 < found["ece"] < 1


def test_what_is_infinite_promises_nothing():
    assert math.isnan(figures.expected_calibration_error(np.array([np.inf, 1.0])))
    found = figures.error_figures(np.array([np.inf, 1.0]), np.array([0.0, 1.0]))
    assert math.isinf(found["mse"]) and math.isnan(found["pearson"])
    assert math.isnan(figures.auroc(np.array([np.nan, 1.0]), np.array([True, False])))


def test_baselines_by_hand():
    assert figure_names.pair_baselines([[5, 2], [1, 3], [2, 2]]) == {"accuracy": 1.5 / 3}
    assert figure_names.pair_baselines([]) == {}
    found = figure_names.list_baselines([[5, 2]], [[3.0, 1.0], [2.0, 2.0, 0.0]])
    assert found == {"accuracy": 1.0, "best_accuracy": pytest.approx((1 / 2 + 2 / 3) / 2)}
    assert figure_names.score_baselines(np.array([np.nan])) == {}
    assert figure_names.step_baselines(0.6) == {"accuracy": 0.6, "f1_wrong": pytest.approx(1.2 / 1.6)}


def test_a_metric_is_known_to_two_files():
    files = {path.name for path in PACKAGE.rglob("*.py") if "best_accuracy" in path.read_text(encoding="utf-8")}
    assert files == {"figures.py", "figure_names.py"}


def test_a_label_says_a_figure_that_is_computed():
    pairs = {**figures.pair_figures(np.ones(2), np.zeros(2)), **figures.verdict_figures(np.eye(3), np.ones(3))}
    assert pairs.keys() | {"loss"} == figure_names.PAIRS_AND_TIES.keys()
    lists = figures.ranked_figures(np.eye(2), np.eye(2))
    assert lists.keys() | {"loss"} == figure_names.LISTS.keys()
    steps = figures.step_figures(np.array([0.2, 0.7]), np.array([0.0, 1.0]), np.zeros(2, int))
    assert steps.keys() == figure_names.STEPS.keys()
    outcomes = figures.outcome_figures(np.array([1.0, -1.0]), np.array([1.0, 0.0]))
    assert outcomes.keys() == figure_names.OUTCOMES.keys()
    assert {f"outcome_{key}" for key in outcomes} == figure_names.SOLUTIONS.keys()
    errors = figures.error_figures(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    assert errors.keys() == figure_names.ERRORS.keys()
