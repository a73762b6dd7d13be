"""`model_init_kwargs={"use_kernels": True}`: layers of the package `kernels` in the body, and the head as it was."""

import json

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from rows import quick, solutions, text_pairs
from transformers import AutoModelForSequenceClassification
from transformers.utils import import_utils

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer
from hf_rewardplug.demo import save_demo_model
from hf_rewardplug.model.head import reward_heads
from hf_rewardplug.model.liger import register_liger

KINDS = {"orm": (RewardTrainer, RewardConfig, text_pairs), "prm": (PRMTrainer, PRMConfig, solutions)}
VERSIONS = f"{import_utils.KERNELS_MIN_VERSION} <= kernels < {import_utils.KERNELS_MAX_VERSION}"
needs_kernels = pytest.mark.skipif(not import_utils.is_kernels_available(), reason=f"needs {VERSIONS}")
SOURCE = """
import torch
from torch import nn
CALLS = {True: 0, False: 0}  # kernel for training or not: calls

def norm(training):
    class RMSNorm(nn.Module):
        def forward(self, hidden_states):
            CALLS[training] += 1
            wide = hidden_states.float()
            wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
            return self.weight * wide.to(hidden_states.dtype)

    return RMSNorm

class layers:
    Training, Inference = norm(True), norm(False)
    class Linear(nn.Module):
        def forward(self, input):
            raise AssertionError("the head's product is not a kernel's")
"""


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return str(save_demo_model(tmp_path_factory.mktemp("model"), style="qwen"))


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Calls of the local kernels for `RMSNorm`, one a mode; they and one for `Linear` are registered for the CPU."""
    from kernels import LocalLayerRepository, Mode, get_local_kernel, use_kernel_mapping

    folder = tmp_path_factory.mktemp("counted")
    variant = folder / "build" / "torch-universal"
    variant.mkdir(parents=True)
    (variant / "__init__.py").write_text(SOURCE)
    about = {"id": "counted_v1", "name": "counted", "version": 1, "license": "apache-2.0", "python-depends": []}
    (variant / "metadata.json").write_text(json.dumps({**about, "backend": {"type": "cpu"}}))
    layers = {name: LocalLayerRepository(folder, layer_name=name) for name in ("Training", "Inference", "Linear")}
    norms = {Mode.TRAINING: layers["Training"], Mode.INFERENCE: layers["Inference"]}
    with use_kernel_mapping({"RMSNorm": {"cpu": norms}, "Linear": {"cpu": layers["Linear"]}}):
        yield get_local_kernel(folder).CALLS


def trainer_for(kind: str, model, folder, peft_config=None, use_kernels=True, **options):
    trainer_class, config_class, make = KINDS[kind]
    options = {"eval_strategy": "steps", "eval_steps": 1, "gradient_checkpointing": False, **options}
    rows = {"train_dataset": Dataset.from_list(make(12)), "eval_dataset": Dataset.from_list(make(5, 1))}
    args = config_class(**quick(folder, model_init_kwargs={"use_kernels": use_kernels}, seed=3, **options))
    return trainer_class(model, args, peft_config=peft_config, **rows)


def figures(trainer) -> list[float]:
    keys = ("loss", "grad_norm", "eval_loss", "eval_accuracy")
    return [log[key] for log in trainer.state.log_history for key in keys if key in log]


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapter", [None, LoraConfig(r=2, target_modules="all-linear")], ids=["full", "lora"])
@pytest.mark.parametrize("options", [{}, {"prefix_sharing": False}, {"gradient_checkpointing": True}], ids=str)
def test_the_losses_are_those_without_kernels(kind, adapter, options, calls, model_path, tmp_path):
    """`train()` and `eval()` kernelize anew, each with its mode's kernel."""
    found = []
    for use_kernels in (False, True):
        calls.update({True: 0, False: 0})
        trainer = trainer_for(kind, model_path, tmp_path, adapter, use_kernels, **options)
        trainer.train()
        found.append([*figures(trainer), trainer.evaluate()["eval_loss"]])
        layers = 2 * trainer.model.config.num_hidden_layers  # norms of a forward, but for the last one
        again = layers * options.get("gradient_checkpointing", False)
        training, evaluation = 3 * (layers + 1 + again), 4 * 2 * (layers + 1)  # two batches an evaluation
        assert calls == {True: training * use_kernels, False: evaluation * use_kernels}
    assert found[1] == pytest.approx(found[0], rel=0, abs=1e-6)


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapter", [None, LoraConfig(r=2, target_modules="all-linear")], ids=["full", "lora"])
def test_the_head_stays_fp32_in_both_modes(kind, adapter, calls, model_path, tmp_path):
    """transformers' mapping has a kernel for `Linear`, for which no class asks."""
    model = trainer_for(kind, model_path, tmp_path, adapter).model
    for mode in (True, False, True):
        model.train(mode)
        calls.update({True: 0, False: 0})
        for head in reward_heads(model):
            assert head(torch.ones(1, head.in_features, dtype=torch.bfloat16)).dtype == torch.float32
        picked = model(input_ids=torch.tensor([[5, 6, 7]]), score_positions=torch.tensor([0, 2])).logits
        assert len(picked) == 2 and calls[mode] and not calls[not mode]


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_knows_nothing_of_kernels(kind, calls, model_path, tmp_path):
    whole = trainer_for(kind, model_path, tmp_path, save_strategy="steps", save_steps=2)
    whole.train()
    resumed = trainer_for(kind, model_path, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert figures(resumed) == figures(whole)
    assert "kernel" not in (tmp_path / "checkpoint-2" / "config.json").read_text()
    resumed.save_model(str(tmp_path / "saved"))
    plain = trainer_for(kind, str(tmp_path / "saved"), tmp_path, use_kernels=False)
    assert plain.evaluate()["eval_loss"] == pytest.approx(resumed.evaluate()["eval_loss"], rel=0, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_package_the_error_names_it(kind, model_path, tmp_path, monkeypatch):
    monkeypatch.setattr(import_utils, "is_kernels_available", lambda *versions: False)
    with pytest.raises(ValueError, match=r"`use_kernels=True`.* needs the package `kernels`.*pip install 'kernels>="):
        trainer_for(kind, model_path, tmp_path)


def test_ligers_kernels_and_these_are_one_or_the_other(model_path):
    model = AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=1)
    model._use_kernels = True
    assert "`use_kernels=True`" in register_liger(model, torch.device("cuda"))
