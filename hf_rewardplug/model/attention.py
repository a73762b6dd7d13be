"""Prefix-tree attention: a branch attends to its ancestors and to itself, and no token is computed twice.

    T packed tokens, H query heads, K key heads, G = H / K, D head dimension, M keys of a span
    spans      (first query, end of queries, first key, end of keys); equal pairs are causal, the others full
    query_HTD, key_KTD, value_KTD, output_HTD, lse_HT      one packed row, no batch dimension

`share_prefixes(model)` registers the implementation with transformers and switches the model to it; a call without a
tree goes to the implementation that the model had. Three paths, picked by device and dtype:

    CPU                  torch's flash kernel a span, merged by their log-sum-exp; nothing is gathered or masked
    CUDA, bf16 or fp16   `torch.nn.attention.varlen` over gathered keys; FlexAttention where scores are soft-capped
    anything else        plain products a span, which know soft-caps and sliding windows

The slow twin of all three is `reference_attention`, with an explicit mask.
"""

import functools
import inspect
import logging
import sys
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

logger = logging.getLogger(__name__)

FAMILIES = {
    *("exaone4", "gemma", "gemma2", "gemma3_text", "glm4", "llama", "ministral3", "mistral", "mixtral", "phi", "phi3"),
    *("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "starcoder2"),
}
"""`model_type`s whose outputs and gradients are tested against the padded computation; add yours when you have tested it"""

_PLAIN_CALLS = {"sdpa": "prefix_tree", "eager": "prefix_tree_eager"}  # no "sdpa" in the name: it means checks upstream


@dataclass(eq=False)
class TreeLayout:
    """What the attention layers know of a packed row; made once a forward, shared by all layers.

    Attributes:
        spans: see the module's head.
        position_ids_T: positions in the sequences, which sliding windows count.
        longest: tokens of the longest sequence; a window that wide changes nothing.
    """

    spans: list[tuple[int, int, int, int]]
    position_ids_T: torch.Tensor
    longest: int
    _cache: dict = field(default_factory=dict)

    def varlen(self, device: torch.device):
        """(key_index, cu_seq_q, cu_seq_k, max_q, max_k): each branch's queries, and its ancestors' keys before its own."""
        if device not in self._cache:
            keys, lengths, counts = [], [], []
            for start, stop, ancestors in branches(self.spans):
                ranges = [*ancestors, (start, stop)]
                keys += [torch.arange(*keys_of) for keys_of in ranges]
                lengths.append(stop - start)
                counts.append(sum(b - a for a, b in ranges))
            cumulated = [torch.tensor([0, *values]).cumsum(0).int() for values in (lengths, counts)]
            tensors = [tensor.to(device, non_blocking=True) for tensor in (torch.cat(keys), *cumulated)]
            self._cache[device] = (*tensors, max(lengths), max(counts))
        return self._cache[device]

    def subtree_end_T(self) -> torch.Tensor:
        """Index behind the last token that sees each token: q sees k where k <= q < subtree_end[k]."""
        if "end" not in self._cache:
            end_T = torch.empty(len(self.position_ids_T), dtype=torch.long)
            for start, stop, *_ in causal_spans(self.spans):
                end_T[start:stop] = stop
            for _, stop, k0, k1 in full_spans(self.spans):
                end_T[k0:k1].clamp_(min=stop)
            self._cache["end"] = end_T.to(self.position_ids_T.device, non_blocking=True)
        return self._cache["end"]

    def mask_TT(self, window: int | None) -> torch.Tensor:
        """Which query (row) sees which key (column)."""
        index_T = torch.arange(len(self.position_ids_T), device=self.position_ids_T.device)
        mask_TT = (index_T <= index_T[:, None]) & (index_T[:, None] < self.subtree_end_T())
        if window is not None:
            mask_TT &= self.position_ids_T[:, None] - self.position_ids_T < window
        return mask_TT


def causal_spans(spans):
    """The spans of the branches themselves, in order; they hold every token once."""
    return [span for span in spans if span[:2] == span[2:]]


def full_spans(spans):
    """The spans from branches to what they branch from."""
    return [span for span in spans if span[:2] != span[2:]]


def branches(spans) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """(start, end, [key ranges of its ancestors, outermost first]) of each branch.

    >>> branches([(0, 4, 0, 4), (4, 6, 4, 6), (4, 6, 0, 2)])
    [(0, 4, []), (4, 6, [(0, 2)])]
    """
    waiting = sorted(full_spans(spans), key=lambda span: (-span[0], span[1], -span[2]))
    found, open_spans = [], []
    for start, stop, *_ in sorted(causal_spans(spans)):
        while open_spans and open_spans[-1][1] <= start:
            open_spans.pop()
        while waiting and waiting[-1][0] == start:
            open_spans.append(waiting.pop())
        found.append((start, stop, [span[2:] for span in open_spans]))
    return found


# ---- the model's side ------------------------------------------------------------------------------------------------


def share_prefixes(model: nn.Module) -> str | None:
    """Switch `model` (PEFT-wrapped or not) to prefix-tree attention, in place.

    Returns:
        None, or the reason why the model cannot take it; then nothing is changed.
    """
    reason = why_not(model)
    if reason is None:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        name = _PLAIN_CALLS.get(base.config._attn_implementation)
        if name is not None:
            base.set_attn_implementation(name)
    return reason


def why_not(model: nn.Module) -> str | None:
    """Why `model` cannot take prefix trees, or None."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config, kind = base.config, base.config.model_type
    adapter = getattr(model, "active_peft_config", None)
    if adapter is not None and adapter.is_prompt_learning:
        return f"{adapter.peft_type.value} puts virtual tokens before every row"
    if kind not in FAMILIES:
        return f"'{kind}' is not among the tested families ({', '.join(sorted(FAMILIES))})"
    if not {"full_attention", "sliding_attention", *(getattr(config, "layer_types", None) or ())} == {
        "full_attention",
        "sliding_attention",
    }:
        return f"its layers are {sorted(set(config.layer_types))}"
    if any(getattr(module, "is_causal", True) is False for module in base.modules()):
        return "its layers attend to both sides"
    if getattr(config, "attention_dropout", 0.0):
        return f"attention_dropout={config.attention_dropout} draws another mask a sequence"
    asked = config._attn_implementation
    if asked not in {"sdpa" if base._supports_sdpa else "eager", *_PLAIN_CALLS.values()}:
        return f"attn_implementation='{asked}' was asked for"
    return None


def tree_arguments(config, prefix_tree: dict, position_ids: torch.Tensor) -> dict:
    """Arguments for a body's forward over a packed row.

    Stock attention would misread the row in silence, so the implementation in force is checked. A mask of four
    dimensions is passed through by transformers, which would otherwise build one of T x T.

    Raises:
        RuntimeError: the model does not have prefix-tree attention (any more).
    """
    if config._attn_implementation not in _PLAIN_CALLS.values():
        raise RuntimeError(
            f"The batch is a packed prefix tree, but the model's attention is '{config._attn_implementation}', which "
            "would misread it. Leave `attn_implementation` as the trainer set it, or set `prefix_sharing=False`."
        )
    layout = TreeLayout(prefix_tree["spans"], position_ids[0], prefix_tree["longest"])
    no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=position_ids.device)
    return {"attention_mask": no_mask, "position_ids": position_ids, "prefix_tree": layout}


def prefix_tree_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    plain: str,
    prefix_tree: TreeLayout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs,
):
    """transformers' attention interface: (1, H, T, D) -> (1, T, H, D), and no weights."""
    if prefix_tree is None:
        options = {"scaling": scaling, "sliding_window": sliding_window, **kwargs}
        if softcap is not None:
            options["softcap"] = softcap
        forward = sdpa_attention_forward if plain == "sdpa" else _eager_forward(module)
        return forward(module, query, key, value, attention_mask, **options)
    if unknown := [name for name in ("s_aux", "position_bias") if kwargs.get(name) is not None]:
        raise NotImplementedError(f"Prefix-tree attention does not know {unknown}; set `prefix_sharing=False`.")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window if sliding_window is not None and sliding_window < prefix_tree.longest else None
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        attend = _varlen_attention if softcap is None and _varlen_is_right(query.device) else _flex_attention
    else:
        attend = _SpanAttention.apply
    output_HTD = attend(query[0], key[0], value[0], prefix_tree, scale, softcap, window)
    return output_HTD.transpose(0, 1)[None].contiguous(), None


def _eager_forward(module: nn.Module):
    """The family's own eager attention, which knows its soft-cap."""
    return sys.modules[inspect.getmodule(type(module)).__name__].eager_attention_forward


for _plain, _name in _PLAIN_CALLS.items():
    AttentionInterface.register(_name, functools.partial(prefix_tree_attention, plain=_plain))
    AttentionMaskInterface.register(_name, sdpa_mask if _plain == "sdpa" else eager_mask)


def reference_attention(query_HTD, key_KTD, value_KTD, layout: TreeLayout, scale, softcap=None, window=None):
    """The definition: softmax over the keys that the tree lets a query see. Slow, quadratic in T; for tests."""
    groups = query_HTD.shape[0] // key_KTD.shape[0]
    scores_HTT = scale * query_HTD @ key_KTD.repeat_interleave(groups, 0).transpose(1, 2)
    if softcap is not None:
        scores_HTT = softcap * torch.tanh(scores_HTT / softcap)
    scores_HTT = scores_HTT.masked_fill(~layout.mask_TT(window), float("-inf"))
    return scores_HTT.softmax(-1) @ value_KTD.repeat_interleave(groups, 0)


# ---- spans: CPU, and every device and dtype without a kernel of its own ------------------------------------------------


class _SpanAttention(torch.autograd.Function):
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
            position_ids_T = self.layout.position_ids_T
            far = position_ids_T[q0:q1, None] - position_ids_T[k0:k1] >= self.window
            scores = scores.masked_fill(far, torch.finfo(wide).min)
        return scores, slope


# ---- CUDA --------------------------------------------------------------------------------------------------------------


def _varlen_attention(query_HTD, key_KTD, value_KTD, layout: TreeLayout, scale, softcap, window):
    """Flash attention a branch, over its ancestors' keys and its own, gathered; causal from the bottom right corner."""
    from torch.nn.attention.varlen import varlen_attn

    key_index, cu_seq_q, cu_seq_k, max_q, max_k = layout.varlen(query_HTD.device)
    query_THD, key_TKD, value_TKD = (tensor.transpose(0, 1) for tensor in (query_HTD, key_KTD, value_KTD))
    output_THD = varlen_attn(
        query_THD.contiguous(),
        key_TKD.index_select(0, key_index),
        value_TKD.index_select(0, key_index),
        cu_seq_q,
        cu_seq_k,
        max_q,
        max_k,
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
    value = torch.zeros(2, 1, 16, device=device, dtype=torch.bfloat16)
    value[1] = 1.0
    query = torch.zeros(1, 1, 16, device=device, dtype=torch.bfloat16)
    ends = [torch.tensor([0, n], device=device, dtype=torch.int32) for n in (1, 2)]
    try:
        output = varlen_attn(query, torch.zeros_like(value), value, *ends, 1, 2, window_size=(-1, 0))
        right = (
            abs(output.mean().item() - 0.5) < 0.01
        )  # the one query sees both keys; from the top left, only the first
    except (RuntimeError, TypeError, ValueError) as error:
        right = False
        logger.warning("`varlen_attn` does not work here (%s); FlexAttention takes its place.", error)
    return right


def _flex_attention(query_HTD, key_KTD, value_KTD, layout: TreeLayout, scale, softcap, window):
    """FlexAttention with the tree as a mask; compiled, since its eager form computes all of T x T."""
    return _compiled_flex()(
        query_HTD[None],
        key_KTD[None],
        value_KTD[None],
        score_mod=None if softcap is None else _soft_cap(softcap),
        block_mask=_block_mask(layout, window),
        scale=scale,
        enable_gqa=query_HTD.shape[0] != key_KTD.shape[0],
    )[0]


@functools.lru_cache(maxsize=1)
def _compiled_flex():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@functools.lru_cache(maxsize=8)
def _soft_cap(softcap: float):
    def score_mod(score, batch, head, query, key):
        return softcap * torch.tanh(score / softcap)

    return score_mod


def _block_mask(layout: TreeLayout, window: int | None):
    from torch.nn.attention.flex_attention import create_block_mask

    if window not in layout._cache:
        end_T, position_ids_T = layout.subtree_end_T(), layout.position_ids_T

        def visible(batch, head, query, key):
            return (key <= query) & (query < end_T[key])

        def visible_in_window(batch, head, query, key):
            return visible(batch, head, query, key) & (position_ids_T[query] - position_ids_T[key] < window)

        size = len(position_ids_T)
        mask = visible if window is None else visible_in_window
        layout._cache[window] = create_block_mask(mask, None, None, size, size, device=str(position_ids_T.device))
    return layout._cache[window]
