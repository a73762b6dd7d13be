"""Which examples share a batch: up to a budget of tokens or rows, ranks balanced, equal prompts together.

In: the cost of each example (its unique tokens, or 1 where rows are counted), the number of ranks, optionally the group
of each example. Out: lists of example indices, as a PyTorch batch sampler gives them. Each of R ranks takes one of R
consecutive batches, which cost about the same. The batches are composed once from the seed, and each epoch shuffles
their order. Pure Python.
"""

import random
from collections.abc import Iterable, Iterator, Sequence

from .prefix_tree import PrefixTree, SideOf, common_prefix_length, path_lengths, path_sides
from .step_nodes import nodes_of, pieces_of

Unit = tuple[int, list[int]]
"""cost, and the examples that stay together"""


class BatchPlan:
    """A batch sampler whose batches cost up to a budget.

    Args:
        costs: cost of each example by itself.
        budget: greatest cost of a batch; an example that costs more is a batch by itself.
        ranks: every epoch has a multiple of so many batches. Where the examples do not fill the last ones, the cheapest
            examples of the data set stand in, as accelerate repeats rows.
        seed: of the composition and of the order in each epoch.
        groups: key of each example; those with the same key share batches where they fit.
        lengths: of the examples; those of like length share batches, groups by their longest. None: any lengths.
        savings: what each example shares with the first of its group; any two share at least the smaller of theirs.
        shuffle: keep the data set's order if False.

    >>> plan = BatchPlan([5, 4, 3, 2], budget=7, shuffle=False)
    >>> list(plan), len(plan)
    ([[0], [1, 2], [3]], 3)
    """

    drop_last = False
    batch_size = None  # accelerate: the batches have no common one

    def __init__(
        self,
        costs: Sequence[int],
        *,
        budget: int,
        ranks: int = 1,
        seed: int = 0,
        groups: Sequence[int] | None = None,
        savings: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
        shuffle: bool = True,
    ):
        self.seed, self.shuffle, self.epoch = seed, shuffle, 0
        keys = range(len(costs)) if groups is None else groups
        order = list(dict.fromkeys(keys))
        if shuffle:
            random.Random(seed).shuffle(order)
        members: dict[int, list[int]] = {key: [] for key in order}
        for index, key in enumerate(keys):
            members[key].append(index)
        if lengths is not None:  # groups of the same length stay in the order of the seed
            order.sort(key=lambda key: max(lengths[index] for index in members[key]))
        cost_of = _CostOf(costs, savings or [0] * len(costs))
        units = [unit for key in order for unit in _units(members[key], cost_of, budget)]
        self.windows = list(_windows(units, cost_of, budget, ranks))
        spare = sorted(range(len(costs)), key=lambda index: costs[index])
        for window in self.windows:  # the last one may have ranks without a batch
            for batch in window:
                if not batch:
                    batch.append(spare.pop(0) if spare else window[0][0])

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.windows)
        if self.shuffle:
            random.Random(f"{self.seed} {self.epoch}").shuffle(order)
        for window in order:
            yield from window

    def __len__(self) -> int:
        return sum(map(len, self.windows))


class _CostOf:
    """The cost of examples of one group in one batch: each one's own tokens, and the largest shared part once."""

    def __init__(self, costs: Sequence[int], savings: Sequence[int]):
        self.own = [cost - saving for cost, saving in zip(costs, savings, strict=True)]
        self.shared = savings

    def __call__(self, members: list[int]) -> int:
        return sum(self.own[index] for index in members) + max(self.shared[index] for index in members)


def _units(members: list[int], cost_of: _CostOf, budget: int) -> Iterator[Unit]:
    """A group's examples in runs that fit a batch."""
    unit, own, shared = [], 0, 0
    for index in members:
        together = own + cost_of.own[index] + max(shared, cost_of.shared[index])
        if unit and together > budget:
            yield own + shared, unit
            unit, own, shared = [], 0, 0
        own, shared = own + cost_of.own[index], max(shared, cost_of.shared[index])
        unit.append(index)
    yield own + shared, unit


def _windows(units: Iterable[Unit], cost_of: _CostOf, budget: int, ranks: int) -> Iterator[list[list[int]]]:
    """Gather units until the next one would exceed the budget of all ranks, and deal them out, one batch a rank."""
    waiting: list[Unit] = []
    total = 0  # a unit that exceeds the budget counts as one rank's whole budget
    for unit in units:
        if waiting and total + min(unit[0], budget) > budget * ranks:
            window, waiting = _dealt(waiting, cost_of, budget, ranks)
            yield window
            total = sum(min(cost, budget) for cost, _ in waiting)
        waiting.append(unit)
        total += min(unit[0], budget)
    while waiting:
        window, waiting = _dealt(waiting, cost_of, budget, ranks)
        yield window


