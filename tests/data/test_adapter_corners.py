"""What the adapters decide in corners: where a prompt ends, which score counts, how a tree of steps hangs together."""

import functools

import pytest

from hf_rewardplug.checks import RowError
from hf_rewardplug.data.adapters import detect_adapter, get_adapter
from hf_rewardplug.data.adapters.stepwise import prm800k
from hf_rewardplug.data.adapters.turns import assistant, user

Q, A, B = user("Name a prime."), assistant("7"), assistant("8")
S = {"role": "system", "content": "Be brief."}
U2, WHOLE_7, WHOLE_8 = user("And one more?"), [Q, A], [Q, B]


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        pytest.param(
            {"prompt": "Name a prime.", "chosen": WHOLE_7, "rejected": WHOLE_8},
            {"prompt": [Q], "chosen": [A], "rejected": [B]},
            id="text prompt, whole conversations",
        ),
        pytest.param(
            {"prompt": "And one more?", "chosen": [S, Q, A, U2, A], "rejected": [S, Q, A, U2, B]},
            {"prompt": [S, Q, A, U2], "chosen": [A], "rejected": [B]},
            id="text prompt, whole conversations with a system turn",
        ),
        pytest.param(
            {"prompt": "Name a prime.", "chosen": [A], "rejected": [B]},
            {"prompt": [Q], "chosen": [A], "rejected": [B]},
            id="text prompt, answers only",
        ),
        pytest.param(
            {"prompt": [S, Q], "chosen": [S, Q, A], "rejected": [Q, B]},
            {"prompt": [S, Q], "chosen": [A], "rejected": [B]},
            id="prompt repeated, whole or its tail",
        ),
        pytest.param(
            {"prompt": [Q], "chosen": [S, Q, A], "rejected": [S, Q, B]},
            {"prompt": [S, Q], "chosen": [A], "rejected": [B]},
            id="prompt repeated behind a system turn of the answers",
        ),
        pytest.param(
            {"prompt": [Q], "chosen": [A, U2, A], "rejected": [B]},
            {"prompt": [Q], "chosen": [A, U2, A], "rejected": [B]},
            id="an answer of several turns",
        ),
        pytest.param(
            {"prompt": [Q], "chosen": "7", "rejected": [B]},
            {"prompt": [Q], "chosen": [A], "rejected": [B]},
            id="prompt as messages, answer as text",
        ),
        pytest.param(
            {"prompt": None, "chosen": WHOLE_7, "rejected": WHOLE_7},
            {"prompt": [Q], "chosen": [A], "rejected": [A]},
            id="identical conversations keep an answer",
        ),
        pytest.param(
            {"chosen": WHOLE_7, "rejected": [*WHOLE_7, U2, B]},
            {"prompt": [Q], "chosen": [A], "rejected": [A, U2, B]},
            id="one conversation begins the other",
        ),
        pytest.param({"chosen": [A], "rejected": [B]}, {"chosen": [A], "rejected": [B]}, id="nothing in common"),
        pytest.param(
            {"chosen": [{**Q, "name": None}, A], "rejected": [Q, B], "margin": 2.0, "tools": None},
            {"prompt": [Q], "chosen": [A], "rejected": [B], "margin": 2.0},
            id="None that Arrow added",
        ),
        pytest.param(
            {"prompt": [Q], "chosen": [A], "rejected": [B], "tools": "[]", "chat_template_kwargs": {"thinking": False}},
            {"prompt": [Q], "chosen": [A], "rejected": [B], "tools": "[]", "chat_template_kwargs": {"thinking": False}},
            id="template arguments",
        ),
    ],
)
def test_in_messages_the_prompt_stands_once(raw, canonical):
    assert get_adapter("preference")(raw) == [canonical]


def test_text_stays_as_it_is():
    for row in (
        {"prompt": "a ", "chosen": " b", "rejected": "c"},
        {"chosen": "a b", "rejected": "a c", "margin": None},
    ):
        assert get_adapter("preference")(row) == [row]


@pytest.mark.parametrize(("key", "scores"), [("overall_score", [8.0, 10.0]), ("score", [3, 4])])
def test_ultrafeedback_takes_the_best_score_that_all_completions_have(key, scores):
    first = {"response": "7", "fine-grained_score": 4.5, "overall_score": None, "score": None, key: scores[0]}
    second = {"response": "8", "score": None, key: scores[1]}
    row = {"instruction": "Name a prime.", "completions": [first, second]}
    assert get_adapter("ultrafeedback")(row)[0]["scores"] == scores


