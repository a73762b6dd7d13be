"""Model, tokenizer, pad token and LoRA settings that are right for reward heads.

In: a name or a model, a tokenizer, a `PeftConfig`. Out: the same things, ready to train: a head of the right size, a
pad token that is never the end of a sequence, a head that LoRA trains and saves.
"""

import contextlib
import copy
import logging
import re
from collections.abc import Iterable
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper, _set_trainable
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .attention import unwrapped
from .head import HEAD_NAME
from .head_layers import beyond_plain, inner_module, layer_names
from .kinds import LM, Kind
from .places import read

logger = logging.getLogger(__name__)

ADAPTER_MODEL_CONFIG = "reward_config.json"
"""the model's config in an adapter's folder, where transformers takes a `config.json` for a whole model's"""

_PAD_MARKER = re.compile(r"[<\[]\|?(finetune_right_)?pad(_id)?\|?[>\]]", re.IGNORECASE)
_RESERVED_MARKER = re.compile(r"<\|?(reserved|unused)[\w]*\|?>")


def vocabulary_size(model: str | PreTrainedModel, **kwargs) -> int:
    """Rows of the embedding, of a loaded model or of a name's config."""
    return _config(model, **kwargs).get_text_config().vocab_size


def embedding_rows(model: str | PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **kwargs) -> int:
    """Rows of the embedding as it will train, with one for the pad token.

    A tokenizer that seems to be another model's gets a warning.

    Raises:
        ValueError: the tokenizer is another model's.
    """
    config = _config(model, **kwargs)
    rows = config.get_text_config().vocab_size
    if tokenizer.vocab_size > rows:  # without added tokens
        raise ValueError(
            f"The tokenizer knows {tokenizer.vocab_size} tokens, but the model's embedding has {rows} rows: it is "
            "another model's. Leave `processing_class` out to load the model's own, or resize the embeddings first."
        )
    if doubt := _looks_foreign(tokenizer, config, rows):
        logger.warning(
            "The tokenizer may be another model's: %s. Leave `processing_class` out to load the model's own.", doubt
        )
    return rows if tokenizer.pad_token_id is None else max(rows, tokenizer.pad_token_id + 1)


def _config(model: str | PreTrainedModel, **kwargs) -> PreTrainedConfig:
    return read(AutoConfig, model, **kwargs) if isinstance(model, str) else model.config


def _looks_foreign(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, rows: int) -> str | None:
    """Why the tokenizer seems to be another model's: by the config where it came from, and by its size."""
    # Embeddings are often padded, but by less than a twentieth.
    if rows - len(tokenizer) > max(rows // 10, 128):
        return f"it knows {len(tokenizer)} tokens, and the model's embedding has {rows} rows"
    try:
        beside, _ = PreTrainedConfig.get_config_dict(tokenizer.name_or_path, local_files_only=True)
    except (OSError, ValueError):  # the folder has no config, or no longer exists
        return None
    text = beside.get("text_config") or beside
    families = {beside.get("model_type"), text.get("model_type")}
    if families != {None} and not families & {config.model_type, config.get_text_config().model_type}:
        return f"'{tokenizer.name_or_path}' is a {beside.get('model_type')}, and the model is a {config.model_type}"
    size = text.get("vocab_size") or rows
    # Vocabularies of one family differ by their padding alone.
    if abs(size - rows) > 0.01 * rows:
        return f"'{tokenizer.name_or_path}' has a vocabulary of {size}, and the model's embedding has {rows} rows"
    return None


_USER, _ASSISTANT = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
_CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
_CONVERSATIONS = (
    [_USER],
    [_USER, _ASSISTANT],
    [_USER, _ASSISTANT, _USER, _ASSISTANT],
    [{"role": "system", "content": "Be brief."}, _USER, _ASSISTANT],
    [_USER, {"role": "assistant", "content": "", "tool_calls": [_CALL]}],
    [_USER, {"role": "assistant", "content": "", "tool_calls": [_CALL]}, {"role": "tool", "content": "4"}],
)
"""Conversations that end in each way in which a conversation may end."""


def conversation_ends(tokenizer: PreTrainedTokenizerBase, **chat_template_kwargs: Any) -> set[str]:
    """The last tokens of conversations that the chat template renders; empty without a template."""
    ends: set[str] = set()
    if not tokenizer.chat_template:
        return ends
    for messages in _CONVERSATIONS:
        # A template may raise any error, for example because it knows no tools.
        with contextlib.suppress(Exception):
            rendered = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **chat_template_kwargs)
            ends |= {*tokenizer.convert_ids_to_tokens(rendered["input_ids"][-1:])}
    return ends


