"""PITFALLS 43, and 47 to 50: options, constants and row numbers; each promise, and its check failing without it."""

import json

import pytest
from datasets import load_dataset
from small import quick, text_pairs
from torch.nn.functional import embedding
from transformers import TrainerCallback
from undo import fails_at_trl, fails_without

import hf_rewardplug
from hf_rewardplug.data import origin
from hf_rewardplug.score.benchmarks import rewardbench
from hf_rewardplug.train import packing


class Noise(TrainerCallback):
    """What the embedding gives beyond its rows; its hook comes behind transformers'."""

    def __init__(self):
        self.seen = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        model.get_input_embeddings().register_forward_hook(self.record)

    def record(self, module, inputs, output):
        self.seen.append((output - embedding(inputs[0], module.weight)).detach())


def test_pitfall_43_a_search_may_write_the_trainer_s_objective(orm):
    """transformers' `hyperparameter_search` writes `trainer.objective`; the trainer keeps its own."""
    trainer = orm(text_pairs(4))
    assert not hasattr(trainer, "objective")
    trainer.objective = None
    trainer.train()
    assert trainer.state.global_step == 1


def test_pitfall_47_the_noise_of_neftune_is_that_of_a_sequence(orm):
    """transformers draws it from +-alpha / sqrt(L * D), L the tokens of a row, and a packed row is the whole batch.

    Here: the rows are padded, so that L is the longest sequence's, whatever the batch size.
    """
    rows = text_pairs(4)

    def holds():
        trainer, noise = orm(rows, neftune_noise_alpha=5.0, per_device_train_batch_size=4), Noise()
        longest = max(len(row[key]) for row in trainer.train_dataset for key in ("chosen_ids", "rejected_ids"))
        bound = 5 / (longest * trainer.model.config.hidden_size) ** 0.5
        trainer.add_callback(noise)
        trainer.train()
        assert len(noise.seen) == 1
        assert noise.seen[0].abs().max().item() == pytest.approx(bound, rel=0.01)
        assert noise.seen[0].std().item() == pytest.approx(bound / 3**0.5, rel=0.02)  # of a uniform distribution

    fails_without(holds, (packing, "why_padded", lambda model, args: None))


def test_pitfall_48_an_option_that_nothing_reads_is_refused(tmp_path):
    """`label_smoothing_factor` is transformers' own, and `huber_delta` belongs to another loss: both did nothing."""

    def holds(of):
        with pytest.raises(ValueError, match="label_smoothing_factor"):
            of.RewardConfig(**quick(tmp_path, label_smoothing_factor=0.1))

    fails_at_trl(holds)
    with pytest.raises(ValueError, match="huber_delta"):
        hf_rewardplug.RewardConfig(**quick(tmp_path, huber_delta=2.0))


def test_pitfall_49_constants_of_a_benchmark_are_those_of_its_code():
    """RewardBench's counts of xstest were corrected upstream on 2024-09-10; old copies swap them."""
    counts = {subset: count for section in rewardbench.SECTIONS.values() for subset, count in section.items()}
    assert counts["xstest-should-refuse"] == 154
    assert counts["xstest-should-respond"] == 250


def test_pitfall_50_a_row_has_the_number_of_the_user_s_file(orm, tmp_path):
    """Behind a shuffle the error named the row's place in the shuffled data set."""
    rows = [*text_pairs(8), {"prompt": "Once", "chosen": None, "rejected": "day"}, *text_pairs(3, seed=1)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path)).shuffle(seed=3)
    assert dataset[8]["chosen"] is not None

    def holds():
        with pytest.raises(ValueError, match="row 8:"):
            orm(dataset)

    fails_without(holds, (origin, "_numbers", lambda dataset, blocks: None))
