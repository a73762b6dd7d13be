"""Contestants for the same rows, timed interleaved in one process.

In: raw pairs or step rows, one loaded model. Out: for each contestant its batches (made by its own collator) and the
seconds of its training steps (forward and backward, no optimizer), in rounds that each run every contestant once.
"""

import copy
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1" if os.environ.get("REWARDPLUG_ASSETS") else "0")

import torch
import trl
from datasets import Dataset

import hf_rewardplug as rp


@dataclass
class Contestant:
    """One way to train on the rows: `run` does the step of one of its `batches`."""

    name: str
    batches: list[dict]
    run: Callable[[dict], torch.Tensor]
    model: torch.nn.Module
    pairs: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def forwarded(self) -> int:
        """Tokens that go through the body, padding included."""
        return sum(batch["input_ids"].numel() for batch in self.batches)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def step(self) -> tuple[float, float]:
        """Run all batches; (sum of losses, norm of the summed gradient)."""
        self.model.zero_grad()
        loss = sum(float(self.run(dict(batch))) for batch in self.batches)
        return loss, float(torch.stack([p.grad.norm() for p in self.model.parameters() if p.grad is not None]).norm())


def interleaved(contestants: list[Contestant], rounds: int) -> None:
    """Check that all compute the same, then time `rounds` rounds, each in another order."""
    results = {contestant.name: contestant.step() for contestant in contestants if contestant.pairs}
    expected = next(iter(results.values()), None)
    for name, found in results.items():
        for a, b in zip(found, expected, strict=True):
            assert abs(a - b) <= 1e-3 * abs(b) + 1e-4, f"{name} computes {found}, not {expected}"
    for number in range(rounds):
        for contestant in contestants[number % len(contestants) :] + contestants[: number % len(contestants)]:
            contestant.model.zero_grad()
            gc.collect()
            synchronize()
            start = time.perf_counter()
            for batch in contestant.batches:
                contestant.run(dict(batch))
            synchronize()
            contestant.seconds.append(time.perf_counter() - start)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def chunks(rows: list, size: int) -> list[list]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def trainer_of(kind: str, model, tokenizer, rows: list[dict], folder: str, batch_size: int, **options):
    """A trainer over its own copy of the model: "trl", "orm" or "prm"."""
    trainer_class, config_class = {
        "trl": (trl.RewardTrainer, trl.RewardConfig),
        "orm": (rp.RewardTrainer, rp.RewardConfig),
        "prm": (rp.PRMTrainer, rp.PRMConfig),
    }[kind]
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
    trainer = trainer_class(
        copy.deepcopy(model), args, train_dataset=Dataset.from_list(rows), processing_class=copy.deepcopy(tokenizer)
    )
    trainer.current_gradient_accumulation_steps = 1  # what `train` would set
    trainer.model.train()
    return trainer


def stepper(trainer) -> Callable[[dict], torch.Tensor]:
    return lambda batch: trainer.training_step(trainer.model, batch)


def without_sharing(rows: list[dict]) -> dict:
    """A padding-free batch of pairs that shares nothing: what packing alone would give."""
    sequences = [row[key] for key in ("chosen_ids", "rejected_ids") for row in rows]
    ends = torch.tensor([len(sequence) for sequence in sequences]).cumsum(0)
    starts = [0, *ends[:-1].tolist()]
    return {
        "input_ids": torch.tensor([[token for sequence in sequences for token in sequence]]),
        "position_ids": torch.cat([torch.arange(len(sequence)) for sequence in sequences])[None],
        "prefix_tree": {
            "spans": [(start, end) * 2 for start, end in zip(starts, ends.tolist(), strict=True)],
            "longest": max(map(len, sequences)),
            "num_tokens": int(ends[-1]),
            "num_unique_tokens": int(ends[-1]),
        },
        "score_positions": ends - 1,
    }


def dense(model, tokens: int, length: int, device=None) -> Contestant:
    """Plain rows of equal length, `tokens` in all as nearly as they fit: the price of a token without any tree."""
    count = max(1, round(tokens / length))
    generator = torch.Generator().manual_seed(0)
    batch = {"input_ids": torch.randint(5, 1000, (count, length), generator=generator).to(device)}
    ends = torch.arange(count, device=device) * length + length - 1

    def run(batch):
        output = model(**batch, attention_mask=torch.ones_like(batch["input_ids"]), score_positions=ends)
        loss = torch.nn.functional.softplus(output.logits).sum()
        loss.backward()
        return loss.detach()

    return Contestant("dense", [batch], run, model)


def peak_memory(contestant: Contestant) -> int:
    """Bytes that a step takes beyond weights and gradients. On the CPU only in a process of its own, with
    MALLOC_MMAP_THRESHOLD_=65536, so that what is freed goes back to the system."""
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


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def machine() -> dict:
    """Where and with what the figures came about."""
    names = ("torch", "transformers", "trl", "peft", "accelerate")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        **{name: version(name) for name in names},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
