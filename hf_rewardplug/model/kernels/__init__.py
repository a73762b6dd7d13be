"""The kernels of prefix-tree attention: each takes the tensors of a packed row and its layout, and all give the same.

T packed tokens, H query heads, K key heads, D head dimension
query_HTD, key_KTD, value_KTD, layout, scale, softcap, window -> output_HTD

span_attention        every device and dtype (spans.py)
flash_attention       CUDA, bf16 or fp16, no soft-cap (flash.py)
flex_attention        CUDA, fp32 or soft-capped scores; compiled (flex.py)
reference_attention   the definition, the slow twin of the others (reference.py)
choose_kernel         which of them a model takes on a device, checked there by computing with it (choice.py)
"""

from .choice import Heads, choose_kernel
from .flash import flash_attention
from .flex import flex_attention
from .reference import reference_attention
from .spans import SpanAttention, span_attention

__all__ = [
    "Heads",
    "SpanAttention",
    "choose_kernel",
    "flash_attention",
    "flex_attention",
    "reference_attention",
    "span_attention",
]
