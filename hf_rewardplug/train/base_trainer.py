"""What both trainers add to TRL's: a loss that does not depend on how a step is split, and exact metrics.

In: batches with `score_positions` from the collators. Out: losses divided by the items (pairs, steps, ...) of the whole
optimizer step, logs and evaluation figures from sums and counts over all ranks.
"""

import logging
import time
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import ProgressCallback
from transformers.trainer_utils import EvalLoopOutput

from ..data.canonical import EXAMPLE_ID, PAIR_EXTRAS, SUBSET
from ..model.head import behind_virtual_tokens
from ..model.liger import register_liger
from ..model.sharding import keep_head_fp32
from .callbacks import TokenClock, TokenProgress, watches
from .checkpoints import CheckpointTrainer
from .data_trainer import DataTrainer
from .dataset_checks import check_batches, empty_stream
from .metrics import as_array, mean_loss, unique_items
from .model_card import fit_names, with_usage
from .model_init import ModelInitTrainer
from .objectives.base import WEIGHTS, Tensors
from .output_dir import OutputTrainer
from .packing import check_parallelism, unused_options
from .ranks import Counters
from .sharding import prepare_for_accelerate

logger = logging.getLogger(__name__)

_LEAST = 1e-12  # the smallest divisor: a batch without any weight has a loss of 0


