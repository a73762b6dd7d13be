"""What a person wants to see at the end of a run: a table, three scored examples, a plot.

In: a trainer that has trained, and the output of its `predict` on the held-out rows. Out: text on stdout, and in
`output_dir` `eval_items.jsonl` (each example with its scores, what `rewardplug report` reads) and `training.png` (with
matplotlib, the extra `plots`).
"""

import json
from pathlib import Path

import numpy as np
import torch

from ..data.canonical import SUBSET, UNLABELLED
from ..data.prefix_tree import common_prefix_length
from ..model.head import step_probabilities


def print_summary(trainer, output) -> None:
    """Print the table and the examples, save the plot, and say where things are."""
    folder = Path(trainer.args.output_dir)
    steps = output.predictions.ndim == 3
    describe, examples = (_step_table, _step_examples) if steps else (_pair_table, _pair_examples)
    before = next((log for log in trainer.state.log_history if "eval_loss" in log and log["step"] == 0), {})
    print("\nHeld-out figures")
    for name, first, last in describe(trainer, output, before):
        print(f"  {name:<34}{first:>10}{last:>10}")
    print("\nThree held-out examples")
    print("\n".join(examples(trainer, output)))
    plot = save_plot(trainer, output, folder / "training.png")
    print(f"\nModel, tokenizer and eval_results.json: {folder}")
    print(f"A page of it all: rewardplug report {folder}")
    print(f"Plot: {plot}" if plot else "Plot: not drawn, matplotlib is missing (pip install 'hf_rewardplug[plots]')")


def save_items(trainer, output) -> None:
    """`eval_items.jsonl`: {prompt, completions, scores, lengths, subset} a pair, {prompt, steps, probabilities, labels,
    subset} a solution; a tree of steps is not a solution and is left out."""
    describe = _step_item if output.predictions.ndim == 3 else _pair_item
    with open(Path(trainer.args.output_dir) / "eval_items.jsonl", "w", encoding="utf-8") as lines:
        for row, scores in zip(trainer.eval_dataset, output.predictions, strict=False):
            if not row.get("node_lengths"):
                item = {**describe(trainer.processing_class, row, scores), "subset": row.get(SUBSET)}
                lines.write(json.dumps(item) + "\n")


def _pair_item(tokenizer, row: dict, rewards) -> dict:
    ids = [row["chosen_ids"], row["rejected_ids"]]
    prefix = min(common_prefix_length(*ids), *(len(one) - 1 for one in ids))
    return {
        "prompt": tokenizer.decode(ids[0][:prefix], skip_special_tokens=True),
        "completions": [tokenizer.decode(one[prefix:], skip_special_tokens=True) for one in ids],
        "scores": [float(reward) for reward in rewards],
        "lengths": [len(one) - prefix for one in ids],
    }


