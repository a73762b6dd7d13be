"""Messages and tools as the user gave them: None that Arrow filled in is removed, JSON text within a call is read once.

In: a message, tools or template arguments, as `datasets` or a caller gives them. Out: the same in the form that chat
templates expect. Training and scoring call the same functions, so that both render the same text.

Arrow gives every dict of a column the keys of all others, with None for those that it lacks. This None looks the
same as one that the user wrote (`"default": None` in a tool's schema), and plain dicts are scored by the same model, so
None-valued keys go in both. The order of keys is the column's too. JSON text (`tools`, `arguments`) keeps its None and
its order.
"""

import json
from typing import Any


def without_none(value: Any) -> Any:
    """The value without the None-valued keys of its dicts, at every depth; entries of lists stay.

    >>> without_none({"a": None, "b": [None, {"c": None, "d": 0}], "e": {"f": None}})
    {'b': [None, {'d': 0}], 'e': {}}
    """
    if isinstance(value, dict):
        return {key: without_none(entry) for key, entry in value.items() if entry is not None}
    return [without_none(entry) for entry in value] if isinstance(value, list) else value


def cleaned_message(message: dict) -> dict:
    """The message without None-valued keys, the arguments of its tool calls as dicts.

    >>> call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": null}'}}
    >>> message = cleaned_message({"role": "assistant", "content": None, "tool_calls": [call]})
    >>> message["tool_calls"][0]["function"]["arguments"]
    {'a': 1, 'b': None}
    """
    message = without_none(message)
    if isinstance(calls := message.get("tool_calls"), list):
        message["tool_calls"] = [_with_arguments(call, _decoded) for call in calls]
    return message


def with_arguments_as_text(messages: list[dict]) -> list[dict]:
    """The messages for a template that joins a call's arguments to text, as DeepSeek's do.

    >>> call = {"function": {"name": "add", "arguments": {"a": 1}}}
    >>> with_arguments_as_text([{"role": "assistant", "tool_calls": [call]}])[0]["tool_calls"]
    [{'function': {'name': 'add', 'arguments': '{"a": 1}'}}]
    """
    return [
        {**message, "tool_calls": [_with_arguments(call, _encoded) for call in message["tool_calls"]]}
        if isinstance(message.get("tool_calls"), list)
        else message
        for message in messages
    ]


def _with_arguments(call: Any, change: Any) -> Any:
    """`change` made to the arguments of a call; they stand in `function`, or beside the name."""
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": _with_arguments(call["function"], change)}
    return {**call, "arguments": change(call["arguments"])} if "arguments" in call else call


def _decoded(arguments: Any) -> Any:
    """OpenAI's JSON text as a dict, which `tojson` would encode again; text that is no JSON object stays as it is."""
    if not isinstance(arguments, str):
        return arguments
    try:
        decoded = json.loads(arguments)
    except ValueError:
        return arguments
    return decoded if isinstance(decoded, dict) else arguments


def _encoded(arguments: Any) -> Any:
    return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else arguments
