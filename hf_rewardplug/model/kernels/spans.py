"""Attention block by block: every device and dtype, soft-caps and windows too.

On the CPU each block is a call of torch's flash kernel, elsewhere and with soft-caps a few plain products. Blocks are
merged by log-sum-exp, so no key is gathered. On a GPU this is right but slow: each block is several launches.
"""

from bisect import bisect_right
from typing import NamedTuple

import torch

from ..layout import TreeLayout, branches, full_spans
from .crowded import CORES

TOLL = 2**12
"""hidden pairs of a query and a key that a call may compute where it saves another call"""

LARGEST_MASK = 2**20
"""pairs of a block of several spans, which needs a mask"""


def span_attention(query_HTD, key_KTD, value_KTD, layout: TreeLayout, scale, softcap=None, window=None):
    """The attention of a packed row, computed block by block."""
    if query_HTD.device.type == "cpu":
        CORES.look()
    return SpanAttention.apply(query_HTD, key_KTD, value_KTD, layout, scale, softcap, window)


class Block(NamedTuple):
    """Queries and keys of one call: a span, or several that lie side by side, with a mask.

    A causal block holds whole branches, and all that they see of each other. Any other block holds queries of branches,
    and keys of a branch in an earlier causal block.
    """

    q0: int
    q1: int
    k0: int
    k1: int
    masked: bool = False

    @property
    def causal(self) -> bool:
        return self.q0 == self.k0

    @property
    def queries(self) -> slice:
        return slice(self.q0, self.q1)

    @property
    def keys(self) -> slice:
        return slice(self.k0, self.k1)


def blocks_of(spans) -> list[Block]:
    """The spans in few blocks: first causal ones, which hold every token once, then the others.

    Each call is several parallel regions, and each region waits for all threads, which are not running where another
    program has their cores. So small neighbours share a call.

    >>> blocks_of([(0, 4, 0, 4), (4, 6, 4, 6), (4, 6, 0, 2)])
    [Block(q0=0, q1=6, k0=0, k1=6, masked=True)]
    >>> blocks_of([(0, 900, 0, 900), (900, 999, 900, 999), (900, 999, 0, 500)])
    [Block(q0=0, q1=900, k0=0, k1=900, masked=False), Block(q0=900, q1=999, k0=900, k1=999, masked=False), \
Block(q0=900, q1=999, k0=0, k1=500, masked=False)]
    """
    causal: list[Block] = []
    for start, stop, ancestors in branches(spans):
        if causal:
            first = causal[-1].q0
            seen = sum(max(0, k1 - max(k0, first)) for k0, k1 in ancestors)
            hidden = (stop - start) * (start - first - seen)
            if hidden <= TOLL and (stop - first) ** 2 <= LARGEST_MASK:
                causal[-1] = Block(first, stop, first, stop, True)
                continue
        causal.append(Block(start, stop, start, stop))
    starts, full = [block.q0 for block in causal], []
    for q0, q1, k0, k1 in sorted(full_spans(spans), key=lambda span: (span[2], span[0])):
        # Earlier queries are in the causal block of the keys.
        q0 = max(q0, causal[bisect_right(starts, k0) - 1].q1)
        if q0 >= q1:
            continue
        last = full[-1] if full else None
        if last and (last.k0, last.q1) == (k0, q0) and 0 <= (q1 - q0) * (last.k1 - k1) <= TOLL:
            if (q1 - last.q0) * (last.k1 - k0) <= LARGEST_MASK:
                full[-1] = Block(last.q0, q1, k0, last.k1, True)
                continue
        full.append(Block(q0, q1, k0, k1))
    return causal + full


class SpanAttention(torch.autograd.Function):
    """Attention a block, merged by log-sum-exp as flash attention merges its blocks (arXiv:2205.14135, section 3.1).

    The gradient of a block needs only the whole row's output and log-sum-exp, so each block's is exact by itself. No
    key is gathered or copied: memory and time are linear in the tokens and in the visible (query, key) pairs.
    """

    @staticmethod
    def forward(ctx, query_HTD, key_KTD, value_KTD, layout, scale, softcap, window):
        attention = _BlockAttention(query_HTD, key_KTD, value_KTD, layout, scale, softcap, window)
        wide, (key_heads, groups, tokens) = attention.wide, attention.query_KGTD.shape[:3]
        # In memory the heads of a token stand side by side, as the output projection reads them.
        output_TKGD = query_HTD.new_zeros(tokens, key_heads, groups, value_KTD.shape[-1], dtype=wide)
        output_KGTD = output_TKGD.movedim(0, 2)
        lse_KGT = query_HTD.new_full((key_heads, groups, tokens), float("-inf"), dtype=wide)
        for block in attention.blocks:
            output, lse = attention.forward(block)
            lse_so_far = lse_KGT[:, :, block.queries]
            # The share of this block's keys in the softmax so far; it is 1 for the first block.
            share = torch.sigmoid(lse.to(wide) - lse_so_far)
            output_KGTD[:, :, block.queries].lerp_(output.to(wide), share[..., None])
            torch.logaddexp(lse_so_far, lse.to(wide), out=lse_so_far)
        output_KGTD = output_KGTD.to(query_HTD.dtype)
        ctx.save_for_backward(query_HTD, key_KTD, value_KTD, output_KGTD, lse_KGT)
        ctx.options = (layout, scale, softcap, window)
        return output_KGTD.flatten(0, 1)

    @staticmethod
    def backward(ctx, grad_HTD):
        query_HTD, key_KTD, value_KTD, output_KGTD, lse_KGT = ctx.saved_tensors
        with torch.autocast(grad_HTD.device.type, enabled=False):
            attention = _BlockAttention(query_HTD, key_KTD, value_KTD, *ctx.options)
            tensors = (attention.query_KGTD, key_KTD, value_KTD)
            grads = [torch.zeros_like(tensor, dtype=attention.wide) for tensor in tensors]
            of_rows = (grad_HTD.unflatten(0, output_KGTD.shape[:2]), output_KGTD, lse_KGT)
            for block in attention.blocks:
                of_queries = (tensor[:, :, block.queries] for tensor in of_rows)
                grad_query, *grads_of_keys = attention.backward(block, *of_queries)
                grads[0][:, :, block.queries] += grad_query
                for total, grad in zip(grads[1:], grads_of_keys, strict=True):
                    total[:, block.keys] += grad.sum(1, dtype=attention.wide)
            grads[0] = grads[0].flatten(0, 1)
            return *(grad.to(query_HTD.dtype) for grad in grads), None, None, None, None


