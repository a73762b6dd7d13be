"""Encoded rows to one batch of tensors with score positions.

    B sequences, L tokens of the longest, T unique tokens, S scored positions

    padded    input_ids_BL, attention_mask_BL, right-padded       score_positions_S in the flattened B * L tokens
    packed    input_ids_1T, position_ids_1T, prefix_tree          score_positions_S in the T tokens

`prefix_tree` holds `spans` (see `prefix_tree.py`), `longest` (tokens of the longest sequence), `num_tokens` (of all
sequences) and `num_unique_tokens`; and where the trainer asks for it `index`, tensors for the attention's kernels.

The losses see only what the head says at `score_positions`, so how the tokens are laid out is the collator's business:
with `prefix_sharing=True` a batch is one packed prefix tree (`prefix_tree.py`), else it is padded and every sequence,
every path of a tree of steps, stands there whole.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ..figures import steps_back
from .canonical import EXAMPLE_ID, PAIR_EXTRAS, SUBSET, UNLABELLED
from .prefix_tree import PrefixTree, SideOf, Span, leaf_paths, tokens_of_paths
from .spans import Spans
from .step_nodes import nodes_of

Piece = tuple[list[int], int]
"""tokens, and the index of the piece of the same row that they follow (-1: none)"""

Ends = list[list[int]]
"""a row's pieces -> the index of each one's last token in the flattened batch"""


def _padded(rows: Sequence[list[Piece]], pad_token_id: int, multiple: int | None) -> tuple[dict[str, Any], Ends]:
    """A sequence a row of the batch, for each leaf of each row; a piece ends in the first sequence that holds it."""
    sequences, ends = [], [[(0, 0)] * len(pieces) for pieces in rows]
    for pieces, of_row in zip(rows, ends, strict=True):
        seen = set()
        for path in leaf_paths([parent for _, parent in pieces]):
            sequence = []
            for index in path:
                sequence += pieces[index][0]
                if index not in seen:
                    of_row[index] = (len(sequences), len(sequence) - 1)
            seen.update(path)
            sequences.append(sequence)
    width = _rounded_up(max(map(len, sequences)), multiple)
    input_ids = torch.full((len(sequences), width), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for index, sequence in enumerate(sequences):
        input_ids[index, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        attention_mask[index, : len(sequence)] = 1
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}
    return batch, [[sequence * width + offset for sequence, offset in of_row] for of_row in ends]


def _packed(
    rows: Sequence[list[Piece]], pad_token_id: int, multiple: int | None, side_of: SideOf | None
) -> tuple[dict[str, Any], Ends]:
    """One row of all unique tokens."""
    tree = PrefixTree()
    places = tree.add_all(rows, side_of)
    packed = tree.pack()
    spans, length = packed.spans, len(packed.input_ids)
    padding = _rounded_up(length, multiple) - length
    columns = [zip(*pieces, strict=True) for pieces in rows]  # tokens of each piece, and its parent
    if padding:  # a branch of its own, which nothing else sees
        spans = [*spans, (length, length + padding, length, length + padding)]
    batch = {
        "input_ids": torch.tensor([packed.input_ids + [pad_token_id] * padding]),
        "position_ids": torch.tensor([[*packed.position_ids, *range(padding)]]),
        "prefix_tree": {
            "spans": Spans(spans),
            "longest": max(max(packed.position_ids) + 1, padding),
            "num_tokens": sum(tokens_of_paths(list(map(len, tokens)), parents) for tokens, parents in columns),
            "num_unique_tokens": tree.size,
        },
    }
    return batch, [[-1 if place is None else tree.position(place) for place in of_row] for of_row in places]


def _rounded_up(length: int, multiple: int | None) -> int:
    return length if not multiple else -(-length // multiple) * multiple


@dataclass
class _TreeCollator:
    """What both collators are: `lay_out` is the collating of whatever rows are made of.

    Args:
        prefix_sharing: one packed prefix tree instead of padded sequences.
        tree_index: (spans, tokens) -> what `prefix_tree["index"]` should hold for the attention's kernels, made here
            because this runs in the data loader's workers.
        side_of: tokens of a sequence -> its side; sequences on different sides share no prefix. None: all may share.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None
    prefix_sharing: bool = False
    tree_index: Callable[[Iterable[Span], int], dict] | None = None
    side_of: SideOf | None = None

    def lay_out(self, rows: Sequence[list[Piece]]) -> tuple[dict[str, Any], Ends]:
        if not self.prefix_sharing:
            return _padded(rows, self.pad_token_id, self.pad_to_multiple_of)
        batch, ends = _packed(rows, self.pad_token_id, self.pad_to_multiple_of, self.side_of)
        if self.tree_index is not None:
            batch["prefix_tree"]["index"] = self.tree_index(batch["prefix_tree"]["spans"], batch["input_ids"].shape[1])
        return batch, ends


