"""Training steps on one GPU: TRL, packing and prefix trees, and hf_rewardplug with each thing switched off in turn.

    python benchmarks/gpu.py [--json OUT] [--seconds 420]     ends within so many seconds, meant for an H100 or H200
    python benchmarks/gpu.py --smoke                          tiny shapes on whatever device there is, fp32 on a CPU

In: nothing. Weights are random, in the shapes of Qwen2.5-3B, Qwen2.5-0.5B and Gemma-2-2b; token ids are random, in
realistic lengths. Out: a table a stage, printed when the stage is done, and all of them as JSON, written after each
group. A stage is a model with a workload. The stages of a group share a model and a process (`gpu_stages.py`); the
groups that answer the most run first. What ends a group's process ends that group alone. If it happened while one
contestant ran for the first time, the group runs again without that one. A stage that the seconds did not suffice for,
or that failed, is named; exit status 1 if anything failed or computes something else.

Pairs     trl                     TRL's RewardTrainer with its padded batches, its bf16 head and the model's own
                                  attention: SDPA, for Gemma 2 eager. Never with Liger, which TRL crashes with on
                                  classifiers ("no attribute 'lm_head'")
          trl, grouped            the same with the stage's rows sorted by length, the least padding that grouping can
                                  reach; stages of one batch have nothing to sort
Steps     padded                  this package with `prefix_sharing=False`, which pads as TRL <= 1.13 did
both      padding-free            packed without padding, nothing shared
          hf_rewardplug           packed prefix trees
Ablation  prefix_sharing=False    padded batches in this package's trainer
          (padding-free is the packed one)
          FlexAttention           in place of flash attention
          index in the step       the tree's index tensors are made in the forward, not by the collator
          reentrant               reentrant gradient checkpointing; the others have the non-reentrant one, TRL's default
          no checkpointing        without gradient checkpointing
          Liger                   `use_liger_kernel=True`, with gradient checkpointing and without
and       dense                   plain rows of equal length, tokens and (query, key) pairs as many as hf_rewardplug's
"fp32 weights" in a stage's name: TRL's default, fp32 weights under bf16 autocast; the others have bf16 weights.
          ..., optimizer          there alone: each step is followed by AdamW (fused) and the clipping of the gradient

All contestants of a stage share one model and are timed interleaved. A step is forward and backward. MFU is
6 * parameters of the body (no embedding, no head) * forwarded tokens, padding included, over seconds and the device's
dense bf16 peak; with gradient checkpointing the hardware does 8/6 of that. Peak memory is what a step takes beyond
weights, gradients and the optimizer's states. `times_as_slow` is the median of the rounds' ratios to hf_rewardplug, or
to "hf_rewardplug, optimizer" for those with an optimizer. `disagreement` is the relative difference of loss and
gradient norm from the first contestant's. `host_syncs` is how often the host waits for the device in a step, as the
profiler counts it. Without TRL a plain step takes the place of this package's trainer, and "trl" is missing.
"""

import argparse
import math
import sys
import time
from dataclasses import dataclass

from parts import Part, default_json, run_parts, say, selected, write_json

STAGE_SECONDS = 35
"""of a stage, where the time suffices: about two rounds on an H200"""
START_SECONDS = 60
"""what a group may take beyond them: the model, and what is compiled"""


@dataclass(frozen=True)
class Group:
    """Stages that share a model: names of SHAPES, HEADS and WORKLOADS in `random_workloads`."""

    shape: str
    kind: str
    workloads: tuple[str, ...]
    default: bool = False  # TRL's: fp32 weights under autocast

    def stage(self, workload: str) -> str:
        return f"{self.shape}, {workload}" + (", fp32 weights" if self.default else "")

    @property
    def stages(self) -> list[str]:
        return [self.stage(workload) for workload in self.workloads]


GROUPS = (  # breadth first
    Group("Qwen2.5-3B", "orm", ("8 pairs",)),
    Group("Gemma-2-2b", "orm", ("8 pairs",)),
    Group("Qwen2.5-3B", "prm", ("tree of steps",)),
    Group("Qwen2.5-3B", "orm", ("32 pairs",)),
    Group("Qwen2.5-3B", "orm", ("8 pairs",), default=True),
    Group("Qwen2.5-0.5B", "orm", ("8 pairs", "32 pairs")),
    Group("Qwen2.5-3B", "orm", ("8 long pairs",)),
    Group("Qwen2.5-3B", "prm", ("32 rows of steps",)),
    Group("Gemma-2-2b", "orm", ("32 pairs", "8 long pairs")),
)
SMOKE = (*GROUPS[:3], GROUPS[4])
"""the others are the same on tiny shapes"""

