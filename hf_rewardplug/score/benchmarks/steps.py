"""Steps of any format that the adapters read -> how many of them are found right or wrong.

In: rows of solutions with labels of their steps, of trees of steps, or of solutions with an outcome alone. Out: a
`Result` with the figures of the same names that PRMTrainer's evaluation gives.
"""

from typing import Any, NamedTuple

import numpy as np

from hf_rewardplug.checks import RowError
from hf_rewardplug.data.canonical import UNLABELLED, subset_name, template_arguments
from hf_rewardplug.data.expansion import row_type, to_outcomes, to_steps
from hf_rewardplug.data.pipeline import adapter_of
from hf_rewardplug.data.prefix_tree import leaf_paths
from hf_rewardplug.data.step_nodes import chain_parents
from hf_rewardplug.figures import step_figures as figures_of_steps
from hf_rewardplug.figures import steps_back

from ..requests import node_scores
from .examples import as_turns, step_probabilities
from .registry import Result, Row, places_of, read_rows, register_benchmark

_SUBSETS = ("subset", "source")
_FIGURES = ("accuracy", "f1_wrong", "wrong_rate", "first_wrong_accuracy")


class Steps(NamedTuple):
    """A solution, or a tree of them: each step's text, label (None: unlabelled) and the step before it (-1: none)."""

    prompt: Any
    texts: list[str]
    labels: list[float | None]
    parents: list[int]
    outcome: float | None = None
    subset: str | None = None
    arguments: Row = {}


@register_benchmark(
    "steps",
    kind="prm",
    columns=("completions", "labels"),
    source="step accuracy as PRMTrainer counts it: hf_rewardplug.figures.step_figures",
    detected=False,
)
def steps(
    scorer: Any, rows: list[Row], *, adapter: str | None = None, subset: str | None = None, chat: bool = False
) -> Result:
    """Steps of any format that the adapters read, each once, however many paths of a tree it is on.

    Figures: "accuracy" of the labelled steps at the probability 0.5 (a soft label counts by it too), "f1_wrong",
    "wrong_rate" (share of wrong steps), "first_wrong_accuracy" (share of solutions, or of paths of a tree, whose first
    wrong step, or that there is none, is found), "accuracy/<subset>"; "n" labelled steps, "n/<subset>", "n_solutions".
    Of solutions with an outcome and no labels "outcome_accuracy": whether their least probable step says it.

    Args:
        adapter: the format's name; None: found from the columns of the first row.
        subset: column that tells subsets apart; None: `subset` or `source`, where there is one.
        chat: a text prompt is a user's turn, so that the model's template applies; False: plain text, as in training.
    """
    first = rows[0] if rows else {}
    row_format = adapter_of(rows, adapter, None)
    column = subset or next((name for name in _SUBSETS if name in first), None)
    if subset is not None and subset not in first:
        raise ValueError(f"benchmark 'steps': there is no column {subset!r} for subset; found {sorted(first)}.")

    def read(row: Row) -> list[Steps]:
        name = None if column is None else subset_name(row.get(column))
        return [_steps(canonical)._replace(subset=name) for canonical in row_format(row)]

    read_steps = read_rows("steps", rows, read, columns=row_format.columns or ())
    solved = [solution for several in read_steps for solution in several]
    places = [place for place, several in zip(places_of(rows), read_steps, strict=True) for _ in several]
    if not solved:
        raise ValueError(f"benchmark 'steps': none of the {len(rows)} rows has steps.")
    asked, places_asked, arguments = [], [], []
    for solution, place in zip(solved, places, strict=True):
        for path in leaf_paths(solution.parents):
            asked.append((as_turns(solution.prompt, chat), [solution.texts[node] for node in path]))
            places_asked.append(place)
            arguments.append(solution.arguments)
    values = iter(step_probabilities(scorer, "steps", asked, places=places_asked, arguments=arguments))
    items = [_item(solution, [next(values) for _ in leaf_paths(solution.parents)]) for solution in solved]
    return Result("steps", step_figures(items), items)


def _steps(canonical: Row) -> Steps:
    form = row_type(canonical)
    if form not in ("stepwise", "step_tree", "outcome"):
        raise RowError(f"a {form} row has no steps. Take 'preference', or data with steps")
    (row,) = (to_outcomes if form == "outcome" else to_steps)(canonical, empty_steps=True)
    outcome = row["labels"][0] if form == "outcome" else None
    labels = [None if outcome is not None or label == UNLABELLED else float(label) for label in row["labels"]]
    parents = row.get("parents") or chain_parents(len(labels))
    return Steps(row["prompt"], row["completions"], labels, parents, outcome, arguments=template_arguments(canonical))


def _item(solution: Steps, scores: list[list[float]]) -> dict:
    values = node_scores(solution.parents, scores)
    rated = [(value, label) for value, label in zip(values, solution.labels, strict=True) if label is not None]
    if solution.outcome is not None:
        rated = [(min(values), solution.outcome)]
    hits = [(value >= 0.5) == (label >= 0.5) for value, label in rated]
    return {
        "prompt": solution.prompt,
        "completions": solution.texts,
        "scores": values,
        "labels": solution.labels,
        "parents": solution.parents,
        "outcome": solution.outcome,
        "right": sum(hits) / len(hits) if hits else None,
        "subset": solution.subset,
    }


def step_figures(items: list[dict]) -> dict[str, float]:
    """The figures of rated solutions and trees.

    >>> tree = {"scores": [0.9, 0.2, 0.7], "labels": [1.0, 0.0, 0.0], "parents": [-1, 0, 0]}
    >>> figures = step_figures([{**tree, "outcome": None, "subset": None}])
    >>> [round(figures[name], 2) for name in ("accuracy", "f1_wrong", "wrong_rate", "first_wrong_accuracy")]
    [0.67, 0.67, 0.67, 0.5]
    """
    figures: dict[str, float] = {}
    rated = [_rated(item) for item in items]
    if count := sum(map(len, rated)):
        of_all = figures_of_steps(*np.concatenate(rated).T)
        figures = {**{name: of_all[name] for name in _FIGURES}, "n": count}
        for subset in dict.fromkeys(item["subset"] for item in items):
            parts = [part for item, part in zip(items, rated, strict=True) if item["subset"] == subset]
            count = sum(map(len, parts))
            if subset is not None and count:
                accuracy = figures_of_steps(*np.concatenate(parts).T)["accuracy"]
                figures |= {f"accuracy/{subset}": accuracy, f"n/{subset}": count}
    outcomes = [item["right"] for item in items if item["outcome"] is not None]
    if outcomes:
        figures |= {"outcome_accuracy": float(np.mean(outcomes)), "n_outcomes": len(outcomes)}
    return {**figures, "n_solutions": len(items)}


def _rated(item: dict) -> np.ndarray:
    """(S, 3): probability, label and `steps_back` of each labelled step."""
    rated = [pair for pair in zip(item["scores"], item["labels"], strict=True) if pair[1] is not None]
    back = steps_back([label is not None for label in item["labels"]], item["parents"])
    return np.array([(*pair, steps) for pair, steps in zip(rated, back, strict=True)], dtype=float).reshape(-1, 3)
