"""Messages, tools and template arguments as the user gave them: what Arrow fills in goes, JSON text is read once, what
is no text is refused. The truth is the chat template's own rendering of the rows before Arrow saw them."""

import copy
import json

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from hf_rewardplug.checks import RowError
from hf_rewardplug.data.adapters import get_adapter
from hf_rewardplug.data.canonical import checked_completion, checked_list, checked_pair
from hf_rewardplug.data.encoding import Encoder
from hf_rewardplug.data.messages import without_none

ASKED = {"role": "user", "content": "What now?"}
NO = {"role": "assistant", "content": "No."}


def tool(name, properties):
    schema = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def calls(name, arguments, **message):
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": "", **message, "tool_calls": [{"type": "function", "function": function}]}


WEATHER = {
    "prompt": [ASKED],
    "chosen": [calls("weather", {"city": "Paris", "when": {"day": "Monday"}})],
    "rejected": [NO],
    "tools": [tool("weather", {"city": {"type": "string", "enum": ["Paris", None]}, "when": {"type": "object"}})],
}
ADD = {
    "prompt": [ASKED],
    "chosen": [calls("add", {"when": {"hour": 7}, "a": 1})],
    "rejected": [NO],
    "tools": [tool("add", {"a": {"type": "integer", "minimum": 0}})],
}


@pytest.fixture(scope="module")
def qwen(assets):
    return AutoTokenizer.from_pretrained(assets / "tokenizers" / "qwen2_5")


def through_arrow(*rows):
    return list(Dataset.from_list(list(rows)))


# ---- None ----------------------------------------------------------------------------------------------------------


def test_keys_without_a_value_go_at_every_depth_and_entries_of_lists_stay():
    filled = {"a": None, "b": {"c": None, "d": [None, {"e": None, "f": 0}]}, "g": [], "h": "", "i": {"j": None}}
    assert without_none(filled) == {"b": {"d": [None, {"f": 0}]}, "g": [], "h": "", "i": {}}


@pytest.mark.parametrize("number", [0, 1])
def test_a_row_reads_as_it_did_before_arrow_filled_it(qwen, number):
    rows = [WEATHER, ADD]
    filled = through_arrow(*rows)[number]
    assert "null" in json.dumps([filled["tools"], filled["chosen"]])  # Arrow did fill it
    (row,) = get_adapter("preference")(filled)
    pair = checked_pair(row)
    assert pair == rows[number]
    truth = qwen.apply_chat_template(
        rows[number]["prompt"] + rows[number]["chosen"], tools=rows[number]["tools"], tokenize=False
    )
    assert qwen.decode(Encoder(tokenizer=qwen).pair(pair)["chosen_ids"]) == truth


@pytest.mark.parametrize("number", [0, 1])
def test_training_and_scoring_give_the_same_tokens(qwen, number):
    """Scoring gets the rows as Python has them, training as Arrow gives them."""
    rows, encoder = [WEATHER, ADD], Encoder(tokenizer=qwen)
    (row,) = get_adapter("preference")(through_arrow(*rows)[number])
    trained = encoder.pair(checked_pair(row))["chosen_ids"]
    asked = {key: rows[number][key] for key in ("prompt", "tools")} | {"completion": rows[number]["chosen"]}
    assert encoder.completion(checked_completion(asked)) == trained


def test_a_ranked_list_and_a_whole_conversation_lose_what_arrow_filled_in():
    turns = [ASKED, WEATHER["chosen"][0], {"role": "tool", "content": "20 degrees"}, NO]
    other = [ASKED, ADD["chosen"][0], NO]
    rows = through_arrow({"chosen": turns, "rejected": [*turns[:3], ASKED]}, {"chosen": other, "rejected": other})
    (row,) = get_adapter("preference")(rows[0])
    assert row == {"prompt": turns[:3], "chosen": [NO], "rejected": [ASKED]}
    ranked = {"prompt": [ASKED], "completions": [WEATHER["chosen"], ADD["chosen"]], "scores": [1.0, 0.0]}
    (row,) = get_adapter("ranked")(through_arrow(ranked)[0])
    assert checked_list(row)["completions"] == ranked["completions"]


def test_a_shared_turn_is_shared_whatever_arrow_filled_into_one_of_the_columns():
    """`chosen` and `rejected` are two columns, and Arrow fills each by its own rows."""
    shared = [ASKED, WEATHER["chosen"][0]]
    filled = [ASKED, calls("weather", {"city": "Paris", "when": {"day": "Monday"}, "a": None})]
    (row,) = get_adapter("preference")({"chosen": [*shared, NO], "rejected": [*filled, ASKED]})
    assert row == {"prompt": shared, "chosen": [NO], "rejected": [ASKED]}


