"""Threads of the CPU that wait asleep where other programs have their cores.

Every parallel region of torch's ends with threads that wait for each other. libgomp's threads spin for some
milliseconds, which is fast where all of them run. Beside another program the spinning keeps the core from the very thread
that it waits for, and a region of 30 microseconds takes 20 milliseconds. libgomp spins only for microseconds, and then
sleeps, where a process has more threads than cores. So as long as the cores are crowded, a few idle threads are added.

In: how often the system takes a core away from this process. Out: nothing; `torch.get_num_threads()` stays what it was.
"""

import os
import threading
import time

import torch

try:
    import resource
except ImportError:  # Windows, which has another OpenMP
    resource = None

CROWDED, QUIET = 50, 10
"""involuntary context switches a second from which on the cores are crowded, and below which they are not"""


def switches() -> int:
    """How often the system has taken a core away from one of this process's threads."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class Cores:
    """Looks once a second whether the cores are crowded, and keeps idle threads as long as they are."""

    def __init__(self, clock=time.monotonic, switches=switches):
        self.clock, self.switches = clock, switches
        self.before: tuple[float, int] | None = None
        self.enough: threading.Event | None = None  # set: the idle threads end

    def look(self) -> None:
        """To be called often; what it costs is a look at the clock."""
        now = self.clock()
        if self.before is not None and now - self.before[0] < 1:
            return
        if resource is None or not hasattr(os, "sched_getaffinity") or torch.get_num_threads() == 1:
            return
        before, self.before = self.before, (now, self.switches())
        if before is None:
            return
        rate = (self.before[1] - before[1]) / (now - before[0])
        if self.enough is None and rate > CROWDED:
            self.enough = threading.Event()
            for _ in range(max(1, len(os.sched_getaffinity(0)) // torch.get_num_threads())):
                threading.Thread(target=_idle, args=(self.enough,), daemon=True).start()
        elif self.enough is not None and rate < QUIET:
            self.enough.set()
            self.enough = None


def _idle(enough: threading.Event) -> None:
    """A parallel region gives this thread a team of its own, which sleeps until the thread ends."""
    torch.ones(2**17).neg_()
    enough.wait()


CORES = Cores()
