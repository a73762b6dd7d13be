"""Trains 2,000 steps of a tiny model with evaluation and saving on; writes what the process holds at each evaluation.

python long_run.py {orm,prm} MODEL_FOLDER OUT.json [STEPS]
"""

import gc
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from datasets import Dataset
from rows import quick, solutions, text_pairs
from transformers import TrainerCallback

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer

KINDS = {"orm": (RewardTrainer, RewardConfig, text_pairs), "prm": (PRMTrainer, PRMConfig, solutions)}


class Holdings(TrainerCallback):
    """Resident memory in MiB, live tensors, and the trainer's own lists, one row an evaluation."""

    def __init__(self):
        self.rows, self.trainer = [], None

    def on_evaluate(self, args, state, control, **kwargs):
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        tensors = sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())
        self.rows.append(
            {
                "step": state.global_step,
                "resident_mib": pages * os.sysconf("SC_PAGESIZE") / 2**20,
                "tensors": tensors,
                "evaluated": len(self.trainer._evaluated),
            }
        )


def main() -> None:
    kind, model, out = sys.argv[1:4]
    steps = int(sys.argv[4]) if len(sys.argv) > 4 else 2000
    trainer_class, config_class, make = KINDS[kind]
    options = {"max_steps": steps, "logging_steps": 10, "save_strategy": "steps", "save_steps": steps // 20}
    options |= {"save_total_limit": 1, "eval_strategy": "steps", "eval_steps": steps // 40, "save_only_model": False}
    holdings = Holdings()
    holdings.trainer = trainer = trainer_class(
        model,
        config_class(**quick(Path(out).parent / kind, **options)),
        train_dataset=Dataset.from_list(make(100)),
        eval_dataset=Dataset.from_list(make(20, 1)),
        callbacks=[holdings],
    )
    trainer.train()
    Path(out).write_text(json.dumps(holdings.rows))


if __name__ == "__main__":
    main()