COLUMNS = ("rows_per_second", "tokens_per_second", "mfu", "peak_memory_GiB", "times_as_slow", "host_syncs")
COLUMNS += ("disagreement",)


class Benchmark:
    """The groups as parts, and what they have recorded so far in `results`."""

    def __init__(self, smoke: bool, until: float, path: str | None, script: str = "gpu_stages.py"):
        self.smoke, self.until, self.path, self.script = smoke, until, path, script
        self.results = {"smoke": smoke, "stages": {}, "skipped": [], "failed": {}}

    def parts(self) -> list[list[Part]]:
        return [[self.part(group, group.workloads, {})] for group in (SMOKE if self.smoke else GROUPS)]

    def part(self, group: Group, workloads: tuple[str, ...], without: dict[str, str]) -> Part:
        """`without`: contestants that are left out -> what their notes say."""
        arguments = [self.script, group.shape, group.kind, *workloads]
        arguments += [f"--without={name}" for name in without]
        arguments += ["--default"] * group.default + ["--smoke"] * self.smoke
        seconds = 600.0 if self.smoke else START_SECONDS + 1.5 * STAGE_SECONDS * len(workloads)
        name = ", ".join(group.stages) + "".join(f", without {name}" for name in without)
        return Part(name, arguments, seconds, self.until, lambda part: self.finished(part, group, workloads, without))

    def finished(self, part: Part, group: Group, workloads: tuple[str, ...], without: dict[str, str]) -> Part | None:
        """Collect what the part has recorded; where a contestant has ended it, the part without that one."""
        for record in part.records:
            if "stage" in record:
                record["figures"]["notes"] |= without
                self.results["stages"][record["stage"]] = record["figures"]
        self.results.setdefault("machine", part.recorded("machine"))
        left = tuple(workload for workload in workloads if group.stage(workload) not in self.results["stages"])
        culprit = part.recorded("trying")
        follower = None
        if part.skipped:
            self.results["skipped"] += map(group.stage, left)
        elif left and culprit and culprit not in without:
            follower = self.part(group, left, {**without, culprit: f"failed: {part.failure}"})
        else:
            self.results["failed"] |= {group.stage(workload): part.failure for workload in left}
        write_json(self.results, self.path)
        return follower

    @property
    def failed(self) -> bool:
        notes = [note for stage in self.results["stages"].values() for note in stage["notes"].values()]
        return bool(self.results["failed"]) or any(note.startswith("failed") for note in notes)

    def say_what_is_missing(self) -> None:
        for name, reason in self.results["failed"].items():
            say(f"failed: {name}: {reason}")
        for name in self.results["skipped"]:
            say(f"skipped, the time was used up: {name}")


def table(name: str, stage: dict, columns: tuple[str, ...] = COLUMNS) -> str:
    """A stage's figures and notes, a contestant a line."""
    lines = [f"\n{name} ({stage['kernel']})", f"{'':26}" + "".join(f"{column:>19}" for column in columns)]
    for contestant, figures in stage["contestants"].items():
        cells = ("-" if figures[column] is None else figures[column] for column in columns)
        lines.append(f"{contestant:26}" + "".join(f"{cell:>19}" for cell in cells))
    lines += [f"{contestant:26}{note}" for contestant, note in stage["notes"].items()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=default_json("gpu.json"), help="write the figures to this file")
    parser.add_argument("--seconds", type=float, default=420, help="end within so many")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="only parts with such a word in the name")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes: whether it runs at all")
    options = parser.parse_args()
    until = math.inf if options.smoke else time.monotonic() + options.seconds
    benchmark = Benchmark(options.smoke, until, options.json)
    run_parts(selected(benchmark.parts(), options.only))
    benchmark.say_what_is_missing()
    return int(benchmark.failed)


if __name__ == "__main__":
    sys.exit(main())
