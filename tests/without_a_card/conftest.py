"""Tests for cards that are not there: a CUDA build of torch, a shim in place of the driver, a process for each."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@pytest.fixture(scope="session")
def shim(tmp_path_factory) -> Path:
    """`shim.c`, compiled; without it a CUDA build of torch cannot compute gradients of fake CUDA tensors."""
    if torch.version.cuda is None:
        pytest.skip(f"needs a CUDA build of torch, here is {torch.__version__}: run `make test-cuda`")
    if not hasattr(torch._C, "_ensureCUDADeviceGuardSet"):
        pytest.skip(f"torch {torch.__version__} cannot be made to believe in a card")
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, which compiles shim.c and what Triton links")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", str(HERE / "shim.c"), "-o", str(library)]
    subprocess.run(command, check=True)
    return library


@pytest.fixture(scope="session")
def without_a_card(shim, tmp_path_factory):
    """`without_a_card("flex_for_a_card.py", task)`: what the script prints about the task, a value a line."""

    def run(script: str, task: dict) -> list:
        caches = str(tmp_path_factory.mktemp("inductor"))
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment |= {
            "LD_PRELOAD": str(shim),
            "PYTHONPATH": str(ROOT),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
            "TORCHINDUCTOR_CACHE_DIR": caches,
            "TRITON_CACHE_DIR": caches,
        }
        command = [sys.executable, str(HERE / script), json.dumps(task)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        shutil.rmtree(caches, ignore_errors=True)
        assert done.returncode == 0, done.stderr[-4000:]
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run
