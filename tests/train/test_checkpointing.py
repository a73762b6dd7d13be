"""Gradient checkpointing in both forms trains what training without it does; a watch says where it is not needed."""

import copy
import functools
import itertools
import random
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from rows import quick, sentence, solutions, text_pairs
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    TrainerCallback,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer
from hf_rewardplug.train.callbacks import GIB, CheckpointingWatch, checkpointing_notice

KINDS = {
    "orm": (RewardTrainer, RewardConfig, text_pairs, AutoModelForSequenceClassification, 1),
    "prm": (PRMTrainer, PRMConfig, solutions, AutoModelForTokenClassification, 2),
}
MODES = {
    "none": {"gradient_checkpointing": False},
    "reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "not reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
}


class Layer(TrainerCallback):
    """Counts how often the first layer's attention is computed, recomputations included; keeps its weights."""

    def __init__(self):
        self.forwards, self.before = 0, {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        name, attention = next((name, m) for name, m in model.named_modules() if name.endswith("layers.0.self_attn"))
        attention.register_forward_pre_hook(self.add)
        trained = {key: weight for key, weight in model.named_parameters() if key.startswith(f"{name}.q_proj")}
        self.before = {key: weight.detach().clone() for key, weight in trained.items() if weight.requires_grad}

    def add(self, *arguments):
        self.forwards += 1


def trained(kind: str, tuning: str, mode: str, assets, folder, callbacks=(), rows=None, **options):
    trainer_class, config_class, make_rows, auto_class, labels = KINDS[kind]
    model, given = str(assets / "stories260K"), {}
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    if tuning == "lora":
        given["peft_config"] = config
    if tuning == "adapter":
        torch.manual_seed(0)
        given["processing_class"] = AutoTokenizer.from_pretrained(model)
        model = get_peft_model(auto_class.from_pretrained(model, num_labels=labels), config)
    trainer = trainer_class(
        model,
        config_class(**quick(folder, **MODES.get(mode, {}), **options)),
        train_dataset=Dataset.from_list(rows or make_rows(24)),
        callbacks=[*callbacks],
        **given,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_under_zero3_are_checkpointed_reentrantly(kind, assets, tmp_path, monkeypatch):
    """trl#2514. transformers sees no ZeRO-3 here: it would start DeepSpeed."""
    stage_3 = SimpleNamespace(zero_stage=3)

    def plugin(args):
        return None if "transformers" in sys._getframe(1).f_globals["__name__"] else stage_3

    config_class = KINDS[kind][1]
    monkeypatch.setattr(config_class, "deepspeed_plugin", property(plugin, lambda args, value: None), raising=False)
    trainer = trained(kind, "lora", "by default", assets, tmp_path, max_steps=1)
    layers = [module for module in trainer.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    assert layers and all(layer._gradient_checkpointing_func.keywords["use_reentrant"] for layer in layers)


@pytest.mark.filterwarnings("error:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("config_class", [RewardConfig, PRMConfig])
def test_both_names_of_checkpointing_turn_it_on_and_off(config_class, tmp_path):
    """transformers 5.23 calls it `activation_checkpointing`; TRL sets the old name."""
    given = quick(tmp_path)
    names = {"gradient_checkpointing", "activation_checkpointing"} & {*config_class.__dataclass_fields__}
    for name, on in itertools.product(sorted(names), [True, False]):
        args = config_class(**given | {name: on})
        assert [getattr(args, each) for each in names] == [on] * len(names)


WAYS = [("full", True), ("full", False), ("lora", True), ("lora", False), ("adapter", True)]
EVERYDAY = {("orm", "full", True), ("prm", "full", False), ("prm", "lora", True), ("orm", "adapter", True)}
"""the other kind of each, and LoRA on padded rows, are left to `make test-all`"""


@pytest.mark.parametrize(
    ("kind", "tuning", "sharing"),
    [
        pytest.param(kind, *way, marks=() if (kind, *way) in EVERYDAY else pytest.mark.matrix)
        for kind, way in itertools.product(KINDS, WAYS)
    ],
)
def test_checkpointing_trains_what_training_without_it_does(kind, tuning, sharing, assets, tmp_path):
    """Inputs of frozen layers must require gradients, or the reentrant form loses all that stand before the head."""
    layers, logs, weights = {mode: Layer() for mode in MODES}, {}, {}
    for mode, layer in layers.items():
        trainer = trained(kind, tuning, mode, assets, tmp_path, [layer], prefix_sharing=sharing, max_steps=2)
        logs[mode] = [log[key] for log in trainer.state.log_history if "loss" in log for key in ("loss", "grad_norm")]
        weights[mode] = trainer.model.state_dict()
    assert [layer.forwards for layer in layers.values()] == [2, 4, 4], "each layer is computed a second time"
    assert layers["none"].before
    for mode in ("reentrant", "not reentrant"):
        assert logs[mode] == pytest.approx(logs["none"], rel=1e-5) and len(logs[mode]) == 4
        for name, weight in weights["none"].items():
            torch.testing.assert_close(weights[mode][name], weight, rtol=1e-4, atol=1e-6)
        for name, before in layers[mode].before.items():
            assert not torch.equal(weights[mode][name], before), "gradients reach the bottom"


# ---- the watch -----------------------------------------------------------------------------------------------------


class Memory(TorchDispatchMode):
    """What `torch.cuda` counts, of tensors on the CPU: bytes of all storages that were made since and still live."""

    free = 64 * GIB

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.known = 0, 0, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if torch.is_tensor(tensor) and id(storage := tensor.untyped_storage()) not in self.known:
                key, size = id(storage), storage.nbytes()
                self.known[key] = weakref.ref(storage, lambda _, key=key, size=size: self.forget(key, size))
                self.live += size
        self.peak = max(self.peak, self.live)
        return output

    def forget(self, key: int, size: int) -> None:
        del self.known[key]
        self.live -= size

    def memory_allocated(self) -> int:
        return self.live

    def max_memory_allocated(self) -> int:
        return self.peak

    def memory_reserved(self) -> int:
        return self.live

    def mem_get_info(self) -> tuple[int, int]:
        return self.free, 80 * GIB


def watched(mode: str, assets, folder, memory: Memory) -> CheckpointingWatch:
    """Two steps of two long pairs, whose activations are larger than the model."""
    watch, g = CheckpointingWatch(memory), random.Random(0)
    rows = [{key: sentence(g, 120, 120) for key in ("prompt", "chosen", "rejected")} for _ in range(4)]
    with memory:
        trained("orm", "full", mode, assets, folder, [watch], rows, max_steps=2)
    return watch


def test_the_peak_without_checkpointing_is_foretold(assets, tmp_path):
    """From a run with it: at least the true peak without it, and not much more."""
    memories = {mode: Memory() for mode in MODES}
    runs = {mode: watched(mode, assets, tmp_path, memory) for mode, memory in memories.items()}
    peak = memories["none"].peak
    for mode in ("reentrant", "not reentrant"):
        assert runs[mode].layers == 5 and memories[mode].peak < 0.7 * peak
        assert peak <= memories[mode].peak + runs[mode].layers * runs[mode].largest <= 1.5 * peak


class Sines(GradientCheckpointingLayer):
    """A layer that keeps two tensors for its backward."""

    def forward(self, values):
        return values.sin().sin()


def stack(count: int, *, reentrant: bool, checkpointed: bool = True) -> nn.Sequential:
    model = nn.Sequential(*(Sines() for _ in range(count)))
    for layer in model:
        layer.gradient_checkpointing = checkpointed
        layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=reentrant)
    return model.train()


class Card:
    """Memory whose counter goes up by 1 GiB whenever it is read."""

    def __init__(self, *, free: int, reserved: int = 0, peak: int = 0):
        self.reads, self.free, self.reserved, self.peak = 0, free, reserved, peak

    def memory_allocated(self) -> int:
        self.reads += 1
        return self.reads * GIB

    def max_memory_allocated(self) -> int:
        return self.peak

    def memory_reserved(self) -> int:
        return self.reserved

    def mem_get_info(self) -> tuple[int, int]:
        return self.free, 1000 * GIB


def follow(watch: CheckpointingWatch, model: nn.Module, logs: list[int], end: bool = True) -> None:
    """A run of as many steps as its last log says, with a log behind the steps in `logs`."""
    args, state = SimpleNamespace(torch_compile=False), SimpleNamespace(global_step=0)
    watch.on_train_begin(args, state, None, model=model)
    for step in range(1, logs[-1] + 1):
        model(torch.ones(3, requires_grad=True)).sum().backward()
        state.global_step = step
        if step in logs:
            watch.on_log(args, state, None, logs={"loss": 1.0})
    if end:
        watch.on_train_end(args, state, None)


@pytest.mark.parametrize("reentrant", [True, False])
def test_the_watch_says_once_what_it_has_seen(reentrant, caplog):
    model, card = stack(4, reentrant=reentrant), Card(free=6 * GIB, reserved=4 * GIB, peak=3 * GIB)
    follow(CheckpointingWatch(card, steps=10), model, logs=[1, 5, 12, 20])
    assert card.reads == 2 * 12, "the middle layer's recomputations alone, and none behind the verdict"
    (record,) = caplog.records
    assert record.getMessage() == (
        "Gradient checkpointing is on, but is not needed: at most 3.0 GiB were in use so far, without it 4 layers "
        "would keep 4.0 GiB more, and there are 10.0 GiB. `gradient_checkpointing=False` saves the second forward of "
        "every step."
    )


@pytest.mark.parametrize(
    ("model", "card", "logs"),
    [
        (stack(4, reentrant=False), Card(free=4 * GIB, reserved=4 * GIB, peak=3 * GIB), [12]),  # 7 of 8 GiB
        (stack(4, reentrant=False), Card(free=100 * GIB), [1, 9]),  # too soon
        (stack(4, reentrant=False, checkpointed=False), Card(free=100 * GIB), [12]),
        (stack(4, reentrant=False).eval(), Card(free=100 * GIB), [12]),
    ],
)
def test_the_watch_says_nothing(model, card, logs, caplog):
    plain = [layer._gradient_checkpointing_func for layer in model]
    follow(CheckpointingWatch(card), model, logs)
    assert not caplog.records
    assert [layer._gradient_checkpointing_func for layer in model] == plain, "the watch leaves the model as it was"


def test_a_watched_model_can_be_copied():
    model = stack(2, reentrant=False)
    watch = CheckpointingWatch(torch.cuda)
    follow(watch, model, logs=[0], end=False)
    copy.deepcopy(model)


def test_what_a_layer_takes_is_what_its_recomputation_leaves():
    """Of 1,000 doubles, sin's two inputs: the first is there already, so one tensor and the output are new."""
    model, memory = stack(3, reentrant=True), Memory()
    watch = CheckpointingWatch(memory)
    watch.on_train_begin(SimpleNamespace(torch_compile=False), None, None, model=model)
    with memory:
        model(torch.ones(1000, dtype=torch.double, requires_grad=True)).sum().backward()
    assert (watch.layers, watch.largest) == (3, 2 * 8000)


@pytest.mark.parametrize(
    ("peak", "layers", "limit", "said"),
    [(20, 28, 60, True), (20, 28, 59, False), (48, 0, 60, True), (20, 80, 60, False)],
)
def test_a_fifth_of_the_memory_is_left(peak, layers, limit, said):
    notice = checkpointing_notice(layer=GIB, layers=layers, peak=peak * GIB, limit=limit * GIB)
    assert (notice is not None) is said
