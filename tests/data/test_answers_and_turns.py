"""Answers and turns as people write them: one message, turns of ShareGPT, empty lists, calls without content."""

import json

import pytest

from hf_rewardplug.checks import RowError
from hf_rewardplug.data.adapters import detect_adapter, get_adapter, register_adapter, registry
from hf_rewardplug.data.adapters.turns import assistant, user
from hf_rewardplug.data.adapters.votes import vote
from hf_rewardplug.data.canonical import checked_pair
from hf_rewardplug.data.columns import unread_columns
from hf_rewardplug.data.columns.watch import RowWatch

S = {"role": "system", "content": "Be brief."}
Q, A, B, C = user("Capital of France?"), assistant("Paris"), assistant("Lyon"), assistant("Nice")
PAIR = {"prompt": [Q], "chosen": [A], "rejected": [B]}
RANKED = {"prompt": [Q], "completions": [[A], [B], [C]], "scores": [1.0, 0.0, 0.0]}
TEXTS = {"chosen": "Paris", "rejected": "Lyon"}


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry.ADAPTERS, "things", dict(registry.ADAPTERS.things))


def sharegpt(*messages):
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[message["role"]], "value": message["content"]} for message in messages]


def read(row, name=None):
    adapter = get_adapter(name) if name else detect_adapter(list(row), row)
    assert unread_columns(adapter, [row]).names == ()
    (canonical,) = adapter(row)
    return canonical


@pytest.mark.parametrize(
    ("row", "canonical"),
    [
        ({"prompt": [Q], "chosen": A, "rejected": B}, PAIR),
        ({"prompt": "Capital of France?", "chosen": A, "rejected": B}, PAIR),
        ({"prompt": Q, "chosen": [A], "rejected": [B]}, PAIR),
        ({"prompt": sharegpt(Q), "chosen": sharegpt(A), "rejected": sharegpt(B)}, PAIR),
        ({"chosen": sharegpt(Q, A), "rejected": sharegpt(Q, B)}, PAIR),
        ({"prompt": sharegpt(Q), **TEXTS}, PAIR),
        ({"conversations": sharegpt(Q), **TEXTS}, PAIR),
        ({"conversations": [Q], **TEXTS}, PAIR),
        ({"conversations": sharegpt(Q), "chosen": sharegpt(A), "rejected": sharegpt(B)}, PAIR),
        ({"conversations": sharegpt(Q), "chosen": sharegpt(Q, A), "rejected": sharegpt(Q, B)}, PAIR),
        ({"conversations": sharegpt(Q), "chosen": "Paris", "rejected": ["Lyon", "Nice"]}, RANKED),
        ({"conversations": sharegpt(Q), **TEXTS, "system": "Be brief."}, {**PAIR, "prompt": [S, Q]}),
        ({"conversations": sharegpt(S, Q), **TEXTS, "system": "Be brief."}, {**PAIR, "prompt": [S, Q]}),
        ({"messages": [Q], **TEXTS}, PAIR),
        ({"messages": [Q, A], "rejected_response": "Lyon", "system": "Be brief."}, {**PAIR, "prompt": [S, Q]}),
        ({"messages": [S, Q], "chosen": A, "rejected": B}, {**PAIR, "prompt": [S, Q]}),
    ],
)
def test_an_answer_is_a_text_a_message_or_turns(row, canonical):
    assert read(row) == canonical


def test_messages_that_repeat_the_chosen_conversation_are_no_prompt():
    row = {"messages": [Q, A], "chosen": [Q, A], "rejected": [Q, B]}
    assert detect_adapter(list(row), row).name == "preference"


@pytest.mark.parametrize("name", ["sharegpt", "sharegpt.kto"])
def test_another_system_turn_beside_the_conversations_own_is_an_error(name):
    row = {"conversations": sharegpt(S, Q, *([A] if "kto" in name else [])), "system": "Be long.", "kto_tag": True}
    with pytest.raises(RowError, match=r"^column 'system': differs from the conversation's own system turn, 'Be br"):
        get_adapter(name)({**row, **TEXTS})


def test_a_system_turn_of_rated_steps_is_not_lost():
    turns = [user("2+2? Step 1: 4"), assistant("+")]
    assert read({"conversations": turns})["prompt"] == "2+2?"
    with pytest.raises(RowError, match=r"^column 'conversations': has a system turn"):
        get_adapter("rlhflow_prm")({"conversations": [S, *turns]})


