"""The report's charts: figures in, `Chart`s out; `png` draws one with matplotlib, without pyplot's global state.

Blue is chosen or right, orange is rejected or wrong; a second mark (hatch, dash, cross) always says the same, so that
the charts can be read without colours. Text from the data is never parsed as math.
"""

import io
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...data.canonical import UNLABELLED
from ...figures import Bin
from .figures import LengthBin, Share, first_wrong

BLUE, ORANGE, GREY, INK = "#1f5fa8", "#c2570c", "#8a8f98", "#1b1f24"
SCALE = ["#e08a3c", "#f2bd8a", "#fbe6d2", "#f4f4f2", "#dbe9f5", "#a3c8e8", "#5a9bd0"]
SHADES = ["#f6c596", "#fadabb", "#fcefe2", "#f6f6f4", "#e6f0f8", "#cce1f3", "#b0d1ee"]
"""from wrong (0) to right (1): of cells with a mark, of text"""
STYLE = {
    "font.size": 10,
    "font.family": "DejaVu Sans",  # matplotlib's own
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "legend.frameon": False,
    "hatch.linewidth": 0.8,
}
MOST_SUBSETS, MOST_ROWS, MOST_STEPS = 20, 24, 30


@dataclass(frozen=True)
class Chart:
    """A chart to draw.

    Attributes:
        draw: axes -> None.
        caption: how to read it, and what it says.
        header, rows: its numbers as a table; empty where there are too many.
        size: inches.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Any], None]
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=list)
    size: tuple[float, float] = (5.4, 3.5)


def png(chart: Chart) -> bytes:
    """The chart as a PNG."""
    import matplotlib
    from matplotlib.figure import Figure

    stream = io.BytesIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names of subsets in scripts that the font lacks: the page spells them
        figure = Figure(figsize=chart.size, layout="constrained")
        figure.suptitle(chart.title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        chart.draw(figure.subplots())
        figure.savefig(stream, format="png", dpi=180)
    return stream.getvalue()


def digits(value: float, places: int = 3) -> str:
    """A figure for people; a dash where there is none.

    >>> digits(0.81234), digits(-1.5), digits(math.nan)
    ('0.812', '−1.500', '–')
    """
    return "–" if not math.isfinite(value) else f"{value:.{places}f}".replace("-", "−")


def share_text(share: Share) -> str:
    return "–" if not share.n else f"{digits(share.value)} ± {digits(share.error)}"


def legend_below(axes) -> None:
    axes.figure.legend(loc="outside lower left", ncols=2, fontsize=9)


# ---- scores and calibration ------------------------------------------------------------------------------------------


def histogram(name: str, title: str, xlabel: str, good: tuple[str, np.ndarray], bad: tuple[str, np.ndarray]) -> Chart:
    """Two groups of scores over each other: blue and filled, orange and hatched."""
    groups = [(label, scores[np.isfinite(scores)]) for label, scores in (good, bad)]
    lost = sum(len(scores) for _, scores in (good, bad)) - sum(len(scores) for _, scores in groups)
    rows = [(label, str(len(s)), *_five_numbers(s)) for label, s in groups]

    def draw(axes) -> None:
        every = np.concatenate([scores for _, scores in groups])
        low, high = (every.min(), every.max()) if len(every) else (0.0, 1.0)
        if high - low < 1e-6 * max(1, abs(low), abs(high)):  # too near for thirty bins
            low, high = low - 0.5 * max(1, abs(low)), high + 0.5 * max(1, abs(high))
        edges = np.linspace(low, high, 31)
        for (label, scores), color, style in zip(groups, (BLUE, ORANGE), ({}, {"hatch": "////"}), strict=True):
            label, filled = f"{label} (n = {len(scores):,})", "55" if color == BLUE else "00"
            axes.hist(scores, edges, histtype="stepfilled", fc=color + filled, ec=color, lw=1.4, label=label, **style)
        axes.set(xlabel=xlabel, ylabel="count")
        legend_below(axes)

    caption = "Blue: {}. Orange, hatched: {}. The less they overlap, the better.".format(
        *(label for label, _ in groups)
    )
    caption += f" {lost} scores are no finite numbers, and left out." if lost else ""
    return Chart(name, title, caption, draw, ("", "n", "least", "10 %", "median", "90 %", "most"), rows, (5.4, 3.8))


def _five_numbers(scores: np.ndarray) -> list[str]:
    return [digits(float(np.quantile(scores, q)), 2) for q in (0, 0.1, 0.5, 0.9, 1)] if len(scores) else ["–"] * 5


def calibration(bins: Sequence[Bin], error: float, predicted: str, observed: str, of: str) -> Chart:
    """Predicted against observed; the area of a point says how many predictions it stands for."""

    def draw(axes) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="as promised")
        most = max((each.n for each in bins), default=1)
        axes.plot([b.predicted for b in bins], [b.observed for b in bins], color=BLUE, lw=1, alpha=0.6)
        sizes = [20 + 180 * each.n / most for each in bins]
        axes.scatter([b.predicted for b in bins], [b.observed for b in bins], sizes, color=BLUE, alpha=0.75, lw=0)
        axes.annotate("promises too little", (0.03, 0.93), color=INK, fontsize=9)
        axes.annotate("promises too much", (0.97, 0.04), color=INK, fontsize=9, ha="right")
        axes.set(xlabel=predicted, ylabel=observed, xlim=(-0.02, 1.02), ylim=(-0.04, 1.04))

    total = sum(each.n for each in bins)
    caption = f"n = {total:,} {of}, 15 bins; a larger point stands for more. Calibration error {digits(error)}."
    rows = [(digits(b.predicted), digits(b.observed), f"{b.n:,}") for b in bins]
    return Chart("calibration", "Calibration", caption, draw, ("predicted", "observed", "n"), rows, (5.4, 3.8))


# ---- where it is right -----------------------------------------------------------------------------------------------


def subsets(found: dict[str, Share], unit: str, overall: Share) -> Chart:
    """Accuracy of each subset with its standard error; the largest ones where there are many."""
    kept = set(sorted(found, key=lambda name: -found[name].n)[:MOST_SUBSETS])
    shown = {name: share for name, share in found.items() if name in kept}

    def draw(axes) -> None:
        names = [
            f"{name if len(name) < 24 else f'{name[:11]}…{name[-11:]}'}\nn = {share.n:,}"
            for name, share in shown.items()
        ]
        _bars(axes, names, list(shown.values()))
        axes.axvline(overall.value, color=INK, lw=1, ls="--", label=f"all: {digits(overall.value)}")
        legend_below(axes)
        axes.set(xlabel=f"accuracy ± standard error ({unit})")

    caption = f"n: {unit}. The dashed line is the accuracy of all; a dotted one is a coin."
    if len(shown) < len(found):
        caption += f" The {len(shown)} largest of {len(found)} subsets are drawn."
    rows = [(name, f"{share.n:,}", share_text(share)) for name, share in found.items()]
    size = (5.4, 1.5 + 0.42 * len(shown))
    return Chart("subsets", "Accuracy by subset", caption, draw, ("subset", "n", "accuracy"), rows, size)


def _bars(axes, names: Sequence[str], shares: Sequence[Share]) -> None:
    places, values = range(len(names)), [share.value for share in shares]
    axes.barh(places, values, height=0.62, color=BLUE + "88", ec=BLUE, lw=0.8)
    axes.errorbar(values, places, xerr=[share.error for share in shares], fmt="none", ecolor=INK, capsize=3, lw=1.2)
    axes.axvline(0.5, color=GREY, lw=1, ls=":")
    axes.set_yticks(places, names, fontsize=9)
    axes.set(xlim=(0, 1.02), ylim=(len(names) - 0.5, -0.5))
    axes.grid(False, axis="y")


def lengths(found: Sequence[LengthBin], overall: float, longer: float) -> Chart:
    """Accuracy by the difference in tokens, beside a rule that only counts them."""

    def draw(axes) -> None:
        _bars(axes, [f"{_span(each)}\nn = {each.share.n:,}" for each in found], [each.share for each in found])
        rule = [each.longer for each in found]
        axes.plot(rule, range(len(found)), "D", color=ORANGE, ms=6, lw=1, clip_on=False, label='"the longer one wins"')
        axes.set(xlabel="accuracy ± standard error (pairs)", ylabel="tokens, chosen − rejected")
        legend_below(axes)

    caption = (
        f'Blue bars: this model ({digits(overall)} of all pairs). Orange diamonds: "the longer one wins" '
        f"({digits(longer)} of all). A model whose bars follow the diamonds counts words."
    )
    rows = [(_span(b), f"{b.share.n:,}", share_text(b.share), digits(b.longer, 1)) for b in found]
    header = ("chosen − rejected, tokens", "n", "accuracy", '"the longer one wins"')
    return Chart("lengths", "Accuracy by length", caption, draw, header, rows, (5.4, 1.5 + 0.42 * len(found)))


def _span(each: LengthBin) -> str:
    low, high = (f"{value:+,}".replace("-", "−") if value else "0" for value in (each.low, each.high))
    return low if low == high else f"{low} to {high}"


def heat_map(items: Sequence[dict[str, Any]]) -> Chart:
    """Rows: solutions at even distances, by their first wrong step; columns: steps; a cross: labelled wrong."""
    chosen = [items[index] for index in sorted({int(i) for i in np.linspace(0, len(items) - 1, MOST_ROWS)})]
    firsts = {item["line"]: first_wrong(item)[1] for item in chosen}
    bad = {item["line"] for item in chosen if (outcome := item.get("outcome")) is not None and outcome < 0.5}
    chosen.sort(key=lambda i: (firsts[i["line"]] < 0, firsts[i["line"]], i["line"] not in bad, len(i["steps"])))
    width = min(max(len(item["steps"]) for item in chosen), MOST_STEPS)

    def draw(axes) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        colors = LinearSegmentedColormap.from_list("steps", SCALE)
        cells = np.full((len(chosen), width), np.nan)
        for row, item in enumerate(chosen):
            for column, (p, label) in enumerate(zip(item["probabilities"][:width], item["labels"], strict=False)):
                cells[row, column] = p
                mark = "" if label >= 0.5 else "–" if label == UNLABELLED else "×"
                axes.text(column, row, mark, ha="center", va="center", fontsize=11 if width < 16 else 7, weight="bold")
        image = axes.imshow(cells, cmap=colors, vmin=0, vmax=1, aspect="auto")
        axes.figure.colorbar(image, ax=axes, label="probability that the step is right", shrink=0.8, aspect=30)
        names = [f"{'× ' if item['line'] in bad else ''}line {item['line']}" for item in chosen]
        axes.set_yticks(range(len(chosen)), names, fontsize=8)
        axes.set_xticks(range(0, width, max(1, width // 10)), range(1, width + 1, max(1, width // 10)))
        axes.set(xlabel="step", ylabel="solution")
        axes.grid(False)

    caption = (
        f"n = {len(chosen)} of {len(items)} solutions, at even distances, by their first wrong step. Blue: the model "
        "holds the step for right; orange: for wrong. ×: labelled wrong. –: not labelled. Good: a cross in every "
        "orange cell and no other."
    )
    if bad:
        caption += " × at a line: the solution is wrong."
    if any(len(item["steps"]) > width for item in chosen):
        caption += f" The first {width} steps are drawn."
    return Chart("steps", "Probabilities of the steps", caption, draw, size=(5.8, 1.6 + 0.24 * len(chosen)))