class PreferenceCollator(_TreeCollator):
    """Pairs -> a batch of 2N sequences, the chosen ones first, scored at their last tokens.

    Takes rows with `chosen_ids`, `rejected_ids`, optionally the columns of `PAIR_EXTRAS` and `rewardplug_id`.

    >>> rows = [{"chosen_ids": [1, 2, 3], "rejected_ids": [1, 4]}, {"chosen_ids": [5], "rejected_ids": [6, 7]}]
    >>> batch = PreferenceCollator(pad_token_id=0)(rows)
    >>> batch["input_ids"].tolist()
    [[1, 2, 3], [5, 0, 0], [1, 4, 0], [6, 7, 0]]
    >>> batch["score_positions"].tolist()  # rows of 3: the tokens 3, 5, 4 and 7
    [2, 3, 7, 10]
    >>> batch = PreferenceCollator(pad_token_id=0, prefix_sharing=True)(rows)
    >>> batch["input_ids"].tolist(), batch["position_ids"].tolist()
    ([[1, 2, 3, 4, 6, 7, 5]], [[0, 1, 2, 1, 0, 1, 0]])
    >>> batch["score_positions"].tolist()  # the tokens 3, 5, 4 and 7
    [2, 6, 3, 5]
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        sequences = [[(row[key], -1)] for key in ("chosen_ids", "rejected_ids") for row in rows]
        batch, ends = self.lay_out(sequences)
        batch["score_positions"] = torch.tensor([end for (end,) in ends])
        batch |= _given(rows, *PAIR_EXTRAS)
        return _with_ids(batch, rows)


class RankedCollator(_TreeCollator):
    """Ranked lists -> a batch of S completions scored at their last tokens, and `scores` (N, K), NaN if one is shorter.

    Takes rows with `completion_ids` (lists of token ids), `scores`, optionally `weight` and `rewardplug_id`.

    >>> rows = [
    ...     {"completion_ids": [[1, 2], [1, 3], [1, 4]], "scores": [2.0, 0.0, 1.0]},
    ...     {"completion_ids": [[5], [6]], "scores": [1.0, 1.0]},
    ... ]
    >>> batch = RankedCollator(pad_token_id=0, prefix_sharing=True)(rows)
    >>> batch["input_ids"].tolist(), batch["score_positions"].tolist()
    ([[1, 2, 3, 4, 5, 6]], [1, 2, 3, 4, 5])
    >>> batch["scores"].tolist()
    [[2.0, 0.0, 1.0], [1.0, 1.0, nan]]
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch, ends = self.lay_out([[(ids, -1)] for row in rows for ids in row["completion_ids"]])
        batch["score_positions"] = torch.tensor([end for (end,) in ends])
        scores = [torch.tensor(row["scores"], dtype=torch.float) for row in rows]
        batch["scores"] = pad_sequence(scores, batch_first=True, padding_value=torch.nan)
        return _with_ids(batch | _given(rows, "weight"), rows)


