"""The generated problems: their truth, recomputed here from the text, and that nothing but the truth tells."""

import itertools
import re

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_rewardplug.data.encoding import Encoder
from hf_rewardplug.demo import demo_rows, demo_tokenizer, save_demo_model


def test_the_chosen_answer_is_the_right_one():
    for row in itertools.chain(*demo_rows("gemma", train=300, test=100)):
        word, a, b = re.fullmatch(r"Which is (larger|smaller), (\d+) or (\d+)\?", row["prompt"][0]["content"]).groups()
        answers = sorted((int(a), int(b)), reverse=word == "larger")
        assert [int(row[key][0]["content"]) for key in ("chosen", "rejected")] == answers


def test_a_step_is_right_when_it_keeps_the_larger_number():
    for row in itertools.chain(*demo_rows("qwen", train=300, test=100)):
        kept, *others = (int(number) for number in re.findall(r"\d+", row["prompt"]))
        for step, label, other in zip(row["completions"], row["labels"], others, strict=True):
            left, sign, right, stated = re.fullmatch(r"(\d+) ([<>]) (\d+), keep (\d+)\.", step).groups()
            assert (int(left), int(right)) == (kept, other)
            assert label is (int(stated) == max(kept, other))
            assert int(stated) == (kept if sign == ">" else other)
            kept = int(stated)


@pytest.mark.parametrize("style", ["gemma", "qwen"])
def test_held_out_problems_are_new_and_the_seed_decides(style):
    train, test = demo_rows(style)
    numbers = [{frozenset(re.findall(r"\d+", str(row["prompt"]))) for row in rows} for rows in (train, test)]
    assert len(numbers[0]) == len(train) and not numbers[0] & numbers[1]
    assert demo_rows(style) == (train, test) != demo_rows(style, seed=1)


def test_nothing_but_the_truth_tells():
    train, _ = demo_rows("gemma")
    assert all(len(row["chosen"][0]["content"]) == len(row["rejected"][0]["content"]) for row in train)
    first = sum(row["chosen"][0]["content"] in row["prompt"][0]["content"].split(" or ")[0] for row in train)
    larger = sum("larger" in row["prompt"][0]["content"] for row in train)
    assert 0.45 < first / len(train) < 0.55 and 0.45 < larger / len(train) < 0.55
    steps = [label for row in demo_rows("qwen")[0] for label in row["labels"]]
    assert 0.45 < sum(steps) / len(steps) < 0.55


@pytest.mark.parametrize(
    ("style", "text", "tokens"),
    [
        ("gemma", "47 or 821", ["4", "7", "Ġor", "Ġ", "8", "2", "1"]),
        ("qwen", "47 > 82,", ["4", "7", "Ġ>", "Ġ", "8", "2", ","]),
    ],
)
def test_a_digit_is_a_token(style, text, tokens):
    tokenizer = demo_tokenizer(style)
    assert tokenizer.tokenize(text) == tokens
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize("style", ["gemma", "qwen"])
def test_the_folder_is_an_ordinary_one(style, tmp_path):
    folder = save_demo_model(tmp_path / "model", style=style)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == {"gemma": "gemma2", "qwen": "qwen2"}[style]
    assert model.config.vocab_size == len(tokenizer)
    if style == "qwen":
        row = demo_rows("qwen", train=1, test=1)[0][0]
        encoded = Encoder(tokenizer=tokenizer).steps(row)
        assert [label for label in encoded["labels"] if label != -100] == [float(label) for label in row["labels"]]
