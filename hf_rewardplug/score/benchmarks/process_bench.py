"""ProcessBench: find the first wrong step of a solution, or that there is none.

    rows {problem, steps, label} or {prompt, completions, labels}  ->  `scorer.score_steps`, one call
    probabilities, a threshold  ->  the first step below it, or -1  ->  accuracies and F1, by subset and their mean

Zheng et al. 2024 (arXiv:2412.06559), section 4.1, and QwenLM/ProcessBench: the figures of code/run_eval.py, the rating
of steps as code/run_eval_prm_trl.py of its pull request 12 has it.
"""

import re
from typing import Any, NamedTuple

import numpy as np

from hf_rewardplug.checks import RowError, check_share, shown
from hf_rewardplug.data.adapters import Adapter
from hf_rewardplug.data.adapters.fields import TEMPLATE_ARGUMENTS, Row, integer
from hf_rewardplug.data.adapters.stepwise import processbench, stepwise_supervised
from hf_rewardplug.data.canonical import UNLABELLED, checked_steps, prompt_key, subset_name, template_arguments

from .examples import as_turns, check_threshold, first_error_item, grouped, step_probabilities
from .registry import BENCHMARKS, Result, Rows, numbers_of, read_rows, register_benchmark

SOURCE = "arXiv:2412.06559, https://github.com/QwenLM/ProcessBench"
_STEPWISE = ("prompt", "completions", "labels")
_ID = re.compile(r"(gsm8k|math|olympiadbench|omnimath)-\d+")


class Solution(NamedTuple):
    """A solution with the index of its first wrong step (-1: none), and the part of the benchmark that it is from."""

    prompt: Any
    steps: list[str]
    first_error: int
    subset: str = ""
    arguments: Row = {}


@register_benchmark(
    "process_bench.stepwise",
    kind="prm",
    columns=_STEPWISE,
    format=Adapter(
        "process_bench",
        stepwise_supervised,
        _STEPWISE,
        optional=("system", "first_error", "steps_after_first_error", "subset", "split", "id", *TEMPLATE_ARGUMENTS),
    ),
    source=SOURCE,
)
@register_benchmark(
    "process_bench",
    kind="prm",
    columns=("problem", "steps", "label"),
    source=SOURCE,
    hub="Qwen/ProcessBench",
    split="gsm8k+math+olympiadbench+omnimath",
)
def process_bench(
    scorer: Any,
    rows: list[Row],
    *,
    threshold: float | str = 0.5,
    tune_share: float = 0.2,
    tune_rows: list[Row] | None = None,
    chat: bool = False,
) -> Result:
    """Accuracy on the solutions with an error (its exact index), on those without, and the harmonic mean of both.

    `accuracy_wrong`, `accuracy_right`, `f1`: by subset (`f1/math`), and the mean over the subsets, as in the paper's
    table (so `f1` is the mean of the F1s, not the F1 of the means). Where both accuracies are 0, F1 is 0. A subset is
    the column `subset` or `split`, or the beginning of a ProcessBench id ("math-17"). `n`, `n_wrong`: rows.
    The threshold 0.5 is ProcessBench's argmax of two labels, except that exactly 0.5 is right here and wrong there. A
    step without text is rated as any other.

    Args:
        threshold: a step is wrong where its probability (that it is right) is below it; or "tune".
        tune_share: with "tune": the share of problems, chosen by a hash of their text, on which the threshold is
            chosen (`best_threshold`). They are left out of every figure but `n_tune`.
        tune_rows: with "tune": rows of their own for it (the paper takes GSM8K's, and reports on them too).
        chat: the problem is a user's turn, so that the model's template applies; False: plain text, as in training on
            these formats.
    """
    solutions = _read(rows)
    numbers = numbers_of(rows)
    tuning, tests = _parts(solutions, threshold, tune_share, tune_rows)
    _check_kinds([solutions[index] for index in tests], "the rows")
    if threshold == "tune":
        _check_kinds(tuning, "the tuning rows")
    rated = [*tuning, *(solutions[index] for index in tests)]
    solved = [(as_turns(solution.prompt, chat), solution.steps) for solution in rated]
    places = ["a tuning row"] * len(tuning) + [f"row {numbers[index]}" for index in tests]
    arguments = [solution.arguments for solution in rated]
    probabilities = step_probabilities(scorer, "process_bench", solved, places=places, arguments=arguments)
    figures = {"threshold": threshold}
    if threshold == "tune":
        figures = {"threshold": best_threshold(tuning, probabilities[: len(tuning)]), "n_tune": len(tuning)}
    items = [
        _item(solutions[index], values, number=numbers[index], threshold=figures["threshold"])
        for index, values in zip(tests, probabilities[len(tuning) :], strict=True)
    ]
    return Result("process_bench", {**first_error_figures(items), **figures}, items)


