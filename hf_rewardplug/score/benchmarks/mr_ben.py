"""Mr-Ben, as far as steps go: is a solution right, and which of its steps is the first wrong one, in six subjects.

    rows {Question, Options, Model_Solution_Steps, Model_Solution_Correctness, Model_Solution_First_Error_Step}
    steps, probabilities, a threshold  ->  the first step below it, or none  ->  MCC and step accuracy, by subject

Zeng et al. 2024 (arXiv:2406.13975), dvlab-research/Mr-Ben: counts as calculate_mr_score in script/evaluate.py, formulas
as MCC_score, construct_eval_stats and mr_score in script/utils.py. The steps' numbers are those that the texts say:

    entries    "Step 1: ..."   "- because"   ""   "Step 2: ..."   "Solution: B"     an error step "2" is either of the
    numbers         1              1         -         2               2            last two; "" is not rated
"""

import math
import re
from typing import Any, NamedTuple

import numpy as np

from hf_rewardplug.checks import RowError, shown
from hf_rewardplug.data.adapters.fields import Row, field, items, text

from .examples import as_turns, check_threshold, file_names, first_error_item, grouped, step_probabilities
from .registry import Result, Rows, numbers_of, read_rows, register_benchmark

WEIGHTS = {"mcc": 0.2, "step_accuracy": 0.3, "reason_accuracy": 0.5}
"""of the MR-score's parts: w1, w2, w3 of `get_mr_score`"""

_LABEL = re.compile(r"\W*step\s*(\d+)", re.IGNORECASE)
_NUMBER = re.compile(r"(?:step\s*)?(\d+)(?:\.0)?", re.IGNORECASE)
_LEVEL = re.compile(r"^(college|high_school)_")


class Reviewed(NamedTuple):
    """A solution's entries; whether it is right; if not, the entries that are its first wrong step; its subject."""

    question: str
    steps: list[str]
    correct: bool
    wrong: set[int]
    subject: str


@register_benchmark(
    "mr_ben",
    kind="prm",
    hub="Randolphzeng/Mr-Ben",
    split="train",
    columns=(
        *("Question", "Model_Solution_Steps", "Model_Solution_Correctness", "Model_Solution_First_Error_Step"),
        "Subject",
    ),
    source="arXiv:2406.13975, https://github.com/dvlab-research/Mr-Ben",
)
def mr_ben(scorer: Any, rows: list[Row], *, threshold: float = 0.5, chat: bool = False) -> Result:
    """MCC of right and wrong solutions, and the share of wrong ones whose first wrong step is found; by subject.

    A solution is found right where no step is below the threshold. `mcc`: Matthews' correlation (Mr-Ben's task 1, with
    "right" as the positive class); `accuracy_right`: share of right solutions that are found right (t1-recall);
    `step_accuracy`: share of wrong solutions whose first error step is found (t2-accuracy); `mr_score`: 0.2 max(0, mcc)
    + 0.3 step_accuracy, the MR-score of a judge who gives no reasons, which count 0.5 there: at most 0.5. Each by
    subject (`mcc/math`), and the mean over the subjects, as Mr-Ben averages its score. A figure that a subject's rows
    do not define is left out. `n`, `n_wrong`: rows, wrong solutions; `n_beyond`: of them, those whose error step is
    none that they have, which no rating of steps finds; `left out`: rows of `coding`, whose solutions are code without
    steps, and whose error steps a language model compares, and those of its file k_shot_demo, which are for prompts.

    Args:
        threshold: a step is wrong where its probability (that it is right) is below it.
        chat: the question is a user's turn, so that the model's template applies; False: plain text.
    """
    check_threshold(threshold)
    solutions = _solutions(rows)
    read = read_rows("mr_ben", solutions, _reviewed)
    kept = [(number, review) for number, review in zip(solutions.numbers, read, strict=True) if review is not None]
    if not kept:
        raise ValueError(f"benchmark 'mr_ben': all {len(rows)} rows are code, which has no steps. Give other subjects.")
    asked = [(as_turns(review.question, chat), review.steps) for _, review in kept]
    probabilities = step_probabilities(scorer, "mr_ben", asked, places=[f"row {number}" for number, _ in kept])
    rated = []
    for (number, review), solution, values in zip(kept, asked, probabilities, strict=True):
        item = first_error_item(number, *solution, values, threshold=threshold, label=-1, subset=review.subject)
        if not review.correct:  # several entries may be the first wrong step
            item["right"] = item["prediction"] in review.wrong
        rated.append({**item, "label": review.correct, "wrong": sorted(review.wrong)})
    counts = {"left out": len(rows) - len(kept), "threshold": threshold}
    return Result("mr_ben", {**mr_figures(rated), **counts}, rated)


