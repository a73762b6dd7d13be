"""Losses of steps: S scored steps of all solutions, one row after the other, in; a loss a step out, shape (S,).

C are the labels of the head (1 or 2). A loss that takes no trees belongs to whole solutions: it reads the logits of
"right" (S,) and the row of each step.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F

from ...data.expansion import to_outcomes, to_step_ranks, to_steps
from .declaration import Option, declared

CLASS_WEIGHTS = Option("class_weights", None, "Weights of wrong and of right steps")
LAST_STEP_ONLY = Option(
    "train_on_last_step_only",
    False,
    "Whether to train on the label of the last step alone; evaluation sees all",
)
PQM_MARGIN = Option(
    "pqm_margin",
    4.0,
    "How far wrong steps stay below right ones, in logits",
    holds=lambda margin: 0 <= margin < math.inf,
    expected="a number of 0 or more",
)

_of_steps = partial(declared, form="steps")


@_of_steps(
    "cross_entropy",
    rows=("stepwise", "step_tree"),
    expand=to_steps,
    read_beside=(CLASS_WEIGHTS, LAST_STEP_ONLY),
)
def step_loss(logits_SC: torch.Tensor, labels_S: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each step, hard or soft, shape (S,).

    Two labels: `-(y log p(right) + (1 - y) log p(wrong))` with softmax, label 1 is right; one label: the same with a
    sigmoid. Hard labels as in Lightman et al. 2023 (arXiv:2305.20050), soft ones as in Wang et al. 2024
    (Math-Shepherd, arXiv:2312.08935, section 3.3).

    >>> step_loss(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 0.5]))
    tensor([0.6931, 0.8133])
    """
    if logits_SC.shape[-1] == 1:
        return F.binary_cross_entropy_with_logits(logits_SC.squeeze(-1), labels_S, reduction="none")
    log_probs_SC = F.log_softmax(logits_SC, dim=-1)
    return -(labels_S * log_probs_SC[:, 1] + (1 - labels_S) * log_probs_SC[:, 0])


def class_weights_S(labels_S: torch.Tensor, weights: tuple[float, float]) -> torch.Tensor:
    """Weight of each step, shape (S,): `y w_right + (1 - y) w_wrong`, `weights` = (w_wrong, w_right).

    >>> class_weights_S(torch.tensor([0.0, 1.0, 0.5]), (3.0, 1.0))
    tensor([3., 1., 2.])
    """
    wrong, right = weights
    return labels_S * right + (1 - labels_S) * wrong


@_of_steps("pqm", rows=("stepwise",), expand=to_step_ranks, labels="hard", options={"margin": PQM_MARGIN})
def pqm_loss(values_S: torch.Tensor, labels_S: torch.Tensor, rows_S: torch.Tensor, *, margin: float) -> torch.Tensor:
    """Ranks the steps of each solution: shape (S,), its sum over the steps of a row is the loss of the row.

    Li and Li 2024 (PQM, arXiv:2410.11287, eq. 10; `margin` is zeta). With Q_0 = 0 before the first step, mean over
    t = 0 and the right steps t of

        log(sum of exp(Q_q), q = 0 and the right steps up to t, + sum of exp(Q_w + margin), w wrong) - Q_t

    Values are logits of "right"; labels are 1 (right; a soft label from 0.5 on) or 0; `rows_S` ascend, numbers may be
    missing. The term t = 0 stands at the row's first step. It is 0 where no step is wrong, and counts nevertheless
    (the authors' code leaves it out of the mean there). Memory goes with S^2.

    >>> pqm_loss(torch.zeros(3), torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 2]), margin=0.0)  # ln(6)/2, ln(2)/2
    tensor([0.8959, 0.0000, 0.3466])
    """
    same_SS, right_S = rows_S[:, None] == rows_S, labels_S >= 0.5
    wrong_SS, right_SS = same_SS & ~right_S, same_SS & right_S
    raised_S = torch.where(right_S, values_S, values_S + margin)
    starts_S = _log_one_plus_sum_exp(raised_S, wrong_SS)
    terms_S = _log_one_plus_sum_exp(raised_S, wrong_SS | right_SS.tril()) - values_S
    first_S = rows_S.diff(prepend=rows_S.new_full((1,), -1)) != 0
    return (starts_S * first_S + terms_S * right_S) / (1 + right_SS.sum(dim=-1))


def _log_one_plus_sum_exp(values_S: torch.Tensor, mask_SS: torch.Tensor) -> torch.Tensor:
    """`log(1 + sum over q of mask[t, q] exp(values[q]))` for each t, shape (S,)."""
    masked_SS = values_S.expand(mask_SS.shape).masked_fill(~mask_SS, -math.inf)
    return F.pad(masked_SS, (1, 0)).logsumexp(dim=-1)


@_of_steps("min_form", rows=("stepwise", "outcome"), expand=to_outcomes)
def min_form_loss(values_S: torch.Tensor, outcomes_S: torch.Tensor, rows_S: torch.Tensor) -> torch.Tensor:
    """A solution is right if its worst step is: cross-entropy of the least logit of each row with the outcome.

    Shape (S,): the loss of a row at the first step with its least value, 0 at the others, so that no other step learns.
    The minimum over steps is that of PURE (Cheng et al. 2025, arXiv:2504.15275); learning what the steps are from the
    outcome alone is multiple-instance learning (Dietterich et al. 1997). Values are logits of "right"; the outcome, in
    [0, 1], stands on each step of its row; `rows_S` ascend, numbers may be missing. Memory goes with S^2.

    >>> min_form_loss(torch.tensor([2.0, 0.0, 2.0]), torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0, 0, 2]))
    tensor([0.0000, 0.6931, 0.1269])
    """
    less_SS = values_S < values_S[:, None]
    earlier_SS = (values_S == values_S[:, None]).tril(-1)  # as little, and before
    beaten_S = ((rows_S[:, None] == rows_S) & (less_SS | earlier_SS)).any(dim=-1)
    losses_S = F.binary_cross_entropy_with_logits(values_S, outcomes_S.to(values_S.dtype), reduction="none")
    return losses_S.masked_fill(beaten_S, 0.0)
