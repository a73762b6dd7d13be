"""The models that the two trainers train: how each kind is loaded by name, checked, and made ready.

In: a name or a model, the config, the tokenizer. Out: the model with its head, adapter, pad token, and the description
that its checkpoints carry.

    RewardModels    sequence classifiers with one label, or one an attribute
    StepModels      token classifiers with two labels or one; with `good_token` and `bad_token` causal LMs
"""

import copy
import logging
from contextlib import nullcontext

from accelerate.utils import is_peft_model
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedModel, set_seed
from trl.trainer.reward_trainer import suppress_seqcls_warning
from trl.trainer.utils import create_model_from_path

from ..data.canonical import PAIR_EXTRAS
from ..data.step_nodes import NODE_PARENTS
from ..model.description import Description
from ..model.families import check_model
from ..model.head import install_reward_head
from ..model.head_layers import check_reloads
from ..model.kinds import LM, ORM, PRM, Kind, attributes
from ..model.label_tokens import install_label_tokens, label_token_ids
from ..model.loading import add_adapter, describe_checkpoint, let_head_train, set_pad_token, with_whole_head
from ..model.saved import SavedModel
from .config import PRMConfig, RewardConfig
from .objectives import PairObjective, StepObjective, reward_objective

logger = logging.getLogger(__name__)

HAS_TREES = "has trees of steps, whose alternatives must not see each other."


class RewardModels:
    """Sequence classifiers with one label, or one for each of the config's `attributes`."""

    name = "Reward"
    config_class = RewardConfig
    trains_added_tokens = True
    objective = staticmethod(reward_objective)

    @staticmethod
    def model_kind(args: RewardConfig | None) -> Kind:
        """The kind of model that is trained."""
        return ORM

    @classmethod
    def load(cls, model, args: RewardConfig, quantization_config=None):
        """`model`, loaded if it is a name. The adapter's first weights come from the seed too, as in TRL."""
        set_seed(args.seed)
        if isinstance(model, str):
            model = load_model(model, args, cls.model_kind(args), len(args.attributes or [None]), quantization_config)
            if args.attributes is not None:  # an adapter does not depend on how many outputs were drawn
                set_seed(args.seed)
        return model

    @classmethod
    def check(cls, model: PreTrainedModel, args: RewardConfig) -> None:
        """`model` has the head that `args` ask for.

        Raises:
            ValueError: it has another number of outputs, or was trained on other attributes or in another order.
        """
        check_model(model, cls.model_kind(args))
        count, names = model.config.num_labels, args.attributes
        if names is None and count != 1:
            raise ValueError(
                f"The model has `num_labels={count}`, but reward models require `num_labels=1`, a reward for each "
                "sequence. Load it with `num_labels=1`, or give its name."
            )
        if names is not None and count != len(names):
            raise ValueError(
                f"The model has `num_labels={count}`, but {len(names)} attributes are named ({', '.join(names)}). "
                f"Load it with `num_labels={len(names)}`, or give its name."
            )
        trained = list(attributes(model.config) or names or ())
        if names is not None and trained != names:
            raise ValueError(
                f"The model's outputs are {', '.join(trained)}, in this order, but attributes={names}. Name them so, "
                "or take the base model to train others."
            )
        check_reloads(model)

    @staticmethod
    def install(model, args: RewardConfig, tokenizer) -> None:
        """The fp32 head and its description."""
        install_reward_head(model)
        description = {}
        if args.attributes is not None:
            model.config.id2label = dict(enumerate(args.attributes))
            model.config.label2id = {name: index for index, name in enumerate(args.attributes)}
            description["attribute_weights"] = reward_objective(args).attribute_sum
        describe_checkpoint(model, ORM, **description)

    @staticmethod
    def lost_by_collator(args: RewardConfig, objective, collator, columns: set[str]) -> str | None:
        """What somebody else's `collator` would lose: it knows pairs and margins alone, as TRL's does."""
        lost = {*PAIR_EXTRAS} & columns - {"margin"}
        if not lost and isinstance(objective, PairObjective):
            return None
        lost_parts = f"the columns {', '.join(sorted(lost))}" if lost else f"loss_type='{args.loss_type}'"
        return f"{lost_parts} needs more of a batch than `{type(collator).__name__}` may give."


