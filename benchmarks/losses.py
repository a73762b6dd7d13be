"""Every loss on the same generated problems with 10 % of the labels flipped: held-out accuracy and calibration.

    python benchmarks/losses.py --json losses.json --plot losses.png [--only pairs lists:mse] [--seeds 0 1 2]

pairs   the demo's "Which is larger, 471 or 820?"; 10 % of the pairs are the wrong way round
lists   four numbers, ranked by what is asked for; 10 % of the lists are upside down, each pair of theirs the wrong way
steps   the demo's searches, as many wholly right as others; 10 % of the steps are flipped, for `min_form`, which sees
        no step's label, 10 % of the outcomes

A seed draws the flips, the model and the order of the rows. All losses of a panel get the same problems, as many a
step, the same steps and learning rate. Held-out labels are true ones. Out: tables, JSON, a plot.

accuracy            share of held-out pairs, or steps, that are judged rightly
calibration error   expected calibration error, 15 bins, of sigmoid(difference of rewards), or of a step's probability,
                    against the share of labels that a calibrated model of these data would say: 0.9 of what is true,
                    0.1 of what is not. Also of the probability that a loss means, where that is another (`meant`)
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import numpy as np
import torch
import transformers
from loss_problems import flipped, problems, said
from matplotlib.figure import Figure
from side_by_side import machine

import hf_rewardplug as rp
from hf_rewardplug.demo import DEMO_ARGUMENTS, save_demo_model
from hf_rewardplug.train.losses import LOSSES
from hf_rewardplug.train.losses.pairs import rao_kupper_probabilities

BINS, TIE_THRESHOLD = 15, 1.0


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Problems and the losses that train on them: `steps` steps of `batch` problems; {name: arguments beside it}."""

    style: str
    train: int
    test: int
    batch: int
    steps: int
    learning_rate: float
    losses: dict[str, dict]


PANELS = {
    "pairs": Panel(
        style="gemma",
        train=3000,
        test=1000,
        batch=32,
        steps=600,
        learning_rate=1e-3,  # the demo's 3e-3 keeps "mse" at the mean score
        losses={
            "bradley_terry": {},
            "smoothing 0.1": {"loss_type": "bradley_terry", "label_smoothing": 0.1},
            "hinge": {},
            "rao_kupper": {"tie_threshold": TIE_THRESHOLD},
            "mse": {},
            "huber": {},
            "bce": {},
        },
    ),
    "lists": Panel(
        style="gemma",
        train=3000,
        test=500,
        batch=16,
        steps=400,
        learning_rate=1e-3,
        losses={"bradley_terry": {}, "all_pairs": {}, "plackett_luce": {}, "mse": {}},
    ),
    "steps": Panel(
        style="qwen",
        train=3000,
        test=500,
        batch=48,
        steps=400,
        learning_rate=3e-3,
        losses={
            "cross_entropy": {},
            "one label": {"loss_type": "cross_entropy", "num_labels": 1},
            "weights 2, 1": {"loss_type": "cross_entropy", "class_weights": [2.0, 1.0]},
            "soft 0.9": {"loss_type": "cross_entropy"},
            "LM head + -": {"loss_type": "cross_entropy", "good_token": "+", "bad_token": "-"},
            "pqm": {},
            "min_form": {},
        },
    ),
}


# ---- one run ---------------------------------------------------------------------------------------------------------


def run(panel: str, name: str, seed: int, smoke: bool = False) -> dict:
    """Train one loss from one seed; its figures on the held-out problems."""
    quiet()
    design, start = PANELS[panel], time.perf_counter()
    arguments = {"loss_type": name, **design.losses[name]}
    train, test = problems(panel, *((48, 16) if smoke else (design.train, design.test)))
    train = flipped(train, seed, outcomes=name == "min_form", soft=name.startswith("soft"))
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(design, arguments, seed, 2 if smoke else design.steps, train, folder)
        trainer.train()
        output = trainer.predict(datasets.Dataset.from_list(test))
    if panel == "steps":
        figures = judged_steps(output.predictions, output.label_ids)
    else:
        figures = judged_answers(output.predictions, arguments["loss_type"], len(test[0]["completions"]))
    evaluation = {key: value for key, value in output.metrics.items() if isinstance(value, float)}
    seconds = time.perf_counter() - start
    return {"panel": panel, "loss": name, "seed": seed, **figures, "evaluation": evaluation, "seconds": seconds}


