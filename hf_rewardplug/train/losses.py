"""The losses: rewards or logits at the score positions in, one loss an item out.

    N pairs, S scored steps, C labels of the head (1 or 2)

The trainers sum them and divide by the items of the whole optimizer step (all micro-batches, all ranks), so a loss is
never averaged here.
"""

import torch
import torch.nn.functional as F


def bradley_terry_loss(
    chosen_N: torch.Tensor,
    rejected_N: torch.Tensor,
    *,
    margin_N: torch.Tensor | None = None,
    center_rewards_coefficient: float | None = None,
) -> torch.Tensor:
    """`-log sigmoid(chosen - rejected - margin) + coefficient * (chosen + rejected)^2`, shape (N,).

    Ouyang et al. 2022 (arXiv:2203.02155, eq. 1); the margin of Llama 2 (arXiv:2307.09288, eq. 2); the centering term
    of Eisenstein et al. 2023 (arXiv:2312.09244, eq. 2).

    >>> bradley_terry_loss(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 0.0]))
    tensor([0.6931, 0.1269])
    """
    margins_N = chosen_N - rejected_N
    losses_N = -F.logsigmoid(margins_N if margin_N is None else margins_N - margin_N)
    if center_rewards_coefficient is not None:
        losses_N = losses_N + center_rewards_coefficient * (chosen_N + rejected_N) ** 2
    return losses_N


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
