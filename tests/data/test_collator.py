"""Batches: padding, score positions, margins and labels, each derived by hand."""

import pytest
import torch

from hf_rewardplug.data.collator import PreferenceCollator, StepCollator

#                    chosen            rejected
PAIRS = [
    {"chosen_ids": [1, 2, 3], "rejected_ids": [1, 4]},
    {"chosen_ids": [5], "rejected_ids": [6, 7]},
]
STEPS = [
    {"input_ids": [1, 2, 3, 4], "labels": [-100.0, 1.0, -100.0, 0.25]},
    {"input_ids": [5, 6], "labels": [-100.0, 0.0]},
]


def test_pairs_stand_chosen_first_and_are_scored_at_their_last_tokens():
    batch = PreferenceCollator(pad_token_id=0)(PAIRS)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [5, 0, 0], [1, 4, 0], [6, 7, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 0]]
    assert batch["input_ids"].flatten()[batch["score_positions"]].tolist() == [3, 5, 4, 7]
    assert set(batch) == {"input_ids", "attention_mask", "score_positions"}


def test_pad_ids_within_a_sequence_are_attended_and_scored():
    """Positions come from lengths, not from a search for the pad id (transformers#35352)."""
    batch = PreferenceCollator(pad_token_id=9)([{"chosen_ids": [1, 9], "rejected_ids": [1, 2, 9]}])
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["score_positions"].tolist() == [1, 5]


@pytest.mark.parametrize(("multiple", "width"), [(None, 3), (1, 3), (3, 3), (2, 4), (8, 8)])
def test_pad_to_multiple_of(multiple, width):
    batch = PreferenceCollator(pad_token_id=0, pad_to_multiple_of=multiple)(PAIRS)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (4, width)
    assert batch["input_ids"].flatten()[batch["score_positions"]].tolist() == [3, 5, 4, 7]
    steps = StepCollator(pad_token_id=0, pad_to_multiple_of=3)(STEPS)
    assert steps["score_positions"].tolist() == [1, 3, 7]


def test_margins_are_for_all_rows_or_for_none():
    collate = PreferenceCollator(pad_token_id=0)
    batch = collate([{**PAIRS[0], "margin": 0.5}, {**PAIRS[1], "margin": 0.0}])
    assert batch["margin"].tolist() == [0.5, 0.0]
    assert batch["margin"].dtype == torch.float32
    assert "margin" not in collate([{**row, "margin": None} for row in PAIRS])
    with pytest.raises(ValueError, match="'margin' is missing in 1 of 2 rows"):
        collate([{**PAIRS[0], "margin": 0.5}, PAIRS[1]])
    with pytest.raises(ValueError, match="'margin' is missing in 1 of 2 rows"):
        collate([{**PAIRS[0], "margin": None}, {**PAIRS[1], "margin": 0.0}])


def test_steps_are_scored_where_they_are_labelled():
    batch = StepCollator(pad_token_id=0)(STEPS)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [5, 6, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["score_positions"].tolist() == [1, 3, 5]
    assert batch["step_labels"].tolist() == [1.0, 0.25, 0.0]
    assert batch["step_rows"].tolist() == [0, 0, 1]


def test_the_types_are_those_that_losses_and_indexing_take():
    batch = StepCollator(pad_token_id=0)([{"input_ids": [1, 2], "labels": [-100, 1]}])
    assert {key: value.dtype for key, value in batch.items()} == {
        "input_ids": torch.int64,
        "attention_mask": torch.int64,
        "score_positions": torch.int64,
        "step_labels": torch.float32,
        "step_rows": torch.int64,
    }


def test_a_batch_without_a_labelled_step_has_empty_tensors():
    batch = StepCollator(pad_token_id=0)([{"input_ids": [1, 2], "labels": [-100, -100]}])
    assert batch["score_positions"].tolist() == batch["step_labels"].tolist() == batch["step_rows"].tolist() == []
    assert batch["score_positions"].dtype == batch["step_rows"].dtype == torch.int64


@pytest.mark.parametrize(("collator", "rows"), [(PreferenceCollator, PAIRS), (StepCollator, STEPS)])
def test_example_ids_pass_through_one_a_row(collator, rows):
    ids = [2**63 - 1, 4]  # a stream's have 63 bits
    batch = collator(pad_token_id=0)([{**row, "rewardplug_id": number} for row, number in zip(rows, ids, strict=True)])
    assert batch["rewardplug_id"].tolist() == ids
    assert "rewardplug_id" not in collator(pad_token_id=0)(rows)


def test_rows_are_not_changed():
    rows = [{"chosen_ids": [1], "rejected_ids": [2, 3], "margin": 1.0, "rewardplug_id": 0, "source": "kept out"}]
    assert "source" not in PreferenceCollator(pad_token_id=0, pad_to_multiple_of=4)(rows)
    assert rows == [
        {"chosen_ids": [1], "rejected_ids": [2, 3], "margin": 1.0, "rewardplug_id": 0, "source": "kept out"}
    ]
