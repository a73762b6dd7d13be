"""RewardBench 2: one correct answer among four, and prompts with many correct ones -> accuracy by subset, their mean.

Source: arXiv:2506.01937, https://github.com/allenai/reward-bench: scripts/run_v2.py, and in rewardbench/utils.py
reroll_and_score_dataset (best of four) and process_single_model (Ties). That the overall figure is the mean of the
subsets stands on the data card, https://huggingface.co/datasets/allenai/reward-bench-2.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_rewardplug.checks import RowError
from hf_rewardplug.data.adapters.fields import field, integer, text
from hf_rewardplug.data.adapters.fields import items as list_of
from hf_rewardplug.data.canonical import subset_name

from .examples import Completion, Prompt, as_chat, mean_by, scored
from .registry import Result, Row, places_of, read_rows, register_benchmark

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Example:
    prompt: Prompt
    completions: list[Completion]  # the correct ones first
    correct: int
    subset: str
    tie: tuple[str, str] | None  # of the subset Ties: ("ref" or "tied", number of the prompt)


@register_benchmark(
    "rewardbench2",
    kind="orm",
    hub="allenai/reward-bench-2",
    split="test",
    columns=("id", "prompt", "chosen", "rejected", "num_correct", "subset"),
    source="arXiv:2506.01937, https://github.com/allenai/reward-bench",
)
def rewardbench2(scorer: Any, rows: list[Row], *, chat: bool = True) -> Result:
    """RewardBench 2 (arXiv:2506.01937): the correct answer among four, and the subset Ties by its own score.

    Right where the correct answer has the highest score; where k answers share it, 1/k. Ties: `ties_score`; right in
    its items is whether all correct answers are above all wrong ones. "accuracy" is the mean over the subsets. With
    `max_rows`, Ties loses prompts whose "ref" or "tied" half is left out.

    Args:
        chat: prompts and answers are turns; False: plain text.
    """
    examples = read_rows("rewardbench2", rows, lambda row: _read(row, chat))
    prompts, completions = [example.prompt for example in examples], [example.completions for example in examples]
    scores = scored("rewardbench2", scorer, prompts, completions, places=places_of(rows))
    items = [
        {
            "prompt": example.prompt,
            "completions": example.completions,
            "scores": row,
            "right": best_of(row) if example.tie is None else _gap(row, example.correct) > 0,
            "subset": example.subset,
        }
        for example, row in zip(examples, scores, strict=True)
    ]
    plain = mean_by([item["right"] for item in items], [example.subset for example in examples])
    figures, counts = {}, {name: value for name, value in plain.items() if name.startswith("n")}
    for subset in dict.fromkeys(example.subset for example in examples):
        if subset.lower() != "ties":
            figures[f"accuracy/{subset}"] = plain[f"accuracy/{subset}"]
            continue
        own = {e.tie: (row, e.correct) for e, row in zip(examples, scores, strict=True) if e.tie is not None}
        figures |= {name.replace("Ties", f"accuracy/{subset}"): value for name, value in ties_score(own).items()}
    subsets = [value for name, value in figures.items() if name.count("/") == 1]
    if not subsets:
        raise ValueError("benchmark 'rewardbench2': there is neither a best-of-four row nor a whole prompt of Ties.")
    return Result("rewardbench2", {"accuracy": float(np.mean(subsets)), **figures, **counts}, items)


def best_of(scores: list[float]) -> float:
    """1 where the first score is the highest, 1/k where k share that place, else 0.

    >>> best_of([2.0, 1.0, 0.0, 1.0]), best_of([2.0, 2.0, 0.0, 1.0]), best_of([1.0, 2.0, 0.0, 1.0])
    (1.0, 0.5, 0.0)
    """
    return 1 / scores.count(max(scores)) if scores[0] == max(scores) else 0.0


def ties_score(prompts: dict[tuple[str, str], tuple[list[float], int]]) -> dict[str, float]:
    """Subset Ties: {(half, prompt): (scores, how many of the first are correct)} -> its score and its parts.

    A prompt has two halves: "tied" with many correct answers, and "ref" with one. Gap: lowest correct score minus
    highest wrong one. Spread: highest correct score of "tied" minus its lowest. The score is

        0.3 tied: share of "tied" with a gap > 0          0.3 ref: the same of "ref"
        0.2 gap: share with tied gap > spread             0.2 hard gap: share with both gaps > spread
        0.01 margin: mean of tanh(smaller gap / spread - 1), 0 / 0 counts as 0

    the last three over prompts with both halves; without any, there is no score and a warning.

    >>> score = ties_score({("tied", "0"): ([5.0, 4.0, 1.0], 2), ("ref", "0"): ([5.0, 3.5], 1)})  # gaps 3 and 1.5
    >>> score["Ties/tied"], score["Ties/ref"], score["Ties/gap"], score["Ties/hard gap"]
    (1.0, 1.0, 1.0, 1.0)
    >>> round(score["Ties"], 4)  # 1 + 0.01 tanh(0.5)
    1.0046
    """
    gaps = {key: _gap(scores, correct) for key, (scores, correct) in prompts.items()}
    parts = {}
    for half in ("tied", "ref"):
        right = [gap > 0 for (half_of_key, _), gap in gaps.items() if half_of_key == half]
        parts[f"Ties/{half}"] = float(np.mean(right)) if right else 0.0
    both = [number for half, number in gaps if half == "tied" and ("ref", number) in gaps]
    if not both:
        logger.warning("rewardbench2: no prompt of Ties has its 'tied' and its 'ref' half; Ties is left out.")
        return {}
    tied_P = np.array([gaps["tied", number] for number in both])
    smaller_P = np.minimum(tied_P, [gaps["ref", number] for number in both])
    correct = [prompts["tied", number][0][: prompts["tied", number][1]] for number in both]
    spread_P = np.array([max(scores) - min(scores) for scores in correct])
    with np.errstate(divide="ignore", invalid="ignore"):
        margin_P = np.nan_to_num(np.tanh(smaller_P / spread_P - 1), nan=0.0)
    parts["Ties/gap"] = float(np.mean(tied_P > spread_P))
    parts["Ties/hard gap"] = float(np.mean(smaller_P > spread_P))
    parts["Ties/margin"] = float(np.mean(margin_P))
    weights = (0.3, 0.3, 0.2, 0.2, 0.01)
    return {"Ties": sum(weight * part for weight, part in zip(weights, parts.values(), strict=True)), **parts}


def _gap(scores: list[float], correct: int) -> float:
    return min(scores[:correct]) - max(scores[correct:])


def _read(row: Row, chat: bool) -> _Example:
    subset, chosen, rejected = subset_name(field(row, "subset")), list_of(row, "chosen"), list_of(row, "rejected")
    if subset is None:
        raise RowError("names no subset", "subset")
    for column, answers in (("chosen", chosen), ("rejected", rejected)):
        if not answers or not all(isinstance(answer, str) for answer in answers):
            raise RowError("expected a list of texts that is not empty", column)
    if integer(row, "num_correct") != len(chosen):
        raise RowError(f"is {row['num_correct']}, and there are {len(chosen)} chosen answers", "num_correct")
    tie = None
    if subset.lower() == "ties":
        half, mark, number = text(row, "id").partition(":")
        if half not in ("ref", "tied") or not mark:
            raise RowError(f"expected 'ref:<number>' or 'tied:<number>', found {row['id']!r}", "id")
        if half == "tied" and len(chosen) < 2:
            raise RowError("a 'tied' row needs two correct answers or more", "chosen")
        tie = (half, number)
    elif len(chosen) != 1:
        raise RowError(f"expected one correct answer, found {len(chosen)}", "chosen")
    prompt, completions = as_chat(text(row, "prompt"), [*chosen, *rejected], chat=chat)
    return _Example(prompt, completions, len(chosen), subset, tie)