def harmonic_mean(a: Any, b: Any) -> Any:
    """2ab / (a + b), and 0 where both are 0; numbers or arrays.

    >>> float(harmonic_mean(0.5, 1.0)), float(harmonic_mean(0.0, 0.0))
    (0.6666666666666666, 0.0)
    """
    total = np.add(a, b)
    return 2 * np.multiply(a, b) / np.where(total > 0, total, 1)


def first_error_figures(items: list[dict]) -> dict[str, float]:
    """The figures of items {label, right, subset}: by subset, where there are subsets, and their mean.

    >>> rows = [(-1, True, "a"), (2, False, "a"), (0, True, "a"), (-1, True, "b"), (1, True, "b")]
    >>> figures = first_error_figures([dict(zip(["label", "right", "subset"], row)) for row in rows])
    >>> [figures[key] for key in ("accuracy_wrong/a", "accuracy_right/a", "f1/a", "f1/b", "f1", "n", "n_wrong/a")]
    [0.5, 1.0, 0.6666666666666666, 1.0, 0.8333333333333333, 5, 2]
    """
    by_subset = {}
    for subset, part in grouped(items).items():
        wrong = [item["right"] for item in part if item["label"] >= 0]
        right = [item["right"] for item in part if item["label"] < 0]
        accuracies = float(np.mean(wrong)), float(np.mean(right))
        by_subset[subset] = {
            "f1": float(harmonic_mean(*accuracies)),
            "accuracy_wrong": accuracies[0],
            "accuracy_right": accuracies[1],
            "n": len(part),
            "n_wrong": len(wrong),
        }
    figures = {}
    for name in ("f1", "accuracy_wrong", "accuracy_right", "n", "n_wrong"):
        values = [of[name] for of in by_subset.values()]
        figures[name] = sum(values) if name.startswith("n") else float(np.mean(values))
    return figures | {
        f"{name}/{subset}": value for subset, of in by_subset.items() if subset for name, value in of.items()
    }


def best_threshold(solutions: list[Solution], probabilities: list[list[float]]) -> float:
    """The threshold in (0, 1) with the highest F1 (mean over the subsets), exactly; of several the nearest to 0.5.

    A solution is matched by the thresholds of one interval: from the probability p_k of its first wrong step k
    (without) to the least one before it (with), and up to the least of all where no step is wrong. F1 changes at the
    ends of these intervals only, so the middles between neighbouring ends are all that need be tried.

    >>> good, bad = Solution("p", ["a"], -1), Solution("p", ["a", "b"], 1)
    >>> best_threshold([good, bad], [[0.9], [0.95, 0.7]])
    0.8
    """
    intervals = []
    for solution, steps in zip(solutions, probabilities, strict=True):
        end = solution.first_error if solution.first_error >= 0 else len(steps)
        intervals.append((steps[end] if solution.first_error >= 0 else -1.0, min(steps[:end], default=1.0)))
    ends = np.unique(np.clip([0.0, 1.0, *np.ravel(intervals)], 0, 1))
    middles = (ends[:-1] + ends[1:]) / 2
    curves = []
    subsets = [solution.subset for solution in solutions]
    for part in grouped(zip(solutions, intervals, strict=True), subsets).values():
        accuracies = []
        for wrong in (True, False):
            of_kind = [ends for solution, ends in part if (solution.first_error >= 0) is wrong]
            lows, highs = np.array([(low, high) for low, high in of_kind if low < high]).reshape(-1, 2).T
            below = [np.searchsorted(np.sort(bounds), middles) for bounds in (lows, highs)]
            accuracies.append((below[0] - below[1]) / len(of_kind))
        curves.append(harmonic_mean(*accuracies))
    curve = np.mean(curves, axis=0)
    best = middles[curve >= curve.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])


