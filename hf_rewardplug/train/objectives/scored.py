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
from ...data.expansion import check_graded
from ...figure_names import ERRORS, LOSS, OUTCOMES, SPREAD, Metric, of_attributes
from ...figures import attribute_figures, error_figures, outcome_figures, reward_spread
from ..losses.scores import ATTRIBUTE_WEIGHTS, ATTRIBUTES
from ..metrics import precise
from .base import Objective, Tensors, rewards_running, row_weights


@dataclass(frozen=True, kw_only=True)
class ScoredObjective(Objective):
    """Regression on scores, or cross-entropy on outcomes; a head with one output an attribute."""

    tokenized_columns: ClassVar[tuple[str, ...]] = ("input_ids", "scores")

    collator = ScoredCollator

    @property
    def columns(self) -> Features:
        """`scores`: one an attribute, NaN where it is not rated."""
        number = Value("float64")
        return Features(input_ids=List(Value("int64")), scores=List(number), weight=number)

    @property
    def attributes(self) -> list[str] | None:
        """Names of the scores; None where a completion has one."""
        return self.option(ATTRIBUTES.name)

    @property
    def outcomes(self) -> bool:
        """Whether the scores are outcomes, and the head's outputs logits."""
        return self.loss.labels == "shares"

    @property
    def metrics(self) -> dict[str, Metric]:
        metrics = OUTCOMES if self.outcomes else ERRORS
        return {**of_attributes(metrics, self.attributes or ()), **LOSS, **SPREAD}

    @property
    def attribute_sum(self) -> list[float]:
        """Weights of the attributes in the sum that scoring gives."""
        count = len(self.attributes or [None])
        return list(self.option(ATTRIBUTE_WEIGHTS.name) or [1 / count] * count)

    def expand(self, row: Row) -> list[Row]:
        """A ranked row gives its completions."""
        return self.loss.expand(row, attributes=self.attributes)

    def encode(self, encoder: Encoder, *, tokenized: bool, name: str) -> Callable[[Row], Row]:
        """Tokenized rows must have a score an attribute too."""
        return partial(self._tokenized, encoder) if tokenized else encoder.scored

    def _tokenized(self, encoder: Encoder, row: Row) -> Row:
        encoded = encoder.tokenized_scored(row, count=len(self.attribute_sum))
        if self.outcomes:
            check_graded(encoded["scores"], "scores")
        return encoded

    def item_weights(self, inputs: Tensors) -> torch.Tensor:
        """1, or the rows' `weight`."""
        return row_weights(inputs, len(inputs["scores"]))

    def losses(self, logits_NA: torch.Tensor, inputs: Tensors) -> tuple[torch.Tensor, Tensors]:
        """(N,), each the mean over the attributes that are rated; the outputs, scores and weighted sums."""
        scores_NA = inputs["scores"]
        losses_N = self.formula(logits_NA, scores_NA) * self.weights(inputs)
        outputs = zip(self.attribute_sum, logits_NA.detach().unbind(1), strict=True)
        total_N = sum(weight * output_N for weight, output_N in outputs)
        return losses_N, {"rewards": logits_NA, "scores": scores_NA, "total": total_N}

    def running(self, items: Tensors) -> dict[str, Any]:
        """The spread of the rewards, which are the attributes' weighted sums; of outcomes the accuracy too."""
        logs = rewards_running(precise(items["total"]))
        if self.outcomes:
            rated_NA = ~items["scores"].isnan()
            right_NA = rated_NA & ((items["rewards"] >= 0) == (items["scores"] >= 0.5))
            logs["sums"]["accuracy"] = (right_NA.sum(1) / rated_NA.sum(1)).sum()
        return logs

    def figures(self, items: dict) -> dict[str, float]:
        """Errors and correlation, of outcomes accuracy, calibration error and AUROC; of each attribute too."""
        figures_of = outcome_figures if self.outcomes else error_figures
        figures = attribute_figures(figures_of, items["rewards"], items["scores"], self.attributes or ())
        return {**figures, **reward_spread(items["total"])}

    def predictions(self, items: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs (N, A) and scores (N, A), NaN where an attribute is not rated."""
        return items["rewards"], items["scores"]
