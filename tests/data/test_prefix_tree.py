"""Prefix trees: what stands where and what sees what, by hand and against a naive trie."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rewardplug.data.prefix_tree import PackedTree, PrefixTree, common_prefix_length


def ids(text: str) -> list[int]:
    return list(map(ord, text))


def text(tokens) -> str:
    return "".join(map(chr, tokens))


def visible(packed: PackedTree, query: int) -> list[int]:
    """The keys that a token sees, by the meaning of the spans: itself and what is before it, and all of a full span."""
    keys = []
    for q0, q1, k0, k1 in packed.spans:
        if q0 <= query < q1:
            keys += range(k0, query + 1 if (q0, q1) == (k0, k1) else k1)
    return sorted(keys)


def seen(packed: PackedTree, query: int) -> str:
    return text(packed.input_ids[key] for key in visible(packed, query))


def tree_of(*sequences: str):
    """The tree of the sequences in this order, packed, and the text that each sequence's last token sees."""
    tree = PrefixTree()
    places = [tree.add(ids(sequence)) for sequence in sequences]
    packed = tree.pack()
    return tree, packed, [place and seen(packed, tree.position(place)) for place in places]


# ---- by hand -------------------------------------------------------------------------------------------------------


def test_the_drawing():
    tree = PrefixTree()
    first, second = tree.add(ids("ABcd")), tree.add(ids("ABef"))
    packed = tree.pack()
    assert text(packed.input_ids) == "ABcdef"
    assert packed.position_ids == [0, 1, 2, 3, 2, 3]
    assert packed.spans == [(0, 4, 0, 4), (4, 6, 4, 6), (4, 6, 0, 2)]
    assert (tree.position(first), tree.position(second)) == (3, 5)
    assert [seen(packed, query) for query in range(6)] == ["A", "AB", "ABc", "ABcd", "ABe", "ABef"]


@pytest.mark.parametrize("order", list(itertools.permutations(["A", "AB", "ABCD"])))
def test_a_prefix_of_another_sequence_adds_nothing(order):
    tree, packed, ends = tree_of(*order)
    assert text(packed.input_ids) == "ABCD" and tree.size == 4
    assert packed.position_ids == [0, 1, 2, 3]
    assert packed.spans == [(0, 4, 0, 4)]
    assert ends == list(order)


def test_equal_sequences_end_at_one_token():
    tree = PrefixTree()
    places = [tree.add(ids("AB")) for _ in range(3)]
    assert tree.pack().spans == [(0, 2, 0, 2)]
    assert [tree.position(place) for place in places] == [1, 1, 1] and tree.size == 2


def test_sequences_with_nothing_in_common_stand_side_by_side():
    _, packed, ends = tree_of("AB", "C", "DA")
    assert text(packed.input_ids) == "ABCDA"
    assert packed.position_ids == [0, 1, 0, 0, 1]
    assert packed.spans == [(0, 2, 0, 2), (2, 3, 2, 3), (3, 5, 3, 5)]  # and no full span
    assert ends == ["AB", "C", "DA"]


def test_completions_of_one_prompt_see_it_and_not_each_other():
    _, packed, ends = tree_of("ABcd", "ABe", "ABfg")
    assert text(packed.input_ids) == "ABcdefg"
    assert packed.position_ids == [0, 1, 2, 3, 2, 2, 3]
    assert packed.spans == [(0, 4, 0, 4), (4, 5, 4, 5), (5, 7, 5, 7), (4, 7, 0, 2)]  # one full span for both
    assert ends == ["ABcd", "ABe", "ABfg"]


def test_a_prompt_is_shared_across_rows():
    tree = PrefixTree()
    pairs = [("ABc", "ABd"), ("Xy", "Xz"), ("ABe", "ABc")]
    places = tree.add_all([[(ids(sequence), -1)] for pair in pairs for sequence in pair])
    packed = tree.pack()
    assert text(packed.input_ids) == "ABcdeXyz" and tree.size == 8
    assert packed.spans[:5] == [(0, 3, 0, 3), (3, 4, 3, 4), (4, 5, 4, 5), (5, 7, 5, 7), (7, 8, 7, 8)]
    assert sorted(packed.spans[5:]) == [(3, 5, 0, 2), (7, 8, 5, 6)]
    assert [tree.position(place) for (place,) in places] == [2, 3, 6, 7, 4, 2]


def test_branches_within_branches_see_all_that_they_branch_from():
    _, packed, _ = tree_of("ABCDE", "ABCxy", "ABCxz", "Aw")
    #                       0    1    2    3    4    5    6    7    8
    assert text(packed.input_ids) == "ABCDExyzw"
    assert packed.position_ids == [0, 1, 2, 3, 4, 3, 4, 4, 1]
    assert sorted(packed.spans[:4]) == [(0, 5, 0, 5), (5, 7, 5, 7), (7, 8, 7, 8), (8, 9, 8, 9)]
    assert sorted(packed.spans[4:]) == [(5, 8, 0, 3), (7, 8, 5, 6), (8, 9, 0, 1)]


