"""The parts of a trainer, made before TRL's constructor is called: model, tokenizer, objective and collator.

In: the arguments of either trainer's constructor. Out: a `Setup`. What can be checked without loading or encoding
anything is checked first. TRL's constructor then takes parts that are ready.
"""

import copy
import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.trainer_pt_utils import AcceleratorConfig
from trl.chat_template_utils import clone_chat_template

from ..data.step_nodes import NODE_COLUMNS, NODE_PARENTS
from ..model.attention import unwrapped
from ..model.families import check_model
from ..model.head import HEAD_NAME
from ..model.loading import embedding_rows
from ..model.positions import learned_positions
from .config import default_args
from .dataset_checks import check_is_dataset, plans_batches, solutions_alone
from .models import HAS_TREES, make_ready, prepare_gradient_checkpointing, with_added_tokens
from .option_checks import check_offloading
from .packing import pack
from .tokenizer import choose_padding, clones_template, hub_arguments, load_tokenizer, name_of

logger = logging.getLogger(__name__)


class Setup:
    """The parts of a trainer.

    Args:
        models: `RewardModels` or `StepModels`.
        model: a name or a model, as the caller gave it. args, train_dataset, collator: the same.
        own_loss: the name of a trainer whose `compute_loss` is its own, so that its batches must be padded.

    Attributes:
        args: a copy of the caller's, which are left as they are. TRL and transformers write into it.
        objective: what the loss is, and which rows it takes.
        tokenizer, model, collator: ready to train, once `build` has made them.
        vocab_size: rows of the embedding. learned_positions: tokens that a row may have; None: any number.

    Raises:
        TypeError, ValueError: something that was handed over cannot be trained with.
    """

    def __init__(self, models, model, args, train_dataset, collator, *, own_loss: str | None):
        check_model(model, models.model_kind(args))
        if train_dataset is None:
            raise ValueError("`train_dataset` is required")
        check_is_dataset(train_dataset, "train")
        self.models, self.model, self.own_loss = models, model, own_loss
        self.args = copied_args(models, args, name_of(model))
        check_offloading(self.args)
        _turn_off_dispatching(self.args)
        self.objective = models.objective(self.args)
        self.collator = self.users_collator = collator
        self.check_collator({"tie"} & {*self.objective.columns})

    def check_collator(self, columns: Iterable[str]) -> None:
        """Check that somebody else's collator puts into its batches all `columns` of the rows that the loss reads.

        Raises:
            ValueError: it does not.
        """
        if not self._collator_is_foreign():
            return
        if lost := self.models.lost_by_collator(self.args, self.objective, self.users_collator, {*columns}):
            raise ValueError(f"{lost} {self._collator_remedy()}")

    def for_collator(self, dataset, name: str):
        """The encoded data set `name` as the collator takes it.

        Somebody else's collator of steps does not know nodes. It would join the branches of a tree to one sequence.

        Raises:
            ValueError: a row has several branches, and the collator is somebody else's.
        """
        if not self._collator_is_foreign():
            return dataset
        names = dataset.column_names or next(iter(dataset), ())
        if NODE_PARENTS not in names:
            return dataset
        dataset = solutions_alone(dataset, f"The {name} data set {HAS_TREES} {self._collator_remedy()}")
        return dataset.remove_columns([name for name in NODE_COLUMNS if name in names])

    def _collator_is_foreign(self) -> bool:
        """Whether the batches are made by a collator that knows TRL's columns alone."""
        return self.users_collator is not None and not isinstance(self.users_collator, self.objective.collator)

    def _collator_remedy(self) -> str:
        own = self.objective.collator.__name__
        return f"Leave `data_collator` out, or derive yours from `hf_rewardplug.{own}`."

    def build(self, tokenizer: PreTrainedTokenizerBase | None, quantization_config, peft_config) -> None:
        """Load the model and the tokenizer where only names were given, and make every part ready to train."""
        args, hub, added = self.args, hub_arguments(self.args), []
        if not isinstance(self.model, str):
            hub = {}
            warn_of_unused(model_init_kwargs=args.model_init_kwargs, quantization_config=quantization_config)
        self.tokenizer = load_tokenizer(tokenizer, args, self.model)
        if not clones_template(args):
            self._fit_tokenizer(hub)  # by the config of a name: the weights are read when this is right
        self.model = self.models.load(self.model, args, quantization_config)
        self.models.check(self.model, args)
        if clones_template(args):
            cloned = clone_chat_template(self.model, self.tokenizer, args.chat_template_path)
            self.model, self.tokenizer, added = cloned
            self._fit_tokenizer({})
        self._bound_length(peft_config)
        if self.models.trains_added_tokens:
            peft_config = with_added_tokens(peft_config, added)
        self.model = make_ready(self.models, self.model, args, self.tokenizer, peft_config)
        if self.collator is None:
            self.collator = self.objective.collator(self.tokenizer.pad_token_id, args.pad_to_multiple_of)
        pack(self.model, self)

    def ready(self, model):
        """Make another model of `model_init` as ready to train as the first one."""
        self.models.check(model, self.args)
        model = make_ready(self.models, model, self.args, self.tokenizer)
        prepare_gradient_checkpointing(model, self.args)
        pack(model, self)
        return model

    def _fit_tokenizer(self, hub: dict) -> None:
        choose_padding(self.tokenizer, self.args, self.model, hub)
        self.vocab_size = embedding_rows(self.model, self.tokenizer, **hub)

    def _bound_length(self, peft_config) -> None:
        """Bound the length of rows: one that is longer than the model's positions would fail in mid-training."""
        args = self.args
        self.learned_positions = most = learned_positions(self.model, peft_config)
        if most is not None and not (args.max_length or math.inf) <= most and args.process_index == 0:
            logger.warning("`max_length=%s` becomes %d: the model has positions for no more.", args.max_length, most)

    @contextmanager
    def as_trl_expects(self) -> Iterator[None]:
        """Hide from TRL's constructor what is done already, because it would do that again or warn of it."""
        args, config = self.args, self.model.config
        hidden = {name: getattr(args, name) for name in ("model_init_kwargs", "chat_template_path", "eos_token")}
        vars(args).update(dict.fromkeys(hidden))
        names, indices = config.id2label, config.label2id
        config.num_labels = 1  # TRL requires one label, but a model with attributes has an output for each
        head = getattr(unwrapped(self.model), HEAD_NAME, None)
        weights = [(own, own.data) for own in head.parameters()] if isinstance(head, nn.Module) else []
        try:
            yield
        finally:
            vars(args).update(hidden)
            config.id2label, config.label2id = names, indices
            for parameter, weight in weights:
                if parameter.dtype != weight.dtype:  # TRL rounds everything that trains beside a quantized body to bf16
                    parameter.data = weight.to(parameter.device)


