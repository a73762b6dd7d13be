"""Between two logs a training step must not wait for the device: no tensor's value is read, nothing is copied back.

On the CPU the reads are counted, whoever makes them; on a GPU CUDA itself reports them.
"""

import traceback
from collections import Counter

import pytest
import torch
from datasets import Dataset
from packaging.version import Version
from rows import quick, solutions, text_pairs
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    TrainerCallback,
)

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer
from hf_rewardplug.model import attention
from hf_rewardplug.model.kernels import flash_attention

READS = ("item", "tolist", "cpu", "numpy", "nonzero")
READING_OPS = ("_local_scalar_dense", "nonzero", "masked_select")
"""ATen's own, which read or wait for a size, in a backward too"""


def lists(count: int, seed: int = 0) -> list[dict]:
    """Of two or three completions."""
    rows = []
    for index, row in enumerate(text_pairs(count, seed)):
        completions = [row["chosen"], row["rejected"], "red tree"][: 2 + index % 2]
        rows.append({"prompt": row["prompt"], "completions": completions, "scores": [2.0, 1.0, 0.0][: 2 + index % 2]})
    return rows


def rated(count: int, seed: int = 0) -> list[dict]:
    rows = text_pairs(count, seed)
    return [{"prompt": row["prompt"], "completion": row["chosen"], "score": float(i)} for i, row in enumerate(rows)]


def ranking(**options):
    return RewardConfig(loss_type="plackett_luce", **options)


def regression(**options):
    return RewardConfig(loss_type="mse", **options)


def by_rank(**options):
    return PRMConfig(loss_type="pqm", **options)


TRAINERS = {
    "orm": (RewardTrainer, RewardConfig, text_pairs),
    "lists": (RewardTrainer, ranking, lists),
    "scores": (RewardTrainer, regression, rated),
    "prm": (PRMTrainer, PRMConfig, solutions),
    "pqm": (PRMTrainer, by_rank, solutions),
}


class Reads(TorchDispatchMode, TrainerCallback):
    """Counts what reads tensors from the end of the first step to the end of the last, by the line that does."""

    def __init__(self):
        super().__init__()
        self.found, self.patch = Counter(), None

    def note(self, what: str) -> None:
        stack = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
        caller = next(frame for frame in reversed(stack) if frame.filename != __file__)
        self.found[f"{what}: {'/'.join(caller.filename.split('/')[-2:])}, {caller.name}: {caller.line}"] += 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in READING_OPS:
            self.note(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))

    def on_step_end(self, args, state, control, **kwargs):
        if args.device.type == "cuda":
            watched = 1 <= state.global_step < state.max_steps
            torch.cuda.set_sync_debug_mode("error" if watched else "default")
        elif state.global_step == 1:
            self.patch = pytest.MonkeyPatch()
            for name in READS:
                self.patch.setattr(torch.Tensor, name, self.counted(name, getattr(torch.Tensor, name)))
            self.__enter__()
        elif state.global_step == state.max_steps:
            self.__exit__(None, None, None)
            self.patch.undo()

    def counted(self, name, plain):
        def read(tensor, *args, **kwargs):
            self.note(name)
            return plain(tensor, *args, **kwargs)

        return read


def train(kind: str, assets, folder, callback, model: str | None = None, **options):
    trainer_class, config_class, make_rows = TRAINERS[kind]
    defaults = {"max_steps": 4, "logging_steps": 100, "gradient_accumulation_steps": 2, "dataloader_num_workers": 1}
    trainer = trainer_class(
        model or str(assets / "stories260K"),
        config_class(**quick(folder, **{**defaults, **options})),
        train_dataset=Dataset.from_list(make_rows(40)),
        callbacks=[callback],
    )
    trainer.train()
    assert trainer.state.global_step == 4
    return trainer


@pytest.mark.parametrize(("kind", "sharing"), [*((kind, True) for kind in TRAINERS), ("orm", False), ("prm", False)])
def test_a_step_reads_nothing(kind, sharing, assets, tmp_path):
    reads = Reads()
    train(kind, assets, tmp_path, reads, prefix_sharing=sharing)
    assert reads.patch is not None
    found = reads.found
    if Version(torch.__version__) < Version("2.8"):  # whose optimizer looks at its own count of steps
        found = {read for read in found if "accelerate/optimizer.py" not in read}
    own = {read for read in found if "transformers/masking_utils.py" not in read}
    assert own == set()  # transformers looks into the mask of a padded batch
    assert sharing is False or not found


