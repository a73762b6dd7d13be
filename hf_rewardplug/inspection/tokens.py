"""Figures about encoded rows: lengths, what prefix sharing saves, and steps that joint text tokenizes otherwise.

In: encoded rows, or step rows with their encoder. Out: small dataclasses of numbers. No torch.
"""

import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from ..data.canonical import Row
from ..data.encoding import Encoder
from ..data.prefix_tree import common_prefix_length, leaf_paths
from ..data.step_nodes import chain_parents, pieces_of

BATCH_ROWS = 8
"""rows of the random batches whose padding and sharing are counted"""


@dataclass(frozen=True)
class Spread:
    """How a number is distributed, by nearest rank: each figure is one of the numbers.

    >>> Spread.of(range(1, 101))
    Spread(p50=50, p90=90, p99=99, max=100)
    """

    p50: int
    p90: int
    p99: int
    max: int

    @classmethod
    def of(cls, numbers: Iterable[int]) -> "Spread":
        ordered = sorted(numbers)
        return cls(*(ordered[max(0, -(-len(ordered) * percent // 100) - 1)] for percent in (50, 90, 99, 100)))


def sequences_of(encoded: Row) -> list[array]:
    """The token lists of an encoded row; of a tree of steps those of each path from the prompt to a leaf.

    >>> sequences_of({"input_ids": [1, 2, 3], "node_lengths": [1, 1, 1], "node_parents": [-1, 0, 0]})
    [array('i', [1, 2]), array('i', [1, 3])]
    """
    sequences = []
    for pieces in pieces_of(encoded):
        for path in leaf_paths([parent for _, parent in pieces]):
            tokens = chain.from_iterable(pieces[index][0] for index in path)
            sequences.append(array("i", tokens))  # a tenth of the memory of a list
    return sequences


def unique_tokens_of(sequences: Iterable[Sequence[int]]) -> int:
    """Tokens of the sequences as one prefix tree.

    >>> unique_tokens_of([[1, 2, 3], [7, 8], [1, 2, 4]])
    6
    """
    ordered = sorted(sequences)  # of all sequences before it, each one shares most with its neighbour
    shared = sum(map(common_prefix_length, ordered, ordered[1:]))
    return sum(map(len, ordered)) - shared


@dataclass(frozen=True, kw_only=True)
class TokenFigures:
    """How many tokens the kept examples have.

    Attributes:
        prompts: how long the prompt is: what both sequences of a pair begin with, or what stands before the completion
            or the first step.
        sequences: how long each sequence is (`sequences_of`).
        tokens, unique: of all sequences, and of all of them as one prefix tree.
        batch_tokens, batch_unique, batch_padded: of all batches of `BATCH_ROWS` random rows together: tokens of the
            sequences, of the packed prefix trees, and of the padded sequences.

    >>> figures = TokenFigures.of([1, 1], [[[5, 1], [5, 2, 3]], [[5, 1, 1, 1], [5, 9]]])
    >>> figures.tokens, figures.unique, figures.batch_padded, round(figures.padding, 3), figures.sharing
    (11, 7, 16, 0.312, 1.5714285714285714)
    """

    prompts: Spread
    sequences: Spread
    tokens: int
    unique: int
    batch_tokens: int
    batch_unique: int
    batch_padded: int

    @property
    def padding(self) -> float:
        """Share of a padded batch's tokens that are padding."""
        return 1 - self.batch_tokens / self.batch_padded

    @property
    def sharing(self) -> float:
        """How many tokens of the sequences one computed token stands for, in a random batch."""
        return self.batch_tokens / self.batch_unique

    @classmethod
    def of(cls, prompts: list[int], rows: list[list[Sequence[int]]], *, seed: int = 0) -> "TokenFigures":
        """The figures, from the prompts' lengths and the sequences of each row."""
        every = [sequence for row in rows for sequence in row]
        order, unique, padded = list(range(len(rows))), 0, 0
        random.Random(seed).shuffle(order)
        for start in range(0, len(order), BATCH_ROWS):
            batch = [sequence for index in order[start : start + BATCH_ROWS] for sequence in rows[index]]
            unique += unique_tokens_of(batch)
            padded += len(batch) * max(map(len, batch))
        tokens = sum(map(len, every))
        return cls(
            prompts=Spread.of(prompts),
            sequences=Spread.of(map(len, every)),
            tokens=tokens,
            unique=unique_tokens_of(every),
            batch_tokens=tokens,
            batch_unique=unique,
            batch_padded=padded,
        )


@dataclass
class Merges:
    """Steps whose tokens change where somebody tokenizes the joint text.

    Training tokenizes the prompt, each step and each separator by itself. Whoever joins the text first can get the end
    of a step and its separator as one token, or lacks the space that SentencePiece puts before a text. The score is
    then read at a token that was never trained.

    Attributes:
        solutions, differing: how many solutions were read, and how many differ somewhere when they are joined.
        steps, merged: how many steps were read, and how many give other tokens together with their separator.
        example: the first place that differs, as texts of tokens: as trained, and joint.
    """

    solutions: int = 0
    differing: int = 0
    steps: int = 0
    merged: int = 0
    example: tuple[list[str], list[str]] | None = None

    def add(self, encoder: Encoder, row: Row) -> None:
        """Look at a step row; of a tree, at each of its steps and at its first path."""
        tokenizer, separator = encoder.tokenizer, encoder.step_token or encoder.step_separator
        trained, joint = _both_encodings(encoder, row, separator)
        self.solutions += 1
        self.differing += joint != trained
        self.steps += len(row["completions"])
        for step in row["completions"]:
            self.merged += _ids(tokenizer, step + separator) != _ids(tokenizer, step) + encoder.separator_ids
        if joint != trained and self.example is None:
            self.example = tuple([token_text(tokenizer, index) for index in ids] for ids in first_gap(trained, joint))


def _both_encodings(encoder: Encoder, row: Row, separator: str) -> tuple[list[int], list[int]]:
    """The tokens of the first path of a step row, uncut: as training encodes it, and with its text joined first."""
    steps = _first_path(row)
    uncut = replace(encoder, max_length=None, positions=None, max_completion_length=None)
    solution = {"completions": steps, "labels": [1] * len(steps), "parents": chain_parents(len(steps))}
    encoded = uncut.steps({**row, **solution})
    trained, prompt_ids = encoded["input_ids"], encoded["input_ids"][: encoded["node_lengths"][0]]
    text = "".join(step + separator for step in steps)
    if not isinstance(row["prompt"], str):  # the tokens of a template's turns cannot merge with the steps
        return trained, prompt_ids + _ids(encoder.tokenizer, text)
    joint, bos = _ids(encoder.tokenizer, row["prompt"] + text), [encoder.tokenizer.bos_token_id]
    return trained, bos + joint if prompt_ids[:1] == bos != joint[:1] else joint


def token_text(tokenizer: Any, index: int) -> str:
    """A token's text with the space before it, which SentencePiece drops when the token is decoded alone."""
    piece = tokenizer.convert_ids_to_tokens(index)
    return piece.replace("▁", " ") if piece and piece.startswith("▁") else tokenizer.decode([index])


def first_gap(a: list[int], b: list[int], context: int = 2) -> tuple[list[int], list[int]]:
    """Where two encodings of one text first differ, from `context` tokens before to where they meet again.

    >>> first_gap([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 45, 6, 7, 8], context=1)
    ([3, 4, 5, 6], [3, 45, 6])
    """
    start = common_prefix_length(a, b)
    for width in range(1, 24):  # tokens of a gap, both sides together
        for left in range(width + 1):
            i, j = start + left, start + width - left
            if a[i : i + 2] == b[j : j + 2]:
                return a[max(0, start - context) : i + context], b[max(0, start - context) : j + context]
    return a[max(0, start - context) : start + 6], b[max(0, start - context) : start + 6]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _first_path(row: Row) -> list[str]:
    """The steps from a tree's first one to the first leaf; of a solution all.

    >>> _first_path({"completions": ["a", "b", "c"], "parents": [-1, -1, 0]})
    ['a', 'c']
    """
    steps = row["completions"]
    return [steps[index] for index in min(leaf_paths(row.get("parents") or chain_parents(len(steps))))]
