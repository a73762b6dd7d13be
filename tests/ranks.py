"""Functions run in processes of their own, alone or as the ranks of one run, without importing everything again.

Importing torch, transformers, TRL and DeepSpeed takes an interpreter ten seconds. A server imports them once for each
pytest worker, and every process is forked from it. What is tested here is the run, not the launcher that starts it.
"""

import gc
import os
import socket
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing import connection, get_context
from pathlib import Path

IMPORTED_BY_SERVER = ["hf_rewardplug.train.reward_trainer", "hf_rewardplug.train.prm_trainer", "peft", "deepspeed"]
TIMEOUT = 600  # seconds


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def context_with_imports():
    """multiprocessing's context; the server starts with its first process."""
    context = get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_BY_SERVER)
    return context


def run_forked(
    function: Callable, *arguments, log: Path, ranks: int = 1, dies: bool = False, cwd: Path | None = None
) -> str:
    """Call `function(*arguments)` in as many forked processes as there are ranks, which find each other by torchrun's
    variables. A single process has none of them.

    Args:
        function: A function of a module, since its name is what the process receives.
        log: The file that receives what the processes print.
        dies: Whether a process is expected to fail. The others are killed then.
        cwd: The folder in which the processes run.

    Returns:
        What the processes printed.
    """
    context, port, processes = context_with_imports(), free_port(), []
    for rank in range(ranks):
        variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        variables |= {"LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **(variables if ranks > 1 else {})}
        of_rank = (function, arguments, environment, log, cwd)
        processes.append(context.Process(target=run_rank, args=of_rank))
    for process in processes:
        process.start()
    try:
        wait_until_all_end_or_one_fails(processes)
    finally:
        failed = any(process.exitcode != 0 for process in processes)
        for process in processes:
            process.kill()
            process.join()
    printed = log.read_text(errors="replace") if log.exists() else ""
    assert failed is dies, printed[-5000:]
    return printed


def wait_until_all_end_or_one_fails(processes: list) -> None:
    """A rank whose partner failed would wait for it without end."""
    running, end = {process.sentinel: process for process in processes}, time.monotonic() + TIMEOUT
    while running:
        ended = connection.wait(running, timeout=max(0, end - time.monotonic()))
        assert ended, f"{len(running)} processes still run after {TIMEOUT} seconds"
        for process in [running.pop(sentinel) for sentinel in ended]:
            process.join()
            if process.exitcode != 0:
                return


def run_rank(function: Callable, arguments: tuple, environment: dict, log: Path, cwd: Path | None) -> None:
    """The forked process: it takes the variables of the test, not those that the server started with."""
    import torch

    os.environ.clear()
    os.environ.update(environment)
    with log.open("a") as output:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(output.fileno(), stream.fileno())
    if cwd is not None:
        os.chdir(cwd)
    torch.set_num_threads(1)
    gc.freeze()  # as in conftest.py
    if find_spec("deepspeed"):
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__ = {}  # a faster all-reduce, whose C++ takes a minute to compile
    function(*arguments)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
