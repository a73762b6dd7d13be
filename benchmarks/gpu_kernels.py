"""The kernels of prefix-tree attention by themselves: how far they are from their definition, and what they take.

    gpu_kernels.py errors KERNEL [--dims 64 128 256]    forward and gradients against the definition in fp32, as
                                                        norm(difference) / norm(truth): 16 query heads on 16 and on 2
                                                        key heads, with a window and without, flex with soft-caps too
    gpu_kernels.py times KERNEL                         one layer of Qwen2.5-3B on 8 pairs, 32 pairs, 8 trees of steps

KERNEL: flash_attention, flex_attention or span_attention. The times of flash attention are taken apart: its keys and
values gathered, the operator alone, and the gradients of the gathered ones summed ("scatter") in bf16 and in fp32, with
what the bf16 sum is off. Out, a line each and as records. Run by `gpu_probe.py`, in a process of its own.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from device_figures import device_seconds, synchronize
from parts import as_part, reason_of, record, say
from random_workloads import SHAPES, WORKLOADS, rows_of
from shared_model import CUDA, DEVICE, DTYPE
from side_by_side import on_device

from hf_rewardplug.data.collator import PreferenceCollator, StepCollator
from hf_rewardplug.model import kernels
from hf_rewardplug.model.kernels import Heads
from hf_rewardplug.model.kernels.choice import TOLERANCES, errors_on_small_tree
from hf_rewardplug.model.layout import TreeLayout, tree_index

QUERY_HEADS = 16
BATCHES = {
    "8 pairs": ("orm", "8 pairs", 8),
    "32 pairs": ("orm", "32 pairs", 32),
    "8 trees": ("prm", "tree of steps", 8),
}
"""name -> kind of rows, workload, rows a batch"""


# ---- errors ---------------------------------------------------------------------------------------------------------


def cases(kernel: str, dims: list[int]) -> Iterator[Heads]:
    """The heads that the kernel is tried on, those that most models have first."""
    softcaps = (None,) if kernel == "flash_attention" else (None, 5.0)
    for softcap, window, groups, dim in itertools.product(softcaps, (None, 40), (8, 1), dims):
        yield Heads(DEVICE, DTYPE, QUERY_HEADS, QUERY_HEADS // groups, dim, dim, dim**-0.5, softcap, window)
    if CUDA and kernel != "flash_attention":
        for dim in dims:
            yield Heads(DEVICE, torch.float32, QUERY_HEADS, QUERY_HEADS // 8, dim, dim, dim**-0.5)


def say_errors(kernel: str, dims: list[int]) -> None:
    """A line a case.

    Raises:
        RuntimeError: some were wrong, or failed.
    """
    wrong = []
    for heads in cases(kernel, dims):
        name = f"{kernel} {heads.query}/{heads.key} heads {heads.query_dim} wide {str(heads.dtype)[6:]}"
        name += "".join(f" {key} {getattr(heads, key):g}" for key in ("window", "softcap") if getattr(heads, key))
        start = time.perf_counter()
        try:
            errors = errors_on_small_tree(getattr(kernels, kernel), heads)
        except Exception as error:  # the next case goes on, unless nothing runs in this process any more
            shown, right, errors = reason_of(error), False, {}
            synchronize()
        else:
            right = all(error <= TOLERANCES[heads.dtype] for error in errors.values())
            shown = ", ".join(f"{key.removeprefix('gradient of the ')} {error:.1e}" for key, error in errors.items())
        verdict = "right" if right else f"WRONG, allowed {TOLERANCES[heads.dtype]:g}"
        say(f"{name:72}{verdict}: {shown} ({time.perf_counter() - start:.1f} s)")
        record(case=name, right=right, errors=errors, reason=None if errors else shown)
        wrong += [] if right else [name]
    if wrong:
        raise RuntimeError(f"{len(wrong)} cases are wrong or fail, the first: {wrong[0]}")


# ---- times ----------------------------------------------------------------------------------------------------------


def layout_of(name: str, smoke: bool) -> TreeLayout:
    """The tree of one batch, with its index tensors, on the device."""
    kind, workload, size = BATCHES[name]
    workload = next(one for one in WORKLOADS[kind] if one.name == workload)
    rows = rows_of(replace(workload, size=size, batches=1), kind, 512 if smoke else 100_000, smoke)[0]
    collator = PreferenceCollator if kind == "orm" else StepCollator
    batch = on_device(collator(0, prefix_sharing=True, tree_index=tree_index)(rows), DEVICE)
    tree = batch["prefix_tree"]
    return TreeLayout(tree["spans"], batch["position_ids"][0], tree["longest"], tree["index"])


class Layer:
    """Query, key and value of one layer of Qwen2.5-3B, (heads, T, D), on a tree."""

    def __init__(self, layout: TreeLayout):
        sizes = SHAPES["Qwen2.5-3B"][1]
        heads, key_heads = sizes["num_attention_heads"], sizes["num_key_value_heads"]
        dim, tokens = sizes["hidden_size"] // heads, len(layout.position_ids_T)
        self.layout, self.scale, self.index = layout, dim**-0.5, layout.on(DEVICE)
        generator = torch.Generator(DEVICE).manual_seed(0)

        def random(count: int, length: int) -> torch.Tensor:
            return torch.randn(length, count, dim, device=DEVICE, generator=generator).to(DTYPE)

        self.query_THD, self.grad_THD = random(heads, tokens), random(heads, tokens)
        self.key_TKD, self.value_TKD = random(key_heads, tokens), random(key_heads, tokens)
        self.gathered = len(self.index["key_index"])
        self.gathered_grads = [random(key_heads, self.gathered) for _ in range(2)]
        pairs = int((layout.position_ids_T + 1).sum())
        self.products = 4 * pairs * heads * dim
        """floating-point operations of the two products of a forward, for the pairs that see each other"""
        self.moved = 4 * self.gathered_grads[0].nbytes
        """bytes that gathering keys and values reads and writes; summing reads half as many"""

    def whole(self, kernel, backward: bool):
        """The kernel as the model calls it."""
        leaves = [tensor.transpose(0, 1).requires_grad_(backward) for tensor in self.tensors()]

        def run():
            with torch.set_grad_enabled(backward):
                output_HTD = kernel(*leaves, self.layout, self.scale)
            if backward:
                torch.autograd.grad(output_HTD, leaves, self.grad_THD.transpose(0, 1))

        return run

    def tensors(self) -> list[torch.Tensor]:
        return [tensor.detach() for tensor in (self.query_THD, self.key_TKD, self.value_TKD)]

    def gather(self) -> list[torch.Tensor]:
        return [tensor.index_select(0, self.index["key_index"]) for tensor in (self.key_TKD, self.value_TKD)]

    def scatter(self, dtype: torch.dtype) -> list[torch.Tensor]:
        sums = (torch.zeros(self.key_TKD.shape, dtype=dtype, device=DEVICE) for _ in range(2))
        pairs = zip(sums, self.gathered_grads, strict=True)
        return [total.index_add_(0, self.index["key_index"], grad.to(dtype)).to(DTYPE) for total, grad in pairs]

    def scatter_error(self) -> float:
        exact, rounded = self.scatter(torch.float64)[0].double(), self.scatter(DTYPE)[0].double()
        return float((rounded - exact).norm() / exact.norm())

    def operator(self, backward: bool):
        """Flash attention's operator alone, as `FlashAttention` calls it."""
        key, value = self.gather()
        lengths = [self.index[name] for name in ("cu_seq_q", "cu_seq_k", "max_q", "max_k")]
        options = {"scale": self.scale, "window_size_left": -1, "window_size_right": 0}

        def forward():
            inputs = (self.query_THD, key, value, *lengths, 0.0, True, False)
            return torch.ops.aten._flash_attention_forward(*inputs, **options)

        if not backward:
            return forward
        output, lse, rng_state, unused, _ = forward()
        inputs = (self.grad_THD, self.query_THD, key, value, output, lse, *lengths, 0.0, True, rng_state, unused)
        return lambda: torch.ops.aten._flash_attention_backward(*inputs, **options)


