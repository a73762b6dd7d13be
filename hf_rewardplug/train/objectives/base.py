"""What an objective is."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ...data.canonical import Row
from ..losses import LOSSES, OPTIONS, Loss

Tensors = dict[str, torch.Tensor]

WEIGHTS = "rewardplug_weights"
"""key of a batch with the weights of its items, which are counted before its forward, and used after it"""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A loss with its rows, batches and figures; a subclass for each form of items (`Loss.form`).

    An item is what a loss counts: a pair, a list, a completion or a step. The trainer divides the sum of `losses` by
    the sum of `weights`, both over the whole optimizer step.

    Attributes:
        options: {name: value} of the options that the loss reads; those that are missing have their defaults.

    A subclass has, for its form of items:

        columns              `Features` of encoded rows
        collator             (pad_token_id, pad_to_multiple_of) -> what makes a batch of encoded rows
        encode               (encoder, tokenized=, name=) -> what turns a row of the data set `name` ("train", ...) into
                             an example: a method of the encoder
        item_weights         (batch) -> `weights`, computed
        losses               (logits, batch) -> losses (items,), each times its weight, and {name: values an item},
                             which the figures are made of
        running              (items) -> sums, minima and maxima for the logs: arguments of `metrics.Running.add`
        figures              (items as numpy arrays, each once) -> {name: figure} of an evaluation, all but the loss
        metrics              {name: `Metric`}: what people read of those figures and of the loss, in a table's order
        predictions          (items) -> predictions and labels for `compute_metrics`, first dimension the batch's rows
    """

    loss_type: str
    options: dict[str, Any] = field(default_factory=dict)

    tokenized_columns: ClassVar[tuple[str, ...]]
    """columns that mark encoded data"""
    keep_columns: ClassVar[bool] = True
    """whether raw columns stay beside the encoded ones"""
    takes_trees: ClassVar[bool] = True
    """whether an encoded row may be a tree with several branches"""

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

    def expand(self, row: Row) -> list[Row]:
        """A canonical row -> the rows that `encode` takes; `RowError` where the loss cannot train on it."""
        return self.loss.expand(row)

    def weights(self, inputs: Tensors) -> torch.Tensor:
        """What each item of a batch counts in the loss's denominator, shape (items,); computed once, and kept in it."""
        if WEIGHTS not in inputs:
            inputs[WEIGHTS] = self.item_weights(inputs)
        return inputs[WEIGHTS]


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
