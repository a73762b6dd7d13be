"""Training steps on one GPU: TRL, packing and prefix trees, and hf_rewardplug with each thing switched off in turn.

    python benchmarks/gpu.py [--json OUT] [--seconds 420]     bf16, under 8 minutes on an H100 or H200
    python benchmarks/gpu.py --smoke                          tiny shapes on whatever device there is, fp32 on a CPU

In: nothing. Weights are random, in the shapes of Qwen2.5-3B and Gemma-2-2b; token ids are random, in realistic lengths.
Out: a table, and the same as JSON, which is written after each stage. A stage is a model with a workload. A stage that
the seconds did not suffice for, or that failed, is named; exit status 1 if anything failed or computes something else.

Pairs     trl                     TRL's RewardTrainer with its padded batches, its bf16 head and the model's own
                                  attention: SDPA, for Gemma 2 eager. Never with Liger, which TRL crashes with on
                                  classifiers ("no attribute 'lm_head'")
Steps     padded                  this package with `prefix_sharing=False`, which pads as TRL <= 1.13 did
both      padding-free            packed without padding, nothing shared
          hf_rewardplug           packed prefix trees
Ablation  prefix_sharing=False    padded batches in this package's trainer
          (padding-free is the packed one)
          FlexAttention           in place of varlen attention
          index in the step       the tree's index tensors are made in the forward, not by the collator
          no checkpointing        without gradient checkpointing, which all others have, as is TRL's default
          Liger                   `use_liger_kernel=True`
and       dense                   plain rows of equal length, tokens and (query, key) pairs as many as hf_rewardplug's

All contestants of a stage share one model and are timed interleaved. A step is forward and backward, no optimizer; the
weights are bf16 without autocast. MFU is 6 * parameters of the body (no embedding, no head) * forwarded tokens, padding
included, over seconds and the device's dense bf16 peak; with gradient checkpointing the hardware does 8/6 of that.
Peak memory is what a step takes beyond weights and gradients. `times_as_slow` is the median of the rounds' ratios to
hf_rewardplug. `disagreement` is the relative difference of loss and gradient norm from the first contestant's.
`host_syncs` is how often the host waits for the device in a step, as the profiler counts it.
"""

import argparse
import gc
import json
import math
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from random_workloads import WORKLOADS, Workload, rows_of
from shared_model import CUDA, DEVICE, Setting, Subject
from side_by_side import (
    Contestant,
    dense,
    disagreement,
    host_syncs,
    machine,
    on_device,
    peak_memory,
    stepper,
    timed,
    unpadded,
)

from hf_rewardplug.model.layout import tree_index

