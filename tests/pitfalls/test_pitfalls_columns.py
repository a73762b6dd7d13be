"""PITFALLS 33 to 36, what the user gave: each promise, and the same check failing with its mend undone, or at TRL."""

import pytest
import trl
from datasets import Dataset
from small import text_pairs
from small import turn as message
from transformers import AutoTokenizer
from undo import fails_at_trl, fails_without

import hf_rewardplug
from hf_rewardplug.data import canonical, raw
from hf_rewardplug.data import messages as data_messages
from hf_rewardplug.data.adapters import registry
from hf_rewardplug.data.columns import Unread
from hf_rewardplug.train import data_trainer

CALLS = (
    "{% for m in messages %}{{ m.role + ': ' + m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{% endfor %}"
)


def chosen(trainer, number: int = 0) -> str:
    ids = trainer.train_dataset.with_format(None)[number]["chosen_ids"]
    return trainer.processing_class.decode(ids)


def tokenizer_of(model_path: str, template: str):
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    tokenizer.chat_template = template
    return tokenizer


def test_pitfall_33_no_part_of_the_prompt_is_left_unread(orm):
    """A context, a system prompt or a history beside the prompt: trained without it, with a clean report."""
    rows = [{**row, "context": "Once upon a time."} for row in text_pairs(4)]

    def holds(of=hf_rewardplug):
        with pytest.raises(ValueError, match="column 'context' looks like a part of the prompt"):
            orm(rows, of=of)

    fails_without(holds, (raw, "unread_columns", lambda *args, **kwargs: Unread()))
    fails_at_trl(holds)


def test_pitfall_34_a_further_column_does_not_change_the_format(orm, tmp_path):
    """`input` beside TRL's own columns made axolotl's format of them, and took the prompt's place."""
    rows = text_pairs(4)
    truth = chosen(orm(rows, of=trl))

    def holds():
        assert chosen(orm([{**row, "input": "geo quiz"} for row in rows], folder=tmp_path)) == truth

    fails_without(holds, (registry, "TRL_COLUMNS", ()), raises=(AssertionError, ValueError))


def test_pitfall_35_what_arrow_fills_in_is_not_rendered(orm, model_path):
    """Arrow gives every call the arguments of all others, as null; OpenAI's JSON text was encoded twice."""

    def call(arguments) -> dict:
        function = {"name": "look", "arguments": arguments}
        return {**message("assistant", ""), "tool_calls": [{"type": "function", "function": function}]}

    def rows(*arguments) -> list[dict]:
        answer = [message("assistant", "no")]
        return [{"prompt": [message("user", "q")], "chosen": [call(one)], "rejected": answer} for one in arguments]

    tokenizer = tokenizer_of(model_path, CALLS)
    truth = tokenizer.apply_chat_template([message("user", "q"), call({"city": "Paris"})], tokenize=False)

    def holds():
        trainer = orm(rows({"city": "Paris"}, {"number": 1}), processing_class=tokenizer)
        assert chosen(trainer).endswith(truth)

    def decoded():
        assert chosen(orm(rows('{"city": "Paris"}', "{}"), processing_class=tokenizer)).endswith(truth)

    as_it_is = (data_messages, "without_none", lambda value: value), (canonical, "without_none", lambda value: value)
    fails_without(holds, *as_it_is)
    fails_without(decoded, (data_messages, "_decoded", lambda arguments: arguments))


def test_pitfall_36_a_transform_is_applied(orm):
    def shout(batch):
        return {key: [text.upper() for text in texts] for key, texts in batch.items()}

    rows = text_pairs(4)
    truth = chosen(orm([{key: text.upper() for key, text in row.items()} for row in rows]))

    def holds():
        assert chosen(orm(Dataset.from_list(rows).with_transform(shout))) == truth

    def thrown_away(dataset):
        return dataset.with_format(None)

    fails_without(holds, (raw, "plain_rows", thrown_away), (data_trainer, "plain_rows", thrown_away))
