"""What a piece of a step costs on the device: its seconds there, its launches, how often the host waits.

In: functions to call. Out: figures. Without a GPU seconds are those of the clock, and operations stand for launches.
"""

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler prints two lines a profile

import torch

COLD = 2**28
"""bytes that are written before a piece is timed, more than any card's second-level cache holds"""


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_seconds(run: Callable[[], object], repeats: int = 10, cycles: int = 5_000_000) -> float:
    """Median seconds of `run` on the device, which finds its caches cold.

    The device waits for so many cycles first (2.5 ms), while the host queues what it can of the launches. So a piece
    whose host is done by then is timed without its launches.
    """
    run()
    run()
    if not torch.cuda.is_available():
        return statistics.median(_clocked(run) for _ in range(repeats))
    seconds, other = [], torch.empty(COLD, dtype=torch.uint8, device="cuda")
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        other.zero_()
        torch.cuda._sleep(cycles)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return statistics.median(seconds)


def _clocked(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def enqueued_and_whole(run: Callable[[], object], repeats: int = 10) -> tuple[float, float]:
    """Median seconds until the host has queued the last launch of `run`, and until the device is done with it."""
    pairs = []
    for number in range(repeats + 2):
        synchronize()
        start = time.perf_counter()
        run()
        queued = time.perf_counter()
        synchronize()
        if number >= 2:
            pairs.append((queued - start, time.perf_counter() - start))
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def launches(run: Callable[[], object]) -> int:
    """How many kernels `run` launches; without a GPU how many operations it calls."""
    names = ("cudaLaunchKernel", "cuLaunchKernel") if torch.cuda.is_available() else ("aten::",)
    return sum(count for name, count in runtime_calls(run).items() if name.startswith(names))


def host_waits(run: Callable[[], object]) -> int:
    """How often the host waits for the device in `run`; without a GPU how often it reads a tensor's value."""
    calls = runtime_calls(run)
    calls.subtract(runtime_calls(lambda: None))  # the profiler waits too
    if not torch.cuda.is_available():
        return calls["aten::_local_scalar_dense"]
    return sum(calls[f"cuda{what}Synchronize"] for what in ("Stream", "Device", "Event"))


def runtime_calls(run: Callable[[], object]) -> Counter:
    """How often each function of CUDA's runtime and driver is called, and each operation of torch's.

    The profiler's own events are counted, which takes a tenth of a second a step. Its `key_averages` takes two.
    """
    with torch.profiler.profile() as profiler:
        run()
    return Counter(event.name() for event in profiler.profiler.kineto_results.events())
