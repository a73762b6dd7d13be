"""Ranked lists: K completions of one prompt, which a batch computes once.

In: ranked rows, preference rows (lists of two). Out: batches of all completions; an item is a list.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from datasets import Features, List, Value

from ...data.canonical import Row
from ...data.collator import RankedCollator
from ...data.encoding import Encoder
from ...figure_names import LISTS
from ...figures import ranked_figures
from ..metrics import precise
from .base import Objective, Tensors, row_weights

_MISSING = -100
"""what transformers pads predictions and labels with"""


@dataclass(frozen=True, kw_only=True)
class RankedObjective(Objective):
    """Plackett-Luce over a list, or the mean of all its pairs' Bradley-Terry losses."""

    tokenized_columns: ClassVar[tuple[str, ...]] = ("completion_ids", "scores")

    collator = RankedCollator
    metrics = LISTS

    @property
    def columns(self) -> Features:
        """`scores`: higher is better; equal ones are a tie, which says nothing."""
        number = Value("float64")
        return Features(completion_ids=List(List(Value("int64"))), scores=List(number), weight=number)

    def encode(self, encoder: Encoder, *, tokenized: bool, name: str) -> Callable[[Row], Row]:
        """The K sequences of a row are cut together."""
        return encoder.tokenized_ranked if tokenized else encoder.ranked

    def item_weights(self, inputs: Tensors) -> torch.Tensor:
        """1, or the rows' `weight`."""
        return row_weights(inputs, len(inputs["scores"]))

    def losses(self, logits_S1: torch.Tensor, inputs: Tensors) -> tuple[torch.Tensor, Tensors]:
        """(N,), and the rewards (N, K) of the lists, 0 after the end of a shorter one, whose scores are NaN there."""
        rewards_S, scores_NK = logits_S1.squeeze(-1), inputs["scores"]
        given_NK = ~scores_NK.isnan()
        place_NK = given_NK.flatten().cumsum(0).sub(1).clamp(min=0).view_as(given_NK)
        rewards_NK = rewards_S[place_NK].masked_fill(~given_NK, 0.0)
        losses_N = self.formula(rewards_NK, scores_NK) * self.weights(inputs)
        return losses_N, {"rewards": rewards_NK, "scores": scores_NK}

    def running(self, items: Tensors) -> dict[str, Any]:
        """The lists' own accuracy, mean and spread, averaged; `figures` counts pairs and completions instead."""
        rewards_NK, scores_NK = precise(items["rewards"]), items["scores"]
        given_NK = ~scores_NK.isnan()
        better_NKK = scores_NK[:, :, None] > scores_NK[:, None, :]
        right_NKK = better_NKK & (rewards_NK[:, :, None] > rewards_NK[:, None, :])
        accuracy_N = right_NKK.sum((1, 2)) / better_NKK.sum((1, 2)).clamp(min=1)
        count_N = given_NK.sum(1)
        means = {"mean_reward": rewards_NK.sum(1) / count_N, "mean_square": (rewards_NK**2).sum(1) / count_N}
        return {
            "count": len(rewards_NK),
            "sums": {"accuracy": accuracy_N.sum(), **{key: value.sum() for key, value in means.items()}},
            "minima": {"min_reward": torch.where(given_NK, rewards_NK, torch.inf).min()},
            "maxima": {"max_reward": torch.where(given_NK, rewards_NK, -torch.inf).max()},
        }

    def figures(self, items: dict) -> dict[str, float]:
        """Those of the lists and of all their pairs."""
        return ranked_figures(items["rewards"], items["scores"])

    def predictions(self, items: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards (N, K) and scores (N, K), both -100 where a list is shorter."""
        missing_NK = items["scores"].isnan()
        return items["rewards"].masked_fill(missing_NK, _MISSING), items["scores"].masked_fill(missing_NK, _MISSING)
