"""Model, tokenizer, pad token and LoRA settings that are right for reward heads.

In: a name or a model, a tokenizer, a `PeftConfig`. Out: the same things, ready to train: a head of the right size, a
pad token that is never the end of a sequence, a head that LoRA trains and saves.
"""

import copy
import logging
import re
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from .head import HEAD_NAME

logger = logging.getLogger(__name__)

_PAD_MARKER = re.compile(r"[<\[]\|?(finetune_right_)?pad(_id)?\|?[>\]]", re.IGNORECASE)
_RESERVED_MARKER = re.compile(r"<\|?(reserved|unused)[\w]*\|?>")


def vocabulary_size(model: str | PreTrainedModel, **kwargs) -> int:
    """Rows of the embedding, of a loaded model or of a name's config."""
    config = AutoConfig.from_pretrained(model, **kwargs) if isinstance(model, str) else model.config
    return config.get_text_config().vocab_size


def choose_pad_token(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> str:
    """The token to pad with: never the end of a sequence, and an id that the model has already wherever one is free.

    transformers pools the rightmost token that is not the pad id, so with pad == eos the EOS is skipped and another
    token is scored (transformers#35352, trl#2758). In order: the tokenizer's own, a reserved token, unk, a new token on
    an embedding row that no token uses yet, a new token (`set_pad_token` then adds a row).

    Args:
        vocab_size: rows of the model's embedding; vocabularies are often padded beyond the tokenizer's length.
    """
    taken = {tokenizer.eos_token, tokenizer.bos_token, None}
    if tokenizer.pad_token not in {tokenizer.eos_token, None}:
        return tokenizer.pad_token
    vocabulary = {token: index for token, index in tokenizer.get_vocab().items() if index < vocab_size}
    named = [token for token in vocabulary if _PAD_MARKER.fullmatch(token)]
    reserved = [token for token in vocabulary if _RESERVED_MARKER.fullmatch(token)]
    for candidates in (named, reserved):
        free = sorted((token for token in candidates if token not in taken), key=vocabulary.get)
        if free:
            return free[0]
    if tokenizer.unk_token not in taken:
        return tokenizer.unk_token
    return "<|pad|>"


def set_pad_token(model: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, pad_token: str) -> None:
    """Set `pad_token` on the tokenizer and the config; the embedding grows only where no unused row is left."""
    before = tokenizer.pad_token
    if pad_token not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"pad_token": pad_token})
    else:
        tokenizer.pad_token = pad_token
    if before != pad_token:
        why = "the tokenizer has none" if before is None else f"'{before}' also ends sequences"
        logger.warning("Padding with '%s' (id %d): %s.", pad_token, tokenizer.pad_token_id, why)
    if model is None:
        return
    if tokenizer.pad_token_id >= vocabulary_size(model):
        logger.warning("The embedding grows by a row for the new pad token: the vocabulary has no unused id.")
        model.resize_token_embeddings(tokenizer.pad_token_id + 1)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def add_adapter(model: PreTrainedModel, peft_config: Any, *, task_type: str, args: Any) -> PeftModel:
    """`get_peft_model` with `reward_peft_config`, ready for gradient checkpointing.

    Args:
        args: the trainer's `TrainingArguments`. Under ZeRO-3 the adapter keeps the body's dtype (trl#6089).

    Raises:
        TypeError: `peft_config` is no `PeftConfig`. ValueError: the model has an adapter already.
    """
    if not isinstance(peft_config, PeftConfig):
        raise TypeError(
            f"`peft_config` must be a `peft.PeftConfig` instance (e.g. `peft.LoraConfig`), got "
            f"{type(peft_config).__name__}."
        )
    if isinstance(model, PeftModel):
        raise ValueError(
            "You passed a `PeftModel` and a `peft_config`. Leave `peft_config` out to train the adapter that is there, "
            "or merge and unload it first."
        )
    zero3 = args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3
    quantized = getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)
    return get_peft_model(
        model, reward_peft_config(peft_config, task_type), autocast_adapter_dtype=quantized or not zero3
    )


def reward_peft_config(peft_config: Any, task_type: str) -> Any:
    """A copy of `peft_config` under which the reward head trains, is saved and is loaded again.

    Without a task type, or with a causal LM's, PEFT freezes the head and saves nothing of it; `all-linear` would wrap
    it in LoRA. `task_type` is "SEQ_CLS" or "TOKEN_CLS".
    """
    fixed = copy.deepcopy(peft_config)
    fixed.task_type = task_type
    if hasattr(fixed, "modules_to_save"):
        fixed.modules_to_save = sorted({*(fixed.modules_to_save or ()), HEAD_NAME})
    if getattr(fixed, "target_modules", None) == "all-linear" and not getattr(fixed, "exclude_modules", True):
        fixed.exclude_modules = [HEAD_NAME]  # PEFT keeps a sequence classifier's head out by itself, no other
    return fixed
