"""What a reward model is trained for: from `loss_type` to rows, batches, losses and figures.

In: a config. Out: an objective, which says all that depends on the loss:

    pairs.py    bradley_terry, log_exp, hinge, rao_kupper       chosen against rejected
    ranked.py   plackett_luce, all_pairs                        K completions of a prompt
    scored.py   mse, huber, bce                                 a completion with a score, or one an attribute
    steps.py    cross_entropy, pqm, min_form                    the steps of a solution

The trainers hold one and ask it; the formulas are in `losses.py`.
"""

from .base import Objective
from .pairs import PairObjective
from .ranked import RankedObjective
from .scored import ScoredObjective
from .steps import StepObjective

__all__ = ["Objective", "PairObjective", "RankedObjective", "ScoredObjective", "StepObjective", "reward_objective"]


def reward_objective(args) -> Objective:
    """The objective of a `RewardConfig`."""
    for kind in (PairObjective, RankedObjective, ScoredObjective):
        if args.loss_type in kind.loss_types:
            return kind.from_config(args)
    raise ValueError(f"loss_type={args.loss_type!r} is not known.")
