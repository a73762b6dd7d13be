"""The card's examples give the tokens that training had, whatever the tokenizer puts around a text."""

import pytest
from tokenizers.processors import TemplateProcessing

from hf_rewardplug.data.encoding import Encoder
from hf_rewardplug.demo import demo_tokenizer
from hf_rewardplug.model.description import Description
from hf_rewardplug.train.model_card import _looks, _text

PUTS = {"nothing": "$A", "bos": "<bos> $A", "eos": "$A <eos>", "both": "<bos> $A <eos>"}


@pytest.mark.parametrize("special", [("bos", "eos"), ("bos",), ("eos",)], ids="+".join)
@pytest.mark.parametrize("puts", PUTS)
def test_the_tokens_are_those_of_training(puts, special):
    tokenizer = demo_tokenizer("gemma")
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<bos>", "<eos>")}
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=PUTS[puts], special_tokens=[*ids.items()])
    for name in {"bos", "eos"} - {*special}:
        if name in PUTS[puts]:
            pytest.skip("it would put a token that it does not have")
        setattr(tokenizer, f"{name}_token", None)
    encoder, shown = Encoder(tokenizer=tokenizer), _text("a/model", tokenizer)
    of_text = eval(shown["inputs"], {"tokenizer": tokenizer})["input_ids"][0].tolist()
    assert of_text == encoder.completion({"prompt": "What is 2 + 2?", "completion": " 4"})
    steps = encoder.steps({"prompt": "What is 2 + 2?", "completions": ["4"], "labels": [1]})["input_ids"]
    of_prompt = eval(shown["ids"], {"tokenizer": tokenizer})
    assert of_prompt == steps[: len(of_prompt)] and len(steps) - len(of_prompt) == 2


def test_the_date_that_an_argument_sets_is_not_denied():
    """A template that takes the date as an argument writes that one, and asks for the day where it gets none."""
    description = {"rows": "turns", "date": "2026-11-30", "chat_template_kwargs": {"date_string": "01 Jan 2020"}}
    (sentence,) = _looks(Description(**description))
    assert "`{'date_string': '01 Jan 2020'}`" in sentence and "asks for the date of the day, it is 2026" in sentence
    assert not any(word in _looks(Description(**{**description, "rows": "text"}))[0] for word in ("2020", "2026"))
