"""Checkpoints that a run can go on from, as if it had not been interrupted; NaN is saved in none.

In: a trainer, and what `resume_from_checkpoint` says. Out: a resumed run, and saves that are read back.
"""

import json
import logging
from pathlib import Path

import torch
from accelerate.utils import gather_object, is_peft_model
from transformers import EarlyStoppingCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME

from ..data.canonical import EXAMPLE_ID
from ..model.head import trained_head_state
from ..model.loading import ADAPTER_MODEL_CONFIG
from ..model.places import step_of
from ..model.weights import check_saved_head
from .best_metric import check_best_metric
from .checkpoint_files import (
    RECORD,
    checkpoints_of,
    checksums,
    file_sizes,
    flush_to_disk,
    read_state,
    whole_checkpoint,
    why_not_whole,
)
from .option_checks import check_budget
from .ranks import agreed
from .rendering import check_date
from .resuming import check_same_run, run_settings

logger = logging.getLogger(__name__)


class CheckpointTrainer:
    """Mixin in front of a transformers trainer that has `counters`: exact resumes, and saves that are read
    back."""

    _patience_is_over = False
    _run_settings: dict = {}

    def train(self, resume_from_checkpoint: str | bool | None = None, trial=None, ignore_keys_for_eval=None):
        """transformers' resumes from a folder that was half written, and TRL's counts tokens from 0 again.

        After an `evaluate` accelerate (1.15) takes the model for prepared, and DDP's ranks would train apart.
        """
        alone = self.model_wrapped is self.model and not self.is_deepspeed_enabled and not self.is_fsdp_enabled
        if alone and self.args.world_size > 1 and self.model is not None:  # None: a search has freed the last trial's
            self.model.__dict__.pop("_is_accelerate_prepared", None)
        check_budget(self.args)
        self._patience_is_over = False
        check_best_metric(self)
        folder, record, self._run_settings = agreed(self.args, self._found, resume_from_checkpoint, trial)
        if folder is not None or trial is not None:  # that of a search is a run of its own
            self.counters.tokens.restore(record, here=self.args.process_index == 0)
        self.counters.tokens.mark()
        first, self.args.eval_on_start = self.args.eval_on_start, self.args.eval_on_start and folder is None
        try:
            output = super().train(None if folder is None else str(folder), trial, ignore_keys_for_eval)
        finally:
            self.args.eval_on_start = first
        self.stop_if_not_finite()
        return output

    def _found(self, asked: str | bool | None, trial) -> tuple[Path | None, dict, dict]:
        """The checkpoint to resume from with its record, and what this run will record of itself."""
        folder, record = whole_checkpoint(asked, self.args.output_dir) if asked else (None, {})
        if trial is not None or (folder is None and self.args.save_strategy == "no"):
            return folder, record, {}
        if folder is not None:  # which explains why the rows differ
            check_date(folder, self.processing_class)
        here = run_settings(self)
        if folder is not None:
            steps = read_state(folder)["global_step"]
            for words in check_same_run(self, folder, record.get("run", {}), here, steps):
                logger.warning("The checkpoint was trained with %s, which gives the same steps.", words)
        return folder, record, here

    def _load_callback_state(self) -> None:
        """transformers counts early stopping's patience anew."""
        super()._load_callback_state()
        for callback in self.callback_handler.callbacks:
            saved = self.state.stateful_callbacks.get(type(callback).__name__)
            if isinstance(callback, EarlyStoppingCallback) and isinstance(saved, dict):
                count = saved.get("attributes", {}).get("early_stopping_patience_counter", 0)
                callback.early_stopping_patience_counter = count
                self._patience_is_over |= count >= callback.early_stopping_patience

    def is_over(self) -> bool:
        """Whether a resumed run has trained its last step already."""
        last = 0 < self.state.max_steps <= self.state.global_step
        return last or self._patience_is_over or self.control.should_training_stop

    def stop_if_not_finite(self) -> None:
        """Reads the device: to be called by every rank, where a log or a checkpoint does so anyway.

        Raises:
            ValueError: the loss or the gradient of a step was NaN or infinite.
        """
        step = self.counters.not_finite.read(self.counters.gather_row)
        if step is not None:
            ids = self.counters.not_finite.ids(step)
            ids = gather_object(ids) if self.args.world_size > 1 else ids
            agreed(self.args, self._stop, step, ids)

    def _stop(self, step: int, ids: list[int]) -> None:
        folders = checkpoints_of(self.args.output_dir)
        last = next((folder for folder in folders if step_of(folder) < step and why_not_whole(folder) is None), None)
        shown = f"{', '.join(map(str, ids[:20]))}{', ...' if ids[20:] else ''}" if ids else "(not known)"
        raise ValueError(
            f"Step {step}: the loss or its gradient is NaN or infinite. Its batch has the rows {shown} of the train "
            f"data set (column '{EXAMPLE_ID}'). Nothing is saved from here on; "
            f"{f'the last whole checkpoint is {str(last)!r}' if last else 'there is no whole checkpoint'}. Lower the "
            "learning rate, or look at these rows."
        )

    def _save_checkpoint(self, model, trial) -> None:
        """Of a folder that is written again, `trainer_state.json` must go first: it says that the rest is whole."""
        self.stop_if_not_finite()
        self.state.stateful_callbacks.pop(RECORD, None)  # an earlier checkpoint's
        for callback in (*self.callback_handler.callbacks, self.control):
            if isinstance(callback, ExportableState):  # transformers looks for each, of a resumed run too
                self.state.stateful_callbacks.setdefault(type(callback).__name__, {})
        folder = Path(self._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)
        if self.args.should_save and (folder / TRAINER_STATE_NAME).is_file():
            for path in (folder / TRAINER_STATE_NAME, folder, folder.parent):
                flush_to_disk(path)

    def _save_rng_state(self, output_dir: str) -> None:
        """The last files before `trainer_state.json`, which lists them; so every rank's must be there."""
        super()._save_rng_state(output_dir)
        tokens, unique = self.counters.sum_over_ranks(list(self.counters.tokens.of_whole_steps))
        self.accelerator.wait_for_everyone()
        files = file_sizes(Path(output_dir)) if self.args.should_save else {}
        self.state.stateful_callbacks[RECORD] = {
            "files": files,
            "checksums": checksums(Path(output_dir), files, flush=True),
            "num_tokens": tokens,
            "num_unique_tokens": unique,
            "run": self._run_settings,
        }

    def _load_best_model(self) -> None:
        """The calibration belongs to the weights."""
        super()._load_best_model()
        name = ADAPTER_MODEL_CONFIG if is_peft_model(self.model) else CONFIG_NAME
        if (config := Path(self.state.best_model_checkpoint, name)).is_file():
            saved = json.loads(config.read_text(encoding="utf-8"))
            self.model.config.rewardplug = saved.get("rewardplug", self.model.config.rewardplug)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        """With an adapter the model's config too, and read back before it counts as saved."""
        if self.args.should_save and not getattr(self, "is_distributed_loading_by_transformers", False):
            check_finite(state_dict or {n: p for n, p in self.model.named_parameters() if p.requires_grad})
        super()._save(output_dir, state_dict)
        folder = output_dir or self.args.output_dir
        if not self.args.should_save or state_dict == {}:  # transformers' dummy, where ZeRO-3 gathers nothing
            return
        if is_peft_model(self.model):
            self.save_config(folder)
        if getattr(self, "is_distributed_loading_by_transformers", False):  # the head is spread over the ranks
            return
        adapter = self.model.active_adapter if is_peft_model(self.model) else None
        check_saved_head(folder, trained_head_state(self.model, state_dict), adapter)

    def save_config(self, output_dir: str | None = None) -> None:
        """The model's config as it is now: pad token, separator, score position, calibration of the last evaluation."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        if is_peft_model(self.model):
            self.model.config.to_json_file(folder / ADAPTER_MODEL_CONFIG)
        else:
            self.model.config.save_pretrained(folder)


def check_finite(tensors: dict[str, torch.Tensor]) -> None:
    """
    Raises:
        ValueError: a weight is NaN or infinite.
    """
    for name, tensor in tensors.items():
        kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        if tensor.dtype in kinds and tensor.numel() and tensor.device.type != "meta":
            if not all(bool(extreme.isfinite()) for extreme in torch.aminmax(tensor.detach())):
                raise ValueError(
                    f"The weights hold NaN or infinity (the first is '{name}') and are not saved. Lower the learning "
                    "rate, or go on from an earlier checkpoint."
                )
