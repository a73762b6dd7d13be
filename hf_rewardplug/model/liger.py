"""Liger's Triton kernels in the body of a reward model: norms, rotary embeddings and MLPs; the head stays as it is.

In: a model with the scored forward, and where it trains. Out: an entry in Liger's own registry, by which transformers'
`use_liger_kernel=True` patches the model's body; or the reason why not.

Liger takes every model for a causal LM: it binds a causal LM's forward (`no attribute 'lm_head'` on a classifier), or
refuses the class (Gemma 3). It also replaces functions and classes of the family's module, which hits every other model
of the process, on the CPU too (Liger-Kernel 0.8).
"""

import functools
import inspect
import logging
import sys
import types
from collections.abc import Callable
from importlib.metadata import version

import torch
from packaging.version import Version
from torch import nn
from transformers.utils import is_liger_kernel_available

from .attention import unwrapped

logger = logging.getLogger(__name__)

DEVICES = {"cuda", "xpu", "npu"}
"""where Triton runs"""

OLDEST = "0.8.5"
"""of Liger; before it the rotary kernel turned whole heads where the model turns a part (Phi-4-mini)"""

_LOSSES = ("cross_entropy", "fused_linear_cross_entropy")
"""of language models; the first replaces torch's own function in the whole process"""

_ACTIVATIONS = {"swiglu": {"silu", "swish"}, "geglu": {"gelu_pytorch_tanh"}}
"""the activations that Liger's MLPs compute, even where the config names another"""


def register_liger(model: nn.Module, device: torch.device) -> str | None:
    """Have Liger patch `model`'s body (PEFT-wrapped or not) when transformers asks it to.

    Returns:
        None, or the reason why `use_liger_kernel=True` can do nothing here.
    """
    if device.type not in DEVICES:
        return f"Triton kernels do not run on '{device.type}'"
    # `use_kernels` binds forwards of its own at each `train()` and `eval()`.
    if getattr(unwrapped(model), "use_kernels", False):
        return "the model was loaded with `use_kernels=True`, which replaces the same layers"
    installed = version("liger-kernel") if is_liger_kernel_available() else None
    if installed is None or Version(installed) < Version(OLDEST):
        return f"liger-kernel is {installed or 'missing'}: `pip install 'liger-kernel>={OLDEST}'`"
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as registry

    family = unwrapped(model).config.model_type
    if family not in registry:
        return f"Liger does not know '{family}'"
    if not hasattr(registry[family], "for_bodies"):
        registry[family] = _for_bodies(registry[family])
    return None


def _for_bodies(apply: Callable) -> Callable:
    """Liger's function for a family, which goes on to the body where the model has the scored forward."""

    @functools.wraps(apply)  # Liger looks into the signature
    def apply_liger(*args, model: nn.Module | None = None, **options):
        # Liger treats any other model as it always does.
        if model is None or "_plain_forward" not in vars(model):
            return apply(*args, model=model, **options)
        body = getattr(model, model.base_model_prefix)
        named = inspect.signature(apply).parameters
        options |= {name: False for name in _LOSSES if name in named}
        config = body.config.get_text_config()
        activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
        for option, computed in _ACTIVATIONS.items():
            if option in named and options.get(option, True) and activation not in computed:
                logger.warning("Liger's %s is left out: the model's activation is '%s'.", option, activation)
                options[option] = False
        _apply_to_body(apply, body, options)

    apply_liger.for_bodies = True
    return apply_liger


def _apply_to_body(apply: Callable, body: nn.Module, options: dict) -> None:
    """Patch `body`, and take back what Liger does to all other models of the family.

    Classes are restored. The rotary function is a global of the family's module, so both stay and the device decides;
    forwards likewise, so that a trained model can be moved to the CPU.
    """
    modeling = sys.modules[type(body).__module__]
    before = dict(vars(modeling))
    forwards = {module: vars(module).get("forward") for module in body.modules()}
    try:
        apply(model=body, **options)
    except TypeError as error:  # some families name the classes that they take
        logger.warning("Liger does not take a %s: %s", type(body).__name__, error)
    patched = False
    for name, plain in before.items():
        fused = vars(modeling)[name]
        if fused is not plain:
            patched = True
            new = not isinstance(plain, type) and not hasattr(plain, "by_device")
            setattr(modeling, name, _by_device(fused, plain) if new else plain)
    for module, forward in forwards.items():
        fused = vars(module).get("forward")
        if fused is not forward:
            patched = True
            new = not hasattr(forward, "by_device")
            both = types.MethodType(_by_device(fused.__func__, type(module).forward), module) if new else forward
            module.forward = both
    if not patched:
        logger.warning("Liger has no kernel for the layers of a %s; training goes on without it.", type(body).__name__)


def _by_device(fused: Callable, plain: Callable) -> Callable:
    """`fused` for tensors where Triton runs, else `plain`."""

    @functools.wraps(plain)
    def forward(*args, **kwargs):
        tensor = next(value for value in (*args, *kwargs.values()) if torch.is_tensor(value))
        return (fused if tensor.device.type in DEVICES else plain)(*args, **kwargs)

    forward.by_device = True
    return forward