def copied_args(models, args, name: str):
    """A copy of `args` that TRL and transformers may write into; without `args` the defaults.

    DeepSpeed's settings are not copied, because transformers refers to the caller's object by a weak reference.
    """
    if args is None:
        return default_args(models.config_class, f"{name.split('/')[-1]}-{models.name}")
    if not isinstance(args, models.config_class):
        ours = models.config_class.__name__
        raise TypeError(
            f"`args` is a {type(args).__module__}.{type(args).__name__}; expected hf_rewardplug.{ours}, which takes "
            f"the same arguments: `from hf_rewardplug import {ours}`."
        )
    own = copy.copy(args)
    for option, value in vars(args).items():
        if isinstance(value, dict | list | AcceleratorConfig):
            vars(own)[option] = copy.copy(value)
    return own


def _turn_off_dispatching(args) -> None:
    """Turn off accelerate's dispatching, which splits each tensor of a batch along its first dimension."""
    if args.accelerator_config.dispatch_batches:
        logger.warning("`dispatch_batches=True` is set to False: score positions cannot be cut out of a batch.")
    args.accelerator_config.dispatch_batches = False
    if args.accelerator_config.split_batches and plans_batches(args):
        raise ValueError(
            "`split_batches=True` cannot go with `max_tokens_per_batch`, `group_by_prefix` or `group_by_length`."
        )


def warn_of_unused(**options) -> None:
    """Warn of options that only loading a model by its name would read."""
    for name, value in options.items():
        if value is not None:
            logger.warning("`%s` has no effect: the model is loaded already.", name)
