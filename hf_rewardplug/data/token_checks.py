"""Token ids checked before they reach a model, which would fail far from their row.

In: the ids of a row, encoded here or by somebody else. Out: the same, or a `RowError` that names the column.
"""

import math
from itertools import accumulate
from typing import Any

from ..checks import RowError, finite, is_whole, shown
from .canonical import UNLABELLED, Row
from .step_nodes import nodes_of


def check_ids(ids: list[int], column: str, vocab_size: int | None = None) -> list[int]:
    """The ids, if there are any and (`vocab_size` given) the model has an embedding for each."""
    if not ids:
        raise RowError("gives no token: the text or the chat template is empty", column=column)
    if vocab_size is not None and max(ids) >= vocab_size:
        raise RowError(
            f"token id {max(ids)} is outside the model's vocabulary of {vocab_size}. Take the model's own tokenizer, "
            "or resize the model's embeddings first",
            column=column,
        )
    return ids


def given_ids(row: Row, column: str, vocab_size: int | None = None) -> list[int]:
    """The ids that a tokenized row brings."""
    ids = plain_list(row.get(column))
    if not _are_whole(ids) or not ids or max(ids) >= 2**31:
        raise RowError("expected a list of token ids that is not empty", column=column)
    if min(ids) < 0:
        raise RowError(f"token id {min(ids)} is negative; padding must not be in the data", column=column)
    return check_ids(ids, column, vocab_size)


def _are_whole(values: Any) -> bool:
    return isinstance(values, list) and all(map(is_whole, values))


def plain_list(values: Any) -> Any:
    """A list, where numpy's array comes from a stream."""
    return values.tolist() if hasattr(values, "tolist") else values


def given_labels(row: Row, tokens: int) -> list[float]:
    """The labels that a tokenized step row brings, one a token."""
    labels: Any = row.get("labels") or []
    if not isinstance(labels, list):
        raise RowError(f"expected a list with a label for each token, found {shown(labels)}", column="labels")
    if len(labels) != tokens:
        raise RowError(f"{len(labels)} labels for {tokens} tokens", column="labels")
    for index, label in enumerate(labels):
        if not isinstance(label, int | float) or (label != UNLABELLED and not 0 <= label <= 1):
            raise RowError(f"label {index} is {shown(label)}; expected -100 or a number in [0, 1]", column="labels")
    return [float(label) for label in labels]


def given_scores(row: Row, count: int, *, unrated: bool = False) -> list[float]:
    """The scores that a tokenized row brings; where some may be `unrated`, they are NaN."""
    scores: Any = plain_list(row.get("scores"))
    if not isinstance(scores, list) or len(scores) != count:
        raise RowError(f"expected a list of {count}, found {shown(scores)}", column="scores")
    for score in scores:
        if not (unrated and isinstance(score, float) and math.isnan(score)):
            finite(score, "scores")
    return [float(score) for score in scores]


def given_nodes(row: Row, labels: list[float]) -> tuple[list[int], list[int]]:
    """The lengths and parents of the nodes that a tokenized step row brings; one without them is one solution."""
    lengths, parents = nodes_of({"node_parents": [], **row, "labels": labels})
    right = _are_whole(lengths) and _are_whole(parents) and len(parents) == len(lengths)
    right = right and all(-1 <= parent < node for node, parent in enumerate(parents))
    if not right or min(lengths) < 0 or sum(lengths) != len(labels):
        raise RowError(
            "the nodes' lengths must add up to the tokens, and `node_parents` must name an earlier node each, or -1",
            column="node_lengths",
        )
    ends = {end - 1 for end in accumulate(lengths)}
    if any(label != UNLABELLED and index not in ends for index, label in enumerate(labels)):
        raise RowError("a node of a tree has its label at its last token, and no other", column="labels")
    return lengths, parents
