"""Scored completions -> their sections: rewards against scores, or probabilities against outcomes.

N completions, A scores of each (one, or one an attribute), NaN where it is not rated
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...figure_names import ERRORS, score_baselines
from ...figures import error_figures
from .curves import OTHERS
from .data import Run
from .examples import scored_examples
from .figures import StepFigures
from .outcomes import of_completions, outcome_charts, outcome_subsets, outcome_tiles
from .parts import Section, Table, Tile, against, before, headline, notes, result
from .plots import BLUE, GREY, Chart, digits, legend_below

MARKS = [(BLUE, "o"), *OTHERS]
"""colour and mark of each attribute that is drawn"""


def errors(rewards: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """How far rewards are from scores: `ERRORS`, and `n`, how many scores are rated; NaN where there is no such figure.

    >>> errors(np.array([1.0, 2.0, 9.0]), np.array([1.0, 4.0, np.nan]))["n"]
    2
    """
    found = error_figures(rewards.ravel(), scores.ravel())
    return {"n": int((~np.isnan(scores)).sum()), **dict.fromkeys(ERRORS, math.nan), **found}


@dataclass(frozen=True)
class Scores:
    """What was evaluated; `outcomes` is None where the scores are no outcomes."""

    names: list[str]
    rewards_NA: np.ndarray
    scores_NA: np.ndarray
    subsets_N: list[str | None]
    outcomes: StepFigures | None


def scored_figures(items: Sequence[dict[str, Any]]) -> Scores:
    names = list(dict.fromkeys(name for item in items for name in item["scores"]))
    rewards = [item.get("rewards") or item["probabilities"] for item in items]
    return Scores(
        names=names,
        rewards_NA=np.array([[one.get(name, math.nan) for name in names] for one in rewards], dtype=float),
        scores_NA=np.array([[item["scores"].get(name) for name in names] for item in items], dtype=float),
        subsets_N=[item.get("subset") for item in items],
        outcomes=of_completions(items) if all("probabilities" in item for item in items) else None,
    )


def scored_headline(run: Run, evaluated: Scores | None) -> Section:
    count = Tile("completions", f"{len(run.items):,}" if run.items else "–")
    loss = Tile("loss", result(run, "loss"), before(run, "loss"))
    outcomes = None if evaluated is None else evaluated.outcomes
    if outcomes is not None or (evaluated is None and "mse" not in run.results):
        tiles = outcome_tiles(run, outcomes, "accuracy")
        return headline(run, outcomes and outcomes.accuracy, [count, *tiles, loss])
    lead, found, tables = "As the run reported them, without the number of examples.", run.results, []
    remarks = {"pearson": "Pearson's, of reward and score"}
    if evaluated is not None:
        found = errors(evaluated.rewards_NA, evaluated.scores_NA)
        lead = f"Of {found['n']:,} scores."
        remarks["mse"] = against(ERRORS["mse"], _variance(evaluated.scores_NA))
        tables = [_table("By attribute", _by_attribute(evaluated))] if len(evaluated.names) > 1 else []
    tiles = [count]
    for key, metric in ERRORS.items():
        value = digits(found.get(key, math.nan))
        tiles.append(Tile(metric.short, value, notes(before(run, key), remarks.get(key, ""))))
    tiles.append(loss)
    return Section("figures", "Held-out figures", lead, tiles=tiles, tables=tables)


def scored_sections(run: Run, evaluated: Scores) -> list[Section]:
    examples = Section("examples", "Examples", examples=scored_examples(run.items))
    if evaluated.outcomes is not None:
        axis, words = "predicted probability", ("good", "bad")
        charts = outcome_charts(evaluated.outcomes, "completions", words, axis)
        where = outcome_subsets(evaluated.outcomes, "completions")
        tables = []
    else:
        charts, where = [_scatter(evaluated)], []
        tables = [_table("By subset", _by_subset(evaluated))] if any(evaluated.subsets_N) else []
    found = [Section("scores", "Rewards and scores", charts=charts)]
    if where or tables:
        found.append(Section("where", "Where it is right", charts=where, tables=tables))
    return [*found, examples]


# ---- tables and the chart --------------------------------------------------------------------------------------------


def _variance(scores: np.ndarray) -> float:
    """The squared error of the mean score everywhere."""
    return score_baselines(scores).get("mse", math.nan)


def _by_attribute(evaluated: Scores) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    columns = zip(evaluated.rewards_NA.T, evaluated.scores_NA.T, strict=True)
    return dict(zip(evaluated.names, columns, strict=True))


def _by_subset(evaluated: Scores) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    labels = np.array([name or "(none)" for name in evaluated.subsets_N])
    names = np.unique(labels)
    return {str(name): (evaluated.rewards_NA[labels == name], evaluated.scores_NA[labels == name]) for name in names}


def _table(title: str, parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> Table:
    """A row a part, {name: rewards and scores}."""
    columns = [metric.short for metric in ERRORS.values()]
    columns.insert(1, ERRORS["mse"].baseline)
    rows = []
    for name, (rewards, scores) in parts.items():
        n, *figures = errors(rewards, scores).values()
        figures.insert(1, _variance(scores))
        rows.append((name, f"{n:,}", *map(digits, figures)))
    return Table(title, ("", "n", *columns), rows)


def _scatter(evaluated: Scores) -> Chart:
    """A point a score; the dashed line is a reward that equals its score."""
    shown = evaluated.names[: len(MARKS)]
    columns = list(zip(shown, evaluated.scores_NA.T, evaluated.rewards_NA.T, strict=False))

    def draw(axes) -> None:
        known = evaluated.scores_NA[np.isfinite(evaluated.scores_NA)]
        ends = [known.min(), known.max()] if len(known) else [0, 1]
        axes.plot(ends, ends, color=GREY, lw=1, ls="--", label="as scored")
        for (name, scores, rewards), (color, mark) in zip(columns, MARKS, strict=False):
            axes.plot(scores, rewards, mark, color=color, ms=4, alpha=0.5, label=name)
        axes.set(xlabel="score", ylabel="reward")
        legend_below(axes)

    caption = (
        f"n = {int((~np.isnan(evaluated.scores_NA)).sum()):,} scores. On the dashed line a reward equals its score."
    )
    if len(shown) < len(evaluated.names):
        caption += f" The first {len(shown)} of {len(evaluated.names)} attributes are drawn."
    rows = [row for name, scores, rewards in columns for row in _levels(name, scores, rewards)]
    header = ("", "scores", "n", "mean reward")
    return Chart("scored", "Rewards against scores", caption, draw, header, rows, (5.4, 4.2))


def _levels(name: str, scores: np.ndarray, rewards: np.ndarray, most: int = 8) -> list[tuple[str, ...]]:
    """Mean reward of each score, or of the scores in `most` groups of like size."""
    order = np.argsort(scores, kind="stable")[: int((~np.isnan(scores)).sum())]
    values = scores[order]
    cuts = np.unique(values, return_index=True)[1]
    if len(cuts) > most:
        cuts = np.unique(np.searchsorted(values, [values[len(values) * k // most] for k in range(most)]))
    groups = [part for part in np.split(order, cuts) if len(part)]
    return [
        (name, _span(scores[part[0]], scores[part[-1]]), f"{len(part):,}", digits(float(rewards[part].mean())))
        for part in groups
    ]


def _span(low: float, high: float) -> str:
    return digits(low, 2) if low == high else f"{digits(low, 2)} to {digits(high, 2)}"
