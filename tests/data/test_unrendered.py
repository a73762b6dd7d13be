"""What a chat template leaves out is named: the truth is which words of the row stand in what the template renders."""

import copy
import logging

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from hf_rewardplug.data.adapters import get_adapter
from hf_rewardplug.data.chat_templates import CHATML
from hf_rewardplug.data.encoding import Encoder
from hf_rewardplug.data.expansion import to_pairs
from hf_rewardplug.data.pipeline import RowPipeline
from hf_rewardplug.data.prepare import prepare_dataset
from hf_rewardplug.data.unrendered import Unrendered
from hf_rewardplug.inspection import inspect_rows
from hf_rewardplug.train.objectives import PairObjective

S, Q, A, B = (
    {"role": role, "content": content}
    for role, content in (("system", "Be brief."), ("user", "2+2?"), ("assistant", "Four."), ("assistant", "Five."))
)
DEVELOPER = {"role": "developer", "content": "Count slowly."}
THINKING = {**A, "reasoning_content": "Two and two."}
THOUGHT = {**A, "content": "<think>\nTwo and two.\n</think>\n\nFour."}
CALLS = [{"type": "function", "id": "call_1", "function": {"name": "add", "arguments": {"a": "two", "b": 2}}}]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}]

ONE_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}S:{{ messages[0]['content'] }}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}U:{{ m['content'] | trim }}{% endif %}"
    "{% if m['role'] == 'assistant' %}A:{{ m['content'].split('</think>')[-1] | trim }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def encoder(assets):
    def make(template=None, tokenizer="qwen2_5", **options):
        loaded = AutoTokenizer.from_pretrained(assets / "tokenizers" / tokenizer)
        if template is not None:
            loaded.chat_template = template
        return Encoder(tokenizer=loaded, **options)

    return make


def pair(*prompt, chosen=A, **rest):
    return {"prompt": list(prompt), "chosen": [chosen], "rejected": [B], **rest}


@pytest.mark.parametrize(
    ("template", "row", "names"),
    [
        (None, pair(S, Q), ()),
        (None, pair(S, Q, A, S, Q), ()),
        (None, pair(DEVELOPER, Q), ("'developer' turns",)),
        (None, pair(Q, chosen=THINKING), ("'reasoning_content' of 'assistant' turns",)),
        (
            None,
            pair(S, DEVELOPER, Q, chosen=THINKING),
            ("'developer' turns", "'reasoning_content' of 'assistant' turns"),
        ),
        (None, pair(Q, tools=TOOLS, chosen={**A, "tool_calls": CALLS}), ()),
        (None, pair(Q, {**A, "tool_calls": CALLS}, {"role": "tool", "content": "4", "tool_call_id": "call_1"}), ()),
        (None, pair({**Q, "name": "Ann", "tool_call_id": "x", "weight": 1, "content": " "}), ()),
        (None, pair({**Q, "citations": [{"text": "a book", "page": 3}]}), ("'citations' of 'user' turns",)),
        (None, pair(Q, chosen=THOUGHT), ()),
        (ONE_SYSTEM, pair(S, Q), ()),
        (ONE_SYSTEM, pair(S, S, Q), ("'system' turns",)),
        (ONE_SYSTEM, pair(Q, A, S, Q), ("'system' turns",)),
        (ONE_SYSTEM, pair(Q, {"role": "tool", "content": "4"}), ("'tool' turns",)),
        (ONE_SYSTEM, pair(Q, chosen=THOUGHT), ("the thoughts of 'assistant' turns",)),
        (ONE_SYSTEM, pair(Q, tools=TOOLS), ("tools",)),
        (ONE_SYSTEM, pair(Q, chosen={**A, "tool_calls": CALLS}), ("'tool_calls' of 'assistant' turns",)),
        (CHATML, pair(DEVELOPER, S, Q), ()),
        (CHATML, pair(Q, tools=TOOLS), ("tools",)),
    ],
)
def test_what_the_template_leaves_out(encoder, template, row, names):
    source = encoder(template)
    assert Unrendered(source)(row) == names
    rendered = source.rendered(row["prompt"] + row["chosen"], row, tokenize=False)
    words = {"'developer' turns": "Count slowly.", "'reasoning_content' of 'assistant' turns": "Two and two."}
    for name, text in words.items():  # the row's own words
        assert (name in names) == (text in str(row) and text not in rendered) or "thoughts" in str(names)


