"""What a model is asked before it scores, the scored forward that fits it, and the mode and place where it scores."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PreTrainedTokenizerBase

from .attention import unwrapped
from .head import HEAD_NAME, decodes, install_reward_head
from .label_tokens import CAUSAL_LMS, install_label_tokens, label_token_ids
from .loading import check_model


def described_label_tokens(
    what: str, config: Any, tokenizer: PreTrainedTokenizerBase, good_token: str | None, bad_token: str | None
) -> tuple[int, int]:
    """Ids of (bad, good): the given ones, or those that a causal LM's config names.

    Args:
        what: the model, for the error.

    Raises:
        ValueError: there are none, or one is missing or no token.
    """
    if good_token is None and bad_token is None:
        described = getattr(config, "rewardplug", None) or {}
        good_token, bad_token = described.get("good_token"), described.get("bad_token")
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
    what, labels = f"The model is a {type(unwrapped(model)).__name__}", (good_token, bad_token)
    if what.endswith(CAUSAL_LMS):
        install_label_tokens(model, described_label_tokens(what, model.config, tokenizer, *labels))
    elif labels == (None, None):
        install_reward_head(model)
    else:
        raise ValueError(f"{what}, but `good_token` and `bad_token` are a causal LM's. Leave them out.")


def scorable_kind(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> str:
    """What the model is, "orm" or "prm": by its config, or else by its class (a causal LM rates steps).

    Raises:
        ValueError: another head or number of labels, or a pooling head with the EOS as pad token.
    """
    name = type(unwrapped(model)).__name__
    described = (getattr(model.config, "rewardplug", None) or {}).get("kind")
    orm = described == "orm" if described else not name.endswith(("ForTokenClassification", *CAUSAL_LMS))
    if not orm and name.endswith(CAUSAL_LMS):
        return "prm"
    check_model(model, AutoModelForSequenceClassification if orm else AutoModelForTokenClassification)
    if (labels := model.config.num_labels) not in ((len(attributes(model.config) or "1"),) if orm else (1, 2)):
        expected = "an outcome reward model has one" if orm else "a process reward model has one or two"
        raise ValueError(f"The model has {labels} labels; {expected}.")
    if orm and pools(model) and tokenizer.pad_token_id is not None and tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ValueError(
            f"The tokenizer pads with its EOS '{tokenizer.eos_token}', which this model's pooling skips: another token "
            "would be scored. Set another `pad_token`, in the tokenizer and in the model's config."
        )
    return "orm" if orm else "prm"


def pools(model: nn.Module) -> bool:
    """Whether a sequence classifier scores where its own pooling looks, and not at the token that it is told."""
    base = unwrapped(model)
    return not hasattr(base, HEAD_NAME) or decodes(base)


def attributes(config: Any) -> dict[str, float] | None:
    """{name: weight in the sum that is the score} of an ORM that was trained on several; else None."""
    weights = (getattr(config, "rewardplug", None) or {}).get("attribute_weights")
    return None if weights is None else {config.id2label[index]: weight for index, weight in enumerate(weights)}


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
