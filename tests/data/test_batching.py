"""Batch plans: what shares a batch, by hand and as properties of any data set."""

import random
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rewardplug.data.batching import BatchPlan, shared_with_group, unique_tokens

COSTS = st.lists(st.integers(1, 12), min_size=1, max_size=40)
BUDGETS = st.integers(1, 30)
RANKS = st.integers(1, 5)


def windows(plan: BatchPlan, ranks: int) -> list[list[list[int]]]:
    """The batches that the ranks take at the same time."""
    batches = list(plan)
    return [batches[start : start + ranks] for start in range(0, len(batches), ranks)]


def composition(plan: BatchPlan, ranks: int = 1) -> list:
    return sorted(sorted(sorted(batch) for batch in window) for window in windows(plan, ranks))


# ---- any data set --------------------------------------------------------------------------------------------------


@given(COSTS, BUDGETS, RANKS, st.booleans(), st.booleans(), st.integers(0, 3), st.data())
@settings(max_examples=150, deadline=None)
def test_every_example_once_an_epoch_within_the_budget(costs, budget, ranks, shuffle, grouped, epoch, data):
    groups = data.draw(st.lists(st.integers(0, 4), min_size=len(costs), max_size=len(costs))) if grouped else None
    plan = BatchPlan(costs, budget=budget, ranks=ranks, groups=groups, shuffle=shuffle)
    plan.set_epoch(epoch)
    batches = list(plan)
    assert len(plan) == len(batches) and len(batches) % ranks == 0
    for batch in batches:
        assert len(batch) == 1 or (batch and sum(costs[index] for index in batch) <= budget)
    counts = Counter(chain(*batches))
    assert sorted(counts) == list(range(len(costs)))
    again = sorted(costs[index] for index, count in counts.items() for _ in range(count - 1))
    assert len(again) < ranks  # those that stand in for a last window's missing batches
    if len(again) < len(costs):
        assert again == sorted(costs)[: len(again)]


@given(COSTS, BUDGETS, RANKS)
@settings(max_examples=150, deadline=None)
def test_ranks_differ_by_one_example_at_most(costs, budget, ranks):
    for window in windows(BatchPlan(costs, budget=budget, ranks=ranks), ranks):
        loads = [sum(costs[index] for index in batch) for batch in window]
        assert max(loads) - min(loads) <= max(costs)


@given(COSTS, BUDGETS)
@settings(max_examples=50, deadline=None)
def test_without_shuffling_one_rank_reads_in_order(costs, budget):
    plan = BatchPlan(costs, budget=budget, shuffle=False)
    for epoch in range(2):
        plan.set_epoch(epoch)
        assert list(chain(*plan)) == list(range(len(costs)))


@given(COSTS, BUDGETS, RANKS, st.booleans(), st.data())
@settings(max_examples=100, deadline=None)
def test_groups_that_fit_share_a_batch(costs, budget, ranks, shuffle, data):
    groups = data.draw(st.lists(st.integers(0, 9), min_size=len(costs), max_size=len(costs)))
    plan = BatchPlan(costs, budget=budget, ranks=ranks, groups=groups, shuffle=shuffle)
    last = set(chain(*plan.windows[-1]))  # there, groups give way to ranks without a batch
    for key in set(groups):
        members = {index for index, group in enumerate(groups) if group == key}
        if sum(costs[index] for index in members) <= budget:
            assert any(members <= set(batch) for batch in plan) or (ranks > 1 and members <= last)


TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=6)


@st.composite
def grouped_rows(draw):
    """Pairs, solutions and trees of steps with few tokens, so that they share much, and a group for each."""
    rows = []
    for prompt in draw(st.lists(st.lists(st.integers(0, 1), max_size=4), min_size=1, max_size=12)):
        kind, steps = (
            draw(st.sampled_from(["pair", "solution", "tree"])),
            draw(st.lists(TOKENS, min_size=2, max_size=4)),
        )
        if kind == "pair":
            rows.append({"chosen_ids": prompt + steps[0], "rejected_ids": prompt + steps[1]})
            continue
        rows.append({"input_ids": prompt + [token for step in steps for token in step]})
        if kind == "tree":
            rows[-1]["node_lengths"] = [len(prompt), *map(len, steps)]
            rows[-1]["node_parents"] = [draw(st.integers(-1, node - 1)) for node in range(1 + len(steps))]
    return rows, draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))


def sequences(row: dict) -> list[list[int]]:
    """The sequences of a row, one for each leaf of a tree."""
    if "chosen_ids" in row:
        return [row["chosen_ids"], row["rejected_ids"]]
    if "node_lengths" not in row:
        return [row["input_ids"]]
    tokens, paths = list(row["input_ids"]), []
    for length, parent in zip(row["node_lengths"], row["node_parents"], strict=True):
        paths.append((paths[parent] if parent >= 0 else []) + tokens[:length])
        del tokens[:length]
    return [path for node, path in enumerate(paths) if node not in row["node_parents"]]


