"""A run, read -> the sections of its report, in the order of the page. The template renders them, whatever they hold.

held-out figures    tiles
training            curves
scores              histograms, calibration, by subset, by length; a PRM's heat map
examples            pairs, or solutions step by step
benchmarks, run     tables
missing             what the folder lacks, and how to get it
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import plots
from .curves import curves
from .data import Run
from .examples import Examples, pair_examples, solution_examples
from .figures import PairFigures, Share, StepFigures, pair_figures, step_figures
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


def sections(run: Run) -> list[Section]:
    """All sections that the run's files fill."""
    figures = pair_figures if run.kind == "orm" else step_figures
    evaluated = figures(run.items) if run.items else None
    if run.kind == "orm":
        found = [_pair_headline(run, evaluated), _training(run), *(_pair_sections(run, evaluated) if evaluated else [])]
    else:
        found = [_step_headline(run, evaluated), _training(run), *(_step_sections(run, evaluated) if run.items else [])]
    if run.benchmarks:
        tables = [_benchmark_table(each["name"], each["figures"]) for each in run.benchmarks]
        found.append(Section("benchmarks", "Benchmarks", tables=tables))
    found.append(Section("run", "The run", tables=[_run_table(run)]))
    if run.missing:
        lead = "The folder lacks these files; with them this report says more."
        found.append(Section("missing", "Missing", lead, notes=list(run.missing.items())))
    return found


# ---- held-out figures ------------------------------------------------------------------------------------------------


def _before(run: Run, key: str) -> str:
    """What the evaluation before the first step gave, if there was one."""
    logs = (log for log in run.logs if log["step"] == 0 and f"eval_{key}" in log)
    return next((f"before training: {digits(log[f'eval_{key}'])}" for log in logs), "")


def _result(run: Run, key: str, otherwise: float = math.nan) -> str:
    return digits(run.results.get(key, otherwise))


def _headline(run: Run, accuracy: Share | None, tiles: list[Tile]) -> Section:
    notes, reported = [], run.results.get("accuracy", math.nan)
    if accuracy is not None and abs(reported - accuracy.value) > 5e-4:
        where = "the last logged evaluation" if "eval_results.json" in run.missing else "eval_results.json"
        notes.append(("Two accuracies", f"{digits(reported)} in {where}; this page counts eval_items.jsonl."))
    lead = "±: one standard error."
    if accuracy is None:
        lead = "As the run reported them" + (
            ": no step is labelled." if run.items else ", without the number of examples."
        )
    return Section("figures", "Held-out figures", lead, tiles=tiles, notes=notes)


def _pair_headline(run: Run, evaluated: PairFigures | None) -> Section:
    if evaluated is None:
        accuracy, error, ties, margin = (_result(run, key) for key in ("accuracy", "ece", "ties", "margin"))
        longer, loss = "", math.nan
    else:
        accuracy, ties, margin = share_text(evaluated.accuracy), digits(evaluated.ties), digits(evaluated.margin)
        error, loss = digits(evaluated.calibration_error), evaluated.loss
        longer = f'"the longer one wins": {digits(evaluated.longer)}' if evaluated.lengths else ""
    notes = [note for note in (_before(run, "accuracy"), longer) if note]
    tiles = [
        Tile("pairs", f"{len(run.items):,}" if run.items else "–"),
        Tile("accuracy", accuracy, "; ".join(notes)),
        Tile("loss", _result(run, "loss", loss), _before(run, "loss")),
        Tile("calibration error", error, _before(run, "ece")),
        Tile("ties", ties, "share of pairs with equal scores; they count as wrong"),
        Tile("margin", margin, "chosen − rejected, mean"),
    ]
    return _headline(run, evaluated and evaluated.accuracy, tiles)


def _step_headline(run: Run, evaluated: StepFigures | None) -> Section:
    if evaluated is None:
        accuracy, f1, auroc, first = (
            _result(run, key) for key in ("accuracy", "f1_wrong", "auroc", "first_wrong_accuracy")
        )
        wrong, loss, error = run.results.get("wrong_rate", math.nan), math.nan, _result(run, "ece")
    else:
        accuracy, f1, auroc = share_text(evaluated.accuracy), digits(evaluated.f1_wrong), digits(evaluated.auroc)
        first, wrong, loss = share_text(evaluated.first_wrong), evaluated.wrong_rate, evaluated.loss
        error = digits(evaluated.calibration_error)
    count = f"{evaluated.accuracy.n if evaluated else 0:,} labelled steps" if run.items else ""
    tiles = [
        Tile("solutions", f"{len(run.items):,}" if run.items else "–", count),
        Tile("step accuracy", accuracy, f"the majority label everywhere: {digits(max(wrong, 1 - wrong))}"),
        Tile("F1 of the wrong steps", f1, f'"wrong" everywhere: {digits(2 * wrong / (1 + wrong))}'),
        Tile("AUROC", auroc, "a coin: 0.500"),
        Tile("first wrong step found", first, "or that there is none; share of solutions"),
        Tile("loss", _result(run, "loss", loss), _before(run, "loss")),
        Tile("calibration error", error, "of the steps' probabilities"),
    ]
    return _headline(run, evaluated and evaluated.accuracy, tiles)


def _training(run: Run) -> Section:
    figures = {
        "orm": ["loss", "accuracy", "mean_reward", "grad_norm", "learning_rate"],
        "prm": ["loss", "accuracy", "f1_wrong", "first_wrong_accuracy", "auroc", "grad_norm", "learning_rate"],
    }[run.kind]
    logs = run.logs
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
    return Section("training", "Training", " · ".join(parts) + ".", charts=curves(logs, figures))


# ---- outcome reward models -------------------------------------------------------------------------------------------


def _pair_sections(run: Run, evaluated: PairFigures) -> list[Section]:
    chosen, rejected = evaluated.scores_N2.T
    by = [
        plots.histogram("rewards", "Rewards", "reward", ("chosen", chosen), ("rejected", rejected)),
        plots.calibration(
            evaluated.bins,
            evaluated.calibration_error,
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
            plots.calibration(
                evaluated.bins, evaluated.calibration_error, axis, "observed share of right steps", "steps"
            ),
        ]
        found.append(Section("scores", "Scores and calibration", charts=charts))
        if evaluated.subsets:
            chart = plots.subsets(evaluated.subsets, "labelled steps", evaluated.accuracy)
            found.append(Section("where", "Where it is right", charts=[chart]))
    found.append(Section("steps", "Step by step", charts=[plots.heat_map(run.items)]))
    found.append(Section("examples", "Solutions", examples=solution_examples(run.items)))
    return found


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
    described = run.config.get("rewardplug") or {}
    calibration = described.get("calibration") or {}
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
    if run.kind == "prm":
        rows.append(("step separator", repr(described.get("step_token") or described.get("step_separator") or "\n")))
    return Table("", ("", ""), rows)
