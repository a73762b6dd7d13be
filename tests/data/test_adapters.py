"""Every format: a raw row of ours -> its literal canonical rows, and the format is detected from that row."""

import copy

import pytest

from hf_rewardplug.data.adapters import adapter_names, detect_adapter, get_adapter
from hf_rewardplug.data.adapters.turns import assistant, user
from hf_rewardplug.data.expansion import to_pairs


def system(content):
    return {"role": "system", "content": content}


Q, A, B = user("Name a prime."), assistant("7"), assistant("8")
LLAMA3_PROMPT = (
    "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nName a prime.<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
BRADLEY_TERRY = {"system": "Be brief.", "input": "Name a prime.", "chosen": "7", "rejected": "8", "id": 1}

# format, raw row, canonical rows; the format is also what detection finds, but for those that are by name only
RATINGS = {"helpfulness": 4, "correctness": 3.0, "coherence": 4, "complexity": None, "verbosity": 1}

FORMATS = [
    (
        "scored",
        {"prompt": "a", "completion": "7", "score": 2, "n": 1},
        [{"prompt": "a", "completion": "7", "score": 2}],
    ),
    (
        "scored",
        {"prompt": [Q], "completion": "7", "score": 2, "weight": 0.5},
        [{"prompt": [Q], "completion": [A], "score": 2, "weight": 0.5}],
    ),
    (
        "scored.attributes",
        {"prompt": "Name a prime.", "completion": [A], "attributes": {"kind": None}},
        [{"prompt": [Q], "completion": [A], "attributes": {"kind": None}}],
    ),
    (
        "unpaired_preference",
        {"prompt": "a", "completion": "7", "label": False},
        [{"prompt": "a", "completion": "7", "score": 0.0}],
    ),
    (
        "helpsteer",
        {"prompt": "Name a prime.", "response": "7", **RATINGS},
        [{"prompt": [Q], "completion": [A], "attributes": RATINGS}],
    ),
    (
        "stepwise_outcome",
        {"prompt": "a", "completions": ["b", "c"], "outcome": True, "n": 1},
        [{"prompt": "a", "completions": ["b", "c"], "outcome": True}],
    ),
    (
        "mixed",
        {"canonical": '[{"prompt": "a", "chosen": "7", "rejected": "8"}]', "subset": "x"},
        [{"prompt": "a", "chosen": "7", "rejected": "8"}],
    ),
    ("preference", {"prompt": [Q], "chosen": [A], "rejected": [B]}, [{"prompt": [Q], "chosen": [A], "rejected": [B]}]),
    ("preference", {"chosen": "7", "rejected": "8", "n": 1}, [{"chosen": "7", "rejected": "8"}]),
    (
        "skywork",
        {"chosen": [Q, A], "rejected": [Q, B], "source": "x"},
        [{"prompt": [Q], "chosen": [A], "rejected": [B]}],
    ),
    (
        "hh_rlhf",
        {
            "chosen": "\n\nHuman: Hi\nHuman: hm\n\nAssistant: Yes?\n\nSay.\n\nHuman: Name a prime.\n\nAssistant: 7",
            "rejected": "\n\nHuman: Hi\nHuman: hm\n\nAssistant: Yes?\n\nSay.\n\nHuman: Name a prime.\n\nAssistant: 8 ",
        },
        [{"prompt": [user("Hi\nHuman: hm"), assistant("Yes?\n\nSay."), Q], "chosen": [A], "rejected": [B]}],
    ),
    (
        "bradley_terry.chat_template",
        BRADLEY_TERRY,
        [{"prompt": [system("Be brief."), Q], "chosen": [A], "rejected": [B]}],
    ),
    (
        "bradley_terry.chat_template",
        {**BRADLEY_TERRY, "system": None},
        [{"prompt": [Q], "chosen": [A], "rejected": [B]}],
    ),
    (
        "bradley_terry.llama3.icr",
        BRADLEY_TERRY,
        [{"prompt": LLAMA3_PROMPT, "chosen": "7<|eot_id|>", "rejected": "8<|eot_id|>"}],
    ),
    (
        "ultrafeedback",
        {
            "instruction": "Name a prime.",
            "completions": [
                {"response": "7", "fine-grained_score": 4.5, "overall_score": 8.0, "custom_system_prompt": "Be kind."},
                {"response": "8", "fine-grained_score": 1.0, "overall_score": 10.0, "custom_system_prompt": "Be kind."},
            ],
        },
        [{"prompt": [Q], "completions": [[A], [B]], "scores": [4.5, 1.0]}],
    ),
    (
        "ranked",
        {"prompt": "2+2?", "completions": ["4", "5"], "scores": [1, 0], "id": 3},
        [{"prompt": "2+2?", "completions": ["4", "5"], "scores": [1, 0]}],
    ),
    (
        "ranked",
        {"prompt": [Q], "completions": ["7", [B]], "scores": [1, 0]},
        [{"prompt": [Q], "completions": [[A], [B]], "scores": [1, 0]}],
    ),
    (
        "finegrained_rlhf",
        {"prompt": [Q], "completions": [[A], [B]], "preference_pairs": [[0, 1], [1, 0]], "preference": [1, 2]},
        [{"prompt": [Q], "chosen": [A], "rejected": [B]}] * 2,
    ),
    (
        "helpsteer2",
        {
            "prompt": "Hi\n<extra_id_1>Assistant\nYes?\n<extra_id_1>User\nName a prime.",
            "response_1": "8",
            "response_2": "7",
            "preference_strength": 1,
        },
        [{"prompt": [user("Hi"), assistant("Yes?"), Q], "chosen": [A], "rejected": [B]}],
    ),
    (
        "helpsteer3",
        {"context": [Q], "response1": "7", "response2": "8", "overall_preference": -2},
        [{"prompt": [Q], "chosen": [A], "rejected": [B]}],
    ),
    (
        "nectar",
        {
            "prompt": "\n\nHuman: Name a prime.\n\nAssistant: ",
            "answers": [{"answer": "7", "model": "m", "rank": 1.0}, {"answer": "8", "model": "n", "rank": 2.0}],
        },
        [{"prompt": [Q], "completions": [[A], [B]], "scores": [-1.0, -2.0]}],
    ),
    (
        "stepwise_supervised",
        {"prompt": "2+2+2?", "completions": ["4", "7"], "labels": [1, 0.25], "ratings": [1, -1]},
        [{"prompt": "2+2+2?", "completions": ["4", "7"], "labels": [1, 0.25]}],
    ),
    (
        "step_tree",
        {"prompt": "2+2?", "nodes": [{"text": "4", "label": 1, "parent": -1}], "source": "mine"},
        [{"prompt": "2+2?", "nodes": [{"text": "4", "label": 1, "parent": -1}]}],
    ),
    (
        "math_shepherd",
        {
            "input": "What is -1+3? Step 1: 3-1=2 + 0 ки\nStep 2: The answer is: -2 ки",
            "label": "What is -1+3? Step 1: 3-1=2 + 0 +\nStep 2: The answer is: -2 -",
        },
        [
            {
                "prompt": "What is -1+3?",
                "completions": ["Step 1: 3-1=2 + 0", "Step 2: The answer is: -2"],
                "labels": [True, False],
            }
        ],
    ),
    (
        "processbench",
        {"problem": "2+2+2?", "steps": ["4", "7", "So 7"], "label": 1},
        [{"prompt": "2+2+2?", "completions": ["4", "7", "So 7"], "labels": [True, False, -100]}],
    ),
    (
        "qwen_prm",
        {"prompt": "2+2+2?", "response": "4<extra_0>7<extra_0>", "labels": ["+", "-"]},
        [{"prompt": "2+2+2?", "completions": ["4", "7"], "labels": [True, False]}],
    ),
    (
        "qwen_prm.messages",
        {"messages": [Q, assistant("2 is even.<extra_0>2<extra_0>")], "labels": [1.0, 0.5]},
        [{"prompt": [Q], "completions": ["2 is even.", "2"], "labels": [1.0, 0.5]}],
    ),
]
BY_NAME_ONLY = {"skywork": "preference", "bradley_terry.llama3.icr": "bradley_terry.chat_template"}


@pytest.mark.parametrize(("name", "raw", "canonical"), FORMATS)
def test_a_raw_row_gives_these_rows_and_stays_as_it_was(name, raw, canonical):
    before = copy.deepcopy(raw)
    assert get_adapter(name)(raw) == canonical
    assert raw == before


@pytest.mark.parametrize(("name", "raw"), [(name, raw) for name, raw, _ in FORMATS])
def test_the_format_is_detected_from_its_row(name, raw):
    assert detect_adapter(list(raw), raw).name == BY_NAME_ONLY.get(name, name)


def test_every_format_stands_in_the_table():
    modules = {
        f"hf_rewardplug.data.adapters.{name}" for name in ("mixed", "preference", "ranked", "scored", "stepwise")
    }
    ours = {name for name in adapter_names() if get_adapter(name).function.__module__ in modules}
    # `prm800k`, its tree and the names under which `preference` reads further columns: test_public_formats.py
    others = {"prm800k", "ultrafeedback_binarized", "ultrafeedback_binarized.argilla", "distilabel.pairs"}
    assert ours == {name for name, _, _ in FORMATS} | others


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("ultrafeedback", {"instruction": "a", "completions": []}),
        ("prm800k", {"question": {"problem": "a"}, "label": {"steps": []}}),
    ],
)
def test_where_there_is_nothing_to_learn_there_is_no_row(name, row):
    assert get_adapter(name)(row) == []


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("helpsteer2", {"prompt": "a", "response_1": "b", "response_2": "c", "preference_strength": 0}),
        ("helpsteer3", {"context": [Q], "response1": "b", "response2": "c", "overall_preference": 0}),
        (
            "finegrained_rlhf",
            {"prompt": "a", "completions": ["b", "c"], "preference_pairs": [[0, 1]], "preference": [0]},
        ),
    ],
)
def test_a_tie_says_so(name, row):
    (found,) = get_adapter(name)(row)
    assert found["tie"] is True and {"chosen", "rejected"} <= found.keys()
    assert to_pairs(found) == []