def prefixes(rows: list[dict]) -> set[tuple]:
    """What a packed tree of the rows holds, by the definition."""
    return {tuple(path[: n + 1]) for row in rows for path in sequences(row) for n in range(len(path))}


@given(grouped_rows(), st.integers(1, 40), RANKS)
@settings(max_examples=300, deadline=None)
def test_savings_never_promise_more_than_a_batch_shares(grouped, budget, ranks):
    rows, groups = grouped
    costs, savings = [unique_tokens(row) for row in rows], shared_with_group(rows, groups)
    plan = BatchPlan(costs, budget=budget, ranks=ranks, groups=groups, savings=savings)
    assert set(chain(*plan)) == set(range(len(rows)))
    for batch in plan:
        assert len(batch) == 1 or len(prefixes([rows[index] for index in batch])) <= budget


@given(grouped_rows())
@settings(max_examples=100, deadline=None)
def test_costs_are_the_naive_counts(grouped):
    rows, groups = grouped
    for row in rows:
        shared = unique_tokens(row)
        assert shared == len(prefixes([row])) or ("node_lengths" in row and shared > len(prefixes([row])))
    for row, group, shared in zip(rows, groups, shared_with_group(rows, groups), strict=True):
        first = rows[groups.index(group)]
        assert shared <= len(prefixes([row]) & prefixes([first]))
        if "node_lengths" not in row and "node_lengths" not in first:
            a, b = sequences(row)[:1], sequences(first)[:1]
            assert shared == len(prefixes([{"input_ids": a[0]}]) & prefixes([{"input_ids": b[0]}]))


# ---- by hand -------------------------------------------------------------------------------------------------------


def test_consecutive_examples_fill_a_batch():
    plan = BatchPlan([5, 4, 3, 2, 7, 1], budget=7, shuffle=False)
    assert list(plan) == [[0], [1, 2], [3], [4], [5]]
    assert list(BatchPlan([1] * 5, budget=2, shuffle=False)) == [[0, 1], [2, 3], [4]]  # rows are counted


def test_the_dearest_goes_to_the_rank_that_has_least():
    plan = BatchPlan([1, 2, 3, 4, 5, 6], budget=12, ranks=2, shuffle=False)
    assert list(plan) == [[1, 2, 5], [0, 3, 4]]  # 6 | 5, then 4 to the second, 3 to the first, 2 and 1: 11 | 10


def test_what_finds_no_room_leads_the_next_window():
    """Of three examples of 6 two have room; the third counts when the next window is filled, before the 7 comes."""
    plan = BatchPlan([6, 6, 6, 6, 6, 7], budget=10, ranks=2, shuffle=False)
    assert list(plan) == [[0], [1], [2], [3], [5], [4]]


def test_an_example_over_the_budget_is_a_batch_and_the_other_ranks_are_not_idle():
    plan = BatchPlan([5, 5, 50, 5, 5], budget=10, ranks=2, shuffle=False)
    assert list(plan) == [[2], [0, 1], [3], [4]]


def test_the_cheapest_examples_stand_in_where_ranks_have_none():
    assert list(BatchPlan([3, 1, 2], budget=3, ranks=2, shuffle=False)) == [[0], [1, 2]]
    assert list(BatchPlan([3, 2, 1], budget=3, ranks=4, shuffle=False)) == [[0], [1], [2], [2]]
    assert list(BatchPlan([3, 2], budget=5, ranks=5, shuffle=False)) == [[0], [1], [1], [0], [0]]


def test_a_data_set_without_examples_has_no_batches():
    plan = BatchPlan([], budget=3, ranks=2)
    assert list(plan) == [] and len(plan) == 0


def test_epochs_have_the_same_batches_in_another_order():
    costs = [random.Random(0).randrange(1, 9) for _ in range(200)]
    plan, twin = (BatchPlan(costs, budget=20, ranks=2, seed=3) for _ in range(2))
    orders = []
    for epoch in (0, 1, 2):
        plan.set_epoch(epoch)
        orders.append(list(plan))
        assert orders[-1] == list(plan)
        twin.set_epoch(epoch)
        assert list(twin) == orders[-1]
        assert (
            composition(plan, 2) == composition(twin, 2) == composition(BatchPlan(costs, budget=20, ranks=2, seed=3), 2)
        )
    assert orders[0] != orders[1] != orders[2] != orders[0]
    plan.set_epoch(0)
    assert list(plan) == orders[0]


