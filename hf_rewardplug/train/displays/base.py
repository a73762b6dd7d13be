"""What a display is: a kind of held-out example, in a table, as text, as items of a file and in a plot."""

from collections.abc import Iterator
from typing import Any

import numpy as np

Line = tuple[str, str, str]
"""of the table: name, before training, after"""


class Display:
    """A kind of held-out example. `rows` gives each encoded row with its prediction, in order."""

    axis = "reward"

    def __init__(self, trainer, output):
        self.trainer, self.output, self.tokenizer = trainer, output, trainer.processing_class

    def rows(self) -> Iterator[tuple[dict, np.ndarray]]:
        return zip(self.trainer.eval_dataset, self.output.predictions, strict=False)

    def table(self, before: dict) -> Iterator[Line]:
        """`before`: figures of the evaluation before the first step; {} if there was none."""
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

    def figures(self, before: dict, names: dict[str, str]) -> Iterator[Line]:
        """A line of each figure, {key: its name in the table}, that the evaluation gave."""
        for key, name in names.items():
            if (key := f"eval_{key}") in self.output.metrics:
                yield name, *(f"{one[key]:.3f}" if key in one else "-" for one in (before, self.output.metrics))


def shortened(text: str, width: int) -> str:
    """On one line, its middle left out."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width // 2 - 2]} ... {text[-width // 2 + 3 :]}"
