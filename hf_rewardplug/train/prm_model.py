"""The model of a process reward model's trainer: loaded by name, or handed over, and made ready to train.

In: a name or a token classifier, the config, the tokenizer. Out: the model with its head, adapter, pad token, and the
description that its checkpoints carry. (For outcome reward models TRL's constructor does this.)
"""

import inspect
import os
from pathlib import Path

from accelerate.utils import is_peft_model
from trl.chat_template_utils import clone_chat_template
from trl.trainer.utils import create_model_from_path, disable_dropout_in_model

from ..model.head import install_reward_head
from ..model.loading import add_adapter, describe_checkpoint, let_head_train, set_pad_token, with_whole_head
from ..model.weights import loading_arguments, naming_mismatches
from .config import PRMConfig


def load_model(name: str, args, auto_class, num_labels: int, quantization_config=None):
    """The classifier `name` with `num_labels` outputs, as `create_model_from_path` of TRL loads one."""
    kwargs = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
    if quantization_config is not None:
        if "quantization_config" in kwargs:
            raise ValueError("`quantization_config` is set twice: as an argument and in `model_init_kwargs`.")
        kwargs["quantization_config"] = quantization_config
    if kwargs.get("quantization_config") is not None:
        kwargs["quantization_config"] = with_whole_head(kwargs["quantization_config"])
    if args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        kwargs["device_map"] = None
    kwargs = loading_arguments(name, auto_class, num_labels, kwargs)
    with naming_mismatches(name):
        return create_model_from_path(name, auto_class, num_labels=num_labels, **kwargs)


def make_ready(model, args: PRMConfig, tokenizer, peft_config=None):
    """`model` with its pad token, adapter, dropout and fp32 head as they train."""
    set_pad_token(model, tokenizer, tokenizer.pad_token)
    if args.eos_token is not None:
        model.config.get_text_config().eos_token_id = tokenizer.eos_token_id
    if peft_config is not None:
        model = add_adapter(model, peft_config, task_type="TOKEN_CLS", args=args)
    elif is_peft_model(model):
        let_head_train(model, task_type="TOKEN_CLS")
    if is_peft_model(model) and args.gradient_checkpointing:
        model.enable_input_require_grads()
        if args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3:  # trl#2514
            args.gradient_checkpointing_kwargs = args.gradient_checkpointing_kwargs or {}
            args.gradient_checkpointing_kwargs["use_reentrant"] = True
    if args.disable_dropout:
        disable_dropout_in_model(model)
    install_reward_head(model)
    describe_checkpoint(
        model,
        kind="prm",
        score_position="last_separator_token",
        step_separator=None if args.step_token else args.step_separator,
        step_token=args.step_token,
    )
    return model


def called(model_init):
    """A model of `model_init`, which may take a hyperparameter search's trial."""
    return model_init(None) if inspect.signature(model_init).parameters else model_init()


def with_template_of(model, tokenizer, path: str):
    """Model and tokenizer with the chat template of a Jinja file, or of a tokenizer's folder or id."""
    if os.path.isfile(path):
        tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
        return model, tokenizer
    model, tokenizer, _ = clone_chat_template(model, tokenizer, path)
    return model, tokenizer
