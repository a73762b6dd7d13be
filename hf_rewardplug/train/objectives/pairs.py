"""Pairs: a chosen and a rejected completion of one prompt.

In: preference rows, ranked rows (every pair of theirs). Out: batches whose first half is chosen; an item is a pair.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from datasets import Features, List, Value

from ...checks import DropRow, RowError
from ...data.canonical import PAIR_NUMBERS, UNLABELLED, Row
from ...data.collator import PreferenceCollator
from ...data.encoding import Encoder
from ...figure_names import PAIRS, PAIRS_AND_TIES, Metric
from ...figures import pair_figures, verdict_figures
from ..losses import LOSSES
from ..losses.pairs import CENTERING, TIE_THRESHOLD, centering_loss, rao_kupper_probabilities
from ..metrics import precise
from .base import Objective, Tensors, rewards_running, row_weights


@dataclass(frozen=True, kw_only=True)
class PairObjective(Objective):
    """Bradley-Terry and its kin; TRL's numbers by default."""

    tokenized_columns: ClassVar[tuple[str, ...]] = ("chosen_ids", "rejected_ids")

    @property
    def columns(self) -> Features:
        """`tie` where the loss has a model of ties; a column that no row has goes again."""
        ids, numbers = List(Value("int64")), dict.fromkeys(PAIR_NUMBERS, Value("float64"))
        ties = {"tie": Value("bool")} if self._ties else {}
        return Features(chosen_ids=ids, rejected_ids=ids, **numbers, **ties)

    collator = PreferenceCollator

    @property
    def metrics(self) -> dict[str, Metric]:
        return PAIRS_AND_TIES if self._ties else PAIRS

    @property
    def _ties(self) -> bool:
        """Whether the loss has a model of ties."""
        return "tie" in self.loss.columns

    def expand(self, row: Row) -> list[Row]:
        """A column that the loss has no use for is an error."""
        pairs = super().expand(row)
        for pair in pairs:
            self._check_columns(pair)
        return pairs

    def encode(self, encoder: Encoder, *, tokenized: bool, name: str) -> Callable[[Row], Row]:
        """Tokenized rows are held to what `expand` says of others."""
        return partial(self._tokenized, encoder) if tokenized else encoder.pair

    def _tokenized(self, encoder: Encoder, row: Row) -> Row:
        encoded = encoder.tokenized_pair(row)
        self._check_columns(encoded)
        tie = encoded.pop("tie", False)
        if tie and not self._ties:
            raise DropRow("a tie")
        return {**encoded, "tie": tie} if self._ties else encoded

    def _check_columns(self, pair: Row) -> None:
        for column in PAIR_NUMBERS:
            if column in pair and column not in (*self.loss.columns, "weight"):
                takers = [loss.name for loss in LOSSES.values() if column in loss.columns]
                raise RowError(
                    f"loss_type='{self.loss_type}' has no use for it. Remove the column, or take {', '.join(takers)}",
                    column=column,
                )

    def item_weights(self, inputs: Tensors) -> torch.Tensor:
        """1, or the rows' `weight`."""
        return row_weights(inputs, inputs.get("score_positions", inputs["input_ids"]).shape[0] // 2)

    def losses(self, logits_S1: torch.Tensor, inputs: Tensors) -> tuple[torch.Tensor, Tensors]:
        """(N,), and the rewards; `better` is the probability that chosen is, 0.5 of a tie."""
        chosen_N, rejected_N = logits_S1.squeeze(-1).chunk(2)
        columns = {name: inputs[column] for column, name in self.loss.columns.items() if column in inputs}
        losses_N = self.formula(chosen_N, rejected_N, **columns)
        if (coefficient := self.option(CENTERING.name)) is not None:
            losses_N = losses_N + centering_loss(chosen_N, rejected_N, coefficient)
        better_N = columns.get("probability_N", torch.ones_like(chosen_N))
        if self._ties:
            better_N = torch.where(columns["tie_N"], 0.5, better_N)
        return losses_N * self.weights(inputs), {"chosen": chosen_N, "rejected": rejected_N, "better": better_N}

    def running(self, items: Tensors) -> dict[str, Any]:
        """TRL's logs: accuracy, margin, and the least, mean and greatest reward."""
        chosen_N, rejected_N = precise(items["chosen"]), precise(items["rejected"])
        sides = [rewards_running(chosen_N), rewards_running(rejected_N)]
        right_N = torch.where(items["better"] < 0.5, rejected_N > chosen_N, chosen_N > rejected_N)
        return {
            "count": len(chosen_N),
            "sums": {
                **({} if self._ties else {"accuracy": right_N.sum()}),  # which the evaluation counts without ties
                "margin": (chosen_N - rejected_N).sum(),
                **{key: (sides[0]["sums"][key] + sides[1]["sums"][key]) / 2 for key in sides[0]["sums"]},
            },
            "minima": {"min_reward": torch.minimum(chosen_N, rejected_N).min()},
            "maxima": {"max_reward": torch.maximum(chosen_N, rejected_N).max()},
        }

    def figures(self, items: dict) -> dict[str, float]:
        """Those of the rewards, and with a model of ties those of its verdicts."""
        figures = pair_figures(items["chosen"], items["rejected"], items["better"])
        if self._ties:
            margins_N = torch.from_numpy(items["chosen"] - items["rejected"]).double()
            probabilities_N3 = rao_kupper_probabilities(margins_N, self.option(TIE_THRESHOLD.name))
            figures |= verdict_figures(probabilities_N3.numpy(), items["better"])
        return figures

    def predictions(self, items: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards (N, 2) and labels (N,): the column of the better one, 0 where chosen is, -100 of a tie."""
        predictions = torch.stack([items["chosen"], items["rejected"]], dim=1)
        return predictions, torch.where(items["better"] == 0.5, UNLABELLED, (items["better"] < 0.5).long())