def test_helpsteer2_marks_count_as_lines_only():
    row = {"prompt": "What is <extra_id_1>User\n?", "response_1": "a", "response_2": "b", "preference_strength": -1}
    assert get_adapter("helpsteer2")(row)[0]["prompt"] == [user("What is <extra_id_1>User\n?")]
    row["prompt"] = "a\n<extra_id_1>Assistant\n<extra_id_1>User\nb"
    assert get_adapter("helpsteer2")(row)[0]["prompt"] == [user("a"), assistant(""), user("b")]


@pytest.mark.parametrize(
    ("raw", "prompt", "steps", "labels"),
    [
        (
            "Follow Step 1: x. Now? Step 1: a ки\nStep 2: b",
            "Follow Step 1: x. Now?",
            ["Step 1: a", "Step 2: b"],
            [1, -100],
        ),
        ("Two ки\nlines. Step 1: a ки", "Two \nlines.", ["Step 1: a"], [1]),
        ("How many? Two. ки\nStep 2: as in Step 1: b ки", "How many?", ["Two.", "Step 2: as in Step 1: b"], [1, 1]),
        ("Compute. ки\nStep 2: a ки", "Compute.", ["Step 2: a"], [1]),
        ("ручки? step 1: a ки\n", "ручки?", ["step 1: a"], [1]),
    ],
    ids=["quoted", "mark in the question", "question mark", "neither", "letters in a word"],
)
def test_math_shepherd_finds_the_end_of_the_question(raw, prompt, steps, labels):
    rated = raw.replace(" ки", " +")
    row = {"prompt": prompt, "completions": steps, "labels": labels}
    assert get_adapter("math_shepherd")({"input": raw, "label": rated}) == [row]


def prm_step(*ratings, chosen=None, human=None, name="s"):
    completions = [{"text": f"{name}{index}", "rating": rating} for index, rating in enumerate(ratings)]
    written = human and {"text": human, "rating": None}
    return {"completions": completions or None, "human_completion": written, "chosen_completion": chosen}


def prm_row(*steps):
    return {"question": {"problem": "2+2+2?"}, "label": {"steps": list(steps)}}


def test_prm800k_is_one_tree():
    """
    a0 (1) ──┬─ b0 (-1)
             ├─ b1 (-1)
             └─ written (-) ──┬─ c0 (0) ──── d0 (unrated)
                              └─ c1 (1)
    """
    row = prm_row(
        prm_step(1, chosen=0, name="a"),
        prm_step(-1, -1, human="written", name="b"),
        prm_step(0, 1, chosen=0, name="c"),
        prm_step(None, name="d"),
        prm_step(),
    )
    assert detect_adapter(list(row), row).name == "prm800k"
    (tree,) = get_adapter("prm800k")(row)
    assert tree["prompt"] == "2+2+2?"
    assert [tuple(node.values()) for node in tree["nodes"]] == [
        ("a0", 1, -1),
        ("b0", 0, 0),
        ("b1", 0, 0),
        ("written", -100, 0),
        ("c0", 1, 3),
        ("c1", 1, 3),
        ("d0", -100, 4),
    ]


def test_prm800k_takes_another_mapping_of_ratings():
    strict = functools.partial(prm800k, labels={-1: 0, 0: 0, 1: 1})
    assert [node["label"] for node in strict(prm_row(prm_step(-1, 0, 1)))["nodes"]] == [0, 0, 1]
    with pytest.raises(RowError, match=r"rating None has no label; labels are given for \[-1, 0, 1\]"):
        strict(prm_row(prm_step(None)))


@pytest.mark.parametrize("first_error", [-1, 0, 2])
def test_processbench_labels_up_to_the_first_error(first_error):
    labels = {-1: [True, True, True], 0: [False, -100, -100], 2: [True, True, False]}[first_error]
    row = {"problem": "p", "steps": ["a", "b", "c"], "label": first_error}
    assert get_adapter("processbench")(row)[0]["labels"] == labels


def test_qwen_prm_steps_need_no_token_at_the_end():
    row = {"prompt": [Q], "response": " 2 is even. <extra_0> 2 ", "labels": [True, -100]}
    expected = {"prompt": [Q], "completions": ["2 is even.", "2"], "labels": [True, -100]}
    assert get_adapter("qwen_prm")(row) == [expected]
