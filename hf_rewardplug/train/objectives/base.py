"""What an objective is."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from datasets import Features

from ...data.canonical import Row
from ...data.encoding import Encoder
from ..losses import LOSSES, OPTIONS, Loss

Tensors = dict[str, torch.Tensor]

WEIGHTS = "rewardplug_weights"
"""key of a batch with the weights of its items, which are counted before its forward, and used behind it"""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A loss with its rows, batches and figures; a subclass for each form of items (`Loss.form`).

    An item is what a loss counts: a pair, a list, a completion or a step. The trainer divides the sum of `losses` by
    the sum of `weights`, both over the whole optimizer step.

    Attributes:
        options: {name: value} of the options that the loss reads; those that are missing have their defaults.
    """

    loss_type: str
    options: dict[str, Any] = field(default_factory=dict)

    tokenized_columns: ClassVar[tuple[str, ...]]
    """columns that mark encoded data"""
    keep_columns: ClassVar[bool] = True
    """whether raw columns stay beside the encoded ones"""

    @classmethod
    def from_config(cls, args: Any) -> "Objective":
        """Read the options from a config."""
        options = (option.name for option in LOSSES[args.loss_type].every_option)
        return cls(loss_type=args.loss_type, options={name: getattr(args, name) for name in options})

    @property
    def loss(self) -> Loss:
        """What the loss declares."""
        return LOSSES[self.loss_type]

    def option(self, name: str) -> Any:
        """The value of an option."""
        return self.options.get(name, OPTIONS[name].default)

    def formula(self, *items: torch.Tensor, **columns: torch.Tensor) -> torch.Tensor:
        """The losses (items,) before weights, by the declared formula with the options that it takes."""
        options = {argument: self.option(option.name) for argument, option in self.loss.options.items()}
        return self.loss.formula(*items, **columns, **options)

    @property
    def columns(self) -> Features:
        """Columns of encoded rows, with their types."""
        raise NotImplementedError

    def collator(self, pad_token_id: int, pad_to_multiple_of: int | None = None) -> Any:
        """What makes a batch of encoded rows."""
        raise NotImplementedError

    def expand(self, row: Row) -> list[Row]:
        """A canonical row -> the rows that `encode` takes; `RowError` where the loss cannot train on it."""
        return self.loss.expand(row)

    def encode(self, encoder: Encoder, *, tokenized: bool, name: str) -> Any:
        """What turns a row of data set `name` ("train", ...) into an example: a method of the encoder."""
        raise NotImplementedError

    def weights(self, inputs: Tensors) -> torch.Tensor:
        """What each item of a batch counts in the loss's denominator, shape (items,); computed once, and kept in it."""
        if WEIGHTS not in inputs:
            inputs[WEIGHTS] = self.item_weights(inputs)
        return inputs[WEIGHTS]

    def item_weights(self, inputs: Tensors) -> torch.Tensor:
        """Compute `weights`."""
        raise NotImplementedError

    def losses(self, logits: torch.Tensor, inputs: Tensors) -> tuple[torch.Tensor, Tensors]:
        """Losses (items,), each times its weight, and {name: values an item}, which the figures are made of."""
        raise NotImplementedError

    def running(self, items: Tensors) -> dict[str, Any]:
        """Sums, minima and maxima for the training logs, as `metrics.Running.add` takes them."""
        raise NotImplementedError

    def figures(self, items: dict) -> dict[str, float]:
        """Evaluation figures from every item, each once; numpy arrays in."""
        raise NotImplementedError

    def predictions(self, items: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Predictions and labels for `compute_metrics`, first dimension the batch's rows."""
        raise NotImplementedError


def row_weights(inputs: Tensors, count: int) -> torch.Tensor:
    """1 a row, or its `weight`: one of 2 counts as two rows; shape (count,)."""
    return inputs["weight"] if "weight" in inputs else torch.ones(count, device=inputs["input_ids"].device)


def rewards_running(rewards: torch.Tensor) -> dict[str, Any]:
    """The logs' least, mean and greatest reward, of (R,) in fp64, as `Objective.running` gives them."""
    return {
        "count": len(rewards),
        "sums": {"mean_reward": rewards.sum(), "mean_square": (rewards**2).sum()},
        "minima": {"min_reward": rewards.min()},
        "maxima": {"max_reward": rewards.max()},
    }
