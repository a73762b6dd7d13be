"""The texts that an adapter has read from one row: its prompts and its answers.

In: the canonical rows that the adapter made of a raw row, and a column's value. Out: whether the value adds anything to
them. Many data sets hold their prompt twice: beside a whole conversation, or as `messages` beside `chosen`.
"""

import re
from collections.abc import Collection, Iterable
from typing import Any

from ..canonical import Row, common_beginning
from .values import texts_of

_ANSWERS = ("chosen", "rejected", "completion", "completions")
_MARKS = 40  # characters: a template's marks around a text are no more
_LONG = 20  # characters: so much text does not stand within another by chance


class KnownTexts:
    """The texts of canonical rows.

    Attributes:
        rows: these rows.
        has_prompt: whether every row has a prompt.
        is_trl: whether TRL's `prompt` is read, which says what is asked.

    Args:
        read: columns with content that the adapter read.

    >>> known = KnownTexts([{"prompt": "Name a prime number.", "chosen": "7", "rejected": "8"}])
    >>> known.has_prompt, known.holds(["prime number."]), known.holds(["7"]), known.holds(["7"], answers=True)
    (True, True, False, True)
    """

    def __init__(self, rows: list[Row], read: Collection[str] = ()):
        self.rows = rows
        self.has_prompt, self.is_trl = bool(rows) and all(row.get("prompt") for row in rows), "prompt" in read
        self._prompts = {text for row in rows for text in texts_of([row.get("prompt"), _beginning(row)])}
        self._answers = {text for row in rows for text in texts_of([row.get(key) for key in _ANSWERS])}

    def holds(self, texts: Iterable[str], *, answers: bool = False) -> bool:
        """Whether each text stands in a prompt, or is one with marks around it; or, with `answers`, is an answer."""
        return all(
            (answers and text in self._answers)
            or any(_within(text, prompt) or _is_marked(text, prompt) for prompt in self._prompts)
            for text in texts
        )

    def replaces(self, prompt: Any) -> bool:
        """Whether the row's prompt as text is nowhere in what was read: whole conversations beside it took its place.

        >>> known = KnownTexts([{"prompt": [{"role": "user", "content": "Name a prime number."}]}])
        >>> known.replaces("Prime?"), known.replaces("Human: Name a prime number.")
        (True, False)
        """
        texts = list(texts_of(prompt)) if isinstance(prompt, str) else []
        return any(not any(_within(known, text) or _within(text, known) for known in self._prompts) for text in texts)


def _beginning(row: Row) -> str:
    """What two texts without a prompt begin with together."""
    if not row.get("prompt") and isinstance(row.get("chosen"), str) and isinstance(row.get("rejected"), str):
        return "".join(common_beginning([row["chosen"], row["rejected"]]))
    return ""


def _is_marked(text: str, prompt: str) -> bool:
    """Whether the text is the prompt between a template's marks.

    >>> _is_marked("<s>[INST] Name a prime number. [/INST]", "Name a prime number.")
    True
    """
    return len(prompt) >= _LONG and prompt in text and len(text) - len(prompt) <= _MARKS


def _within(text: str, prompt: str) -> bool:
    """Whether the text is the prompt or stands in it, not as a part of a word."""
    if text == prompt or (len(text) >= _LONG and text in prompt):
        return True
    return text in prompt and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", prompt) is not None
