"""Steps: the probability that each is right beside its label, or beside the solution's outcome where that is all."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ...data.canonical import UNLABELLED
from ...data.step_nodes import is_chain, nodes_of
from ...figure_names import LOSS, SOLUTIONS, STEPS, score_baselines, step_baselines
from ...model.head import step_probabilities
from .base import Display, Line, shortened


class Steps(Display):
    """The steps of a solution or of a tree. Rows of "min_form" have an outcome, the least of their labels, and say
    whether their steps are labelled (`steps_labelled`).
    """

    axis = "probability that the step is right"

    def __init__(self, trainer, output):
        super().__init__(trainer, output)
        self.probabilities = step_probabilities(torch.from_numpy(output.predictions)).numpy()

    def rows(self) -> Iterator[tuple[dict, np.ndarray]]:
        """Rows with the probabilities of their labelled steps."""
        for row, probabilities in zip(self.trainer.eval_dataset, self.probabilities, strict=False):
            yield row, probabilities[: sum(label != UNLABELLED for label in row["labels"])]

    def table(self, before: dict) -> Iterator[Line]:
        rows = [(_labelled(row), _outcome(row), len(probabilities)) for row, probabilities in self.rows()]
        outcomes = [outcome for _, outcome, _ in rows if outcome is not None]
        if labelled := sum(count for labels, _, count in rows if labels):
            yield f"{labelled} steps of {sum(labels for labels, _, _ in rows)} solutions", "before", "after"
            yield from self.lines(before, STEPS, step_baselines(self.output.metrics["eval_wrong_rate"]))
        if outcomes:
            baseline = score_baselines(np.array(outcomes))["accuracy"]
            yield f"{len(outcomes)} solutions", "before", "after"
            yield from self.lines(before, SOLUTIONS, {"outcome_accuracy": baseline})
        yield from self.lines(before, LOSS, {})

    def example(self, row: dict, prediction: np.ndarray) -> Iterator[str]:
        item = self._item(row, prediction)
        outcome = "" if item.get("outcome") is None else f" [outcome: {_word(item['outcome'])}]"
        yield f"  {shortened(item['prompt'], 100)}{outcome}"
        for text, probability, label in zip(item["steps"], item["probabilities"], item["labels"], strict=True):
            yield f"    {probability:6.3f}  {'' if label == UNLABELLED else _word(label):<6} {shortened(text, 70)}"

    def items(self, row: dict, prediction: np.ndarray) -> Iterator[dict[str, Any]]:
        if is_chain(nodes_of(row)[1]):
            yield self._item(row, prediction)

    def _item(self, row: dict, probabilities: np.ndarray) -> dict[str, Any]:
        lengths, _ = nodes_of(row)  # node 0 is the prompt
        ends = [index + 1 for index, label in enumerate(row["labels"]) if label != UNLABELLED]
        bounds = pairwise([0, lengths[0], *ends])
        prompt, *steps = [self.text(row["input_ids"][start:end]) for start, end in bounds]
        outcome = _outcome(row)
        return {
            "prompt": prompt,
            "steps": steps,
            "probabilities": probabilities.tolist(),
            "labels": [row["labels"][end - 1] if _labelled(row) else UNLABELLED for end in ends],
            **({} if outcome is None else {"outcome": outcome}),
        }

    def groups(self) -> dict[str, np.ndarray]:
        """Of steps; where none is labelled, the worst ones of solutions."""
        rows = [
            (_labelled(row), [label for label in row["labels"] if label != UNLABELLED], probabilities)
            for row, probabilities in self.rows()
        ]
        found = [(p, label) for labelled, labels, ps in rows if labelled for p, label in zip(ps, labels, strict=True)]
        if found:
            scores, labels = np.array(found).T
            return {"right steps": scores[labels >= 0.5], "wrong steps": scores[labels < 0.5]}
        scores, labels = np.array([(ps.min(), min(labels)) for _, labels, ps in rows]).T
        self.axis = "probability that the solution is right: its worst step's"
        return {"right solutions": scores[labels >= 0.5], "wrong solutions": scores[labels < 0.5]}


def _labelled(row: dict) -> bool:
    return row.get("steps_labelled") is not False


def _outcome(row: dict) -> float | None:
    """What "min_form" trains on; None of other rows."""
    if row.get("steps_labelled") is None:
        return None
    return min(label for label in row["labels"] if label != UNLABELLED)


def _word(label: float) -> str:
    """A label for people.

    >>> _word(1.0), _word(0.0), _word(0.25)
    ('right', 'wrong', '0.25')
    """
    return "right" if label == 1 else "wrong" if label == 0 else f"{label:.2f}"
