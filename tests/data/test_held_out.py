"""Held-out rows: no prompt is on both sides, whatever the columns are called that hold it."""

import pytest
from datasets import Dataset

from hf_rewardplug.data.held_out import hold_out, prompts_of
from hf_rewardplug.data.mixing import Part, mixed_and_held_out


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def hh(ask, number):
    marks = f"\n\nHuman: {ask}\n\nAssistant: "
    return {"chosen": f"{marks}yes {number}", "rejected": f"{marks}no {number}"}


def whole(ask, number):
    turns = [user(ask)]
    return {"chosen": [*turns, assistant(f"yes {number}")], "rejected": [*turns, assistant(f"no {number}")]}


def alpaca(ask, number):
    return {"instruction": ask, "input": "", "chosen": f"yes {number}", "rejected": f"no {number}"}


def prm800k(ask, number):
    steps = [{"completions": [{"text": f"step {number}", "rating": 1}], "chosen_completion": 0}]
    return {"question": {"problem": ask, "pre_generated_steps": [str(number)]}, "label": {"steps": steps}}


def arena(ask, number):
    talks = {f"conversation_{side}": [user(ask), assistant(f"{side} {number}")] for side in "ab"}
    return {"winner": "model_a", **talks}


@pytest.mark.parametrize("layout", [hh, whole, alpaca, prm800k, arena])
def test_a_prompt_is_on_one_side_in_every_layout(layout):
    """By the column names alone these rows would have no prompt, one prompt, or as many as there are rows."""
    asked = [f"Question {number % 10}?" for number in range(40)]
    rows = [layout(ask, number) | {"place": number} for number, ask in enumerate(asked)]
    options = {"ignore_columns": ["place"]}
    sides = hold_out(Dataset.from_list(rows), 0.3, seed=1, **options)
    prompts = [{asked[place] for place in side["place"]} for side in sides]
    assert [len(side) for side in sides] == [28, 12] and not prompts[0] & prompts[1]
    part = Part(dataset=Dataset.from_list(rows), subset="one", ignore_columns=["place"])
    mixture = mixed_and_held_out([part], seed=1, test_size=0.3)
    assert {row["source_row"] for row in mixture[1]} == {
        *sides[1]["place"]
    }  # one rule for one data set and for several


def test_columns_of_other_names_and_a_named_format():
    rows = [{"q": f"{number % 4}?", "good": "a", "bad": "b"} for number in range(12)]
    mapping = {"input": "q", "chosen": "good", "rejected": "bad"}
    asked = [row["q"] for row in rows]
    assert prompts_of(Dataset.from_list(rows), None, mapping) == asked
    assert prompts_of(Dataset.from_list(rows), "bradley_terry.chat_template", mapping) == asked
    assert len(set(prompts_of(Dataset.from_list(rows), None, None))) == 12  # no format fits: the trainer will say so


def test_a_bad_row_does_not_stop_the_split():
    rows = [{"prompt": str(number), "chosen": "a", "rejected": None if number == 3 else "b"} for number in range(6)]
    train, held_out = hold_out(Dataset.from_list(rows), 0.5, seed=0)
    assert sorted([*train["prompt"], *held_out["prompt"]]) == list("012345")
