"""Scored completions: one number each, or one for each of several attributes.

In: scored rows, ranked rows (each completion by itself). Out: batches of completions; an item is a completion.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from datasets import Features, List, Value

from ...data.canonical import Row
from ...data.collator import ScoredCollator
from ...data.encoding import Encoder
from ...data.expansion import check_graded, to_scored
from ..figures import scored_figures
from ..losses import binary_cross_entropy_loss, huber_loss, squared_error_loss
from ..metrics import precise
from ..option_checks import SCORE_LOSSES
from .base import Objective, Tensors, rewards_running, row_weights


@dataclass(frozen=True, kw_only=True)
class ScoredObjective(Objective):
    """Regression on scores, or cross-entropy on outcomes; a head with one output an attribute."""

    attributes: list[str] | None = None
    attribute_weights: list[float] | None = None
    huber_delta: float = 1.0

    loss_types: ClassVar[tuple[str, ...]] = SCORE_LOSSES
    tokenized_columns: ClassVar[tuple[str, ...]] = ("input_ids", "scores")

    collator = ScoredCollator

    @property
    def columns(self) -> Features:
        """`scores`: one an attribute, NaN where it is not rated."""
        number = Value("float64")
        return Features(input_ids=List(Value("int64")), scores=List(number), weight=number)

    @property
    def attribute_sum(self) -> list[float]:
        """Weights of the attributes in the sum that scoring gives."""
        count = len(self.attributes or [None])
        return list(self.attribute_weights or [1 / count] * count)

    def expand(self, row: Row) -> list[Row]:
        """A ranked row gives its completions."""
        return to_scored(row, attributes=self.attributes, graded=self.loss_type == "bce")

    def encode(self, encoder: Encoder, *, tokenized: bool, name: str) -> Callable[[Row], Row]:
        """Tokenized rows must have a score an attribute too."""
        return partial(self._tokenized, encoder) if tokenized else encoder.scored

    def _tokenized(self, encoder: Encoder, row: Row) -> Row:
        encoded = encoder.tokenized_scored(row, count=len(self.attribute_sum))
        if self.loss_type == "bce":
            check_graded(encoded["scores"], "scores")
        return encoded

    def weights(self, inputs: Tensors) -> torch.Tensor:
        """1, or the rows' `weight`."""
        return row_weights(inputs, len(inputs["scores"]))

    def losses(self, logits_NA: torch.Tensor, inputs: Tensors) -> tuple[torch.Tensor, Tensors]:
        """(N,), each the mean over the attributes that are rated; the outputs, scores and weighted sums."""
        scores_NA = inputs["scores"]
        if self.loss_type == "huber":
            losses_N = huber_loss(logits_NA, scores_NA, delta=self.huber_delta)
        else:
            loss = squared_error_loss if self.loss_type == "mse" else binary_cross_entropy_loss
            losses_N = loss(logits_NA, scores_NA)
        outputs = zip(self.attribute_sum, logits_NA.detach().unbind(1), strict=True)
        total_N = sum(weight * output_N for weight, output_N in outputs)
        return losses_N * self.weights(inputs), {"rewards": logits_NA, "scores": scores_NA, "total": total_N}

    def running(self, items: Tensors) -> dict[str, Any]:
        """The spread of the rewards, which are the attributes' weighted sums; of outcomes the accuracy too."""
        logs = rewards_running(precise(items["total"]))
        if self.loss_type == "bce":
            rated_NA = ~items["scores"].isnan()
            right_NA = rated_NA & ((items["rewards"] >= 0) == (items["scores"] >= 0.5))
            logs["sums"]["accuracy"] = (right_NA.sum(1) / rated_NA.sum(1)).sum()
        return logs

    def figures(self, items: dict) -> dict[str, float]:
        """Errors and correlation, of outcomes accuracy, calibration error and AUROC; of each attribute too."""
        return scored_figures(
            *(items[key] for key in ("loss", "rewards", "scores", "weight", "total")),
            attributes=self.attributes,
            logits=self.loss_type == "bce",
        )

    def predictions(self, items: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs (N, A) and scores (N, A), NaN where an attribute is not rated."""
        return items["rewards"], items["scores"]
