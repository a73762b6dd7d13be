"""Results that all ranks of a run share.

In: a function that the first rank calls, or numbers of every rank. Out: the same result on every rank.
"""

from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import Trainer

from .metrics import FirstNotFinite, Running, TokenCounter


def agreed(args, function: Callable, *arguments: Any) -> Any:
    """Call `function` on the first rank, and return its result, or raise its error, on every rank."""
    result: list = [None]
    if args.process_index == 0:
        try:
            result[0] = function(*arguments)
        except Exception as error:  # any error: the other ranks are waiting for the result
            result[0] = error
    if args.world_size > 1:
        broadcast_object_list(result)
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]


class Counters:
    """The figures of the logs, the tokens, and the first step that was not finite, counted while a trainer trains.

    Args:
        trainer: its accelerator gathers the counts. (A hyperparameter search gives a trainer another accelerator.)
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.running, self.tokens, self.not_finite = Running(), TokenCounter(), FirstNotFinite()

    def gather_row(self, vector_K: torch.Tensor) -> torch.Tensor:
        """(ranks, K): the vectors of all ranks."""
        return self.trainer.accelerator.gather(vector_K[None])

    def sum_over_ranks(self, counts: list) -> list[int]:
        """The sums over all ranks. Tensor parallel ranks see the same rows, which count once."""
        device, copies = self.trainer.accelerator.device, self.trainer.get_tp_size()
        here = torch.stack([torch.as_tensor(count, device=device) for count in counts])
        return [int(count) // copies for count in self.gather_row(here).sum(0)]
