"""Encoded rows to one batch of tensors with score positions.

    B sequences, L tokens of the longest, S scored positions
    input_ids_BL, attention_mask_BL   right-padded
    score_positions_S                 indices into the flattened B * L tokens

The losses see only what the head says at `score_positions`, so how the tokens are laid out is the collator's business.
"""

from dataclasses import dataclass
from typing import Any

import torch

from .canonical import EXAMPLE_ID, UNLABELLED


def _padded(sequences: list[list[int]], pad_token_id: int, multiple: int | None) -> dict[str, torch.Tensor]:
    length = max(map(len, sequences))
    if multiple:
        length = -(-length // multiple) * multiple
    input_ids = torch.full((len(sequences), length), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for index, sequence in enumerate(sequences):
        input_ids[index, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        attention_mask[index, : len(sequence)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


@dataclass
class PreferenceCollator:
    """Pairs -> a batch of 2N sequences, the chosen ones first, scored at their last tokens.

    Takes rows with `chosen_ids`, `rejected_ids`, optionally `margin` and `rewardplug_id`.

    >>> rows = [{"chosen_ids": [1, 2, 3], "rejected_ids": [1, 4]}, {"chosen_ids": [5], "rejected_ids": [6, 7]}]
    >>> batch = PreferenceCollator(pad_token_id=0)(rows)
    >>> batch["input_ids"].tolist()
    [[1, 2, 3], [5, 0, 0], [1, 4, 0], [6, 7, 0]]
    >>> batch["score_positions"].tolist()  # rows of 3: the tokens 3, 5, 4 and 7
    [2, 3, 7, 10]
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        sequences = [row["chosen_ids"] for row in rows] + [row["rejected_ids"] for row in rows]
        batch = _padded(sequences, self.pad_token_id, self.pad_to_multiple_of)
        width = batch["input_ids"].shape[1]
        batch["score_positions"] = torch.tensor([i * width + len(s) - 1 for i, s in enumerate(sequences)])
        with_margin = sum(row.get("margin") is not None for row in rows)
        if 0 < with_margin < len(rows):
            raise ValueError(f"'margin' is missing in {len(rows) - with_margin} of {len(rows)} rows of a batch.")
        if with_margin:
            batch["margin"] = torch.tensor([row["margin"] for row in rows], dtype=torch.float)
        return _with_ids(batch, rows)


@dataclass
class StepCollator:
    """Step rows -> a batch of N sequences, scored at each labelled step.

    Takes rows with `input_ids`, `labels` (-100 but on labelled steps), optionally `rewardplug_id`. Beside the tokens:
    `step_labels_S` (float, in [0, 1]) and `step_rows_S`, the row of the batch that a label belongs to.

    >>> rows = [{"input_ids": [1, 2, 3], "labels": [-100, 1, 0]}, {"input_ids": [4, 5], "labels": [-100, 0.5]}]
    >>> batch = StepCollator(pad_token_id=0)(rows)
    >>> batch["score_positions"].tolist(), batch["step_labels"].tolist(), batch["step_rows"].tolist()
    ([1, 2, 4], [1.0, 0.0, 0.5], [0, 0, 1])
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = _padded([row["input_ids"] for row in rows], self.pad_token_id, self.pad_to_multiple_of)
        width = batch["input_ids"].shape[1]
        scored = [
            (index * width + position, label, index)
            for index, row in enumerate(rows)
            for position, label in enumerate(row["labels"])
            if label != UNLABELLED
        ]
        positions, labels, owners = zip(*scored, strict=True) if scored else ((), (), ())
        batch["score_positions"] = torch.tensor(positions, dtype=torch.long)
        batch["step_labels"] = torch.tensor(labels, dtype=torch.float)
        batch["step_rows"] = torch.tensor(owners, dtype=torch.long)
        return _with_ids(batch, rows)


def _with_ids(batch: dict[str, torch.Tensor], rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    if EXAMPLE_ID in rows[0]:
        batch[EXAMPLE_ID] = torch.tensor([row[EXAMPLE_ID] for row in rows])
    return batch
