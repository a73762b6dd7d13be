"""Flash attention over a packed tree: each branch is a sequence of its own, whose keys are its ancestors' and its own.

CUDA, bf16 or fp16, heads 16 to 256 wide in steps of 8. `torch.nn.attention.varlen.varlen_attn` wraps the same two
operators, but takes a window only from torch 2.11 on and grouped heads only from torch 2.12 on. The operators take both
from torch 2.7 to 2.15, with the same leading arguments.
"""

import torch

from ..layout import TreeLayout


def flash_attention(query_HTD, key_KTD, value_KTD, layout: TreeLayout, scale, softcap=None, window=None):
    """The attention of a packed row in one launch. Its kernels know no soft-cap.

    Raises:
        ValueError: there is a soft-cap.
    """
    if softcap is not None:
        raise ValueError(f"Flash attention has no soft-cap, got softcap={softcap}. Use `flex_attention`.")
    rows_THD = (tensor.transpose(0, 1) for tensor in (query_HTD, key_KTD, value_KTD))
    # A window includes the query's own key; `left` counts the keys before it.
    left = -1 if window is None else window - 1
    return FlashAttention.apply(*rows_THD, layout.on(query_HTD.device), scale, left).transpose(0, 1)


class FlashAttention(torch.autograd.Function):
    """(T, heads, D) in and out; `index` is `tree_index`: its `key_index` (G,) lists each branch's ancestors and itself.

    Where `key_index` is None no branch has ancestors, and the keys are taken as they stand.

    The gathered keys and values are not saved. Each prefix stands in them once a branch, so that on 8 trees of 30 steps
    they would take 55 GiB in Llama-3.1-8B; gathering them again in the backward takes 4 GiB. A key gets a
    gradient from each branch that sees it. These are summed in fp32: a bf16 sum is 2 % off at 256 branches.
    """

    @staticmethod
    def forward(ctx, query_THD, key_TKD, value_TKD, index, scale, left):
        key_index = index["key_index"]
        lengths = [index[name] for name in ("cu_seq_q", "cu_seq_k", "max_q", "max_k")]
        # No dropout; causal from the bottom right corner, but with a window its two bounds say the same.
        arguments = (*lengths, 0.0, left < 0)
        options = {"scale": scale, "window_size_left": left, "window_size_right": 0}
        output_THD, lse, rng_state, unused, _ = torch.ops.aten._flash_attention_forward(
            query_THD,
            _gathered(key_TKD, key_index),
            _gathered(value_TKD, key_index),
            *arguments,
            False,  # no debug mask
            **options,
        )
        ctx.save_for_backward(query_THD, key_TKD, value_TKD, output_THD, lse, rng_state, unused)
        ctx.key_index, ctx.arguments, ctx.options = key_index, arguments, options
        return output_THD

    @staticmethod
    def backward(ctx, grad_THD):
        query_THD, key_TKD, value_TKD, output_THD, lse, rng_state, unused = ctx.saved_tensors
        grad_query_THD, *grads_GKD = torch.ops.aten._flash_attention_backward(
            grad_THD.contiguous(),
            query_THD,
            _gathered(key_TKD, ctx.key_index),
            _gathered(value_TKD, ctx.key_index),
            output_THD,
            lse,
            *ctx.arguments,
            rng_state,
            unused,
            **ctx.options,
        )
        grads_TKD = (_summed(grad_GKD, ctx.key_index, key_TKD) for grad_GKD in grads_GKD)
        return grad_query_THD, *grads_TKD, None, None, None


def _gathered(tensor_TKD: torch.Tensor, key_index: torch.Tensor | None) -> torch.Tensor:
    return tensor_TKD if key_index is None else tensor_TKD.index_select(0, key_index)


def _summed(grad_GKD: torch.Tensor, key_index: torch.Tensor | None, like_TKD: torch.Tensor) -> torch.Tensor:
    """The gathered keys' gradients, added up a key in fp32."""
    if key_index is None:
        return grad_GKD
    sums_TKD = torch.zeros(like_TKD.shape, dtype=torch.float32, device=like_TKD.device)
    return sums_TKD.index_add_(0, key_index, grad_GKD.float()).to(like_TKD.dtype)
