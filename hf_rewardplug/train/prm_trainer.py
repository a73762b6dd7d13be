"""Process reward models: the trainer that TRL had until 1.13, on the losses and metrics of `base_trainer`.

In: step rows of any format that an adapter reads. Out: a token classifier with two labels (right = 1) or one; or a
causal LM that says one of two tokens after each step (`good_token`, `bad_token`).
"""

import textwrap
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from trl.trainer.base_trainer import _BaseTrainer

from ..data.canonical import UNLABELLED
from ..data.tokenizing import step_token_ids
from .base_trainer import ScoreTrainer
from .config import PRMConfig
from .model_init import first_model
from .models import StepModels, prepare_gradient_checkpointing
from .setup import Setup


class PRMTrainer(ScoreTrainer, _BaseTrainer):
    """Train a process reward model; takes what `trl.experimental.prm.PRMTrainer` (TRL <= 1.13) took.

    Beyond it: `model` may be a name, `args` None, `eval_dataset` a dict, the data streaming, conversational or
    tokenized already; labels may be bool, 0/1 or floats in [0, 1]; the model may have one label or two; trees of
    alternative steps are read. `compute_metrics` gets predictions (N, steps, labels) and labels (N, steps), -100 where
    there is none.

    Args:
        model (`str`, `PreTrainedModel` or `PeftModel`): a token classifier, or a name to load one from. With
            `good_token` and `bad_token` a causal LM, of whose logits those two are computed, at the steps' ends alone:
            labelled steps x 2 numbers a batch in place of all tokens x vocabulary. No other token is trained.
        args (`PRMConfig`, *optional*)
        data_collator (*optional*): `hf_rewardplug.data.collator.StepCollator` when None.
        train_dataset (`Dataset` or `IterableDataset`): rows of a format in `hf_rewardplug.adapter_names()`.
        eval_dataset (the same, or a dict of them, *optional*)
        processing_class (`PreTrainedTokenizerBase`, *optional*): loaded from the model's name when None.
        model_init, compute_metrics, callbacks, optimizers, preprocess_logits_for_metrics: as in `transformers.Trainer`.
        peft_config (`PeftConfig`, *optional*): the head is always trained and saved beside the adapter; a causal LM's
            stays frozen without `modules_to_save=["lm_head"]`.
        optimizer_cls_and_kwargs, quantization_config (*optional*): as in `RewardTrainer`.

    >>> trainer = PRMTrainer(model="Qwen/Qwen2.5-0.5B", train_dataset=dataset)  # doctest: +SKIP
    >>> trainer.train()  # doctest: +SKIP
    """

    _tag_names = ["trl", "prm"]
    _name = "PRM"
    _paper = {
        "title": "Solving math word problems with process-and outcome-based feedback",
        "id": "2211.14275",
        "citation": textwrap.dedent("""\
            @article{uesato2022solving,
                title   = {{Solving Math Word Problems With Process- and Outcome-Based Feedback}},
                author  = {Uesato, Jonathan and others},
                year    = 2022,
                journal = {arXiv preprint arXiv:2211.14275}
            }"""),
    }

    def __init__(
        self,
        model=None,
        args: PRMConfig | None = None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class: PreTrainedTokenizerBase | None = None,
        model_init=None,
        compute_metrics=None,
        callbacks=None,
        optimizers=(None, None),
        preprocess_logits_for_metrics=None,
        peft_config=None,
        optimizer_cls_and_kwargs=None,
        quantization_config=None,
    ):
        model = first_model(model, model_init, args, peft_config=peft_config, optimizers=optimizers)
        self.setup = Setup(StepModels, model, args, train_dataset, data_collator, own_loss=self.own_loss)
        self.setup.build(processing_class, quantization_config, peft_config)
        prepare_gradient_checkpointing(self.setup.model, self.setup.args)
        super().__init__(
            model=self.setup.model,
            args=self.setup.args,
            data_collator=self.setup.collator,
            train_dataset=self._prepared(train_dataset, "train"),
            eval_dataset=self._prepared(eval_dataset),
            processing_class=self.setup.tokenizer,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        self.set_up_scores(model_init)
        self.model.add_model_tags(self._tag_names)

    @staticmethod
    def tokenize_row(
        features, tokenizer, step_separator, max_length, max_completion_length, train_on_last_step_only, is_eval
    ):
        r"""Token ids and labels of one row, exactly as TRL 1.13's method of this name gave them.

        Kept for those who call it; the trainer cuts long rows between steps instead (`Encoder.steps`).

        Args:
            features (`dict`): `prompt`, `completions`, `labels`.
            max_length, max_completion_length (`int` or `None`): limits in tokens; the rest is cut, in mid-step too.
            train_on_last_step_only, is_eval (`bool`): with the first and without the second only the last label stays.

        Returns:
            `{"input_ids": list[int], "labels": list[int]}`, labels -100 but on each step's last token.
        """
        prompt_ids = tokenizer(features["prompt"], add_special_tokens=False)["input_ids"]
        if tokenizer.bos_token_id is not None:
            prompt_ids = [tokenizer.bos_token_id, *prompt_ids]
        separator_ids = tokenizer.encode(step_separator, add_special_tokens=False)
        step_labels = [int(label) for label in features["labels"]]
        if train_on_last_step_only and not is_eval:
            step_labels[:-1] = [UNLABELLED] * (len(step_labels) - 1)
        completion_ids, labels = [], []
        steps = step_token_ids(tokenizer, features["completions"], separator_ids)
        for ids, label in zip(steps, step_labels, strict=True):
            completion_ids += ids
            labels += [UNLABELLED] * (len(ids) - 1) + [label]
        input_ids = (prompt_ids + completion_ids[:max_completion_length])[:max_length]
        labels = ([UNLABELLED] * len(prompt_ids) + labels[:max_completion_length])[:max_length]
        return {"input_ids": input_ids, "labels": labels}

    def _save_checkpoint(self, model, trial):
        """Write the model card beside the checkpoint, as TRL's trainers do."""
        name = self.args.hub_model_id or Path(self.args.output_dir).name
        self.create_model_card(model_name=name.split("/")[-1])
        super()._save_checkpoint(model, trial)