def choose_pad_token(tokenizer: PreTrainedTokenizerBase, vocab_size: int, **chat_template_kwargs: Any) -> str:
    """The token to pad with: never the end of a sequence, and an id that the model has already wherever one is free.

    transformers pools the rightmost token that is not the pad id. Where the pad token is the EOS, or the token with
    which the chat template ends a conversation, that token is skipped and another one is scored (transformers#35352,
    trl#2758). In order: the tokenizer's own, a reserved token, unk, a new token on an embedding row that no token uses
    yet, a new token (`set_pad_token` then adds a row).

    Args:
        vocab_size: rows of the model's embedding; vocabularies are often padded beyond the tokenizer's length.
        chat_template_kwargs: arguments of the chat template, which may change how a conversation ends.
    """
    ends = {tokenizer.eos_token, None, *conversation_ends(tokenizer, **chat_template_kwargs)}
    taken = {*ends, tokenizer.bos_token}
    if tokenizer.pad_token not in ends:
        return tokenizer.pad_token
    free = {token: index for token, index in tokenizer.get_vocab().items() if index < vocab_size and token not in taken}
    for marker in (_PAD_MARKER, _RESERVED_MARKER):
        marked = filter(marker.fullmatch, free)
        if first := min(marked, key=free.get, default=None):
            return first
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
    # An encoder-decoder pools by the pad token of the outer config.
    for config in (model.config, model.config.get_text_config()):
        config.pad_token_id = tokenizer.pad_token_id


def add_adapter(model: PreTrainedModel, peft_config: Any, *, model_kind: Kind, args: Any) -> PeftModel:
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
        model, reward_peft_config(peft_config, model_kind), autocast_adapter_dtype=quantized or not zero3
    )


def describe_checkpoint(model: PreTrainedModel | PeftModel, model_kind: Kind, **entries: Any) -> None:
    """Write what a scorer must know into the config that is saved with the model.

    Args:
        entries: fields of `Description`, except those that follow from `model_kind`.
    """
    head = inner_module(getattr(unwrapped(model), HEAD_NAME, None))
    if head is not None and (layers := layer_names(head)):
        entries["head"] = layers
    if beyond := beyond_plain(model, model_kind):
        logger.warning(
            "Plain transformers and servers will not load the model: its head %s. `RewardScorer` and the trainers do.",
            beyond,
        )
    model.config.rewardplug = {"kind": model_kind.config_name, "score_position": model_kind.score_position, **entries}
    if not model_kind.rates_steps or (model.config.num_labels == 1 and model_kind is not LM):
        # With this, servers return the raw score, not a sigmoid of it.
        model.config.problem_type = "regression"


def let_head_train(model: PeftModel, model_kind: Kind) -> None:
    """Make the head of a ready-made adapter train, be saved and be loaded again.

    PEFT freezes it where the configuration has no task type, or a causal LM's, and `all-linear` wraps it in LoRA. (The
    LM head of a causal LM is left as the configuration has it.)

    Raises:
        ValueError: the adapter is frozen.
    """
    config, base = model.active_peft_config, model.get_base_model()
    head = getattr(base, HEAD_NAME, None)
    if config.is_prompt_learning or not (model_kind is LM or isinstance(head, nn.Module)):
        return
    if config.inference_mode or not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "The adapter is frozen, so nothing would train. Load it with "
            "`PeftModel.from_pretrained(..., is_trainable=True)`."
        )
    config.task_type = model_kind.task_type
    if model_kind is LM or (isinstance(head, ModulesToSaveWrapper) and model.active_adapter in head.modules_to_save):
        return
    if isinstance(head, BaseTunerLayer):
        setattr(base, HEAD_NAME, head.get_base_layer())
        for option in ("target_modules", "feedforward_modules"):
            modules = getattr(config, option, None)
            if isinstance(modules, set):
                modules.discard(HEAD_NAME)
    config.modules_to_save = _with_head(config.modules_to_save)
    _set_trainable(model, model.active_adapter, [HEAD_NAME], inference_mode=False, wrapper_cls=ModulesToSaveWrapper)
    logger.warning(
        "PEFT had %s the reward head; now it trains and is saved with the adapter.",
        "wrapped" if isinstance(head, BaseTunerLayer) else "frozen",
    )


def with_whole_head(quantization_config: Any) -> Any:
    """A copy that leaves the head alone: transformers quantizes a token classifier's (its last parameter is a bias)."""
    fixed = copy.deepcopy(quantization_config)
    for name in ("llm_int8_skip_modules", "modules_to_not_convert"):
        if hasattr(fixed, name):
            setattr(fixed, name, _with_head(getattr(fixed, name)))
    return fixed


def _with_head(names: Iterable[str] | None) -> list[str]:
    """Names of modules, the head's among them."""
    return sorted({*(names or ()), HEAD_NAME})


def reward_peft_config(peft_config: Any, model_kind: Kind) -> Any:
    """A copy of `peft_config` under which the reward head trains, is saved and is loaded again.

    Without a task type, or with a causal LM's, PEFT freezes the head and saves nothing of it; `all-linear` would wrap
    it in LoRA. (The LM head of a causal LM may stay frozen.)
    """
    fixed = copy.deepcopy(peft_config)
    fixed.task_type = model_kind.task_type
    if model_kind is LM:
        return fixed
    if hasattr(fixed, "modules_to_save"):
        fixed.modules_to_save = _with_head(fixed.modules_to_save)
    if getattr(fixed, "target_modules", None) == "all-linear" and not getattr(fixed, "exclude_modules", True):
        # PEFT itself excludes only a sequence classifier's head.
        fixed.exclude_modules = [HEAD_NAME]
    return fixed
