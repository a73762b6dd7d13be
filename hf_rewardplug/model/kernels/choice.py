"""Which kernel a model's attention takes on a device: the fastest that computes the right thing there.

In: what the heads are like (`Heads`). Out: a kernel. On CUDA nothing is assumed of the card, its driver, torch, Triton
and the compiler. Before a kernel is taken it computes a small tree, forward and backward, and is compared with the
definition in fp32.
"""

import concurrent.futures
import functools
import logging
from collections.abc import Callable
from typing import NamedTuple

import torch

from ..layout import TreeLayout
from .flash import flash_attention
from .flex import flex_attention
from .reference import reference_attention
from .spans import span_attention

logger = logging.getLogger(__name__)

Kernel = Callable[..., torch.Tensor]

TOLERANCES = {torch.bfloat16: 2e-2, torch.float16: 2e-2, torch.float32: 2e-3}
"""norm of the difference over norm of the truth; fp32 products may be TF32's"""


class Heads(NamedTuple):
    """What a kernel must be able to compute.

    Args:
        device, dtype: of the tensors.
        query, key: number of heads.
        query_dim, value_dim: how wide a head is.
        scale: of the scores; a compiled kernel takes it for a constant, as it does the soft-cap.
        softcap: of the scores, or None.
        window: tokens of the sliding window, or None.
    """

    device: torch.device
    dtype: torch.dtype
    query: int
    key: int
    query_dim: int
    value_dim: int
    scale: float
    softcap: float | None = None
    window: int | None = None


def choose_kernel(heads: Heads) -> Kernel:
    """The fastest kernel that is right for these heads.

    Where none of the fast kernels is, `span_attention` takes their place, and one warning says why.

    Raises:
        torch.OutOfMemoryError: the card is full. That says nothing about the kernel, so the next call checks it again.
    """
    if heads.device.type != "cuda":
        return span_attention
    # The small tree of the check would not notice a larger window.
    if heads.window is not None:
        heads = heads._replace(window=min(heads.window, 40))
    return _checked_kernel(heads)


def candidates(heads: Heads, capability: tuple[int, int]) -> tuple[list[Kernel], str | None]:
    """The kernels to try on a card of this compute capability, fastest first; where there is none, also the reason.

    >>> heads = Heads(torch.device("cuda"), torch.bfloat16, 16, 2, 128, 128, 128**-0.5)
    >>> [kernel.__name__ for kernel in candidates(heads, (9, 0))[0]]
    ['flash_attention', 'flex_attention']
    >>> candidates(heads, (7, 5))
    ([], 'a card of compute capability 7.5 has no bf16, and flash attention needs 8.0')
    """
    if capability < (8, 0):
        name = ".".join(map(str, capability))
        return [], f"a card of compute capability {name} has no bf16, and flash attention needs 8.0"
    if heads.dtype not in TOLERANCES:
        return [], f"the dtype is {str(heads.dtype).removeprefix('torch.')}"
    if heads.query_dim != heads.value_dim:
        return [], f"queries are {heads.query_dim} wide and values {heads.value_dim}"
    if not 16 <= heads.query_dim <= 256 or heads.query_dim % 8:
        return [], f"heads are {heads.query_dim} wide; the kernels take 16, 24, ... 256"
    flash = heads.softcap is None and heads.dtype != torch.float32
    return [flash_attention, flex_attention] if flash else [flex_attention], None


@functools.lru_cache(maxsize=64)
def _checked_kernel(heads: Heads) -> Kernel:
    kernels, reason = candidates(heads, torch.cuda.get_device_capability(heads.device))
    reasons = [reason] if reason else []
    for kernel in kernels:
        fault = _in_a_thread(find_fault, kernel, heads)
        if fault is None:
            if reasons:
                _warn_once(f"{'; '.join(reasons)}. `{kernel.__name__}` takes its place.")
            return kernel
        reasons.append(f"`{kernel.__name__}` {fault}")
    _warn_once(
        f"{'; '.join(reasons)}. `span_attention` takes its place, which gives the same numbers slowly. "
        "`prefix_sharing=False` pads the batches instead, which may be faster here."
    )
    return span_attention


