"""PITFALLS 44 to 46, what a reload must keep: each promise, and the same check failing with its mend undone."""

import shutil

import pytest
import trl
from small import text_pairs
from undo import fails_without

from hf_rewardplug.train import checkpoints

STATE = ["optimizer.pt", "scheduler.pt", "rng_state.pth"]


@pytest.mark.parametrize("missing", [STATE, *([name] for name in STATE)], ids=" ".join)
def test_pitfall_44_a_model_alone_is_not_resumed(missing, orm, tmp_path):
    """transformers goes on from `save_only_model=True` with a new optimizer and the peak learning rate, in silence.

    Here: an error that says what is missing, for the newest checkpoint and for one that is named; TRL's own too.
    """
    options = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = orm(text_pairs(4), of=trl, save_only_model=len(missing) > 1, **options)
    trainer.train()
    newest = tmp_path / "checkpoint-1"
    for name in missing:
        (newest / name).unlink(missing_ok=True)
    resumed = orm(text_pairs(4), max_steps=2)
    said = rf"{' and '.join(missing)} (is|are) missing \(`save_only_model=True`.*give model='.*checkpoint-1'"

    def refuses(asked):
        with pytest.raises(ValueError, match=said):
            resumed.train(resume_from_checkpoint=asked)

    fails_without(lambda: refuses(str(newest)), (checkpoints, "_missing_state", lambda folder: []))
    fails_without(lambda: refuses(True), (checkpoints, "_missing_state", lambda folder: []))


def test_pitfall_44_sharded_optimizers_are_known(orm, tmp_path):
    """The layouts that DeepSpeed and FSDP leave have no `optimizer.pt`, and are whole."""
    trainer = orm(text_pairs(4), of=trl, save_strategy="steps", save_steps=1)
    trainer.train()
    saved, layout = tmp_path / "checkpoint-1", tmp_path / "layout"
    for optimizer in ("optimizer.bin", "optimizer_0/__0_0.distcp", "global_step1/mp_rank_00_model_states.pt"):
        shutil.copytree(saved, layout)
        (layout / "optimizer.pt").unlink()
        (layout / "rng_state.pth").rename(layout / "rng_state_0.pth")
        if optimizer.startswith("global_step"):
            (layout / "scheduler.pt").unlink()
        assert checkpoints.why_not_whole(layout) is not None
        (layout / optimizer).parent.mkdir(exist_ok=True)
        (layout / optimizer).touch()
        assert checkpoints.why_not_whole(layout) is None, optimizer
        shutil.rmtree(layout)