@pytest.mark.parametrize("prompt", ["Capital of France?", [Q]])
@pytest.mark.parametrize("column", ["chosen", "rejected"])
def test_an_empty_list_of_answers_is_blamed_on_its_own_column(prompt, column):
    with pytest.raises(RowError, match=f"^column '{column}': .*found \\[\\]"):
        get_adapter("preference")({"prompt": prompt, **TEXTS, column: []})


@pytest.mark.parametrize("name", ["images", "image", "audio", "videos"])
def test_what_a_message_holds_beside_text_is_refused(name):
    checked_pair({**PAIR, "prompt": [{**Q, name: None}]})
    with pytest.raises(RowError, match=rf"^column 'prompt': message 0 \(user\) holds '{name}', but models are"):
        checked_pair({**PAIR, "prompt": [{**Q, name: ["a.png"]}]})


@pytest.mark.parametrize("name", ["pixel_values", "image_embeds"])
def test_numbers_of_images_are_refused_as_images_are(name):
    with pytest.raises(ValueError, match=f"^column '{name}': images, sound and video"):
        read({**PAIR, name: [[0.5, 0.25]]})
    row = {**PAIR, "num_images": 2, "has_image": True}
    assert unread_columns(get_adapter("preference"), [row]).names == ("num_images", "has_image")


@pytest.mark.parametrize("calls", [[], None])
def test_a_turn_with_neither_content_nor_calls_is_refused(calls):
    silent = {"role": "assistant", "content": None, "tool_calls": calls}
    with pytest.raises(RowError, match=r"^column 'chosen': message 0 \(assistant\) has no content"):
        checked_pair({**PAIR, "chosen": [silent]})


def test_system_beside_a_text_prompt_has_a_remedy_that_works():
    row = {"system": "Be brief.", "prompt": "Capital of France?", **TEXTS}
    with pytest.raises(RowError, match=r"adapter='orca_pairs' with column_mapping={'question': 'prompt'} makes turns"):
        get_adapter("preference")(row)
    row["question"] = row.pop("prompt")
    assert read(row, "orca_pairs") == {**PAIR, "prompt": [S, Q]}


# ---- rows that cannot be read, among others ------------------------------------------------------------------------


def test_a_row_that_cannot_be_read_says_nothing_of_the_columns():
    arena = get_adapter("arena")
    row = {"conversation_a": [Q, A], "conversation_b": [Q, B], "winner": "model_a", "talk": [Q, A, B]}
    assert unread_columns(arena, [row, {**row, "winner": "nobody"}]).names == ("talk",)
    with pytest.raises(ValueError, match=r"^column 'context' looks like a part of the prompt"):
        unread_columns(arena, [row, {**row, "winner": "nobody"}, {**row, "context": "Paris is on the Seine."}])


def test_a_column_is_watched_until_a_row_with_it_could_be_read():
    watch, pairs = RowWatch(), get_adapter("preference")
    row = {"prompt": "Capital of France?", **TEXTS, "talk": "Paris is on the Seine."}
    mine = {**row, "context": "Paris is on the Seine."}
    with pytest.raises(ValueError, match=r"^column 'context' looks"):
        watch(pairs, {**mine, "chosen": []})
    with pytest.raises(ValueError, match=r"^column 'context' looks"):
        watch(pairs, mine)


# ---- what the error proposes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["history", "chat_history"])
def test_a_history_that_is_all_there_is_may_be_the_prompt(name):
    row = {name: [Q], "chosen": [A], "rejected": [B]}
    with pytest.raises(ValueError, match=rf"column_mapping={{'prompt': '{name}'}}"):
        read(row)
    assert read({"prompt": row.pop(name), **row}) == PAIR


def test_formats_that_cannot_read_the_row_are_not_proposed():
    with pytest.raises(ValueError, match=r"^column 'question' .* \(or register one\)"):
        read({"question": [Q], "chosen": [A], "rejected": [B]})


@pytest.mark.parametrize("question", ["What is the capital?", "Nenne mir eine Primzahl."])
def test_a_source_that_is_a_sentence_may_be_the_prompt(question):
    with pytest.raises(ValueError, match=r"^column 'source' looks like a part"):
        read({"source": question, **TEXTS})
    assert read({"source": "Stack Exchange pairs", "category": "Stories and other writing", **TEXTS}) == TEXTS


@pytest.mark.parametrize("name", ["source", "topic", "task", "language", "data"])
def test_a_text_under_the_name_of_a_label_is_told(name):
    row, pairs = {"prompt": "Sum up the text.", **TEXTS}, get_adapter("preference")
    for text in ("Paris has been the capital of France since the year 987", ["Paris is on the Seine."]):
        assert unread_columns(pairs, [row, {**row, name: text}]).names == (name,)
    for label in ("Stack Exchange", "https://example.org/" + 40 * "a", ["a b", "c"], 3):
        assert unread_columns(pairs, [{**row, name: label}]).names == ()


