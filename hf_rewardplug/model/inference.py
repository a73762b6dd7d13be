"""What scoring needs of a model: a check, the scored forward that fits its head, eval mode, and a device.

In: a loaded model and its tokenizer. Out: the model, ready to score, or an error that says why it cannot score.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from .attention import unwrapped
from .description import Description
from .families import check_model
from .head import HEAD_NAME, decodes, install_reward_head
from .kinds import LM, PRM, Kind, kind_of, kind_of_class, labels_of
from .label_tokens import install_label_tokens, label_token_ids


def described_label_tokens(
    what: str, config: Any, tokenizer: PreTrainedTokenizerBase, good_token: str | None, bad_token: str | None
) -> tuple[int, int]:
    """Ids of (bad, good): of the tokens in the arguments, or else of the tokens that a causal LM's config names.

    Args:
        what: the model, for the error.

    Raises:
        ValueError: there are none, or one is missing or no token.
    """
    if good_token is None and bad_token is None:
        description = Description.of(config)
        good_token, bad_token = description.good_token, description.bad_token
    if good_token is None or bad_token is None:
        raise ValueError(
            f"{what}; expected a sequence classifier (ORM), a token classifier (PRM), or for a causal LM (PRM) both "
            "`good_token` and `bad_token`, which it says of right and wrong steps: its config does not name them."
        )
    return label_token_ids(tokenizer, good_token, bad_token)


def install_scored_forward(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, good_token: str | None = None, bad_token: str | None = None
) -> None:
    """Give `model` the scored forward of its head: a reward head's, or that of a causal LM's label tokens.

    Raises:
        ValueError: as `described_label_tokens`, or label tokens for another model than a causal LM.
    """
    name, labels = type(unwrapped(model)).__name__, (good_token, bad_token)
    what = f"The model is a {name}"
    if kind_of_class(name) is LM:
        install_label_tokens(model, described_label_tokens(what, model.config, tokenizer, *labels))
    elif labels == (None, None):
        install_reward_head(model)
    else:
        raise ValueError(f"{what}, but `good_token` and `bad_token` are a causal LM's. Leave them out.")


def scorable_kind(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Kind:
    """The kind that the model is scored as: by its config, or else by its class.

    Raises:
        ValueError: another head or number of labels, or a pooling head with the EOS as pad token.
    """
    description = Description.of(model.config)
    model_kind = kind_of(type(unwrapped(model)).__name__, description)
    if model_kind is LM:
        return model_kind
    check_model(model, model_kind)
    labels = model.config.num_labels
    if labels not in labels_of(model_kind, description):
        expected = "a process reward model has one or two" if model_kind is PRM else "an outcome reward model has one"
        raise ValueError(f"The model has {labels} labels; {expected}.")
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    if model_kind is not PRM and pools(model) and pad is not None and pad == eos:
        raise ValueError(
            f"The tokenizer pads with its EOS '{tokenizer.eos_token}', which this model's pooling skips: another token "
            "would be scored. Set another `pad_token`, in the tokenizer and in the model's config."
        )
    return model_kind


def pools(model: nn.Module) -> bool:
    """Whether a sequence classifier scores where its own pooling looks, and not at `score_positions`."""
    base = unwrapped(model)
    return not hasattr(base, HEAD_NAME) or decodes(base)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while, and then each module's own mode: a frozen body may be in another than its head."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def own_device() -> torch.device:
    """This process's accelerator, or the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return (
        torch.device("cpu")
        if accelerator is None
        else torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", 0)))
    )
