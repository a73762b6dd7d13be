"""A run, read -> the sections of its report, in the order of the page. The template renders them, whatever they hold.

held-out figures    tiles
training            curves
scores              histograms, calibration, by subset, by length; a PRM's heat map
examples            pairs, scored completions, or solutions step by step
benchmarks, run     tables
missing             what the folder lacks, and how to get it
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from ...figure_names import (
    ECE,
    ERRORS,
    LISTS,
    LOSS,
    OUTCOMES,
    PAIRS,
    PAIRS_AND_TIES,
    SOLUTIONS,
    SPREAD,
    STEPS,
    step_baselines,
)
from ...model.description import Description
from . import plots
from .curves import curves
from .data import Run
from .examples import outcome_examples, pair_examples, solution_examples
from .figures import PairFigures, StepFigures, pair_figures, step_figures
from .outcomes import of_solutions, outcome_charts, outcome_subsets, outcome_tiles
from .parts import Section, Table, Tile, against, before, headline, notes, result, shown
from .plots import digits
from .scored import scored_figures, scored_headline, scored_sections


class Form(NamedTuple):
    """A form of held-out examples: figures of the items, the headline, the sections behind it, what is drawn."""

    figures: Callable[[list], Any]
    headline: Callable[[Run, Any], Section]
    sections: Callable[[Run, Any], list[Section]]
    metrics: Iterable[str]


def sections(run: Run) -> list[Section]:
    """All sections that the run's files fill."""
    form = _FORMS[run.form]
    evaluated = form.figures(run.items) if run.items else None
    found = [form.headline(run, evaluated), _training(run, form.metrics)]
    found += form.sections(run, evaluated) if run.items else []
    if run.benchmarks:
        tables = [_benchmark_table(each["name"], each["figures"]) for each in run.benchmarks]
        found.append(Section("benchmarks", "Benchmarks", tables=tables))
    found.append(Section("run", "The run", tables=[_run_table(run)]))
    if run.missing:
        lead = "The folder lacks these files; with them this report says more."
        found.append(Section("missing", "Missing", lead, notes=list(run.missing.items())))
    return found


# ---- held-out figures ------------------------------------------------------------------------------------------------


def _pair_headline(run: Run, evaluated: PairFigures | None) -> Section:
    longer, loss = "", math.nan
    if evaluated is not None:
        loss = evaluated.values["loss"]
        longer = against(PAIRS["accuracy"], evaluated.longer) if evaluated.lengths else ""
    tiles = [
        Tile("pairs", f"{len(run.items):,}" if run.items else "–"),
        Tile("accuracy", shown(run, evaluated, "accuracy"), notes(before(run, "accuracy"), longer)),
        Tile("loss", result(run, "loss", loss), before(run, "loss")),
        Tile("calibration error", shown(run, evaluated, "ece"), before(run, "ece")),
        Tile("ties", shown(run, evaluated, "ties"), "share of pairs with equal scores; they count as wrong"),
        Tile("margin", shown(run, evaluated, "margin"), "chosen − rejected, mean"),
    ]
    of_lists = {key: metric for key, metric in LISTS.items() if key not in PAIRS}
    for key, metric in {**of_lists, **PAIRS_AND_TIES}.items():
        if key not in PAIRS and key in run.results:
            tiles.append(Tile(metric.label, result(run, key), before(run, key)))
    section = headline(run, evaluated and evaluated.accuracy, tiles)
    if evaluated is not None and of_lists.keys() & run.results.keys():
        return replace(section, lead=f"{section.lead[:-1]}, as if the pairs of a list were independent.")
    return section


def _step_headline(run: Run, evaluated: StepFigures | None) -> Section:
    """Of the steps; of the solutions' outcomes as well, or alone, where the run has them."""
    outcomes = of_solutions(run.items)
    told = outcomes is not None or "outcome_accuracy" in run.results
    count = f"{evaluated.accuracy.n if evaluated else 0:,} labelled steps" if run.items else ""
    tiles = [Tile("solutions", f"{len(run.items):,}" if run.items else "–", count)]
    if evaluated is not None or "accuracy" in run.results or not told:
        tiles += _step_tiles(run, evaluated)
    if told:
        tiles += outcome_tiles(run, outcomes, "outcome, by the worst step", "outcome_")
    loss = math.nan if evaluated is None else evaluated.values["loss"]
    tiles.append(Tile("loss", result(run, "loss", loss), before(run, "loss")))
    if evaluated is None and outcomes is not None:
        return headline(run, outcomes.accuracy, tiles, "outcome_accuracy")
    return headline(run, evaluated and evaluated.accuracy, tiles)


