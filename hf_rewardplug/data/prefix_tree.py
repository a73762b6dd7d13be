"""Token lists to a packed forest of prefixes: shared tokens stand once, nothing is padded.

In: any number of token lists, whole (`add`) or piece by piece (`add(piece, after=place)`). Out: one row of tokens in
which each branch follows what it branches from, and the spans that say which tokens see which.

    two completions of "A B":  tokens    A B c d | e f        score positions: d, f
                               position  0 1 2 3   2 3
                               e sees    A B e             (not c, d)

                               spans     queries  keys
                                         [0, 4)   [0, 4)   causal: A B c d, the first sequence
                                         [4, 6)   [4, 6)   causal: e f, a branch
                                         [4, 6)   [0, 2)   full: the branch sees A B

Every token stands in one causal span (`queries == keys`), its own branch, and in one full span for each branch that it
comes from. There are at most twice as many spans as sequences, however deep the tree, and building is linear in tokens.
Pure Python.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

Span = tuple[int, int, int, int]
"""(first query, end of queries, first key, end of keys) in the packed row"""

Piece = tuple[list[int], int]
"""tokens, and the index of the piece of the same row that they follow (-1: none)"""

SideOf = Callable[[int], Hashable]
"""The length of a sequence -> its side. Different sides share no prefix (`model/positions.py` says why)."""


def common_prefix_length(a: Sequence[int], b: Sequence[int], a_start: int = 0, b_start: int = 0) -> int:
    """Number of leading tokens that both lists share, counted from `a_start` and `b_start`.

    >>> common_prefix_length([1, 2, 3], [1, 2, 4, 5])
    2
    """
    limit = min(len(a) - a_start, len(b) - b_start)
    length, chunk = 0, 64  # slices compare fast, and a short one costs little where the lists part early
    while length < limit:
        step = min(chunk, limit - length)
        if a[a_start + length : a_start + length + step] != b[b_start + length : b_start + length + step]:
            break
        length += step
    while length < limit and a[a_start + length] == b[b_start + length]:
        length += 1
    return length


def path_lengths(lengths: Sequence[int], parents: Sequence[int]) -> list[int]:
    """Tokens from the beginning to the end of each piece of a tree; a parent is an earlier piece, or -1.

    >>> path_lengths([3, 2, 4], parents=[-1, 0, 0])
    [3, 5, 7]
    """
    ends: list[int] = []
    for length, parent in zip(lengths, parents, strict=True):
        ends.append(length + (ends[parent] if parent >= 0 else 0))
    return ends


def tokens_of_paths(lengths: Sequence[int], parents: Sequence[int]) -> int:
    """Tokens of all paths from the beginning to a leaf, one by one.

    >>> tokens_of_paths([3, 2, 4], parents=[-1, 0, 0])
    12
    """
    inner = set(parents)
    return sum(end for piece, end in enumerate(path_lengths(lengths, parents)) if piece not in inner)


def leaf_paths(parents: Sequence[int]) -> list[list[int]]:
    """The pieces from the beginning to each leaf; a parent is an earlier piece, or -1.

    >>> leaf_paths([-1, 0, 0, 1])
    [[0, 2], [0, 1, 3]]
    """
    inner, paths = set(parents), []
    for piece in range(len(parents)):
        if piece not in inner:
            path = [piece]
            while parents[path[-1]] >= 0:
                path.append(parents[path[-1]])
            paths.append(path[::-1])
    return paths


def path_sides(lengths: Sequence[int], parents: Sequence[int], side_of: SideOf | None) -> list[dict[Hashable, None]]:
    """The sides of the paths that each piece of a tree is on, the first path's first.

    >>> path_sides([3, 2, 4], [-1, 0, 0], lambda tokens: tokens > 5)
    [{False: None, True: None}, {False: None}, {True: None}]
    """
    if side_of is None:
        return [{None: None}] * len(lengths)
    sides: list[dict[Hashable, None]] = [{} for _ in lengths]
    ends = path_lengths(lengths, parents)
    for path in leaf_paths(parents):
        for piece in path:
            sides[piece][side_of(ends[path[-1]])] = None
    return sides


@dataclass(eq=False, slots=True)
class _Branch:
    """Tokens that follow one another without a fork, and the branches that fork from them."""

    depth: int  # position of the first token in its sequences
    tokens: list[int] = field(default_factory=list)
    forks: dict[int, dict[int, "_Branch"]] = field(default_factory=dict)  # offset -> {first token: branch}
    start: int = -1  # index of the first token in the packed row
    end: int = -1  # where the branch and all that follows it ends there

    def forks_deepest_first(self):
        """The order in which forks follow the branch in a row: whatever sees a token then directly follows it."""
        return sorted(self.forks.items(), reverse=True)


Place = tuple[_Branch, int]
"""a token of the tree: its branch and its offset in it"""


@dataclass(frozen=True)
class PackedTree:
    """A forest as one row of T tokens.

    Attributes:
        input_ids, position_ids: lists of T; a branch's positions go on from its branching point.
        spans: which queries see which keys, causal spans first; see the drawing above.
    """

    input_ids: list[int]
    position_ids: list[int]
    spans: list[Span]


class PrefixTree:
    """A forest of token tries.

    >>> tree = PrefixTree()
    >>> chosen, rejected = tree.add([10, 11, 12, 13]), tree.add([10, 11, 14, 15])
    >>> packed = tree.pack()
    >>> packed.input_ids, packed.position_ids
    ([10, 11, 12, 13, 14, 15], [0, 1, 2, 3, 2, 3])
    >>> packed.spans
    [(0, 4, 0, 4), (4, 6, 4, 6), (4, 6, 0, 2)]
    >>> tree.position(chosen), tree.position(rejected)
    (3, 5)
    """

    def __init__(self):
        self._roots: dict[Hashable, _Branch] = defaultdict(lambda: _Branch(depth=0))  # a side's, without tokens
        self.size = 0
        """unique tokens so far"""

    def add(self, tokens: Sequence[int], after: Place | None = None) -> Place | None:
        """Let `tokens` follow the place `after` (None: the beginning). Tokens that are there already are shared.

        Returns:
            The place of the last token; `after` where `tokens` is empty.
        """
        branch, offset = (self._roots[None], -1) if after is None else after
        index = 0
        while index < len(tokens):
            shared = common_prefix_length(branch.tokens, tokens, offset + 1, index)
            offset, index = offset + shared, index + shared
            if index == len(tokens):
                break
            if offset + 1 == len(branch.tokens) and branch.tokens:
                fresh = tokens[index:]
                branch.tokens.extend(fresh)
                self.size += len(fresh)
                return branch, len(branch.tokens) - 1
            forks = branch.forks.setdefault(offset, {})
            depth = branch.depth + offset + 1
            branch, offset = forks.setdefault(tokens[index], _Branch(depth)), -1
            if not branch.tokens:
                branch.tokens.append(tokens[index])
                self.size += 1
        return (branch, offset) if branch.tokens else None

    def add_all(
        self, rows: Sequence[Sequence[tuple[Sequence[int], int]]], side_of: SideOf | None = None
    ) -> list[list[Place | None]]:
        """Add rows of (tokens, parent) pieces and return each piece's place; the parent is an earlier piece, or -1.

        A sequence is a row of one piece, a solution a chain of its steps, PRM800K's alternatives a tree. The first
        tokens that follow a place continue its branch and later ones fork from it. So the largest subtrees are added
        first, which makes the longest branches. Whatever the order, the result is right.

        Args:
            side_of: sequences on different sides share nothing; a piece that is on both is placed on the first's.

        >>> tree = PrefixTree()
        >>> places = tree.add_all([[([1, 2], -1), ([3], 0), ([4, 5], 0)]])
        >>> tree.pack().input_ids, [tree.position(place) for place in places[0]]
        ([1, 2, 4, 5, 3], [1, 4, 3])
        >>> tree = PrefixTree()
        >>> places = tree.add_all([[([1, 2], -1), ([3], 0), ([4, 5], 0)]], side_of=lambda tokens: tokens > 3)
        >>> tree.pack().input_ids, [tree.position(place) for place in places[0]]
        ([1, 2, 3, 1, 2, 4, 5], [1, 2, 6])
        """
        pieces = []
        for row, pieces_of_row in enumerate(rows):
            tokens_of, parents = zip(*pieces_of_row, strict=True)
            sizes = [len(tokens) for tokens in tokens_of]
            sides = path_sides(sizes, parents, side_of)
            for index in range(len(sizes) - 1, -1, -1):
                if parents[index] >= 0:
                    sizes[parents[index]] += sizes[index]
                pieces += [(-sizes[index], row, index, side) for side in sides[index]]
        places: dict[tuple[int, int, Hashable], Place | None] = {}
        first: list[list[Place | None]] = [[None] * len(row) for row in rows]
        for _, row, index, side in sorted(pieces, key=lambda piece: piece[:3]):
            tokens, parent = rows[row][index]
            after = places.get((row, parent, side)) or (self._roots[side], -1)
            place = places[row, index, side] = self.add(tokens, after)
            first[row][index] = first[row][index] or place
        return first

    def pack(self) -> PackedTree:
        """The forest as one row; afterwards `position` knows where each place went."""
        input_ids: list[int] = []
        position_ids: list[int] = []
        order, waiting = [], [*reversed(self._roots.values())]
        while waiting:
            branch = waiting.pop()
            order.append(branch)
            branch.start = len(input_ids)
            input_ids += branch.tokens
            position_ids += range(branch.depth, branch.depth + len(branch.tokens))
            waiting += reversed([child for _, forks in branch.forks_deepest_first() for child in forks.values()])
        causal, full = [], []
        for branch in reversed(order):
            branch.end = branch.start + len(branch.tokens)
            for offset, forks in branch.forks_deepest_first():
                children = list(forks.values())
                branch.end = children[-1].end
                if branch.tokens:
                    full.append((children[0].start, branch.end, branch.start, branch.start + offset + 1))
            if branch.tokens:
                causal.append((branch.start, branch.start + len(branch.tokens)) * 2)
        return PackedTree(input_ids, position_ids, [*reversed(causal), *reversed(full)])

    @staticmethod
    def position(place: Place) -> int:
        """Index of a place in the row that the last `pack` gave."""
        branch, offset = place
        return branch.start + offset
