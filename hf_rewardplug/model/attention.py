"""Prefix-tree attention as one of transformers' attention implementations.

`share_prefixes(model)` switches a model to it; a call without a tree goes on to the implementation that the model had.
In: (1, heads, T, D) tensors of a packed row and its `TreeLayout`. Out: what each token sees of its own sequence.
"""

import functools
import inspect
import sys
from collections.abc import Callable

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from .kernels import Heads, choose_kernel
from .layout import TreeLayout

FAMILIES = {
    "exaone4",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm4",
    "llama",
    "ministral3",
    "mistral",
    "mixtral",
    "phi",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "smollm3",
    "starcoder2",
}
"""`model_type`s whose outputs and gradients are tested against the padded computation; add yours once it is tested"""

# The names do not contain "sdpa": transformers would run checks for SDPA.
_PLAIN_CALLS = {"sdpa": "prefix_tree", "eager": "prefix_tree_eager"}


def unwrapped(model: nn.Module) -> nn.Module:
    """transformers' model inside a PEFT wrapper, or `model` itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def share_prefixes(model: nn.Module) -> str | None:
    """Switch `model` (PEFT-wrapped or not) to prefix-tree attention, in place.

    Returns:
        None, or the reason why the model cannot take it; then nothing is changed.
    """
    reason = why_not(model)
    if reason is None:
        base = unwrapped(model)
        before = base.config._attn_implementation
        name = _PLAIN_CALLS.get(before, before)
        base.set_attn_implementation(name)
        # transformers has logged the reason.
        if base.config._attn_implementation != name:
            return f"its attention implementation cannot be changed from '{before}'"
    return reason


def why_not(model: nn.Module) -> str | None:
    """Why `model` cannot take prefix trees, or None."""
    base = unwrapped(model)
    config = base.config
    adapter = getattr(model, "active_peft_config", None)
    if adapter is not None and adapter.is_prompt_learning:
        return f"{adapter.peft_type.value} puts virtual tokens before every row"
    if config.model_type not in FAMILIES:
        return f"'{config.model_type}' is not among the tested families ({', '.join(sorted(FAMILIES))})"
    if getattr(base, "score", None) is None and not hasattr(base, "label_tokens"):
        return "it has no head called `score`, nor label tokens"
    layer_types = set(getattr(config, "layer_types", None) or ())
    if not layer_types <= {"full_attention", "sliding_attention"}:
        return f"its layers are {sorted(layer_types)}"
    layers = [module for module in base.modules() if hasattr(module, "is_causal")]
    if any(layer.is_causal is False for layer in layers):
        return "its layers attend to both sides"
    windows = "sliding_attention" in layer_types or (not layer_types and getattr(config, "sliding_window", None))
    if windows and not all("sliding_window=" in inspect.getsource(type(layer)) for layer in layers):
        return "its attention leaves the sliding window to the mask"
    if getattr(config, "attention_dropout", 0.0):
        return f"attention_dropout={config.attention_dropout} draws another mask a sequence"
    if config._attn_implementation not in {default_attention(base), *_PLAIN_CALLS.values()}:
        return f"attn_implementation='{config._attn_implementation}' was asked for"
    return None


def default_attention(model: nn.Module) -> str:
    """What transformers takes where no attention is asked for: "sdpa", for a few families "eager"."""
    return "sdpa" if model._supports_sdpa else "eager"


def tree_arguments(config, prefix_tree: dict, position_ids: torch.Tensor) -> dict:
    """Arguments for a body's forward over a packed row.

    Stock attention would misread the row in silence, so the implementation in force is checked. A mask of four
    dimensions is passed through by transformers, which would otherwise build one of T x T.

    Raises:
        RuntimeError: the model does not have prefix-tree attention, or no longer.
    """
    if config._attn_implementation not in _PLAIN_CALLS.values():
        raise RuntimeError(
            f"The batch is a packed prefix tree, but the model's attention is '{config._attn_implementation}', which "
            "would misread it. Leave `attn_implementation` as the trainer set it, or set `prefix_sharing=False`."
        )
    layout = TreeLayout(prefix_tree["spans"], position_ids[0], prefix_tree["longest"], prefix_tree.get("index"))
    no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=position_ids.device)
    return {"attention_mask": no_mask, "position_ids": position_ids, "prefix_tree": layout}


def prefix_tree_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    plain: Callable,
    prefix_tree: TreeLayout | None = None,
    **options,
):
    """transformers' attention interface: (1, H, T, D) -> (1, T, H, D), and no weights.

    Args:
        plain: what a call without a tree goes on to.
        options: `scaling`, `sliding_window`, `softcap` and whatever else the family's layers hand over.
    """
    if prefix_tree is None:
        return plain(module, query, key, value, attention_mask, **options)
    if unknown := [name for name in ("s_aux", "position_bias") if options.get(name) is not None]:
        raise NotImplementedError(f"Prefix-tree attention does not know {unknown}; set `prefix_sharing=False`.")
    device = query.device.type
    # Autocast does the same for SDPA: rotary embeddings leave fp32 queries and keys beside bf16 values.
    if torch.is_autocast_enabled(device):
        query, key, value = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (query, key, value))
    scale, softcap, window = (options.get(name) for name in ("scaling", "softcap", "sliding_window"))
    if scale is None:
        scale = query.shape[-1] ** -0.5
    # A window as wide as the longest sequence hides nothing.
    if window is not None and window >= prefix_tree.longest:
        window = None
    heads = (query.shape[1], key.shape[1], query.shape[-1], value.shape[-1])
    attend = choose_kernel(Heads(query.device, query.dtype, *heads, scale, softcap, window))
    # `[0]` would copy a whole gradient in the backward.
    tensors = (tensor.squeeze(0) for tensor in (query, key, value))
    # The kernels choose their own precision.
    with torch.autocast(device, enabled=False):
        output_HTD = attend(*tensors, prefix_tree, scale, softcap, window)
    return output_HTD.transpose(0, 1)[None].contiguous(), None


def _eager_attention(module: nn.Module, *tensors, **options):
    """The family's own eager attention, which knows its soft-cap."""
    modeling = sys.modules[inspect.getmodule(type(module)).__name__]
    return modeling.eager_attention_forward(module, *tensors, **options)


for _name, _attention, _mask in (
    (_PLAIN_CALLS["sdpa"], sdpa_attention_forward, sdpa_mask),
    (_PLAIN_CALLS["eager"], _eager_attention, eager_mask),
):
    AttentionInterface.register(_name, functools.partial(prefix_tree_attention, plain=_attention))
    AttentionMaskInterface.register(_name, _mask)
