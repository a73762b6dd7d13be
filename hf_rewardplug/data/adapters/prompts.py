"""A prompt that lies in several columns, or in ShareGPT's turns -> messages.

In: texts from a row's columns, or turns {"from": "human", "value": ...}. Out: messages {"role": "user",
"content": ...}.
"""

import json
from typing import Any

from ..canonical import RowError
from ..messages import cleaned_message
from .fields import Row, expect, field, items, shown, text
from .turns import Message, assistant, user

# ShareGPT's names of the roles (LLaMA-Factory's tags, UltraInteract's, OpenAI's own)
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")
"""what a chat template takes beside the messages"""

PAIR_EXTRAS = ("margin", "weight", "chosen_probability", "tie")
"""what a pair that users write themselves may have beside it"""


def pair_extras(row: Row) -> Row:
    """The columns of `PAIR_EXTRAS` that a row has."""
    return {name: row[name] for name in PAIR_EXTRAS if name in row}


def optional_text(row: Row, *columns: str) -> str:
    """The text of the first of these columns that the row has, "" where it has none.

    >>> optional_text({"system": None, "system_prompt": "Be brief."}, "system", "system_prompt")
    'Be brief.'
    """
    for column in columns:
        if row.get(column) is not None:
            return text(row, column)
    return ""


def asked(question: str, *, system: str = "", history: list[Message] | None = None) -> list[Message]:
    """A prompt in messages: the system turn where there is one, the turns before, the question.

    >>> asked("And 3?", system="Be brief.", history=[user("Is 2 prime?"), assistant("Yes.")])[::3]
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'And 3?'}]
    """
    opening = [{"role": "system", "content": system}] if system else []
    return [*opening, *(history or []), user(question)]


def answered_pair(prompt: list[Message], chosen: str, rejected: str, *, tie: bool = False) -> Row:
    """A preference row of two answers as text.

    >>> answered_pair([user("2+2?")], "4", "5")["rejected"]
    [{'role': 'assistant', 'content': '5'}]
    """
    row = {"prompt": prompt, "chosen": [assistant(chosen)], "rejected": [assistant(rejected)]}
    return {**row, "tie": True} if tie else row


def sharegpt_turns(row: Row, column: str) -> list[Message]:
    """The turns of a column as messages; turns that are messages already stay, without what is None in them.

    >>> sharegpt_turns({"conversations": [{"from": "human", "value": "2+2?"}]}, "conversations")
    [{'role': 'user', 'content': '2+2?'}]
    """
    turns = items(row, column)
    if not turns:
        raise RowError("expected at least one turn, found an empty list", column)
    return [sharegpt_turn(turn, column) for turn in turns]


def sharegpt_turn(turn: Any, column: str) -> Message:
    """One turn as a message; a `function_call` holds its calls as JSON, and becomes the message's `tool_calls`.

    >>> sharegpt_turn({"from": "function_call", "value": '{"name": "add", "arguments": {"x": 2}}'}, "conversations")
    {'role': 'assistant', 'tool_calls': [{'type': 'function', 'function': {'name': 'add', 'arguments': {'x': 2}}}]}
    """
    turn = expect(turn, dict, "a turn {'from': ..., 'value': ...}", column)
    if "from" not in turn and "role" in turn:
        return cleaned_message(turn)
    name, content = field(turn, "from", column), text(turn, "value", column)
    if name not in SHAREGPT_ROLES:
        raise RowError(f"a turn is from {shown(name)}; expected one of {', '.join(SHAREGPT_ROLES)}", column)
    if name == "function_call":
        return {"role": "assistant", "tool_calls": _tool_calls(content, column)}
    return {"role": SHAREGPT_ROLES[name], "content": content}


def _tool_calls(written: str, column: str) -> list[Row]:
    try:
        calls = json.loads(written)
    except json.JSONDecodeError as error:
        raise RowError(f"a function_call is not JSON: {error}; found {shown(written)}", column) from None
    return [{"type": "function", "function": call} for call in (calls if isinstance(calls, list) else [calls])]