class _BlockAttention:
    """The attention of a block's queries to its keys: (output, log-sum-exp), and its gradients.

    The G query heads of a key head are a dimension of their own, and the key head is repeated by a stride of 0.
    """

    def __init__(self, query_HTD, key_KTD, value_KTD, layout: TreeLayout, scale, softcap, window):
        self.query_KGTD = query_HTD.unflatten(0, (len(key_KTD), -1))
        groups = self.query_KGTD.shape[1]
        self.key_KGTD, self.value_KGTD = (tensor[:, None].expand(-1, groups, -1, -1) for tensor in (key_KTD, value_KTD))
        self.layout, self.scale, self.softcap, self.window = layout, scale, softcap, window
        self.wide = torch.promote_types(query_HTD.dtype, torch.float32)
        self.flash = query_HTD.device.type == "cpu" and softcap is None and key_KTD.shape[-1] == value_KTD.shape[-1]
        if "blocks" not in layout.cache:
            layout.cache["blocks"] = blocks_of(layout.spans)
        self.blocks = layout.cache["blocks"]

    def _tensors(self, block: Block) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        keys = (slice(None), slice(None), block.keys)
        return self.query_KGTD[:, :, block.queries], self.key_KGTD[keys], self.value_KGTD[keys]

    def _mask(self, block: Block, causal: bool) -> torch.Tensor | None:
        """What is added to the scores, (1, 1, queries, keys), or None; `causal`: the kernel hides later keys itself.

        Hidden keys get a number that is nearly the least, not -inf: a row that sees none of a block's keys then weighs
        nothing in the merge instead of being NaN.
        """
        if self.window is None and not block.masked and (causal or not block.causal):
            return None
        device = self.query_KGTD.device
        key = (block, self.window, self.wide, device)
        if key not in self.layout.cache:
            index = self.layout.on(device)
            query_Q1 = torch.arange(block.q0, block.q1, device=device)[:, None]
            key_K = torch.arange(block.k0, block.k1, device=device)
            hidden_QK = (key_K > query_Q1) | (query_Q1 >= index["subtree_end"][key_K])
            if self.window is not None:
                position_ids = index["position_ids"]
                hidden_QK |= position_ids[query_Q1] - position_ids[key_K] >= self.window
            mask_QK = torch.zeros(hidden_QK.shape, dtype=self.wide, device=device)
            self.layout.cache[key] = mask_QK.masked_fill_(hidden_QK, torch.finfo(self.wide).min / 2)[None, None]
        return self.layout.cache[key]

    def forward(self, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        query, key, value = self._tensors(block)
        if self.flash:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, 0.0, block.causal, attn_mask=self._mask(block, True), scale=self.scale
            )
        scores, _ = self._scores(block, query, key)
        lse = scores.logsumexp(-1)
        return (scores - lse[..., None]).exp() @ value.to(scores.dtype), lse

    def backward(self, block: Block, grad, output, lse) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of the block's query, key and value; `output` and `lse` are those of the whole rows."""
        query, key, value = self._tensors(block)
        if self.flash:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *(grad, query, key, value, output, lse, 0.0, block.causal),
                attn_mask=self._mask(block, True),
                scale=self.scale,
            )
        scores, slope = self._scores(block, query, key)
        grad, value, query, key = (tensor.to(self.wide) for tensor in (grad, value, query, key))
        weights = (scores - lse[..., None]).exp()
        grad_value = weights.transpose(-1, -2) @ grad
        inner = (grad * output.to(self.wide)).sum(-1, keepdim=True)
        grad_scores = weights * (grad @ value.transpose(-1, -2) - inner) * slope * self.scale
        return grad_scores @ key, grad_scores.transpose(-1, -2) @ query, grad_value

    def _scores(self, block: Block, query, key) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Capped and masked scores in fp32 or wider, and the slope of the cap."""
        scores = self.scale * query.to(self.wide) @ key.to(self.wide).transpose(-1, -2)
        slope = 1.0
        if self.softcap is not None:
            bent = torch.tanh(scores / self.softcap)
            scores, slope = self.softcap * bent, 1 - bent * bent
        mask = self._mask(block, False)
        return scores if mask is None else scores + mask, slope
