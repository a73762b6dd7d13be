"""The kernels of prefix-tree attention: each takes the tensors of a packed row and its layout, and all give the same.

T packed tokens, H query heads, K key heads, G = H / K, D head dimension
query_HTD, key_KTD, value_KTD -> output_HTD; lse_HT the log of each softmax's denominator

SpanAttention       every device and dtype. On the CPU torch's flash kernel a span, elsewhere and with soft-caps or
                    windows plain products; merged by log-sum-exp, nothing is gathered
varlen_attention    CUDA, bf16 or fp16, heads of up to 256: `torch.nn.attention.varlen` over gathered keys
flex_attention      CUDA, bf16 or fp16, where scores are soft-capped (Gemma 2) or torch has no varlen
reference_attention the definition, with an explicit mask: the slow twin of all three
"""

import functools
import logging

import torch
import torch.nn.functional as F

from .layout import TreeLayout, causal_spans, full_spans

logger = logging.getLogger(__name__)

BLOCK = 128
"""tokens of a block of FlexAttention's mask"""


def choose_kernel(device: torch.device, dtype: torch.dtype, softcap: float | None, *, query_dim: int, value_dim: int):
    """The fastest kernel that is right for these tensors.

    Flash attention takes heads of 8, 16, ... 256, values as wide as queries; OpenLLaMA 3B's are 100 wide.
    """
    takes_heads = query_dim == value_dim <= 256 and query_dim % 8 == 0
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16) or not takes_heads:
        return SpanAttention.apply
    return varlen_attention if softcap is None and _varlen_is_right(device) else flex_attention


def reference_attention(query_HTD, key_KTD, value_KTD, layout: TreeLayout, scale, softcap=None, window=None):
    """The definition: softmax over the keys that the tree lets a query see. Slow, quadratic in T; for tests."""
    groups = query_HTD.shape[0] // key_KTD.shape[0]
    scores_HTT = scale * query_HTD @ key_KTD.repeat_interleave(groups, 0).transpose(1, 2)
    if softcap is not None:
        scores_HTT = softcap * torch.tanh(scores_HTT / softcap)
    scores_HTT = scores_HTT.masked_fill(~layout.mask_TT(window), float("-inf"))
    return scores_HTT.softmax(-1) @ value_KTD.repeat_interleave(groups, 0)


# ---- spans: the CPU, and whatever has no kernel of its own ----------------------------------------------------------