TOLERANCE = 5e-2 if CUDA else 1e-3  # bf16, fp32
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""dense bf16 FLOP/s of the SXM boards"""
GROUPS = (("Qwen2.5-3B", "orm"), ("Qwen2.5-3B", "prm"), ("Gemma-2-2b", "orm"))


def contestants_of(subject: Subject, batches: list[list[dict]], kind: str) -> tuple[list[Contestant], dict[str, str]]:
    """The contestants, and why others do not run."""
    ours = subject.ours
    unindexed = [replace(ours.data_collator, tree_index=None)(rows) for rows in batches]
    packed = [indexed(batch) for batch in unindexed]
    padded = [type(ours.data_collator)(ours.data_collator.pad_token_id)(rows) for rows in batches]
    made = {
        "padding-free": (ours, [indexed(unpadded(batch)) for batch in padded], Setting()),
        "hf_rewardplug": (ours, packed, Setting()),
        "index in the step": (ours, unindexed, Setting()),
    }
    missing = {}
    if kind == "orm":
        theirs = [subject.trl.data_collator(rows) for rows in batches]
        made = {"trl": (subject.trl, theirs, Setting(tree=False, trl_head=True)), **made}
        made["prefix_sharing=False"] = (ours, padded, Setting(tree=False))
        made["no checkpointing"] = (ours, packed, Setting(checkpointing=False))
        if subject.kernel == "varlen_attention":
            made["FlexAttention"] = (ours, packed, Setting(flex=True))
        else:
            missing["FlexAttention"] = f"not run: the kernel here is {subject.kernel}"
    else:
        made = {"padded": (ours, padded, Setting(tree=False)), **made}
    if subject.liger is not None:
        made["Liger"] = (ours, packed, Setting(liger=True))
    else:
        missing["Liger"] = "not run: needs a CUDA device and liger_kernel"
    count = sum(map(len, batches))
    found = [
        Contestant(name, [on_device(batch, DEVICE) for batch in of_it], stepper(trainer), subject.model, pairs=count)
        for name, (trainer, of_it, _) in made.items()
    ]
    found.append(dense(subject.model, packed, DEVICE))
    settings = [*(setting for _, _, setting in made.values()), Setting(tree=False)]
    for contestant, setting in zip(found, settings, strict=True):
        contestant.prepare = lambda setting=setting: subject.prepare(setting)
    return found, missing


def indexed(batch: dict) -> dict:
    """A packed batch with the tensors that its collator makes where attention runs on a GPU."""
    tree = batch["prefix_tree"]
    return {**batch, "prefix_tree": {**tree, "index": tree_index(tree["spans"], batch["input_ids"].shape[1])}}


def measured(subject: Subject, contestants: list[Contestant], notes: dict[str, str], seconds: float) -> dict:
    """Figures of each contestant, in about so many seconds; into `notes` goes why one has none."""
    start, results, peaks, running = time.perf_counter(), {}, {}, []
    for contestant in contestants:
        reason = tried(contestant, results, peaks)
        if reason is None:
            running.append(contestant)
        else:
            notes[contestant.name] = reason
            contestant.batches = []
        free()
    if not running:
        return {}
    begun = time.perf_counter()
    timed(running, 1)
    now = time.perf_counter()
    timed(running, min(6, max(1, int((seconds - (now - start)) / (now - begun)) - 1)))
    ours = next((contestant for contestant in running if contestant.name == "hf_rewardplug"), None)
    expected, table = next(iter(results.values())), {}
    for contestant in running:
        figures = figures_of(subject, contestant, ours)
        figures["peak_memory_GiB"] = rounded(peaks[contestant.name])
        figures["host_syncs"] = host_syncs(contestant)
        agrees = disagreement(results[contestant.name], expected) if contestant.pairs else None
        figures["disagreement"] = None if agrees is None else float(f"{agrees:.2g}")
        if agrees is not None and not agrees <= TOLERANCE:
            notes[contestant.name] = f"failed: loss and gradient norm are {results[contestant.name]}, not {expected}"
        table[contestant.name] = figures
    return table


def tried(contestant: Contestant, results: dict, peaks: dict) -> str | None:
    """Run it, for the first time and for its memory. None, or what went wrong."""
    try:
        results[contestant.name] = contestant.step()
        peaks[contestant.name] = peak_memory(contestant) / 2**30 if CUDA else None
    except torch.OutOfMemoryError:
        results.pop(contestant.name, None)
        return "out of memory"
    except Exception as error:  # the others go on; `main` ends with status 1
        results.pop(contestant.name, None)
        return f"failed: {type(error).__name__}: {str(error)[:300]}"
    return None


def figures_of(subject: Subject, contestant: Contestant, ours: Contestant | None) -> dict:
    per_second = contestant.forwarded / contestant.median
    ratios = [a / b for a, b in zip(contestant.seconds, ours.seconds, strict=True)] if ours else [math.nan]
    device = torch.cuda.get_device_name() if CUDA else ""
    known = "PCIe" not in device and "NVL" not in device
    peak = next((peak for name, peak in PEAKS.items() if name in device and known), None)
    return {
        "rows_per_second": rounded(contestant.pairs / contestant.median) if contestant.pairs else None,
        "tokens_per_second": round(per_second),
        "forwarded_tokens": contestant.forwarded,
        "seconds": float(f"{contestant.median:.4g}"),
        "rounds": len(contestant.seconds),
        "mfu": rounded(6 * subject.body * per_second / peak if peak else None, 3),
        "times_as_slow": rounded(statistics.median(ratios)),
    }


def rounded(number: float | None, digits: int = 2) -> float | None:
    return None if number is None or math.isnan(number) else round(number, digits)


def free() -> None:
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()


def run_group(shape: str, kind: str, options, deadline: float, left: int, results: dict) -> None:
    """One model's stages, as many as the time suffices for; `left`: how many there still are, of all models."""
    vocabulary = 512 if options.smoke else 100_000
    batches = {
        name: rows_of(workload, kind, vocabulary, options.smoke) for name, workload in stages(shape, kind).items()
    }
    with failures_into(results, list(batches)), tempfile.TemporaryDirectory() as folder:
        subject = Subject(shape, kind, next(iter(batches.values()))[0], folder, options.smoke)
        for number, (name, rows) in enumerate(batches.items()):
            now = time.perf_counter()
            if now >= deadline:
                break
            with failures_into(results, [name]):
                contestants, notes = contestants_of(subject, rows, kind)
                table = measured(subject, contestants, notes, (deadline - now) / (left - number))
                results["stages"][name] = {"kernel": subject.kernel, "contestants": table, "notes": notes}
            print(f"{name}: {time.perf_counter() - now:.0f} s", file=sys.stderr, flush=True)
            write(results, options.json)
        subject.prepare(Setting())  # nothing of a contestant's stays in the package's modules


