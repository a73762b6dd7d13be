"""An adapter's error names the column and what was found there."""

import pytest

from hf_rewardplug.checks import RowError
from hf_rewardplug.data.adapters import get_adapter
from hf_rewardplug.data.adapters.turns import assistant, user

Q, A, B = user("Name a prime."), assistant("7"), assistant("8")
WHOLE = [Q, A]
NAN = float("nan")
TERRY = {"input": "Name a prime.", "chosen": "7", "rejected": "8"}
ULTRA = {"instruction": "a", "completions": [{"response": "b", "score": 1}]}
HELP = {"prompt": "a", "response_1": "b", "response_2": "c", "preference_strength": 1}
FINE = {"prompt": "a", "completions": ["b", "c"], "preference_pairs": [[0, 1]], "preference": [1]}
BENCH = {"problem": "p", "steps": ["a", "b"], "label": 0}
QWEN = {"messages": [Q, assistant("a<extra_0>b<extra_0>")], "labels": [1, 0]}
SHEPHERD = {"input": "Why? Step 1: a ки", "label": "Why? Step 1: a +"}


def tree(*steps):
    """PRM800K's row with one completion a step: (rating, chosen)."""
    steps = [
        {"completions": [{"text": "a", "rating": rating}], "chosen_completion": chosen} for rating, chosen in steps
    ]
    return {"question": {"problem": "p"}, "label": {"steps": steps}}


@pytest.mark.parametrize(
    ("name", "row", "error"),
    [
        ("preference", {"prompt": "a", "chosen": "b"}, r"'rejected': is missing; found \['chosen', 'prompt'\]. Map it"),
        ("preference", {"chosen": "a", "rejected": [B]}, "'chosen': expected a list of messages .* found 'a'"),
        (
            "preference",
            {"prompt": "a", "chosen": WHOLE, "rejected": [B]},
            "'rejected': begins with role 'assistant', 'chosen' with 'user'",
        ),
        ("preference", {"prompt": 3, "chosen": "a", "rejected": "b"}, "'prompt': expected a list of messages"),
        ("preference", {"chosen": [Q, "7"], "rejected": [B]}, "'chosen': message 1 is '7'; expected {'role'"),
        ("hh_rlhf", {"chosen": "\n\nHuman: a", "rejected": "b"}, "'chosen': expected an Assistant turn at the end"),
        ("hh_rlhf", {"chosen": "Human: a", "rejected": "b"}, "'chosen': expected text that begins with"),
        ("bradley_terry.chat_template", {**TERRY, "chosen": [A]}, "'chosen': expected text, found"),
        ("bradley_terry.llama3.icr", {**TERRY, "system": 1}, "'system': expected text, found 1"),
        ("ultrafeedback", {**ULTRA, "completions": [{"response": "b"}]}, "no score that every completion has"),
        ("ultrafeedback", {**ULTRA, "completions": [{"score": 1}]}, r"'completions.response': is missing; found"),
        ("ultrafeedback", {**ULTRA, "completions": ["b"]}, "'completions': expected a list of dicts, found 'b'"),
        ("finegrained_rlhf", {**FINE, "preference": [1, 2]}, "'preference': 2 votes for 1 pairs"),
        ("finegrained_rlhf", {**FINE, "preference": [3]}, "'preference': expected 1 .first is better"),
        ("finegrained_rlhf", {**FINE, "preference_pairs": [[0, 2]]}, r"indices below 2, found \[0, 2\]"),
        (
            "helpsteer2",
            {**HELP, "preference_strength": NAN},
            "'preference_strength': expected a finite number, found nan",
        ),
        ("helpsteer2", {**HELP, "preference_strength": None}, "expected a finite number, found None"),
        ("nectar", {"prompt": "\n\nHuman: a", "answers": [{"answer": "b", "rank": "1"}]}, "'answers.rank': expected a"),
        ("stepwise_supervised", {"prompt": "a", "completions": "b", "labels": [1]}, "'completions': expected a list"),
        (
            "math_shepherd",
            {**SHEPHERD, "label": "Why? Step 1: b +"},
            "'label': differs from 'input' between characters 0",
        ),
        (
            "math_shepherd",
            {**SHEPHERD, "label": "Why? Step 1: a ?"},
            r"expected '\+' or '-' at character 15, found '\?'",
        ),
        (
            "math_shepherd",
            {**SHEPHERD, "label": "Why? Step 1: a + b"},
            "differs from 'input' behind the last step mark",
        ),
        ("math_shepherd", {"input": "Why?", "label": "Why?"}, "'input': no step mark"),
        ("math_shepherd", {"input": "Why ки", "label": "Why +"}, "'input': no step before a mark"),
        ("prm800k", tree((2, None)), "'label.steps': rating 2 has no label"),
        ("prm800k", tree(([], None)), r"'label.steps': rating \[\] has no label"),
        ("prm800k", tree((1, 1)), "step 0 chose 1 of 1 completions"),
        ("prm800k", tree((1, None), (1, None)), "step 1 follows a step with neither a chosen nor a human"),
        ("prm800k", {"question": "a", "label": {"steps": []}}, "'question': expected a dict, found 'a'"),
        ("processbench", {**BENCH, "label": 2}, "'label': the first wrong step is 2, outside the 2 steps"),
        ("processbench", {**BENCH, "label": True}, "'label': expected a finite number, found True"),
        ("processbench", {**BENCH, "label": 0.5}, "'label': expected a whole number, found 0.5"),
        ("qwen_prm", {**QWEN, "labels": [1]}, "'labels': 1 labels for 2 steps divided by <extra_0>"),
        ("qwen_prm", {**QWEN, "messages": [Q]}, "'messages': expected an assistant turn at the end, found a user turn"),
    ],
)
def test_an_error_names_the_column_and_what_was_found(name, row, error):
    with pytest.raises(RowError, match=error):
        get_adapter(name)(row)
