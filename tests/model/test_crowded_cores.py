"""Idle threads are there as long as the cores are crowded, and nothing else of the process changes."""

import os

import pytest
import torch

from hf_rewardplug.model.kernels.crowded import Cores

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux's OpenMP is libgomp")


def threads_until(reached) -> int:
    """Threads of this process, looked at until `reached(count)`, at most a million times."""
    for _ in range(1_000_000):
        count = len(os.listdir("/proc/self/task"))
        if reached(count):
            break
    return count


def test_idle_threads_come_and_go_with_other_programs(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # the suite runs on one
    seconds, switches = 0.0, 0
    cores = Cores(clock=lambda: seconds, switches=lambda: switches)
    before = len(os.listdir("/proc/self/task"))
    for seconds, switches, idle in (  # noqa: B007
        (0.0, 7_000, False),  # whatever was before is not looked at
        (2.0, 7_010, False),  # 5 a second
        (2.5, 9_000, False),  # not a second ago
        (4.0, 9_000, True),  # 995 a second
        (6.0, 9_060, True),  # 30 a second: neither crowded nor quiet
        (8.0, 9_070, False),
        (10.0, 12_000, True),
        (12.0, 12_000, False),
    ):
        cores.look()
        assert (cores.enough is not None) == idle, seconds
        if idle:
            assert threads_until(lambda count: count > before) > before
        else:
            assert threads_until(lambda count: count <= before) <= before


def test_one_thread_waits_for_nobody(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    counts = iter(range(0, 10_000, 1_000))
    cores = Cores(clock=iter(range(0, 20, 2)).__next__, switches=counts.__next__)
    for _ in range(5):
        cores.look()
    assert cores.enough is None
