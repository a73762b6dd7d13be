"""What a display is: a kind of held-out example, in a table, as text, as items of a file and in a plot."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...figure_names import Metric

Line = tuple[str, str, str]
"""of the table: name, before training, after"""


class Display:
    """A kind of held-out example. `rows` gives each encoded row with its prediction, in order."""

    axis = "reward"

    def __init__(self, trainer, output):
        self.trainer, self.output, self.tokenizer = trainer, output, trainer.processing_class
        self.objective = trainer.training_objective

    def rows(self) -> Iterator[tuple[dict, np.ndarray]]:
        return zip(self.trainer.eval_dataset, self.output.predictions, strict=False)

    def table(self, before: dict) -> Iterator[Line]:
        """`before`: figures of the evaluation before the first step; {} if there was none."""
        count, baselines = self.summary()
        yield count, "before", "after"
        yield from self.lines(before, self.objective.metrics, baselines)

    def summary(self) -> tuple[str, dict[str, float]]:
        """How many examples there are, and {figure: what a rule reaches that reads no text}."""
        raise NotImplementedError

    def example(self, row: dict, prediction: np.ndarray) -> Iterator[str]:
        """The lines of one example."""
        raise NotImplementedError

    def items(self, row: dict, prediction: np.ndarray) -> Iterator[dict[str, Any]]:
        """What `eval_items.jsonl` holds of one example."""
        raise NotImplementedError

    def draw(self, axes) -> None:
        """The scores: a histogram of `groups`, unless a kind has more to show."""
        groups = {name: scores for name, scores in self.groups().items() if len(scores)}
        edges = np.histogram_bin_edges(np.concatenate(list(groups.values())), bins=30)
        for name, scores in groups.items():
            axes.hist(scores, bins=edges, alpha=0.6, label=f"{name} (n = {len(scores)})")
        axes.set(xlabel=self.axis, ylabel="count", title="Held-out scores")
        axes.legend()

    def groups(self) -> dict[str, np.ndarray]:
        """{what good and what bad ones are called: their scores}."""
        raise NotImplementedError

    def text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def lines(self, before: dict, metrics: Mapping[str, Metric], baselines: Mapping[str, float]) -> Iterator[Line]:
        """A line of each figure that the evaluation gave and that has a label, and of its baseline."""
        for name, metric in metrics.items():
            key = f"eval_{name}"
            if metric.label and key in self.output.metrics:
                columns = (before, self.output.metrics)
                yield metric.label, *(f"{figures[key]:.3f}" if key in figures else "-" for figures in columns)
                if name in baselines:
                    yield f"  {metric.baseline}", "", f"{baselines[name]:.3f}"


def shortened(text: str, width: int) -> str:
    """On one line, its middle left out."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width // 2 - 2]} ... {text[-width // 2 + 3 :]}"
