"""Contestants for the same rows, timed interleaved in one process.

In: raw pairs or step rows, one loaded model. Out: for each contestant its batches (made by its own collator) and the
seconds of its training steps (forward and backward, no optimizer), in rounds that each run every contestant once.
"""

import contextlib
import copy
import functools
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1" if os.environ.get("REWARDPLUG_ASSETS") else "0")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's package, installed or not

import torch
from device_figures import host_waits, synchronize

from hf_rewardplug.data.collator import PreferenceCollator

BESIDE = {
    "quiet": ("", 0),
    "beside a busy loop on each core": ("print(flush=True)\nwhile True: pass", os.cpu_count()),
    "beside a torch process of two threads": (
        "import torch\ntorch.set_num_threads(2)\na = torch.randn(1024, 1024)\nprint(flush=True)\nwhile True: a @ a",
        1,
    ),
}
"""what else runs on the machine: a Python program that prints a line before it computes without end, and how often"""


@dataclass
class Contestant:
    """One way to train on the rows: `run` does the step of one of its `batches`; `prepare` sets the model up for it."""

    name: str
    batches: list[dict]
    run: Callable[[dict], torch.Tensor]
    model: torch.nn.Module
    pairs: int = 0
    seconds: list[float] = field(default_factory=list)
    prepare: Callable[[], None] = lambda: None  # where contestants share a model; untimed

    @property
    def forwarded(self) -> int:
        """Tokens that go through the body, padding included."""
        return sum(batch["input_ids"].numel() for batch in self.batches)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def step(self) -> tuple[float, float]:
        """Run all batches; (sum of losses, norm of the summed gradient)."""
        self.prepare()
        self.model.zero_grad()
        loss = sum(float(self.run(dict(batch))) for batch in self.batches)
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
        return loss, float(torch.stack(norms).norm())


def interleaved(contestants: list[Contestant], rounds: int, tolerance: float = 1e-3) -> None:
    """Check that all compute the same, then time `rounds` rounds, each in another order."""
    results = {contestant.name: contestant.step() for contestant in contestants if contestant.pairs}
    expected = next(iter(results.values()), None)
    for name, found in results.items():
        assert disagreement(found, expected) <= tolerance, f"{name} computes {found}, not {expected}"
    timed(contestants, rounds)


def disagreement(found: tuple[float, float], expected: tuple[float, float]) -> float:
    """How far two results of `Contestant.step` are apart: relative, and absolute in tenths where they are small."""
    return max(abs(a - b) / (abs(b) + 0.1) for a, b in zip(found, expected, strict=True))


def timed(contestants: list[Contestant], rounds: int) -> None:
    """Time `rounds` rounds, each in another order."""
    for number in range(rounds):
        for contestant in contestants[number % len(contestants) :] + contestants[: number % len(contestants)]:
            contestant.prepare()
            contestant.model.zero_grad()
            gc.collect()
            synchronize()
            start = time.perf_counter()
            for batch in contestant.batches:
                contestant.run(dict(batch))
            synchronize()
            contestant.seconds.append(time.perf_counter() - start)


@contextlib.contextmanager
def beside(program: str, count: int):
    """As long as this lasts, `count` processes of the Python program compute."""
    others = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for other in others:
            other.stdout.readline()
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def chunks(rows: list, size: int) -> list[list]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@functools.cache
def trainer_classes() -> dict[str, tuple[type, type]]:
    """(trainer, config) of "trl", "orm" and "prm".

    Raises:
        Exception: TRL cannot be imported, which this package's trainers are subclasses of.
    """
    import trl  # not at the top: the benchmarks of one GPU do something without it

    import hf_rewardplug as rp

    return {
        "trl": (trl.RewardTrainer, trl.RewardConfig),
        "orm": (rp.RewardTrainer, rp.RewardConfig),
        "prm": (rp.PRMTrainer, rp.PRMConfig),
    }


