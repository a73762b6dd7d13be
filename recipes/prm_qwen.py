"""Process reward model: Qwen2.5-3B judges the steps of a solution.

Purpose   a token classifier with two labels (label 1: the step is right) from step-labelled rows of any known format
Hardware  one 80 GB GPU in bf16; less with `--use_peft`, several with the commands below; `--demo` needs 2 CPU cores
Commands  python recipes/prm_qwen.py
          accelerate launch --config_file recipes/accelerate/zero3.yaml recipes/prm_qwen.py
          deepspeed --num_gpus 8 recipes/prm_qwen.py
          python recipes/prm_qwen.py --dataset_name prm800k.jsonl --eval_dataset_name processbench.jsonl
Result    recipes/README.md; every TRL and transformers argument and `--config file.yaml` are taken
"""

import sys
from pathlib import Path

from hf_rewardplug import PRMConfig, PRMTrainer
from hf_rewardplug.runs.recipe import in_one_line, train_recipe

DEFAULTS = {
    "model_name_or_path": "Qwen/Qwen2.5-3B",
    "dataset_name": "trl-lib/math_shepherd",
    "output_dir": "runs/prm_qwen",
    "max_length": 2048,
    "learning_rate": 1e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,  # a share of the steps
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 4,
    "eval_strategy": "steps",
    "eval_steps": 0.25,
    "eval_on_start": True,  # the "before" of the closing table
    "save_strategy": "no",  # the final model is always saved
    "report_to": "none",
}


def main() -> None:
    deepspeed = Path(__file__).parent / "deepspeed" / "zero2.json"
    train_recipe(PRMTrainer, PRMConfig, DEFAULTS, demo="qwen", deepspeed=deepspeed)


if __name__ == "__main__":
    if error := in_one_line(main):
        sys.exit(error)
