"""Everything that a GPU is asked, in one command that ends within 520 seconds.

    python benchmarks/gpu_all.py [--json OUT] [--seconds 520]
    python benchmarks/gpu_all.py --only "32 pairs" "flex tests"   these parts alone, in a second run
    python benchmarks/gpu_all.py --smoke                          on whatever device there is, in a few minutes

In: nothing; `hf_rewardplug` need not be installed. Out: everything as it comes, a summary at the end, and all figures
as JSON, written after each part. `gpu_probe.py` comes first, then the kernels' tests without the compiled ones,
`gpu.py`, the tests of what is compiled (FlexAttention), the tests of the hot path. Each has to end by a share of the
time; what one leaves over is the next one's. What fails costs itself alone; exit status 1 if anything did.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable

from gpu import Benchmark, table
from gpu_probe import figures_of, probe_parts
from parts import Part, default_json, line_of, run_parts, say, selected, write_json

ENDS = {"probe": 0.30, "kernel tests": 0.44, "benchmark": 0.78, "flex tests": 0.90, "hot path": 0.99}
"""share of the time by which each ends"""
COMPILED = "flex or gemma2 or compile or fp32_is"
"""names of the tests that compile FlexAttention"""
COLUMNS = ("rows_per_second", "mfu", "peak_memory_GiB", "times_as_slow")


def tests(name: str, until: float, smoke: bool, *arguments: str) -> list[Part]:
    limit = 600.0 if smoke else 120.0
    return [Part(name, ["gpu_tests.py", *arguments, "-m", "gpu"], limit, until)]


def all_parts(benchmark: Benchmark, smoke: bool, until: Callable[[str], float]) -> list[list[Part]]:
    """`until`: a name of ENDS -> when it ends."""
    kernels, hot_path = "tests/model/test_gpu.py", "tests/train/test_hot_path.py"
    return [
        *probe_parts(smoke, until("probe")),
        tests("kernel tests", until("kernel tests"), smoke, kernels, "-k", f"not ({COMPILED})"),
        *benchmark.parts(),
        tests("flex tests", until("flex tests"), smoke, kernels, "-k", COMPILED),
        tests("hot path", until("hot path"), smoke, hot_path, "tests/train/test_launch_watch.py"),
    ]


def summary(done: list[Part], benchmark: Benchmark) -> str:
    """What matters most, short enough for the end of a log."""
    lines = ["\n==== summary"]
    for part in done:
        counts = part.recorded("counts")
        said = ", ".join(f"{count} {what}" for what, count in counts.items()) if counts else ""
        said = "; ".join(filter(None, [said, part.failure])) or "done"
        lines.append(f"{part.name:60} {part.took:5.0f} s  {said}")
        lines += [f"    {test}: {message}" for test, message in part.recorded("failed_tests", {}).items()]
        lines += [f"    {count} skipped: {reason}" for reason, count in part.recorded("skipped", {}).items()]
        lines += [f"    {line}" for record in part.records for line in headlines(record)]
    lines += [table(name, stage, COLUMNS) for name, stage in benchmark.results["stages"].items()]
    return "\n".join(lines)


def headlines(record: dict) -> list[str]:
    """A line of a record of the ceilings or of a step; none of others."""
    if "step" in record:
        return [line_of(record["step"], record["figures"])]
    return [line_of(name, record[name]) for name in ("product", "copy", "launch") if name in record]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=default_json("gpu_all.json"), help="write the figures to this file")
    parser.add_argument("--seconds", type=float, default=520, help="end within so many")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="only parts with such a word in the name")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes: whether it runs at all")
    options = parser.parse_args()
    begun, seconds = time.monotonic(), math.inf if options.smoke else options.seconds
    benchmark = Benchmark(options.smoke, begun + ENDS["benchmark"] * seconds, None)
    stages = all_parts(benchmark, options.smoke, lambda name: begun + ENDS[name] * seconds)

    def write(done: list[Part]) -> None:
        write_json({"parts": figures_of(done), "benchmark": benchmark.results}, options.json)

    done = run_parts(selected(stages, options.only), write)
    say(summary(done, benchmark))
    benchmark.say_what_is_missing()
    say(f"{time.monotonic() - begun:.0f} s in all")
    return int(benchmark.failed or any(part.failure for part in done))


if __name__ == "__main__":
    sys.exit(main())
