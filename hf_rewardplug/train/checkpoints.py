"""Whole checkpoints: one that was half written is never resumed from, and a saved head is the head that trained.

In: a checkpoint's folder, or `output_dir` with several. Out: the newest whole one, or why a folder is none.

transformers writes `trainer_state.json` last, and resumes from the newest folder whether it is there or not. Here that
file also lists all others with their sizes, so that a folder cut short by a kill or by a copy gives itself away.
"""

import json
import logging
from pathlib import Path

from accelerate.utils import broadcast_object_list, is_peft_model
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import ADAPTER_WEIGHTS_NAME, CONFIG_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from ..model.head import trained_head_state
from ..model.loading import ADAPTER_MODEL_CONFIG
from ..model.places import step_of
from ..model.weights import check_saved_head, why_not_readable
from .rendering import check_date

logger = logging.getLogger(__name__)

RECORD = "rewardplug"
"""key of `TrainerState.stateful_callbacks` with {"files": {name: bytes}, "num_tokens", "num_unique_tokens"}"""

_UNLISTED = ("README.md", TRAINER_STATE_NAME)


class CheckpointTrainer:
    """Mixin in front of a transformers trainer that counts `_tokens`: exact resumes, and saves that are read back."""

    def train(self, resume_from_checkpoint: str | bool | None = None, trial=None, ignore_keys_for_eval=None):
        """transformers' resumes from a folder that was half written, and TRL's counts tokens from 0 again.

        After an `evaluate` accelerate (1.15) takes the model for prepared, and DDP's ranks would train apart.
        """
        alone = self.model_wrapped is self.model and not self.is_deepspeed_enabled and not self.is_fsdp_enabled
        if alone and self.args.world_size > 1 and self.model is not None:  # None: a search has freed the last trial's
            self.model.__dict__.pop("_is_accelerate_prepared", None)
        if resume_from_checkpoint:
            folder, record = self._agreed(whole_checkpoint, resume_from_checkpoint, self.args.output_dir)
            check_date(folder, self.processing_class)
            self._tokens.restore(record, here=self.args.process_index == 0)
            resume_from_checkpoint = str(folder)
        elif trial is not None:  # of a search, a run of its own
            self._tokens.restore({}, here=False)
        self._tokens.mark()
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _agreed(self, function, *arguments):
        """What the first rank finds, or raises, on every rank."""
        found: list = [None]
        if self.args.process_index == 0:
            try:
                found[0] = function(*arguments)
            except Exception as error:  # whatever it is, the others wait to hear of it
                found[0] = error
        if self.args.world_size > 1:
            broadcast_object_list(found)
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    def _save_checkpoint(self, model, trial) -> None:
        """Of a folder that is written again, `trainer_state.json` must go first: it says that the rest is whole."""
        self.state.stateful_callbacks.pop(RECORD, None)  # an earlier checkpoint's
        folder = Path(self._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        """The last files before `trainer_state.json`, which lists them; so every rank's must be there."""
        super()._save_rng_state(output_dir)
        tokens, unique = self._gather_counts([self._tokens.tokens, self._tokens.unique])
        self.accelerator.wait_for_everyone()
        files = file_sizes(Path(output_dir)) if self.args.should_save else {}
        self.state.stateful_callbacks[RECORD] = {"files": files, "num_tokens": tokens, "num_unique_tokens": unique}

    def _load_best_model(self) -> None:
        """The calibration belongs to the weights."""
        super()._load_best_model()
        name = ADAPTER_MODEL_CONFIG if is_peft_model(self.model) else CONFIG_NAME
        if (config := Path(self.state.best_model_checkpoint, name)).is_file():
            saved = json.loads(config.read_text(encoding="utf-8"))
            self.model.config.rewardplug = saved.get("rewardplug", self.model.config.rewardplug)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        """With an adapter the model's config too, and read back before it counts as saved."""
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


def file_sizes(folder: Path) -> dict[str, int]:
    """{name: bytes} of all files below `folder`, but for the model card, which people edit."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in _UNLISTED)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def read_record(folder: Path) -> dict:
    """What this package wrote into the checkpoint's `trainer_state.json`; {} of somebody else's."""
    state = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    if not isinstance(state, dict):
        raise ValueError(f"{TRAINER_STATE_NAME} is no object")
    return (state.get("stateful_callbacks") or {}).get(RECORD, {})


def why_not_whole(folder: Path) -> str | None:
    """Why a run cannot be resumed from `folder`, or None. Somebody else's checkpoint is read as far as it tells."""
    if not folder.is_dir():
        return "there is no such folder"
    try:
        record = read_record(folder)
    except FileNotFoundError:
        return f"{TRAINER_STATE_NAME}, which is written last, is missing"
    except ValueError:
        return f"{TRAINER_STATE_NAME} is cut off"
    sizes = file_sizes(folder)
    for name, size in record.get("files", {}).items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != size and not _is_json(folder / name):  # which people edit
            return f"{name} has {sizes[name]} of {size} bytes"
    if missing := _missing_state(folder):
        return (
            f"{' and '.join(missing)} {'are' if missing[1:] else 'is'} missing (`save_only_model=True` saves none of "
            "them), so the optimizer, the learning rate or the random numbers would start anew. To train on from its "
            f"weights alone, give model='{folder}'"
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and any(
        (folder / name).is_file() for name in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME, ADAPTER_WEIGHTS_NAME)
    ):
        return "its weights are a pickle, which can run code when it is read; safetensors alone are"
    return next((reason for path in weights if (reason := why_not_readable(path))), None)


def _missing_state(folder: Path) -> list[str]:
    """What transformers would not restore, and say nothing: it looks for each file and goes on without."""
    files = {"rng_state": "rng_state.pth"}  # or `rng_state_<rank>.pth`
    if not any(folder.glob("global_step*")):  # DeepSpeed's own folder, with the optimizer and mostly the schedule
        files = {"optimizer": "optimizer.pt", "scheduler": "scheduler.pt", **files}  # FSDP: optimizer.bin, optimizer_0/
    return [name for kind, name in files.items() if not any(folder.glob(f"*{kind}*"))]


def _is_json(path: Path) -> bool:
    try:
        return path.suffix == ".json" and json.loads(path.read_text(encoding="utf-8")) is not None
    except ValueError:
        return False


def whole_checkpoint(asked: str | bool, output_dir: str) -> tuple[Path, dict]:
    """The folder to resume from, and its record: the one `asked` for, or (True) the newest whole one in `output_dir`.

    Raises:
        ValueError: it is not whole, or there is none.
    """
    if asked is not True:
        if reason := why_not_whole(Path(asked)):
            raise ValueError(
                f"resume_from_checkpoint='{asked}' cannot be resumed from: {reason}. Give another checkpoint, or True "
                "for the newest whole one in `output_dir`."
            )
        return Path(asked), read_record(Path(asked))
    folders = [path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if step_of(path) is not None]
    reasons = {}
    for folder in sorted(folders, key=step_of, reverse=True):
        reasons[folder.name] = why_not_whole(folder)
        if reasons[folder.name] is None:
            return folder, read_record(folder)
        logger.warning("'%s' is not a whole checkpoint and is passed over: %s.", folder, reasons[folder.name])
    none = "has no checkpoint"
    if reasons:
        newest, reason = next(iter(reasons.items()))
        none = f"has no whole one among its {len(folders)} checkpoints. Of the newest, {newest}, {reason}"
    raise ValueError(
        f"resume_from_checkpoint=True, but output_dir='{output_dir}' {none}. Leave it out to start from the beginning."
    )
