"""Outcome reward models: TRL's `RewardTrainer` with exact losses and metrics, adapters, and an fp32 head.

In: pairs, ranked lists or scored completions of any format that an adapter reads. Out: a sequence classifier with one
label, or one an attribute.
"""

import os
import warnings
from contextlib import nullcontext

import numpy as np
import trl
from accelerate.utils import is_peft_model
from peft import PeftConfig
from trl.trainer.utils import get_config_model_id

from ..data.canonical import PAIR_EXTRAS
from ..data.encoding import Encoder
from ..model.families import check_model
from ..model.head import install_reward_head, loaded_head_state, trained_head_state
from ..model.head_layers import check_reloads
from ..model.kinds import ORM
from ..model.loading import (
    describe_checkpoint,
    embedding_rows,
    let_head_train,
    reward_peft_config,
    set_pad_token,
    with_whole_head,
)
from ..model.saved import SavedModel
from .attributes import attribute_model, one_label
from .base_trainer import ScoreTrainer
from .config import RewardConfig, default_args
from .data_trainer import hub_arguments
from .dataset_checks import check_kind
from .model_init import first_model
from .models import disable_dropout, make_ready
from .objectives import PairObjective, reward_objective
from .option_checks import check_offloading


class RewardTrainer(ScoreTrainer, trl.RewardTrainer):
    """`trl.RewardTrainer`, with every argument of TRL's and the same meaning.

    Beyond TRL: `train_dataset` and `eval_dataset` may have any format that `hf_rewardplug.adapter_names()` lists;
    `args.loss_type` trains on pairs, ranked lists or scored completions; a `peft_config` always trains and saves the
    head; `model_init`, in place of `model`, is `transformers.Trainer`'s. `compute_metrics` gets

        pairs          rewards (N, 2) of chosen and rejected    labels (N,): the better one's column, -100 of a tie
        lists          rewards (N, K)                           scores (N, K), both -100 where a list is shorter
        completions    outputs (N, attributes)                  scores (N, attributes), NaN where not rated

    >>> trainer = RewardTrainer(model="Qwen/Qwen2.5-0.5B-Instruct", train_dataset=dataset)  # doctest: +SKIP
    >>> trainer.train()  # doctest: +SKIP
    """

    def __init__(
        self,
        model=None,
        args: RewardConfig | None = None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        compute_metrics=None,
        callbacks=None,
        optimizers=(None, None),
        optimizer_cls_and_kwargs=None,
        preprocess_logits_for_metrics=None,
        quantization_config=None,
        peft_config=None,
        model_init=None,
    ):
        model = first_model(model, model_init, args, peft_config=peft_config, optimizers=optimizers)
        check_model(model, ORM)
        if train_dataset is not None:
            check_kind(train_dataset, "train")
        name = model if isinstance(model, str) else get_config_model_id(model.config)
        if args is None:
            args = default_args(RewardConfig, f"{name.split('/')[-1]}-Reward")
        if not isinstance(args, RewardConfig):
            raise TypeError(
                f"`args` is a {type(args).__module__}.{type(args).__name__}; expected hf_rewardplug.RewardConfig, "
                "which takes the same arguments: `from hf_rewardplug import RewardConfig`."
            )
        check_offloading(args)
        by_name = isinstance(model, str)
        if args.attributes is not None:
            model, quantization_config = attribute_model(model, args, quantization_config), None
        if isinstance(model, str):
            given = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
            saved = SavedModel(model, given)
            args.model_init_kwargs = saved.arguments(ORM, 1)
        else:
            check_reloads(model)
            if is_peft_model(model) and peft_config is None:
                let_head_train(model, ORM)
        head = (
            {} if isinstance(model, str) else {key: value.clone() for key, value in trained_head_state(model).items()}
        )
        self.training_objective, self._users_collator = reward_objective(args), data_collator
        processing_class = self._set_up_inputs(processing_class, args, model)
        if args.chat_template_path is None or os.path.isfile(args.chat_template_path):  # another adds its tokens
            self.vocab_size = embedding_rows(model, processing_class, **(hub_arguments(args) if by_name else {}))
        self._bound_length(model, args, peft_config)
        attributes = one_label(model, args, by_name) if args.attributes else nullcontext()
        reading = nullcontext()
        if isinstance(model, str):
            reading = saved.reading(ORM)
        with reading, attributes:
            super().__init__(
                model=model,
                args=args,
                data_collator=data_collator
                or self.training_objective.collator(processing_class.pad_token_id, args.pad_to_multiple_of),
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                compute_metrics=compute_metrics,
                callbacks=callbacks,
                optimizers=optimizers,
                optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
                preprocess_logits_for_metrics=preprocess_logits_for_metrics,
                quantization_config=with_whole_head(quantization_config),
                peft_config=reward_peft_config(peft_config, ORM)
                if isinstance(peft_config, PeftConfig)
                else peft_config,
            )
        self._check_collator(data_collator)
        if data_collator is None:
            self.data_collator.pad_token_id = processing_class.pad_token_id  # TRL may have cloned another template
        if args.disable_dropout:
            disable_dropout(self.model)
        self._with_head(self.model)
        head = head or loaded_head_state(self.model)
        for key, value in trained_head_state(self.model).items():
            value.copy_(head.get(key, value))  # TRL's QLoRA cast has rounded it to bf16
        self._share_prefixes(self.model, args)
        self.model_init = model_init  # which TRL's constructor does not take
        self._set_up_scores()
        self._rewards_at, self._rewards = -1, {}  # step, and mean and std of each data set evaluated at it

    def _with_head(self, model):
        """The head in fp32, the embedding with a row for the pad token, the description for scorers."""
        set_pad_token(model, self.processing_class, self.processing_class.pad_token)  # grows the embedding if it must
        install_reward_head(model)
        attributes = {}
        if self.args.attributes is not None:
            attributes["attribute_weights"] = self.training_objective.attribute_sum
        describe_checkpoint(model, ORM, **attributes, **self.row_description())
        return model

    def _ready(self, model, args: RewardConfig, processing_class):
        """A model of `model_init`, for which TRL's constructor is not called again."""
        if args.attributes is not None:
            with one_label(attribute_model(model, args), args, by_name=False):
                return self._with_head(make_ready(model, args, processing_class, kind=ORM))
        if model.config.num_labels != 1:
            raise ValueError(f"`model_init` returned a model with `num_labels={model.config.num_labels}`; expected 1.")
        return self._with_head(make_ready(model, args, processing_class, kind=ORM))

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        """The column names of TRL before 1.0 are read too."""
        names = getattr(dataset, "column_names", None) or ()
        if {"chosen_input_ids", "rejected_input_ids"} <= set(names) and "chosen_ids" not in names:
            warnings.warn(
                "Detected legacy dataset columns `chosen_input_ids`/`rejected_input_ids`; they are deprecated and "
                "will not be supported in v1. Please migrate to `chosen_ids`/`rejected_ids`.",
                FutureWarning,
                stacklevel=2,
            )
            dataset = dataset.rename_columns({"chosen_input_ids": "chosen_ids", "rejected_input_ids": "rejected_ids"})
        return super()._prepare_dataset(dataset, processing_class, args, dataset_name)

    def _check_collator(self, data_collator) -> None:
        """Another collator than the objective's knows pairs and margins alone, as TRL's does."""
        if data_collator is None or isinstance(data_collator, self.training_objective.collator):
            return
        lost = {*PAIR_EXTRAS} - {"margin"} & {*(self.train_dataset.column_names or ())}
        if lost or not isinstance(self.training_objective, PairObjective):
            what = f"the columns {', '.join(sorted(lost))}" if lost else f"loss_type='{self.args.loss_type}'"
            raise ValueError(
                f"{what} needs more of a batch than `{type(data_collator).__name__}` may give. Leave `data_collator` "
                f"out, or derive yours from `hf_rewardplug.{self.training_objective.collator.__name__}`."
            )

    @staticmethod
    def encoder(tokenizer, args: RewardConfig) -> Encoder:
        """The encoder of training, evaluation and scoring."""
        return Encoder(
            tokenizer=tokenizer,
            max_length=args.max_length,
            overlong=args.overlong,
            chat_template_kwargs=args.chat_template_kwargs or {},
        )

    def training_figures(self, figures: dict[str, float]) -> dict[str, float]:
        """The rewards' spread beside their mean: the loss is blind to a constant, so both may drift."""
        if "mean_square" in figures:
            variance = figures.pop("mean_square") - figures["mean_reward"] ** 2
            figures["std_reward"] = max(variance, 0.0) ** 0.5
        return figures

    def remember(self, figures: dict[str, float], prefix: str) -> None:
        """Mean and standard deviation of the rewards into the saved config, for whoever normalises them.

        Of the last evaluation (several sets weigh the same), or without one of the last logging interval.
        """
        if not prefix.startswith("eval") and (prefix != "train" or self.eval_dataset is not None or not figures):
            return
        if self._rewards_at != self.state.global_step:
            self._rewards_at, self._rewards = self.state.global_step, {}
        self._rewards[prefix] = figures["mean_reward"], figures["std_reward"]
        means, stds = np.array(list(self._rewards.values())).T
        self.model.config.rewardplug["calibration"] = {
            "mean": float(means.mean()),
            "std": float(np.sqrt((stds**2 + means**2).mean() - means.mean() ** 2)),
            "step": self._rewards_at,
        }
