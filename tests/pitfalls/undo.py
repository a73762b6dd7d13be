"""How each test of PITFALLS shows that it can fail: the same check with the mend undone, or on TRL's own trainer."""

import pytest
import trl

import hf_rewardplug

FAILURE = (AssertionError, pytest.fail.Exception)  # the second: a `pytest.raises` in which nothing was raised


def fails_without(holds, *mends, raises=FAILURE, match=None):
    """`holds()` passes; with the mends undone, (owner, name, what upstream has there), it fails."""
    holds()
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, old in mends:
            patch.setattr(owner, name, old)
        with pytest.raises(raises, match=match):
            holds()


def fails_at_trl(holds, raises=FAILURE, match=None):
    """`holds(package)` passes with this package's `RewardTrainer` and fails with TRL's."""
    holds(hf_rewardplug)
    with pytest.raises(raises, match=match):
        holds(trl)


def mean_of_the_batch(self, model, inputs, return_outputs=False, num_items_in_batch=None):
    """The old PRMTrainer's loss: each micro-batch's mean, times the ranks, as transformers scaled what it had counted.

    It told transformers that accumulation was seen to: set `loss_is_scaled_for_ga` to True beside it.
    """
    outputs = model(**{key: value for key, value in inputs.items() if key not in self.targets}, use_cache=False)
    loss = self.training_objective.losses(outputs.logits, inputs)[0].mean() * self.accelerator.num_processes
    return (loss, outputs) if return_outputs else loss
