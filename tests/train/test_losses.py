"""Every loss against hand-derived literals, autograd of its textbook definition (slow twins), torch, and other losses.

CASES hold each loss as a function of one tensor of rewards, and its twin: a loop over items that says the formula as
the paper does, without a thought for overflow.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from hf_rewardplug.model.head import step_probabilities
from hf_rewardplug.train.losses.pairs import (
    bradley_terry_loss,
    centering_loss,
    hinge_loss,
    log_exp_loss,
    rao_kupper_loss,
    rao_kupper_probabilities,
)
from hf_rewardplug.train.losses.scores import (
    all_pairs_loss,
    binary_cross_entropy_loss,
    huber_loss,
    plackett_luce_loss,
    squared_error_loss,
)
from hf_rewardplug.train.losses.steps import class_weights_S, min_form_loss, pqm_loss, step_loss

LN2, LN3, LN5 = math.log(2), math.log(3), math.log(5)
NAN = float("nan")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ---- slow twins: an item's loss from its rewards as the textbook writes it -----------------------------------------

MARGIN, PROBABILITY = numbers(7, seed=1), torch.tensor([0.0, 1.0, 0.5, 0.9, 0.3, 0.05, 0.7]).double()
TIE = torch.tensor([True, False, True, False, False, True, False])
SCORES = torch.tensor([[3, 1, 2, 0], [0, 5, NAN, 2], [1, 1, 3, 0], [2, 2, 2, NAN], [NAN, 7, NAN, NAN]]).double()
TARGETS = torch.tensor([[0.0, 1.0, 0.3], [NAN, 0.5, 1.0], [0.2, NAN, NAN], [NAN, NAN, NAN]]).double()
# solutions: right right wrong right wrong | wrong | right right | wrong right
LABELS, ROWS = torch.tensor([1, 1, 0, 1, 0, 0, 1, 1, 0, 1]).double(), torch.tensor([0, 0, 0, 0, 0, 2, 3, 3, 7, 7])
OUTCOMES = torch.tensor([1.0, 0.0, 0.25, 1.0])[torch.tensor([0, 0, 0, 0, 0, 1, 2, 2, 3, 3])].double()
SOLUTIONS = [slice(0, 5), slice(5, 6), slice(6, 8), slice(8, 10)]


def slow_bradley_terry(x, n):
    return -(x[0].exp() / (x[0].exp() + x[1].exp())).log()


def slow_soft_pair(x, n):
    p, win = 0.9 * PROBABILITY[n] + 0.1 * (1 - PROBABILITY[n]), torch.sigmoid(x[0] - x[1] - MARGIN[n])
    return -p * win.log() - (1 - p) * (1 - win).log()


def slow_rao_kupper(x, n):
    theta, (better, worse) = math.exp(0.7), x.exp()
    tie = (theta**2 - 1) * better * worse / ((better + theta * worse) * (worse + theta * better))
    return -(tie if TIE[n] else better / (better + theta * worse)).log()


def slow_plackett_luce(x, n):
    loss = 0 * x.sum()
    for i, j in enumerate(SCORES[n]):
        loss = loss - (x[i].exp() / (x[i].exp() + sum(x[k].exp() for k, s in enumerate(SCORES[n]) if s < j))).log()
    return loss


def slow_all_pairs(x, n):
    pairs = [(i, j) for i, j in itertools.permutations(range(4), 2) if SCORES[n, i] > SCORES[n, j]]
    return sum((-torch.sigmoid(x[i] - x[j]).log() for i, j in pairs), 0 * x.sum()) / max(len(pairs), 1)


def slow_rated(error):
    def of_row(x, n):
        rated = [error(value, target) for value, target in zip(x, TARGETS[n], strict=True) if not target.isnan()]
        return sum(rated, 0 * x.sum()) / max(len(rated), 1)

    return of_row


def slow_huber(value, target):
    error = (value - target).abs()
    return error**2 / 2 if error <= 1.5 else 1.5 * (error - 0.75)


def slow_cross_entropy(value, target):
    return -(target * torch.sigmoid(value).log() + (1 - target) * (1 - torch.sigmoid(value)).log())


def slow_step(x, n):
    right = x.exp()[-1] / x.exp().sum() if len(x) == 2 else torch.sigmoid(x[0])
    return -(PROBABILITY[n] * right.log() + (1 - PROBABILITY[n]) * (1 - right).log())


def slow_pqm(x, n):
    labels = LABELS[SOLUTIONS[n]].tolist()
    right = [x.new_zeros(()), *(value for value, label in zip(x, labels, strict=True) if label)]
    wrong = sum((value + 4).exp() for value, label in zip(x, labels, strict=True) if not label)
    terms = [-(q.exp() / (sum(p.exp() for p in right[: t + 1]) + wrong)).log() for t, q in enumerate(right)]
    return sum(terms) / len(terms)


def slow_min_form(x, n):
    return slow_cross_entropy(min(x), OUTCOMES[SOLUTIONS[n]][0])


# ---- the cases -----------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    shape: tuple[int, ...]
    loss: Callable  # rewards of `shape`, or of its first items -> a loss each; of steps, the sums of the solutions
    slow: Callable  # (rewards of one item, its number) -> its loss


def pairs(loss: Callable, slow: Callable, **options) -> Case:
    def of_pairs(x):
        tensors = {key: value[: len(x)].to(x) for key, value in options.items() if isinstance(value, torch.Tensor)}
        return loss(*x.unbind(1), **options | tensors)

    return Case((7, 2), of_pairs, slow)


def rows(loss: Callable, slow: Callable, given: torch.Tensor, **options) -> Case:
    return Case(tuple(given.shape), lambda x: loss(x, given[: len(x)].to(x.device), **options), slow)


def steps(loss: Callable, slow: Callable, given: torch.Tensor, **options) -> Case:
    def of_solutions(x):
        of_steps, solutions = given[: len(x)].to(x.device), ROWS[: len(x)].to(x.device)
        losses = loss(x, of_steps, solutions, **options)
        return losses.new_zeros(8).index_add(0, solutions, losses)[[0, 2, 3, 7]]

    return Case((10,), of_solutions, slow)


SOFT = {"margin_N": MARGIN, "probability_N": PROBABILITY, "label_smoothing": 0.1}
CASES = {
    "bradley_terry": pairs(bradley_terry_loss, slow_bradley_terry),
    "bradley_terry, soft": pairs(bradley_terry_loss, slow_soft_pair, **SOFT),
    "bradley_terry, centred": pairs(
        bradley_terry_loss,
        lambda x, n: slow_bradley_terry(x, n) + 0.01 * (x[0] + x[1]) ** 2,
        center_rewards_coefficient=0.01,
    ),
    "log_exp": pairs(log_exp_loss, lambda x, n: (1 + (x[1] - x[0]).exp()).log()),
    "log_exp, soft": pairs(log_exp_loss, slow_soft_pair, **SOFT),
    "centering": pairs(centering_loss, lambda x, n: 0.01 * (x[0] + x[1]) ** 2, coefficient=0.01),
    "hinge": pairs(hinge_loss, lambda x, n: max(0 * x[0], 1 - x[0] + x[1])),
    "hinge, margin": pairs(hinge_loss, lambda x, n: max(0 * x[0], MARGIN[n] - x[0] + x[1]), margin_N=MARGIN),
    "rao_kupper": Case(
        (7, 2), lambda x: rao_kupper_loss(*x.T, TIE[: len(x)].to(x.device), threshold=0.7), slow_rao_kupper
    ),
    "plackett_luce": rows(plackett_luce_loss, slow_plackett_luce, SCORES),
    "all_pairs": rows(all_pairs_loss, slow_all_pairs, SCORES),
    "squared_error": rows(squared_error_loss, slow_rated(lambda x, y: (x - y) ** 2), TARGETS),
    "huber": rows(huber_loss, slow_rated(slow_huber), TARGETS, delta=1.5),
    "binary_cross_entropy": rows(binary_cross_entropy_loss, slow_rated(slow_cross_entropy), TARGETS),
    "step, two labels": Case((7, 2), lambda x: step_loss(x, PROBABILITY[: len(x)].to(x)), slow_step),
    "step, one label": Case((7, 1), lambda x: step_loss(x, PROBABILITY[: len(x)].to(x)), slow_step),
    "pqm": steps(pqm_loss, slow_pqm, LABELS, margin=4.0),
    "min_form": steps(min_form_loss, slow_min_form, OUTCOMES),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every_case
def test_values_and_gradients_are_those_of_the_definition(case):
    x = numbers(*case.shape).requires_grad_()
    of_items = [x[solution] for solution in SOLUTIONS] if case.shape == (10,) else x
    ours, truth = case.loss(x), torch.stack([case.slow(item, n) for n, item in enumerate(of_items)])
    torch.testing.assert_close(ours, truth)
    weights = numbers(len(truth), seed=2)  # another for each item, so that none can stand in for another
    torch.testing.assert_close(*(torch.autograd.grad((weights * losses).sum(), x)[0] for losses in (ours, truth)))


@every_case
def test_gradients_are_those_of_finite_differences(case):
    assert torch.autograd.gradcheck(case.loss, numbers(*case.shape).requires_grad_())


@every_case
@pytest.mark.parametrize("seed", range(8))
def test_far_rewards_give_finite_losses_and_gradients(case, seed):
    signs = numbers(*case.shape, seed=seed).sign() if seed > 1 else torch.full(case.shape, 2.0 * seed - 1)
    x = (1e4 * signs).float().requires_grad_()
    losses = case.loss(x)
    losses.sum().backward()
    assert losses.dtype == torch.float32
    assert losses.isfinite().all() and x.grad.isfinite().all()


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(case, dtype):
    x = numbers(*case.shape).to(dtype)
    torch.testing.assert_close(case.loss(x).double(), case.loss(x.double()), rtol=0.03, atol=0.03)


@every_case
def test_no_value_is_read(case):
    losses = case.loss(torch.zeros(case.shape, device="meta"))  # which has none, and so nothing to wait for
    assert losses.is_meta and losses.ndim == 1


@every_case
def test_a_batch_without_items(case):
    x = torch.zeros(0, *case.shape[1:], requires_grad=True)
    losses = case.loss(x)
    losses.sum().backward()
    assert losses.sum() == 0 and x.grad.shape == x.shape


# ---- by hand -------------------------------------------------------------------------------------------------------


def tensor(*values: float | list) -> torch.Tensor:
    return torch.tensor(values)


def test_bradley_terry_by_hand():
    chosen, rejected = tensor(0.0, 3.0), tensor(0.0, 1.0)
    expected = [LN2, math.log1p(math.exp(-2))]
    assert bradley_terry_loss(chosen, rejected).tolist() == pytest.approx(expected)
    with_margin = bradley_terry_loss(chosen, rejected, margin_N=tensor(1.0, 2.0)).tolist()
    assert with_margin == pytest.approx([math.log1p(math.e), LN2])
    centred = bradley_terry_loss(chosen, rejected, center_rewards_coefficient=0.01).tolist()
    assert centred == pytest.approx([expected[0], expected[1] + 0.16])


# Rewards of log 2 and log 4 make odds of 2 to 1 and 4 to 1: a probability of 2/3, 4/5.
BY_HAND = {
    # the win has 2/3, said to be so with 3/4 and not with 1/4
    "soft pair": (bradley_terry_loss, (tensor(LN2), tensor(0.0)), {"probability_N": tensor(0.75)}, [LN3 - 0.75 * LN2]),
    # one label in four is flipped, which says the same
    "smoothed pair": (bradley_terry_loss, (tensor(LN2), tensor(0.0)), {"label_smoothing": 0.25}, [LN3 - 0.75 * LN2]),
    # 3/4 of 1 - 1/4, and 1/4 of 1/4: 10/16
    "both": (
        bradley_terry_loss,
        (tensor(LN2), tensor(0.0)),
        {"probability_N": tensor(0.75), "label_smoothing": 0.25},
        [LN3 - 0.625 * LN2],
    ),
    # log(1 + 2), log(1 + 1/2)
    "log_exp": (log_exp_loss, (tensor(0.0, LN2), tensor(LN2, 0.0)), {}, [LN3, LN3 - LN2]),
    "centering": (centering_loss, (tensor(1.0, 2.0), tensor(2.0, -2.0), 0.5), {}, [4.5, 0.0]),
    "hinge": (hinge_loss, (tensor(0.0, 2.0, -1.0), tensor(0.0, 0.0, 1.0)), {}, [1.0, 0.0, 3.0]),
    "hinge, margin": (hinge_loss, (tensor(1.0, 1.0), tensor(0.0, 0.0)), {"margin_N": tensor(3.0, 0.5)}, [2.0, 0.0]),
    # theta = 2: P(better) = 2 / (2 + 2) = 1/2 and P(tie) = (4 - 1) 2 / ((2 + 2) (1 + 4)) = 3/10
    "rao_kupper": (
        rao_kupper_loss,
        (tensor(LN2, LN2), tensor(0.0, 0.0), torch.tensor([False, True])),
        {"threshold": LN2},
        [LN2, math.log(10 / 3)],
    ),
    # odds 1 : 2 : 4; the 2 of all (2/7), then the 4 of two (4/5); and: a tie of the first two, each before the last
    "plackett_luce": (
        plackett_luce_loss,
        (tensor([0.0, LN2, 2 * LN2], [0.0, LN2, 2 * LN2]), tensor([0.0, 9.0, 5.0], [1.0, 1.0, 0.0])),
        {},
        [math.log(7 / 2) + math.log(5 / 4), LN5 + LN3],
    ),
    # the pairs 2 : 1, 2 : 4, 4 : 1; and: 1 : 4 and 2 : 4, which lose
    "all_pairs": (
        all_pairs_loss,
        (tensor([0.0, LN2, 2 * LN2], [0.0, LN2, 2 * LN2]), tensor([0.0, 9.0, 5.0], [1.0, 1.0, 0.0])),
        {},
        [(math.log(3 / 2) + LN3 + math.log(5 / 4)) / 3, (LN5 + LN3) / 2],
    ),
    "squared_error": (squared_error_loss, (tensor([1.0, 9.0], [1.0, 2.0]), tensor([3.0, NAN], [0.0, 5.0])), {}, [4, 5]),
    # 1/2 1^2 within delta = 2; 2 (3 - 1) beyond
    "huber": (huber_loss, (tensor([1.0, 3.0], [9.0, 0.0]), torch.zeros(2, 2)), {"delta": 2.0}, [2.25, 8.0]),
    # p = 2/3 against 1, against 0, against 1/4
    "binary_cross_entropy": (
        binary_cross_entropy_loss,
        (tensor([LN2], [LN2], [LN2]), tensor([1.0], [0.0], [0.25])),
        {},
        [LN3 - LN2, LN3, LN3 - LN2 / 4],
    ),
    # odds 1 (before), 2 right, 4 wrong, 8 right: (1/5) (2/7) (8/15)
    "pqm": (
        pqm_loss,
        (tensor(LN2, 2 * LN2, 3 * LN2), tensor(1.0, 0.0, 1.0), torch.tensor([0, 0, 0])),
        {"margin": 0.0},
        [(LN5 + math.log(7 / 2)) / 3, 0.0, math.log(15 / 8) / 3],
    ),
    # a wrong step alone, which the margin takes from 1 to 2: 1/3
    "pqm, margin": (pqm_loss, (tensor(0.0), tensor(0.0), torch.tensor([4])), {"margin": LN2}, [LN3]),
    # right steps alone, odds 1, 2, 4: (1/1) (2/3) (4/7)
    "pqm, all right": (
        pqm_loss,
        (tensor(LN2, 2 * LN2), tensor(1.0, 0.8), torch.tensor([1, 1])),
        {"margin": 4.0},
        [math.log(3 / 2) / 3, math.log(7 / 4) / 3],
    ),
    # the worst of the first has 1/3, of the second (its first of two) 2/3
    "min_form": (
        min_form_loss,
        (tensor(0.0, -LN2, LN2, LN2), tensor(1.0, 1.0, 0.0, 0.0), torch.tensor([0, 0, 5, 5])),
        {},
        [0.0, LN3, LN3, 0.0],
    ),
    "class_weights": (class_weights_S, (tensor(0.0, 1.0, 0.25), (4.0, 2.0)), {}, [4.0, 2.0, 3.5]),
}


@pytest.mark.parametrize("loss, inputs, options, expected", BY_HAND.values(), ids=BY_HAND)
def test_by_hand(loss, inputs, options, expected):
    assert loss(*inputs, **options).tolist() == pytest.approx(expected, abs=1e-6)


FAR = {
    "bradley_terry": (bradley_terry_loss, (tensor(-1e4, 1e4), tensor(1e4, -1e4)), {}, [2e4, 0]),
    "soft pair": (bradley_terry_loss, (tensor(-1e4), tensor(1e4)), {"probability_N": tensor(0.25)}, [5e3]),
    "hinge": (hinge_loss, (tensor(-1e4, 1e4), tensor(1e4, -1e4)), {}, [20001, 0]),
    # a tie of far rewards: (exp(2 h) - 1) exp(-2e4 - h), and exp(2 h) - 1 = 3, exp(h) = 2
    "rao_kupper": (
        rao_kupper_loss,
        (tensor(1e4, -1e4), tensor(-1e4, 1e4), torch.tensor([True, False])),
        {"threshold": LN2},
        [2e4 + LN2 - LN3, 2e4 + LN2],
    ),
    "plackett_luce": (plackett_luce_loss, (tensor([-1e4, 1e4, 1e4]), tensor([3.0, 2.0, 1.0])), {}, [2e4 + 2 * LN2]),
    "all_pairs": (all_pairs_loss, (tensor([-1e4, 1e4, 1e4]), tensor([3.0, 2.0, 1.0])), {}, [(4e4 + LN2) / 3]),
    # the terms 1e4 + 4 of the wrong step over 0, and over the right one at -1e4
    "pqm": (
        pqm_loss,
        (tensor(-1e4, 1e4), tensor(1.0, 0.0), torch.tensor([0, 0])),
        {"margin": 4.0},
        [(10004 + 20004) / 2, 0],
    ),
    "min_form": (min_form_loss, (tensor(1e4, -1e4), tensor(1.0, 1.0), torch.tensor([0, 0])), {}, [0, 1e4]),
}


@pytest.mark.parametrize("loss, inputs, options, expected", FAR.values(), ids=FAR)
def test_far_rewards_by_hand(loss, inputs, options, expected):
    assert loss(*inputs, **options).tolist() == pytest.approx(expected, rel=1e-6)


# ---- pairs against torch, and one loss against another -----------------------------------------------------------


def test_bradley_terry_without_options_is_bit_equal_to_the_plain_formula():
    chosen, rejected, margin = numbers(3, 100).float()
    assert torch.equal(bradley_terry_loss(chosen, rejected), -F.logsigmoid(chosen - rejected))
    plain = -F.logsigmoid(chosen - rejected - margin)
    assert torch.equal(bradley_terry_loss(chosen, rejected, margin_N=margin), plain)
    assert torch.equal(log_exp_loss(chosen, rejected, margin_N=margin), plain)
    centred = bradley_terry_loss(chosen, rejected, margin_N=margin, center_rewards_coefficient=0.01)
    assert torch.equal(centred, plain + 0.01 * (chosen + rejected) ** 2)
    surely = bradley_terry_loss(chosen, rejected, margin_N=margin, probability_N=torch.ones(100))
    assert torch.equal(surely, plain)


@pytest.mark.parametrize("loss", [bradley_terry_loss, log_exp_loss])
def test_soft_and_smoothed_pairs_are_the_cross_entropy_of_two_classes(loss):
    (chosen, rejected), p = numbers(2, 7), PROBABILITY
    logits = torch.stack([chosen, rejected], dim=1)
    soft = F.cross_entropy(logits, torch.stack([p, 1 - p], dim=1), reduction="none")
    torch.testing.assert_close(loss(chosen, rejected, probability_N=p), soft)
    # torch spreads its smoothing over both classes, so that half of it is flipped
    smoothed = F.cross_entropy(logits, torch.zeros(7).long(), label_smoothing=0.2, reduction="none")
    torch.testing.assert_close(loss(chosen, rejected, label_smoothing=0.1), smoothed)
    z = chosen - rejected - MARGIN  # as trl.DPOTrainer writes it (loss_type="sigmoid")
    dpo = -F.logsigmoid(z) * (1 - 0.1) - F.logsigmoid(-z) * 0.1
    torch.testing.assert_close(loss(chosen, rejected, margin_N=MARGIN, label_smoothing=0.1), dpo)


@pytest.mark.parametrize("threshold", [1e-3, 0.5, 3.0, 1000.0])
def test_rao_kupper_probabilities_are_a_distribution(threshold):
    difference = torch.cat([torch.linspace(-6, 6, 25), tensor(-1e4, 1e4)])
    probabilities = rao_kupper_probabilities(difference, threshold)
    assert ((probabilities >= 0) & (probabilities <= 1 + 1e-5)).all()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(27), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rao_kupper_probabilities(-difference, threshold), probabilities.flip(1))
    for column, tie in enumerate((False, True)):
        losses = rao_kupper_loss(difference, torch.zeros(27), torch.full((27,), tie), threshold=threshold)
        torch.testing.assert_close((-losses).exp(), probabilities[:, column])


def test_rao_kupper_threshold():
    chosen, rejected = numbers(2, 7)
    won = rao_kupper_loss(chosen, rejected, torch.zeros(7).bool(), threshold=1e-9)
    torch.testing.assert_close(won, bradley_terry_loss(chosen, rejected), rtol=0, atol=1e-8)
    even = rao_kupper_loss(tensor(2.5), tensor(1.0), torch.tensor([False]), threshold=1.5)
    assert even.item() == pytest.approx(LN2)  # ahead by the threshold: better is as likely as not
    for wrong in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match="leaves no ties; expected a number above 0"):
            rao_kupper_loss(chosen, rejected, TIE, threshold=wrong)


# ---- lists -----------------------------------------------------------------------------------------------------------


def test_a_list_of_two_is_a_pair():
    rewards = numbers(7, 2).float()
    scores = torch.where(TIE[:, None], tensor(1.0, 0.0), tensor(-3.0, 2.0))  # the first is better, or the second
    better, worse = torch.where(TIE[:, None], rewards, rewards.flip(1)).T
    for loss in (plackett_luce_loss, all_pairs_loss):
        torch.testing.assert_close(loss(rewards, scores), bradley_terry_loss(better, worse))


def test_plackett_luce_is_a_distribution_over_rankings():
    rankings = torch.tensor(list(itertools.permutations(range(4)))).double()
    likelihoods = (-plackett_luce_loss(numbers(4).expand(24, 4), rankings)).exp()
    torch.testing.assert_close(likelihoods.sum(), torch.ones(()).double())


def test_plackett_luce_picks_the_best_of_what_is_left():
    rewards, scores = numbers(5), numbers(5, seed=3)
    ranked = rewards[scores.argsort(descending=True)]
    truth = sum(F.cross_entropy(ranked[place:], torch.tensor(0)) for place in range(5))
    torch.testing.assert_close(plackett_luce_loss(rewards[None], scores[None])[0], truth)


@pytest.mark.parametrize("loss", [plackett_luce_loss, all_pairs_loss])
@pytest.mark.parametrize("filler", [0.0, 1e4, -1e4])
def test_padding_has_no_influence(loss, filler):
    short = numbers(1, 3).float()
    padded = torch.tensor([[filler, *short[0], filler], [3.0, 1.0, 2.0, 0.0, 5.0]], requires_grad=True)
    scores = torch.tensor([[NAN, 2.0, 0.0, 1.0, NAN], [5.0, 4.0, 3.0, 2.0, 1.0]])
    losses = loss(padded, scores)
    torch.testing.assert_close(losses[:1], loss(short, scores[:1, 1:4]))
    losses.sum().backward()
    assert padded.grad[0, [0, 4]].tolist() == [0, 0] and (padded.grad[0, 1:4] != 0).all()


@pytest.mark.parametrize("loss", [plackett_luce_loss, all_pairs_loss])
@pytest.mark.parametrize("scores", [[1.0, 1.0, 1.0], [NAN, 1.0, NAN], [NAN, NAN, NAN]])
def test_lists_that_say_nothing_teach_nothing(loss, scores):
    rewards = torch.tensor([[1e4, 2.0, -1e4]], requires_grad=True)
    losses = loss(rewards, torch.tensor([scores]))
    losses.sum().backward()
    assert losses.item() == 0 and rewards.grad.tolist() == [[0, 0, 0]]


# ---- scored completions ----------------------------------------------------------------------------------------------

SCORE_LOSSES = {
    "squared_error": (squared_error_loss, F.mse_loss, {}),
    "huber": (huber_loss, F.huber_loss, {"delta": 0.5}),
    "binary_cross_entropy": (binary_cross_entropy_loss, F.binary_cross_entropy_with_logits, {}),
}


@pytest.mark.parametrize("ours, torchs, options", SCORE_LOSSES.values(), ids=SCORE_LOSSES)
def test_rated_attributes_give_torchs_mean_and_the_others_nothing(ours, torchs, options):
    rewards = numbers(4, 3).requires_grad_()
    losses = ours(rewards, TARGETS, **options)
    losses.sum().backward()
    for loss, row, targets in zip(losses[:3], rewards, TARGETS, strict=False):
        torch.testing.assert_close(loss, torchs(row[~targets.isnan()], targets[~targets.isnan()], **options))
    assert losses[3].item() == 0
    assert torch.equal(rewards.grad == 0, TARGETS.isnan())


# ---- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[1.0, 0.0, 1.0], [0.9, 0.25, 0.5]])
def test_step_loss_is_the_cross_entropy_of_the_definition(labels):
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 2, dtype=torch.float64, requires_grad=True), torch.tensor(labels).double()
    ours = step_loss(logits, labels)
    targets = torch.stack([1 - labels, labels], dim=1)
    truth = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(ours, truth)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), logits)[0] for x in (ours, truth)))
    one_label = logits.detach()[:, 1:] - logits.detach()[:, :1]  # softmax over two logits is a sigmoid of the margin
    torch.testing.assert_close(step_loss(one_label, labels), truth.detach())
    torch.testing.assert_close(step_probabilities(one_label), step_probabilities(logits.detach()))


@pytest.mark.parametrize("labels", [[0.0, 1.0, 1.0], [0.9, 0.25, 0.5]])
def test_weighted_steps_are_torchs_weighted_cross_entropy(labels):
    logits, labels = numbers(3, 2), torch.tensor(labels).double()
    targets, weights = torch.stack([1 - labels, labels], dim=1), torch.tensor([3.0, 0.5]).double()
    if labels[0] == 0:  # of a hard label torch weighs the whole step, as is done here for the soft ones too
        truth = F.cross_entropy(logits, labels.long(), weight=weights, reduction="none")
    else:
        truth = F.cross_entropy(logits, targets, reduction="none") * (targets @ weights)
    torch.testing.assert_close(class_weights_S(labels, (3.0, 0.5)) * step_loss(logits, labels), truth)


@pytest.mark.parametrize("loss, given, options", [(pqm_loss, LABELS, {"margin": 4.0}), (min_form_loss, OUTCOMES, {})])
def test_a_solution_does_not_see_the_others(loss, given, options):
    values = numbers(10)
    together = loss(values, given, ROWS, **options)
    for number, solution in enumerate(SOLUTIONS):
        alone = loss(values[solution], given[solution], torch.full_like(ROWS[solution], number), **options)
        torch.testing.assert_close(together[solution], alone)
        far = torch.full_like(values, 1e4)
        far[solution] = values[solution]
        torch.testing.assert_close(loss(far, given, ROWS, **options)[solution], alone)


def test_pqm_ranks_right_steps_over_wrong_ones():
    values = torch.zeros(10, requires_grad=True)
    losses = pqm_loss(values, LABELS, ROWS, margin=4.0)
    losses.sum().backward()
    # wrong steps have a loss only where they are first, for the state before the first step
    assert (losses > 0).tolist() == [True, True, False, True, False, True, True, True, True, True]
    assert torch.equal(values.grad > 0, LABELS == 0)  # descent takes wrong steps down, right ones up


def test_min_form_teaches_the_first_of_the_worst_steps():
    values = torch.tensor([2.0, -1.0, -1.0, 3.0, 0.5, 0.5], requires_grad=True)
    min_form_loss(values, tensor(1.0, 1.0, 1.0, 0.0, 0.0, 0.0), torch.tensor([0, 0, 0, 4, 4, 4])).sum().backward()
    sigmoid = [1 / (1 + math.exp(1)), 1 / (1 + math.exp(-0.5))]  # of -1 and 0.5; the gradient is sigmoid - outcome
    assert values.grad.tolist() == pytest.approx([0, sigmoid[0] - 1, 0, 0, sigmoid[1], 0])
