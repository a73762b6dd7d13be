"""axolotl's plugin: its reward-model configs train with this package's trainers.

In: axolotl's hooks, called with its config. Out: raw rows instead of padded ones, this package's trainer classes with
their own collators, and the options that axolotl's schema drops.
"""

import weakref
from pathlib import Path
from typing import Any

from axolotl.integrations.base import BasePlugin
from axolotl.utils.logging import get_logger
from pydantic import create_model
from transformers import set_seed
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME as ADAPTER_WEIGHTS
from transformers.utils import CONFIG_NAME as CONFIG

from ...data.entries import DataEntry, load_entry, used_rows
from ...model.attention import default_attention, why_not
from ...model.head import HEAD_NAME
from ...train.checkpoint_files import AUTO, whole_checkpoint
from . import keys
from .config import TASKS, own_options, read_data, task_of
from .corrections import correct
from .data import format_options, train_and_held_out
from .options import overlong, pads

LOG = get_logger(__name__)

RewardPlugArgs = create_model(
    "RewardPlugArgs",
    **{name: (annotation | None, None) for task in TASKS for name, annotation in own_options(task).items()},  # type: ignore
)
"""the options of this package, at the top of axolotl's config"""


class RewardPlugPlugin(BasePlugin):
    """Trains configs with `reward_model: true` or `process_reward_model: true`; with others it does nothing.

    axolotl 0.19 takes it from `plugins: [hf_rewardplug.integrations.axolotl.RewardPlugPlugin]`. axolotl 0.21 loads it
    for every run, since the package has an entry point of the group `axolotl.plugins`.
    """

    task: str | None = None

    def register(self, cfg: dict) -> None:
        """Keep what the schema drops: options of the data sets go to the top, where `RewardPlugArgs` keeps them."""
        self.task = task_of(cfg)
        if self.task is None:
            if any(type(self).__name__ in str(name) for name in cfg.get("plugins") or ()):
                LOG.warning("Neither `reward_model` nor `process_reward_model` is set: hf_rewardplug does nothing.")
            return
        LOG.info("hf_rewardplug trains this reward model.")
        for warning in correct(cfg, self.task):
            LOG.warning(warning)
        self.entries, self.test_entries, options, ignored = read_data(cfg, task=self.task)
        for key, why in ignored.items():
            LOG.warning("not taken  %s: %s", key, why)
        for key, value in options.items():
            cfg[key] = value
        if cfg.get("logging_nan_inf_filter") is None:  # axolotl 0.21's default, True, is not this package's
            cfg["logging_nan_inf_filter"] = False

    def get_input_args(self) -> str | None:
        return None if self.task is None else f"{__name__}.RewardPlugArgs"

    def load_datasets(self, cfg, preprocess: bool = False):
        """Raw rows, which the trainer encodes: axolotl's own loader takes the names of local files for patterns."""
        if self.task is None:
            return None
        from axolotl.common.datasets import TrainDatasetMeta
        from axolotl.utils.data.shared import load_dataset_with_config
        from axolotl.utils.dict import DictDefault

        def load(entry: DataEntry, *, seed: int):
            if Path(entry.path).exists():
                return load_entry(entry, seed=seed)
            try:
                rows = load_dataset_with_config(DictDefault(vars(entry)), cfg.hf_use_auth_token)
            except StopIteration:
                raise ValueError(f"'{entry.path}' has no rows.") from None
            return used_rows(entry, rows, seed=seed)

        options = {
            "test_entries": self.test_entries,
            "val_set_size": cfg.val_set_size or 0,
            "seed": _seed(cfg),
            "ordered": bool(cfg.curriculum_sampling),
            "on_bad_row": cfg.get("on_bad_row") or "error",
        }
        return TrainDatasetMeta(*train_and_held_out(self.entries, **options, load=load))

    def get_training_args(self, cfg) -> dict[str, Any]:
        """axolotl logs every 500 steps where it does not know their number."""
        return {"logging_steps": 10} if self.task is not None and cfg.logging_steps is None else {}

    def get_trainer_cls(self, cfg) -> type | None:
        if self.task is None:
            return None
        from . import trainers

        base = {"orm": trainers.AxolotlRewardTrainer, "prm": trainers.AxolotlPRMTrainer}[self.task]
        options = {name: cfg[name] for name in own_options(self.task) if cfg.get(name) is not None}
        options = (
            overlong(cfg)
            | options
            | format_options(self.entries, test_entries=self.test_entries)
            | {"max_length": cfg.sequence_len}
        )
        if cfg.curriculum_sampling:
            options["train_sampling_strategy"] = "sequential"
        if not cfg.accelerator_config:
            options["accelerator_config"] = None  # axolotl's default one would undo this package's
        return type(base.__name__, (base,), {"options": options})

    def get_collator_cls_and_kwargs(self, cfg, is_eval: bool = False):
        """None of axolotl's, which pads to `sequence_len`: the trainer makes its own."""
        return None if self.task is None else (_no_collator, {})

    def pre_model_load(self, cfg) -> None:
        """axolotl draws the head before it sets a seed.

        Raises:
            ValueError: under ZeRO-3, where axolotl 0.19 and 0.21 fail as they look for a head that was not drawn: a
                rank's part of it may be empty.
        """
        if self.task is None:
            return
        if is_deepspeed_zero3_enabled():
            raise ValueError("axolotl trains no reward model under ZeRO-3. Take ZeRO-2, or `rewardplug train`.")
        set_seed(_seed(cfg))

    def post_model_build(self, cfg, model) -> None:
        """axolotl's examples name an attention, with which a model takes no prefix trees. One that takes none anyway
        keeps it. The key itself stays: axolotl goes by it in the dtypes of norms and embeddings."""
        if self.task is None or not cfg.attn_implementation or pads(cfg):
            return
        named = model.config._attn_implementation
        model.set_attn_implementation(default_attention(model))
        if not cfg.good_token and why_not(model):
            model.set_attn_implementation(named)
        else:
            LOG.warning("not taken  attn_implementation: %s", keys.ATTENTION_OF_TREES)

    def pre_lora_load(self, cfg, model) -> None:
        """`lora_target_linear` would wrap the head too, which PEFT refuses."""
        if self.task is not None and not cfg.good_token and not cfg.lora_exclude_modules:
            cfg.lora_exclude_modules = [HEAD_NAME]

    def post_trainer_create(self, cfg, trainer) -> None:
        """axolotl would resume from the newest checkpoint, be it whole or not."""
        if self.task is None:
            return
        self.trainer = weakref.ref(trainer)
        if cfg.auto_resume_from_checkpoints and not cfg.resume_from_checkpoint:
            folder, _ = whole_checkpoint(AUTO, cfg.output_dir)
            cfg.resume_from_checkpoint = folder and str(folder)
            cfg.auto_resume_from_checkpoints = folder is not None

    def post_train(self, cfg, model) -> None:
        """axolotl saves the model by itself, without what a scorer must know of an adapter's."""
        if self.task is not None and (trainer := self.trainer()) is not None:
            trainer.save_config(cfg.output_dir)

    def post_train_unload(self, cfg) -> None:
        """axolotl leaves the base model's config in an adapter's folder, where it stands for a whole model's."""
        folder = Path(cfg.output_dir)
        if self.task is not None and cfg.local_rank == 0 and (folder / ADAPTER_WEIGHTS).is_file():
            (folder / CONFIG).unlink(missing_ok=True)


def _seed(cfg) -> int:
    return 42 if cfg.seed is None else cfg.seed


def _no_collator(*arguments, **options) -> None:
    return None
