"""The course of training: a Trainer's log history in, a `Chart` of each figure out."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ...figure_names import METRICS
from .plots import BLUE, GREY, ORANGE, Chart, legend_below

_OF_TRAINING = {"grad_norm": "Gradient norm", "learning_rate": "Learning rate"}
_TITLES = {**{name: metric.chart for name, metric in METRICS.items() if metric.chart}, **_OF_TRAINING}
OTHERS = [("#5b4b9a", "s"), ("#2f8f83", "^"), ("#a6427c", "D"), ("#7a6a1f", "v"), ("#4d4d4d", "P"), ("#2a7f9e", "X")]
"""colour and mark of each further evaluation set"""
MOST_CURVES = len(OTHERS)


def curves(logs: Sequence[dict[str, Any]], metrics: Iterable[str]) -> list[Chart]:
    """A chart of each of `metrics` that is logged: training ("loss"), evaluation ("eval_loss", "eval_SET_loss")."""
    charts = []
    for name in (name for name in _TITLES if name in {*metrics, *_OF_TRAINING}):
        found = {key for log in logs for key in log if key == name or held_out_set(key, name) is not None}
        keys = sorted(found, key=lambda key: (key != name, key != f"eval_{name}", key))[:MOST_CURVES]
        series = {key: _points(logs, key) for key in keys}
        if points := sum(len(each) for each in series.values()):
            lost = sum(key in log for log in logs for key in keys) - points
            hidden = f" Not drawn: {len(found) - len(keys)} evaluation sets." if len(found) > len(keys) else ""
            counts = [f"{len(each):,} ({_logged(key, name)})" for key, each in series.items()]
            charts.append(
                Chart(
                    f"training_{name}",
                    _TITLES[name],
                    f"n: {', '.join(counts)}." + (f" Not finite, and left out: {lost}." if lost else "") + hidden,
                    lambda axes, name=name, series=series: _draw_curves(axes, name, series, logs),
                )
            )
    return charts


def held_out_set(key: str, name: str) -> str | None:
    """The evaluation set whose figure `name` a logged key is, "" where there is but one; None: it is another figure.

    >>> [held_out_set(key, "accuracy") for key in ("eval_accuracy", "eval_math_accuracy", "eval_first_wrong_accuracy")]
    ['', 'math', None]
    """
    if not (key.startswith("eval_") and key.endswith(f"_{name}")):
        return None
    between = key[len("eval") : -len(name)].strip("_")
    longer = any(known.endswith(f"_{name}") and key.endswith(f"_{known}") for known in METRICS)
    return None if longer or "subset_" in f"{between}_" else between


def _logged(key: str, name: str) -> str:
    if key == name:
        return "training logs"
    return " ".join(filter(None, ("evaluations", held_out_set(key, name))))


def _points(logs: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    return [
        (log["step"], log[key]) for log in logs if isinstance(log.get(key), int | float) and math.isfinite(log[key])
    ]


def _draw_curves(axes, name: str, series: dict[str, list], logs: Sequence[dict[str, Any]]) -> None:
    others = iter(OTHERS)
    for key, points in series.items():
        if not points:
            continue
        steps, values = np.array(points, dtype=float).T
        if key == name:
            window = len(values) // 30 if name != "learning_rate" else 0
            axes.plot(steps, values, color=BLUE, alpha=0.3 if window > 1 else 1, lw=1.2, label="training")
            if window > 1:
                mean = np.convolve(values, np.ones(window) / window, mode="valid")
                middle = steps[(window - 1) // 2 :][: len(mean)]
                axes.plot(middle, mean, color=BLUE, label=f"mean of {window} logs")
        else:
            label = ": ".join(filter(None, ("held out", held_out_set(key, name))))
            color, mark = (ORANGE, "o") if key == f"eval_{name}" else next(others)
            axes.plot(steps, values, f"{mark}--", color=color, ms=5, label=label)
        spread = dict(_points(logs, key.replace("mean_reward", "std_reward"))) if name == "mean_reward" else {}
        if spread and all(step in spread for step in steps):
            std = np.array([spread[step] for step in steps])
            color = axes.lines[-1].get_color()
            if key == name:
                axes.fill_between(steps, values - std, values + std, color=color, alpha=0.15, lw=0)
            else:
                axes.errorbar(steps, values, std, color=color, fmt="none", capsize=3, lw=1)
    axes.set(xlabel="optimizer step", ylabel="reward" if name == "mean_reward" else _TITLES[name])
    if name in METRICS and METRICS[name].is_share:
        axes.set_ylim(-0.02, 1.02)
    elif axes.dataLim.ymin >= 0 and name != "mean_reward":
        axes.set_ylim(bottom=0)
    if name == "accuracy":
        axes.axhline(0.5, color=GREY, lw=1, ls=":", label="a coin")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(axes.lines) > 5:
        legend_below(axes)
    elif len(axes.lines) > 1:
        axes.legend(fontsize=9)
