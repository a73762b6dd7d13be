"""A raw row's fields: in goes the row and a column's name, out comes the value in the type an adapter needs.

Whatever is missing or of another type is a `RowError` that names the column and what was found. `inside` names the
column that holds the row, where that is a dict within a column.
"""

import json
from typing import Any

from ...checks import RowError, expect, finite, shown
from ..messages import cleaned_message

Row = dict[str, Any]

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

TEMPLATE_ARGUMENTS = ("tools", "chat_template_kwargs")
"""columns that a chat template takes beside the messages"""


def field(row: Row, column: str, inside: str | None = None) -> Any:
    """The value, whatever it is.

    >>> field({"question": "1+1?"}, "prompt")
    Traceback (most recent call last):
    hf_rewardplug.checks.RowError: column 'prompt': is missing; found ['question']. Map it with column_mapping
    >>> field({"model": "b"}, "rank", inside="answers")
    Traceback (most recent call last):
    hf_rewardplug.checks.RowError: column 'answers.rank': is missing; found ['model']
    """
    if column not in row:
        remedy = "" if inside else ". Map it with column_mapping"
        raise RowError(f"is missing; found {sorted(row, key=str)}{remedy}", _name(column, inside))
    return row[column]


def text(row: Row, column: str, inside: str | None = None) -> str:
    return expect(field(row, column, inside), str, "text", _name(column, inside))


def text_or_texts(row: Row, column: str) -> str | list[str]:
    """The text, or a list of several, as some formats have their rejected answers."""
    value = field(row, column)
    several = isinstance(value, list) and bool(value) and all(isinstance(answer, str) for answer in value)
    return value if several else text(row, column)


def items(row: Row, column: str, inside: str | None = None) -> list:
    return expect(field(row, column, inside), list, "a list", _name(column, inside))


def number(row: Row, column: str, inside: str | None = None) -> int | float:
    """A finite number: not a number in text, no bool, no NaN (which would be neither a preference nor a tie)."""
    value = field(row, column, inside)
    finite(value, _name(column, inside))
    return value


def integer(row: Row, column: str) -> int:
    """A whole number; pandas makes a float such as 3.0 of it where the column has gaps.

    >>> integer({"label": 3.0}, "label")
    3
    """
    value = number(row, column)
    if value != int(value):
        raise RowError(f"expected a whole number, found {value!r}", column)
    return int(value)


def dicts(row: Row, column: str, inside: str | None = None) -> list[dict]:
    return [expect(entry, dict, "a list of dicts", _name(column, inside)) for entry in items(row, column, inside)]


def messages(row: Row, column: str) -> list[dict]:
    """A conversation, without the None that Arrow puts where another message has a key, and its calls as dicts; turns
    of ShareGPT as messages.

    >>> messages({"prompt": [{"role": "user", "content": "Hi", "name": None}]}, "prompt")
    [{'role': 'user', 'content': 'Hi'}]
    >>> messages({"conversations": [{"from": "human", "value": "2+2?"}]}, "conversations")
    [{'role': 'user', 'content': '2+2?'}]
    """
    conversation = field(row, column)
    if not isinstance(conversation, list) or not conversation:
        raise RowError(f"expected a list of messages that is not empty, found {shown(conversation)}", column)
    cleaned = []
    for index, message in enumerate(conversation):
        if isinstance(message, dict) and message.get("role") is None and "from" in message:
            cleaned.append(_sharegpt_message(message, column))
        elif isinstance(message, dict) and isinstance(message.get("role"), str):
            cleaned.append(cleaned_message(message))
        else:
            raise RowError(f"message {index} is {shown(message)}; expected {{'role': ..., 'content': ...}}", column)
    return cleaned


def _sharegpt_message(turn: Row, column: str) -> Row:
    """A turn of ShareGPT; a `function_call` holds its calls as JSON, and becomes the message's `tool_calls`.

    >>> _sharegpt_message({"from": "function_call", "value": '{"name": "add", "arguments": {"x": 2}}'}, "conversations")
    {'role': 'assistant', 'tool_calls': [{'type': 'function', 'function': {'name': 'add', 'arguments': {'x': 2}}}]}
    """
    name, content = turn["from"], text(turn, "value", column)
    if not isinstance(name, str) or name not in SHAREGPT_ROLES:
        raise RowError(f"a turn is from {shown(name)}; expected one of {', '.join(SHAREGPT_ROLES)}", column)
    if name != "function_call":
        return {"role": SHAREGPT_ROLES[name], "content": content}
    try:
        calls = json.loads(content)
    except json.JSONDecodeError as error:
        raise RowError(f"a function_call is not JSON: {error}; found {shown(content)}", column) from None
    calls = [{"type": "function", "function": call} for call in (calls if isinstance(calls, list) else [calls])]
    return {"role": "assistant", "tool_calls": calls}


def template_arguments(row: Row) -> Row:
    """What a chat template takes beside the messages, where the row has it."""
    return {key: row[key] for key in TEMPLATE_ARGUMENTS if row.get(key) is not None}


def with_system_turn(row: Row, prompt: Any) -> Any:
    """The prompt in messages with the row's `system` as its first turn, where the row has one.

    >>> with_system_turn({"system": "Be brief."}, [{"role": "user", "content": "2+2?"}])
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': '2+2?'}]
    >>> with_system_turn({"system": None}, "2+2?")
    '2+2?'
    """
    system = row.get("system")
    if system is None or (isinstance(system, str) and not system.strip()):
        return prompt
    expect(system, str, "text", "system")
    if not isinstance(prompt, list):
        pairs = {"prompt", "chosen", "rejected"} <= row.keys()
        turns = " (adapter='orca_pairs' with column_mapping={'question': 'prompt'} makes turns)" if pairs else ""
        raise RowError(
            f"the prompt is text, which has no system turn. Put it into the text, give messages{turns}, or leave it "
            "out with ignore_columns=['system']",
            "system",
        )
    opening = prompt[0] if prompt and isinstance(prompt[0], dict) else {}
    if opening.get("role") not in ("system", "developer"):
        return [{"role": "system", "content": system}, *prompt]
    if opening.get("content") == system:
        return prompt
    raise RowError(f"differs from the conversation's own system turn, {shown(opening.get('content'))}", "system")


def _name(column: str, inside: str | None) -> str:
    return f"{inside}.{column}" if inside else column
