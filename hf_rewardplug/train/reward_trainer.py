"""Outcome reward models: TRL's `RewardTrainer` with exact losses and metrics, adapters, and an fp32 head.

In: pairs, ranked lists or scored completions of any format that an adapter reads. Out: a sequence classifier with one
label, or one an attribute.
"""

import warnings

import numpy as np
import trl

from .base_trainer import ScoreTrainer
from .config import RewardConfig
from .model_init import first_model
from .models import RewardModels
from .setup import Setup


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

    _rewards_at = -1
    """the step of the last evaluation (or log), of which `_rewards` has each data set's mean and spread"""

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
        self.setup = Setup(RewardModels, model, args, train_dataset, data_collator, own_loss=self.own_loss)
        self.setup.build(processing_class, quantization_config, peft_config)
        with self.setup.as_trl_expects():
            super().__init__(
                model=self.setup.model,
                args=self.setup.args,
                data_collator=self.setup.collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=self.setup.tokenizer,
                compute_metrics=compute_metrics,
                callbacks=callbacks,
                optimizers=optimizers,
                optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
                preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            )
        self.set_up_scores(model_init)

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        """The column names of TRL before 1.0 are read too."""
        names = set(getattr(dataset, "column_names", None) or ())
        before = {"chosen_input_ids": "chosen_ids", "rejected_input_ids": "rejected_ids"}
        if names.issuperset(before) and "chosen_ids" not in names:
            warnings.warn(
                "Detected legacy dataset columns `chosen_input_ids`/`rejected_input_ids`; they are deprecated and "
                "will not be supported in v1. Please migrate to `chosen_ids`/`rejected_ids`.",
                FutureWarning,
                stacklevel=2,
            )
            dataset = dataset.rename_columns(before)
        return super()._prepare_dataset(dataset, processing_class, args, dataset_name)

    def training_figures(self, figures: dict[str, float]) -> dict[str, float]:
        """The rewards' spread beside their mean: the loss is blind to a constant, so both may drift."""
        if "mean_square" in figures:
            variance = figures.pop("mean_square") - figures["mean_reward"] ** 2
            figures["std_reward"] = max(variance, 0.0) ** 0.5
        return figures

    def store_calibration(self, figures: dict[str, float], prefix: str) -> None:
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
