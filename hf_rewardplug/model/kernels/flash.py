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
    index = layout.on(query_HTD.device)
    rows_THD = (tensor.transpose(0, 1) for tensor in (query_HTD, key_KTD, value_KTD))
    left = -1 if window is None else window - 1  # keys to the left of a query's own, which the window includes
    lengths = (index["cu_seq_q"], index["cu_seq_k"], index["max_q"], index["max_k"])
    return FlashAttention.apply(*rows_THD, index["key_index"], *lengths, scale, left).transpose(0, 1)


class FlashAttention(torch.autograd.Function):
    """(T, heads, D) in and out; `key_index` (G,) holds for each branch its ancestors' keys, then its own.

    Where `key_index` is None no branch has ancestors, and the keys are taken as they stand.

    The gathered keys and values are not saved. Each prefix stands in them once a branch, so that on 8 trees of 30 steps
    they would take 55 GiB in Llama-3.1-8B; gathering them again in the backward takes 4 GiB. The gradients of one key,
    of which there are as many as branches see it, are summed in fp32: a bf16 sum is 2 % off at 256 branches.
    """

    @staticmethod
    def forward(ctx, query_THD, key_TKD, value_TKD, key_index, cu_seq_q, cu_seq_k, max_q, max_k, scale, left):
        output_THD, lse, rng_state, unused, _ = torch.ops.aten._flash_attention_forward(
            query_THD,
            _gathered(key_TKD, key_index),
            _gathered(value_TKD, key_index),
            cu_seq_q,
            cu_seq_k,
            max_q,
            max_k,
            0.0,  # dropout
            left < 0,  # causal, from the bottom right corner; with a window the two bounds say the same
            False,  # no debug mask
            scale=scale,
            window_size_left=left,
            window_size_right=0,
        )
        tensors = (query_THD, key_TKD, value_TKD, output_THD, lse, rng_state, unused, key_index, cu_seq_q, cu_seq_k)
        ctx.save_for_backward(*tensors)
        ctx.options = (max_q, max_k, scale, left)
        return output_THD

    @staticmethod
    def backward(ctx, grad_THD):
        query_THD, key_TKD, value_TKD, output_THD, lse, rng_state, unused, key_index, *lengths = ctx.saved_tensors
        max_q, max_k, scale, left = ctx.options
        grad_query_THD, *grads_GKD = torch.ops.aten._flash_attention_backward(
            grad_THD.contiguous(),
            query_THD,
            _gathered(key_TKD, key_index),
            _gathered(value_TKD, key_index),
            output_THD,
            lse,
            *lengths,
            max_q,
            max_k,
            0.0,
            left < 0,
            rng_state,
            unused,
            scale=scale,
            window_size_left=left,
            window_size_right=0,
        )
        grads_TKD = (_summed(grad_GKD, key_index, key_TKD) for grad_GKD in grads_GKD)
        return grad_query_THD, *grads_TKD, *[None] * 7


def _gathered(tensor_TKD: torch.Tensor, key_index: torch.Tensor | None) -> torch.Tensor:
    return tensor_TKD if key_index is None else tensor_TKD.index_select(0, key_index)


def _summed(grad_GKD: torch.Tensor, key_index: torch.Tensor | None, like_TKD: torch.Tensor) -> torch.Tensor:
    """The gathered keys' gradients, added up a key in fp32."""
    if key_index is None:
        return grad_GKD
    sums_TKD = torch.zeros(like_TKD.shape, dtype=torch.float32, device=like_TKD.device)
    return sums_TKD.index_add_(0, key_index, grad_GKD.float()).to(like_TKD.dtype)
