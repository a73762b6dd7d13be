"""BIG-Bench-Mistake: find the first mistake of a chain of thought of five tasks, or that there is none.

    rows {input, steps, mistake_index}  ->  `scorer.score_steps`, one call
    probabilities, a threshold  ->  the first step below it, or none  ->  share that is exactly right, by task

Tyen et al. 2023 (arXiv:2311.08516), section 3: the place has to match exactly, and "no mistake" a solution without one.
The repository WHGTyen/BIG-Bench-Mistake has the data, a file a task, and no code that evaluates.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from hf_rewardplug.checks import RowError, shown
from hf_rewardplug.data.adapters.fields import Row, field, integer, items, text
from hf_rewardplug.data.canonical import subset_name

from .examples import as_turns, check_threshold, file_names, first_error_item, grouped, step_probabilities
from .registry import Result, numbers_of, places_of, read_rows, register_benchmark

TASKS = ("dyck_languages", "logical_deduction", "multistep_arithmetic", "tracking_shuffled_objects", "word_sorting")


class Trace(NamedTuple):
    """A chain of thought and the index of its first mistake (-1: none)."""

    question: str
    steps: list[str]
    mistake: int
    task: str


@register_benchmark(
    "big_bench_mistake",
    kind="prm",
    columns=("input", "steps", "mistake_index"),
    source="arXiv:2311.08516, https://github.com/WHGTyen/BIG-Bench-Mistake",
)
def big_bench_mistake(
    scorer: Any,
    rows: list[Row],
    *,
    threshold: float = 0.5,
    task: str | None = None,
    instruction: str | Mapping[str, str] = "",
    chat: bool = False,
) -> Result:
    """Accuracy: the first step that is found wrong is the first mistake, or none is found where there is none.

    `accuracy`: over all rows, and by task (`accuracy/word_sorting`), the paper's figures; `task_accuracy`: the mean
    over the tasks. `accuracy_wrong`, `accuracy_right`: of the rows with a mistake and of those without, over all rows
    and by task. `n`, `n_wrong`: rows, rows with a mistake. A step without text is rated as any other.

    Args:
        threshold: a step is wrong where its probability (that it is right) is below it.
        task: of rows without a column `task` or `subset`; None: the name of their file, where it is one of the five.
        instruction: what stands before `input`, which holds the words to sort or the brackets to close and not what to
            do with them: a text for all rows or {task: text}.
        chat: the question is a user's turn, so that the model's template applies; False: plain text.
    """
    check_threshold(threshold)
    names = iter(file_names(rows))
    traces = read_rows("big_bench_mistake", rows, lambda row: _trace(row, task, next(names)))
    asked = []
    for trace in traces:
        before = instruction if isinstance(instruction, str) else instruction.get(trace.task, "")
        asked.append((as_turns(before + trace.question, chat), trace.steps))
    probabilities = step_probabilities(scorer, "big_bench_mistake", asked, places=places_of(rows))
    rated = [
        first_error_item(number, *solution, values, threshold=threshold, label=trace.mistake, subset=trace.task)
        for number, trace, solution, values in zip(numbers_of(rows), traces, asked, probabilities, strict=True)
    ]
    return Result("big_bench_mistake", {**mistake_figures(rated), "threshold": threshold}, rated)


def mistake_figures(rated: list[dict]) -> dict[str, float]:
    """The figures of rated traces {label, right, subset}: over all of them and by subset, where there is one.

    >>> rows = [(-1, True, "a"), (2, False, "a"), (0, True, "a"), (1, True, "b")]
    >>> figures = mistake_figures([dict(zip(["label", "right", "subset"], row)) for row in rows])
    >>> [figures[key] for key in ("accuracy", "accuracy/b", "task_accuracy", "accuracy_wrong/a", "n", "n_wrong")]
    [0.75, 1.0, 0.8333333333333333, 0.5, 4, 3]
    """
    by_task = grouped(rated)
    figures = _of(rated, "")
    for name, part in by_task.items():
        figures |= _of(part, f"/{name}") if name else {}
    figures["task_accuracy"] = float(np.mean([np.mean([item["right"] for item in part]) for part in by_task.values()]))
    return figures


def _of(part: list[dict], end: str) -> dict[str, float]:
    parts = {
        "accuracy": part,
        "accuracy_wrong": [item for item in part if item["label"] >= 0],
        "accuracy_right": [item for item in part if item["label"] < 0],
    }
    means = {f"{name}{end}": float(np.mean([item["right"] for item in of])) for name, of in parts.items() if of}
    return {**means, f"n{end}": len(part), f"n_wrong{end}": len(parts["accuracy_wrong"])}


def _trace(row: Row, task: str | None, file: str) -> Trace:
    steps = items(row, "steps")
    if not steps or not all(isinstance(step, str) for step in steps):
        raise RowError(f"expected a list of steps, found {shown(steps)}", "steps")
    mistake = -1 if field(row, "mistake_index") is None else integer(row, "mistake_index")
    if row["mistake_index"] is not None and not 0 <= mistake < len(steps):
        raise RowError(f"is {mistake}, and there are {len(steps)} steps, counted from 0", "mistake_index")
    named = subset_name(row.get("task")) or subset_name(row.get("subset")) or task
    in_file = next((name for name in TASKS if re.search(rf"(?<![a-z]){name}(?![a-z])", file.lower())), "")
    return Trace(text(row, "input"), steps, mistake, named or in_file)
