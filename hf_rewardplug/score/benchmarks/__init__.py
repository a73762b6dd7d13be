"""Benchmarks of the field: a scorer and a benchmark's rows -> its figures, as its own code defines them.

In: `scorer.score(prompts, completions)` (floats, nested as the completions are) and raw rows in the benchmark's own
columns. Out: a `Result` of flat figures ("accuracy", "accuracy/Chat", "n", ...) and of every example with its scores.

    registry.py        names -> benchmarks, detection from columns, rows with their numbers
    evaluation.py      `evaluate`: load, detect, run
    examples.py        what the benchmarks share: turns, one call of the scorer, means by subset
    pairs.py           preference data of any format; JudgeBench
    rewardbench.py     RewardBench: four sections of pairs
    rewardbench2.py    RewardBench 2: best of four, and ties
    rm_bench.py        RM-Bench: three styles against three
    rmb.py             RMB: pairs, and the best of up to seven answers, in 49 scenarios
    process_bench.py   ProcessBench: the first wrong step (process reward models)
    prm_bench.py       PRMBench: right and wrong steps in nine classes (process reward models)
    big_bench_mistake.py   BIG-Bench-Mistake: the first mistake in five tasks (process reward models)
    mr_ben.py          Mr-Ben: right solutions and first wrong steps in six subjects (process reward models)
    steps.py           steps of any format: right and wrong ones (process reward models)
    best_of_n.py       accuracy of the best of n samples, and of votes, against n (either kind)

Another benchmark is another module here: each is imported, and registers itself. Which figure is which of the official
code's, and where they differ on purpose: docs/benchmarks.md.
"""

import importlib
import pkgutil

from .evaluation import evaluate, prepare
from .examples import as_chat, mean_by, scored
from .registry import (
    BENCHMARKS,
    Benchmark,
    Result,
    Rows,
    detect_benchmark,
    get_benchmark,
    read_rows,
    register_benchmark,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Result",
    "Rows",
    "as_chat",
    "detect_benchmark",
    "evaluate",
    "get_benchmark",
    "mean_by",
    "prepare",
    "read_rows",
    "register_benchmark",
    "scored",
]
