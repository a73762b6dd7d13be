r"""Text with turn marks -> messages, and what two conversations share.

"\n\nHuman: Hi\n\nAssistant: Hello"   ->   [{role: user, content: Hi}, {role: assistant, content: Hello}]
"""

import re

from ...checks import RowError

Message = dict

_HH_MARK = re.compile(r"\n\n(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}
# HelpSteer2 marks turns by lines of their own, the first (user's) turn by none
_HELPSTEER2_MARK = re.compile(r"(?:\n|\A|(?<=\n))<extra_id_1>(User|Assistant)\n")


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def is_hh_text(value: object) -> bool:
    return isinstance(value, str) and value.startswith("\n\nHuman:")


def hh_turns(text: str, column: str) -> list[Message]:
    r"""Anthropic's text form. A mark needs its blank line; contents lose the white space around them.

    >>> hh_turns("\n\nHuman: Is this a play?\nHuman: yes.\n\nAssistant: It is.\n\nWhose?", "chosen")
    [{'role': 'user', 'content': 'Is this a play?\nHuman: yes.'}, {'role': 'assistant', 'content': 'It is.\n\nWhose?'}]
    """
    if not is_hh_text(text):
        raise RowError(f"expected text that begins with '\\n\\nHuman:', found {text[:40]!r}", column)
    parts = _HH_MARK.split(text)[1:]  # before the first mark stands nothing
    return [
        {"role": _HH_ROLES[mark], "content": content.strip()}
        for mark, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def helpsteer2_turns(text: str) -> list[Message]:
    r"""HelpSteer2's prompts (format: its data card); a prompt without marks is one user turn.

    >>> helpsteer2_turns("Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nBye")
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}, {'role': 'user', 'content': 'Bye'}]
    """
    first, *parts = _HELPSTEER2_MARK.split(text)
    opening = [user(first)] if first or not parts else []
    return opening + [
        {"role": mark.lower(), "content": content} for mark, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def split_at_common_prefix(chosen: list[Message], rejected: list[Message]) -> dict:
    """Two whole conversations -> a preference row: what they share is the prompt, and each keeps one message at least.

    >>> a, b, c = user("a"), assistant("b"), assistant("c")
    >>> split_at_common_prefix([a, b], [a, c]) == {"prompt": [a], "chosen": [b], "rejected": [c]}
    True
    >>> split_at_common_prefix([a, b], [a, b]) == {"prompt": [a], "chosen": [b], "rejected": [b]}
    True
    >>> split_at_common_prefix([b], [c]) == {"chosen": [b], "rejected": [c]}
    True
    """
    prompt, (chosen, rejected) = shared_and_own([chosen, rejected])
    return {**({"prompt": prompt} if prompt else {}), "chosen": chosen, "rejected": rejected}


def shared_and_own(conversations: list[list[Message]]) -> tuple[list[Message], list[list[Message]]]:
    """What whole conversations begin with together, and what each of them has behind it: one message at least.

    >>> a, b, c = user("a"), assistant("b"), assistant("c")
    >>> shared_and_own([[a, b], [a, c], [a, c, a]]) == ([a], [[b], [c], [c, a]])
    True
    """
    first, longest = conversations[0], min(map(len, conversations)) - 1
    alike = (all(turns[index] == first[index] for turns in conversations) for index in range(longest))
    shared = next((index for index, same in enumerate(alike) if not same), longest)
    return first[:shared], [turns[shared:] for turns in conversations]
