"""The nodes of a step row: which of its tokens are the prompt, which are each step, and what each step follows.

In: an encoded row. Out: the length and the parent of each node, or the pieces of a prefix tree. Node 0 is the prompt,
and its parent is -1. A solution is a tree with one branch, so it has nodes like any other tree:

    prompt | step 1 | step 2                 lengths [5, 3, 4]      parents [-1, 0, 1]
    prompt | step 1 | another step 1         lengths [5, 3, 2]      parents [-1, 0, 0]
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from .canonical import UNLABELLED, Row
from .prefix_tree import Piece

NODE_LENGTHS, NODE_PARENTS = NODE_COLUMNS = ("node_lengths", "node_parents")


def nodes_of(row: Row) -> tuple[Sequence[int], Sequence[int]]:
    """The nodes' lengths and parents.

    A row that somebody else tokenized may have labels alone. It is one solution, and a step ends at each label. Nobody
    knows where its prompt ends, so node 0 is empty.

    >>> nodes_of({"input_ids": [1, 2, 3, 4, 5], "labels": [-100, -100, 1, -100, 0]})
    ([0, 3, 2], [-1, 0, 1])
    """
    if row.get(NODE_LENGTHS):
        return row[NODE_LENGTHS], row[NODE_PARENTS]
    count = len(row["input_ids"])
    ends = [index for index, label in enumerate(row.get("labels", ()), 1) if label != UNLABELLED]
    if ends[-1:] != [count]:
        ends.append(count)
    lengths = [0, *(end - start for start, end in pairwise([0, *ends]))]
    return lengths, chain_parents(len(lengths))


def pieces_of(row: Row) -> list[list[Piece]]:
    """The sequences of an encoded row of any form, as `PrefixTree.add_all` takes them; steps are one of several pieces.

    >>> pieces_of({"chosen_ids": [1, 2], "rejected_ids": [1, 3]})
    [[([1, 2], -1)], [([1, 3], -1)]]
    >>> pieces_of({"input_ids": [1, 2, 3], "node_lengths": [2, 1], "node_parents": [-1, 0]})
    [[([1, 2], -1), ([3], 0)]]
    """
    if "input_ids" in row:
        lengths, parents = nodes_of(row)
        bounds = pairwise(accumulate(lengths, initial=0))
        tokens = [row["input_ids"][start:end] for start, end in bounds]
        return [list(zip(tokens, parents, strict=True))]
    sequences = row["completion_ids"] if "completion_ids" in row else [row["chosen_ids"], row["rejected_ids"]]
    return [[(tokens, -1)] for tokens in sequences]


def chain_parents(count: int) -> list[int]:
    """The parents of nodes that follow one another.

    >>> chain_parents(3)
    [-1, 0, 1]
    """
    return list(range(-1, count - 1))


def is_chain(parents: Sequence[int]) -> bool:
    """Whether the tree has one branch."""
    return list(parents) == chain_parents(len(parents))
