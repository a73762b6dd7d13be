"""Trains two optimizer steps of eight rows and evaluates seven, on this process or as one of several ranks.

    main([{orm,lists,prm,outcomes} BATCH_SIZE ACCUMULATION_STEPS MODEL_FOLDER OUT.json,
        [--streaming] [--padded] [--tokens] [--planned_for_two] [--evaluate_first]])

`--tokens` fills batches by a budget instead; `--planned_for_two` plans them for two ranks on one, so that two
accumulated batches are what two ranks take at once. Writes the logs, the evaluation figures and a fingerprint of the
final weights. `test_splits.py` compares them.
"""

import json
import os
import random

import datasets

import hf_rewardplug as rp
from hf_rewardplug.data.batching import BatchPlan
from hf_rewardplug.train import loaders

WORDS = "once upon a time there was a little girl named Lily who liked to play with her red ball in the park".split()


def text(generator: random.Random, length: int) -> str:
    return " ".join(generator.choice(WORDS) for _ in range(length))


def pairs(count: int, seed: int) -> list[dict]:
    g = random.Random(seed)
    return [
        {"prompt": text(g, 4) + "\n", "chosen": text(g, g.randint(1, 12)), "rejected": text(g, g.randint(1, 12))}
        for _ in range(count)
    ]


def solutions(count: int, seed: int) -> list[dict]:
    g = random.Random(seed)
    rows = []
    for _ in range(count):
        steps = g.randint(1, 6)
        completions = [text(g, g.randint(1, 6)) for _ in range(steps)]
        rows.append(
            {"prompt": text(g, 3), "completions": completions, "labels": [g.random() < 0.5 for _ in completions]}
        )
    return rows


def lists(count: int, seed: int) -> list[dict]:
    """Of two to four completions, with weights from 0 to 2."""
    g = random.Random(seed)
    rows = []
    for _ in range(count):
        completions = [text(g, g.randint(1, 12)) + f" {number}" for number in range(g.randint(2, 4))]
        scores = [float(g.randint(0, 2)) for _ in completions[1:]] + [3.0]
        rows.append(
            {"prompt": text(g, 4) + "\n", "completions": completions, "scores": scores, "weight": g.randint(0, 4) / 2}
        )
    return rows


def outcomes(count: int, seed: int) -> list[dict]:
    rows = [{**row, "outcome": row["labels"][0]} for row in solutions(count, seed)]
    return [{key: row[key] for key in ("prompt", "completions", "outcome")} for row in rows]


def main(words: list[str]) -> None:
    kind, batch_size, accumulation, model, out, *flags = words
    trainer_class, config_class, rows = {
        "orm": (rp.RewardTrainer, rp.RewardConfig, pairs),
        "lists": (rp.RewardTrainer, rp.RewardConfig, lists),
        "prm": (rp.PRMTrainer, rp.PRMConfig, solutions),
        "outcomes": (rp.PRMTrainer, rp.PRMConfig, outcomes),
    }[kind]
    loss = {"lists": {"loss_type": "plackett_luce"}, "outcomes": {"loss_type": "min_form"}}.get(kind, {})
    train, held_out = (datasets.Dataset.from_list(rows(count, seed)) for count, seed in ((16, 0), (7, 1)))
    if "--streaming" in flags:
        held_out = held_out.to_iterable_dataset(num_shards=2)
    if "--planned_for_two" in flags:
        loaders.BatchPlan = lambda *args, **options: BatchPlan(*args, **{**options, "ranks": 2})
    args = config_class(
        output_dir=os.path.dirname(out),
        per_device_train_batch_size=int(batch_size),
        per_device_eval_batch_size=int(batch_size),
        gradient_accumulation_steps=int(accumulation),
        max_steps=2,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=1e9,
        logging_steps=1,
        train_sampling_strategy="sequential",
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        prefix_sharing="--padded" not in flags,
        max_tokens_per_batch=70 if "--tokens" in flags else None,
        **loss,
    )
    trainer = trainer_class(model, args, train_dataset=train, eval_dataset=held_out)
    if "--evaluate_first" in flags:
        trainer.evaluate()
    trainer.train()
    figures = trainer.evaluate()
    result = {
        "ranks": trainer.accelerator.num_processes,
        "logs": [log for log in trainer.state.log_history if "loss" in log],
        "eval": {key: value for key, value in figures.items() if "per_second" not in key and "time" not in key},
        "weights": [parameter.double().abs().sum().item() for parameter in trainer.model.parameters()],
    }
    if trainer.is_world_process_zero():
        with open(out, "w") as file:
            json.dump(result, file)