def test_template_arguments_lose_what_arrow_filled_in():
    rows = [{**WEATHER, "chat_template_kwargs": {"enable_thinking": False}}]
    rows.append({**ADD, "chat_template_kwargs": {"mood": "calm"}})
    for row, filled in zip(rows, through_arrow(*rows), strict=True):
        assert checked_pair(filled)["chat_template_kwargs"] == row["chat_template_kwargs"]


def test_none_in_json_text_is_the_users_own():
    """Arrow fills no text, so tools as JSON text keep a `default` of null; as dicts they cannot."""
    tools = [tool("weather", {"city": {"type": "string", "default": None}})]
    assert checked_pair({**WEATHER, "tools": json.dumps(tools)})["tools"] == tools
    assert checked_pair({**WEATHER, "tools": [json.dumps(tools[0])]})["tools"] == tools
    assert checked_pair({**WEATHER, "tools": tools})["tools"] == [tool("weather", {"city": {"type": "string"}})]


@pytest.mark.parametrize("tools", [{"type": "function"}, '{"type": "function"}', 3, "[", ["["]])
def test_tools_that_are_no_list_are_refused(tools):
    with pytest.raises(RowError, match="column 'tools': "):
        checked_pair({**WEATHER, "tools": tools})


# ---- arguments as JSON text ----------------------------------------------------------------------------------------


def test_arguments_as_json_text_are_decoded_once(qwen):
    arguments = {"city": "Paris", "unit": None, "text": '{"a": 1}'}
    pair = checked_pair({**WEATHER, "chosen": [calls("weather", json.dumps(arguments))]})
    assert pair["chosen"] == [calls("weather", arguments)]
    truth = qwen.apply_chat_template([ASKED, calls("weather", arguments)], tools=WEATHER["tools"], tokenize=False)
    assert qwen.decode(Encoder(tokenizer=qwen).pair(pair)["chosen_ids"]) == truth


def test_arguments_beside_the_name_are_decoded_too():
    call = {"name": "weather", "arguments": '{"city": "Paris"}'}
    pair = checked_pair({**WEATHER, "chosen": [{"role": "assistant", "content": "", "tool_calls": [call]}]})
    assert pair["chosen"][0]["tool_calls"] == [{"name": "weather", "arguments": {"city": "Paris"}}]


@pytest.mark.parametrize("arguments", ['{"city": ', "Paris", '"Paris"', "[1]", ""])
def test_arguments_that_are_no_json_object_stay(arguments):
    """A rejected answer may be rejected for its broken call."""
    assert checked_pair({**WEATHER, "chosen": [calls("weather", arguments)]})["chosen"] == [calls("weather", arguments)]


def test_a_template_that_takes_text_alone_gets_text(qwen):
    """DeepSeek's templates join the arguments to text, which a dict is not."""
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
        "{% for c in m['tool_calls'] or [] %}{{ c['function']['name'] + c['function']['arguments'] }}{% endfor %}|"
        "{% endfor %}"
    )
    row = {"prompt": [ASKED], "completion": [calls("weather", '{"city": "Zürich"}')]}
    encoder = Encoder(tokenizer=_with_template(qwen, template))
    text = qwen.decode(encoder.completion(checked_completion(row)))
    assert text == 'user: What now?|assistant: weather{"city": "Zürich"}|'


def _with_template(tokenizer, template):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


# ---- other modalities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image"},
        {"type": "image", "text": None},
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "audio", "audio": "a.wav"},
        {"type": "input_audio", "input_audio": {"data": ""}},
        {"type": "video", "video": "a.mp4"},
    ],
)
def test_parts_that_are_no_text_are_refused_by_their_name(part):
    parts = [{"type": "text", "text": "Which colour?", "image": None}, part]
    with pytest.raises(RowError, match=f"column 'prompt': message 0 .user. holds '{part['type']}'.*text alone"):
        checked_pair({"prompt": [{"role": "user", "content": parts}], "chosen": [NO], "rejected": [ASKED]})


def test_text_parts_that_arrow_filled_are_text():
    parts = [{"type": "text", "text": "Which ", "image": None}, {"type": "text", "text": "colour?", "index": None}]
    pair = checked_pair({"prompt": [{"role": "user", "content": parts}], "chosen": [NO], "rejected": [ASKED]})
    assert pair["prompt"] == [{"role": "user", "content": "Which colour?"}]
