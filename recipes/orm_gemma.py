"""Outcome reward model: gemma-2-2b judges preference pairs.

Purpose   a sequence classifier with one label from `chosen` / `rejected` rows of any known format
Hardware  one 80 GB GPU in bf16; less with `--use_peft`, several with the commands below; `--demo` needs 2 CPU cores
Commands  python recipes/orm_gemma.py
          accelerate launch --config_file recipes/accelerate/fsdp2.yaml recipes/orm_gemma.py
          deepspeed --num_gpus 8 recipes/orm_gemma.py
          python recipes/orm_gemma.py --dataset_name pairs.jsonl --adapter bradley_terry.chat_template --use_peft
Result    recipes/README.md; every TRL and transformers argument and `--config file.yaml` are taken
"""

import sys
from pathlib import Path

from hf_rewardplug import RewardConfig, RewardTrainer
from hf_rewardplug.runs.recipe import in_one_line, train_recipe
from hf_rewardplug.train.losses import LOSSES_OF_OPTION

BASE = "google/gemma-2-2b"
DEFAULTS = {
    "model_name_or_path": BASE,
    "dataset_name": "argilla/distilabel-intel-orca-dpo-pairs",
    "output_dir": "runs/orm_gemma",
    "max_length": 2048,
    "learning_rate": 1e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,  # a share of the steps
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "eval_strategy": "steps",
    "eval_steps": 0.25,
    "eval_on_start": True,  # the "before" of the closing table
    "save_strategy": "no",  # the final model is always saved
    "report_to": "none",
}


def adjust(arguments, args, model_args) -> None:
    """The chat template and the centering that this base model needs, where nobody asks for others."""
    if args.chat_template is None and (arguments.demo or model_args.model_name_or_path == BASE):
        args.chat_template = "gemma"  # the base model carries none
    if args.center_rewards_coefficient is None and args.loss_type in LOSSES_OF_OPTION["center_rewards_coefficient"]:
        args.center_rewards_coefficient = 0.01  # 0 turns it off


def main() -> None:
    deepspeed = Path(__file__).parent / "deepspeed" / "zero2.json"
    train_recipe(RewardTrainer, RewardConfig, DEFAULTS, demo="gemma", deepspeed=deepspeed, adjust=adjust)


if __name__ == "__main__":
    if error := in_one_line(main):
        sys.exit(error)