def trainer_of(
    kind: str, model, tokenizer, rows: list[dict], folder: str, batch_size: int, copied: bool = True, **options
):
    """A trainer over its own copy of the model, or over the model itself: "trl", "orm" or "prm"."""
    from datasets import Dataset

    trainer_class, config_class = trainer_classes()[kind]
    settings = {
        "output_dir": folder,
        "per_device_train_batch_size": batch_size,
        "gradient_checkpointing": False,
        "bf16": False,
        "max_length": None,
        "report_to": "none",
        "disable_tqdm": True,
    }
    args = config_class(**{**settings, **options})
    model = copy.deepcopy(model) if copied else model
    trainer = trainer_class(
        model, args, train_dataset=Dataset.from_list(rows), processing_class=copy.deepcopy(tokenizer)
    )
    trainer.current_gradient_accumulation_steps = 1  # what `train` would set
    trainer.model.train()
    return trainer


def stepper(trainer) -> Callable[[dict], torch.Tensor]:
    return lambda batch: trainer.training_step(trainer.model, batch)


def without_sharing(rows: list[dict]) -> dict:
    """A padding-free batch of pairs that shares nothing: what packing alone would give."""
    return unpadded(PreferenceCollator(0)(rows))


def unpadded(padded: dict) -> dict:
    """A padded batch as one row of its sequences, one behind the other."""
    mask = padded["attention_mask"].bool()
    lengths = mask.sum(1).tolist()
    ends = list(accumulate(lengths))
    return {
        **{key: value for key, value in padded.items() if key != "attention_mask"},
        "input_ids": padded["input_ids"][mask][None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "prefix_tree": {
            "spans": [(start, end) * 2 for start, end in zip([0, *ends[:-1]], ends, strict=True)],
            "longest": max(lengths),
            "num_tokens": ends[-1],
            "num_unique_tokens": ends[-1],
        },
        "score_positions": mask.flatten().cumsum(0)[padded["score_positions"]] - 1,
    }


def on_device(batch: dict, device) -> dict:
    """The batch with its tensors, those of its `prefix_tree` too, on the device."""
    moved = {key: value.to(device) for key, value in batch.items() if torch.is_tensor(value)}
    return {
        **batch,
        **moved,
        **{key: on_device(value, device) for key, value in batch.items() if isinstance(value, dict)},
    }


def dense(model, packed: list[dict], device=None) -> Contestant:
    """Plain rows of equal length with as many tokens, and as many pairs of a query and a key, as packed batches have.

    The price of a token without any tree. A query at position p sees p + 1 keys, so rows are 2 * mean(p) + 1 long.
    """
    positions = torch.cat([batch["position_ids"].flatten() for batch in packed]).float()
    length = round(2 * positions.mean().item() + 1)
    count, vocabulary = max(1, round(len(positions) / length)), min(1000, model.config.vocab_size)
    generator = torch.Generator().manual_seed(0)
    batch = {"input_ids": torch.randint(5, vocabulary, (count, length), generator=generator).to(device)}
    ends = torch.arange(count, device=device) * length + length - 1

    def run(batch):
        output = model(**batch, attention_mask=torch.ones_like(batch["input_ids"]), score_positions=ends)
        loss = torch.nn.functional.softplus(output.logits).sum()
        loss.backward()
        return loss.detach()

    return Contestant("dense", [batch], run, model)


def peak_memory(contestant: Contestant, warm: bool = False) -> int:
    """Bytes that a step takes beyond weights and gradients. On the CPU only in a process of its own, with
    MALLOC_MMAP_THRESHOLD_=65536, so that what is freed goes back to the system. `warm`: its `step` has just run."""
    if not warm:
        contestant.step()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    for parameter in contestant.model.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    for batch in contestant.batches:
        contestant.run(dict(batch))
    return torch.cuda.max_memory_allocated() - before if torch.cuda.is_available() else _status("VmHWM") - before


def host_syncs(contestant: Contestant) -> int:
    """How often a step of its first batch waits for the device; on the CPU how often it reads a value."""
    contestant.prepare()
    return host_waits(lambda: contestant.run(dict(contestant.batches[0])))


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def machine() -> dict:
    """Where and with what the figures came about."""
    packages = ("torch", "triton", "transformers", "trl", "peft", "accelerate", "liger-kernel")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        **{name: installed for name in packages if (installed := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
