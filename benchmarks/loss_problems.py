"""The problems of `losses.py`: true rows, and the same with labels flipped.

In: how many, a seed. Out: ranked rows whose best completion is first ("pairs", "lists"), or stepwise rows ("steps").
"""

import random
from collections import Counter

import numpy as np

from hf_rewardplug.demo import demo_rows

FLIPPED = 0.1
"""probability that a label is flipped"""


def problems(panel: str, train: int, test: int) -> tuple[list[dict], list[dict]]:
    """True rows to train on and held out: ranked rows with the best completion first, or stepwise rows."""
    rows = {"pairs": _pairs, "lists": _lists, "steps": _solutions}[panel](train + test)
    return rows[:train], rows[train:]


def _pairs(count: int) -> list[dict]:
    rows, _ = demo_rows("gemma", train=count, test=0)
    answers = [(row["prompt"], [row["chosen"], row["rejected"]]) for row in rows]
    return [{"prompt": prompt, "completions": both, "scores": [1, 0]} for prompt, both in answers]


def _lists(count: int) -> list[dict]:
    generator, asked = random.Random(0), {}
    while len(asked) < count:
        numbers = generator.sample(range(10, 100), 4)
        asked.setdefault(frozenset(numbers), (generator.choice(("larger", "smaller")), numbers))
    rows = []
    for word, numbers in asked.values():
        question = f"Which is {word}, {', '.join(map(str, numbers[:-1]))} or {numbers[-1]}?"
        answers = [[{"role": "assistant", "content": str(number)}] for number in sorted(numbers)]
        answers = answers[::-1] if word == "larger" else answers
        prompt = [{"role": "user", "content": question}]
        rows.append({"prompt": prompt, "completions": answers, "scores": [3, 2, 1, 0]})
    return rows


def _solutions(count: int) -> list[dict]:
    """As many wholly right ones as others of each length, so that an outcome says something and length nothing."""
    rows, _ = demo_rows("qwen", train=20 * count, test=0)
    right = [row for row in rows if all(row["labels"])][: count // 2]
    missing, chosen = Counter(len(row["labels"]) for row in right), right
    for row in rows:
        if not all(row["labels"]) and missing[len(row["labels"])]:
            missing[len(row["labels"])] -= 1
            chosen.append(row)
    random.Random(0).shuffle(chosen)
    return chosen


def flipped(rows: list[dict], seed: int, *, outcomes: bool = False, soft: bool = False) -> list[dict]:
    """The rows with one label in ten flipped: a list's order, a step, or with `outcomes` whether all steps are right.

    With `soft` a step's label says how far it can be trusted: 0.9 or 0.1.
    """
    generator = random.Random(seed)
    noisy = []
    for row in rows:
        if "scores" in row:
            upside_down = generator.random() < FLIPPED
            noisy.append({**row, "scores": row["scores"][::-1] if upside_down else row["scores"]})
        elif outcomes:
            outcome = all(row["labels"]) != (generator.random() < FLIPPED)
            noisy.append({"prompt": row["prompt"], "completions": row["completions"], "outcome": outcome})
        else:
            labels = [label != (generator.random() < FLIPPED) for label in row["labels"]]
            noisy.append({**row, "labels": [said(label) for label in labels] if soft else labels})
    return noisy


def said(true: float | np.ndarray) -> float | np.ndarray:
    """Share of noisy labels that say 1 where the truth is `true`, 0 or 1."""
    return abs(true - FLIPPED)
