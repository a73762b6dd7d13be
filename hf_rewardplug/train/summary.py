"""What a person wants to see at the end of a run: a table, three scored examples, a plot.

In: a trainer that has trained, and the output of its `predict` on the held-out rows. Out: text on stdout, and in
`output_dir` `eval_items.jsonl` (each example with its scores, what `rewardplug report` reads) and `training.png` (with
matplotlib, the extra `plots`). What is shown of a pair, a list, a scored completion or a solution: `displays/`.
"""

import json
from pathlib import Path

from ..data.canonical import SUBSET
from ..texts import clean, one_line
from .displays import display_of


def print_summary(trainer, output) -> None:
    """Print the table and the examples, save the plot, and say where things are."""
    folder, display = Path(trainer.args.output_dir), display_of(trainer, output)
    before = next((log for log in trainer.state.log_history if "eval_loss" in log and log["step"] == 0), {})
    print("\nHeld-out figures")
    table = list(display.table(before))
    width = max(34, *(len(name) for name, _, _ in table))
    for name, first, last in table:
        print(f"  {one_line(name):<{width}}{first:>10}{last:>10}")
    print("\nThree held-out examples")
    for (row, prediction), _ in zip(display.rows(), range(3), strict=False):
        print(clean("\n".join(display.example(row, prediction))))
    plot = save_plot(trainer, output, folder / "training.png")
    print(f"\nModel, tokenizer and eval_results.json: {folder}")
    print(f"A page of it all: rewardplug report {folder}")
    print(f"Plot: {plot}" if plot else "Plot: not drawn, matplotlib is missing (pip install 'hf_rewardplug[plots]')")


def save_items(trainer, output) -> None:
    """`eval_items.jsonl`, a line each:

        pairs, lists    {prompt, completions, scores, lengths, subset} of two completions, the better one first
        scored          {text, rewards or (of outcomes) probabilities, scores, subset}, {attribute or "score": number}
        steps           {prompt, steps, probabilities, labels, subset}, and of "min_form" the outcome

    A list gives every pair with different scores. Left out: a tie, and a tree of steps, which is not a solution. A
    label is -100 where the solution's outcome alone is known; a score is null where it is not rated.
    """
    display = display_of(trainer, output)
    with open(Path(trainer.args.output_dir) / "eval_items.jsonl", "w", encoding="utf-8") as lines:
        for row, prediction in display.rows():
            for item in display.items(row, prediction):
                lines.write(json.dumps({**item, "subset": row.get(SUBSET)}) + "\n")


def save_plot(trainer, output, path: Path) -> Path | None:
    """Loss over the steps, and the held-out scores. None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
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
    display_of(trainer, output).draw(score_axis)
    figure.savefig(path, dpi=120)
    return path