class ScoreTrainer(ModelInitTrainer, DataTrainer, OutputTrainer, CheckpointTrainer):
    """Mixin in front of a TRL trainer.

    A subclass makes its `Setup` before it calls TRL's constructor, and calls `set_up_scores` after it.
    """

    loss_is_scaled_for_ga = False
    """as in TRL: the loss of anybody's `compute_loss` is divided by the accumulation steps"""

    targets = (
        *("labels", *PAIR_EXTRAS, "scores", WEIGHTS),
        *("step_labels", "step_rows", "step_back", "step_labelled"),
        *(EXAMPLE_ID, SUBSET, "skip_logits"),
    )
    """keys of a batch that the model's forward does not take (the last is transformers', for Liger's causal LMs)"""

    @property
    def own_loss(self) -> str | None:
        """The name of a subclass with another `compute_loss`, which may hand the whole batch to the model."""
        own = type(self).compute_loss is not ScoreTrainer.compute_loss
        return type(self).__name__ if own else None

    def set_up_scores(self, model_init) -> None:
        """Set the counters and flags. The subclass calls it after TRL's constructor."""
        self.model_init = model_init  # which TRL's does not take, and transformers' would call once more
        if self.args.n_gpu > 1:  # which would cut a packed row, and the score positions of a padded batch
            raise ValueError(
                f"{type(self).__name__} does not support `nn.DataParallel`, which `Trainer` uses when one process sees "
                "several GPUs. Launch with `accelerate launch` or `torchrun`, or set `CUDA_VISIBLE_DEVICES` to one GPU."
            )
        check_parallelism(self.accelerator.parallelism_config)
        if self.args.process_index == 0:
            for notice in unused_options(self.args):
                logger.warning("%s.", notice)
        self.model_accepts_loss_kwargs = False  # what transformers < 5.19 asks instead of `loss_is_scaled_for_ga`
        self.current_gradient_accumulation_steps = 1  # of a `training_step` before `train`, which sets it
        self.can_return_loss, self.label_names = True, []
        self.counters = Counters(self)
        self._evaluated: list[Tensors] = []
        self.evaluated: dict[str, dict[str, float]] = {}  # an eval set's prefix -> its last figures
        check_batches(self.train_dataset, self.eval_dataset, self.args)
        prepare_for_accelerate(self)
        self.store_row_description()
        if self.args.use_liger_kernel and (reason := register_liger(self.model, self.args.device)):
            self.args.use_liger_kernel = False
            if self.args.process_index == 0:
                logger.warning("Training goes on without Liger's kernels (`use_liger_kernel=True`): %s.", reason)
        for watch in watches(self.args, deepspeed=self.is_deepspeed_enabled, fsdp=self.is_fsdp_enabled):
            self.add_callback(watch)
        self.add_callback(TokenClock(self.counters))
        for callback in list(self.callback_handler.callbacks):
            if type(callback) is ProgressCallback:  # a subclass is the user's
                self.remove_callback(callback)
                self.add_callback(TokenProgress)

    def add_callback(self, callback) -> None:
        """transformers gives a callback no reference to its trainer, so a callback with figures could not log them."""
        super().add_callback(callback)
        for known in self.callback_handler.callbacks:  # those of the constructor too, which adds the progress bar last
            if hasattr(known, "attach_trainer"):
                known.attach_trainer(self)

    def _prepare_inputs(self, inputs: Tensors) -> Tensors:
        """Keep the targets exact: transformers rounds soft labels and margins to DeepSpeed's dtype."""
        exact = {key: inputs[key] for key in self.targets if torch.is_tensor(inputs.get(key))}
        return {**super()._prepare_inputs(inputs), **{key: value.to(self.args.device) for key, value in exact.items()}}

    # ---- loss ----------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """Count the items of the step: pairs, labelled steps, ... transformers counts `labels` (transformers#47688)."""
        if self.is_over():  # the run was resumed after its last step, where transformers would train one more
            self.control.should_training_stop = True
            return [], None
        batch_samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batch_samples:
            if self.state.global_step == 0:
                raise empty_stream(self.preparation_reports.get("train"), self.args)
            return batch_samples, None
        batches = batch_samples if self.own_loss is None else [{**batch} for batch in batch_samples]
        count = sum(self.training_objective.weights(batch).sum() for batch in batches).to(device)
        if self.args.world_size > 1:
            count = self.accelerator.gather(count).sum() / self.get_tp_size()
        return batch_samples, count

    def _get_num_items_in_batch(self, batch_samples, device):
        """Nothing, because `get_batch_samples` has counted the items, and an evaluation batch needs no count."""
        return None

    def compute_loss(self, model, inputs: Tensors, return_outputs: bool = False, num_items_in_batch=None):
        """The losses' sum by the items of the whole step. TRL averages each micro-batch and each rank by itself."""
        arguments = {key: value for key, value in inputs.items() if key not in self.targets}
        if "score_positions" in arguments:
            arguments["score_positions"] = behind_virtual_tokens(self.model, **arguments)
        if self.is_fsdp_enabled:
            keep_head_fp32(self.model)
        outputs = model(**arguments, use_cache=False)
        losses, items = self.training_objective.losses(outputs.logits, inputs)
        weights = self.training_objective.weights(inputs)
        if num_items_in_batch is None:
            loss = losses.sum() / weights.sum().clamp(min=_LEAST)
        else:
            ranks = self.accelerator.num_processes // self.get_tp_size()  # DDP and ZeRO average over them
            loss = losses.sum() * ranks / torch.as_tensor(num_items_in_batch, device=losses.device).clamp(min=_LEAST)
            loss = loss * self.current_gradient_accumulation_steps  # `training_step` divides by it
        items = {key: value.detach() for key, value in {"loss": losses, "weight": weights, **items}.items()}
        if self.model.training:
            self.counters.tokens.add(inputs)
            self.counters.not_finite.add(self.state.global_step + 1, loss, inputs.get(EXAMPLE_ID))
            self.counters.running.add(**self.training_objective.running(items))
        else:
            self._evaluated.append({**items, **{key: inputs[key] for key in (EXAMPLE_ID, SUBSET) if key in inputs}})
        return (loss, outputs) if return_outputs else loss

    def _track_num_input_tokens(self, inputs: Tensors) -> None:
        """Count a shared token for each of its sequences, as "non_padding" promises; transformers counts it once."""
        tree = inputs.get("prefix_tree")
        super()._track_num_input_tokens(
            inputs if tree is None else {**inputs, "attention_mask": torch.tensor(tree["num_tokens"])}
        )

    # ---- metrics -------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log means over all items of the interval. TRL averages the averages of the batches."""
        if self.model.training and "loss" in logs:  # the call that every rank makes
            self.stop_if_not_finite()
            figures = self.training_figures(self.counters.running.read(self.counters.gather_row))
            self.store_calibration(figures, "train")
            logs.update({**figures, **self.counters.tokens.read(self.counters.sum_over_ranks)} if figures else {})
        super().log(logs, start_time)

    def training_figures(self, figures: dict[str, float]) -> dict[str, float]:
        """The figures of the logs, from the means, minima and maxima of `running`."""
        return figures

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Give predictions and labels in the documented shapes; TRL gives raw logits (trl#7010)."""
        before = len(self._evaluated)
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if not prediction_loss_only and len(self._evaluated) > before:
            logits, labels = self.training_objective.predictions(self._evaluated[-1])
        return loss, logits, labels

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Compute metrics over every item exactly once.

        transformers averages losses of batches, so results change with the batch size (trl#7010).
        """
        self._evaluated, start = [], time.perf_counter()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if self._evaluated:
            figures = self._own_figures()
            self.evaluated[metric_key_prefix] = figures
            self.store_calibration(figures, metric_key_prefix)
            own = {f"{metric_key_prefix}_{key}": value for key, value in figures.items()}
            loss_key = f"{metric_key_prefix}_loss"
            output.metrics.update({key: own[key] for key in own if key == loss_key or key not in output.metrics})
        self._evaluated = []
        self.counters.tokens.pause(time.perf_counter() - start)
        return output

    def _own_figures(self) -> dict[str, float]:
        here = [{key: as_array(value) for key, value in batch.items()} for batch in self._evaluated]
        items = unique_items(gather_object(here) if self.accelerator.num_processes > 1 else here)
        subset_of = items.pop(SUBSET, np.array([]))
        figures = {
            **self._figures_of(items),
            "num_tokens": self.counters.sum_over_ranks([self.counters.tokens.tokens])[0],
        }
        for subset in sorted({*subset_of.tolist()} - {""}):
            of_subset = self._figures_of({key: value[subset_of == subset] for key, value in items.items()})
            figures.update({f"subset_{subset}_{key}": value for key, value in of_subset.items()})
        return figures

    def _figures_of(self, items: dict) -> dict[str, float]:
        loss = mean_loss(items["loss"], items["weight"])
        return {"loss": loss, **self.training_objective.figures(items)}

    def _clip_grad_norm(self, model):
        """Note a gradient of NaN, with which transformers would go on until every weight is NaN."""
        norm = super()._clip_grad_norm(model)
        whole = torch.is_tensor(norm) and not hasattr(norm, "full_tensor")  # FSDP2's is spread over the ranks
        if whole and not self.args.fp16:  # its scaler skips a step with infinite gradients
            self.counters.not_finite.add(self.state.global_step + 1, norm)
        return norm

    def store_calibration(self, figures: dict[str, float], prefix: str) -> None:
        """Keep for checkpoints what an evaluation (or, with the prefix "train", a log) says of the rewards."""

    def create_model_card(self, model_name=None, dataset_name=None, tags=None) -> None:
        """Add figures and examples to TRL's card, whose quick start is a pipeline without prompts and steps."""
        super().create_model_card(*fit_names(model_name, dataset_name), tags)
        card = Path(self.args.output_dir, "README.md")
        if self.is_world_process_zero() and card.is_file():
            card.write_text(with_usage(card.read_text(encoding="utf-8"), self), encoding="utf-8")
