"""What the ranks of a run know together.

In: a function for the first rank, or numbers of every rank. Out: the same result on all of them.
"""

from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import Trainer

from .metrics import FirstNotFinite, Running, TokenCounter


def agreed(args, function: Callable, *arguments: Any) -> Any:
    """What the first rank finds, or raises, on every rank."""
    result: list = [None]
    if args.process_index == 0:
        try:
            result[0] = function(*arguments)
        except Exception as error:  # whatever it is, the others wait to hear of it
            result[0] = error
    if args.world_size > 1:
        broadcast_object_list(result)
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]


class Counters:
    """What is counted while a trainer trains: figures of the logs, tokens, and the first step that was not finite.

    Args:
        trainer: whose accelerator gathers; a hyperparameter search gives it another.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.running, self.tokens, self.not_finite = Running(), TokenCounter(), FirstNotFinite()

    def gather_row(self, vector_K: torch.Tensor) -> torch.Tensor:
        """(ranks, K): the vectors of all ranks."""
        return self.trainer.accelerator.gather(vector_K[None])

    def sum_over_ranks(self, counts: list) -> list[int]:
        """Sums over all ranks; tensor parallel ranks see the same rows."""
        device, copies = self.trainer.accelerator.device, self.trainer.get_tp_size()
        here = torch.stack([torch.as_tensor(count, device=device) for count in counts])
        return [int(count) // copies for count in self.gather_row(here).sum(0)]
