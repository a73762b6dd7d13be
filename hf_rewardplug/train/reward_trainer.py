"""Outcome reward models: TRL's `RewardTrainer` with exact losses and metrics, adapters, and an fp32 head.

In: preference rows of any format that an adapter reads. Out: a sequence classifier with one label.
"""

import os
import warnings

import numpy as np
import torch
import trl
from accelerate.utils import is_peft_model
from datasets import Features, List, Value
from peft import PeftConfig
from transformers import AutoModelForSequenceClassification
from trl.trainer.utils import get_config_model_id

from ..data.canonical import EXAMPLE_ID, SUBSET, to_pairs
from ..data.collator import PreferenceCollator
from ..data.encoding import Encoder
from ..model.head import install_reward_head, trained_head_state
from ..model.loading import (
    check_model,
    describe_checkpoint,
    embedding_rows,
    let_head_train,
    reward_peft_config,
    set_pad_token,
    with_whole_head,
)
from ..model.weights import loading_arguments, naming_mismatches
from .base_trainer import ScoreTrainer, Tensors
from .config import RewardConfig, default_args
from .data_trainer import check_kind, hub_arguments
from .losses import bradley_terry_loss
from .metrics import pair_figures, precise


class RewardTrainer(ScoreTrainer, trl.RewardTrainer):
    """`trl.RewardTrainer`, with every argument of TRL's and the same meaning.

    Beyond TRL: `train_dataset` and `eval_dataset` may have any format that `hf_rewardplug.adapter_names()` lists;
    `compute_metrics` gets predictions (N, 2), the rewards of chosen and rejected, and labels (N,), zeros; a
    `peft_config` always trains and saves the head.

    >>> trainer = RewardTrainer(model="Qwen/Qwen2.5-0.5B-Instruct", train_dataset=dataset)  # doctest: +SKIP
    >>> trainer.train()  # doctest: +SKIP
    """

    columns = Features(chosen_ids=List(Value("int64")), rejected_ids=List(Value("int64")), margin=Value("float64"))
    tokenized_columns = ("chosen_ids", "rejected_ids")
    keep_columns = True  # as TRL keeps them
    expand = staticmethod(to_pairs)

    def __init__(
        self,
        model,
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
    ):
        check_model(model, AutoModelForSequenceClassification)
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
        if isinstance(model, str):
            given = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
            args.model_init_kwargs = loading_arguments(model, AutoModelForSequenceClassification, 1, given)
        elif is_peft_model(model) and peft_config is None:
            let_head_train(model, task_type="SEQ_CLS")
        head = (
            {} if isinstance(model, str) else {key: value.clone() for key, value in trained_head_state(model).items()}
        )
        processing_class = self._set_up_inputs(processing_class, args, model)
        if args.chat_template_path is None or os.path.isfile(args.chat_template_path):  # another adds its tokens
            self.vocab_size = embedding_rows(model, processing_class, **(hub_arguments(args) if name is model else {}))
        with naming_mismatches(name):
            super().__init__(
                model=model,
                args=args,
                data_collator=data_collator
                or PreferenceCollator(processing_class.pad_token_id, args.pad_to_multiple_of),
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                compute_metrics=compute_metrics,
                callbacks=callbacks,
                optimizers=optimizers,
                optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
                preprocess_logits_for_metrics=preprocess_logits_for_metrics,
                quantization_config=with_whole_head(quantization_config),
                peft_config=reward_peft_config(peft_config, "SEQ_CLS")
                if isinstance(peft_config, PeftConfig)
                else peft_config,
            )
        set_pad_token(self.model, processing_class, processing_class.pad_token)  # grows the embedding if it must
        install_reward_head(self.model)
        for key, value in trained_head_state(self.model).items():
            value.copy_(head.get(key, value))  # TRL's QLoRA cast has rounded it to bf16
        self._share_prefixes(self.model, args, data_collator)
        self._set_up_scores()
        self._rewards_at, self._rewards = -1, {}  # step, and mean and std of each data set evaluated at it
        describe_checkpoint(self.model, kind="orm", score_position="last_token")

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

    @staticmethod
    def encoder(tokenizer, args: RewardConfig) -> Encoder:
        """The encoder of training, evaluation and scoring."""
        return Encoder(tokenizer=tokenizer, max_length=args.max_length, overlong=args.overlong)

    @staticmethod
    def encode(encoder: Encoder, tokenized: bool, args: RewardConfig, name: str):
        """What turns a canonical (or tokenized) row into an example."""
        return encoder.tokenized_pair if tokenized else encoder.pair

    def _set_signature_columns_if_needed(self):
        if self._signature_columns is None:
            self._signature_columns = ["chosen_ids", "rejected_ids", "margin", EXAMPLE_ID, SUBSET]

    def item_count(self, inputs: Tensors) -> int:
        """Pairs of a batch."""
        return inputs.get("score_positions", inputs["input_ids"]).shape[0] // 2

    def item_losses(self, logits_S1: torch.Tensor, inputs: Tensors) -> tuple[torch.Tensor, Tensors]:
        """Bradley-Terry losses (N,) of a batch whose first half is chosen, and the rewards."""
        chosen_N, rejected_N = logits_S1.squeeze(-1).chunk(2)
        losses_N = bradley_terry_loss(
            chosen_N,
            rejected_N,
            margin_N=inputs.get("margin"),
            center_rewards_coefficient=self.args.center_rewards_coefficient,
        )
        return losses_N, {"chosen": chosen_N, "rejected": rejected_N}

    def running(self, items: Tensors) -> dict:
        """TRL's logs: accuracy, margin, and the least, mean and greatest reward."""
        chosen_N, rejected_N = precise(items["chosen"]), precise(items["rejected"])
        return {
            "count": len(chosen_N),
            "sums": {
                "accuracy": (chosen_N > rejected_N).sum(),
                "margin": (chosen_N - rejected_N).sum(),
                "mean_reward": (chosen_N + rejected_N).sum() / 2,
                "mean_square": (chosen_N**2 + rejected_N**2).sum() / 2,
            },
            "minima": {"min_reward": torch.minimum(chosen_N, rejected_N).min()},
            "maxima": {"max_reward": torch.maximum(chosen_N, rejected_N).max()},
        }

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

    def figures(self, items: dict) -> dict[str, float]:
        """Evaluation figures from every pair."""
        return pair_figures(items["loss"], items["chosen"], items["rejected"])

    def predictions(self, items: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards (N, 2) and labels (N,): zeros, the column of the chosen one."""
        predictions = torch.stack([items["chosen"], items["rejected"]], dim=1)
        return predictions, torch.zeros(len(predictions), dtype=torch.long, device=predictions.device)