def test_a_prompt_in_the_marks_of_a_template_is_known():
    row, pairs = (
        {"chosen": [user("Name a prime number."), A], "rejected": [user("Name a prime number."), B]},
        "preference",
    )
    marked = {**row, "formatted_prompt": "<s>[INST] Name a prime number. [/INST]"}
    assert unread_columns(get_adapter(pairs), [marked]).names == ("formatted_prompt",)
    with pytest.raises(ValueError, match=r"^column 'formatted_prompt' looks like a part"):
        read({**row, "formatted_prompt": "Paris is the capital of France, and Lyon is not. Name a prime number."})


@pytest.mark.parametrize("name", ["gen_input_configs", "prompt_config"])
def test_settings_are_no_prompt(name):
    read({"prompt": "Capital of France?", **TEXTS, name: {"temperature": 1.0, "before": "<|user|> "}})


@pytest.mark.parametrize(
    ("word", "better"), [("[[A]]", 0), ("[[B]]", 1), ("[[C]]", None), ("A>>B", 0), ("B>>A", 1), ("A=B", None)]
)
def test_a_judges_words(word, better):
    assert vote({"winner": word}, "winner") == better


@pytest.mark.parametrize("name", ["few_shot", "few_shots", "fewshot_examples"])
def test_examples_before_the_question_are_a_part_of_the_prompt(name):
    with pytest.raises(ValueError, match=rf"^column '{name}' looks like a part"):
        read({"prompt": "Capital of Spain?", **TEXTS, name: "Capital of France? Paris."})


# ---- messages as text ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [json.dumps, repr])
@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"prompt": [Q], "chosen": [A], "rejected": [B]}, "prompt"),
        ({"chosen": sharegpt(Q, A), "rejected": sharegpt(Q, B)}, "chosen"),
        ({"prompt": [Q], "completions": ["4"], "labels": [1]}, "prompt"),
    ],
)
def test_messages_that_are_written_as_text_are_refused(write, row, column):
    row = {name: value if name in ("completions", "labels") else write(value) for name, value in row.items()}
    with pytest.raises(ValueError, match=rf"^column '{column}' holds messages that are written as text.*json.loads"):
        read(row)


def test_an_adapter_may_read_messages_that_are_written_as_text():
    register_adapter("written", columns=["chosen", "rejected"])(
        lambda row: {name: json.loads(row[name]) for name in ("chosen", "rejected")}
    )
    row = {name: json.dumps(value) for name, value in (("chosen", [Q, A]), ("rejected", [Q, B]))}
    assert read(row) == {"chosen": [Q, A], "rejected": [Q, B]}


def test_one_answer_among_many_may_be_such_a_text():
    row = {"prompt": "Write a request.", "chosen": json.dumps([Q]), "rejected": "No."}
    unread_columns(get_adapter("preference"), [row, {**row, "chosen": "Yes."}])


def test_a_prompt_whose_place_whole_conversations_took_is_told():
    row = {"prompt": "Rate the answers.", "chosen": [Q, A], "rejected": [Q, B]}
    pairs = get_adapter("preference")
    assert unread_columns(pairs, [row]).names == ("prompt",)
    for prompt in ("Capital of France?", "Human: Capital of France?\n\nAssistant:", " Capital of  France? ", "", None):
        assert unread_columns(pairs, [{**row, "prompt": prompt}]).names == ()
    system = {**row, "prompt": "Capital of France?", "chosen": [S, Q, A], "rejected": [S, Q, B]}
    assert unread_columns(pairs, [system]).names == ()
    mapped = {"task": row["prompt"], **{name: row[name] for name in ("chosen", "rejected")}}
    assert unread_columns(pairs, [mapped], column_mapping={"prompt": "task"}).names == ("task",)


@pytest.mark.parametrize(("written", "found"), [('{"think": null, "a": 1}', {"think": None, "a": 1}), ("", None)])
def test_template_arguments_may_be_json(written, found):
    row = checked_pair({**PAIR, "chat_template_kwargs": written})
    assert row.get("chat_template_kwargs") == found


@pytest.mark.parametrize(("written", "why"), [("{a", "is not JSON"), ("[1]", "expected a dict, or JSON of one")])
def test_template_arguments_of_another_kind_are_refused(written, why):
    with pytest.raises(RowError, match=rf"^column 'chat_template_kwargs': {why}"):
        checked_pair({**PAIR, "chat_template_kwargs": written})