def _read(rows: list[Row]) -> list[Solution]:
    stepwise = bool(rows) and "problem" not in rows[0] and "completions" in rows[0]
    columns = BENCHMARKS["process_bench.stepwise" if stepwise else "process_bench"].columns
    return read_rows("process_bench", rows, _solution, columns=columns)


def _solution(row: Row) -> Solution:
    """One row; `steps_after_first_error`, which nobody labelled, is what the model reads behind the labelled steps."""
    checked = checked_steps(processbench(row) if "problem" in row else stepwise_supervised(row), empty_steps=True)
    first_error = _first_wrong(checked["labels"])
    if row.get("first_error") is not None and integer(row, "first_error") != first_error:
        raise RowError(f"is {row['first_error']}, but the labels' first wrong step is {first_error}", "first_error")
    rest = row.get("steps_after_first_error") or []
    if rest and (first_error < 0 or not isinstance(rest, list) or not all(isinstance(step, str) for step in rest)):
        raise RowError(f"expected steps behind a wrong one, found {shown(rest)}", "steps_after_first_error")
    return Solution(
        checked["prompt"], [*checked["completions"], *rest], first_error, _subset(row), template_arguments(row)
    )


def _first_wrong(labels: list[float]) -> int:
    for index, label in enumerate(labels):
        if label == UNLABELLED:
            raise RowError(f"step {index} is unlabelled, and no step before it is wrong. Leave such rows out", "labels")
        if label < 0.5:
            return index
    return -1


def _subset(row: Row) -> str:
    for column in ("subset", "split"):
        if (name := subset_name(row.get(column))) is not None:
            return name
    named = _ID.fullmatch(str(row.get("id")))
    return named[1] if named else ""


def _parts(
    solutions: list[Solution], threshold: float | str, share: float, tune_rows: list[Row] | None
) -> tuple[list[Solution], list[int]]:
    """Solutions to choose the threshold on, and the indices of those that are evaluated."""
    everything = list(range(len(solutions)))
    if threshold != "tune":
        check_threshold(threshold, "Give one, or 'tune'.")
        if tune_rows is not None:
            raise ValueError(f"tune_rows are given, and threshold={threshold!r} needs none. Give threshold='tune'.")
        return [], everything
    if tune_rows is not None:
        try:
            return _read(Rows(tune_rows)), everything
        except ValueError as error:
            raise ValueError(f"tune_rows: {error}") from error
    check_share("tune_share", share, "For rows of their own: tune_rows.")
    tuned = [prompt_key({"prompt": solution.prompt}) / 2**63 < share for solution in solutions]
    return [solutions[index] for index in everything if tuned[index]], [i for i in everything if not tuned[i]]


def _item(solution: Solution, probabilities: list[float], *, number: int, threshold: float) -> dict:
    label, subset = solution.first_error, solution.subset
    return first_error_item(
        number, solution.prompt, solution.steps, probabilities, threshold=threshold, label=label, subset=subset
    )


def _check_kinds(solutions: list[Solution], where: str) -> None:
    subsets = [solution.subset for solution in solutions]
    for subset, part in (grouped(solutions, subsets) or {"": []}).items():
        wrong = sum(solution.first_error >= 0 for solution in part)
        if wrong in (0, len(part)):
            raise ValueError(
                f"benchmark 'process_bench': {where}{f' of {subset}' if subset else ''} hold {wrong} solutions with a "
                f"wrong step and {len(part) - wrong} without; F1 needs both. Take more rows, or another tune_share."
            )
