"""One model on the device that all contestants of a stage share, each with its own setting.

In: the names of a shape and a head, and a few rows. Out: TRL's trainer and this package's over the same weights, and
`prepare`, which sets the model up for a contestant.
"""

import copy
import sys
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from random_workloads import model_of, special_tokens
from side_by_side import trainer_of
from transformers.integrations.liger import apply_liger_kernel

from hf_rewardplug.model import attention, kernels

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if CUDA else torch.device("cpu")
DTYPE = torch.bfloat16 if CUDA else torch.float32  # a CPU takes 300 times as long for bf16


@dataclass(frozen=True)
class Setting:
    """What a contestant asks of the model that all of a stage share."""

    tree: bool = True  # prefix-tree attention, else the family's own
    trl_head: bool = False  # in the model's dtype, else fp32
    checkpointing: bool = True
    flex: bool = False
    liger: bool = False


class Subject:
    """A model on the device and the trainers over it."""

    def __init__(self, shape: str, kind: str, rows: list[dict], folder: str, smoke: bool):
        self.model = model = model_of(shape, kind, DEVICE, DTYPE, smoke)
        outside = model.get_input_embeddings().weight.numel() + model.score.weight.numel()
        self.body = sum(parameter.numel() for parameter in model.parameters()) - outside
        arguments = {"model": model, "tokenizer": special_tokens(), "rows": rows, "folder": folder, "copied": False}
        self.own_attention = model.config._attn_implementation
        self.trl = trainer_of("trl", batch_size=len(rows), **arguments) if kind == "orm" else None
        self.trl_head = copy.deepcopy(model.score)  # before this package makes it fp32
        self.ours = trainer_of(kind, batch_size=len(rows), **arguments)
        assert self.ours.data_collator.prefix_sharing and len(self.ours.train_dataset) == len(rows)
        self.head, self.tree_attention = model.score, model.config._attn_implementation
        softcap, wide = getattr(model.config, "attn_logit_softcapping", None), model.model.layers[0].self_attn.head_dim
        kernel = kernels.choose_kernel(DEVICE, DTYPE, softcap, query_dim=wide, value_dim=wide)
        named = kernel in (kernels.varlen_attention, kernels.flex_attention)
        self.kernel = kernel.__name__ if named else "SpanAttention"
        self.liger = None
        if CUDA and find_spec("liger_kernel") is not None:
            self.liger = Liger(trainer_of(kind, batch_size=len(rows), use_liger_kernel=True, **arguments))

    def prepare(self, setting: Setting) -> None:
        """Set the model up for a contestant."""
        self.model.set_attn_implementation(self.tree_attention if setting.tree else self.own_attention)
        self.model.score = self.trl_head if setting.trl_head else self.head
        verb = f"checkpointing_{'enable' if setting.checkpointing else 'disable'}"
        (getattr(self.model, f"activation_{verb}", None) or getattr(self.model, f"gradient_{verb}"))()
        attention.choose_kernel = (lambda *_, **__: kernels.flex_attention) if setting.flex else kernels.choose_kernel
        if self.liger is not None:
            self.liger.switch(setting.liger)


class Liger:
    """Liger's kernels in a trainer's model, as `train` puts them there, but so that they can be taken out again."""

    def __init__(self, trainer):
        self.modeling = sys.modules[type(trainer.model).__module__]
        plain, before = dict(vars(self.modeling)), {m for m in trainer.model.modules() if "forward" in vars(m)}
        apply_liger_kernel(trainer.model, trainer.args.liger_kernel_config)
        self.ropes = (plain["apply_rotary_pos_emb"], self.modeling.apply_rotary_pos_emb)
        patched = (m for m in trainer.model.modules() if "forward" in vars(m) and m not in before)
        self.forwards = {module: vars(module)["forward"] for module in patched}
        vars(self.modeling).update(plain)  # classes too, which later models are made of
        assert self.forwards, "Liger patched nothing"

    def switch(self, on: bool) -> None:
        self.modeling.apply_rotary_pos_emb = self.ropes[on]
        for module, forward in self.forwards.items():
            vars(module).pop("forward", None)
            if on:
                vars(module)["forward"] = forward
