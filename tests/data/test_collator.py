"""Batches: padding, score positions, margins and labels, each derived by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
        "step_back": torch.int64,
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


# ---- packed: one row of unique tokens ------------------------------------------------------------------------------

TREE = {
    "input_ids": [1, 2, 3, 4, 5, 6],
    "labels": [-100.0, -100.0, -100.0, 1.0, 0.0, 0.5],
    "node_lengths": [2, 2, 1, 1],
    "node_parents": [-1, 0, 0, 1],
}
"""1 2, then 3 4 or 5, and 6 behind 3 4"""
FLAT = {"input_ids": [1, 2, 3, 7], "labels": [-100.0, -100.0, 0.25, 1.0]}
"""on the tree's way up to 3"""


def pad(collator, rows, **options):
    return collator(pad_token_id=0, **options)(rows)


def pack(collator, rows, **options):
    return collator(pad_token_id=0, prefix_sharing=True, **options)(rows)


def test_packed_pairs_share_across_rows_and_are_scored_chosen_first():
    batch = pack(PreferenceCollator, PAIRS)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 6, 7, 5]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 1, 0, 1, 0]]
    assert batch["score_positions"].tolist() == [2, 6, 3, 5]  # 3 and 5, 4 and 7
    assert batch["prefix_tree"] == {
        "spans": [(0, 3, 0, 3), (3, 4, 3, 4), (4, 6, 4, 6), (6, 7, 6, 7), (3, 4, 0, 1)],
        "longest": 3,
        "num_tokens": 8,
        "num_unique_tokens": 7,
    }
    assert set(batch) == {"input_ids", "position_ids", "prefix_tree", "score_positions"}


@pytest.mark.parametrize(
    ("multiple", "padding", "span", "longest"),
    [(None, 0, [], 3), (7, 0, [], 3), (4, 1, [(7, 8, 7, 8)], 3), (16, 9, [(7, 16, 7, 16)], 9)],
)
def test_the_padding_of_a_packed_row_is_a_span_of_its_own(multiple, padding, span, longest):
    batch, bare = (pack(PreferenceCollator, PAIRS, pad_to_multiple_of=number) for number in (multiple, None))
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 6, 7, 5] + [0] * padding]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 1, 0, 1, 0, *range(padding)]]
    assert sorted(batch["prefix_tree"]["spans"]) == sorted([*bare["prefix_tree"]["spans"], *span])
    assert batch["score_positions"].tolist() == [2, 6, 3, 5]
    figures = {key: batch["prefix_tree"][key] for key in ("longest", "num_tokens", "num_unique_tokens")}
    assert figures == {"longest": longest, "num_tokens": 8, "num_unique_tokens": 7}


def test_equal_sequences_of_a_packed_batch_are_scored_at_one_token():
    rows = [{"chosen_ids": [1, 2], "rejected_ids": [1, 3]}, {"chosen_ids": [1, 2], "rejected_ids": [1]}]
    batch = pack(PreferenceCollator, rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3]]
    assert batch["score_positions"].tolist() == [1, 1, 2, 0]
    assert (batch["prefix_tree"]["num_tokens"], batch["prefix_tree"]["num_unique_tokens"]) == (7, 3)


def test_a_packed_tree_of_steps_shares_with_a_flat_row_and_labels_stand_row_by_row():
    batch = pack(StepCollator, [TREE, FLAT])
    #                                     0  1  2  3  4  5  6
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 6, 7, 5]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 2]]
    assert sorted(batch["prefix_tree"].pop("spans")) == [
        *((0, 5, 0, 5), (5, 6, 0, 3), (5, 6, 5, 6), (6, 7, 0, 2), (6, 7, 6, 7)),
    ]
    assert batch["prefix_tree"] == {"longest": 5, "num_tokens": 5 + 3 + 4, "num_unique_tokens": 7}
    assert batch["score_positions"].tolist() == [3, 6, 4, 2, 5]  # 4, 5 and 6, 3 and 7
    assert batch["step_labels"].tolist() == [1.0, 0.0, 0.5, 0.25, 1.0]
    assert batch["step_rows"].tolist() == [0, 0, 0, 1, 1]


