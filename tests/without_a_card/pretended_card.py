"""A card of any compute capability where there is none: torch lowers and compiles for it, and launches nothing.

For a process of its own, with a CUDA build of torch and `shim.c` preloaded, since torch is patched for good. Tensors
are fake ones (`FakeTensorMode`): shapes, dtypes and strides without numbers. Dynamo, Inductor, Triton and ptxas are the
real ones and go the way that they go on a card. Only what would need the driver is replaced.
"""

import ctypes
import dataclasses
import os
from types import SimpleNamespace

import torch

SHARED_MEMORY = {
    (7, 5): 65_536,  # T4
    (8, 0): 166_912,  # A100
    (8, 6): 101_376,  # RTX 30, A10
    (8, 9): 101_376,  # RTX 40, L4
    (9, 0): 232_448,  # H100, H200
    (12, 0): 101_376,  # RTX 50
}
"""bytes that a block of threads may ask for, by compute capability (CUDA programming guide, "Compute Capabilities")"""

MOST_DEVICES = 64
"""as many as the device guard without a driver says it has; autograd's engine asks each of them for a context"""


def pretend(capability: tuple[int, int]) -> None:
    """From here on `torch.cuda` has a card of this compute capability, on which fake tensors can be."""
    torch._C._ensureCUDADeviceGuardSet()  # the guard that does nothing; torch takes it only while it sees no device
    ctypes.CDLL(os.environ["LD_PRELOAD"]).set_device_count(MOST_DEVICES)
    _replace_what_asks_the_driver(capability)
    _replace_tritons_driver(capability)
    _keep_inductor_from_computing()


def compile_without_launching(on_compiled=None, on_launch=None) -> None:
    """Triton kernels are compiled and not loaded, and a launch does nothing.

    Args:
        on_compiled: called with a kernel's name, its source and its bytes of shared memory.
        on_launch: called with a kernel's name. Without `on_compiled` nothing is compiled, which saves minutes.
    """
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    def precompile(self, *args, **kwargs):
        for config in self.configs if on_compiled else ():
            kernel = self._precompile_config(config).kernel
            shared = kernel.metadata.shared if hasattr(kernel, "metadata") else kernel.shared
            on_compiled(self.fn.__name__, self.fn.src, shared)

    def run(self, *args, **kwargs):
        if on_launch:
            on_launch(self.fn.__name__)

    CachingAutotuner.precompile, CachingAutotuner.run = precompile, run


def _replace_what_asks_the_driver(capability: tuple[int, int]) -> None:
    from torch._subclasses import fake_tensor

    fake_tensor.init_gpu_context = lambda device=None: None
    fake_tensor.FakeTensorMode.avoid_device_init = True
    memory = SHARED_MEMORY[capability]
    properties = SimpleNamespace(  # what Inductor's heuristics ask for
        name="a pretended card",
        major=capability[0],
        minor=capability[1],
        multi_processor_count=128,
        regs_per_multiprocessor=65_536,
        max_threads_per_multi_processor=1_536,
        max_threads_per_block=1_024,
        shared_memory_per_block=49_152,
        shared_memory_per_block_optin=memory,
        shared_memory_per_multiprocessor=memory + 1_024,
        warp_size=32,
        L2_cache_size=48 << 20,
        total_memory=24 << 30,
        gcnArchName="",
        is_integrated=False,
    )
    state = torch.zeros(16, dtype=torch.uint8)
    replaced = {
        "_lazy_init": None,
        "is_available": True,
        "device_count": 1,
        "_get_device_properties": properties,
        "get_rng_state": state,
        "set_rng_state": None,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
        "is_current_stream_capturing": False,
    }
    for name, answer in replaced.items():
        setattr(torch.cuda, name, _always(answer))
    for name in ("getDevice", "setDevice", "exchangeDevice", "maybeExchangeDevice", "getCurrentRawStream"):
        setattr(torch._C, f"_cuda_{name}", _always(0))
    torch._C._dynamo.guards._empty_strided_cuda = lambda size, stride, dtype: torch.empty_strided(
        size, stride, dtype=dtype, device="cuda"
    )


def _always(answer):
    return lambda *args, **kwargs: answer


def _replace_tritons_driver(capability: tuple[int, int]) -> None:
    from triton.backends import backends
    from triton.backends.compiler import GPUTarget

    class Driver:
        @staticmethod
        def is_active():
            return True

        def get_current_target(self):
            return GPUTarget("cuda", capability[0] * 10 + capability[1], 32)

    backends["nvidia"] = dataclasses.replace(backends["nvidia"], driver=Driver)


def _keep_inductor_from_computing() -> None:
    """Its patterns of plain attention are traced with tensors on the device; FlexAttention has none of them."""
    from torch._inductor.fx_passes import fuse_attention

    fuse_attention._sfdp_init = lambda *args: None
