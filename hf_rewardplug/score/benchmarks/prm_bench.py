"""PRMBench: tell right steps from wrong ones in solutions that were spoilt in nine ways.

    rows {modified_question, modified_process, error_steps, classification}  ->  `scorer.score_steps`, one call
    probabilities, a threshold  ->  counts of steps by class  ->  F1 and negative F1  ->  PRMScores

Song et al. 2025 (arXiv:2501.03124); counts as mr_eval/tasks/prmtest_classified/task.py of ssmisya/PRMBench has them;
the averages are those of mr_visualize/eval_res_view/draw_tabs/form_latex_strs.ipynb there, which makes its table.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from hf_rewardplug.checks import RowError, shown
from hf_rewardplug.data.adapters.fields import Row, field, items, text

from .examples import as_turns, check_threshold, grouped, step_probabilities
from .registry import Result, numbers_of, read_rows, register_benchmark

CATEGORIES = {
    "simplicity": ("redundency", "circular"),
    "soundness": ("counterfactual", "step_contradiction", "domain_inconsistency", "confidence"),
    "sensitivity": ("missing_condition", "deception", "multi_solutions"),
}
"""category -> its classes, spelt as the data spell them"""

ALL_RIGHT = "multi_solutions"
"""the class whose solutions are right: its PRMScore is F1 alone, since it has no wrong steps"""

_NUMBER = re.compile(r"(?:step\s*)?\d+\.\s*", re.IGNORECASE)


class Spoilt(NamedTuple):
    """A solution, its wrong steps (from 0), how many more were named that it does not have, its class and its id."""

    prompt: str
    steps: list[str]
    wrong: set[int]
    beyond: int
    error_class: str
    id: Any


@register_benchmark(
    "prm_bench",
    kind="prm",
    columns=("modified_question", "modified_process", "error_steps", "classification"),
    source="arXiv:2501.03124, https://github.com/ssmisya/PRMBench",
    hub="hitsmy/PRMBench_Preview",
    split="train",
)
def prm_bench(
    scorer: Any, rows: list[Row], *, threshold: float = 0.5, strip_numbers: bool = True, chat: bool = False
) -> Result:
    """PRMScore, the mean of F1 (of the right steps) and negative F1 (of the wrong ones), from counts of steps.

    `prm_score`, `f1`, `negative_f1`, `accuracy`: over the steps of all rows, and by class (`prm_score/circular`; of
    `multi_solutions` it is F1 alone). `simplicity`, `soundness`, `sensitivity`: the mean PRMScore of the category's
    classes, where all of them are there. `first_error_accuracy`: share of rows whose first wrong step is found wrong.
    `n`: rows; `n_steps`; `n_repeated`: rows left out since one of their class and `idx` came before, as in PRMBench's
    code; `n_beyond`: error steps behind a solution's end, which mean nothing, there as here.

    A step without text is rated as any other (three of its 6,216 rows have such steps, and numbers alone are more).
    An F1 without a hit is 0; PRMBench's code gives -1 for some of these, which lowers such a class's PRMScore to 0.

    Args:
        threshold: a step is right where its probability is above it.
        strip_numbers: take "3. " and "Step 3. " from the beginning of the steps, as PRMBench does for most models (and,
            as there, the "3." of a step that begins with 3.5).
        chat: the question is a user's turn, so that the model's template applies; False: plain text.
    """
    check_threshold(threshold)
    spoilt = read_rows("prm_bench", rows, lambda row: _spoilt(row, strip_numbers))
    kept = _first_of_each(zip(numbers_of(rows), spoilt, strict=True))
    probabilities = step_probabilities(
        scorer,
        "prm_bench",
        [(as_turns(solution.prompt, chat), solution.steps) for solution in kept.values()],
        places=[f"row {number}" for number in kept],
    )
    rated = [
        _item(solution, values, number=number, threshold=threshold)
        for (number, solution), values in zip(kept.items(), probabilities, strict=True)
    ]
    beyond = sum(solution.beyond for solution in kept.values())
    counts = {"n_repeated": len(spoilt) - len(kept), "n_beyond": beyond}
    return Result("prm_bench", {**prm_figures(rated), **counts}, rated)


def f1(hits: int, misses: int, false_alarms: int) -> float:
    """The harmonic mean of precision and recall; 0 without a hit.

    >>> f1(2, misses=1, false_alarms=1), f1(0, misses=0, false_alarms=0)
    (0.6666666666666666, 0.0)
    """
    return 2 * hits / max(2 * hits + misses + false_alarms, 1)


def step_scores(labels: Iterable[bool], verdicts: Iterable[bool], *, negative: bool = True) -> dict[str, float]:
    """PRMScore and its parts of steps, from whether each is right and whether it is found right.

    >>> step_scores([True, True, True, False, False], [True, True, False, True, False])
    {'prm_score': 0.5833333333333333, 'f1': 0.6666666666666666, 'negative_f1': 0.5, 'accuracy': 0.6}
    """
    counts = Counter(zip(labels, verdicts, strict=True))
    right, lost = counts[True, True], counts[True, False]
    passed, caught = counts[False, True], counts[False, False]
    scores = f1(right, lost, passed), f1(caught, passed, lost)
    return {
        "prm_score": sum(scores) / 2 if negative else scores[0],
        "f1": scores[0],
        "negative_f1": scores[1],
        "accuracy": (right + caught) / counts.total(),
    }


def prm_figures(rated: list[dict]) -> dict[str, float]:
    """The figures of rated solutions {labels, found, subset}: over all steps, by class and by category."""
    by_class = grouped(rated)
    figures = step_scores(_joined(rated, "labels"), _joined(rated, "found"))
    firsts = [not item["found"][item["labels"].index(False)] for item in rated if False in item["labels"]]
    if firsts:
        figures["first_error_accuracy"] = float(np.mean(firsts))
    for name, part in by_class.items():
        scores = step_scores(_joined(part, "labels"), _joined(part, "found"), negative=name != ALL_RIGHT)
        figures |= {f"{figure}/{name}": value for figure, value in scores.items()}
    for category, names in CATEGORIES.items():
        if set(names) <= set(by_class):
            figures[category] = float(np.mean([figures[f"prm_score/{name}"] for name in names]))
    counts = {"n": len(rated), **{f"n/{name}": len(part) for name, part in by_class.items()}}
    return {**figures, **counts, "n_steps": len(_joined(rated, "labels"))}


def _spoilt(row: Row, strip_numbers: bool) -> Spoilt:
    steps, name = items(row, "modified_process"), text(row, "classification")
    if not steps or not all(isinstance(step, str) for step in steps):
        raise RowError(f"expected a list of steps, found {shown(steps)}", "modified_process")
    wrong = field(row, "error_steps")
    if wrong is None and name == ALL_RIGHT:
        wrong = []
    if not isinstance(wrong, list) or not all(type(step) is int and step >= 1 for step in wrong):
        raise RowError(f"expected the wrong steps' numbers, from 1, found {shown(wrong)}", "error_steps")
    if strip_numbers:
        steps = [_without_number(step) for step in steps]
    within = {step - 1 for step in wrong if step <= len(steps)}
    return Spoilt(text(row, "modified_question"), steps, within, len({*wrong}) - len(within), name, row.get("idx"))


def _without_number(step: str) -> str:
    """A step without white space around it and its number, as PRMBench's `remove_step_prefix` leaves it.

    >>> _without_number(" Step 3. So 4."), _without_number("3.5 is more."), _without_number("6.")
    ('So 4.', '5 is more.', '')
    """
    step = step.strip()
    number = _NUMBER.match(step)
    return step[number.end() :] if number else step


def _first_of_each(solutions: Iterable[tuple[int, Spoilt]]) -> dict[int, Spoilt]:
    """The first of those with the same class and id, by row number."""
    kept, seen = {}, set()
    for number, solution in solutions:
        key = (solution.error_class, solution.id)
        if solution.id is None or key not in seen:
            kept[number] = solution
        seen.add(key)
    return kept


def _item(solution: Spoilt, probabilities: list[float], *, number: int, threshold: float) -> dict:
    labels = [index not in solution.wrong for index in range(len(solution.steps))]
    verdicts = [value > threshold for value in probabilities]
    return {
        "row": number,
        "prompt": solution.prompt,
        "completions": solution.steps,
        "scores": probabilities,
        "labels": labels,
        "found": verdicts,
        "right": float(np.mean(np.equal(labels, verdicts))),
        "subset": solution.error_class,
    }


def _joined(rated: list[dict], key: str) -> list[bool]:
    return [value for item in rated for value in item[key]]