class ScoredCollator(_TreeCollator):
    """Scored completions -> a batch of N sequences scored at their last tokens, and `scores` (N, A), NaN if not rated.

    Takes rows with `input_ids`, `scores` (one an attribute), optionally `weight` and `rewardplug_id`.

    >>> rows = [{"input_ids": [1, 2], "scores": [4.0, 1.0]}, {"input_ids": [3], "scores": [0.0, float("nan")]}]
    >>> batch = ScoredCollator(pad_token_id=0)(rows)
    >>> batch["input_ids"].tolist(), batch["score_positions"].tolist(), batch["scores"].tolist()
    ([[1, 2], [3, 0]], [1, 2], [[4.0, 1.0], [0.0, nan]])
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch, ends = self.lay_out([[(row["input_ids"], -1)] for row in rows])
        batch["score_positions"] = torch.tensor([end for (end,) in ends])
        batch["scores"] = torch.tensor([row["scores"] for row in rows], dtype=torch.float)
        return _with_ids(batch | _given(rows, "weight"), rows)


class StepCollator(_TreeCollator):
    """Step rows -> a batch scored at each labelled step; a tree of steps is one row, and each label counts once.

    Takes rows with `input_ids`, `labels` (-100 but on labelled steps), optionally `rewardplug_id`. `input_ids` are the
    prompt and then each step's tokens; `node_lengths` and `node_parents` say where those belong (`step_nodes.py`). A
    row without them is one solution. `steps_labelled` is False where the labels are the solution's outcome. Beside the
    tokens a batch has `step_labels_S` (float, in [0, 1]), `step_rows_S`, the row of the batch that a label belongs to,
    `step_back_S`, how many labels back the labelled step before it stands (0: there is none), and where the rows say
    so `step_labelled_S`.

    >>> rows = [{"input_ids": [1, 2, 3], "labels": [-100, 1, 0]}, {"input_ids": [4, 5], "labels": [-100, 0.5]}]
    >>> batch = StepCollator(pad_token_id=0)(rows)
    >>> batch["score_positions"].tolist(), batch["step_labels"].tolist(), batch["step_rows"].tolist()
    ([1, 2, 4], [1.0, 0.0, 0.5], [0, 0, 1])
    >>> batch["step_back"].tolist()
    [0, 1, 0]

    A prompt 1 2 with the alternative steps 3 4 and 5:

    >>> tree = {
    ...     "input_ids": [1, 2, 3, 4, 5],
    ...     "labels": [-100, -100, -100, 1, 0],
    ...     "node_lengths": [2, 2, 1],
    ...     "node_parents": [-1, 0, 0],
    ... }
    >>> StepCollator(pad_token_id=0)([tree])["input_ids"].tolist()
    [[1, 2, 3, 4], [1, 2, 5, 0]]
    >>> StepCollator(pad_token_id=0, prefix_sharing=True)([tree])["input_ids"].tolist()
    [[1, 2, 3, 4, 5]]
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        pieces, labels = zip(*map(_pieces, rows), strict=True)
        batch, ends = self.lay_out(pieces)
        scored, back = [], []
        for row, (of_row, ends_of_row, labels_of_row) in enumerate(zip(pieces, ends, labels, strict=True)):
            is_labelled = [label != UNLABELLED for label in labels_of_row]
            back += steps_back(is_labelled, [parent for _, parent in of_row])
            steps = zip(ends_of_row, labels_of_row, is_labelled, strict=True)
            scored += [(end, label, row) for end, label, labelled in steps if labelled]
        positions, labels, owners = zip(*scored, strict=True) if scored else ((), (), ())
        batch["score_positions"] = torch.tensor(positions, dtype=torch.long)
        batch["step_labels"] = torch.tensor(labels, dtype=torch.float)
        batch["step_rows"] = torch.tensor(owners, dtype=torch.long)
        batch["step_back"] = torch.tensor(back, dtype=torch.long)
        if "steps_labelled" in rows[0]:
            batch["step_labelled"] = torch.tensor([rows[owner]["steps_labelled"] for owner in owners], dtype=torch.bool)
        return _with_ids(batch, rows)


def _pieces(row: dict[str, Any]) -> tuple[list[Piece], list[float]]:
    """A step row's nodes, and the label at the end of each."""
    lengths, parents = nodes_of(row)
    pieces, labels = [], []
    for (start, stop), parent in zip(pairwise(accumulate(lengths, initial=0)), parents, strict=True):
        pieces.append((row["input_ids"][start:stop], parent))
        labels.append(row["labels"][stop - 1] if stop > start else UNLABELLED)
    return pieces, labels


def _given(rows: list[dict[str, Any]], *columns: str) -> dict[str, torch.Tensor]:
    """Tensors (N,) of the columns that the rows have."""
    tensors = {}
    for column in columns:
        values = [row.get(column) for row in rows]
        missing = sum(value is None for value in values)
        if 0 < missing < len(rows):
            raise ValueError(f"'{column}' is missing in {missing} of {len(rows)} rows of a batch.")
        if not missing:
            tensors[column] = torch.tensor(values, dtype=torch.bool if column == "tie" else torch.float)
    return tensors


def _with_ids(batch: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    if EXAMPLE_ID in rows[0]:
        batch[EXAMPLE_ID] = torch.tensor([row[EXAMPLE_ID] for row in rows])
    if SUBSET in rows[0]:
        batch[SUBSET] = [row[SUBSET] or "" for row in rows]
    return batch
