"""Runs on one of two gloo ranks, with the mends and without. conftest.py starts the ranks and reads what they wrote."""

import json
import os
from pathlib import Path

import pytest
import transformers
import trl
from datasets import Dataset
from small import quick
from undo import mean_of_the_batch

import hf_rewardplug
from hf_rewardplug.runs.launchers import deepspeed_on_cpu
from hf_rewardplug.train.base_trainer import ScoreTrainer

BATCH_WEIGHTS = (ScoreTrainer, "evaluation_loop", transformers.Trainer.evaluation_loop)
MEAN_OF_MEANS = (ScoreTrainer, "compute_loss", mean_of_the_batch), (ScoreTrainer, "loss_is_scaled_for_ga", True)
ZERO_3 = Path(__file__).resolve().parents[2] / "recipes" / "deepspeed" / "zero3.json"


def figures(folder: Path, mended: bool) -> dict:
    """Of an optimizer step, of pairs, of steps, of a stream of pairs; undone means TRL's own trainer for the pairs."""
    rows = json.loads((folder / "rows.json").read_text())
    pairs, steps, held_out = (Dataset.from_list(rows[key]) for key in ("pairs", "steps", "held_out"))
    of = hf_rewardplug if mended else trl
    options = {"per_device_eval_batch_size": 2, "accelerator_config": {"dispatch_batches": False}}
    orm = of.RewardTrainer(str(folder / "orm"), of.RewardConfig(**quick(folder, **options)), train_dataset=pairs)
    found = {"ranks": orm.args.world_size, "pairs": orm.evaluate(pairs)}
    found["stream"] = orm.evaluate(pairs.to_iterable_dataset())

    def prm():  # its config sets accelerate's state up anew
        args = hf_rewardplug.PRMConfig(**quick(folder, per_device_train_batch_size=4, per_device_eval_batch_size=2))
        return hf_rewardplug.PRMTrainer(str(folder / "prm"), args, train_dataset=steps)

    with pytest.MonkeyPatch.context() as patch:
        if not mended:
            patch.setattr(*BATCH_WEIGHTS)
        found["steps"] = prm().evaluate(held_out)
        for mend in () if mended else MEAN_OF_MEANS:
            patch.setattr(*mend)
        trainer = prm()
        trainer.train()
    log = trainer.state.log_history[0]
    return {**found, "gradient": [log["loss"], log["grad_norm"]]}


def zero_3(folder: Path, mended: bool) -> list[int]:
    """How many ranks a ZeRO-3 config under `torchrun` finds on CPUs, and which of them it is."""
    os.environ.update(TORCHELASTIC_RUN_ID="pitfall", ACCELERATE_USE_DEEPSPEED="true")
    accelerator_config = deepspeed_on_cpu() if mended else None
    options = {"report_to": "none", "bf16": False, "accelerator_config": accelerator_config}
    args = hf_rewardplug.RewardConfig(str(folder), deepspeed=str(ZERO_3), **options)
    return [args.world_size, args.process_index]


RUNS = {"figures": figures, "zero_3": zero_3}


def run(name: str, folder: Path, mended: bool) -> None:
    found = RUNS[name](folder, mended)
    (folder / f"{'mended' if mended else 'undone'}-{os.environ['RANK']}.json").write_text(json.dumps(found))