class SpanAttention(torch.autograd.Function):
    """Attention a span, merged by log-sum-exp as flash attention merges its blocks (arXiv:2205.14135, section 3.1).

    The gradient of a block needs only the whole row's output and log-sum-exp, so each span's is exact by itself, and no
    key is gathered, copied or masked: memory and time are linear in the tokens and in the visible (query, key) pairs.
    """

    @staticmethod
    def forward(ctx, query_HTD, key_KTD, value_KTD, layout, scale, softcap, window):
        blocks = _Blocks(query_HTD, key_KTD, value_KTD, layout, scale, softcap, window)
        wide = torch.promote_types(query_HTD.dtype, torch.float32)
        output_KGTD = query_HTD.new_empty(*blocks.query_KGTD.shape[:3], value_KTD.shape[-1], dtype=wide)
        lse_KGT = query_HTD.new_empty(blocks.query_KGTD.shape[:3], dtype=wide)
        for span in causal_spans(layout.spans):
            output_KGTD[:, :, span[0] : span[1]], lse_KGT[:, :, span[0] : span[1]] = blocks.forward(span)
        for span in full_spans(layout.spans):
            output, lse = blocks.forward(span)
            so_far, lse_so_far = output_KGTD[:, :, span[0] : span[1]], lse_KGT[:, :, span[0] : span[1]]
            share = torch.sigmoid(lse.to(wide) - lse_so_far)  # of this span's keys in the softmax
            so_far.lerp_(output.to(wide), share[..., None])
            torch.logaddexp(lse_so_far, lse.to(wide), out=lse_so_far)
        output_KGTD = output_KGTD.to(query_HTD.dtype)
        ctx.save_for_backward(query_HTD, key_KTD, value_KTD, output_KGTD, lse_KGT)
        ctx.options = (layout, scale, softcap, window)
        return output_KGTD.flatten(0, 1)

    @staticmethod
    def backward(ctx, grad_HTD):
        with torch.autocast(grad_HTD.device.type, enabled=False):
            return SpanAttention._gradients(ctx, grad_HTD)

    @staticmethod
    def _gradients(ctx, grad_HTD):
        query_HTD, key_KTD, value_KTD, output_KGTD, lse_KGT = ctx.saved_tensors
        blocks = _Blocks(query_HTD, key_KTD, value_KTD, *ctx.options)
        grad_KGTD = grad_HTD.unflatten(0, output_KGTD.shape[:2])
        wide = torch.promote_types(query_HTD.dtype, torch.float32)
        grads = [torch.zeros_like(tensor, dtype=wide) for tensor in (blocks.query_KGTD, key_KTD, value_KTD)]
        for span in ctx.options[0].spans:
            q0, q1, k0, k1 = span
            rows = (tensor[:, :, q0:q1] for tensor in (grad_KGTD, output_KGTD, lse_KGT))
            grad_query, grad_key, grad_value = blocks.backward(span, *rows)
            grads[0][:, :, q0:q1] += grad_query
            grads[1][:, k0:k1] += grad_key.sum(1)
            grads[2][:, k0:k1] += grad_value.sum(1)
        dtype = query_HTD.dtype
        return grads[0].flatten(0, 1).to(dtype), grads[1].to(dtype), grads[2].to(dtype), None, None, None, None


class _Blocks:
    """The attention of one span's queries to its keys: (output, log-sum-exp), and its gradients.

    The G query heads of a key head are a dimension of their own, and the key head is repeated by a stride of 0.
    """

    def __init__(self, query_HTD, key_KTD, value_KTD, layout: TreeLayout, scale, softcap, window):
        key_heads = key_KTD.shape[0]
        self.query_KGTD = query_HTD.unflatten(0, (key_heads, -1))
        groups = self.query_KGTD.shape[1]
        self.key_KGTD = key_KTD[:, None].expand(-1, groups, -1, -1)
        self.value_KGTD = value_KTD[:, None].expand(-1, groups, -1, -1)
        self.layout, self.scale, self.softcap, self.window = layout, scale, softcap, window
        same_size = key_KTD.shape[-1] == value_KTD.shape[-1]
        self.flash = query_HTD.device.type == "cpu" and softcap is None and window is None and same_size

    def _tensors(self, span):
        q0, q1, k0, k1 = span
        return self.query_KGTD[:, :, q0:q1], self.key_KGTD[:, :, k0:k1], self.value_KGTD[:, :, k0:k1]

    def forward(self, span):
        query, key, value = self._tensors(span)
        if self.flash:
            causal = span[:2] == span[2:]
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, 0.0, causal, scale=self.scale
            )
        scores, _ = self._scores(span, query, key)
        lse = scores.logsumexp(-1)
        return (scores - lse[..., None]).exp() @ value.to(scores.dtype), lse

    def backward(self, span, grad, output, lse):
        """Gradients of the span's query, key and value; `output` and `lse` are those of the whole rows."""
        query, key, value = self._tensors(span)
        if self.flash:
            causal = span[:2] == span[2:]
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad, query, key, value, output, lse, 0.0, causal, scale=self.scale
            )
        scores, slope = self._scores(span, query, key)
        wide = scores.dtype
        grad, value, query, key = (tensor.to(wide) for tensor in (grad, value, query, key))
        weights = (scores - lse[..., None]).exp()
        grad_value = weights.transpose(-1, -2) @ grad
        inner = (grad * output.to(wide)).sum(-1, keepdim=True)
        grad_scores = weights * (grad @ value.transpose(-1, -2) - inner) * slope * self.scale
        return grad_scores @ key, grad_scores.transpose(-1, -2) @ query, grad_value

    def _scores(self, span, query, key):
        """Capped and masked scores in fp32 or wider, and the slope of the cap. Hidden keys get the least number, not
        -inf: a row that sees none of a span's keys then weighs nothing in the merge instead of being NaN."""
        wide = torch.promote_types(query.dtype, torch.float32)
        scores = self.scale * query.to(wide) @ key.to(wide).transpose(-1, -2)
        slope = 1.0
        if self.softcap is not None:
            bent = torch.tanh(scores / self.softcap)
            scores, slope = self.softcap * bent, 1 - bent * bent
        q0, q1, k0, k1 = span
        if span[:2] == span[2:]:
            scores = scores.masked_fill(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), torch.finfo(wide).min)
        if self.window is not None:
            position_ids_T = self.layout.position_ids_T.to(query.device, non_blocking=True)
            far = position_ids_T[q0:q1, None] - position_ids_T[k0:k1] >= self.window
            scores = scores.masked_fill(far, torch.finfo(wide).min)
        return scores, slope


