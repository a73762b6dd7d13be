"""What a page is made of: sections with tiles, charts, examples and tables, and the words that all kinds share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...figure_names import Metric
from .data import Run
from .examples import Examples
from .figures import Evaluated, Share
from .plots import Chart, digits, share_text


@dataclass(frozen=True)
class Tile:
    """A headline figure."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    lead: str = ""
    tiles: Sequence[Tile] = ()
    charts: Sequence[Chart] = ()
    examples: Sequence[Examples] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[tuple[str, str]] = field(default_factory=list)


def before(run: Run, key: str) -> str:
    """What the evaluation before the first step gave, if there was one."""
    logs = (log for log in run.logs if log["step"] == 0 and f"eval_{key}" in log)
    return next((f"before training: {digits(log[f'eval_{key}'])}" for log in logs), "")


def result(run: Run, key: str, otherwise: float = math.nan) -> str:
    """A figure of the last evaluation."""
    return digits(run.results.get(key, otherwise))


def shown(run: Run, evaluated: Evaluated | None, key: str) -> str:
    """A figure of the items, a share of them with its standard error; where there are none, what the run reported."""
    value = run.results.get(key, math.nan) if evaluated is None else evaluated.values[key]
    return share_text(value) if isinstance(value, Share) else digits(value)


def against(metric: Metric, value: float) -> str:
    """What a rule reaches that reads no text, with its name."""
    return f"{metric.baseline}: {digits(value)}"


def notes(*texts: str) -> str:
    return "; ".join(filter(None, texts))


def headline(run: Run, accuracy: Share | None, tiles: list[Tile], key: str = "accuracy") -> Section:
    """The held-out figures; `accuracy` is this page's own, from the items, and `key` the run's name for it."""
    told, reported = [], run.results.get(key, math.nan)
    if accuracy is not None and abs(reported - accuracy.value) > 5e-4:
        where = "the last logged evaluation" if "eval_results.json" in run.missing else "eval_results.json"
        told.append(("Two accuracies", f"{digits(reported)} in {where}; this page counts eval_items.jsonl."))
    lead = "±: one standard error."
    if accuracy is None:
        lead = "As the run reported them" + (
            ": no step is labelled." if run.items else ", without the number of examples."
        )
    return Section("figures", "Held-out figures", lead, tiles=tiles, notes=told)
