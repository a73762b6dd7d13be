"""Held-out accuracy against training time: this package and the padded trainer, same batches, seed and schedule.

    python benchmarks/learning.py orm --model SMOLLM2_FOLDER [--layers 12] [--seed 0] [--out runs/learning]
    python benchmarks/learning.py prm --model SMOLLM2_FOLDER

orm   HH-RLHF harmless pairs; the padded trainer is TRL's RewardTrainer
prm   PRM800K steps; the padded trainer is this package with `prefix_sharing=False`, which pads as TRL <= 1.13 did

Each trainer runs by itself; its time is that of its optimizer steps with their data loading. Both models are judged by
the same evaluator, outside the time. Out: a table, `learning_*.json` and `learning_*.png`. Half an hour on 2 CPU cores.
"""

import argparse
import json
import os
import random
import time
from itertools import pairwise
from pathlib import Path

import torch
import trl
from datasets import Dataset
from matplotlib.figure import Figure
from side_by_side import machine
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    TrainerCallback,
    set_seed,
)

import hf_rewardplug as rp
from hf_rewardplug.data.chat_templates import set_chat_template

ASSETS = Path(os.environ.get("REWARDPLUG_ASSETS", Path(__file__).resolve().parents[2] / "shared" / "assets"))


class Curve(TrainerCallback):
    """Seconds of training and the evaluator's figures at the start and every `every` steps."""

    def __init__(self, evaluator, every: int):
        self.evaluator, self.every, self.seconds, self.points = evaluator, every, 0.0, []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self._evaluate(0, model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seconds += time.perf_counter() - self.last
        if state.global_step % self.every == 0:
            self._evaluate(state.global_step, model)
        self.last = time.perf_counter()

    def _evaluate(self, step: int, model) -> None:
        self.evaluator.model.load_state_dict(model.state_dict())
        figures = self.evaluator.evaluate()
        point = {"step": step, "seconds": round(self.seconds, 1)}
        shown = ("accuracy", "loss", "f1_wrong")
        self.points.append({**point, **{key: figures[f"eval_{key}"] for key in shown if f"eval_{key}" in figures}})
        print(self.points[-1], flush=True)
        self.last = time.perf_counter()


def rows_of(kind: str, options) -> tuple[list[dict], list[dict]]:
    """Train and held-out rows without a prompt on both sides."""
    name = {"orm": "hh_harmless/train.jsonl", "prm": "prm800k_val/val.jsonl"}[kind]
    columns = {"orm": ("prompt", "chosen", "rejected"), "prm": ("prompt", "completions", "labels")}[kind]
    rows = [json.loads(line) for line in (ASSETS / name).read_text(encoding="utf-8").splitlines()]
    rows = [{key: row[key] for key in columns} for row in rows]
    if kind == "orm":
        rows = [row for row in rows if row["chosen"] != row["rejected"]]
    prompts = sorted({json.dumps(row["prompt"]) for row in rows})
    random.Random(0).shuffle(prompts)
    held = set(prompts[: round(len(prompts) * 0.3)])
    sides = [[row for row in rows if (json.dumps(row["prompt"]) in held) is side] for side in (False, True)]
    for side in sides:
        random.Random(1).shuffle(side)
    return sides[0][: options.train_rows], sides[1][: options.held_out_rows]


def model_and_tokenizer(kind: str, options):
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    set_chat_template(tokenizer, "chatml")
    tokenizer.pad_token = "<|endoftext|>"
    auto_class = AutoModelForSequenceClassification if kind == "orm" else AutoModelForTokenClassification
    layers = {"num_hidden_layers": options.layers} if options.layers else {}
    set_seed(options.seed)  # the head is the same for every trainer
    labels = 1 if kind == "orm" else 2
    model = auto_class.from_pretrained(options.model, num_labels=labels, dtype="float32", **layers)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.get_input_embeddings().requires_grad_(False)
    return model, tokenizer


def trainer_of(kind: str, padded: bool, options, train: list[dict], held_out: list[dict] | None = None):
    trainer_class, config_class = {
        ("orm", True): (trl.RewardTrainer, trl.RewardConfig),
        ("orm", False): (rp.RewardTrainer, rp.RewardConfig),
    }.get((kind, padded), (rp.PRMTrainer, rp.PRMConfig))
    args = config_class(
        output_dir=str(options.out),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=16,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=options.steps // 10,
        logging_steps=20,
        gradient_checkpointing=False,
        bf16=False,
        max_length=1024,
        seed=options.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **({"center_rewards_coefficient": 0.01} if kind == "orm" else {}),
        **({"prefix_sharing": not padded} if kind == "prm" else {}),
    )
    model, tokenizer = model_and_tokenizer(kind, options)
    return trainer_class(
        model,
        args,
        train_dataset=Dataset.from_list(train),
        eval_dataset=Dataset.from_list(held_out) if held_out else None,
        processing_class=tokenizer,
    )


def time_to(points: list[dict], accuracy: float) -> float | None:
    """Seconds until the curve, straight between its points, first has `accuracy`."""
    for before, after in pairwise(points):
        if after["accuracy"] >= accuracy:
            rise = after["accuracy"] - before["accuracy"]
            share = 0.0 if before["accuracy"] >= accuracy else (accuracy - before["accuracy"]) / rise
            return before["seconds"] + share * (after["seconds"] - before["seconds"])
    return None


def plot(curves: dict[str, list[dict]], kind: str, path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot([p["seconds"] / 60 for p in points], [p["accuracy"] for p in points], "o-", label=name)
    axes.set(xlabel="training time in minutes", ylabel=f"held-out accuracy ({'pairs' if kind == 'orm' else 'steps'})")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["orm", "prm"])
    parser.add_argument("--model", required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--train_rows", type=int, default=960)
    parser.add_argument("--held_out_rows", type=int, default=360)
    parser.add_argument("--eval_every", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train, held_out = rows_of(options.kind, options)
    evaluator = trainer_of(options.kind, False, options, train[:8], held_out)
    curves = {}
    padded_name = "TRL" if options.kind == "orm" else "padded"
    for name, padded in (("hf_rewardplug", False), (padded_name, True)):
        trainer = trainer_of(options.kind, padded, options, train)
        curve = Curve(evaluator, options.eval_every)
        trainer.add_callback(curve)
        trainer.train()
        curves[name] = curve.points
    final = curves[padded_name][-1]["accuracy"]
    times = {name: time_to(points, final) for name, points in curves.items()}
    result = {
        "machine": machine(),
        "options": {k: str(v) for k, v in vars(options).items() if k not in ("model", "out")},
    }
    result |= {"held_out": len(evaluator.eval_dataset), "curves": curves, "seconds_to_padded_final": times}
    stem = options.out / f"learning_{options.kind}_{options.seed}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    plot(curves, options.kind, stem.with_suffix(".png"))
    totals = {name: points[-1]["seconds"] for name, points in curves.items()}
    print(f"{padded_name}'s final accuracy {final:.3f}; seconds to it: {times}; seconds of all steps: {totals}")


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count())
    main()
