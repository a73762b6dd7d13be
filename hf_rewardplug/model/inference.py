"""What a model is asked before it scores, and the mode and place in which it does."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PreTrainedTokenizerBase

from .attention import unwrapped
from .head import HEAD_NAME
from .loading import check_model


def check_scorable(model: nn.Module, tokenizer: PreTrainedTokenizerBase, kind: str) -> None:
    """Raise where the model is no ORM (`kind="orm"`) or PRM (`"prm"`), or would pool another token than the EOS.

    Raises:
        ValueError: another head or number of labels, or a pooling head with the EOS as pad token.
    """
    orm = kind == "orm"
    check_model(model, AutoModelForSequenceClassification if orm else AutoModelForTokenClassification)
    if (labels := model.config.num_labels) not in ((1,) if orm else (1, 2)):
        expected = "an outcome reward model has one" if orm else "a process reward model has one or two"
        raise ValueError(f"The model has {labels} labels; {expected}.")
    pooled = orm and not hasattr(unwrapped(model), HEAD_NAME)
    if pooled and tokenizer.pad_token_id is not None and tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ValueError(
            f"The tokenizer pads with its EOS '{tokenizer.eos_token}', which this model's pooling skips: another token "
            "would be scored. Set another `pad_token`, in the tokenizer and in the model's config."
        )


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


def learned_positions(model: nn.Module) -> int | None:
    """How many positions the model has an embedding for; None where it computes them.

    >>> from transformers import BertConfig, BertModel
    >>> learned_positions(BertModel(BertConfig(hidden_size=12, num_hidden_layers=0, vocab_size=9)))
    512
    """
    for name, module in unwrapped(model).named_modules():
        if isinstance(module, nn.Embedding) and name.endswith(("position_embeddings", "embed_positions", "wpe")):
            first = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - first
    return None


def own_device() -> torch.device:
    """This process's accelerator, or the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return (
        torch.device("cpu")
        if accelerator is None
        else torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", 0)))
    )
