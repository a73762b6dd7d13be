"""The losses: rewards or logits at the score positions in, one loss an item out.

    N  pairs, ranked lists or scored completions          A  attributes that a completion is scored for
    K  completions of the longest list                    C  labels of the head (1 or 2)
    S  scored steps of all solutions, one row after the other

    pairs (N,)                 bradley_terry_loss, log_exp_loss, hinge_loss, rao_kupper_loss; plus centering_loss
    ranked lists (N, K)        plackett_luce_loss, all_pairs_loss; the score is NaN where a list is shorter than K
    scored completions (N, A)  squared_error_loss, huber_loss, binary_cross_entropy_loss; NaN where nobody rated
    steps (S,)                 step_loss, pqm_loss, min_form_loss; times class_weights_S where wanted

The trainers sum them and divide by the items of the whole optimizer step (all micro-batches, all ranks), so a loss is
never averaged here. All are finite, and so are their gradients, for every finite reward that can be subtracted (and,
for squares, squared) in its dtype. Nothing here waits for the device.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

# ---- pairs -----------------------------------------------------------------------------------------------------------


def bradley_terry_loss(
    chosen_N: torch.Tensor,
    rejected_N: torch.Tensor,
    *,
    margin_N: torch.Tensor | None = None,
    center_rewards_coefficient: float | None = None,
    label_smoothing: float = 0.0,
    probability_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """`-log sigmoid(chosen - rejected - margin) + coefficient * (chosen + rejected)^2`, shape (N,).

    Ouyang et al. 2022 (arXiv:2203.02155, eq. 1); the margin of Llama 2 (arXiv:2307.09288, eq. 2); the centering term
    of Eisenstein et al. 2023 (arXiv:2312.09244, eq. 2).

    With `probability_N`, p in [0, 1] that chosen is the better one: `-p log sigmoid(z) - (1 - p) log sigmoid(-z)`,
    z = chosen - rejected - margin. `label_smoothing`, the share e of flipped labels, takes p (1 without
    `probability_N`) to p (1 - e) + (1 - p) e: Mitchell 2023 (cDPO), `trl.DPOConfig.label_smoothing`.

    >>> bradley_terry_loss(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 0.0]))
    tensor([0.6931, 0.1269])
    >>> bradley_terry_loss(torch.tensor([2.0, 2.0]), torch.zeros(2), probability_N=torch.tensor([1.0, 0.5]))
    tensor([0.1269, 1.1269])
    """
    margins_N = chosen_N - rejected_N
    if margin_N is not None:
        margins_N = margins_N - margin_N
    losses_N = -F.logsigmoid(margins_N)
    if label_smoothing or probability_N is not None:
        probability_N = 1.0 if probability_N is None else probability_N
        flipped_N = (1 - probability_N) * (1 - label_smoothing) + probability_N * label_smoothing
        losses_N = (1 - flipped_N) * losses_N - flipped_N * F.logsigmoid(-margins_N)
    if center_rewards_coefficient is not None:
        losses_N = losses_N + centering_loss(chosen_N, rejected_N, center_rewards_coefficient)
    return losses_N


def centering_loss(chosen_N: torch.Tensor, rejected_N: torch.Tensor, coefficient: float) -> torch.Tensor:
    """`coefficient * (chosen + rejected)^2`, shape (N,): keeps the rewards' mean at 0, which a pair says nothing about.

    Eisenstein et al. 2023 (arXiv:2312.09244, eq. 2). Added to another loss.

    >>> centering_loss(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 1.0]), 0.01)
    tensor([0.0000, 0.0900])
    """
    return coefficient * (chosen_N + rejected_N) ** 2


def log_exp_loss(
    chosen_N: torch.Tensor,
    rejected_N: torch.Tensor,
    *,
    margin_N: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    probability_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """`log(1 + exp(rejected - chosen + margin))`, shape (N,): `bradley_terry_loss` under OpenRLHF's name, "LogExpLoss".

    Bai et al. 2022 (arXiv:2204.05862). It is `-log sigmoid(chosen - rejected - margin)` written otherwise, so the code
    is the same, and finite where the formula as written overflows.

    >>> log_exp_loss(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 2.0]))
    tensor([0.6931, 2.1269])
    """
    return bradley_terry_loss(
        chosen_N, rejected_N, margin_N=margin_N, label_smoothing=label_smoothing, probability_N=probability_N
    )


def hinge_loss(
    chosen_N: torch.Tensor, rejected_N: torch.Tensor, *, margin_N: torch.Tensor | None = None
) -> torch.Tensor:
    """`max(0, margin - (chosen - rejected))`, shape (N,); the margin is 1 where none is given.

    Joachims 2002 (RankSVM); Zhao et al. 2023 (SLiC-HF, arXiv:2305.10425).

    >>> hinge_loss(torch.tensor([0.0, 0.5, 3.0]), torch.zeros(3))
    tensor([1.0000, 0.5000, 0.0000])
    """
    return F.relu((1.0 if margin_N is None else margin_N) - (chosen_N - rejected_N))


def rao_kupper_loss(
    chosen_N: torch.Tensor, rejected_N: torch.Tensor, tie_N: torch.Tensor, *, threshold: float
) -> torch.Tensor:
    """`-log P(tie)` where `tie_N` (bool) is true, else `-log P(chosen is better)`, shape (N,).

    Rao and Kupper 1967, the Bradley-Terry model with ties of Liu et al. 2024 (arXiv:2410.05328). With
    d = chosen - rejected and `threshold` h > 0 (the theta of Rao and Kupper is exp(h)):

        P(chosen) = sigmoid(d - h), P(rejected) = sigmoid(-d - h), P(tie) = (exp(2 h) - 1) P(chosen) P(rejected)

    >>> rao_kupper_loss(torch.zeros(2), torch.zeros(2), torch.tensor([False, True]), threshold=math.log(2))  # log 3
    tensor([1.0986, 1.0986])
    """
    log_better_N, log_tie_N, _ = _rao_kupper_log_probabilities(chosen_N - rejected_N, threshold)
    return -torch.where(tie_N, log_tie_N, log_better_N)


def rao_kupper_probabilities(difference_N: torch.Tensor, threshold: float) -> torch.Tensor:
    """Probabilities (N, 3) that chosen is better, of a tie, and that rejected is; see `rao_kupper_loss`.

    `difference_N`: reward of chosen minus reward of rejected.

    >>> rao_kupper_probabilities(torch.tensor([0.0]), math.log(2))
    tensor([[0.3333, 0.3333, 0.3333]])
    """
    return torch.stack(_rao_kupper_log_probabilities(difference_N, threshold), dim=-1).exp()


def _rao_kupper_log_probabilities(difference_N: torch.Tensor, threshold: float) -> tuple[torch.Tensor, ...]:
    if not threshold > 0:
        raise ValueError(f"threshold={threshold!r} leaves no ties; expected a number above 0, or `bradley_terry_loss`.")
    log_chosen_N, log_rejected_N = F.logsigmoid(difference_N - threshold), F.logsigmoid(-difference_N - threshold)
    log_scale = 2 * threshold + math.log(-math.expm1(-2 * threshold))  # log(exp(2 h) - 1) without overflow
    return log_chosen_N, log_scale + log_chosen_N + log_rejected_N, log_rejected_N


# ---- ranked lists ----------------------------------------------------------------------------------------------------


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


def squared_error_loss(rewards_NA: torch.Tensor, targets_NA: torch.Tensor) -> torch.Tensor:
    """Mean of `(reward - target)^2` over the rated attributes of each completion, shape (N,); 0 without any.

    Wang et al. 2024 (HelpSteer2, arXiv:2406.08673). A target of NaN is not rated.

    >>> squared_error_loss(torch.tensor([[1.0, 5.0], [0.0, 2.0]]), torch.tensor([[3.0, float("nan")], [1.0, 0.0]]))
    tensor([4.0000, 2.5000])
    """
    return _mean_of_rated(F.mse_loss, rewards_NA, targets_NA)


def huber_loss(rewards_NA: torch.Tensor, targets_NA: torch.Tensor, *, delta: float) -> torch.Tensor:
    """As `squared_error_loss`, of `e^2 / 2` where `|e| = |reward - target| <= delta`, else `delta (|e| - delta / 2)`.

    Huber 1964, `torch.nn.HuberLoss`. `delta` > 0 has the unit of the targets.

    >>> huber_loss(torch.tensor([[1.0], [5.0]]), torch.zeros(2, 1), delta=2.0)
    tensor([0.5000, 8.0000])
    """
    return _mean_of_rated(F.huber_loss, rewards_NA, targets_NA, delta=delta)


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


# ---- steps -----------------------------------------------------------------------------------------------------------


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
