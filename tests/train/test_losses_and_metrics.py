"""Metrics against counting by hand. The losses have tests of their own (`test_losses.py`)."""

import numpy as np
import pytest
import torch
from transformers.trainer_utils import EvalPrediction

from hf_rewardplug.figures import pair_figures, step_figures
from hf_rewardplug.train.metrics import Running, compute_accuracy, first_seen, mean_loss


def test_running_figures_do_not_depend_on_the_batches():
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    for parts in ([4], [1, 3], [2, 0, 2]):
        running = Running()
        for part in values.split(parts):
            extremes = {"minima": {"least": part.min()}} if len(part) else {}
            running.add(sums={"mean": part.sum()}, count=len(part), **extremes)
        assert running.read(gather=lambda vector: vector[None]) == {"mean": 3.0, "least": 1.0}
        assert running.read(gather=lambda vector: vector[None]) == {}


def test_running_figures_over_two_ranks():
    running = Running()
    running.add(sums={"mean": torch.tensor(4.0)}, count=1, maxima={"most": torch.tensor(4.0)})
    other_rank = torch.tensor([3.0, 2.0, 1.0])  # count, sum, maximum
    assert running.read(gather=lambda vector: torch.stack([vector, other_rank])) == {"mean": 1.5, "most": 4.0}


def test_repeated_examples_count_once():
    assert first_seen(np.array([4, 0, 4, 1, 0])).tolist() == [True, True, False, True, False]


def test_pair_figures_by_hand():
    figures = pair_figures(np.array([2.0, 0.0, 1.0]), np.array([1.0, 0.0, 3.0]))
    assert mean_loss(np.array([1.0, 2.0, 3.0]), np.ones(3)) == 2.0
    assert figures["accuracy"] == pytest.approx(1 / 3)  # one won, one tied, one lost
    assert figures["ties"] == pytest.approx(1 / 3)
    assert figures["margin"] == pytest.approx(-1 / 3)
    assert (figures["min_reward"], figures["max_reward"]) == (0.0, 3.0)
    assert figures["std_reward"] == pytest.approx(np.std([2, 0, 1, 1, 0, 3]))


def test_step_figures_by_hand():
    # found wrong: 2nd, 3rd; are wrong: 2nd, 4th, 5th -> precision 1/2, recall 1/3
    figures = step_figures(np.array([0.9, 0.1, 0.4, 0.6, 0.7]), np.array([1.0, 0.0, 0.9, 0.2, 0.0]), np.zeros(5, int))
    assert figures["accuracy"] == pytest.approx(2 / 5)
    assert figures["f1_wrong"] == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert step_figures(np.array([0.9]), np.array([1.0]), np.zeros(1, int))["f1_wrong"] == 0.0


def test_compute_accuracy_ignores_padding_and_ties(caplog):
    steps = np.array([[[0.1, 0.9], [0.8, 0.2]], [[0.3, 0.7], [0.6, 0.4]]])
    assert compute_accuracy(EvalPrediction(steps, np.array([[0, 0], [1, -100]]))) == {"accuracy": pytest.approx(2 / 3)}
    assert compute_accuracy((np.array([[[0.3], [-0.2]]]), np.array([[1, 1]]))) == {"accuracy": 0.5}
    pairs = np.array([[0.4, 0.6], [0.3, 0.7], [0.2, 0.8], [0.5, 0.5]])
    assert compute_accuracy(EvalPrediction(pairs, np.array([0, 1, 1, 0]))) == {"accuracy": pytest.approx(2 / 3)}
    assert "There are 1 out of 4 instances where the predictions for both options are equal" in caplog.text