def test_alternative_steps_and_equal_ones():
    """A prompt AB, alternatives c (twice) and d, and a step behind each: behind the equal ones they fork."""
    pieces = [("AB", -1), ("c", 0), ("d", 0), ("c", 0), ("ee", 1), ("f", 2), ("g", 3)]
    tree = PrefixTree()
    (places,) = tree.add_all([[(ids(step), parent) for step, parent in pieces]])
    packed = tree.pack()
    assert text(packed.input_ids) == "ABceegdf" and tree.size == 8
    assert packed.position_ids == [0, 1, 2, 3, 4, 3, 2, 3]
    assert packed.spans[:3] == [(0, 5, 0, 5), (5, 6, 5, 6), (6, 8, 6, 8)]
    assert sorted(packed.spans[3:]) == [(5, 6, 0, 3), (6, 8, 0, 2)]
    assert [tree.position(place) for place in places] == [1, 2, 6, 2, 4, 7, 5]


def test_an_empty_piece_ends_where_it_begins():
    tree = PrefixTree()
    assert tree.add([]) is None and tree.size == 0
    place = tree.add(ids("AB"))
    assert tree.add([], after=place) == place and tree.size == 2
    (places,) = tree.add_all([[([], -1), (ids("C"), 0), ([], 1), (ids("D"), 2)]])
    packed = tree.pack()
    assert places[0] is None
    assert [seen(packed, tree.position(place)) for place in places[1:]] == ["C", "C", "CD"]


def test_an_empty_tree():
    assert PrefixTree().pack() == PackedTree([], [], [])
    assert PrefixTree().add_all([]) == []


def test_a_packed_tree_goes_on_growing():
    tree, _, _ = tree_of("AB")
    place = tree.add(ids("C"), after=tree.add(ids("A")))
    packed = tree.pack()
    assert text(packed.input_ids) == "ABC" and seen(packed, tree.position(place)) == "AC"
    assert tree.pack() == packed


def test_rows_are_not_changed():
    rows = [[(ids("AB"), -1), (ids("C"), 0)], [(ids("AB"), -1), (ids("D"), 0)]]
    PrefixTree().add_all(rows)
    assert rows == [[(ids("AB"), -1), (ids("C"), 0)], [(ids("AB"), -1), (ids("D"), 0)]]


# ---- against a naive trie ------------------------------------------------------------------------------------------

SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=8), max_size=10)


@st.composite
def step_trees(draw):
    """Rows of (tokens, parent) pieces, some empty, some equal."""
    tokens = st.lists(st.integers(0, 2), max_size=4)
    rows = []
    for size in draw(st.lists(st.integers(1, 8), max_size=4)):
        rows.append([(draw(tokens), draw(st.integers(-1, index - 1))) for index in range(size)])
    return rows


def paths(pieces) -> list[list[int]]:
    """All tokens from the root to the end of each piece."""
    found = []
    for tokens, parent in pieces:
        found.append((found[parent] if parent >= 0 else []) + tokens)
    return found


def naive_trie(sequences) -> dict:
    root: dict = {}
    for sequence in sequences:
        node = root
        for token in sequence:
            node = node.setdefault(token, {})
    return root


def naive_nodes(node: dict, path=()):
    """(path, how many nodes follow) of each node."""
    for token, child in node.items():
        yield (*path, token), len(child)
        yield from naive_nodes(child, (*path, token))


def assert_is_the_trie(tree: PrefixTree, sequences) -> None:
    packed = tree.pack()
    nodes = dict(naive_nodes(naive_trie(sequences)))
    size = len(packed.input_ids)
    path_of = [tuple(packed.input_ids[key] for key in visible(packed, query)) for query in range(size)]
    assert sorted(path_of) == sorted(nodes) and tree.size == size == len(nodes)
    index_of = {path: index for index, path in enumerate(path_of)}
    for query, path in enumerate(path_of):
        assert visible(packed, query) == [index_of[path[: n + 1]] for n in range(len(path))]
        assert packed.position_ids[query] == len(path) - 1
    causal = [(q0, q1) for q0, q1, k0, k1 in packed.spans if (q0, q1) == (k0, k1)]
    assert sorted(query for span in causal for query in range(*span)) == list(range(size))
    assert packed.spans[: len(causal)] == [2 * span for span in causal]  # first
    assert len(causal) == sum(following == 0 for following in nodes.values())  # one a leaf
    assert len(packed.spans) - len(causal) == sum(following > 1 for following in nodes.values())  # one a fork
    assert len(packed.spans) <= 2 * len(sequences)


