"""One model on the device that all contestants of a stage share, each with its own setting.

In: the names of a shape and a head, and a few rows. Out: TRL's trainer and this package's over the same weights, and
`prepare`, which sets the model up for a contestant. Where TRL cannot be imported `PlainTrainer` takes the place of this
package's trainer.
"""

import copy
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from parts import reason_of
from random_workloads import model_of, special_tokens
from side_by_side import trainer_classes, trainer_of
from transformers.integrations.liger import apply_liger_kernel

from hf_rewardplug.data.collator import PreferenceCollator, StepCollator
from hf_rewardplug.model import attention, kernels
from hf_rewardplug.model.attention import share_prefixes
from hf_rewardplug.model.head import install_reward_head
from hf_rewardplug.model.layout import tree_index

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if CUDA else torch.device("cpu")
DTYPE = torch.bfloat16 if CUDA else torch.float32  # a CPU takes 300 times as long for bf16


@dataclass(frozen=True)
class Setting:
    """What a contestant asks of the model that all of a stage share."""

    tree: bool = True  # prefix-tree attention, else the family's own
    trl_head: bool = False  # in the model's dtype, else fp32
    checkpointing: str | None = "non-reentrant"  # or "reentrant", or None
    flex: bool = False
    liger: bool = False


class Subject:
    """A model on the device and the trainers over it.

    Args:
        shape, kind: keys of `random_workloads`' SHAPES and HEADS.
        rows: tokenized ones, for the trainers' data sets.
        folder: the trainers' output folder.
        smoke: a tiny model.
        default: TRL's default, fp32 weights under bf16 autocast, else weights in `DTYPE`.
        plain: without TRL, even where it can be imported; no Liger then.
    """

    def __init__(
        self, shape: str, kind: str, rows: list[dict], folder: str, *, smoke=False, default=False, plain=False
    ):
        self.dtype = torch.bfloat16 if default else DTYPE  # of the products
        self.model = model = model_of(shape, kind, DEVICE, torch.float32 if default else DTYPE, smoke)
        outside = model.get_input_embeddings().weight.numel() + model.score.weight.numel()
        self.body = sum(parameter.numel() for parameter in model.parameters()) - outside
        self.own_attention = model.config._attn_implementation
        self.trl_head = copy.deepcopy(model.score)  # before this package makes it fp32
        self.trl, self.liger, self.optimizer = None, None, None
        self.without_trl = "not run: TRL is left out" if plain else why_no_trl()
        self.without_liger = "not run: needs a CUDA device, liger_kernel and TRL"
        if self.without_trl:
            self.ours = PlainTrainer(model, kind, autocast=default)
        else:
            self._make_trainers(kind, rows, folder, default)
        self.head, self.tree_attention = model.score, model.config._attn_implementation
        self.kernel = kernels.choose_kernel(self._heads()).__name__

    def _make_trainers(self, kind: str, rows: list[dict], folder: str, default: bool) -> None:
        arguments = {"model": self.model, "tokenizer": special_tokens(), "rows": rows, "folder": folder}
        arguments |= {"copied": False, "batch_size": len(rows), "bf16": default, "use_cpu": not CUDA}
        self.trl = trainer_of("trl", **arguments) if kind == "orm" else None
        self.ours = trainer_of(kind, **arguments)
        assert self.ours.data_collator.prefix_sharing and len(self.ours.train_dataset) == len(rows)
        if liger_can_run():
            try:
                self.liger = Liger(trainer_of(kind, use_liger_kernel=True, **arguments))
            except Exception as error:  # the others go on without it
                self.without_liger = f"failed: {reason_of(error)}"
        if default:
            self.ours.accelerator.prepare_model(self.model)  # autocast around the forward, as `train` puts it there

    def _heads(self) -> kernels.Heads:
        config, layer = self.model.config, self.model.model.layers[0].self_attn
        counts = {"query": config.num_attention_heads, "key": config.num_key_value_heads}
        dims = {"query_dim": layer.head_dim, "value_dim": layer.head_dim, "scale": layer.scaling}
        softcap = getattr(config, "attn_logit_softcapping", None)
        return kernels.Heads(device=DEVICE, dtype=self.dtype, **counts, **dims, softcap=softcap)

    def prepare(self, setting: Setting) -> None:
        """Set the model up for a contestant."""
        self.model.set_attn_implementation(self.tree_attention if setting.tree else self.own_attention)
        self.model.score = self.trl_head if setting.trl_head else self.head
        enable, disable = (  # transformers has renamed them
            getattr(self.model, f"activation_checkpointing_{verb}", None)
            or getattr(self.model, f"gradient_checkpointing_{verb}")
            for verb in ("enable", "disable")
        )
        disable()
        if setting.checkpointing:
            enable({"use_reentrant": setting.checkpointing == "reentrant"})
        attention.choose_kernel = (lambda heads: kernels.flex_attention) if setting.flex else kernels.choose_kernel
        if self.liger is not None:
            self.liger.switch(setting.liger)

    def optimize(self) -> None:
        """What `Trainer` does after the backward, AdamW and a clipped norm, but so that no number changes."""
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, fused=True)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1e9)
        self.optimizer.step()


