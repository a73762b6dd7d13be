"""The steps of a solution, or of a tree of alternative steps.

In: stepwise and step_tree rows; for `min_form` outcome rows too. Out: batches scored at each labelled step; an item is
a step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from datasets import Features, List, Value

from ...checks import RowError
from ...data.canonical import EXAMPLE_ID, UNLABELLED, Row
from ...data.collator import StepCollator
from ...data.encoding import Encoder
from ...data.step_nodes import NODE_COLUMNS, is_chain
from ...figure_names import LOSS, SOLUTIONS, STEPS, Metric
from ...figures import outcome_figures, step_figures
from ...model.head import step_logits, step_probabilities
from ..losses.steps import CLASS_WEIGHTS, LAST_STEP_ONLY, class_weights_S
from .base import Objective, Tensors


@dataclass(frozen=True, kw_only=True)
class StepObjective(Objective):
    """Cross-entropy of each step, a ranking of the steps, or the outcome of the worst one."""

    tokenized_columns: ClassVar[tuple[str, ...]] = ("input_ids", "labels")
    keep_columns: ClassVar[bool] = False

    collator = StepCollator

    @property
    def takes_trees(self) -> bool:
        """Whether the loss is each step's own; else it is a solution's, and a tree holds several."""
        return "step_tree" in self.loss.rows

    @property
    def _of_outcomes(self) -> bool:
        """Whether the loss learns the solution's outcome, the least of its labels."""
        return "outcome" in self.loss.rows

    @property
    def columns(self) -> Features:
        integers = List(Value("int64"))
        columns = Features(input_ids=integers, labels=List(Value("float64")), **dict.fromkeys(NODE_COLUMNS, integers))
        return Features(**columns, steps_labelled=Value("bool")) if self._of_outcomes else columns

    @property
    def metrics(self) -> dict[str, Metric]:
        return {**STEPS, **(SOLUTIONS if self._of_outcomes else {}), **LOSS}

    def encode(self, encoder: Encoder, *, tokenized: bool, name: str) -> Callable[[Row], Row]:
        """Evaluation sees all steps."""
        if tokenized:
            return partial(self._tokenized, encoder)
        return encoder.last_step if self.option(LAST_STEP_ONLY.name) and name == "train" else encoder.steps

    def _tokenized(self, encoder: Encoder, row: Row) -> Row:
        encoded = encoder.tokenized_steps(row)
        if not self.takes_trees and not is_chain(encoded["node_parents"]):
            raise RowError(f"loss_type='{self.loss_type}' takes no trees of steps", column="node_lengths")
        if self.loss.labels == "hard" and {*encoded["labels"]} - {0.0, 1.0, float(UNLABELLED)}:
            raise RowError(f"loss_type='{self.loss_type}' takes 0 and 1 as labels", column="labels")
        return {**encoded, "steps_labelled": True} if self._of_outcomes else encoded

    def item_weights(self, inputs: Tensors) -> torch.Tensor:
        """1 or its class weight a step; where the loss is a solution's, 1 at its first step."""
        labels_S, _, back_S = _steps(inputs)
        if not self.takes_trees:
            return (back_S == 0).float()
        class_weights = self.option(CLASS_WEIGHTS.name)
        return torch.ones_like(labels_S) if class_weights is None else class_weights_S(labels_S, class_weights)

    def losses(self, logits: torch.Tensor, inputs: Tensors) -> tuple[torch.Tensor, Tensors]:
        """(S,) of the labelled steps, with their logits, labels, rows and what stands before them."""
        labels_S, rows_S, back_S = _steps(inputs)
        logits_SC = logits if "step_labels" in inputs else logits[inputs["labels"] != UNLABELLED]
        labels_S = labels_S.to(logits_SC.dtype)
        items = {"logits": logits_SC, "labels": labels_S, "rows": rows_S, "back": back_S}
        if self.takes_trees:
            return self.formula(logits_SC, labels_S) * self.weights(inputs), items
        values_S, targets_S = step_logits(logits_SC), labels_S
        if self._of_outcomes:
            targets_S = _least(labels_S, rows_S)
            items |= {"outcome": targets_S, "worst": _least(values_S.detach(), rows_S)}
            items["labelled"] = inputs.get("step_labelled", torch.ones_like(rows_S, dtype=torch.bool))
        return self.formula(values_S, targets_S, rows_S), items

    def running(self, items: Tensors) -> dict[str, Any]:
        """Step accuracy for the training logs; where the outcome is trained, that of the outcomes."""
        if self._of_outcomes:
            first_S = items["back"] == 0
            right_S = first_S & ((items["worst"] >= 0) == (items["outcome"] >= 0.5))
            return {"count": first_S.sum(), "sums": {"accuracy": right_S.sum()}}
        right_S = step_probabilities(items["logits"]) >= 0.5
        return {"count": len(right_S), "sums": {"accuracy": (right_S == (items["labels"] >= 0.5)).sum()}}

    def figures(self, items: dict) -> dict[str, float]:
        """Figures of every labelled step, and of the outcomes where those are trained."""
        figures = {}
        if self._of_outcomes:
            first_S, labelled_S = items["back"] == 0, items["labelled"]
            figures = outcome_figures(items["worst"][first_S], items["outcome"][first_S])
            figures = {f"outcome_{key}": value for key, value in figures.items()}
            if not labelled_S.any():
                return figures
            items = {key: value[labelled_S] for key, value in items.items()}
        probabilities = step_probabilities(torch.from_numpy(items["logits"])).numpy()
        return {**step_figures(probabilities, items["labels"], items["back"]), **figures}

    def predictions(self, items: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, steps, labels) and labels (N, steps), both -100 where a row has fewer steps."""
        rows = items.get(EXAMPLE_ID, items["rows"].unique())
        counts = torch.bincount(items["rows"], minlength=len(rows))
        logits = torch.nn.utils.rnn.pad_sequence(items["logits"].split(counts.tolist()), True, UNLABELLED)
        labels = torch.nn.utils.rnn.pad_sequence(items["labels"].split(counts.tolist()), True, UNLABELLED)
        return logits, labels


def _steps(inputs: Tensors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels, rows, and labelled steps back to the one before (0: none), each (S,)."""
    if "step_labels" in inputs:
        return inputs["step_labels"], inputs["step_rows"], inputs["step_back"]
    labelled_BL = inputs["labels"] != UNLABELLED  # somebody else's collator
    rows_S = labelled_BL.nonzero()[:, 0]
    back_S = rows_S.diff(prepend=rows_S.new_full((1,), -1)).eq(0).long()  # 1 after a step of the same row
    return inputs["labels"][labelled_BL].float(), rows_S, back_S


def _least(values_S: torch.Tensor, rows_S: torch.Tensor) -> torch.Tensor:
    """The least value of each one's row."""
    least = torch.full_like(values_S, torch.inf).scatter_reduce(0, rows_S, values_S, "amin")  # rows <= steps
    return least[rows_S]
