"""The fp32 reward head, and the forward that evaluates it only where a score is needed.

    B sequences, L tokens, D hidden size, S scored positions, C labels of the head
    model(input_ids_BL, ..., score_positions_S)                            -> output.logits_SC
    model(input_ids_1T, position_ids_1T, prefix_tree, score_positions_S)   -> the same from one packed row
    model(input_ids_BL, ...)                                               -> what transformers returns, as before

The scored forward is the model's own `forward`, so that the hooks of DDP, DeepSpeed, FSDP and PEFT fire.
"""

import functools
import logging
import re
import types
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput

from .attention import tree_arguments, unwrapped

logger = logging.getLogger(__name__)

HEAD_NAME = "score"
"""attribute of the head in transformers' decoder classifiers; PEFT calls it so too"""

_HEAD_KEY = re.compile(
    rf"(?:^|\.){HEAD_NAME}\.(?:modules_to_save\.[^.]+\.)?(?!original_module\.|modules_to_save\.)(.+)$"
)


class RewardHead(nn.Linear):
    """`nn.Linear` whose product is fp32 whatever the dtype of the body, outside autocast.

    A bf16 product has too few distinct values: rewards tie that are not equal, and ties count as wrong.

    >>> head = RewardHead(4, 1, dtype=torch.bfloat16)
    >>> head(torch.ones(3, 4, dtype=torch.bfloat16)).dtype
    torch.float32
    """

    def forward(self, hidden_SD: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden_SD.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return F.linear(hidden_SD.float(), self.weight.float(), bias)


def install_reward_head(model: nn.Module) -> bool:
    """Give `model` the fp32 head and the scored forward, in place; PEFT-wrapped or not, once or again.

    Returns:
        Whether the head can be evaluated at score positions alone. Models with another head (encoders with a pooler,
        `classifier`) and encoder-decoders compute every position, and the scored ones are picked.
    """
    base = unwrapped(model)
    for module in _head_modules(base):
        if isinstance(module, nn.Linear) and type(module) not in (nn.Linear, RewardHead):
            raise ValueError(
                f"The reward head is quantized ({type(module).__name__}). Load the model with '{HEAD_NAME}' in the "
                "quantization config's `llm_int8_skip_modules`, or give its name and `quantization_config`."
            )
        # PEFT's copies of the head in `modules_to_save` become heads too.
        if type(module) is nn.Linear:
            become(module, RewardHead)
        if isinstance(module, RewardHead):
            _to_fp32(module)
    heads = reward_heads(base)
    body = getattr(base, getattr(base, "base_model_prefix", ""), None)
    scored = _picked_forward
    # The model's own forward makes the decoder's inputs.
    if heads and decodes(base):
        scored = _read_forward
    elif heads and body is not None and body is not base:
        scored = _scored_forward
    give_scored_forward(base, scored)
    # Without this transformers would save the head under the name in the files that it read.
    if conversions := getattr(base, "_weight_conversions", None):
        base._weight_conversions = [
            conversion for conversion in conversions if f"{HEAD_NAME}." not in conversion.target_patterns
        ]
    evaluates_few = scored is _scored_forward
    if evaluates_few and _trains(base) and not any(map(_trains, heads)):
        logger.warning("The reward head is frozen: add modules_to_save=['%s'] to the PEFT configuration.", HEAD_NAME)
    return evaluates_few


def become(module: nn.Linear, head_class: type[nn.Linear]) -> None:
    """Make a linear layer a head, in place."""
    module.__class__ = head_class
    # accelerate's hook for a model over several devices has bound the old forward.
    if "_old_forward" in vars(module):
        module._old_forward = types.MethodType(head_class.forward, module)


def give_scored_forward(base: nn.Module, scored: Callable) -> None:
    """Have calls with `score_positions` answered by `scored`, and all others by the model's own forward; once or again.

    Args:
        scored: (model, *args, score_positions_S, **kwargs) -> outputs with logits_SC.
    """
    if hasattr(base, "_plain_forward"):
        return
    base._plain_forward = base.forward

    @functools.wraps(type(base).forward)
    def forward(self, *args, score_positions: torch.Tensor | None = None, **kwargs):
        if score_positions is None:
            return self._plain_forward(*args, **kwargs)
        tree = kwargs.pop("prefix_tree", None)
        if tree is not None:
            kwargs |= tree_arguments(self.config, tree, kwargs["position_ids"])
        return scored(self, *args, score_positions=score_positions, **kwargs)

    base.forward = types.MethodType(forward, base)


def decodes(base: nn.Module) -> bool:
    """Whether the model is an encoder with a decoder, which reads the text again (T5Gemma)."""
    return bool(getattr(base.config, "is_encoder_decoder", False))


def reward_heads(model: nn.Module) -> list[RewardHead]:
    """The installed head and PEFT's copies of it; none where the model's head has another name."""
    return [module for module in _head_modules(unwrapped(model)) if isinstance(module, RewardHead)]


def trained_head_state(model: nn.Module, state_dict: dict | None = None) -> dict[str, torch.Tensor]:
    """{"weight": (C, D), "bias": (C,)} of the head that trains; of a head of several layers {"0.weight": ...}.

    A parameter is taken from `state_dict` where that was gathered and has all of it. Empty where the head is frozen or
    has another name.
    """
    head = getattr(unwrapped(model), HEAD_NAME, None)
    # PEFT has a copy for each adapter, and the active adapter's copy trains.
    copies = getattr(head, "modules_to_save", None)
    if copies is not None:
        head = copies[model.active_adapter] if model.active_adapter in copies else None
    if head is None or not _trains(head):
        return {}
    gathered = {}
    for key, value in (state_dict or {}).items():
        if match := _HEAD_KEY.search(key):
            gathered[match[1]] = value
    state = {}
    for name, parameter in head.named_parameters():
        # Under ZeRO-3 the parameter itself is empty.
        shape = getattr(parameter, "ds_shape", parameter.shape)
        own = parameter.detach() if parameter.shape == shape else torch.full(shape, torch.nan)
        state[name] = gathered[name] if name in gathered and gathered[name].shape == shape else own
    return state


def step_logits(logits_SC: torch.Tensor) -> torch.Tensor:
    """Log odds that each step is right: the shape of the logits without its last dimension.

    >>> step_logits(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    tensor([ 0., -1.])
    """
    return logits_SC.squeeze(-1) if logits_SC.shape[-1] == 1 else logits_SC[..., 1] - logits_SC[..., 0]


def step_probabilities(logits_SC: torch.Tensor) -> torch.Tensor:
    """Probability that each step is right: the shape of the logits without its last dimension.

    >>> step_probabilities(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    tensor([0.5000, 0.2689])
    """
    return logits_SC.squeeze(-1).sigmoid() if logits_SC.shape[-1] == 1 else logits_SC.softmax(-1)[..., 1]


def behind_virtual_tokens(
    model: nn.Module, score_positions: torch.Tensor, input_ids: torch.Tensor, **_
) -> torch.Tensor:
    """Score positions (S,), shifted by the virtual tokens that prompt tuning and P-tuning put before each row."""
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning or config.peft_type == "PREFIX_TUNING":
        return score_positions
    return score_positions + config.num_virtual_tokens * (score_positions // input_ids.shape[1] + 1)


def _head_modules(base: nn.Module) -> Iterator[nn.Module]:
    """All modules of the head, and of PEFT's copies of it; none where the model's head has another name."""
    head = getattr(base, HEAD_NAME, None)
    return head.modules() if isinstance(head, nn.Module) else iter(())


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _to_fp32(head: nn.Module) -> None:
    for parameter in head.parameters():
        # ZeRO-3 chooses the dtype of its parameters itself.
        if parameter.is_floating_point() and not hasattr(parameter, "ds_id"):
            parameter.data = parameter.data.float()


def _scored_forward(self, *args, score_positions: torch.Tensor, **kwargs):
    """The body once, and the head on the hidden states of the scored positions alone."""
    kwargs = {key: value for key, value in kwargs.items() if value is not None and key != "return_dict"}
    body = getattr(self, self.base_model_prefix)
    hidden_BLD = body(*args, **kwargs, return_dict=True).last_hidden_state
    hidden_SD = hidden_BLD.flatten(0, 1)[score_positions.to(hidden_BLD.device)]
    # Transformers' token classifiers have one before the head.
    dropout = getattr(self, "dropout", None)
    if isinstance(dropout, nn.Module):
        hidden_SD = dropout(hidden_SD)
    # Where the model is spread over several devices, the head is on the last.
    logits_SC = getattr(self, HEAD_NAME)(hidden_SD)
    return SequenceClassifierOutput(logits=logits_SC.to(score_positions.device))


def _read_forward(self, *args, score_positions: torch.Tensor, **kwargs):
    """The head's own outputs at the score positions: T5Gemma pools one token later in a row that is padded."""
    kwargs.pop("use_cache", None)  # which its forward sets itself
    outputs: list[torch.Tensor] = []
    hook = getattr(self, HEAD_NAME).register_forward_hook(lambda head, inputs, output: outputs.append(output))
    try:
        self._plain_forward(*args, **kwargs)
    finally:
        hook.remove()
    return SequenceClassifierOutput(logits=outputs[-1].flatten(0, 1)[score_positions])


def _picked_forward(self, *args, score_positions: torch.Tensor, **kwargs):
    """The model's own forward, and the scored positions of its logits."""
    logits = self._plain_forward(*args, **kwargs).logits
    if logits.ndim == 3:  # a token classifier: every position has logits
        return TokenClassifierOutput(logits=logits.flatten(0, 1)[score_positions].float())
    # Pooled logits: one row a sequence, in order.
    return SequenceClassifierOutput(logits=logits.float())
