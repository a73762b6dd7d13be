"""Attention span by span: every device and dtype, soft-caps and windows too.

On the CPU each span is a call of torch's flash kernel, elsewhere and with soft-caps or windows a few plain products.
Spans are merged by log-sum-exp, so no key is gathered. On a GPU this is right but slow: each span is several launches.
"""

import torch

from ..layout import TreeLayout, causal_spans, full_spans


def span_attention(query_HTD, key_KTD, value_KTD, layout: TreeLayout, scale, softcap=None, window=None):
    """The attention of a packed row, computed span by span."""
    return SpanAttention.apply(query_HTD, key_KTD, value_KTD, layout, scale, softcap, window)


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