@given(SEQUENCES, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_sequences_in_any_order_are_the_naive_trie(sequences, random):
    for _ in range(2):
        tree = PrefixTree()
        places = [tree.add(sequence) for sequence in sequences]
        assert_is_the_trie(tree, sequences)
        packed = tree.pack()
        for sequence, place in zip(sequences, places, strict=True):
            assert (place is None) == (sequence == [])
            if place is not None:
                assert [packed.input_ids[key] for key in visible(packed, tree.position(place))] == sequence
        random.shuffle(sequences)


@given(step_trees(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_step_trees_in_any_order_are_the_naive_trie(rows, random):
    sequences = [path for pieces in rows for path in paths(pieces)]
    largest_first, one_by_one = PrefixTree(), PrefixTree()
    places = largest_first.add_all(rows)
    assert_is_the_trie(largest_first, sequences)
    by_hand = [[None] * len(pieces) for pieces in rows]
    waiting = [(row, 0) for row in range(len(rows))]
    while waiting:  # the rows' pieces in turns
        row, index = waiting.pop(random.randrange(len(waiting)))
        tokens, parent = rows[row][index]
        by_hand[row][index] = one_by_one.add(tokens, None if parent < 0 else by_hand[row][parent])
        if index + 1 < len(rows[row]):
            waiting.append((row, index + 1))
    assert_is_the_trie(one_by_one, sequences)
    for tree, found in ((largest_first, places), (one_by_one, by_hand)):
        packed = tree.pack()
        for pieces, of_row in zip(rows, found, strict=True):
            for path, place in zip(paths(pieces), of_row, strict=True):
                keys = [] if place is None else visible(packed, tree.position(place))
                assert [packed.input_ids[key] for key in keys] == path


def naive_common(a: list[int], b: list[int]) -> int:
    return max(n for n in range(min(len(a), len(b)) + 1) if a[:n] == b[:n])


TOKENS = st.lists(st.integers(0, 1), max_size=6)


@given(TOKENS, TOKENS, TOKENS, st.integers(0, 6), st.integers(0, 6), st.sampled_from([0, 63, 64, 65, 200]))
@settings(deadline=None)
def test_common_prefix_length_is_the_naive_one(shared, a, b, a_start, b_start, more):
    shared = [7] * more + shared
    a, b = [9] * a_start + shared + a, [9] * b_start + shared + b
    assert common_prefix_length(a, b) == naive_common(a, b)
    expected = naive_common(a[a_start:], b[b_start:])
    assert common_prefix_length(a, b, a_start, b_start) == expected


# ---- size ----------------------------------------------------------------------------------------------------------


class Counted(list):
    """A list that counts the tokens read of it and its like."""

    reads = 0

    def __getitem__(self, key):
        found = super().__getitem__(key)
        Counted.reads += len(found) if isinstance(key, slice) else 1
        return found


def caterpillar(depth: int, main: str, alternative: str) -> list[tuple[list[int], int]]:
    """Each step a choice of two, and all go on from the second one."""
    pieces = [(Counted(ids("p")), -1)]
    for step in range(depth):
        pieces += [(Counted(ids(alternative)), 2 * step), (Counted(ids(main)), 2 * step)]
    return pieces


@pytest.mark.parametrize("alternative", ["xyz", "mnz"])  # other from the first token on, or at the last one
def test_a_caterpillar_of_steps_is_built_in_linear_time(alternative):
    rows = [caterpillar(2000, "mno", alternative)]
    Counted.reads, tree = 0, PrefixTree()
    tree.add_all(rows)
    packed = tree.pack()
    assert Counted.reads <= 4 * 12001
    assert tree.size == len(packed.input_ids) == 1 + 2000 * (3 + len(alternative.strip("mn")))
    assert len(packed.spans) == 2001 + 2000  # one branch and 2000 that leave it
    assert packed.spans[0][1] == 6001  # the largest subtrees are added first


def test_many_completions_of_a_long_prompt_are_built_in_linear_time():
    rows = [[(Counted([7] * 1000 + [completion] * 1000), -1)] for completion in range(50)]
    Counted.reads, tree = 0, PrefixTree()
    tree.add_all(rows)
    assert Counted.reads <= 2 * 50 * 2000
    assert tree.size == 1000 + 50 * 1000
    assert len(tree.pack().spans) == 50 + 1


def test_branches_nest_5000_deep():
    """The dead end first, at every step: what goes on is a branch of a branch of a branch."""
    tree, place = PrefixTree(), None
    for _ in range(5000):
        tree.add(ids("x"), after=place)
        place = tree.add(ids("m"), after=place)
    packed = tree.pack()
    assert seen(packed, tree.position(place)) == "m" * 5000
    assert max(packed.position_ids) == 4999
    assert len(packed.spans) == 5001 + 4999 and tree.size == 10000  # no full span at the root