def test_seeds_have_other_batches_and_none_is_the_data_sets():
    plans = [BatchPlan([1] * 100, budget=4, seed=seed) for seed in (0, 1)]
    plans.append(BatchPlan([1] * 100, budget=4, shuffle=False))
    first, second, unshuffled = map(composition, plans)
    assert first != second and unshuffled not in (first, second)


def test_groups_share_a_batch_in_the_order_of_their_first_member():
    plan = BatchPlan([1] * 6, budget=3, groups=[7, 8, 7, 8, 9, 7], shuffle=False)
    assert list(plan) == [[0, 2, 5], [1, 3, 4]]
    plan = BatchPlan([1] * 5, budget=2, groups=[0, 1, 0, 1, 0], shuffle=False)  # too large: two and one
    assert list(plan) == [[0, 2], [4], [1, 3]]


def test_the_last_groups_give_way_so_that_every_rank_has_a_batch():
    assert list(BatchPlan([1] * 4, budget=4, ranks=2, groups=[0] * 4, shuffle=False)) == [[0, 1], [2, 3]]


def test_groups_that_give_way_cost_what_they_cost():
    """Two groups of 9 and 1 for three ranks, of which one is split: both dear ones in a batch would be 18."""
    plan = BatchPlan([9, 1, 1, 9], budget=10, ranks=3, groups=[0, 0, 1, 1], shuffle=False)
    assert sorted(plan) in ([[0], [1], [2, 3]], [[0, 1], [2], [3]])


def test_savings_let_more_rows_fit():
    """A prompt of 4 and completions of 2: 6, 8, 10 and 12 tokens together."""
    costs, groups, savings = [6] * 4, [0] * 4, [6, 4, 4, 4]
    assert list(BatchPlan(costs, budget=12, groups=groups, shuffle=False)) == [[0, 1], [2, 3]]
    assert list(BatchPlan(costs, budget=12, groups=groups, savings=savings, shuffle=False)) == [[0, 1, 2, 3]]
    plan = BatchPlan(costs, budget=11, groups=groups, savings=savings, shuffle=False)
    assert list(plan) == [[0, 1, 2], [3]]


def test_what_is_saved_beside_the_first_is_not_saved_without_it():
    """The third shares 9 tokens with the first, but 2 with the second, as the second does with the first."""
    plan = BatchPlan([10, 10, 10], budget=12, groups=[0] * 3, savings=[10, 2, 9], shuffle=False)
    assert list(plan) == [[0], [1], [2]]
    plan = BatchPlan([10, 10, 10], budget=18, groups=[0] * 3, savings=[10, 2, 9], shuffle=False)
    assert list(plan) == [[0, 1], [2]]


def test_many_small_examples_fill_the_budget_evenly():
    costs = [random.Random(1).randint(1, 20) for _ in range(1000)]
    plan = BatchPlan(costs, budget=200, ranks=4)
    for window in windows(plan, 4):
        loads = [sum(costs[index] for index in batch) for batch in window]
        assert max(loads) - min(loads) <= 20
    assert len(plan) <= 4 + sum(costs) / (200 - 20)


PAIR = {"chosen_ids": [1, 2, 3], "rejected_ids": [1, 2, 4, 5]}
TREE = {"input_ids": [1, 2, 3, 4, 5, 6], "node_lengths": [2, 1, 2, 1], "node_parents": [-1, 0, 0, 1]}
"""1 2, then 3 or 4 5, and 6 behind 3"""


@pytest.mark.parametrize(
    ("row", "tokens"),
    [
        (PAIR, 5),
        ({"input_ids": [1, 2, 3], "labels": [-100, 1, 0]}, 3),
        ({"input_ids": [1, 2, 3], "node_lengths": [], "node_parents": None}, 3),
        (TREE, 6),
    ],
)
def test_tokens_of_a_row(row, tokens):
    assert unique_tokens(row) == tokens


def test_rows_share_with_the_first_of_their_group():
    rows = [PAIR, {"chosen_ids": [9], "rejected_ids": [1]}, {"chosen_ids": [1, 2, 4], "rejected_ids": [1]}, PAIR]
    assert shared_with_group(rows, [0, 0, 0, 0]) == [3, 0, 2, 3]
    assert shared_with_group(rows, [0, 1, 1, 0]) == [3, 1, 0, 3]


def test_a_tree_shares_along_its_first_path():
    """1 2 3 4 is not on one path of the tree, as far as its tokens agree."""
    rows = [TREE, {"input_ids": [1, 2, 3, 4, 5, 6]}, {**TREE, "node_parents": [-1, 0, 1, 0]}]
    assert shared_with_group(rows, [0, 0, 0]) == [3, 3, 3]
    assert shared_with_group(rows[1:], [0, 0]) == [6, 5]