def _dealt(units: list[Unit], cost_of: _CostOf, budget: int, ranks: int) -> tuple[list[list[int]], list[Unit]]:
    """A batch for each rank, and the units that are left over.

    Greedy: give the most expensive unit to the least loaded rank, unless it would exceed the budget.
    """
    batches, loads, left = [[] for _ in range(ranks)], [0] * ranks, []
    while len(units) < ranks:  # at the end of the data, groups are split, so that every rank has something
        largest = max((unit for unit in units if len(unit[1]) > 1), default=None)
        if largest is None:
            break
        members, half = largest[1], len(largest[1]) // 2
        units = [unit for unit in units if unit is not largest]
        units += [(cost_of(part), part) for part in (members[:half], members[half:])]
    for cost, unit in sorted(units, key=lambda unit: -unit[0]):
        rank = loads.index(min(loads))
        if batches[rank] and loads[rank] + cost > budget:
            left.append((cost, unit))
        else:
            batches[rank] += unit
            loads[rank] += cost
    return [sorted(batch) for batch in batches], left


def unique_tokens(row: dict, side_of: SideOf | None = None) -> int:
    """Tokens that an encoded row costs by itself; a prefix that its sequences on the same side share counts once.

    >>> unique_tokens({"chosen_ids": [1, 2, 3], "rejected_ids": [1, 2, 4, 5]})
    5
    >>> unique_tokens({"completion_ids": [[1, 2], [1, 3, 4], [1, 2, 5]]})
    5
    >>> unique_tokens({"chosen_ids": [1, 2, 3], "rejected_ids": [1, 2, 4, 5]}, side_of=lambda tokens: tokens > 3)
    7
    """
    if "input_ids" in row:  # a solution or a tree of steps, whose nodes are counted faster than their tokens
        lengths, parents = nodes_of(row)
        sides = path_sides(lengths, parents, side_of)
        return sum(tokens * len(of_node) for tokens, of_node in zip(lengths, sides, strict=True))
    tree = PrefixTree()
    tree.add_all(pieces_of(row), side_of)
    return tree.size


def longest_sequence(row: dict) -> int:
    """Tokens of an encoded row's longest sequence, to which a padded batch pads the others.

    >>> longest_sequence({"chosen_ids": [1, 2, 3], "rejected_ids": [1, 2, 4, 5]})
    4
    """
    if "input_ids" in row:
        return max(path_lengths(*nodes_of(row)))
    return max(len(tokens) for ((tokens, _),) in pieces_of(row))


def shared_with_group(rows: Iterable[dict], groups: Sequence[int], side_of: SideOf | None = None) -> list[int]:
    """Tokens that the first sequence of each encoded row shares with that of the first row of its group."""
    first: dict[int, list[int]] = {}
    shared = []
    for row, key in zip(rows, groups, strict=True):
        tokens = _first_sequence(row)
        shared.append(_shared(tokens, first.setdefault(key, tokens), side_of))
    return shared


def _first_sequence(row: dict) -> list[int]:
    """The chosen one, a list's first, or the steps as far as each follows the last."""
    sequence: list[int] = []
    for index, (tokens, parent) in enumerate(pieces_of(row)[0]):
        if parent != index - 1:
            break
        sequence += tokens
    return sequence


def _shared(tokens: list[int], others: list[int], side_of: SideOf | None) -> int:
    """How many leading tokens two sequences share; none, where they are on different sides."""
    apart = side_of is not None and side_of(len(tokens)) != side_of(len(others))
    return 0 if apart else common_prefix_length(tokens, others)


def packed_batches(sequences: Sequence[list[int]], budget: int, side_of: SideOf | None = None) -> Iterator[list[int]]:
    """Indices of the sequences in batches of up to `budget` unique tokens, those with common beginnings together.

    >>> list(packed_batches([[1, 2, 3], [7, 8], [1, 2, 4]], budget=4))
    [[0, 2], [1]]
    """
    batch: list[int] = []
    cost = 0
    order = sorted(range(len(sequences)), key=sequences.__getitem__)  # neighbours share most
    if side_of is not None:
        order.sort(key=lambda index: side_of(len(sequences[index])))
    for index in order:
        own = len(sequences[index])
        shared = _shared(sequences[batch[-1]], sequences[index], side_of) if batch else 0
        if batch and cost + own - shared > budget:
            yield batch
            batch, cost, shared = [], 0, 0
        batch.append(index)
        cost += own - shared
    if batch:
        yield batch


def padded_batches(sequences: Sequence[list[int]], budget: int) -> Iterator[list[int]]:
    """Indices of the sequences in batches of up to `budget` tokens, padding included, those of like length together.

    >>> list(padded_batches([[1], [2, 2, 2], [3, 3]], budget=6))
    [[1, 2], [0]]
    """
    batch: list[int] = []
    for index in sorted(range(len(sequences)), key=lambda index: -len(sequences[index])):
        if batch and (len(batch) + 1) * len(sequences[batch[0]]) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
