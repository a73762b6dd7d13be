"""What a reward model is trained for: from `loss_type` to rows, batches, losses and figures.

In: a config. Out: an objective, which says all that depends on the loss, for each form of items:

    pairs.py    pairs          chosen against rejected
    ranked.py   lists          K completions of a prompt
    scored.py   completions    a completion with a score, or one an attribute
    steps.py    steps          the steps of a solution, or of a tree

The trainers hold one and ask it. The losses are declared in `losses/`: name, rows, columns, options and formula.
"""

from ..losses import LOSSES
from .base import Objective
from .pairs import PairObjective
from .ranked import RankedObjective
from .scored import ScoredObjective
from .steps import StepObjective

__all__ = [
    "OBJECTIVE_OF_FORM",
    "Objective",
    "PairObjective",
    "RankedObjective",
    "ScoredObjective",
    "StepObjective",
    "reward_objective",
]

OBJECTIVE_OF_FORM: dict[str, type[Objective]] = {
    "pairs": PairObjective,
    "lists": RankedObjective,
    "completions": ScoredObjective,
    "steps": StepObjective,
}
"""form of items (`Loss.form`) -> its objective"""


def reward_objective(args) -> Objective:
    """The objective of a `RewardConfig`."""
    return OBJECTIVE_OF_FORM[LOSSES[args.loss_type].form].from_config(args)
