"""Losses of scores: N ranked lists or N completions in, a loss each out, shape (N,).

A ranked list has rewards and scores (N, K), K completions of the longest list: a higher score is better, and NaN stands
where a list is shorter. A completion has outputs and scores (N, A) of A attributes, NaN where nobody rated.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from ...data.expansion import to_lists, to_scored
from .declaration import Option, declared

ATTRIBUTES = Option("attributes", None, "Names of the scores that each completion has; one output of the head each")
ATTRIBUTE_WEIGHTS = Option(
    "attribute_weights", None, "Weights of the attributes' sum at scoring; all alike when not set"
)
HUBER_DELTA = Option(
    "huber_delta",
    1.0,
    "Error beyond which the loss is linear",
    holds=lambda delta: 0 < delta < math.inf,
    expected="a number above 0",
)

_of_lists = partial(declared, form="lists", rows=("preference", "ranked"), expand=to_lists)
_of_completions = partial(
    declared,
    form="completions",
    rows=("scored", "ranked"),
    expand=to_scored,
    read_beside=(ATTRIBUTES, ATTRIBUTE_WEIGHTS),
)


# ---- ranked lists ----------------------------------------------------------------------------------------------------


@_of_lists("plackett_luce")
def plackett_luce_loss(rewards_NK: torch.Tensor, scores_NK: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each ranking, shape (N,); a higher score is better, NaN is no completion.

        sum over i of  logsumexp(r_i and every r_j with score_j < score_i) - r_i

    Plackett 1975, Luce 1959; ListMLE of Xia et al. 2008. Completions with the same score are not compared with each
    other: a tie says nothing. Without ties it is Plackett-Luce, and for two completions Bradley-Terry.

    >>> nan = float("nan")
    >>> plackett_luce_loss(torch.zeros(2, 3), torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, nan]]))  # log 6, nothing
    tensor([1.7918, 0.0000])
    """
    itself_KK = torch.eye(rewards_NK.shape[1], dtype=torch.bool, device=rewards_NK.device)
    below_NKK = (scores_NK[:, None, :] < scores_NK[:, :, None]) | itself_KK  # with NaN: itself alone, which gives 0
    rivals_NKK = rewards_NK[:, None, :].masked_fill(~below_NKK, -math.inf)
    return (rivals_NKK.logsumexp(dim=-1) - rewards_NK).sum(dim=-1)


@_of_lists("all_pairs")
def all_pairs_loss(rewards_NK: torch.Tensor, scores_NK: torch.Tensor) -> torch.Tensor:
    """Mean of `-log sigmoid(r_better - r_worse)` over each list's pairs with different scores, shape (N,).

    Ouyang et al. 2022 (arXiv:2203.02155, eq. 1). A higher score is better, NaN is no completion; 0 where no two differ.

    >>> all_pairs_loss(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[1.0, 1.0, 3.0]]))
    tensor([0.1269])
    """
    better_NKK = scores_NK[:, :, None] > scores_NK[:, None, :]
    losses_NKK = -F.logsigmoid(rewards_NK[:, :, None] - rewards_NK[:, None, :])
    return _mean_where(better_NKK.flatten(1), losses_NKK.flatten(1))


def _mean_where(mask_NX: torch.Tensor, losses_NX: torch.Tensor) -> torch.Tensor:
    """Mean of each row where the mask is true, 0 where it is true nowhere."""
    return losses_NX.masked_fill(~mask_NX, 0.0).sum(dim=-1) / mask_NX.sum(dim=-1).clamp(min=1)


# ---- scored completions ----------------------------------------------------------------------------------------------


@_of_completions("mse")
def squared_error_loss(rewards_NA: torch.Tensor, targets_NA: torch.Tensor) -> torch.Tensor:
    """Mean of `(reward - target)^2` over the rated attributes of each completion, shape (N,); 0 without any.

    Wang et al. 2024 (HelpSteer2, arXiv:2406.08673). A target of NaN is not rated.

    >>> squared_error_loss(torch.tensor([[1.0, 5.0], [0.0, 2.0]]), torch.tensor([[3.0, float("nan")], [1.0, 0.0]]))
    tensor([4.0000, 2.5000])
    """
    return _mean_of_rated(F.mse_loss, rewards_NA, targets_NA)


@_of_completions("huber", options={"delta": HUBER_DELTA})
def huber_loss(rewards_NA: torch.Tensor, targets_NA: torch.Tensor, *, delta: float) -> torch.Tensor:
    """As `squared_error_loss`, of `e^2 / 2` where `|e| = |reward - target| <= delta`, else `delta (|e| - delta / 2)`.

    Huber 1964, `torch.nn.HuberLoss`. `delta` > 0 has the unit of the targets.

    >>> huber_loss(torch.tensor([[1.0], [5.0]]), torch.zeros(2, 1), delta=2.0)
    tensor([0.5000, 8.0000])
    """
    return _mean_of_rated(F.huber_loss, rewards_NA, targets_NA, delta=delta)


@_of_completions("bce", labels="shares", expand=partial(to_scored, graded=True))
def binary_cross_entropy_loss(logits_NA: torch.Tensor, targets_NA: torch.Tensor) -> torch.Tensor:
    """Mean of `-(y log sigmoid(x) + (1 - y) log sigmoid(-x))` over the rated attributes, shape (N,); 0 without any.

    Targets y in [0, 1]: an outcome, or a graded one (the share of tests passed). A target of NaN is not rated.

    >>> binary_cross_entropy_loss(torch.tensor([[0.0], [2.0]]), torch.tensor([[0.3], [1.0]]))
    tensor([0.6931, 0.1269])
    """
    return _mean_of_rated(F.binary_cross_entropy_with_logits, logits_NA, targets_NA)


def _mean_of_rated(loss: Callable, rewards_NA: torch.Tensor, targets_NA: torch.Tensor, **options) -> torch.Tensor:
    unrated_NA = targets_NA.isnan()
    targets_NA = targets_NA.masked_fill(unrated_NA, 0.0).to(rewards_NA.dtype)
    return _mean_where(~unrated_NA, loss(rewards_NA, targets_NA, reduction="none", **options))
