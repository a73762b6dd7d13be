"""Threads of the CPU that wait asleep where other programs have their cores.

Every parallel region of torch's ends with threads that wait for each other. libgomp's threads spin for some
milliseconds, which is fast where all of them run. Beside another program the spinning keeps the core from the very
thread that it waits for, and a region of 30 microseconds takes 20 milliseconds. libgomp spins only for microseconds,
and then sleeps, where a process has more threads than cores. So as long as the cores are crowded, there are a few more
threads, which do nothing.

In: how often the system takes a core away from this process. Out: nothing; `torch.get_num_threads()` stays what it was.
"""

import os
import threading

import torch

try:
    import resource
except ImportError:  # Windows, which has another OpenMP
    resource = None

CROWDED, QUIET = 40, 15
"""involuntary context switches a second of computing from which on the cores are crowded, and below which they are not;
two programs that share a core take turns every 3 to 10 milliseconds"""


def usage() -> tuple[float, int]:
    """Seconds that this process's threads have computed, and how often the system has taken a core away from them."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_nivcsw


class Cores:
    """Looks after each second of computing whether the cores are crowded, and keeps idle threads while they are."""

    def __init__(self, usage=usage):
        self.usage = usage
        self.before: tuple[float, int] | None = None
        # The idle threads end when this is set.
        self.enough: threading.Event | None = None

    def look(self) -> None:
        """To be called often; it costs a microsecond."""
        if resource is None or not hasattr(os, "sched_getaffinity") or torch.get_num_threads() == 1:
            return
        seconds, switches = self.usage()
        if self.before is None:
            self.before = seconds, switches
        passed = seconds - self.before[0]
        if passed < 1:
            return
        rate = (switches - self.before[1]) / passed
        self.before = seconds, switches
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
