"""Losses of pairs: the rewards of N chosen and of N rejected completions in, a loss a pair out, shape (N,)."""

import math
from functools import partial

import torch
import torch.nn.functional as F

from ...data.expansion import to_pairs
from .declaration import Option, declared

LABEL_SMOOTHING = Option(
    "label_smoothing",
    0.0,
    "Probability that a pair's label is flipped",
    holds=lambda share: 0 <= share < 0.5,
    expected="a number in [0, 0.5)",
)
CENTERING = Option(
    "center_rewards_coefficient",
    None,
    "Weight of a term that keeps the rewards' mean at 0",
    holds=math.isfinite,
    expected="a finite number, or None",
)
TIE_THRESHOLD = Option(
    "tie_threshold",
    1.0,
    "Difference of rewards at which better is as likely as not",
    holds=lambda threshold: 0 < threshold < math.inf,
    expected="a number above 0",
)

_of_pairs = partial(declared, form="pairs", rows=("preference", "ranked"), expand=to_pairs, read_beside=(CENTERING,))
_SOFT = {"margin": "margin_N", "chosen_probability": "probability_N"}
_SMOOTHED = {"label_smoothing": LABEL_SMOOTHING}


@_of_pairs("bradley_terry", columns=_SOFT, options=_SMOOTHED)
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


@_of_pairs("log_exp", columns=_SOFT, options=_SMOOTHED)
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


@_of_pairs("hinge", columns={"margin": "margin_N"})
def hinge_loss(
    chosen_N: torch.Tensor, rejected_N: torch.Tensor, *, margin_N: torch.Tensor | None = None
) -> torch.Tensor:
    """`max(0, margin - (chosen - rejected))`, shape (N,); the margin is 1 where none is given.

    Joachims 2002 (RankSVM); Zhao et al. 2023 (SLiC-HF, arXiv:2305.10425).

    >>> hinge_loss(torch.tensor([0.0, 0.5, 3.0]), torch.zeros(3))
    tensor([1.0000, 0.5000, 0.0000])
    """
    return F.relu((1.0 if margin_N is None else margin_N) - (chosen_N - rejected_N))


@_of_pairs(
    "rao_kupper",
    columns={"tie": "tie_N"},
    options={"threshold": TIE_THRESHOLD},
    expand=partial(to_pairs, ties=True),
)
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