def pieces_of(kernel: str, layer: Layer) -> dict[str, tuple]:
    """Name -> what is timed, and its floating-point operations or its bytes."""
    attend = getattr(kernels, kernel)
    forward, backward = layer.products, 2.5 * layer.products  # the backward computes the scores again
    pieces = {}
    if kernel == "flash_attention":
        pieces = {
            "gather": (layer.gather, 0, layer.moved),
            "operator, forward": (layer.operator(False), forward, 0),
            "operator, backward": (layer.operator(True), backward, 0),
            "scatter, bf16": (lambda: layer.scatter(DTYPE), 0, layer.moved // 2),
            "scatter, fp32": (lambda: layer.scatter(torch.float32), 0, layer.moved // 2),
        }
    pieces["forward"] = (layer.whole(attend, False), forward, 0)
    pieces["forward and backward"] = (layer.whole(attend, True), forward + backward, 0)
    return pieces


def say_times(kernel: str, smoke: bool) -> None:
    for name in BATCHES:
        layer = Layer(layout_of(name, smoke))
        tokens, spans = len(layer.layout.position_ids_T), len(layer.layout.spans)
        say(f"{name}: {tokens} tokens, {layer.gathered} gathered keys, {spans} spans")
        figures = {"tokens": tokens, "gathered": layer.gathered, "spans": spans, "microseconds": {}}
        for piece, (run, operations, moved) in pieces_of(kernel, layer).items():
            seconds = device_seconds(run, repeats=3 if smoke or kernel == "span_attention" else 20)
            figures["microseconds"][piece] = round(seconds * 1e6, 1)
            rate = f"{operations / seconds / 1e12:8.1f} TFLOP/s" if operations else f"{moved / seconds / 1e9:8.1f} GB/s"
            say(f"  {piece:24}{seconds * 1e6:12.1f} us {rate}")
        if kernel == "flash_attention":
            figures["bf16_scatter_error"] = error = layer.scatter_error()
            say(f"  the bf16 sum is {error:.1e} off, norm(difference) / norm(truth)")
        record(batch=name, kernel=kernel, **figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["errors", "times"])
    parser.add_argument("kernel", choices=["flash_attention", "flex_attention", "span_attention"])
    parser.add_argument("--dims", nargs="+", type=int, default=[128, 64, 256])
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    with as_part():
        if not CUDA and options.kernel != "span_attention":
            say(f"{options.kernel}: not run: needs a CUDA device")
        elif options.what == "errors":
            say_errors(options.kernel, options.dims[:1] if options.smoke else options.dims)
        else:
            say_times(options.kernel, options.smoke)


if __name__ == "__main__":
    main()
