"""What a run left in its folder -> `Run`: JSON files, read and checked.

trainer_state.json                  needed: the logs of every step
eval_results.json                   the last evaluation's figures
config.json or reward_config.json   model type, kind, calibration, separator
eval_items.jsonl                    one example a line (items.py)
benchmark_*.json                    {"name", "figures"}, as `rewardplug evaluate -o` writes them
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...checks import is_number, shown
from ...model.description import Description
from ...model.kinds import PRM, kind_of_class
from .items import FORMS, form_of, parsed, read_items


@dataclass(frozen=True)
class Run:
    """A run's folder, read.

    Attributes:
        kind: "orm" or "prm".
        form: what the items are, or would be: "completions" (pairs), "text" (scored completions) or "steps".
        steps: optimizer steps.
        logs: the Trainer's log history.
        results: figures of the last evaluation, without "eval_"; of the last one logged where the file is missing.
        items: examples in the file's order, each with its "line"; none where the file is missing.
        missing: {file: how to get it}.
    """

    folder: Path
    kind: str
    form: str
    steps: int
    logs: list[dict[str, Any]]
    results: dict[str, float]
    config: dict[str, Any]
    items: list[dict[str, Any]]
    benchmarks: list[dict[str, Any]]
    missing: dict[str, str]


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        ValueError: there is no trainer_state.json, or a file cannot be read, by its name and line.
    """
    state = _state(folder)
    logs = state["log_history"]
    config = _config(folder / "config.json") or _config(folder / "reward_config.json") or {}
    results = _read(folder / "eval_results.json")
    items = list(read_items(folder / "eval_items.jsonl"))
    missing = {}
    if not config:
        missing["config.json"] = (
            "trainer.save_model() writes it: what kind of model this is, and the spread of its rewards."
        )
    if results is None:
        missing["eval_results.json"] = (
            'trainer.save_metrics("eval", trainer.evaluate()) writes it, as the recipes do. Without it figures that '
            "need it are those of the last evaluation that was logged."
        )
        results = next((log for log in reversed(logs) if any(key.startswith("eval_") for key in log)), {})
    if not items:
        missing["eval_items.jsonl"] = (
            "The recipes write it at their end. Without it there are no histograms, no calibration curve, no accuracy "
            f"by subset or length, and no examples. One example a line: {' or '.join(FORMS.values())}."
        )
    results = {key.removeprefix("eval_"): value for key, value in results.items() if is_number(value)}
    kind = _kind(config, items, results)
    benchmarks = [_benchmark(path) for path in sorted(folder.glob("benchmark_*.json"))]
    if not benchmarks:
        name = {"orm": "rewardbench", "prm": "process_bench"}[kind]
        out = folder / f"benchmark_{name}.json"
        missing["benchmark_*.json"] = f"rewardplug evaluate {folder} {name} -o {out}"
    form = _form(kind, items, results)
    return Run(folder, kind, form, state.get("global_step") or 0, logs, results, config, items, benchmarks, missing)


def _state(folder: Path) -> dict[str, Any]:
    state = _read(folder / "trainer_state.json")
    if state is None:
        checkpoints = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
        newest = max(checkpoints, key=lambda path: (path / "trainer_state.json").stat().st_mtime, default=None)
        raise ValueError(
            f"'{folder}' has no trainer_state.json, so it is no run's folder. Call trainer.save_state() behind "
            "trainer.train() (the recipes do)" + (f", or take the checkpoint '{newest}'." if newest else ".")
        )
    logs = state.get("log_history")
    if not isinstance(logs, list) or not all(isinstance(log, dict) and _is_step(log.get("step")) for log in logs):
        raise ValueError(
            f"'{folder / 'trainer_state.json'}' has no log_history, a list of logs with their step. Take the file that "
            "trainer.save_state() writes."
        )
    if not (state.get("global_step") is None or _is_step(state["global_step"])):
        raise ValueError(
            f"'{folder / 'trainer_state.json'}': global_step is {shown(state['global_step'])}; expected a number of "
            "steps. Take the file that trainer.save_state() writes."
        )
    return {**state, "log_history": [{key: log[key] for key in log if is_number(log[key])} for log in logs]}


def _is_step(value: Any) -> bool:
    return is_number(value) and 0 <= value < math.inf


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no file."""
    if not path.is_file():
        return None
    try:
        content = parsed(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{path}' is no JSON: {error}. Write it anew, or remove it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' holds a {type(content).__name__}, not an object. Write it anew, or remove it.")
    return content


def _config(path: Path) -> dict[str, Any] | None:
    """A model's config as far as a page shows it, checked."""
    config = _read(path) or {}
    labels, architectures = config.get("id2label"), config.get("architectures")
    if not isinstance(labels, dict | None):
        raise ValueError(f'\'{path}\': id2label is {shown(labels)}; expected an object such as {{"0": "LABEL_0"}}.')
    if not isinstance(architectures, list | None):
        raise ValueError(f"'{path}': architectures is {shown(architectures)}; expected a list of names.")
    Description.checked(config, str(path))
    return config


def _benchmark(path: Path) -> dict[str, Any]:
    content = _read(path) or {}
    figures = content.get("figures")
    if not isinstance(figures, dict):
        raise ValueError(
            f"'{path}' has no 'figures', an object of numbers; found {shown(sorted(content))}. Remove the file."
        )
    numbers = {key: value for key, value in figures.items() if is_number(value)}
    return {"name": str(content.get("name") or path.stem.removeprefix("benchmark_")), "figures": numbers}


def _kind(config: dict, items: list[dict], results: dict) -> str:
    if items:
        return "prm" if form_of(items[0]) == "steps" else "orm"
    if (kind := Description.of(config).kind) in ("orm", "prm"):
        return kind
    steps = any(kind_of_class(str(name)) is PRM for name in config.get("architectures") or [])
    return "prm" if steps or "f1_wrong" in results else "orm"


def _form(kind: str, items: list[dict], results: dict) -> str:
    if items:
        return form_of(items[0])
    return "steps" if kind == "prm" else "text" if {"mse", "auroc"} & results.keys() else "completions"
