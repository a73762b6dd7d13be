"""Evaluation figures against slow definitions, by subset, and the same for every batch size and stream."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from rows import quick, solutions, text_pairs

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer
from hf_rewardplug.figures import expected_calibration_error, step_figures
from hf_rewardplug.train.metrics import Running
from hf_rewardplug.train.objectives import PairObjective

KINDS = {"orm": (RewardTrainer, RewardConfig, text_pairs), "prm": (PRMTrainer, PRMConfig, solutions)}
NOT_FIGURES = ("epoch", "time", "per_second", "num_tokens")


@pytest.fixture(scope="module")
def model_path(assets):
    return str(assets / "stories260K")


def figures_of(found: dict) -> dict:
    return {key: value for key, value in found.items() if not any(word in key for word in NOT_FIGURES)}


# ---- definitions ---------------------------------------------------------------------------------------------------


def slow_calibration_error(margins: np.ndarray) -> float:
    """Guo et al. 2017, eq. 3, over "a beats b" and "b beats a" of each pair, one bin at a time."""
    forecasts = [(1 / (1 + math.exp(-m)), 1) for m in margins] + [(1 / (1 + math.exp(m)), 0) for m in margins]
    error = 0.0
    for index in range(15):
        low, high = index / 15, (index + 1) / 15
        inside = [(p, won) for p, won in forecasts if low < p <= high or (index == 0 and p == 0)]
        if inside:
            gap = sum(won for _, won in inside) / len(inside) - sum(p for p, _ in inside) / len(inside)
            error += len(inside) / len(forecasts) * abs(gap)
    return error


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_calibration_error_is_guo_s(scale):
    margins = np.random.default_rng(0).normal(0.3, scale, 400).astype(np.float32)
    assert expected_calibration_error(margins) == pytest.approx(slow_calibration_error(margins), abs=1e-6)


def test_a_calibrated_model_has_little_error():
    generator = np.random.default_rng(1)
    promised = generator.normal(0, 2, 20_000)
    wins = generator.random(20_000) < 1 / (1 + np.exp(-promised))
    margins = np.where(wins, promised, -promised)  # chosen is who won
    assert expected_calibration_error(margins) < 0.015
    assert expected_calibration_error(3 * margins) > 0.1, "an overconfident one has much"
    assert expected_calibration_error(np.zeros(4)) == 0.0
    assert np.isnan(expected_calibration_error(np.array([np.nan, 1.0])))


def test_auroc_is_the_share_of_right_and_wrong_steps_in_order():
    generator = np.random.default_rng(2)
    labels = (generator.random(60) < 0.7).astype(float)
    probabilities = np.round(np.clip(labels * 0.2 + generator.random(60), 0, 1), 1)  # with ties
    pairs = [(p > q) + 0.5 * (p == q) for p in probabilities[labels == 1] for q in probabilities[labels == 0]]
    back = np.zeros(60, dtype=int)
    assert step_figures(probabilities, labels, back)["auroc"] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert "auroc" not in step_figures(np.array([0.2, 0.7]), np.ones(2), np.zeros(2, int))


@pytest.mark.parametrize(
    ("found_wrong", "is_wrong", "back", "expected"),
    [
        ("0010", "0011", [0, 1, 1, 1], 1.0),  # what comes behind the first does not count
        ("0100", "0010", [0, 1, 1, 1], 0.0),
        ("0000", "0000", [0, 1, 1, 1], 1.0),  # none, and none is found
        ("0001", "0000", [0, 1, 1, 1], 0.0),
        ("01001", "01000", [0, 1, 0, 1, 1], 0.5),  # two solutions, of two steps and of three
        ("0010", "0010", [0, 1, 2, 3], 1.0),  # one step with three alternatives: three paths
        ("0011", "0010", [0, 1, 2, 3], 2 / 3),
        ("1000", "0100", [0, 1, 2, 3], 0.0),  # wrong from the start, on every path
    ],
)
def test_the_first_wrong_step_by_hand(found_wrong, is_wrong, back, expected):
    probabilities, labels = (np.array([bit == "0" for bit in bits], dtype=float) for bits in (found_wrong, is_wrong))
    figures = step_figures(probabilities, labels, np.array(back))
    assert figures["first_wrong_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize("sharing", [True, False])
def test_the_first_wrong_step_of_trees_and_solutions(sharing, model_path, tmp_path):
    nodes = [("a", 1, -1), ("b", 0, 0), ("c", 1, 0), ("d", 1, 2), ("e", 0, -1)]  # leaves: b, d, e
    tree = {"prompt": "p", "nodes": [dict(zip(("text", "label", "parent"), node, strict=True)) for node in nodes]}
    rows = [tree, {"prompt": "q", "nodes": [{"text": "x", "label": 1, "parent": -1}]}]
    args = PRMConfig(**quick(tmp_path, prefix_sharing=sharing))
    trainer = PRMTrainer(model_path, args, train_dataset=Dataset.from_list(rows))
    with torch.no_grad():
        trainer.model.score.weight.zero_()
        trainer.model.score.bias.copy_(torch.tensor([0.0, 1.0]))  # everything is right
    assert trainer.evaluate(Dataset.from_list(rows))["eval_first_wrong_accuracy"] == pytest.approx(2 / 4)


# ---- in the trainers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_figures_by_subset_are_those_of_the_subset_alone(kind, model_path, tmp_path):
    trainer_class, config_class, make = KINDS[kind]
    rows = [{**row, "subset": ["chat", "math", None][i % 3]} for i, row in enumerate(make(11, 1))]
    args = config_class(**quick(tmp_path))
    trainer = trainer_class(model_path, args, train_dataset=Dataset.from_list(make(4)))
    figures = figures_of(trainer.evaluate(Dataset.from_list(rows)))
    for subset in ("chat", "math"):
        alone = Dataset.from_list([row for row in rows if row["subset"] == subset]).remove_columns("subset")
        prefix = f"eval_subset_{subset}_"
        found = {key.removeprefix(prefix): value for key, value in figures.items() if key.startswith(prefix)}
        expected = {key.removeprefix("eval_"): value for key, value in figures_of(trainer.evaluate(alone)).items()}
        assert found == pytest.approx(expected, abs=1e-5) and {"loss", "accuracy"} <= found.keys()
    without = figures_of(trainer.evaluate(Dataset.from_list(rows).remove_columns("subset")))
    assert {key: value for key, value in figures.items() if "subset" not in key} == pytest.approx(without, abs=1e-6)
    assert not any("subset" in key for key in without)


def test_a_subset_column_of_another_name_and_in_a_stream(model_path, tmp_path):
    rows = [{**row, "source": i % 2} for i, row in enumerate(text_pairs(7, 1))]
    data = Dataset.from_list(rows)
    args = RewardConfig(**quick(tmp_path, column_mapping={"subset": "source"}))
    trainer = RewardTrainer(model_path, args, train_dataset=data, eval_dataset=data.to_iterable_dataset(num_shards=2))
    trainer.train()
    streamed, mapped = figures_of(trainer.evaluate()), figures_of(trainer.evaluate(data))
    assert {"eval_subset_0_accuracy", "eval_subset_1_ece"} <= streamed.keys()
    assert streamed == pytest.approx(mapped, abs=1e-6)
    plain = data.remove_columns("source")
    without = RewardTrainer(model_path, args, train_dataset=plain, eval_dataset=plain)
    assert not any("subset" in key for key in without.evaluate()), "no such column, no such figures"
    raw = Dataset.from_list([{**row, "chosen_ids": [5, 6 + i], "rejected_ids": [5, 4]} for i, row in enumerate(rows)])
    assert "eval_subset_0_accuracy" in trainer.evaluate(raw), "tokenized rows have subsets too"


@pytest.mark.parametrize("kind", KINDS)
def test_figures_do_not_depend_on_the_batch_size(kind, model_path, tmp_path):
    trainer_class, config_class, make = KINDS[kind]
    held_out = Dataset.from_list([{**row, "subset": str(i % 2)} for i, row in enumerate(make(9, 1))])
    found = []
    for size in (1, 4, 9):
        args = config_class(**quick(tmp_path, per_device_eval_batch_size=size))
        trainer = trainer_class(model_path, args, train_dataset=Dataset.from_list(make(4)), eval_dataset=held_out)
        found.append(figures_of(trainer.evaluate()))
    assert found[1] == pytest.approx(found[0], abs=1e-5) and found[2] == pytest.approx(found[0], abs=1e-5)


def test_logged_and_saved_rewards_are_those_of_plain_numpy(model_path, tmp_path):
    args = RewardConfig(**quick(tmp_path, max_steps=2, learning_rate=0.0, per_device_train_batch_size=8))
    held_out = Dataset.from_list(text_pairs(5, 1))
    trainer = RewardTrainer(model_path, args, train_dataset=Dataset.from_list(text_pairs(8)), eval_dataset=held_out)
    trainer.train()
    train = trainer.predict(trainer.train_dataset).predictions
    for log in (log for log in trainer.state.log_history if "loss" in log):
        assert (log["mean_reward"], log["std_reward"]) == pytest.approx((train.mean(), train.std()), abs=1e-5)
    trainer.evaluate()
    trainer.save_model()
    rewards = trainer.predict(held_out).predictions
    saved = json.loads((tmp_path / "config.json").read_text())["rewardplug"]["calibration"]
    assert saved == {"mean": pytest.approx(rewards.mean()), "std": pytest.approx(rewards.std()), "step": 2}


def test_an_eval_set_called_train_is_no_train_set(model_path, tmp_path):
    rows = {"train": Dataset.from_list(text_pairs(5, 1))}
    args = RewardConfig(**quick(tmp_path, group_by_prefix=True))
    trainer = RewardTrainer(model_path, args, train_dataset=Dataset.from_list(text_pairs(8)), eval_dataset=rows)
    assert {name: report.examples for name, report in trainer.preparation_reports.items()} == {
        "train": 8,
        "eval (train)": 5,
    }
    assert "eval_train_accuracy" in trainer.evaluate()
    again = RewardTrainer(model_path, args, train_dataset=trainer.train_dataset)
    assert again.preparation_reports["train"].examples == 0, "prepared before: nothing to tell"


def test_the_spread_of_rewards_that_have_drifted_is_exact():
    rewards = 1000 + torch.randn(2, 64, generator=torch.Generator().manual_seed(0)) / 8
    running = Running()
    items = {"loss": torch.zeros(64), "chosen": rewards[0], "rejected": rewards[1], "better": torch.ones(64)}
    running.add(**PairObjective(loss_type="bradley_terry").running(items))
    logged = RewardTrainer.training_figures(None, running.read(gather=lambda vector: vector[None]))
    assert logged["std_reward"] == pytest.approx(rewards.double().std(correction=0).item(), rel=1e-4)


def test_several_eval_sets_weigh_the_same_in_the_saved_calibration(model_path, tmp_path):
    sets = {"a": Dataset.from_list(text_pairs(3, 1)), "b": Dataset.from_list(text_pairs(6, 2))}
    args = RewardConfig(**quick(tmp_path))
    trainer = RewardTrainer(model_path, args, train_dataset=Dataset.from_list(text_pairs(8)), eval_dataset=sets)
    trainer.evaluate()
    rewards = [trainer.predict(one).predictions for one in sets.values()]
    mean = np.mean([one.mean() for one in rewards])
    std = np.sqrt(np.mean([((one - mean) ** 2).mean() for one in rewards]))
    saved = trainer.model.config.rewardplug["calibration"]
    assert (saved["mean"], saved["std"]) == pytest.approx((mean, std), abs=1e-6)


def test_without_an_eval_set_the_training_rewards_are_saved(model_path, tmp_path):
    args = RewardConfig(**quick(tmp_path, max_steps=3))
    trainer = RewardTrainer(model_path, args, train_dataset=Dataset.from_list(text_pairs(8)))
    trainer.train()
    last = [log for log in trainer.state.log_history if "loss" in log][-1]
    assert trainer.model.config.rewardplug["calibration"] == {
        "mean": pytest.approx(last["mean_reward"]),
        "std": pytest.approx(last["std_reward"]),
        "step": 3,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_the_rows_in_their_order(kind, model_path, tmp_path):
    """transformers orders evaluation by length too where training asks for it."""
    trainer_class, config_class, make_rows = KINDS[kind]
    rows, found = Dataset.from_list(make_rows(9)), []
    for strategy in ("random", "group_by_length"):
        args = config_class(**quick(tmp_path, train_sampling_strategy=strategy))
        trainer = trainer_class(model_path, args, train_dataset=rows, eval_dataset=rows)
        torch.nn.init.ones_(trainer.model.score.weight)
        found.append(trainer.predict(trainer.eval_dataset).predictions)
        assert trainer.args.train_sampling_strategy == strategy
    np.testing.assert_allclose(*found, atol=1e-5)


def test_soft_labels_and_margins_are_not_rounded_to_deepspeeds_dtype(model_path, tmp_path, monkeypatch):
    rows = Dataset.from_list(solutions(2, label=lambda g: 0.4999))
    trainer = PRMTrainer(model_path, PRMConfig(**quick(tmp_path)), train_dataset=rows)
    batch = next(iter(trainer.get_train_dataloader()))
    plugin = SimpleNamespace(hf_ds_config=SimpleNamespace(dtype=lambda: torch.bfloat16))
    monkeypatch.setattr(trainer, "is_deepspeed_enabled", True)
    monkeypatch.setattr(type(trainer.accelerator.state), "deepspeed_plugin", plugin)
    assert torch.equal(trainer._prepare_inputs(batch)["step_labels"], batch["step_labels"])
    assert not torch.equal(trainer._prepare_input(batch["step_labels"]).float(), batch["step_labels"])
