"""The losses: rewards or logits at the score positions in, one loss an item out.

    N  pairs, ranked lists or scored completions          A  attributes that a completion is scored for
    K  completions of the longest list                    C  labels of the head (1 or 2)
    S  scored steps of all solutions, one row after the other

    pairs.py         pairs (N,); `centering_loss` is added to any of them
    scores.py        ranked lists (N, K) and scored completions (N, A); NaN where a list is shorter, or nobody rated
    steps.py         steps (S,); times `class_weights_S` where wanted
    declaration.py   what each says of itself: rows, columns, options

The trainers sum them and divide by the items of the whole optimizer step (all micro-batches, all ranks), so a loss is
never averaged here. All are finite, and so are their gradients, for every finite reward that can be subtracted (and,
for squares, squared) in its dtype. Nothing here waits for the device.
"""

from . import pairs, scores, steps  # noqa: F401  in the order in which people see the losses
from .declaration import LOSSES, Loss, Option

__all__ = ["LOSSES", "LOSSES_OF_OPTION", "OPTIONS", "REWARD_LOSSES", "STEP_LOSSES", "Loss", "Option", "names_of"]


def names_of(*forms: str) -> tuple[str, ...]:
    """The losses of these forms of items.

    >>> names_of("lists")
    ('plackett_luce', 'all_pairs')
    """
    return tuple(loss.name for loss in LOSSES.values() if loss.form in forms)


REWARD_LOSSES = names_of("pairs", "lists", "completions")
STEP_LOSSES = names_of("steps")

OPTIONS: dict[str, Option] = {option.name: option for loss in LOSSES.values() for option in loss.every_option}

LOSSES_OF_OPTION = {
    name: tuple(loss.name for loss in LOSSES.values() if option in loss.every_option)
    for name, option in OPTIONS.items()
}
"""the losses that read an option; beside another loss it must keep its default"""