@functools.cache
def _warn_once(reason: str) -> None:
    logger.warning("Prefix-tree attention does not run on its fastest kernel here: %s", reason)


def _in_a_thread(function: Callable, *args):
    """Call `function` where neither autocast nor inference mode is on, and outside gradient checkpointing.

    The check runs during a model's first forward. Its tensors must not become part of what a gradient
    checkpoint saves, and all these modes belong to their thread.
    """
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(function, *args).result()


def find_fault(kernel: Kernel, heads: Heads) -> str | None:
    """Why `kernel` cannot be used for these heads on their device; None where it is right.

    Raises:
        torch.OutOfMemoryError: as `choose_kernel`.
    """
    try:
        errors = errors_on_small_tree(kernel, heads)
    except Exception as error:
        if (full := out_of_memory(error)) is not None:
            raise full from None
        message = str(error).strip().split("\n")[0]
        return f"fails ({type(error).__name__}: {message[:300]})"
    worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else float("inf"))
    if not errors[worst] <= TOLERANCES[heads.dtype]:
        return f"is wrong (its {worst} is {errors[worst]:.2g} off the definition, relative to its norm)"
    return None


def out_of_memory(error: BaseException) -> torch.OutOfMemoryError | None:
    """The error as torch's for a full card, where it is that or was caused by it; compilers wrap what went wrong.

    cuBLAS and Triton have other errors for it. A kernel that needs more shared memory than there is has "out of
    resource" in its message, which says something about the kernel.

    >>> out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    OutOfMemoryError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`')
    >>> out_of_memory(RuntimeError("out of resource: shared memory, Required: 152576"))
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.OutOfMemoryError):
            return cause
        if isinstance(cause, RuntimeError) and ("out of memory" in str(cause) or "ALLOC_FAILED" in str(cause)):
            return torch.OutOfMemoryError(str(cause))
        cause = cause.__cause__ or cause.__context__
    return None


def errors_on_small_tree(kernel: Kernel, heads: Heads) -> dict[str, float]:
    """{tensor: norm of the difference from the definition in fp32, over the norm} of the output and the gradients."""
    layout = small_tree(heads.device)
    generator = torch.Generator().manual_seed(0)

    def random(count: int, dim: int) -> torch.Tensor:
        tensor_THD = torch.randn(len(layout.position_ids_T), count, dim, generator=generator)
        return tensor_THD.to(heads.device, heads.dtype).transpose(0, 1)

    shapes = [(heads.query, heads.query_dim), (heads.key, heads.query_dim), (heads.key, heads.value_dim)]
    inputs = [random(*shape) for shape in shapes]
    weights = random(heads.query, heads.value_dim)

    def computed(function: Kernel, dtype: torch.dtype) -> list[torch.Tensor]:
        tensors = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs]
        output_HTD = function(*tensors, layout, heads.scale, heads.softcap, heads.window)
        return [output_HTD.detach(), *torch.autograd.grad(output_HTD, tensors, weights.to(output_HTD))]

    names = ("output", "gradient of the queries", "gradient of the keys", "gradient of the values")
    tensors, truth = computed(kernel, heads.dtype), computed(reference_attention, torch.float32)
    return {
        name: float((tensor.float() - exact).norm() / exact.norm())
        for name, tensor, exact in zip(names, tensors, truth, strict=True)
    }


def small_tree(device: torch.device) -> TreeLayout:
    """Two sequences of more than one block of FlexAttention; the first has a branch, and the branch has one too.

    tokens    0 ... 89 90 ... 169             one sequence of 170
                     | 170 ... 199 200 ... 229    branches off after token 89
                                 | 230 ... 261    branches off from that branch, after token 199
              262 ... 299                     another sequence
    """
    spans = [(0, 170, 0, 170), (170, 230, 170, 230), (230, 262, 230, 262), (262, 300, 262, 300)]
    spans += [(170, 262, 0, 90), (230, 262, 170, 200)]
    positions = [*range(170), *range(90, 150), *range(120, 152), *range(38)]
    return TreeLayout(spans, torch.tensor(positions, device=device), 170)