def optimized(run: Callable[[dict], torch.Tensor], subject: Subject) -> Callable[[dict], torch.Tensor]:
    """A step with the optimizer's behind it."""

    def step(batch: dict) -> torch.Tensor:
        loss = run(batch)
        subject.optimize()
        return loss

    return step


def why_no_trl() -> str | None:
    """None, or the reason why there are no trainers."""
    try:
        trainer_classes()
    except Exception as error:  # TRL is missing, or at odds with its neighbours
        return f"not run: TRL cannot be imported ({reason_of(error)})"
    return None


def liger_can_run() -> bool:
    return CUDA and find_spec("liger_kernel") is not None


class PlainTrainer:
    """What the benchmarks ask of this package's trainers, without TRL: a collator and a step.

    Args:
        kind: "orm", trained by Bradley-Terry, or "prm", by cross-entropy.
        autocast: the forward runs under bf16 autocast.
    """

    def __init__(self, model, kind: str, *, autocast: bool = False):
        install_reward_head(model)
        if reason := share_prefixes(model):
            raise RuntimeError(f"The model cannot take prefix trees: {reason}.")
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):  # `disable_dropout=True` is TRL's default
                module.p = 0.0
        self.model, self.kind = model.train(), kind
        self.autocast = functools.partial(torch.autocast, DEVICE.type, torch.bfloat16, enabled=autocast)
        collator = {"orm": PreferenceCollator, "prm": StepCollator}[kind]
        self.data_collator = collator(0, prefix_sharing=True, tree_index=tree_index if CUDA else None)

    def training_step(self, model, batch: dict) -> torch.Tensor:
        keys = ("input_ids", "position_ids", "attention_mask", "prefix_tree", "score_positions")
        with self.autocast():
            logits_SC = model(**{key: batch[key] for key in keys if key in batch}, use_cache=False).logits
        if self.kind == "orm":
            loss = F.softplus(torch.sub(*logits_SC.chunk(2)[::-1])).mean()
        else:
            right_S = batch["step_labels"]
            loss = F.cross_entropy(logits_SC, torch.stack([1 - right_S, right_S], -1))
        loss.backward()
        return loss.detach()


class Liger:
    """Liger's kernels in a trainer's model, as `train` puts them there, but so that they can be taken out again."""

    def __init__(self, trainer):
        self.modeling = sys.modules[type(trainer.model).__module__]
        plain, before = dict(vars(self.modeling)), {m for m in trainer.model.modules() if "forward" in vars(m)}
        try:
            apply_liger_kernel(trainer.model, trainer.args.liger_kernel_config)
            self.ropes = (plain["apply_rotary_pos_emb"], self.modeling.apply_rotary_pos_emb)
        finally:
            patched = (m for m in trainer.model.modules() if "forward" in vars(m) and m not in before)
            self.forwards = {module: vars(module).pop("forward") for module in patched}
            vars(self.modeling).update(plain)  # classes too, which later models are made of
        assert self.forwards, "Liger patched nothing"

    def switch(self, on: bool) -> None:
        self.modeling.apply_rotary_pos_emb = self.ropes[on]
        for module, forward in self.forwards.items():
            vars(module).pop("forward", None)
            if on:
                vars(module)["forward"] = forward
