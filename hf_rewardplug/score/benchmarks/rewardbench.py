"""RewardBench: pairs of 23 subsets -> accuracy of each, of four sections, and their mean.

Source: arXiv:2403.13787, https://github.com/allenai/reward-bench: scripts/run_rm.py (chosen > rejected),
rewardbench/constants.py (sections, counts) and calculate_scores_per_section in rewardbench/utils.py.
"""

from typing import Any

from hf_rewardplug.checks import RowError
from hf_rewardplug.data.adapters.fields import field, text
from hf_rewardplug.data.canonical import subset_name

from .examples import as_chat, mean_by, pair_item, scored
from .registry import Result, Row, places_of, read_rows, register_benchmark

SECTIONS = {  # subset -> its weight in its section: RewardBench's own constants (EXAMPLE_COUNTS)
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,  # until 2024-09-10 these two stood the other way round
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,  # it has 447 pairs, and counts as much as the six code subsets together
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
SUBSETS = {subset for weights in SECTIONS.values() for subset in weights}


@register_benchmark(
    "rewardbench",
    kind="orm",
    hub="allenai/reward-bench",
    split="filtered",
    columns=("prompt", "chosen", "rejected", "subset"),
    matches=lambda row: isinstance(row.get("chosen"), str) and subset_name(row.get("subset")) in SUBSETS,
    source="arXiv:2403.13787, https://github.com/allenai/reward-bench",
)
def rewardbench(scorer: Any, rows: list[Row], *, chat: bool = True) -> Result:
    """RewardBench (arXiv:2403.13787): is the chosen answer's score above the rejected one's? A tie is wrong.

    Figures: "accuracy/<subset>"; "accuracy/<section>", the mean of its subsets weighted by the number of their pairs
    (math-prm as much as all code); "accuracy", the mean of the four sections (the paper's table adds prior data sets at
    half weight; this is the average over the sections alone). Sections without a row are left out of the mean.

    Args:
        chat: prompts and answers are turns; False: plain text.
    """

    def read(row: Row) -> tuple:
        subset = subset_name(field(row, "subset"))
        if subset not in SUBSETS:
            raise RowError(f"{subset!r} is none of RewardBench's: {', '.join(sorted(SUBSETS))}", "subset")
        return *as_chat(text(row, "prompt"), [text(row, "chosen"), text(row, "rejected")], chat=chat), subset

    examples = read_rows("rewardbench", rows, read)
    prompts, completions, subsets = (list(column) for column in zip(*examples, strict=True))
    scores = scored("rewardbench", scorer, prompts, completions, places=places_of(rows))
    items = [
        pair_item(prompt, *several, *pair, subset)
        for (prompt, several, subset), pair in zip(examples, scores, strict=True)
    ]
    figures = mean_by([item["right"] for item in items], subsets)
    sections = section_accuracies({subset: figures[f"accuracy/{subset}"] for subset in subsets})
    figures |= {f"accuracy/{section}": accuracy for section, accuracy in sections.items()}
    figures |= {
        f"n/{section}": sum(figures.get(f"n/{subset}", 0) for subset in SECTIONS[section]) for section in sections
    }
    return Result("rewardbench", {**figures, "accuracy": sum(sections.values()) / len(sections)}, items)


def section_accuracies(accuracies: dict[str, float]) -> dict[str, float]:
    """Subset accuracies -> those of the sections that have any, weighted by RewardBench's counts.

    >>> section_accuracies({"math-prm": 1.0, "hep-go": 0.5, "hep-cpp": 0.0})  # (984 + 82) / (984 + 328)
    {'Reasoning': 0.8125}
    """
    sections = {}
    for section, weights in SECTIONS.items():
        present = {subset: weight for subset, weight in weights.items() if subset in accuracies}
        if present:
            total = sum(accuracies[subset] * weight for subset, weight in present.items())
            sections[section] = total / sum(present.values())
    return sections
