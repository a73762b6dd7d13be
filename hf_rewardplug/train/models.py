"""The trainers' models: loaded by name, or handed over, and made ready to train.

In: a name or a model (a token classifier; with `good_token` and `bad_token` a causal LM), the config, the tokenizer.
Out: the model with its head, adapter, pad token, and the description that its checkpoints carry. (For outcome reward
models TRL's constructor does most of this.)
"""

import inspect
import logging
import os
from pathlib import Path

from accelerate.utils import is_peft_model
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, PreTrainedModel
from trl.chat_template_utils import clone_chat_template
from trl.trainer.utils import create_model_from_path

from ..model.head import install_reward_head
from ..model.head_layers import check_reloads
from ..model.label_tokens import install_label_tokens, label_token_ids
from ..model.loading import (
    add_adapter,
    check_model,
    describe_checkpoint,
    let_head_train,
    set_pad_token,
    with_whole_head,
)
from ..model.weights import loading_arguments, read_config, reading_head
from .config import PRMConfig

logger = logging.getLogger(__name__)


def auto_class_of(args: PRMConfig | None):
    """The class of transformers that the model belongs to: a causal LM where there are label tokens."""
    return AutoModelForTokenClassification if getattr(args, "good_token", None) is None else AutoModelForCausalLM


def check_head(model, args: PRMConfig) -> None:
    """`model` has the head that `args` ask for.

    Raises:
        ValueError: it is of another kind, or has another number of labels.
    """
    check_model(model, auto_class_of(args))
    if args.good_token is None and args.num_labels == 1 and model.config.num_labels == 2:
        raise ValueError("num_labels=1, but the model has 2 labels. Leave one of the two out, or give its name.")
    if args.good_token is None and model.config.num_labels not in (1, 2):
        raise ValueError(
            f"The model has `num_labels={model.config.num_labels}`, but process reward models have 1 or 2. Load it "
            "with `AutoModelForTokenClassification.from_pretrained(..., num_labels=2)`, or give its name."
        )
    if args.good_token is None:
        check_reloads(model)


def load_model(name: str, args, auto_class, num_labels: int, quantization_config=None):
    """The model `name`, a classifier with `num_labels` outputs, as `create_model_from_path` of TRL loads one."""
    kwargs = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
    if quantization_config is not None:
        if "quantization_config" in kwargs:
            raise ValueError("`quantization_config` is set twice: as an argument and in `model_init_kwargs`.")
        kwargs["quantization_config"] = quantization_config
    if kwargs.get("quantization_config") is not None and auto_class is not AutoModelForCausalLM:  # whose head is whole
        kwargs["quantization_config"] = with_whole_head(kwargs["quantization_config"])
    if args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        kwargs["device_map"] = None
    kwargs = loading_arguments(name, auto_class, num_labels, kwargs)
    if auto_class is AutoModelForTokenClassification:
        said = getattr(read_config(name, kwargs), "rewardplug", None) or {}
        if "good_token" in said:
            logger.warning(
                "'%s' says good_token=%r and bad_token=%r of steps; a new head is drawn. Set both to keep its own.",
                *(name, said["good_token"], said["bad_token"]),
            )
    with reading_head(name, auto_class, kwargs):
        return create_model_from_path(name, auto_class, num_labels=num_labels, **kwargs)


def make_ready(model, args, tokenizer, *, task_type: str, peft_config=None):
    """`model` with its pad token, adapter and dropout as they train (TRL's constructor does this for an ORM)."""
    set_pad_token(model, tokenizer, tokenizer.pad_token)
    if args.eos_token is not None:
        model.config.get_text_config().eos_token_id = tokenizer.eos_token_id
    if peft_config is not None:
        model = add_adapter(model, peft_config, task_type=task_type, args=args)
    elif is_peft_model(model):
        let_head_train(model, task_type=task_type)
    if is_peft_model(model) and args.gradient_checkpointing:
        model.enable_input_require_grads()
        if args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3:  # trl#2514
            args.gradient_checkpointing_kwargs = args.gradient_checkpointing_kwargs or {}
            args.gradient_checkpointing_kwargs["use_reentrant"] = True
    if args.disable_dropout:
        disable_dropout(model)
    return model


def disable_dropout(model: nn.Module) -> None:
    """TRL's knows `nn.Dropout` alone; attention and many bodies hold their rates as numbers, or read the config's."""
    modules = list(model.modules())
    configs = {id(module.config): module.config for module in modules if isinstance(module, PreTrainedModel)}
    for holder in (*modules, *configs.values()):
        for name, value in list(vars(holder).items()):
            if "drop" in name and isinstance(value, float) and value:
                setattr(holder, name, 0.0)
        if isinstance(holder, _DropoutNd):
            holder.p = 0.0


def steps_ready(model, args: PRMConfig, tokenizer, peft_config=None):
    """`make_ready` with the head of a process reward model, and its description."""
    check_head(model, args)
    labels, task_type = {}, "TOKEN_CLS"
    if args.good_token is not None:
        ids, task_type = label_token_ids(tokenizer, args.good_token, args.bad_token), "CAUSAL_LM"
        labels = dict(zip(("bad_token", "good_token"), tokenizer.convert_ids_to_tokens(ids), strict=True))
    model = make_ready(model, args, tokenizer, task_type=task_type, peft_config=peft_config)
    if labels:
        install_label_tokens(model, ids)
    else:
        install_reward_head(model)
    describe_checkpoint(
        model,
        kind="prm",
        score_position="last_separator_token",
        step_separator=None if args.step_token else args.step_separator,
        step_token=args.step_token,
        **labels,
    )
    return model


def tell_unused(args, quantization_config) -> None:
    """Warn of what loads a model by name, beside a model that is loaded already; as TRL warns for ORMs."""
    options = {"model_init_kwargs": args.model_init_kwargs, "quantization_config": quantization_config}
    for name, value in options.items():
        if value is not None:
            logger.warning("`%s` has no effect: the model is loaded already.", name)


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
