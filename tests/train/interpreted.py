"""Liger's Triton kernels where the tests run: on a GPU as they are, else in Triton's interpreter.

The interpreter (triton 3.9) lacks what the kernels need: float arguments, libdevice, and timings to tune by.
"""

import importlib

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from transformers.models.llama import modeling_llama
from triton.runtime import autotuner, interpreter

from hf_rewardplug.model import liger

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@triton.jit
def rsqrt(x):
    return 1 / tl.sqrt(x)


@triton.jit
def tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@pytest.fixture
def triton_here(monkeypatch):
    """Whatever runs Triton kernels may run them on `DEVICE`. What Liger does to Llama's module is undone afterwards."""
    before = dict(vars(modeling_llama))
    if DEVICE.type == "cpu":
        _interpret(monkeypatch)
    yield
    vars(modeling_llama).update(before)


def _interpret(monkeypatch) -> None:
    if not (hasattr(triton, "knobs") and triton.knobs.runtime.interpret):
        pytest.skip("TRITON_INTERPRET=1 must be set before triton (3.4 or newer) is imported")
    plain = interpreter._implicit_cvt

    def with_floats(value):
        if isinstance(value, float):
            return tl.tensor(interpreter.TensorHandle(np.array([value], np.float32), tl.float32), tl.float32)
        return plain(value)

    monkeypatch.setattr(interpreter, "_implicit_cvt", with_floats)
    monkeypatch.setattr(autotuner.Autotuner, "do_bench", lambda *args, **kwargs: [1.0, 1.0, 1.0])
    monkeypatch.setattr(importlib.import_module("liger_kernel.ops.rms_norm"), "rsqrt", rsqrt)
    monkeypatch.setattr(importlib.import_module("liger_kernel.ops.geglu"), "tanh", tanh)
    monkeypatch.setattr(liger, "DEVICES", {"cpu"})
