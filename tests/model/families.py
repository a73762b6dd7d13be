"""Tiny models of each family that takes prefix trees, with the traits that could go wrong: soft-caps, short windows."""

import copy

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_layers import GenericForTokenClassification
from transformers.models.gemma3.modeling_gemma3 import Gemma3PreTrainedModel

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "pad_token_id": 0,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "llama, one key head": LlamaConfig(**{**SIZES, "num_key_value_heads": 1}),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2, window": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=3, max_window_layers=1),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "gemma2": Gemma2Config(**SIZES, head_dim=8, sliding_window=4, attn_logit_softcapping=2.0),
    "gemma3": Gemma3TextConfig(
        **SIZES, head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=4),
    "phi3": Phi3Config(**SIZES, eos_token_id=1, bos_token_id=1),
    **{
        name: AutoConfig.for_model(name, **SIZES)
        for name in ("exaone4", "gemma", "glm4", "ministral3", "mixtral", "phi", "qwen2_moe", "qwen3_moe", "smollm3")
    },
    "qwen3, window": AutoConfig.for_model(
        "qwen3", **SIZES, head_dim=8, use_sliding_window=True, sliding_window=3, max_window_layers=1
    ),
    "starcoder2": AutoConfig.for_model("starcoder2", **SIZES, sliding_window=4),
    "phi3, window": Phi3Config(**SIZES, eos_token_id=1, bos_token_id=1, sliding_window=3),
}


class Gemma3TextForTokenClassification(GenericForTokenClassification, Gemma3PreTrainedModel):
    """transformers has the sequence classifier alone."""

    config_class = Gemma3TextConfig


def length_ropes(limit: int) -> dict[str, dict]:
    """Rotary frequencies of heads 8 wide that are others for texts of more than `limit` tokens."""
    long = {"short_factor": [1.0] * 4, "long_factor": [4.0, 8.0, 16.0, 32.0], "original_max_position_embeddings": limit}
    return {
        "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
        "longrope": {"rope_type": "longrope", "rope_theta": 1e4, **long},
    }


HEADS = {"orm": (AutoModelForSequenceClassification, 1), "prm": (AutoModelForTokenClassification, 2)}


def build(family: str, kind: str, **kwargs):
    """The same weights at every call."""
    torch.manual_seed(0)
    auto_class, num_labels = HEADS[kind]
    config = copy.deepcopy(CONFIGS[family])
    config.num_labels = num_labels
    if family == "gemma3" and kind == "prm":
        return Gemma3TextForTokenClassification._from_config(config, **kwargs).eval()
    return auto_class.from_config(config, **kwargs).eval()