@pytest.mark.parametrize("kind", ["orm", "prm"])
def test_a_nan_stops_the_run(kind, assets, tmp_path):
    """transformers' filter would log the average of the other losses, and TRL's run goes on."""

    class Poison(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:
                model.score.weight.data.fill_(float("nan"))

    with pytest.raises(ValueError, match=r"^Step 3: the loss or its gradient is NaN"):
        train(kind, assets, tmp_path, Poison(), logging_steps=1)


def test_copies_do_not_block_unless_they_are_asked_to(tmp_path):
    options = {"use_cpu": True, "bf16": False, "report_to": "none"}
    for config_class in (RewardConfig, PRMConfig):
        for pinned, given, expected in [
            (True, None, True),
            (False, {}, False),
            (True, {"non_blocking": False}, False),
            (True, '{"split_batches": false}', True),
        ]:
            args = config_class(str(tmp_path), dataloader_pin_memory=pinned, accelerator_config=given, **options)
            assert args.accelerator_config.non_blocking is (expected and args.dataloader_pin_memory)


def wide_model(assets, folder, auto_class, **options) -> str:
    """stories260K's tokenizer with heads of 64, which flash attention takes; its own have 8. Random weights."""
    sizes = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    config = AutoConfig.from_pretrained(assets / "stories260K", **sizes, num_hidden_layers=2, **options)
    auto_class.from_config(config, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(assets / "stories260K").save_pretrained(folder)
    return str(folder)


def label_tokens(**options):
    return PRMConfig(good_token="+", bad_token="-", **options)


ON_A_GPU = [(kind, "wide", liger) for kind in ("orm", "prm", "label tokens") for liger in (False, True)]
ON_A_GPU += [(kind, "narrow", False) for kind in TRAINERS]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("kind", "heads", "liger"), ON_A_GPU)
def test_a_step_on_a_gpu_waits_for_nothing(kind, heads, liger, assets, tmp_path, monkeypatch):
    """CUDA raises at whatever synchronises, transformers' part of the step included."""
    if liger:
        pytest.importorskip("liger_kernel")
    monkeypatch.setitem(TRAINERS, "label tokens", (PRMTrainer, label_tokens, solutions))
    model, kernels = None, set()
    if heads == "wide":
        auto_class = AutoModelForCausalLM if kind == "label tokens" else AutoModelForSequenceClassification
        labels = {} if kind == "label tokens" else {"num_labels": 1}
        if kind == "prm":
            auto_class, labels = AutoModelForTokenClassification, {"num_labels": 2}
        model = wide_model(assets, tmp_path / "wide", auto_class, **labels)
        choose = attention.choose_kernel
        monkeypatch.setattr(attention, "choose_kernel", lambda heads: kernels.add(choose(heads)) or choose(heads))
    options = {"use_cpu": False, "bf16": True, "use_liger_kernel": liger}
    try:
        trainer = train(kind, assets, tmp_path / "run", Reads(), model, **options)
        assert trainer.args.use_liger_kernel is liger
        assert kernels == ({flash_attention} if heads == "wide" else set())
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_wide_model_trains(assets, tmp_path, monkeypatch):
    """On the CPU, so that the test above does not fail for its own model."""
    monkeypatch.setitem(TRAINERS, "label tokens", (PRMTrainer, label_tokens, solutions))
    model = wide_model(assets, tmp_path / "wide", AutoModelForCausalLM)
    train("label tokens", assets, tmp_path / "run", TrainerCallback(), model)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_workers_make_pinned_batches_with_the_trees_index(assets, tmp_path):
    class Seen(TrainerCallback):
        def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
            loader = train_dataloader.base_dataloader
            batch = next(iter(loader))
            index = batch["prefix_tree"]["index"]
            self.pinned = [batch["input_ids"].is_pinned(), index["key_index"].is_pinned(), loader.num_workers]

    seen = Seen()
    train("orm", assets, tmp_path, seen, use_cpu=False, bf16=True)
    assert seen.pinned == [True, True, 1]
