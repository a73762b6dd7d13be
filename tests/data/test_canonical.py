"""Canonical rows: what is accepted as it is, what becomes pairs or steps, and which column an error names."""

import math

import pytest

from hf_rewardplug.checks import RowError
from hf_rewardplug.data.canonical import checked_pair, checked_steps, prompt_key
from hf_rewardplug.data.expansion import row_type, to_pairs, to_steps

USER = {"role": "user", "content": "Name a prime."}
SEVEN = {"role": "assistant", "content": "7"}
EIGHT = {"role": "assistant", "content": "8"}
PAIR = {"prompt": "Name a prime.", "chosen": " 7", "rejected": " 8"}
STEPS = {"prompt": "2+2+2?", "completions": ["2+2=4", "4+2=7"], "labels": [1, 0]}


def node(text, label, parent):
    return {"text": text, "label": label, "parent": parent}


def test_row_types():
    assert row_type(PAIR) == "preference"
    assert row_type({"prompt": "p", "completions": ["a"], "scores": [1]}) == "ranked"
    assert row_type(STEPS) == "stepwise"
    assert row_type({"prompt": "p", "nodes": []}) == "step_tree"
    with pytest.raises(RowError, match=r"it has \['chosen', 'text'\]"):
        row_type({"text": "a", "chosen": "b"})


# ---- pairs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"chosen": "Name a prime. 7", "rejected": "Name a prime. 8"},
        {**PAIR, "prompt": ""},
        {**PAIR, "margin": 0.5},
        {"prompt": [USER], "chosen": [SEVEN], "rejected": [EIGHT]},
        {"chosen": [USER, SEVEN], "rejected": [USER, EIGHT], "chat_template_kwargs": {"enable_thinking": False}},
        {"prompt": [USER], "chosen": [SEVEN], "rejected": [EIGHT], "tools": [{"type": "function"}]},
    ],
)
def test_good_pairs_pass_as_they_are(row):
    assert to_pairs(row) == [row]


def test_what_arrow_adds_is_taken_away():
    row = {
        "prompt": None,
        "chosen": [{**USER, "name": None}, {**SEVEN, "tool_calls": None}],
        "rejected": [USER, {"role": "assistant", "content": None, "tool_calls": [{"function": "f"}]}],
        "tools": '[{"type": "function"}]',
        "chat_template_kwargs": None,
    }
    assert checked_pair(row) == {
        "chosen": [USER, SEVEN],
        "rejected": [USER, {"role": "assistant", "tool_calls": [{"function": "f"}]}],
        "tools": [{"type": "function"}],
    }
    assert "prompt" not in checked_pair({**row, "prompt": []})


def test_text_parts_become_one_text():
    """Gemma's and Llama 3's templates would write the Python list into the prompt."""
    parts = [{"type": "text", "text": "Name "}, {"type": "text", "text": "a prime."}]
    row = {"prompt": [{"role": "user", "content": parts}], "chosen": [SEVEN], "rejected": [EIGHT]}
    assert checked_pair(row)["prompt"] == [USER]


@pytest.mark.parametrize(
    ("changed", "column"),
    [
        ({"chosen": None}, "chosen"),
        ({"rejected": ""}, "rejected"),
        ({"rejected": []}, "rejected"),
        ({"prompt": 3}, "prompt"),
        ({"chosen": "\ud800"}, "chosen"),
        ({"prompt": [USER], "chosen": [{"role": "assistant", "content": None}], "rejected": [EIGHT]}, "chosen"),
        ({"prompt": [USER], "chosen": [SEVEN], "rejected": [{"role": None, "content": "8"}]}, "rejected"),
        ({"prompt": [{"role": "user", "content": "\udfff"}], "chosen": [SEVEN], "rejected": [EIGHT]}, "prompt"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image"}]}], "chosen": [SEVEN], "rejected": [SEVEN]},
            "prompt",
        ),
        ({"prompt": [{"role": "user", "content": []}], "chosen": [SEVEN], "rejected": [SEVEN]}, "prompt"),
        ({"prompt": ["Name a prime."], "chosen": [SEVEN], "rejected": [EIGHT]}, "prompt"),
        ({"margin": None}, "margin"),
        ({"margin": math.nan}, "margin"),
        ({"margin": math.inf}, "margin"),
        ({"margin": "1"}, "margin"),
        ({"margin": True}, "margin"),
        ({"tools": "[{"}, "tools"),
        ({"chat_template_kwargs": "enable_thinking"}, "chat_template_kwargs"),
    ],
)
def test_a_bad_pair_names_the_column(changed, column):
    with pytest.raises(RowError, match=f"^column '{column}': "):
        checked_pair({**PAIR, **changed})


def test_text_and_messages_are_not_mixed():
    with pytest.raises(RowError, match=r"mixed \(prompt: list, chosen: str, rejected: str\)"):
        checked_pair({**PAIR, "prompt": [USER]})


# ---- ranked --------------------------------------------------------------------------------------------------------


