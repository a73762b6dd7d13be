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
    used = (0.0, 0)
    cores = Cores(usage=lambda: used)
    before = len(os.listdir("/proc/self/task"))
    for *used, idle in (
        (5.0, 7_000, False),  # whatever was before is not looked at
        (7.0, 7_010, False),  # 5 a second
        (7.5, 9_000, False),  # less than a second since
        (9.0, 9_000, True),  # 995 a second
        (11.0, 9_050, True),  # 25 a second: neither crowded nor quiet
        (13.0, 9_060, False),
        (15.0, 12_000, True),
        (17.0, 12_000, False),
    ):
        cores.look()
        assert (cores.enough is not None) == idle, used
        if idle:
            assert threads_until(lambda count: count > before) > before
        else:
            assert threads_until(lambda count: count <= before) <= before


def test_one_thread_waits_for_nobody(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    used = iter((number, 1_000 * number) for number in range(5))
    cores = Cores(usage=used.__next__)
    for _ in range(5):
        cores.look()
    assert cores.enough is None
