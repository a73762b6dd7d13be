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
from transformers import PreTrainedModel
from trl.chat_template_utils import clone_chat_template
from trl.trainer.utils import create_model_from_path

from ..model.description import Description
from ..model.families import check_model
from ..model.head import install_reward_head
from ..model.head_layers import check_reloads
from ..model.kinds import LM, PRM, Kind
from ..model.label_tokens import install_label_tokens, label_token_ids
from ..model.loading import add_adapter, describe_checkpoint, let_head_train, set_pad_token, with_whole_head
from ..model.saved import SavedModel
from .config import PRMConfig

logger = logging.getLogger(__name__)


def step_kind(args: PRMConfig | None) -> Kind:
    """The kind of process reward model that is asked for: a causal LM where there are label tokens."""
    return PRM if getattr(args, "good_token", None) is None else LM


def check_head(model, args: PRMConfig) -> None:
    """`model` has the head that `args` ask for.

    Raises:
        ValueError: it is of another kind, or has another number of labels.
    """
    check_model(model, step_kind(args))
    if args.good_token is None and args.num_labels == 1 and model.config.num_labels == 2:
        raise ValueError("num_labels=1, but the model has 2 labels. Leave one of the two out, or give its name.")
    if args.good_token is None and model.config.num_labels not in (1, 2):
        raise ValueError(
            f"The model has `num_labels={model.config.num_labels}`, but process reward models have 1 or 2. Load it "
            "with `AutoModelForTokenClassification.from_pretrained(..., num_labels=2)`, or give its name."
        )
    if args.good_token is None:
        check_reloads(model)


def load_model(name: str, args, kind: Kind, num_labels: int, quantization_config=None):
    """The model `name`, a classifier with `num_labels` outputs, as `create_model_from_path` of TRL loads one."""
    kwargs = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
    if quantization_config is not None:
        if "quantization_config" in kwargs:
            raise ValueError("`quantization_config` is set twice: as an argument and in `model_init_kwargs`.")
        kwargs["quantization_config"] = quantization_config
    if kwargs.get("quantization_config") is not None and kind is not LM:  # whose head is whole
        kwargs["quantization_config"] = with_whole_head(kwargs["quantization_config"])
    if args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        kwargs["device_map"] = None
    saved = SavedModel(name, kwargs)
    kwargs = saved.arguments(kind, num_labels)
    description = Description.of(saved.config)
    if kind is PRM and description.good_token is not None:
        logger.warning(
            "'%s' says good_token=%r and bad_token=%r of steps; a new head is drawn. Set both to keep its own.",
            *(name, description.good_token, description.bad_token),
        )
    with saved.reading(kind):
        return create_model_from_path(name, kind.auto_class, num_labels=num_labels, **kwargs)


def make_ready(model, args, tokenizer, *, kind: Kind, peft_config=None):
    """`model` with its pad token, adapter and dropout as they train (TRL's constructor does this for an ORM)."""
    set_pad_token(model, tokenizer, tokenizer.pad_token)
    if args.eos_token is not None:
        model.config.get_text_config().eos_token_id = tokenizer.eos_token_id
    if peft_config is not None:
        model = add_adapter(model, peft_config, model_kind=kind, args=args)
    elif is_peft_model(model):
        let_head_train(model, kind)
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
    labels, kind = {}, step_kind(args)
    if kind is LM:
        ids = label_token_ids(tokenizer, args.good_token, args.bad_token)
        labels = dict(zip(("bad_token", "good_token"), tokenizer.convert_ids_to_tokens(ids), strict=True))
    model = make_ready(model, args, tokenizer, kind=kind, peft_config=peft_config)
    if kind is LM:
        install_label_tokens(model, ids)
    else:
        install_reward_head(model)
    describe_checkpoint(
        model,
        kind,
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
