"""Rows and configs that the trainer tests share."""

import random

WORDS = "the cat dog sat ran on under mat tree and then a big small red one".split()


def sentence(generator: random.Random, least: int, most: int) -> str:
    return " ".join(generator.choice(WORDS) for _ in range(generator.randint(least, most)))


def text_pairs(count: int, seed: int = 0) -> list[dict]:
    g = random.Random(seed)
    return [
        {"prompt": sentence(g, 2, 6) + "\n", "chosen": sentence(g, 1, 9), "rejected": sentence(g, 1, 9)}
        for _ in range(count)
    ]


def conversations(count: int, seed: int = 0) -> list[dict]:
    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }
        for row in text_pairs(count, seed)
    ]


def solutions(count: int, seed: int = 0, label=lambda g: g.random() < 0.5) -> list[dict]:
    g = random.Random(seed)
    rows = []
    for _ in range(count):
        steps = [sentence(g, 1, 6) for _ in range(g.randint(1, 5))]
        rows.append({"prompt": sentence(g, 2, 6), "completions": steps, "labels": [label(g) for _ in steps]})
    return rows


def quick(folder, **options) -> dict:
    """Config arguments of a short fp32 run on the CPU."""
    defaults = {
        "output_dir": str(folder),
        "max_steps": 3,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 3,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return {**defaults, **options}