def test_the_padded_twin_of_a_tree_is_its_paths():
    batch = pad(StepCollator, [TREE, FLAT])
    assert batch["input_ids"].tolist() == [[1, 2, 5, 0, 0], [1, 2, 3, 4, 6], [1, 2, 3, 7, 0]]
    assert batch["attention_mask"].sum(1).tolist() == [3, 5, 4]
    assert batch["score_positions"].tolist() == [8, 2, 9, 12, 13]
    assert batch["step_labels"].tolist() == [1.0, 0.0, 0.5, 0.25, 1.0]
    assert batch["step_rows"].tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("sharing", "input_ids", "positions"),
    [(False, [[1, 2, 3], [1, 2, 4]], [1, 2, 5]), (True, [[1, 2, 3, 4]], [1, 2, 3])],
)
def test_a_step_of_two_paths_is_scored_once_at_the_first(sharing, input_ids, positions):
    row = {
        "input_ids": [1, 2, 3, 4],
        "labels": [-100, 1, 0, 0.5],
        "node_lengths": [1, 1, 1, 1],
        "node_parents": [-1, 0, 1, 1],
    }
    batch = StepCollator(pad_token_id=0, prefix_sharing=sharing)([row])
    assert batch["input_ids"].tolist() == input_ids
    assert batch["score_positions"].tolist() == positions
    assert batch["step_labels"].tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("sharing", "input_ids", "positions"), [(False, [[1, 2], [1, 2]], [1, 3]), (True, [[1, 2]], [1, 1])]
)
def test_equal_alternatives_keep_a_label_each(sharing, input_ids, positions):
    row = {"input_ids": [1, 2, 2], "labels": [-100, 1, 0], "node_lengths": [1, 1, 1], "node_parents": [-1, 0, 0]}
    batch = StepCollator(pad_token_id=0, prefix_sharing=sharing)([row])
    assert batch["input_ids"].tolist() == input_ids
    assert batch["score_positions"].tolist() == positions
    assert batch["step_labels"].tolist() == [1.0, 0.0]
    if sharing:
        assert batch["prefix_tree"] == {
            "spans": [(0, 2, 0, 2)],
            "longest": 2,
            "num_tokens": 4,
            "num_unique_tokens": 2,
        }


@pytest.mark.parametrize(
    ("sharing", "input_ids", "positions"), [(False, [[3, 4], [5, 0]], [1, 2]), (True, [[3, 4, 5]], [1, 2])]
)
def test_a_tree_without_a_prompt(sharing, input_ids, positions):
    row = {"input_ids": [3, 4, 5], "labels": [-100, 1, 0], "node_lengths": [0, 2, 1], "node_parents": [-1, 0, 0]}
    batch = StepCollator(pad_token_id=0, prefix_sharing=sharing)([row])
    assert batch["input_ids"].tolist() == input_ids
    assert batch["score_positions"].tolist() == positions
    assert batch["step_labels"].tolist() == [1.0, 0.0]
    if sharing:
        assert batch["position_ids"].tolist() == [[0, 1, 0]]
        assert batch["prefix_tree"]["spans"] == [(0, 2, 0, 2), (2, 3, 2, 3)]


def test_tokens_behind_the_last_label_of_a_packed_row_stay():
    batch = pack(StepCollator, [{"input_ids": [1, 2, 3], "labels": [-100, 1, -100]}])
    assert batch["input_ids"].tolist() == [[1, 2, 3]]
    assert batch["score_positions"].tolist() == [1]
    assert batch["prefix_tree"] == {"spans": [(0, 3, 0, 3)], "longest": 3, "num_tokens": 3, "num_unique_tokens": 3}


@pytest.mark.parametrize("nodes", [{}, {"node_lengths": None, "node_parents": None}, {"node_lengths": []}])
def test_a_row_without_nodes_is_one_solution(nodes):
    rows = [{**FLAT, **nodes}, TREE]
    assert pad(StepCollator, rows)["score_positions"].tolist() == [2, 3, 13, 7, 14]  # width 5
    assert pack(StepCollator, rows)["score_positions"].tolist() == [2, 5, 3, 6, 4]


def test_a_packed_batch_without_a_labelled_step_has_empty_tensors():
    batch = pack(StepCollator, [{"input_ids": [1, 2], "labels": [-100, -100]}])
    assert batch["score_positions"].tolist() == batch["step_labels"].tolist() == batch["step_rows"].tolist() == []


