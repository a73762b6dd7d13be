"""What one GPU can do, what this package's kernels compute on it, and where the time of a step goes.

    python benchmarks/gpu_probe.py [--json OUT] [--seconds 200]
    python benchmarks/gpu_probe.py --smoke                          tiny shapes on whatever device there is

In: nothing; TRL is not needed. Out: lines as they come, and the same as JSON. Each part runs in a process of its own
with a limit of its own: what crashes or hangs costs that part alone. Exit status 1 if any failed.

device      versions, limits and ceilings                                              gpu_ceilings.py
errors      each kernel against its definition in fp32, all at once, without clocks    gpu_kernels.py
times       each kernel on 8 pairs, 32 pairs and 8 trees                               gpu_kernels.py
steps       the host's and the whole time of a step, by kinds of checkpointing         gpu_steps.py
default     TRL's default step with its optimizer                                      gpu_steps.py
"""

import argparse
import math
import sys
import time

from parts import Part, default_json, run_parts, write_json


def probe_parts(smoke: bool, until: float) -> list[list[Part]]:
    """The parts, stage by stage; those of a stage run side by side."""
    dims = ["128"] if smoke else ["128", "64", "256"]
    errors = [("flash_attention", dims), ("span_attention", dims), *(("flex_attention", [dim]) for dim in dims)]
    kernels = ("flash_attention", "flex_attention", "span_attention")
    shapes = ("Qwen2.5-3B",) if smoke else ("Qwen2.5-3B", "Qwen2.5-0.5B")

    def part(name: str, seconds: float, script: str, *arguments: str) -> Part:
        options = [script, *arguments, *["--smoke"] * smoke]
        return Part(name, options, 600.0 if smoke else seconds, until)

    device = part("device", 100, "gpu_ceilings.py")  # whose start reads torch from a cold disk
    device.alone = True
    return [
        [device],
        [
            part(f"errors of {kernel}, {' '.join(dims)} wide", 90, "gpu_kernels.py", "errors", kernel, "--dims", *dims)
            for kernel, dims in errors
        ],
        *[[part(f"times of {kernel}", 40, "gpu_kernels.py", "times", kernel)] for kernel in kernels],
        *[[part(f"steps of {shape}", 40, "gpu_steps.py", "checkpointing", shape)] for shape in shapes],
        [part("default step of Qwen2.5-3B", 40, "gpu_steps.py", "default", "Qwen2.5-3B")],
    ]


def figures_of(parts: list[Part]) -> dict:
    """What the parts have recorded, as JSON takes it."""
    return {part.name: {"failure": part.failure, "seconds": part.took, "records": part.records} for part in parts}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=default_json("gpu_probe.json"), help="write the figures to this file")
    parser.add_argument("--seconds", type=float, default=200, help="end within so many")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes: whether it runs at all")
    options = parser.parse_args()
    until = math.inf if options.smoke else time.monotonic() + options.seconds
    stages = probe_parts(options.smoke, until)
    done = run_parts(stages, lambda done: write_json(figures_of(done), options.json))
    return int(any(part.failure for part in done))


if __name__ == "__main__":
    sys.exit(main())
