"""Heads that transformers' class does not build by itself: several layers, a bias; and any head in fp32.

In: a head, or a description of it in a checkpoint's config and file. Out: the names of its layers for the config, the
head built again, and the class whose `from_pretrained` builds it.

    nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))    {"rewardplug": {"head": ["Linear", "ReLU", "Linear"]}}
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_utils import set_zero3_state

from .attention import unwrapped
from .description import Description
from .head import HEAD_NAME, RewardHead
from .kinds import Kind, published

_PUBLISHED_LAYERS = ["Linear", "ReLU", "Linear"]
_WITHOUT_WEIGHTS = (
    "ELU",
    "GELU",
    "Identity",
    "LeakyReLU",
    "Mish",
    "ReLU",
    "SELU",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
)


def layer_names(head: nn.Module) -> list[str] | None:
    """The names of an `nn.Sequential`'s layers; None where names do not describe it.

    Dropout does nothing when a model scores, so it is called Identity.

    >>> layer_names(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 1)))
    ['Linear', 'ReLU', 'Identity', 'Linear']
    >>> layer_names(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 1)))
    """
    if type(head) is not nn.Sequential:
        return None
    names = [_layer_name(layer) for layer in head]
    return names if None not in names and names[-1:] == ["Linear"] else None


def _layer_name(layer: nn.Module) -> str | None:
    """What the config calls a layer; None of a layer that a name alone does not describe."""
    if type(layer) in (nn.Linear, RewardHead):
        return "Linear"
    if isinstance(layer, nn.Dropout | nn.Identity):
        return "Identity"
    name = type(layer).__name__
    return name if name in _WITHOUT_WEIGHTS and repr(layer) == repr(getattr(nn, name)()) else None


def beyond_plain(model: nn.Module, model_kind: Kind) -> str | None:
    """Why plain transformers do not load a model's head, or None."""
    head = inner_module(getattr(unwrapped(model), HEAD_NAME, None))
    if head is not None and layer_names(head):
        return "has several layers, which they would draw anew"
    if not model_kind.rates_steps and isinstance(head, nn.Linear) and head.bias is not None:
        return "has a bias, which they leave out, so that all rewards are shifted"
    return None


def saved_layers(config: Any) -> list[str] | None:
    """The layers of a checkpoint's head; None of a single one."""
    return Description.of(config).head or (_PUBLISHED_LAYERS if published(config) else None)


def build_head(layers: Sequence[str] | None, shapes: Mapping[str, Sequence[int]]) -> nn.Module:
    """A head of `layers` (None: a single one) whose parameters have the `shapes`, by their names in it.

    Raises:
        ValueError: a layer has an unknown name, or no shape.

    >>> build_head(None, {"weight": (1, 8), "bias": (1,)})
    Linear(in_features=8, out_features=1, bias=True)
    """

    def linear(prefix: str) -> nn.Linear:
        outputs, inputs = shapes[f"{prefix}weight"]
        return nn.Linear(inputs, outputs, bias=f"{prefix}bias" in shapes)

    if layers is None:
        return linear("")
    described = all(
        f"{index}.weight" in shapes if name == "Linear" else name in _WITHOUT_WEIGHTS
        for index, name in enumerate(layers)
    )
    if not described:
        raise ValueError(
            f"the config's rewardplug.head={list(layers)} does not describe a head with the parameters "
            f"{', '.join(shapes)}; expected Linear for each of them, and between {', '.join(_WITHOUT_WEIGHTS)}."
        )
    modules = (linear(f"{i}.") if name == "Linear" else getattr(nn, name)() for i, name in enumerate(layers))
    return nn.Sequential(*modules)


def with_saved_head(
    model_class: type[PreTrainedModel], layers: Sequence[str] | None, shapes: Mapping[str, Sequence[int]]
) -> type[PreTrainedModel]:
    """A class that makes `model_class`'s models with a head of these `shapes` (none: its own), which stays fp32.

    transformers rounds all weights to one dtype when it reads them, except those that a model keeps in fp32.
    """

    def __init__(self, config, *args, **kwargs):
        model_class.__init__(self, config, *args, **kwargs)
        head = getattr(self, HEAD_NAME, None)
        known = layers is not None or {"weight"} <= {*shapes} <= {"weight", "bias"}
        if known and isinstance(head, nn.Module) and {*shapes} != {name for name, _ in head.named_parameters()}:
            setattr(self, HEAD_NAME, build_head(layers, shapes))
        if published(config):
            # `auto_map` names files of code that will not be saved.
            vars(config).pop("auto_map", None)
        self._keep_in_fp32_modules_strict = {*(self._keep_in_fp32_modules_strict or ()), rf"^{HEAD_NAME}\."}
        self.__class__ = model_class

    return type(model_class.__name__, (model_class,), {"__init__": __init__, "__module__": model_class.__module__})


def inner_module(module: nn.Module | None) -> nn.Module | None:
    """The module inside PEFT's wrappers."""
    if isinstance(module, ModulesToSaveWrapper):
        return module.original_module
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def check_reloads(model: nn.Module) -> None:
    """Check before the first step that a checkpoint of `model` could be loaded.

    Raises:
        ValueError: neither the model's class nor `build_head` would build the head that somebody put into it; or
            transformers has opened an adapter, which it would not save completely.
    """
    base = unwrapped(model)
    if getattr(base, "_hf_peft_config_loaded", False):
        raise ValueError(
            "`model` is an adapter that transformers opened, without what training wrote beside it. Give "
            "`PeftModel.from_pretrained(base, adapter, is_trainable=True)`; or `merge_adapter(adapter, folder)`, and "
            "the folder."
        )
    head = inner_module(getattr(base, HEAD_NAME, None))
    if isinstance(head, nn.Linear) or (head is not None and layer_names(head)):
        return
    with torch.device("meta"), set_zero3_state():
        built = dict(type(base)(copy.deepcopy(base.config)).named_children())
    for name, module in base.named_children():
        own, actual = inner_module(built.get(name)), inner_module(module)
        same = type(own) is type(actual) and (
            isinstance(model, PeftModel) or [*own.state_dict()] == [*actual.state_dict()]
        )
        if not same and name != base.base_model_prefix:
            raise ValueError(
                f"`model.{name}` is not what {type(base).__name__} builds, but {' '.join(repr(actual).split())}: it "
                f"would train, but no checkpoint of it could be loaded. As `model.{HEAD_NAME}` take a linear layer, or "
                "an `nn.Sequential` of linear layers and, between them, activations as they are by default (ReLU, ...)."
            )
