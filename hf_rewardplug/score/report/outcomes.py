"""Good and bad outcomes against probabilities: of solutions, as probable as their worst step, and of completions.

In: items that have outcomes. Out: figures of them (`StepFigures`, each outcome a step), their tiles and charts.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...data.canonical import UNLABELLED
from ...figure_names import OUTCOMES, step_baselines
from . import plots
from .data import Run
from .figures import StepFigures, step_figures
from .parts import Tile, against, before, notes, shown
from .plots import Chart


def of_solutions(items: Sequence[dict[str, Any]]) -> StepFigures | None:
    """Of the solutions that have an outcome, each by its worst step; None where none has.

    >>> found, missed = {"probabilities": [0.9, 0.2], "outcome": 0}, {"probabilities": [0.4], "outcome": 1}
    >>> of_solutions([found, missed]).accuracy.value
    0.5
    """
    found = [item for item in items if item.get("outcome") is not None]
    worst = [{"probabilities": [float(np.min(item["probabilities"]))], "labels": [item["outcome"]]} for item in found]
    return step_figures([{**each, "subset": item.get("subset")} for each, item in zip(worst, found, strict=True)])


def of_completions(items: Sequence[dict[str, Any]]) -> StepFigures | None:
    """Of every score that a completion has, by its name; None where not one is rated."""
    return step_figures(
        [
            {
                "probabilities": [item["probabilities"][name] for name in item["scores"]],
                "labels": [UNLABELLED if score is None else score for score in item["scores"].values()],
                "subset": item.get("subset"),
            }
            for item in items
        ]
    )


def outcome_tiles(run: Run, evaluated: StepFigures | None, name: str, prefix: str = "") -> list[Tile]:
    """Tiles of what was evaluated, or of what the run reported, whose figures begin with `prefix`."""
    keys = ("accuracy", "auroc", "ece")
    accuracy, auroc, error = (shown(run, evaluated, key if evaluated else f"{prefix}{key}") for key in keys)
    majority = ""
    if evaluated is not None:
        majority = against(OUTCOMES["accuracy"], step_baselines(evaluated.values["wrong_rate"])["accuracy"])
    return [
        Tile(name, accuracy, notes(before(run, f"{prefix}accuracy"), majority)),
        Tile("AUROC of the outcomes", auroc, "a coin: 0.500"),
        Tile("calibration error of the outcomes", error, before(run, f"{prefix}ece")),
    ]


def outcome_charts(evaluated: StepFigures, unit: str, words: tuple[str, str], axis: str) -> list[Chart]:
    """Histogram and calibration; `words`: what a good and a bad one of `unit` is called."""
    p, right = evaluated.probabilities_S, evaluated.right_S
    good, bad = (f"{word} {unit}" for word in words)
    curve = plots.calibration(
        evaluated.bins, evaluated.values["ece"], axis, f"observed share of {good}", f"outcomes of {unit}"
    )
    return [
        plots.histogram("outcomes", "Outcomes", axis, (good, p[right]), (bad, p[~right])),
        replace(curve, name="outcomes_calibration", title="Calibration of the outcomes"),
    ]


def outcome_subsets(evaluated: StepFigures, unit: str) -> list[Chart]:
    """Accuracy of the outcomes by subset, if there are any."""
    if not evaluated.subsets:
        return []
    chart = plots.subsets(evaluated.subsets, f"outcomes of {unit}", evaluated.accuracy)
    return [replace(chart, name="outcomes_subsets", title="Accuracy of the outcomes by subset")]
