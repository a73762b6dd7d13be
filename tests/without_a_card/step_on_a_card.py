"""A whole training step on fake CUDA tensors: which operations, in which dtypes, how many launches.

python step_on_a_card.py '{"steps": [{"family": "qwen2", "layers": 2, "checkpointing": "reentrant"}]}'

A line of JSON for each step: see `step`. The kernels are those that `choose_kernel` takes on an H100 where each is
right: flash attention for Qwen 2, and FlexAttention, lowered by Inductor, for Gemma 2's soft-capped scores.
"""

import json
import sys
from collections import Counter
from unittest import mock

import torch
from pretended_card import compile_without_launching, pretend
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AutoModelForSequenceClassification, Gemma2Config, Qwen2Config

from hf_rewardplug.data.collator import PreferenceCollator
from hf_rewardplug.model.attention import share_prefixes
from hf_rewardplug.model.head import install_reward_head
from hf_rewardplug.model.kernels import choice, flex
from hf_rewardplug.model.layout import tree_index

SIZES = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 128,
    "pad_token_id": 0,
    "num_labels": 1,
}

LAUNCH_NOTHING = {
    *("_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "device", "empty", "empty_like"),
    *("empty_strided", "expand", "lift_fresh", "new_empty", "permute", "select", "slice", "split", "squeeze", "t"),
    *("transpose", "unbind", "unsqueeze", "view"),
}
"""operations that make a view or reserve memory; each other one is at least one launch"""

READS = {"_local_scalar_dense", "equal", "item", "masked_select", "nonzero", "unique_dim", "_unique2"}
"""operations for which the host waits for the device"""


class Operations(TorchDispatchMode):
    """Counts the launches of each phase, and keeps what attention got and what the host waited for."""

    def __init__(self):
        super().__init__()
        self.phase, self.launches, self.attention, self.waits = "forward", Counter(), set(), []

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True  # else dynamo compiles nothing beneath a dispatch mode

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        output = function(*args, **(kwargs or {}))
        if name in READS or (name == "_to_copy" and args[0].device != output.device):
            self.waits.append(name)
        if name == "_flash_attention_forward":
            self.attention |= {str(tensor.dtype) for tensor in args[:3]}
        if name not in LAUNCH_NOTHING:
            self.launches[f"{self.phase} {name}"] += 1
        return output

    def launch(self, kernel: str) -> None:
        self.launches[f"{self.phase} {kernel}"] += 1


def model_of(family: str, layers: int):
    if family == "qwen2":
        config = Qwen2Config(**SIZES, num_hidden_layers=layers)
    else:
        soft_cap = {"attn_logit_softcapping": 50.0, "query_pre_attn_scalar": 64}
        config = Gemma2Config(**SIZES, num_hidden_layers=layers, sliding_window=48, **soft_cap)
    with torch.device("cuda"):
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).train()
    install_reward_head(model)
    assert share_prefixes(model) is None
    return model


def batch_on_the_card() -> dict:
    """Two pairs with a prompt each; the collator's batch as the Trainer moves it."""
    prompts, answers = ([1] * 100, [2] * 50), ([3] * 30, [4] * 40)
    rows = [dict(zip(("chosen_ids", "rejected_ids"), (p + a for a in answers), strict=True)) for p in prompts]
    batch = PreferenceCollator(0, prefix_sharing=True, tree_index=tree_index)(rows)

    def moved(value):
        if isinstance(value, dict):
            return {key: moved(entry) for key, entry in value.items()}
        return torch.empty(value.shape, dtype=value.dtype, device="cuda") if torch.is_tensor(value) else value

    return {key: moved(batch[key]) for key in ("input_ids", "position_ids", "prefix_tree", "score_positions")}


class Nothing(torch.autograd.Function):
    """Attention that launches nothing, forward or backward."""

    @staticmethod
    def forward(ctx, query, key, value):
        ctx.save_for_backward(query, key, value)
        return torch.empty_like(query.transpose(1, 2), dtype=torch.bfloat16)

    @staticmethod
    def backward(ctx, gradient):
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors)


def no_attention(module, query, key, value, *args, **kwargs):
    return Nothing.apply(query, key, value), None


def step(family: str, layers: int, checkpointing: str | None = None, attention: bool = True) -> dict:
    """TRL's default step: fp32 weights, bf16 autocast; with gradient checkpointing "reentrant" or "non-reentrant".

    Args:
        attention: without it the layers' attention is `no_attention`; what attention launches is the difference.

    Returns:
        launches: {"forward mm": 14, ...}
        attention: dtypes of the query, key and value that the kernels get
        waits: operations for which the host waits for the device
        logits, gradients: dtypes
    """
    operations = Operations()
    compile_without_launching(on_launch=operations.launch)
    plain_options = flex.kernel_options

    def seen_options(dim, dtype, memory):
        operations.attention.add(str(dtype))
        return plain_options(dim, dtype, memory)

    right = mock.patch.object(choice, "find_fault", lambda kernel, heads: None)
    seen = mock.patch.object(flex, "kernel_options", seen_options)
    stand_in = {} if attention else {"prefix_tree": no_attention, "prefix_tree_eager": no_attention}
    attentions = mock.patch.dict(AttentionInterface._global_mapping, stand_in)
    with right, seen, attentions, torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        model, batch = model_of(family, layers), batch_on_the_card()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": checkpointing == "reentrant"})
            model.enable_input_require_grads()
        with operations:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                logits = model(**batch, use_cache=False).logits
            loss = torch.nn.functional.softplus(logits[2:] - logits[:2]).mean()
            operations.phase = "backward"
            loss.backward()
    return {
        "launches": dict(operations.launches),
        "attention": sorted(operations.attention),
        "waits": operations.waits,
        "logits": str(logits.dtype),
        "gradients": sorted({str(parameter.grad.dtype) for parameter in model.parameters()}),
    }


if __name__ == "__main__":
    pretend((9, 0))
    for task in json.loads(sys.argv[1])["steps"]:
        print(json.dumps(step(**task)), flush=True)