def stages(shape: str, kind: str) -> dict[str, Workload]:
    return {f"{shape}, {workload.name}": workload for workload in WORKLOADS[kind]}


@contextmanager
def failures_into(results: dict, names: list[str]) -> Iterator[None]:
    """What goes wrong is noted for the stages of these names that have no figures, and the others go on."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        results["failed"].update({name: reason for name in names if name not in results["stages"]})


def write(results: dict, path: str | None) -> None:
    if path:
        Path(path).write_text(json.dumps(results, indent=2) + "\n")


def print_tables(results: dict) -> None:
    columns = ("rows_per_second", "tokens_per_second", "mfu", "peak_memory_GiB", "times_as_slow", "host_syncs")
    columns += ("disagreement",)
    print(", ".join(str(value) for value in results["machine"].values()))
    for name, stage in results["stages"].items():
        print(f"\n{name} ({stage['kernel']})\n{'':22}" + "".join(f"{column:>19}" for column in columns))
        for contestant, figures in stage["contestants"].items():
            cells = ("-" if figures[column] is None else figures[column] for column in columns)
            print(f"{contestant:22}" + "".join(f"{cell:>19}" for cell in cells))
        for contestant, note in stage["notes"].items():
            print(f"{contestant:22}{note}")
    print(*(f"\nfailed: {name}: {reason}" for name, reason in results["failed"].items()), sep="")
    print(*(f"\nskipped, the time was used up: {name}" for name in results["skipped"]), sep="")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--seconds", type=float, default=420, help="start no stage behind so many")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes: whether it runs at all")
    options = parser.parse_args()
    if not CUDA and not options.smoke:
        parser.error("no CUDA device; --smoke runs without one")
    deadline = time.perf_counter() + options.seconds
    results = {"machine": machine(), "smoke": options.smoke, "stages": {}, "skipped": [], "failed": {}}
    for index, group in enumerate(GROUPS):
        if time.perf_counter() < deadline:
            left = sum(len(stages(*later)) for later in GROUPS[index:])
            run_group(*group, options, deadline, left, results)
        free()
    names = [name for group in GROUPS for name in stages(*group)]
    results["skipped"] = [name for name in names if name not in {**results["stages"], **results["failed"]}]
    write(results, options.json)
    print_tables(results)
    notes = [note for stage in results["stages"].values() for note in stage["notes"].values()]
    return int(bool(results["failed"]) or any(note.startswith("failed") for note in notes))


if __name__ == "__main__":
    sys.exit(main())