def test_a_packed_batch_has_the_types_margins_and_ids_of_a_padded_one():
    pairs = [{**row, "margin": 0.5, "rewardplug_id": number} for number, row in enumerate(PAIRS)]
    steps = [{**row, "rewardplug_id": number} for number, row in enumerate([TREE, FLAT])]
    for collator, rows in ((PreferenceCollator, pairs), (StepCollator, steps)):
        packed, padded = pack(collator, rows), pad(collator, rows)
        assert packed["input_ids"].dtype == packed["position_ids"].dtype == torch.int64
        assert packed["rewardplug_id"].tolist() == [0, 1]
        for key in padded.keys() - {"input_ids", "attention_mask"}:
            assert packed[key].dtype == padded[key].dtype and packed[key].shape == padded[key].shape
    assert pack(PreferenceCollator, pairs)["margin"].tolist() == [0.5, 0.5]


TOKENS = st.lists(st.integers(1, 3), min_size=1, max_size=4)
LABELS = st.sampled_from([-100.0, 0.0, 0.5, 1.0])


@st.composite
def pair_rows(draw):
    return draw(st.lists(st.fixed_dictionaries({"chosen_ids": TOKENS, "rejected_ids": TOKENS}), min_size=1, max_size=6))


@st.composite
def step_rows(draw):
    """Solutions, some with tokens behind their last label, and trees, some without a prompt."""
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        nodes = draw(st.lists(st.tuples(TOKENS, LABELS), min_size=1, max_size=6))
        if is_tree := draw(st.booleans()):
            nodes.insert(0, (draw(st.lists(st.integers(1, 3), max_size=3)), -100.0))
        row = {"input_ids": [token for tokens, _ in nodes for token in tokens], "labels": []}
        for tokens, label in nodes:
            row["labels"] += [-100.0] * (len(tokens) - 1) + [label] * bool(tokens)
        if is_tree:
            row["node_lengths"] = [len(tokens) for tokens, _ in nodes]
            row["node_parents"] = [-1, *(draw(st.integers(0, node - 1)) for node in range(1, len(nodes)))]
        rows.append(row)
    return rows


def seen(batch: dict, query: int) -> list[int]:
    """The tokens that a packed token sees, in order, by the meaning of the spans."""
    keys = []
    for q0, q1, k0, k1 in batch["prefix_tree"]["spans"]:
        if q0 <= query < q1:
            keys += range(k0, query + 1 if (q0, q1) == (k0, k1) else k1)
    assert batch["position_ids"][0, sorted(keys)].tolist() == list(range(len(keys)))
    return batch["input_ids"][0, sorted(keys)].tolist()


@pytest.mark.parametrize(("collator", "rows"), [(PreferenceCollator, pair_rows()), (StepCollator, step_rows())])
@given(data=st.data(), multiple=st.sampled_from([None, 1, 8]))
@settings(max_examples=120, deadline=None)
def test_scores_see_in_a_packed_batch_what_they_see_in_a_padded_one(collator, rows, data, multiple):
    rows = data.draw(rows)
    packed, padded = (layout(collator, rows, pad_to_multiple_of=multiple) for layout in (pack, pad))
    width = padded["input_ids"].shape[1]
    expected = []
    for sequence, offset in (divmod(position, width) for position in padded["score_positions"].tolist()):
        assert padded["attention_mask"][sequence, : offset + 1].all()
        expected.append(padded["input_ids"][sequence, : offset + 1].tolist())
    assert [seen(packed, position) for position in packed["score_positions"].tolist()] == expected
    for key in {"step_labels", "step_rows"} & padded.keys():
        assert packed[key].tolist() == padded[key].tolist()
    tree, length = packed["prefix_tree"], packed["input_ids"].numel()
    assert tree["num_tokens"] == padded["attention_mask"].sum()
    sequences = [
        row[mask.bool()].tolist() for row, mask in zip(*map(padded.get, ("input_ids", "attention_mask")), strict=True)
    ]
    prefixes = {tuple(sequence[: n + 1]) for sequence in sequences for n in range(len(sequence))}
    assert tree["num_unique_tokens"] == len(prefixes)
    assert length == len(prefixes) + (-len(prefixes)) % (multiple or 1)
    assert tree["longest"] == max(packed["position_ids"].max() + 1, *map(len, sequences))
