"""PITFALLS 44 to 46, what a reload must keep: each promise, and the same check failing with its mend undone."""

import shutil

import pytest
import torch
import trl
from small import text_pairs
from torch import nn
from transformers import AutoModelForSequenceClassification
from undo import fails_without

from hf_rewardplug import RewardScorer
from hf_rewardplug.model import saved
from hf_rewardplug.train import checkpoint_files as checkpoints
from hf_rewardplug.train import models

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


@pytest.mark.parametrize("asked", ["auto", "bfloat16"])
def test_pitfall_45_a_reload_in_bf16_keeps_the_fp32_head(asked, orm, tmp_path):
    """`from_pretrained` rounds the head, which trained and was saved in fp32, to the dtype of the body.

    Here: the scorer, a new run and a resumed one have the head of the file.
    """
    options = {"max_steps": 1, "learning_rate": 1e-3, "model_init_kwargs": {"dtype": "bfloat16"}}
    trainer = orm(text_pairs(2), save_strategy="steps", save_steps=1, **options)
    trainer.train()
    newest, trained = tmp_path / "checkpoint-1", trainer.model.score.weight.detach()
    assert not torch.equal(trained, trained.bfloat16().float())

    def holds():
        loaded = RewardScorer.from_pretrained(str(newest), device="cpu", dtype=asked).model
        assert torch.equal(loaded.score.weight, trained) and loaded.dtype == torch.bfloat16
        goes_on = orm(text_pairs(2), model=str(newest), model_init_kwargs={"dtype": asked})
        assert torch.equal(goes_on.model.score.weight, trained)

    fails_without(holds, (saved, "with_saved_head", lambda model_class, *head: model_class))
    if asked == "auto":
        resumed = orm(text_pairs(2), **options)
        resumed.train(resume_from_checkpoint=str(newest))
        assert torch.equal(resumed.model.score.weight, trained)


HEADS = {
    "layers": lambda: nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1)),
    "bias": lambda: nn.Linear(64, 1),
}


@pytest.mark.parametrize("head", HEADS)
def test_pitfall_46_a_head_of_several_layers_or_with_a_bias_comes_back(head, orm, model_path, tokenizer, tmp_path):
    """transformers drops a head's bias and draws a head of several layers anew, and says so in a table alone.

    Here: both are saved, loaded and scored, and a head that could not be loaded is refused before the first step.
    """
    model = AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=1)
    model.score = HEADS[head]()
    trainer = orm(text_pairs(2), model=model, processing_class=tokenizer, save_strategy="steps", save_steps=1)
    trainer.train()
    expected = RewardScorer(trainer.model, tokenizer).score("one", "two")

    def holds():
        again = RewardScorer.from_pretrained(str(tmp_path / "checkpoint-1"), device="cpu")
        assert again.score("one", "two") == pytest.approx(expected, abs=1e-6)

    undone = (saved, "with_saved_head", lambda model_class, *head: model_class)
    fails_without(holds, undone, raises=(AssertionError, ValueError))  # the latter: "no weights for its head"
    model = AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=1)
    model.score = nn.ModuleList([nn.Linear(64, 1)])
    fails_without(
        lambda: refuses_head(lambda: orm(text_pairs(2), model=model, processing_class=tokenizer)),
        (models, "check_reloads", lambda model: None),
    )


def refuses_head(make):
    with pytest.raises(ValueError, match=r"`model\.score` is not what"):
        make()