def quiet() -> None:
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def trainer_of(design: Panel, arguments: dict, seed: int, steps: int, train: list[dict], folder: str):
    """A trainer whose step sees `design.batch` problems, whatever an item of the loss is."""
    orm, loss_type, answers = design.style == "gemma", arguments["loss_type"], len(train[0]["completions"])
    kind, config = (rp.RewardTrainer, rp.RewardConfig) if orm else (rp.PRMTrainer, rp.PRMConfig)
    items = {"pairs": answers * (answers - 1) // 2, "completions": answers}.get(LOSSES[loss_type].form, 1)
    demo = {key: value for key, value in DEMO_ARGUMENTS[design.style].items() if key != "dataset_name"}
    settings = {
        **demo,
        **({"chat_template": "gemma"} if orm else {}),
        "per_device_train_batch_size": design.batch * items,
        "max_steps": steps,
        "learning_rate": design.learning_rate,
        "seed": seed,
        "use_cpu": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    model = save_demo_model(Path(folder, "model"), style=design.style, seed=seed)
    transformers.set_seed(seed)  # the head is drawn when the trainer loads the model
    args = config(output_dir=folder, **{**settings, **arguments})
    trainer = kind(str(model), args, train_dataset=datasets.Dataset.from_list(train))
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def judged_answers(predictions: np.ndarray, loss_type: str, answers: int) -> dict:
    """Figures of rewards; predictions of `RewardTrainer.predict` on rows with the best of their `answers` first."""
    form = LOSSES[loss_type].form
    if form == "pairs":
        margins_P = predictions[:, 0] - predictions[:, 1]
    else:
        rewards_NK = predictions.reshape(-1, answers)
        better, worse = np.triu_indices(answers, 1)
        margins_P = (rewards_NK[:, better] - rewards_NK[:, worse]).ravel()
    both_sides, true = np.concatenate([margins_P, -margins_P]), np.repeat([1.0, 0.0], len(margins_P))
    figures = {
        "accuracy": float((margins_P > 0).mean()),
        "calibration_error": calibration_error(sigmoid(both_sides), true),
    }
    if loss_type == "rao_kupper":  # of those that are no tie
        better, _, worse = rao_kupper_probabilities(torch.from_numpy(both_sides), TIE_THRESHOLD).unbind(1)
        figures["meant"] = calibration_error((better / (better + worse)).numpy(), true)
    elif form == "completions" and answers == 2:  # that a completion has the score 1
        probabilities = sigmoid(predictions.ravel()) if loss_type == "bce" else predictions.ravel().clip(0, 1)
        figures["meant"] = calibration_error(probabilities, np.tile([1.0, 0.0], len(probabilities) // 2))
    return figures


def judged_steps(logits: np.ndarray, labels: np.ndarray) -> dict:
    """Figures of steps; of `PRMTrainer.predict`, logits (N, steps, labels) and true labels (N, steps), else -100."""
    logits = logits[..., 0] if logits.shape[-1] == 1 else logits[..., 1] - logits[..., 0]
    logits, labels = logits[labels != -100], labels[labels != -100]
    return {
        "accuracy": float(((logits >= 0) == (labels == 1)).mean()),
        "calibration_error": calibration_error(sigmoid(logits), labels),
    }


def sigmoid(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values).double().sigmoid().numpy()


def calibration_error(probabilities: np.ndarray, true: np.ndarray) -> float:
    """Guo et al. 2017 (arXiv:1706.04599, eq. 3) with the expected share of noisy labels in place of a sample of them.

    >>> calibration_error(np.array([0.9, 0.9, 0.1]), np.array([1.0, 1.0, 0.0]))
    0.0
    """
    bins = (probabilities * BINS).astype(int).clip(max=BINS - 1)
    return float(np.abs(np.bincount(bins, probabilities - said(true))).sum() / len(true))


# ---- all runs --------------------------------------------------------------------------------------------------------


def every_run(tasks: list[tuple], workers: int) -> Iterable[dict]:
    """Figures as they come."""
    if workers == 1:
        yield from (run(*task) for task in tasks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, *task) for task in tasks]):
            yield done.result()


def by_loss(runs: list[dict]) -> dict[str, dict[str, list[dict]]]:
    """{panel: {loss: runs by seed}}, in the order of `PANELS`."""
    table = {panel: {loss: [] for loss in design.losses} for panel, design in PANELS.items()}
    for one in sorted(runs, key=lambda one: one["seed"]):
        table[one["panel"]][one["loss"]].append(one)
    return {panel: rows for panel, losses in table.items() if (rows := {k: v for k, v in losses.items() if v})}


def print_tables(runs: list[dict]) -> None:
    """Mean, standard deviation over the seeds, and the seeds' values."""
    for panel, losses in by_loss(runs).items():
        print(f"\n| {panel} | accuracy | seeds | calibration error | seeds | meant |\n|---|---|---|---|---|---|")
        for loss, seeds in losses.items():
            cells = [cell for key in ("accuracy", "calibration_error") for cell in cells_of(seeds, key)]
            print("|", " | ".join([loss, *cells, cells_of(seeds, "meant")[0] if "meant" in seeds[0] else ""]), "|")


def cells_of(seeds: list[dict], key: str) -> tuple[str, str]:
    values = [one[key] for one in seeds]
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}", ", ".join(f"{value:.3f}" for value in values)


def plot(runs: list[dict], path: str) -> None:
    """A row of axes a panel: accuracy, calibration error; a dot a seed, a bar their mean."""
    table = by_loss(runs)
    heights = [len(losses) for losses in table.values()]
    figure = Figure(figsize=(9, 1.6 + 0.34 * sum(heights)), layout="constrained")
    grid = figure.subplots(len(table), 2, squeeze=False, sharey="row", gridspec_kw={"height_ratios": heights})
    for (panel, losses), axes in zip(table.items(), grid, strict=True):
        for ax, key in zip(axes, ("accuracy", "calibration_error"), strict=True):
            for y, seeds in enumerate(losses.values()):
                dots(ax, y, [one[key] for one in seeds], "o", "C0")
                if key == "calibration_error" and "meant" in seeds[0]:
                    dots(ax, y, [one["meant"] for one in seeds], "s", "C1")
            ax.set(ylim=(len(losses) - 0.5, -0.5), yticks=range(len(losses)), yticklabels=losses)
            ax.set_title(f"{panel}: {key.replace('_', ' ')}", fontsize=10)
            ax.grid(axis="x", alpha=0.3)
            ax.locator_params(axis="x", nbins=7)
        axes[1].set_xlim(left=0)
    figure.supxlabel("dots: seeds, bars: their mean; squares: the probability that the loss means", fontsize=9)
    figure.savefig(path, dpi=100)


def dots(ax, y: int, values: list[float], marker: str, color: str) -> None:
    ax.plot(values, [y] * len(values), marker, color=color, alpha=0.6, markersize=6)
    ax.plot([np.mean(values)], [y], "|", color=color, markersize=16, markeredgewidth=2)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file, after each run")
    parser.add_argument("--plot", help="draw them into this file")
    parser.add_argument("--only", nargs="+", default=list(PANELS), help="panels, or panel:loss")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--smoke", action="store_true", help="two steps of few rows: whether it runs at all")
    options = parser.parse_args(arguments)
    named = [(panel, loss) for panel, design in PANELS.items() for loss in design.losses]
    if unknown := {*options.only} - {*PANELS} - {":".join(pair) for pair in named}:
        parser.error(f"--only {', '.join(unknown)}: expected {', '.join(PANELS)} or {', '.join(map(':'.join, named))}")
    named = [pair for pair in named if {pair[0], ":".join(pair)} & {*options.only}]
    tasks = [(*pair, seed, options.smoke) for pair in named for seed in options.seeds]
    results = {"machine": {**machine(), "threads": 1, "workers": options.workers}, "smoke": options.smoke, "runs": []}
    for done in every_run(tasks, options.workers):
        results["runs"].append(done)
        print(f"{len(results['runs'])}/{len(tasks)}", *(done[key] for key in ("panel", "loss", "seed")), flush=True)
        if options.json:
            Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    print_tables(results["runs"])
    if options.plot:
        plot(results["runs"], options.plot)


if __name__ == "__main__":
    main()
