"""The stages of one group of `gpu.py`, whose docstring says what the contestants and the figures are.

In: a shape, a kind of head, workloads, and which contestants to leave out. Out: a printed table a stage, and the same
as records. Run by `gpu.py`, in a process of its own.
"""

import argparse
import gc
import math
import os
import statistics
import tempfile
import time
import traceback
from dataclasses import replace
from itertools import chain

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from device_figures import synchronize
from gpu import STAGE_SECONDS, Group, table
from parts import as_part, reason_of, record, say
from random_workloads import WORKLOADS, rows_of
from shared_model import CUDA, DEVICE, Setting, Subject, optimized, why_no_trl
from side_by_side import (
    Contestant,
    chunks,
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

TOLERANCES = {torch.bfloat16: 5e-2, torch.float32: 1e-3}
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""dense bf16 FLOP/s of the SXM boards"""
OPTIMIZER = ", optimizer"

Entry = tuple[object, list[dict], Setting]
"""a trainer, its batches, and what it asks of the model"""


def contestants_of(
    subject: Subject, batches: list[list[dict]], group: Group, without: list[str]
) -> tuple[list[Contestant], dict[str, str]]:
    """The contestants, and why others do not run; nothing is said of those `without` which it was asked for."""
    entries, missing = (pair_entries if group.kind == "orm" else step_entries)(subject, batches)
    ours = subject.ours
    unindexed = [replace(ours.data_collator, tree_index=None)(rows) for rows in batches]
    entries["index in the step"] = (ours, unindexed, Setting())
    packed = entries["hf_rewardplug"][1]
    if subject.liger is None:
        missing["Liger"] = subject.without_liger
    else:
        entries["Liger"] = (ours, packed, Setting(liger=True))
        entries["Liger, no checkpointing"] = (ours, packed, Setting(liger=True, checkpointing=None))
    if group.default:
        kept = ("trl", "padding-free", "hf_rewardplug", "no checkpointing", "Liger")
        entries = {name: entry for name, entry in entries.items() if name in kept}
        both = {name: entries[name] for name in ("trl", "hf_rewardplug") if name in entries}
        entries |= {name + OPTIMIZER: entry for name, entry in both.items()}
    count = sum(map(len, batches))
    contestants = []
    for name, (trainer, batches_of_it, setting) in entries.items():
        run = stepper(trainer)
        if name.endswith(OPTIMIZER):
            run = optimized(run, subject)
        moved = [on_device(batch, DEVICE) for batch in batches_of_it]
        contestants.append(Contestant(name, moved, run, subject.model, pairs=count, prepare=prepared(subject, setting)))
    contestants.append(dense(subject.model, packed, DEVICE))
    contestants[-1].prepare = prepared(subject, Setting(tree=False))
    return [contestant for contestant in contestants if contestant.name not in without], missing


def prepared(subject: Subject, setting: Setting):
    return lambda: subject.prepare(setting)


def pair_entries(subject: Subject, batches: list[list[dict]]) -> tuple[dict[str, Entry], dict[str, str]]:
    ours, entries, missing = subject.ours, {}, {}
    if subject.trl is None:
        missing["trl"] = subject.without_trl
    else:
        theirs, setting = subject.trl.data_collator, Setting(tree=False, trl_head=True)
        entries["trl"] = (subject.trl, [theirs(rows) for rows in batches], setting)
        if len(batches) > 1:
            rows = sorted(chain(*batches), key=lambda row: max(len(row["chosen_ids"]), len(row["rejected_ids"])))
            entries["trl, grouped"] = (subject.trl, [theirs(some) for some in chunks(rows, len(batches[0]))], setting)
    padded, packed = padded_batches(ours, batches), packed_batches(ours, batches)
    entries["padding-free"] = (ours, [indexed(unpadded(batch)) for batch in padded], Setting())
    entries["hf_rewardplug"] = (ours, packed, Setting())
    entries["prefix_sharing=False"] = (ours, padded, Setting(tree=False))
    entries["reentrant"] = (ours, packed, Setting(checkpointing="reentrant"))
    entries["no checkpointing"] = (ours, packed, Setting(checkpointing=None))
    if subject.kernel == "flash_attention":
        entries["FlexAttention"] = (ours, packed, Setting(flex=True))
    else:
        missing["FlexAttention"] = f"not run: the kernel here is {subject.kernel}"
    return entries, missing


def step_entries(subject: Subject, batches: list[list[dict]]) -> tuple[dict[str, Entry], dict[str, str]]:
    ours, padded = subject.ours, padded_batches(subject.ours, batches)
    entries = {
        "padded": (ours, padded, Setting(tree=False)),
        "padding-free": (ours, [indexed(unpadded(batch)) for batch in padded], Setting()),
        "hf_rewardplug": (ours, packed_batches(ours, batches), Setting()),
        "no checkpointing": (ours, packed_batches(ours, batches), Setting(checkpointing=None)),
    }
    return entries, {}


def padded_batches(trainer, batches: list[list[dict]]) -> list[dict]:
    collator = type(trainer.data_collator)(trainer.data_collator.pad_token_id)
    return [collator(rows) for rows in batches]


def packed_batches(trainer, batches: list[list[dict]]) -> list[dict]:
    return [replace(trainer.data_collator, tree_index=tree_index)(rows) for rows in batches]


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
    record(trying=None)
    if not running:
        return {}
    begun = time.perf_counter()
    timed(running, 1)
    now = time.perf_counter()
    timed(running, min(6, max(1, int((seconds - (now - start)) / (now - begun)) - 1)))
    expected, table_of = next(iter(results.values())), {}
    for contestant in running:
        figures = figures_of(subject, contestant, running)
        figures["peak_memory_GiB"] = rounded(peaks[contestant.name])
        figures["host_syncs"] = host_syncs(contestant)
        agrees = disagreement(results[contestant.name], expected) if contestant.pairs else None
        figures["disagreement"] = None if agrees is None else float(f"{agrees:.2g}")
        if agrees is not None and not agrees <= TOLERANCES[subject.dtype]:
            notes[contestant.name] = f"failed: loss and gradient norm are {results[contestant.name]}, not {expected}"
        table_of[contestant.name] = figures
    return table_of


def tried(contestant: Contestant, results: dict, peaks: dict) -> str | None:
    """Run it, for the first time and for its memory. None, or what went wrong.

    Raises:
        RuntimeError: a CUDA error has stuck to this process, in which nothing runs any more.
    """
    record(trying=contestant.name)
    try:
        results[contestant.name] = contestant.step()
        peaks[contestant.name] = peak_memory(contestant, warm=True) / 2**30 if CUDA else None
    except torch.OutOfMemoryError:
        results.pop(contestant.name, None)
        return "out of memory"
    except Exception as error:  # the others go on; `gpu.py` ends with status 1
        results.pop(contestant.name, None)
        traceback.print_exc()
        synchronize()
        return f"failed: {reason_of(error)}"
    return None


def figures_of(subject: Subject, contestant: Contestant, running: list[Contestant]) -> dict:
    suffix = OPTIMIZER if contestant.name.endswith(OPTIMIZER) else ""
    ours = next((one.seconds for one in running if one.name == "hf_rewardplug" + suffix), None)
    ratios = [a / b for a, b in zip(contestant.seconds, ours, strict=True)] if ours else [math.nan]
    per_second = contestant.forwarded / contestant.median
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


def run_stages(group: Group, options, seconds: float) -> None:
    """The group's stages in about so many seconds.

    Raises:
        RuntimeError: nothing runs in this process any more, or stages failed.
    """
    deadline, failures = time.perf_counter() + seconds, {}
    vocabulary = 512 if options.smoke else 100_000
    workloads = [workload for workload in WORKLOADS[group.kind] if workload.name in group.workloads]
    batches = [rows_of(workload, group.kind, vocabulary, options.smoke) for workload in workloads]
    with tempfile.TemporaryDirectory() as folder:
        settings = {"smoke": options.smoke, "default": group.default}
        subject = Subject(group.shape, group.kind, batches[0][0], folder, **settings)
        for number, (workload, rows) in enumerate(zip(workloads, batches, strict=True)):
            share = (deadline - time.perf_counter()) / (len(workloads) - number)
            name = group.stage(workload.name)
            try:
                contestants, notes = contestants_of(subject, rows, group, options.without)
                figures = measured(subject, contestants, notes, min(STAGE_SECONDS, share))
            except Exception as error:  # the other stages go on
                failures[name] = reason_of(error)
                traceback.print_exc()
                synchronize()
                continue
            stage = {"kernel": subject.kernel, "contestants": figures, "notes": notes}
            record(stage=name, figures=stage)
            say(table(name, stage))
            del contestants
            free()
    if failures:
        raise RuntimeError("; ".join(f"{name}: {reason}" for name, reason in failures.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape")
    parser.add_argument("kind")
    parser.add_argument("workloads", nargs="+")
    parser.add_argument("--default", action="store_true", help="fp32 weights under autocast")
    parser.add_argument("--without", action="append", default=[], help="leave this contestant out")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    why_no_trl()  # imported before the start
    with as_part() as seconds:
        if not CUDA and not options.smoke:
            raise RuntimeError("no CUDA device; --smoke runs without one")
        record(machine=machine())
        run_stages(Group(options.shape, options.kind, tuple(options.workloads), options.default), options, seconds)


if __name__ == "__main__":
    main()