def _step_tiles(run: Run, evaluated: StepFigures | None) -> list[Tile]:
    figures = run.results if evaluated is None else evaluated.values
    wrong = figures.get("wrong_rate", math.nan)
    baselines = step_baselines(wrong if 0 <= wrong <= 1 else math.nan)
    remarks = {
        **{key: against(STEPS[key], value) for key, value in baselines.items()},
        "auroc": "a coin: 0.500",
        "first_wrong_accuracy": "or that there is none; share of solutions",
        "ece": "of the steps' probabilities",
    }
    metrics = {key: metric for key, metric in {**STEPS, **ECE}.items() if metric.label}
    return [Tile(metric.label, shown(run, evaluated, key), remarks.get(key, "")) for key, metric in metrics.items()]


def _training(run: Run, metrics: Iterable[str]) -> Section:
    logs = run.logs
    if run.form == "steps" and "outcome_accuracy" in run.results:  # what the training logs count then
        logs = [{"outcome_accuracy" if key == "accuracy" else key: log[key] for key in log} for log in logs]
    evaluated = max((log["step"] for log in logs if any(key.startswith("eval_") for key in log)), default=-1)
    if run.steps > evaluated and "eval_results.json" not in run.missing:
        logs = [*logs, {"step": run.steps, **{f"eval_{key}": value for key, value in run.results.items()}}]
    last = next((log for log in reversed(run.logs) if "num_tokens" in log), {})
    parts = [f"{run.steps:,} optimizer steps"]
    if "num_tokens" in last:
        parts.append(f"{last['num_tokens']:,.0f} tokens")
    for key, text in (("sharing_ratio", "{:.2f} tokens for one computed"), ("tokens_per_second", "{:,.0f} tokens/s")):
        if values := sorted(log[key] for log in run.logs if isinstance(log.get(key), int | float)):
            parts.append(text.format(values[len(values) // 2]))
    return Section("training", "Training", " · ".join(parts) + ".", charts=curves(logs, metrics))


# ---- outcome reward models -------------------------------------------------------------------------------------------


def _pair_sections(run: Run, evaluated: PairFigures) -> list[Section]:
    chosen, rejected = evaluated.scores_N2.T
    by = [
        plots.histogram("rewards", "Rewards", "reward", ("chosen", chosen), ("rejected", rejected)),
        plots.calibration(
            evaluated.bins,
            evaluated.values["ece"],
            "predicted: sigmoid(chosen − rejected)",
            "observed share of wins",
            f"views of {len(run.items):,} pairs, each from both sides",
        ),
    ]
    where = [plots.subsets(evaluated.subsets, "pairs", evaluated.accuracy)] if evaluated.subsets else []
    lead = "" if where else "No example has a subset: give the eval set such a column (column_mapping renames one). "
    if evaluated.lengths:
        where.append(plots.lengths(evaluated.lengths, evaluated.accuracy.value, evaluated.longer))
        lead += "Is it just counting words? " + _length_lead(evaluated)
    return [
        Section("scores", "Scores and calibration", charts=by),
        Section("where", "Where it is right", lead, charts=where),
        Section("examples", "Examples", examples=pair_examples(run.items, evaluated)),
    ]


def _length_lead(evaluated: PairFigures) -> str:
    parts = []
    for name, longer in (("longer", 1.0), ("shorter", 0.0)):
        bins = [each.share for each in evaluated.lengths if each.longer == longer]
        if n := sum(each.n for each in bins):
            parts.append(
                f"{digits(sum(each.value * each.n for each in bins) / n)} where chosen is the {name} one (n = {n:,})"
            )
    return f"Accuracy is {', '.join(parts)}." if parts else ""


# ---- process reward models -------------------------------------------------------------------------------------------


def _step_sections(run: Run, evaluated: StepFigures | None) -> list[Section]:
    found = []
    if evaluated is not None:
        p, right = evaluated.probabilities_S, evaluated.right_S
        axis = "probability that the step is right"
        charts = [
            plots.histogram("steps_histogram", "Steps", axis, ("right steps", p[right]), ("wrong steps", p[~right])),
            plots.calibration(evaluated.bins, evaluated.values["ece"], axis, "observed share of right steps", "steps"),
        ]
        found.append(Section("scores", "Scores and calibration", charts=charts))
        if evaluated.subsets:
            chart = plots.subsets(evaluated.subsets, "labelled steps", evaluated.accuracy)
            found.append(Section("where", "Where it is right", charts=[chart]))
    if (outcomes := of_solutions(run.items)) is not None:
        axis = "probability of the worst step"
        charts = outcome_charts(outcomes, "solutions", ("right", "wrong"), axis)
        charts += outcome_subsets(outcomes, "solutions")
        found.append(Section("outcomes", "Outcomes", "A solution is as right as its worst step.", charts=charts))
    found.append(Section("steps", "Step by step", charts=[plots.heat_map(run.items)]))
    describe = outcome_examples if evaluated is None and outcomes is not None else solution_examples
    found.append(Section("examples", "Solutions", examples=describe(run.items)))
    return found


_FORMS = {
    "completions": Form(pair_figures, _pair_headline, _pair_sections, {*LISTS, *PAIRS_AND_TIES}),
    "text": Form(scored_figures, scored_headline, scored_sections, {*ERRORS, *OUTCOMES, *LOSS, *SPREAD}),
    "steps": Form(step_figures, _step_headline, _step_sections, {*STEPS, *SOLUTIONS, *LOSS}),
}


# ---- tables ----------------------------------------------------------------------------------------------------------


def _benchmark_table(name: str, figures: dict[str, float]) -> Table:
    """Flat figures ("accuracy", "accuracy/Chat", "n/Chat") as a table: a row a group, a column a figure.

    >>> table = _benchmark_table("bench", {"accuracy": 0.5, "n": 4, "accuracy/Chat": 0.25, "n/Chat": 1200})
    >>> table.header, table.rows
    (['', 'accuracy', 'n'], [['all', '0.500', '4'], ['Chat', '0.250', '1,200']])
    """
    groups: dict[str, dict[str, float]] = {}
    for key, value in figures.items():
        figure, _, group = key.partition("/")
        groups.setdefault(group, {})[figure] = value
    columns = list(dict.fromkeys(key.partition("/")[0] for key in figures))
    rows = [
        [group or "all", *(_number(found[column]) if column in found else "" for column in columns)]
        for group, found in groups.items()
    ]
    return Table(name, ["", *columns], rows)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else digits(value)


def _run_table(run: Run) -> Table:
    description = Description.of(run.config)
    calibration = description.calibration or {}
    architectures = ", ".join(map(str, run.config.get("architectures") or []))
    rows = [
        ("folder", str(run.folder.resolve())),
        ("kind", {"orm": "outcome reward model", "prm": "process reward model"}[run.kind]),
        ("model", architectures or str(run.config.get("model_type", "–"))),
        ("optimizer steps", f"{run.steps:,}"),
    ]
    if calibration:
        mean, std = (digits(calibration.get(key, math.nan)) for key in ("mean", "std"))
        rows.append(("rewards", f"mean {mean}, standard deviation {std}, at step {calibration.get('step', '–')}"))
    if weights := description.attribute_weights:
        labels = run.config.get("id2label") or {}
        named = (f"{labels.get(str(index), index)} {weight:.3g}" for index, weight in enumerate(weights))
        rows.append(("score, a sum of", ", ".join(named)))
    if run.kind == "prm":
        rows.append(("step separator", repr(description.step_end or "\n")))
    if good := description.good_token:
        rows.append(("token of a right step, of a wrong one", f"{good!r}, {description.bad_token!r}"))
    return Table("", ("", ""), rows)
