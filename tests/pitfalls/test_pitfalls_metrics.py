"""PITFALLS 14 to 18, wrong metrics: each promise, and the same check failing with its mend undone."""

import pytest
import torch
import transformers
from datasets import Dataset
from rows import solutions
from small import pair_loss, pair_rewards, plain, step_losses, text_pairs
from undo import FAILURE, fails_at_trl, fails_without

from hf_rewardplug.train.base_trainer import ScoreTrainer

BATCH_WEIGHTS = (ScoreTrainer, "evaluation_loop", transformers.Trainer.evaluation_loop)


def assert_pair_figures(found: dict, rewards_N2: torch.Tensor) -> None:
    margins = rewards_N2[:, 0] - rewards_N2[:, 1]
    expected = {
        "eval_loss": pair_loss(rewards_N2),
        "eval_accuracy": (margins > 0).float().mean().item(),
        "eval_margin": margins.mean().item(),
        "eval_mean_reward": rewards_N2.mean().item(),
        "eval_min_reward": rewards_N2.min().item(),
        "eval_max_reward": rewards_N2.max().item(),
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_pitfall_14_pair_figures_do_not_depend_on_batches_and_ranks(orm, two_ranks):
    """TRL averages the averages of batches, and of ranks that got rows twice (trl#7010): -0.338 for a margin of 0.269.

    Here: every pair counts once, whatever the batch size and the ranks.
    """
    rows = text_pairs(7)

    def holds(of):
        for size in (1, 7, 3):
            trainer = orm(rows, rows, of=of, per_device_eval_batch_size=size)
            assert_pair_figures(trainer.evaluate(), pair_rewards(plain(trainer), trainer.processing_class, rows))

    fails_at_trl(holds)
    expected = pair_rewards(two_ranks["orm"], two_ranks["tokenizer"], two_ranks["pairs"])
    assert_pair_figures(two_ranks["mended"]["pairs"], expected)
    with pytest.raises(FAILURE):
        assert_pair_figures(two_ranks["undone"]["pairs"], expected)


@pytest.mark.slow
def test_pitfall_15_the_loss_of_steps_does_not_depend_on_batches_and_ranks(prm, two_ranks):
    """transformers weights each batch's mean by its rows, whatever their steps (true 4.394, at batch 1 2.742).

    Here: every labelled step counts once, whatever the batch size and the ranks.
    """
    rows = solutions(7, 1)

    def holds():
        for size in (7, 1, 3):
            trainer = prm(rows, rows, per_device_eval_batch_size=size)
            expected = step_losses(plain(trainer), trainer.processing_class, rows).mean().item()
            assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5), f"batches of {size}"

    fails_without(holds, BATCH_WEIGHTS, match="batches of 1")
    expected = step_losses(two_ranks["prm"], two_ranks["tokenizer"], two_ranks["held_out"]).mean().item()
    assert two_ranks["mended"]["steps"]["eval_loss"] == pytest.approx(expected, abs=1e-5)
    assert two_ranks["undone"]["steps"]["eval_loss"] != pytest.approx(expected, abs=1e-3)


def test_pitfall_16_compute_metrics_gets_a_row_an_example(orm, prm):
    """transformers hands over (2N + ..., 1) logits of pairs, and labels () (trl#7010).

    Here: rewards (N, 2) with labels (N,), zeros; steps (N, steps, labels) with (N, steps), -100 where there is none.
    """
    seen = {}

    def compute_metrics(prediction):
        seen.update(predictions=torch.as_tensor(prediction.predictions), labels=torch.as_tensor(prediction.label_ids))
        return {}

    def pairs(of):
        rows = text_pairs(5)
        trainer = orm(rows, rows, of=of, compute_metrics=compute_metrics)
        trainer.evaluate()
        expected = pair_rewards(plain(trainer), trainer.processing_class, rows)
        assert seen["labels"].tolist() == [0] * 5 and seen["predictions"].shape == (5, 2)
        torch.testing.assert_close(seen["predictions"], expected, rtol=0, atol=1e-5)

    def steps():
        rows = solutions(5, 3)
        trainer = prm(rows, rows, compute_metrics=compute_metrics)
        trainer.evaluate()
        most = max(len(row["labels"]) for row in rows)
        assert seen["labels"].tolist() == [[*row["labels"], *[-100] * (most - len(row["labels"]))] for row in rows]
        assert seen["predictions"].shape == (5, most, 2)
        logits = seen["predictions"][seen["labels"] != -100]
        losses = torch.nn.functional.cross_entropy(
            logits, seen["labels"][seen["labels"] != -100].long(), reduction="none"
        )
        torch.testing.assert_close(losses, step_losses(plain(trainer), trainer.processing_class, rows).detach())

    fails_at_trl(pairs)
    fails_without(steps, (ScoreTrainer, "prediction_step", transformers.Trainer.prediction_step))


def test_pitfall_17_predict_takes_raw_rows_and_leaves_evaluate_alone(orm):
    """TRL's `predict` refuses raw rows, and what it gathered is averaged into the next `evaluate`.

    Here: raw rows are encoded, and `evaluate` says the same before and behind.
    """
    rows, others = text_pairs(6), text_pairs(6, 1)

    def leaves_evaluate_alone(of):
        trainer = orm(others, rows, of=of)
        expected = pair_rewards(plain(trainer), trainer.processing_class, rows)  # six pairs in two batches of three
        assert trainer.evaluate()["eval_margin"] == pytest.approx(
            (expected[:, 0] - expected[:, 1]).mean().item(), abs=1e-5
        )
        trainer.predict(trainer.train_dataset)
        assert trainer.evaluate()["eval_margin"] == pytest.approx(
            (expected[:, 0] - expected[:, 1]).mean().item(), abs=1e-5
        )

    def takes_raw_rows(of):
        trainer = orm(others, of=of)
        found = torch.from_numpy(trainer.predict(Dataset.from_list(rows)).predictions)
        torch.testing.assert_close(
            found, pair_rewards(plain(trainer), trainer.processing_class, rows), rtol=0, atol=1e-5
        )

    fails_at_trl(leaves_evaluate_alone)
    fails_at_trl(takes_raw_rows, raises=(KeyError, ValueError, TypeError))


@pytest.mark.slow
def test_pitfall_18_a_stream_is_evaluated_alike_on_uneven_ranks(two_ranks):
    """TRL on two ranks counted the rows twice that fill a stream's last batches (0.691 on one rank, 0.863 on two).

    Here: seven pairs of a stream give on two ranks what they give one by one.
    """
    expected = pair_rewards(two_ranks["orm"], two_ranks["tokenizer"], two_ranks["pairs"])
    assert_pair_figures(two_ranks["mended"]["stream"], expected)
    with pytest.raises(FAILURE):
        assert_pair_figures(two_ranks["undone"]["stream"], expected)
