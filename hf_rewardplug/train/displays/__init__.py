"""What a person sees of held-out examples: a table, examples, items of a file, a plot; a display for each objective.

In: the trainer and the output of its `predict`. Out: lines, dicts and plots for `train/summary.py`.

    pairs.py     chosen and rejected completions, ties, soft labels
    ranked.py    lists of completions
    scored.py    completions with a score, with one an attribute, with an outcome
    steps.py     solutions step by step, trees of steps, solutions with an outcome alone
"""

from ..objectives import PairObjective, RankedObjective, ScoredObjective, StepObjective
from .base import Display
from .pairs import Pairs
from .ranked import Ranked
from .scored import Scored
from .steps import Steps

__all__ = ["Display", "display_of"]

_DISPLAYS = {PairObjective: Pairs, RankedObjective: Ranked, ScoredObjective: Scored, StepObjective: Steps}


def display_of(trainer, output) -> Display:
    """The display of what `trainer` trains on."""
    return next(kind for of, kind in _DISPLAYS.items() if isinstance(trainer.training_objective, of))(trainer, output)