def mcc(tp: int, tn: int, fp: int, fn: int) -> float:
    """Matthews' correlation coefficient; 0 where a class or a verdict does not occur.

    >>> mcc(3, 3, 1, 1), mcc(0, 0, 2, 2), mcc(4, 0, 0, 0)
    (0.5, -1.0, 0.0)
    """
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0


def mr_figures(rated: list[dict]) -> dict[str, float]:
    """The figures of rated solutions {label, wrong, prediction, right, subset}: by subject, and their mean."""
    parts = {subject: _subject_figures(part) for subject, part in grouped(rated).items()}
    figures = {}
    for name in ("mr_score", "mcc", "step_accuracy", "accuracy_right", "n", "n_wrong", "n_beyond"):
        values = [part[name] for part in parts.values() if name in part]
        if values:
            figures[name] = sum(values) if name.startswith("n") else float(np.mean(values))
    return figures | {f"{name}/{subject}": value for subject, part in parts.items() for name, value in part.items()}


def _subject_figures(part: list[dict]) -> dict[str, float]:
    right, wrong = [item for item in part if item["label"]], [item for item in part if not item["label"]]
    tp, tn = sum(item["prediction"] < 0 for item in right), sum(item["prediction"] >= 0 for item in wrong)
    figures = {"mcc": mcc(tp, tn, len(wrong) - tn, len(right) - tp)}
    if right:
        figures["accuracy_right"] = tp / len(right)
    if wrong:
        figures["step_accuracy"] = sum(item["right"] for item in wrong) / len(wrong)
        figures["mr_score"] = (
            WEIGHTS["mcc"] * max(0.0, figures["mcc"]) + WEIGHTS["step_accuracy"] * figures["step_accuracy"]
        )
    beyond = sum(not item["wrong"] for item in wrong)
    return {**figures, "n": len(part), "n_wrong": len(wrong), "n_beyond": beyond}


def step_numbers(steps: list[str]) -> list[int]:
    """The number of the step that each entry belongs to: that of the last label, or its place where none is labelled.

    >>> step_numbers(["Let us see.", "Step 1: 2+2=4", "- which is even", "Step 2: 4-1=3", "Solution: 3"])
    [0, 1, 1, 2, 2]
    >>> step_numbers(["2+2=4", "4-1=3"])
    [1, 2]
    """
    labels = [int(match[1]) if (match := _LABEL.match(step)) else None for step in steps]
    first = next((label for label in labels if label is not None), None)
    if first is None:
        return list(range(1, len(steps) + 1))
    numbers, number = [], first - 1
    for label in labels:
        number = number if label is None else label
        numbers.append(number)
    return numbers


def entries_of(number: int, steps: list[str]) -> set[int]:
    """The entries that are step `number`; where none is labelled so, the entry at that place; none behind the end.

    >>> entries_of(2, ["Step 1: a", "Step 2: b", "so c", "Step 3: d"]), entries_of(3, ["Step 1: a", "Step 2: b", "B"])
    ({1, 2}, {2})
    >>> entries_of(4, ["Step 1: a", "Step 2: b", "Solution: B"])
    set()
    """
    labelled = {index for index, of in enumerate(step_numbers(steps)) if of == number}
    return labelled or {number - 1} & set(range(len(steps)))


def _solutions(rows: list[Row]) -> Rows:
    """Without the demonstrations for prompts, which stand in a file beside the subjects'."""
    named = zip(rows, numbers_of(rows), file_names(rows), strict=True)
    kept = [(row, number) for row, number, name in named if name != "k_shot_demo"]
    return Rows([row for row, _ in kept], [number for _, number in kept])


def _reviewed(row: Row) -> Reviewed | None:
    """None of code, which is a text and no list of steps."""
    if isinstance(field(row, "Model_Solution_Steps"), str):
        return None
    steps = items(row, "Model_Solution_Steps")
    if not all(isinstance(step, str) for step in steps) or not any(step.strip() for step in steps):
        raise RowError(f"expected a list of steps, found {shown(steps)}", "Model_Solution_Steps")
    verdict = text(row, "Model_Solution_Correctness")
    if verdict not in ("correct", "incorrect"):
        raise RowError(f"expected 'correct' or 'incorrect', found {verdict!r}", "Model_Solution_Correctness")
    steps = [step for step in steps if step.strip()]
    number = _NUMBER.fullmatch(str(field(row, "Model_Solution_First_Error_Step")).strip())
    wrong = entries_of(int(number[1]), steps) if number and verdict == "incorrect" else set()
    question = "\n".join(part for part in (text(row, "Question"), row.get("Options")) if part)
    return Reviewed(question, steps, verdict == "correct", wrong, _subject(text(row, "Subject")))


def _subject(name: str) -> str:
    """Mr-Ben's own file of a row's subject.

    >>> _subject("high_school_math"), _subject("college_medicine"), _subject("logiqa")
    ('math', 'medicine', 'logic')
    """
    return {"logiqa": "logic"}.get(name, _LEVEL.sub("", name))
