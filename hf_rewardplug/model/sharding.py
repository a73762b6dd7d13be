"""The fp32 head under FSDP2: a group of its own, with a mixed precision policy of its own.

In: a model with a `RewardHead`, PEFT-wrapped or not. Out: the same, its head's parameters, gradients and product in
fp32 whatever the body computes in. With `fully_shard` by hand:

    shard_head(model)
    for layer in model.model.layers: fully_shard(layer, mp_policy=bf16)
    fully_shard(model, mp_policy=dataclasses.replace(bf16, output_dtype=torch.float32))

accelerate has one policy for all groups: call `ask_for_head_group` before it shards, and `keep_head_fp32` after.
"""

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from .attention import unwrapped
from .head import RewardHead, reward_heads

FP32 = MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float32, output_dtype=torch.float32)


def shard_head(model: nn.Module, **kwargs) -> None:
    """Shard the head in fp32; call it before the layers and the model are sharded.

    Args:
        kwargs: for `fully_shard`, such as `mesh`.
    """
    for head in reward_heads(model):
        fully_shard(head, **{**kwargs, "mp_policy": FP32})


def ask_for_head_group(model: nn.Module, fsdp_plugin: Any) -> None:
    """Have accelerate (`transformer_based_wrap`) make the head a group, as it does with each decoder layer.

    A causal LM's head stays in the model's own group, where the embedding is that it may share its weight with.
    """
    # accelerate raises an error where no module has the class.
    if not reward_heads(model):
        return
    base = unwrapped(model)
    base._no_split_modules = [*(base._no_split_modules or ()), RewardHead.__name__]
    if fsdp_plugin.transformer_cls_names_to_wrap is not None:
        fsdp_plugin.transformer_cls_names_to_wrap = [*fsdp_plugin.transformer_cls_names_to_wrap, RewardHead.__name__]


def keep_head_fp32(model: nn.Module) -> None:
    """Give the head's group and the model's outputs fp32. Call it before the first forward; again changes nothing.

    FSDP2 has no public call that changes a group's policy (torch 2.15), so its state is written to.
    """
    for head in reward_heads(model):
        if isinstance(head, FSDPModule):
            state = head._get_fsdp_state()
            state._mp_policy = FP32
            for group in getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]:
                # From torch 2.15 on each parameter has the policy too.
                for owner in (group, *group.fsdp_params):
                    owner.mp_policy = FP32
    if isinstance(model, FSDPModule):
        state = model._get_fsdp_state()
        state._mp_policy = dataclasses.replace(state._mp_policy, output_dtype=torch.float32)
