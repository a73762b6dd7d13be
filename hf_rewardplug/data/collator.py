"""Encoded rows to one batch of tensors with score positions.

    B sequences, L tokens of the longest, T unique tokens, S scored positions

    padded    input_ids_BL, attention_mask_BL, right-padded       score_positions_S in the flattened B * L tokens
    packed    input_ids_1T, position_ids_1T, prefix_tree          score_positions_S in the T tokens

`prefix_tree` holds `spans` (see `prefix_tree.py`), `longest` (tokens of the longest sequence), `num_tokens` (of all
sequences) and `num_unique_tokens`; and where the trainer asks for it `index`, tensors for the attention's kernels.

The losses see only the head's output at `score_positions`, so the collator alone decides how the tokens are laid out:
with `prefix_sharing=True` a batch is one packed prefix tree (`prefix_tree.py`), else it is padded and each sequence
(of a tree of steps, each path) is whole.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, compress
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ..figures import steps_back
from .canonical import EXAMPLE_ID, PAIR_EXTRAS, SUBSET, UNLABELLED
from .prefix_tree import Piece, PrefixTree, SideOf, Span, leaf_paths, path_lengths, tokens_of_paths
from .spans import Spans
from .step_nodes import pieces_of

Ends = list[list[int]]
"""a row's pieces -> the index of each one's last token in the flattened batch"""


def _padded(rows: Sequence[list[Piece]], pad_token_id: int, multiple: int | None) -> tuple[dict[str, Any], Ends]:
    """Each leaf of each row gives one row of the batch. A piece has its end in the first sequence that holds it."""
    sequences: list[list[int]] = []
    ends = []
    for pieces in rows:
        tokens, parents = zip(*pieces, strict=True)
        holder: dict[int, int] = {}  # piece -> its first sequence
        for path in leaf_paths(parents):
            for index in path:
                holder.setdefault(index, len(sequences))
            sequences.append([*chain.from_iterable(tokens[index] for index in path)])
        stops = path_lengths([*map(len, tokens)], parents)
        ends.append([(holder[index], stop - 1) for index, stop in enumerate(stops)])
    lengths = [*map(len, sequences)]
    width = _rounded_up(max(lengths), multiple)
    input_ids = torch.full((len(sequences), width), pad_token_id)
    for ids, tokens in zip(input_ids, sequences, strict=True):
        ids[: len(tokens)] = torch.tensor(tokens)
    attention_mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}
    return batch, [[sequence * width + offset for sequence, offset in of_row] for of_row in ends]


def _packed(
    rows: Sequence[list[Piece]], pad_token_id: int, multiple: int | None, side_of: SideOf | None
) -> tuple[dict[str, Any], Ends]:
    """One row that holds every unique token once."""
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
    """What all collators share: `lay_out` makes a batch of the rows' token lists, padded or packed.

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

    def _scored_at_ends(self, rows: list[dict], sequences: Sequence[list[Piece]], **columns: Any) -> dict[str, Any]:
        """The batch of sequences of one piece each, with what stands beside them in its rows."""
        batch, ends = self.lay_out(sequences)
        batch["score_positions"] = torch.tensor([end for (end,) in ends])
        return _with_ids(batch | columns, rows)


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
        chosen, rejected = zip(*map(pieces_of, rows), strict=True)
        return self._scored_at_ends(rows, [*chosen, *rejected], **_tensors(rows, *PAIR_EXTRAS))


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
        scores = [torch.tensor(row["scores"], dtype=torch.float) for row in rows]
        scores = pad_sequence(scores, batch_first=True, padding_value=torch.nan)
        completions = [*chain.from_iterable(map(pieces_of, rows))]
        return self._scored_at_ends(rows, completions, scores=scores, **_tensors(rows, "weight"))


class ScoredCollator(_TreeCollator):
    """Scored completions -> a batch of N sequences scored at their last tokens, and `scores` (N, A), NaN if not rated.

    Takes rows with `input_ids`, `scores` (one an attribute), optionally `weight` and `rewardplug_id`.

    >>> rows = [{"input_ids": [1, 2], "scores": [4.0, 1.0]}, {"input_ids": [3], "scores": [0.0, float("nan")]}]
    >>> batch = ScoredCollator(pad_token_id=0)(rows)
    >>> batch["input_ids"].tolist(), batch["score_positions"].tolist(), batch["scores"].tolist()
    ([[1, 2], [3, 0]], [1, 2], [[4.0, 1.0], [0.0, nan]])
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        scores = torch.tensor([row["scores"] for row in rows], dtype=torch.float)
        completions = [[(row["input_ids"], -1)] for row in rows]
        return self._scored_at_ends(rows, completions, scores=scores, **_tensors(rows, "weight"))


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
        pieces = [steps for row in rows for steps in pieces_of(row)]
        batch, ends = self.lay_out(pieces)
        positions, labels, owners, back = [], [], [], []
        for owner, row in enumerate(rows):
            node_labels = _node_labels(row, pieces[owner])
            is_labelled = [label != UNLABELLED for label in node_labels]
            positions += compress(ends[owner], is_labelled)
            labels += compress(node_labels, is_labelled)
            owners += [owner] * sum(is_labelled)
            back += steps_back(is_labelled, [parent for _, parent in pieces[owner]])
        batch["score_positions"] = torch.tensor(positions, dtype=torch.long)
        batch["step_labels"] = torch.tensor(labels, dtype=torch.float)
        batch["step_rows"] = torch.tensor(owners, dtype=torch.long)
        batch["step_back"] = torch.tensor(back, dtype=torch.long)
        if "steps_labelled" in rows[0]:
            batch["step_labelled"] = torch.tensor([rows[owner]["steps_labelled"] for owner in owners], dtype=torch.bool)
        return _with_ids(batch, rows)


def _node_labels(row: dict[str, Any], pieces: list[Piece]) -> list[float]:
    """The label at the end of each node of a step row. An empty node, which a prompt may be, has none."""
    stops = accumulate(len(tokens) for tokens, _ in pieces)
    return [row["labels"][stop - 1] if tokens else UNLABELLED for stop, (tokens, _) in zip(stops, pieces, strict=True)]


def _tensors(rows: list[dict[str, Any]], *columns: str) -> dict[str, torch.Tensor]:
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
