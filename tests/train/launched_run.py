"""Trains tiny models one after another as one of the ranks of any launcher; a run can save, die and resume.

    python launched_run.py RUNS.json      a list of the arguments of `run`; each run writes `{output_dir}.json`

`test_launchers.py` starts it, or forks ranks that call `main`, and compares what the runs wrote and saved.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import datasets
import torch
from accelerate.state import AcceleratorState
from peft import LoraConfig
from split_run import pairs, solutions
from transformers import TrainerCallback

import hf_rewardplug as rp
from hf_rewardplug.runs.launchers import deepspeed_on_cpu

TRAINERS = {"orm": (rp.RewardTrainer, rp.RewardConfig, pairs), "prm": (rp.PRMTrainer, rp.PRMConfig, solutions)}


class KillLastRank(TrainerCallback):
    """kill -9 between the first and the second micro-batch of a step."""

    def __init__(self, step: int | None):
        self.step = step

    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step and args.process_index == args.world_size - 1:
            Path(args.output_dir, "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Watch(TrainerCallback):
    """Steps trained here, and the trainer's own scores of the held-out rows when its first checkpoint was saved."""

    trainer, rows, steps = None, None, 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1

    def on_save(self, args, state, control, **kwargs):
        if self.rows is None:
            self.rows = scored_rows(self.trainer)


def scored_rows(trainer) -> list[dict]:
    """[{"ids": tokens, "positions": the scored ones, "scores": logits of each}, ...]"""
    predictions = torch.from_numpy(trainer.predict(trainer.eval_dataset).predictions)
    rows = []
    for row, scores in zip(trainer.eval_dataset, predictions, strict=True):
        if "chosen_ids" in row:
            sides = zip((row["chosen_ids"], row["rejected_ids"]), scores.tolist(), strict=True)
            rows += [{"ids": ids, "positions": [len(ids) - 1], "scores": [[score]]} for ids, score in sides]
        else:
            positions = [position for position, label in enumerate(row["labels"]) if label != -100]
            rows.append({"ids": row["input_ids"], "positions": positions, "scores": scores[: len(positions)].tolist()})
    return rows


def launch_facts(trainer) -> dict:
    """Ranks, and what DeepSpeed does where it is on: [stage, device of the optimizer's states, of the parameters]."""
    facts = {"ranks": trainer.accelerator.num_processes, "zero": None}
    if trainer.is_deepspeed_enabled:
        engine = trainer.deepspeed
        offloads = (engine.zero_offload_optimizer(), engine.zero_offload_param())
        facts["zero"] = [engine.zero_optimization_stage(), *(offload and str(offload.device) for offload in offloads)]
    return facts


def run(
    kind: str,
    model: str,
    output_dir: str,
    batch_size: int,
    max_steps: int,
    save_steps: int,
    lora: bool = False,
    deepspeed: str | None = None,
    kill_in_step: int | None = None,
    checkpoint: str | None = None,
) -> None:
    """Train; from `checkpoint`, which is copied to `output_dir` first, or from the start; resume what is there."""
    trainer_class, config_class, rows = TRAINERS[kind]
    train, held_out = (datasets.Dataset.from_list(rows(count, seed)) for count, seed in ((40, 0), (5, 1)))
    launch = {"use_cpu": True}
    if deepspeed is not None:
        launch = {"deepspeed": deepspeed, "accelerator_config": deepspeed_on_cpu()}
    args = config_class(
        output_dir=output_dir,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=max_steps,
        learning_rate=1e-3,
        adam_epsilon=1e-4,  # no step of full length along a gradient that is nothing but rounding
        logging_steps=1,
        bf16=False,
        save_strategy="steps",
        save_steps=save_steps,
        report_to="none",
        disable_tqdm=True,
        **launch,
    )
    if checkpoint is not None:
        with args.main_process_first():
            if args.process_index == 0:
                shutil.copytree(checkpoint, Path(output_dir) / Path(checkpoint).name)
    watch = Watch()
    trainer = watch.trainer = trainer_class(
        model,
        args,
        train_dataset=train,
        eval_dataset=held_out,
        peft_config=LoraConfig(r=4, target_modules="all-linear") if lora else None,
        callbacks=[KillLastRank(kill_in_step), watch],
    )
    trainer.train(resume_from_checkpoint=any(Path(output_dir).glob("checkpoint-*")))
    trainer.save_model(f"{output_dir}/final")
    facts = {
        **launch_facts(trainer),
        "logs": [log for log in trainer.state.log_history if "loss" in log],
        "steps": watch.steps,
        "scored_rows": watch.rows,
    }
    if trainer.is_world_process_zero():
        Path(f"{output_dir}.json").write_text(json.dumps(facts))
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.free_memory()
    AcceleratorState._reset_state()  # accelerate takes one DeepSpeed config a state


def main(file: str) -> None:
    for arguments in json.loads(Path(file).read_text()):
        run(**arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[-1])