def test_ranked_gives_every_pair_whose_scores_differ_best_first():
    row = {"prompt": "p", "completions": ["a", "b", "c", "d"], "scores": [0.5, 2, 0.5, -1]}
    pairs = [(pair["chosen"], pair["rejected"]) for pair in to_pairs(row)]
    assert pairs == [("b", "a"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
    assert {pair["prompt"] for pair in to_pairs(row)} == {"p"}


def test_ranked_keeps_what_the_template_needs():
    rest = {"prompt": [USER], "tools": [{"type": "function"}], "chat_template_kwargs": {"a": 1}}
    row = {**rest, "completions": [[SEVEN], [EIGHT]], "scores": [1, 0], "source": "x"}
    assert to_pairs(row) == [{**rest, "chosen": [SEVEN], "rejected": [EIGHT]}]


def test_ties_give_no_pair():
    assert to_pairs({"prompt": "p", "completions": ["a", "b"], "scores": [1.0, 1]}) == []


@pytest.mark.parametrize(
    ("changed", "column"),
    [
        ({"scores": [1]}, "scores"),
        ({"scores": [1, None]}, "scores"),
        ({"scores": [1, math.nan]}, "scores"),
        ({"scores": None}, "scores"),
        ({"completions": None}, "completions"),
        ({"completions": []}, "completions"),
        ({"completions": ["a", None]}, "completions"),
        ({"completions": ["a", ""], "scores": [1, 1]}, "completions"),  # a tie hides no bad answer
    ],
)
def test_a_bad_ranked_row_names_the_column(changed, column):
    with pytest.raises(RowError, match=f"^column '{column}': "):
        to_pairs({"prompt": "p", "completions": ["a", "b"], "scores": [1, 2], **changed})


# ---- steps and trees -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "checked"),
    [
        ([True, False], [1, 0]),
        ([1, 0], [1, 0]),
        ([1.0, 0.25], [1.0, 0.25]),  # never cut to int
        ([-100, 0.9], [-100, 0.9]),
        ([-100, -100], [-100, -100]),
    ],
)
def test_labels(labels, checked):
    found = checked_steps({**STEPS, "labels": labels})["labels"]
    assert found == checked
    assert not any(isinstance(label, bool) for label in found)


@pytest.mark.parametrize("label", [-1, 2, 1.5, -0.1, math.nan, None, "1", [1]])
def test_a_bad_label_names_its_place_and_the_remedy(label):
    with pytest.raises(RowError, match=r"^column 'labels': label 1 is .*Map other ratings"):
        to_steps({**STEPS, "labels": [1, label]})


@pytest.mark.parametrize(
    ("changed", "column"),
    [
        ({"labels": [1]}, "labels"),
        ({"labels": [1, 0, 1]}, "labels"),
        ({"labels": None}, "labels"),
        ({"completions": []}, "completions"),
        ({"completions": None}, "completions"),
        ({"completions": ["2+2=4", ""]}, "completions"),
        ({"completions": ["2+2=4", " \n"]}, "completions"),
        ({"completions": ["2+2=4", None]}, "completions"),
        ({"completions": "2+2=4"}, "completions"),
        ({"prompt": None}, "prompt"),
    ],
)
def test_a_bad_step_row_names_the_column(changed, column):
    with pytest.raises(RowError, match=f"^column '{column}': "):
        to_steps({**STEPS, **changed})


def test_step_rows_keep_only_what_is_trained_on():
    assert to_steps({**STEPS, "id": 7, "tools": None}) == [STEPS]
    assert to_steps({**STEPS, "prompt": ""})[0]["prompt"] == ""


def test_a_tree_is_one_row():
    nodes = [node("a", 1, -1), node("b", 0, 0), node("c", True, 0), node("d", 0.5, 2), node("e", -100, 2)]
    assert to_steps({"prompt": "p", "nodes": nodes}) == [
        {
            "prompt": "p",
            "completions": ["a", "b", "c", "d", "e"],
            "labels": [1, 0, 1, 0.5, -100],
            "parents": [-1, 0, 0, 2, 2],
        }
    ]


def test_prompt_keys_are_equal_where_prompts_are():
    same = [prompt_key({"prompt": prompt, "chosen": answer, "rejected": "c"}) for prompt, answer in ("pa", "pb", "qa")]
    assert same[0] == same[1] != same[2] and all(0 <= key < 2**63 for key in same)
    hh = [{"role": "user", "content": "Hi"}], [{"role": "assistant", "content": "Yo"}], [{"role": "assistant"}]
    assert prompt_key({"chosen": hh[0] + hh[1], "rejected": hh[0] + hh[2]}) == prompt_key({"prompt": hh[0]})
    ids = [{"chosen_ids": [*prompt, 8, 9], "rejected_ids": [*prompt, 7, 9]} for prompt in ([1, 2], [1, 2], [1, 3])]
    assert prompt_key(ids[0]) == prompt_key(ids[1]) != prompt_key(ids[2])
    assert prompt_key({"input_ids": [1, 2], "labels": [-100, 1]}) != prompt_key({"input_ids": [1, 3]})


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        None,
        ["a"],
        [node("a", 1, None)],
        [node("a", 1, 0)],  # its own parent
        [node("a", 1, -1), node("b", 1, 2), node("c", 1, 1)],  # a circle
        [node("a", 1, -2)],
        [node("a", 1, True)],
        [node("", 1, -1)],
        [node("a", None, -1)],
        [{"text": "a", "parent": -1}],
    ],
)
def test_a_bad_tree_names_its_column(nodes):
    with pytest.raises(RowError, match=r"^column 'nodes': "):
        to_steps({"prompt": "p", "nodes": nodes})


def test_rows_of_the_other_kind_name_the_right_trainer():
    with pytest.raises(RowError, match=r"stepwise row cannot train an outcome reward model\. Use PRMTrainer"):
        to_pairs(STEPS)
    with pytest.raises(RowError, match=r"preference row cannot train a process reward model\. Use RewardTrainer"):
        to_steps(PAIR)
