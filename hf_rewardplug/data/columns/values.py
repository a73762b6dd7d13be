"""What a column's value holds: text, messages, tools, images or sound, or nothing.

In: a value as `datasets` or JSON gives it. Out: yes or no, or the texts within. Pure Python.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

_PLAIN = ("builtins", "datetime", "decimal", "fractions", "uuid", "numpy", "pandas", "torch")
"""where types come from that are numbers, times, text and lists of them"""

_NO_TEXT = ("role", "from", "type", "id", "tool_call_id")
"""keys of messages and tools whose text says nothing by itself"""

_LONG_NAME, _ENDS = 40, ".?!。？！"  # characters; what ends a sentence

_ID = re.compile(r"[0-9a-fA-F][0-9a-fA-F-]{15,}")


def has_content(value: Any) -> bool:
    """Whether there is anything in it; a number is something.

    >>> [has_content(value) for value in (None, " ", [], [None, ""], {"a": None}, 0, "a", [{"a": ["b"]}])]
    [False, False, False, False, False, True, True, True]
    """
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, dict):
        return any(map(has_content, value.values()))
    return any(map(has_content, value)) if isinstance(value, list | tuple) else value is not None


def parsed(value: Any) -> Any:
    """JSON of messages or tools as what it says; any other value as it is.

    >>> parsed('[{"role": "user", "content": "Hi"}]'), parsed("[sic]"), parsed("4")
    ([{'role': 'user', 'content': 'Hi'}], '[sic]', '4')
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def texts_of(value: Any) -> Iterator[str]:
    """The texts within, white space made one blank each; none that is blank.

    >>> list(texts_of([{"role": "user", "content": " Two \\n words "}, {"role": "assistant", "content": None}, 3]))
    ['Two words']
    """
    if isinstance(value, str):
        if text := " ".join(value.split()):
            yield text
    elif isinstance(value, dict):
        yield from texts_of([inner for key, inner in value.items() if key not in _NO_TEXT])
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_of(inner)


def is_messages(value: Any) -> bool:
    """Turns of a conversation, OpenAI's or ShareGPT's, one or a list; or a list of conversations.

    >>> is_messages([{"role": "user", "content": "Hi"}]), is_messages([[{"from": "gpt", "value": "a"}]])
    (True, True)
    """
    if isinstance(value, list) and value and all(isinstance(turn, dict | list) for turn in value):
        return all(map(is_messages, value))
    return isinstance(value, dict) and any(
        isinstance(value.get(role), str) and content in value
        for role, content in (("role", "content"), ("role", "tool_calls"), ("from", "value"))
    )


def is_of_assistant(value: Any) -> bool:
    """Of messages: whether all are answers.

    >>> is_of_assistant([{"role": "assistant", "content": "4"}])
    True
    """
    if isinstance(value, list):
        return all(map(is_of_assistant, value))
    return value.get("role", value.get("from")) in ("assistant", "gpt", "model")


def is_tools(value: Any) -> bool:
    """A list of tools, as chat templates take them.

    >>> is_tools([{"type": "function", "function": {"name": "add"}}]), is_tools([{"name": "add", "parameters": {}}])
    (True, True)
    """
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(tool, dict) for tool in value)
        and all(isinstance(tool.get("function"), dict) or tool.keys() >= {"name", "parameters"} for tool in value)
    )


def is_media(value: Any) -> bool:
    """An image, sound or video: as `datasets` decodes or stores it, or within a list.

    >>> is_media([{"bytes": b"png", "path": None}]), is_media({"bytes": None, "path": None}), is_media("a.png")
    (True, False, False)
    """
    if isinstance(value, list | tuple):
        return any(map(is_media, value))
    if isinstance(value, dict):
        stored = value.keys() <= {"bytes", "path"} and any(part is not None for part in value.values())
        return stored or {"array", "sampling_rate"} <= value.keys()
    return type(value).__module__.partition(".")[0] not in _PLAIN


def is_id(text: str) -> bool:
    """
    >>> is_id("5f0e7a52c1d94c3b"), is_id("e90a38f3-3135-4465-87af-3e6322e3d772"), is_id("17")
    (True, True, False)
    """
    return _ID.fullmatch(text) is not None


def is_sentence(text: str) -> bool:
    """More than one word, or in a script that may not part its words.

    >>> is_sentence("Name a prime."), is_sentence("gsm8k"), is_sentence("言え")
    (True, False, True)
    """
    return " " in text or not text.isascii()


def is_name(text: str) -> bool:
    """Short enough for the name of a source or of a category, and no sentence with an end.

    >>> is_name("Stack Exchange"), is_name("https://" + 40 * "a"), is_name("What is 2+2?"), is_name(9 * "a few words ")
    (True, True, False, False)
    """
    return not is_sentence(text) or (len(text) <= _LONG_NAME and text[-1] not in _ENDS)