# ---- CUDA in bf16 and fp16 ------------------------------------------------------------------------------------------


def varlen_attention(query_HTD, key_KTD, value_KTD, layout: TreeLayout, scale, softcap, window):
    """Flash attention a branch, over its ancestors' keys and its own, gathered; causal from the bottom right corner."""
    from torch.nn.attention.varlen import varlen_attn

    index = layout.on(query_HTD.device)
    query_THD, key_TKD, value_TKD = (tensor.transpose(0, 1) for tensor in (query_HTD, key_KTD, value_KTD))
    output_THD = varlen_attn(
        query_THD.contiguous(),
        key_TKD.index_select(0, index["key_index"]),
        value_TKD.index_select(0, index["key_index"]),
        index["cu_seq_q"],
        index["cu_seq_k"],
        index["max_q"],
        index["max_k"],
        scale=scale,
        window_size=(-1, 0) if window is None else (window - 1, 0),  # the left bound is inclusive
        enable_gqa=query_HTD.shape[0] != key_KTD.shape[0],
    )
    return output_THD.transpose(0, 1)


@functools.lru_cache(maxsize=8)
def _varlen_is_right(device: torch.device) -> bool:
    """Whether `varlen_attn` is there and aligns its causal mask at the bottom right, which torch does not promise."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    query = torch.zeros(2, 2, 16, device=device, dtype=torch.bfloat16)  # of two heads, each sees the mean of its values
    value = torch.tensor([0.0, 1.0, 1.0], device=device, dtype=torch.bfloat16)[:, None, None].repeat(1, 1, 16)
    ends = [torch.tensor([0, n], device=device, dtype=torch.int32) for n in (2, 3)]
    # 1/2 and 2/3 from the bottom right; from the top left 0 and 1/2, without a mask 2/3 twice
    expected = {(-1, 0): (1 / 2, 2 / 3), (1, 0): (1 / 2, 1.0)}
    try:
        for window, means in expected.items():
            options = {"scale": 1.0, "window_size": window, "enable_gqa": True}
            output_THD = varlen_attn(query, torch.zeros_like(value), value, *ends, 2, 3, **options)
            found = output_THD.float().mean((1, 2)).tolist()
            if any(abs(a - b) > 0.01 for a, b in zip(found, means, strict=True)):
                raise RuntimeError(f"with window_size={window} it gives {found}, not {list(means)}")
    except (RuntimeError, TypeError, ValueError) as error:
        logger.warning("`varlen_attn` does not work here (%s); FlexAttention takes its place.", error)
        return False
    return True


def flex_attention(query_HTD, key_KTD, value_KTD, layout: TreeLayout, scale, softcap, window):
    """FlexAttention with the tree as a mask; compiled, since its eager form computes all of T x T."""
    return _compiled_flex()(
        query_HTD[None],
        key_KTD[None],
        value_KTD[None],
        score_mod=None if softcap is None else _soft_cap(softcap),
        block_mask=_block_mask(layout, window, query_HTD.device),
        scale=scale,
        enable_gqa=query_HTD.shape[0] != key_KTD.shape[0],
    )[0]


@functools.lru_cache(maxsize=1)
def _compiled_flex():
    """Dynamic in the lengths; scale and soft-cap are constants, since Inductor cannot lower a score that takes in a
    dynamic float. A graph for each mask, grad mode and soft-cap, and more for rows of one block, exceeds dynamo's 8,
    behind which flex attention falls back to all of T x T."""
    from torch.nn.attention import flex_attention as module

    compiled = torch.compile(module.flex_attention, dynamic=True)
    return torch._dynamo.config.patch(specialize_float=True, recompile_limit=64)(compiled)


@functools.lru_cache(maxsize=8)
def _soft_cap(softcap: float):
    def score_mod(score, batch, head, query, key):
        return softcap * torch.tanh(score / softcap)

    return score_mod


def _block_mask(layout: TreeLayout, window: int | None, device: torch.device):
    """What `create_block_mask` makes of all T x T pairs, from the first and last tokens of each block.

    With a window a block may be taken for a partial one in which nothing is visible; the mask decides there.
    """
    from torch.nn.attention.flex_attention import BlockMask

    index = layout.on(device)
    if ("block_mask", window) in index:
        return index["block_mask", window]
    end_T, position_ids_T = index["subtree_end"], index["position_ids"]
    before_T = None if window is None else position_ids_T - window  # here, not T x T times in the mask

    def visible(batch, head, query, key):
        return (key <= query) & (query < end_T[key])

    def visible_in_window(batch, head, query, key):
        return visible(batch, head, query, key) & (position_ids_T[key] > before_T[query])

    size = len(position_ids_T)
    first_N = torch.arange(0, size, BLOCK, device=device)
    last_N, whole_N = first_N + BLOCK - 1, first_N + BLOCK <= size
    below_NN = first_N < first_N[:, None]
    some_NN = below_NN & (_blocks(end_T, 0).amax(1) > first_N[:, None])
    all_NN = below_NN & (_blocks(end_T, 0).amin(1) > last_N[:, None]) & whole_N[:, None]
    if window is not None:
        most, least = 1 << 62, -(1 << 62)  # exact as a double, which `F.pad` makes of them
        some_NN &= _blocks(position_ids_T, least).amax(1) > _blocks(before_T, most).amin(1)[:, None]
        all_NN &= _blocks(position_ids_T, most).amin(1) > _blocks(before_T, least).amax(1)[:, None]
    some_NN = (some_NN & ~all_NN) | torch.eye(len(first_N), dtype=torch.bool, device=device)
    index["block_mask", window] = BlockMask.from_kv_blocks(
        *_ordered(some_NN),
        *_ordered(all_NN),
        BLOCK_SIZE=BLOCK,
        mask_mod=visible if window is None else visible_in_window,
        seq_lengths=(size, size),
    )
    return index["block_mask", window]


def _blocks(values_T: torch.Tensor, fill: int) -> torch.Tensor:
    """(blocks, BLOCK), the last one filled up."""
    return F.pad(values_T, (0, -len(values_T) % BLOCK), value=fill).unflatten(0, (-1, BLOCK))


def _ordered(mask_NN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many key blocks each query block sees, and the indices of these before all others."""
    indices_NN = mask_NN.int().argsort(dim=1, descending=True, stable=True)
    return mask_NN.sum(1, dtype=torch.int32)[None, None], indices_NN.int()[None, None]