class StepModels:
    """Token classifiers with two labels or one; with `good_token` and `bad_token` causal LMs."""

    name = "PRM"
    config_class = PRMConfig
    trains_added_tokens = False
    objective = StepObjective.from_config

    @staticmethod
    def model_kind(args: PRMConfig | None) -> Kind:
        """The kind of model that is trained: a causal LM where there are label tokens."""
        return PRM if getattr(args, "good_token", None) is None else LM

    @classmethod
    def load(cls, model, args: PRMConfig, quantization_config=None):
        """`model`, loaded if it is a name."""
        if isinstance(model, str):
            set_seed(args.seed)  # the head is drawn when the model is loaded
            model = load_model(model, args, cls.model_kind(args), args.num_labels, quantization_config)
        return model

    @classmethod
    def check(cls, model: PreTrainedModel, args: PRMConfig) -> None:
        """`model` has the head that `args` ask for.

        Raises:
            ValueError: it is of another kind, or has another number of labels.
        """
        check_model(model, cls.model_kind(args))
        if args.good_token is not None:
            return
        if args.num_labels == 1 and model.config.num_labels == 2:
            raise ValueError("num_labels=1, but the model has 2 labels. Leave one of the two out, or give its name.")
        if model.config.num_labels not in (1, 2):
            raise ValueError(
                f"The model has `num_labels={model.config.num_labels}`, but process reward models have 1 or 2. Load it "
                "with `AutoModelForTokenClassification.from_pretrained(..., num_labels=2)`, or give its name."
            )
        check_reloads(model)

    @staticmethod
    def install(model, args: PRMConfig, tokenizer) -> None:
        """The fp32 head, or the label tokens' part of the LM head, and their description."""
        labels = {}
        if args.good_token is None:
            install_reward_head(model)
        else:
            ids = label_token_ids(tokenizer, args.good_token, args.bad_token)
            labels = dict(zip(("bad_token", "good_token"), tokenizer.convert_ids_to_tokens(ids), strict=True))
            install_label_tokens(model, ids)
        describe_checkpoint(
            model,
            StepModels.model_kind(args),
            step_separator=None if args.step_token else args.step_separator,
            step_token=args.step_token,
            **labels,
        )

    @staticmethod
    def lost_by_collator(args: PRMConfig, objective, collator, columns: set[str]) -> str | None:
        """What somebody else's `collator` would lose: it knows chains of steps alone."""
        if NODE_PARENTS in columns:
            return f"The train data set {HAS_TREES}"
        return args.good_token and "`good_token` and `bad_token` are read at score positions alone."


def load_model(name: str, args, model_kind: Kind, num_labels: int, quantization_config=None):
    """The model `name`, a classifier with `num_labels` outputs, as `create_model_from_path` of TRL loads one."""
    kwargs = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
    if quantization_config is not None:
        if "quantization_config" in kwargs:
            raise ValueError("`quantization_config` is set twice: as an argument and in `model_init_kwargs`.")
        kwargs["quantization_config"] = quantization_config
    if kwargs.get("quantization_config") is not None and model_kind is not LM:  # whose head is whole
        kwargs["quantization_config"] = with_whole_head(kwargs["quantization_config"])
    if args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        kwargs["device_map"] = None
    saved = SavedModel(name, kwargs)
    kwargs = saved.arguments(model_kind, num_labels)
    description = Description.of(saved.config)
    if model_kind is PRM and description.good_token is not None:
        logger.warning(
            "'%s' says good_token=%r and bad_token=%r of steps; a new head is drawn. Set both to keep its own.",
            *(name, description.good_token, description.bad_token),
        )
    with saved.reading(model_kind), suppress_seqcls_warning() if model_kind is ORM else nullcontext():
        return create_model_from_path(name, model_kind.auto_class, num_labels=num_labels, **kwargs)


def make_ready(models, model, args, tokenizer, peft_config=None):
    """A model of `RewardModels` or `StepModels` with pad token, adapter, dropout and head as they train."""
    set_pad_token(model, tokenizer, tokenizer.pad_token)  # grows the embedding if it must
    if args.eos_token is not None:
        model.config.get_text_config().eos_token_id = tokenizer.eos_token_id
    if peft_config is not None:
        model = add_adapter(model, peft_config, model_kind=models.model_kind(args), args=args)
    elif is_peft_model(model):
        let_head_train(model, models.model_kind(args))
    if args.disable_dropout:
        disable_dropout(model)
    models.install(model, args, tokenizer)
    return model


def prepare_gradient_checkpointing(model, args) -> None:
    """Set what gradient checkpointing needs beside an adapter. TRL's constructor does the same for an ORM."""
    if not is_peft_model(model) or not args.gradient_checkpointing:
        return
    model.enable_input_require_grads()
    if args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3:  # trl#2514
        args.gradient_checkpointing_kwargs = args.gradient_checkpointing_kwargs or {}
        args.gradient_checkpointing_kwargs["use_reentrant"] = True


def disable_dropout(model: nn.Module) -> None:
    """Set every rate of dropout to 0. TRL's function misses attention and bodies that hold their rates as numbers."""
    modules = list(model.modules())
    configs = {id(module.config): module.config for module in modules if isinstance(module, PreTrainedModel)}
    for holder in (*modules, *configs.values()):
        for name, value in list(vars(holder).items()):
            if "drop" in name and isinstance(value, float) and value:
                setattr(holder, name, 0.0)
        if isinstance(holder, _DropoutNd):
            holder.p = 0.0


def with_added_tokens(peft_config, added: list[int]):
    """A copy of `peft_config` that also trains the tokens added with a cloned chat template, as TRL does."""
    if not added or not hasattr(peft_config, "trainable_token_indices"):
        return peft_config
    widened = copy.deepcopy(peft_config)
    indices = dict(widened.trainable_token_indices or {})
    widened.trainable_token_indices = {**indices, "embed_tokens": [*indices.get("embed_tokens", ()), *added]}
    return widened