def _step_item(tokenizer, row: dict, logits) -> dict:
    ends = [index + 1 for index, label in enumerate(row["labels"]) if label != UNLABELLED]
    texts = [
        tokenizer.decode(row["input_ids"][start:end], skip_special_tokens=True)
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    return {
        "prompt": texts[0],  # up to the first labelled step, which no mark divides from the prompt
        "steps": ["(up to here)", *texts[1:]],
        "probabilities": step_probabilities(torch.from_numpy(logits))[: len(ends)].tolist(),
        "labels": [row["labels"][end - 1] for end in ends],
    }


def _row(name: str, before: dict, after: dict, key: str) -> tuple[str, str, str]:
    return name, *(f"{figures[key]:.3f}" if key in figures else "-" for figures in (before, after))


def _pair_table(trainer, output, before: dict) -> list[tuple[str, str, str]]:
    lengths = [(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in trainer.eval_dataset]
    longer = np.mean([(chosen > rejected) + 0.5 * (chosen == rejected) for chosen, rejected in lengths])
    return [
        (f"{len(lengths)} pairs", "before", "after"),
        _row("accuracy", before, output.metrics, "eval_accuracy"),
        ('  "the longer one wins"', "", f"{longer:.3f}"),
        _row("loss", before, output.metrics, "eval_loss"),
        _row("margin (chosen - rejected)", before, output.metrics, "eval_margin"),
        _row("calibration error", before, output.metrics, "eval_ece"),
    ]


def _step_table(trainer, output, before: dict) -> list[tuple[str, str, str]]:
    labelled = int((output.label_ids != UNLABELLED).sum())
    wrong = output.metrics["eval_wrong_rate"]
    return [
        (f"{labelled} steps of {len(output.label_ids)} solutions", "before", "after"),
        _row("step accuracy", before, output.metrics, "eval_accuracy"),
        ("  the majority label everywhere", "", f"{max(wrong, 1 - wrong):.3f}"),
        _row("F1 of the wrong steps", before, output.metrics, "eval_f1_wrong"),
        ('  "wrong" everywhere', "", f"{2 * wrong / (1 + wrong):.3f}"),
        _row("AUROC", before, output.metrics, "eval_auroc"),
        _row("first wrong step found", before, output.metrics, "eval_first_wrong_accuracy"),
        _row("loss", before, output.metrics, "eval_loss"),
    ]


def _first_rows(trainer, count: int = 3) -> list[dict]:
    return [row for row, _ in zip(trainer.eval_dataset, range(count), strict=False)]


def _shown(tokenizer, ids: list[int], width: int) -> str:
    return _shortened(tokenizer.decode(ids, skip_special_tokens=True), width)


def _shortened(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width // 2 - 2]} ... {text[-width // 2 + 3 :]}"


def _pair_examples(trainer, output) -> list[str]:
    tokenizer, lines = trainer.processing_class, []
    for row, (chosen, rejected) in zip(_first_rows(trainer), output.predictions, strict=False):
        prefix = common_prefix_length(row["chosen_ids"], row["rejected_ids"])
        lines.append(f"  {_shown(tokenizer, row['chosen_ids'][:prefix], 96)}")
        for name, reward, key in (("chosen", chosen, "chosen_ids"), ("rejected", rejected, "rejected_ids")):
            lines.append(f"    {reward:+8.3f}  {name:<9} ...{_shown(tokenizer, row[key][prefix:], 76)}")
    return lines


def _step_examples(trainer, output) -> list[str]:
    lines = []
    for row, logits in zip(_first_rows(trainer), output.predictions, strict=False):
        item = _step_item(trainer.processing_class, row, logits)
        lines.append(f"  {_shortened(item['prompt'], 100)}")
        for text, probability, label in zip(item["steps"], item["probabilities"], item["labels"], strict=True):
            truth = "right" if label == 1 else "wrong" if label == 0 else f"{label:.2f}"
            lines.append(f"    {probability:6.3f}  {truth:<6} {_shortened(text, 70)}")
    return lines


def save_plot(trainer, output, path: Path) -> Path | None:
    """Loss over the steps, and the held-out scores of good against bad ones. None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    if output.predictions.ndim == 3:
        probabilities, labels = step_probabilities(torch.from_numpy(output.predictions)).numpy(), output.label_ids
        groups = {
            "right steps": probabilities[labels >= 0.5],
            "wrong steps": probabilities[(labels >= 0) & (labels < 0.5)],
        }
        axis_label = "probability that the step is right"
    else:
        groups = {"chosen": output.predictions[:, 0], "rejected": output.predictions[:, 1]}
        axis_label = "reward"
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axis, score_axis = figure.subplots(1, 2)
    history = trainer.state.log_history
    for key, style, name in (("loss", "-", "training"), ("eval_loss", "o--", "held out")):
        points = [(log["step"], log[key]) for log in history if key in log]
        points += [(trainer.state.global_step, output.metrics[key])] if key in output.metrics else []
        if points:
            loss_axis.plot(*zip(*points, strict=True), style, label=name)
    loss_axis.set(xlabel="optimizer step", ylabel="loss", title="Loss", ylim=(0, None))
    loss_axis.legend()
    edges = np.histogram_bin_edges(np.concatenate(list(groups.values())), bins=30)
    for name, scores in groups.items():
        score_axis.hist(scores, bins=edges, alpha=0.6, label=f"{name} (n = {len(scores)})")
    score_axis.set(xlabel=axis_label, ylabel="count", title="Held-out scores")
    score_axis.legend()
    figure.savefig(path, dpi=120)
    return path
