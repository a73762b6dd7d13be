"""Whole training steps of this package's model, without any trainer: the host's time, the whole time, the memory.

    gpu_steps.py checkpointing SHAPE    bf16 weights, 8 pairs: gradient checkpointing non-reentrant, reentrant, none
    gpu_steps.py default SHAPE          TRL's default on 8 pairs: fp32 weights under bf16 autocast, non-reentrant
                                        checkpointing, AdamW and a clipped norm

`enqueued`: until the host has queued the last launch. `whole`: until the device is done. `host alone`: the whole time
of the step of one short pair, which has as many launches and hardly any work for the device. A step whose whole time is
near its host's is bound by the host; the queue holds some thousand launches, so a step that the device bounds may be
`enqueued` late too. Times are medians in milliseconds. Run by `gpu_probe.py`, in a process of its own.
"""

import argparse
import tempfile
from dataclasses import replace

from device_figures import enqueued_and_whole, launches, synchronize
from parts import as_part, line_of, reason_of, record, say
from random_workloads import SHAPES, WORKLOADS, rows_of
from shared_model import CUDA, DEVICE, Setting, Subject, optimized
from side_by_side import Contestant, on_device, peak_memory, stepper

KINDS = ("non-reentrant", "reentrant", None)
SHORT = {"chosen_ids": [10, 11, 12], "rejected_ids": [10, 13, 14]}


def subject_and_batches(shape: str, folder: str, *, default: bool, smoke: bool) -> tuple[Subject, dict, dict]:
    """The model, a batch of 8 pairs, and one of a single short pair."""
    workload = next(one for one in WORKLOADS["orm"] if one.name == "8 pairs")
    rows = rows_of(replace(workload, batches=1), "orm", 512 if smoke else 100_000, smoke)[0]
    subject = Subject(shape, "orm", rows, folder, smoke=smoke, default=default, plain=True)
    collate = subject.ours.data_collator
    return subject, on_device(collate(rows), DEVICE), on_device(collate([SHORT]), DEVICE)


def say_step(name: str, run, batch: dict, short: dict, *, model, repeats: int) -> None:
    """A line, and a record; `run` does the step of a batch, into gradients that have been freed."""

    def step(batch: dict) -> None:
        model.zero_grad()
        run(batch)

    enqueued, whole = enqueued_and_whole(lambda: step(batch), repeats)
    _, host = enqueued_and_whole(lambda: step(short), repeats)
    figures = {"enqueued_ms": enqueued * 1e3, "whole_ms": whole * 1e3, "host_alone_ms": host * 1e3}
    figures |= {"launches": launches(lambda: step(batch)), "tokens": batch["input_ids"].shape[1]}
    contestant = Contestant(name, [batch], run, model)
    figures["peak_GiB"] = peak_memory(contestant, warm=True) / 2**30 if CUDA else None
    say(line_of(name, figures))
    record(step=name, figures=figures)


def measure_checkpointing(shape: str, folder: str, smoke: bool) -> None:
    subject, batch, short = subject_and_batches(shape, folder, default=False, smoke=smoke)
    failures = []
    for kind in KINDS:
        subject.prepare(Setting(checkpointing=kind))
        name = kind or "no checkpointing"
        try:
            run = stepper(subject.ours)
            say_step(name, run, batch, short, model=subject.model, repeats=3 if smoke else 10)
        except Exception as error:  # the next kind goes on, unless nothing runs in this process any more
            failures.append(f"{name}: {reason_of(error)}")
            say(failures[-1])
            synchronize()
    if failures:
        raise RuntimeError("; ".join(failures))


def measure_default(shape: str, folder: str, smoke: bool) -> None:
    subject, batch, short = subject_and_batches(shape, folder, default=True, smoke=smoke)
    subject.prepare(Setting())
    run = stepper(subject.ours)
    for name, step in {"without optimizer": run, "with AdamW": optimized(run, subject)}.items():
        say_step(name, step, batch, short, model=subject.model, repeats=3 if smoke else 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["checkpointing", "default"])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    measure = {"checkpointing": measure_checkpointing, "default": measure_default}[options.what]
    with as_part(), tempfile.TemporaryDirectory() as folder:
        measure(options.shape, folder, options.smoke)


if __name__ == "__main__":
    main()
