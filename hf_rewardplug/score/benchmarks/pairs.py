"""Two answers each, one of them better -> accuracy: preference data of any format, and JudgeBench.

In: rows that an adapter of `hf_rewardplug.data` reads as pairs or ranked lists, or JudgeBench's own. Out: a `Result`.
An answer is right where it scores higher than the other one; a tie is wrong.
"""

import json
from typing import Any

import numpy as np

from hf_rewardplug.checks import RowError
from hf_rewardplug.data.adapters.fields import text
from hf_rewardplug.data.canonical import subset_name, template_arguments
from hf_rewardplug.data.expansion import to_pairs
from hf_rewardplug.data.pipeline import adapter_of
from hf_rewardplug.figures import pair_figures

from .examples import Completion, Prompt, as_chat, mean_by, pair_item, scored, template_columns, text_of
from .registry import Result, Row, places_of, read_rows, register_benchmark

Group = tuple[Prompt, list[Completion], list[tuple[int, int]], str | None]
"""a prompt, its different completions, which of them is chosen over which, and the subset"""

_CATEGORIES = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}


@register_benchmark(
    "preference",
    kind="orm",
    columns=("chosen", "rejected"),
    source="pairwise accuracy as TRL's RewardTrainer counts it: https://github.com/huggingface/trl",
)
def preference(scorer: Any, rows: list[Row], *, adapter: str | None = None, subset: str | None = None) -> Result:
    """Pairs of any format that the adapters read; a ranked list gives each pair whose scores differ.

    Each completion is scored once, however many pairs it is in. Figures: "accuracy" (a tie is wrong), "ties" (their
    share), "margin" (mean of chosen minus rejected), "accuracy/<subset>", "accuracy/chosen longer" and "accuracy/chosen
    shorter" in characters (a model that likes length is far better at the first), counts "n...", and "left out": rows
    without a pair (ties of the annotators).

    Args:
        adapter: the format's name; None: found from the columns of the first row.
        subset: column that tells subsets apart (the names of a list are joined); None: `subset` or `source`, where
            there is one.
    """
    first = rows[0] if rows else {}
    row_format = adapter_of(rows, adapter, None)
    column = subset or next((name for name in ("subset", "source") if name in first), None)
    if subset is not None and subset not in first:
        raise ValueError(f"benchmark 'preference': there is no column {subset!r} for subset; found {sorted(first)}.")

    def read(row: Row) -> list[tuple[Group, Row]]:
        name = None if column is None else subset_name(row.get(column))
        groups = [(_group(canonical, name), template_arguments(canonical)) for canonical in row_format(row)]
        return [(group, arguments) for group, arguments in groups if group[2]]

    read_groups = read_rows("preference", rows, read, columns=row_format.columns or ())
    groups = [group for several in read_groups for group, _ in several]
    arguments = [of_group for several in read_groups for _, of_group in several]
    if not groups:
        raise ValueError(f"benchmark 'preference': none of the {len(rows)} rows has a better answer (ties only).")
    places = [place for place, several in zip(places_of(rows), read_groups, strict=True) for _ in several]
    prompts, answers = [group[0] for group in groups], [group[1] for group in groups]
    scores = scored("preference", scorer, prompts, answers, places=places, **template_columns(arguments))
    items = [
        pair_item(prompt, completions[good], completions[bad], row[good], row[bad], group_subset)
        for (prompt, completions, pairs, group_subset), row in zip(groups, scores, strict=True)
        for good, bad in pairs
    ]
    figures = {**_pair_figures(items), "left out": sum(not several for several in read_groups)}
    return Result("preference", figures, items)


@register_benchmark(
    "judge_bench",
    kind="orm",
    hub="ScalerLab/JudgeBench",
    split="gpt",
    columns=("question", "response_A", "response_B", "label", "source"),
    source="arXiv:2410.12784, https://github.com/ScalerLab/JudgeBench (run_judge.py, utils/metrics.py)",
)
def judge_bench(scorer: Any, rows: list[Row], *, chat: bool = True) -> Result:
    """JudgeBench: two answers to a hard question, one of them objectively correct (arXiv:2410.12784).

    Split "gpt" (350 pairs, answers of GPT-4o) or "claude" (270). Categories by the beginning of `source`, as in its
    run_judge.py: mmlu-pro is knowledge, livebench-reasoning reasoning, livebench-math math, livecodebench coding; the
    overall accuracy is over all pairs. Its judges see both orders, and a pair on which they disagree is not correct; a
    reward model disagrees where scores tie (its --single_game, one order, would count a tie as "B>A").

    Args:
        chat: questions and answers are turns; False: plain text.
    """

    def read(row: Row) -> Group:
        label, source = text(row, "label"), text(row, "source")
        if label not in ("A>B", "B>A"):
            raise RowError(f"expected 'A>B' or 'B>A', found {label!r}", "label")
        prompt, completions = as_chat(
            text(row, "question"), [text(row, "response_A"), text(row, "response_B")], chat=chat
        )
        category = next((name for start, name in _CATEGORIES.items() if source.startswith(start)), source)
        return prompt, completions, [(0, 1) if label == "A>B" else (1, 0)], category

    groups = read_rows("judge_bench", rows, read)
    asked = [group[0] for group in groups], [group[1] for group in groups]
    scores = scored("judge_bench", scorer, *asked, places=places_of(rows))
    items = [
        pair_item(prompt, completions[good], completions[bad], row[good], row[bad], category)
        for (prompt, completions, [(good, bad)], category), row in zip(groups, scores, strict=True)
    ]
    figures = mean_by([item["right"] for item in items], [item["subset"] for item in items])
    return Result("judge_bench", {**figures, **_whole(items, "ties")}, items)


def _group(canonical: Row, subset: str | None) -> Group:
    """All pairs of a canonical row, each completion once.

    >>> _group({"prompt": "Hi", "completions": ["a", "b", "c"], "scores": [1, 3, 2]}, None)
    ('Hi', ['b', 'a', 'c'], [(0, 1), (2, 1), (0, 2)], None)
    """
    places, completions, pairs, prompt = {}, [], [], ""
    for pair in to_pairs(canonical):
        prompt = pair.get("prompt", "" if isinstance(pair["chosen"], str) else [])
        for side in ("chosen", "rejected"):
            key = json.dumps(pair[side], sort_keys=True)
            if key not in places:
                places[key] = len(completions)
                completions.append(pair[side])
        pairs.append(tuple(places[json.dumps(pair[side], sort_keys=True)] for side in ("chosen", "rejected")))
    return prompt, completions, pairs, subset


def _whole(items: list[dict], *names: str) -> dict[str, float]:
    """Figures of all pairs."""
    figures = pair_figures(*np.array([item["scores"] for item in items]).T)
    return {name: figures[name] for name in names}


def _pair_figures(items: list[dict]) -> dict[str, float]:
    figures = _whole(items, "accuracy", "ties", "margin")
    groups = {"chosen longer": [], "chosen shorter": []}
    for item in items:
        chosen, rejected = (len(text_of(completion)) for completion in item["completions"])
        if chosen != rejected:
            groups["chosen longer" if chosen > rejected else "chosen shorter"].append(item["right"])
        if item["subset"] is not None:
            groups.setdefault(item["subset"], []).append(item["right"])
    groups = {name: rights for name, rights in groups.items() if rights}
    figures |= {f"accuracy/{name}": sum(rights) / len(rights) for name, rights in groups.items()}
    return {**figures, "n": len(items), **{f"n/{name}": len(rights) for name, rights in groups.items()}}
