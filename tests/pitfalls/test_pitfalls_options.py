"""PITFALLS 47, options of transformers in packed rows: the promise, and the same check failing with its mend undone."""

import pytest
from small import text_pairs
from torch.nn.functional import embedding
from transformers import TrainerCallback
from undo import fails_without

from hf_rewardplug.train import base_trainer


class Noise(TrainerCallback):
    """What the embedding gives beyond its rows; its hook comes behind transformers'."""

    def __init__(self):
        self.seen = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        model.get_input_embeddings().register_forward_hook(self.record)

    def record(self, module, inputs, output):
        self.seen.append((output - embedding(inputs[0], module.weight)).detach())


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

    fails_without(holds, (base_trainer, "why_padded", lambda model, args: None))