@pytest.mark.parametrize("tokenizer", ["gemma2", "llama3_1"])
def test_a_system_turn_that_is_folded_into_the_users_is_rendered(encoder, tokenizer):
    assert Unrendered(encoder(tokenizer=tokenizer))(pair(S, Q)) == ()


def test_rows_of_every_kind(encoder):
    unrendered = Unrendered(encoder())
    left_out = ("'developer' turns",)
    assert unrendered({"prompt": [DEVELOPER, Q], "completion": [A], "scores": [1.0]}) == left_out
    assert unrendered({"prompt": [Q], "completions": [[A], [DEVELOPER, B]], "scores": [1.0, 0.0]}) == left_out
    assert unrendered({"prompt": [DEVELOPER, Q], "completions": ["a", "b"], "labels": [1, 0]}) == left_out
    assert unrendered({"chosen": [DEVELOPER, Q, A], "rejected": [Q, B]}) == left_out
    assert unrendered({"prompt": "2+2?", "chosen": "4", "rejected": "5"}) == ()
    assert unrendered({"prompt": "2+2?", "completions": ["4"], "labels": [1]}) == ()
    for text in ({"chosen": "4", "rejected": "5"}, {"completion": "4"}, {"completions": ["4"], "labels": [1]}):
        assert unrendered({"prompt": "2+2?", **text, "tools": TOOLS}) == ("tools",)


def test_a_template_that_refuses_tells_it_elsewhere(encoder):
    assert Unrendered(encoder("{{ raise_exception('no') }}"))(pair(Q)) == ()


def test_a_shape_is_rendered_once(encoder, monkeypatch):
    source, calls = encoder(), []
    apply = type(source.tokenizer).apply_chat_template
    monkeypatch.setattr(
        type(source.tokenizer), "apply_chat_template", lambda *a, **k: calls.append(1) or apply(*a, **k)
    )
    unrendered = Unrendered(source)
    for number in range(20):
        assert unrendered(pair(DEVELOPER, {**Q, "content": f"{number}+2?"})) == ("'developer' turns",)
    assert len(calls) == 2  # with and without tools: both answers have one shape
    assert unrendered(pair(DEVELOPER, Q, Q)) == ("'developer' turns",) and len(calls) == 4


def prepared(encoder, rows, as_stream=False, **options):
    dataset = Dataset.from_list(rows)
    source = encoder()
    return prepare_dataset(
        dataset.to_iterable_dataset() if as_stream else dataset,
        RowPipeline(
            name="train",
            columns=PairObjective(loss_type="bradley_terry").columns,
            encode=source.pair,
            unrendered=Unrendered(source),
            expand=to_pairs,
            adapter=get_adapter("preference"),
        ),
        **options,
    )


def test_the_report_counts_the_rows(encoder):
    rows = [pair(Q), pair(DEVELOPER, Q), pair(Q, chosen={**A, "content": "4."}), pair(DEVELOPER, Q, A, Q)]
    encoded, report = prepared(encoder, rows)
    assert "unrendered" not in encoded.column_names
    assert report.unrendered == {"'developer' turns": [1, 3]} and report
    assert str(report).splitlines()[1:] == ["  not rendered by the chat template, 'developer' turns: 2 (rows 1, 3)"]
    assert prepared(encoder, rows, num_proc=2)[1] == report
    assert not prepared(encoder, [pair(Q)])[1]


def test_a_stream_counts_aloud(encoder, caplog):
    encoded, report = prepared(encoder, [pair(Q), pair(DEVELOPER, Q), pair(Q, A, Q)], as_stream=True)
    with caplog.at_level(logging.WARNING):
        assert len(list(encoded)) == 3
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == (
        "train stream: 1 of 2 examples not rendered in full so far; the last one is row 1: 'developer' turns."
    )
    assert report.seen.unrendered == {"'developer' turns": [1]}


def test_inspect_tells_it(encoder):
    found = inspect_rows(Dataset.from_list([pair(DEVELOPER, Q), pair(Q)]), encoder().tokenizer)
    assert found.report.unrendered == {"'developer' turns": [0]}
    assert inspect_rows(Dataset.from_list([pair(DEVELOPER, Q)])).report.unrendered == {}


def test_it_can_be_sent_to_other_processes_without_what_it_found(encoder):
    unrendered = Unrendered(encoder())
    unrendered(pair(DEVELOPER, Q))
    assert unrendered._shapes and copy.copy(unrendered)._shapes == {}
