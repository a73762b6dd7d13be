"""What a chat template leaves out of a conversation: roles that it does not know, fields, a second system turn, tools.

In: canonical rows. Out: for each row, the names of what its template does not render. Only the template itself knows
this: a conversation of the same shape, with a mark in the place of each text, is rendered, and the marks are searched
for in the result. The shape is the roles and the fields of all turns; each shape is rendered once.

    {"role": "developer", "content": "Be brief."}                            "'developer' turns"
    {"role": "assistant", "content": "4", "reasoning_content": "2+2=4"}      "'reasoning_content' of 'assistant' turns"
    tools, in a template without them                                        "tools"
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .canonical import Row
from .tokenizing import TokenSource

logger = logging.getLogger(__name__)

UNRENDERED = "unrendered"
"""The column that names what was not rendered, one name a line. It is removed when it has been counted."""

_SAYS_NOTHING = ("role", "type", "id", "tool_call_id", "name")
"""Fields of turns and calls that link them to one another. They are no text of the conversation."""

_THOUGHTS = "</think>"


@dataclass(frozen=True)
class Unrendered:
    """Names what the template of `source` leaves out of a row. Text is not rendered, so it can lose only its tools."""

    source: TokenSource
    _shapes: dict[str, tuple[str, ...]] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, row: Row) -> tuple[str, ...]:
        """Each name once."""
        conversations = list(_conversations(row))
        if not conversations:
            return ("tools",) if row.get("tools") else ()
        return tuple({name: None for turns, options in conversations for name in self._names(turns, row, options)})

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "_shapes": {}}  # which is no part of what `datasets` hashes

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def _names(self, turns: list[dict], row: Row, options: dict[str, Any]) -> tuple[str, ...]:
        marks = _Marks()
        marked = [marks.turn(turn) for turn in turns]
        rest = {key: row[key] for key in ("tools", "chat_template_kwargs") if key in row}
        shape = json.dumps([marked, bool(rest.get("tools")), rest.get("chat_template_kwargs"), options], default=str)
        if shape not in self._shapes:
            self._shapes[shape] = tuple(self._missing(marked, marks.names, rest, options))
        return self._shapes[shape]

    def _missing(self, marked: list[dict], names: dict[str, str], rest: Row, options: dict[str, Any]) -> Iterator[str]:
        """The names whose marks the rendered text lacks."""
        try:
            rendered = self.source.rendered(marked, rest, tokenize=False, **options)
            bare = self.source.rendered(marked, {**rest, "tools": None}, tokenize=False, **options)
        except Exception:  # the error shows where the row itself is rendered
            return
        yield from dict.fromkeys(name for mark, name in names.items() if mark not in rendered)
        if rest.get("tools") and rendered == bare:
            yield "tools"


class UnrenderedNotice:
    """Warns of what the template leaves out of rows that are scored, once for each name."""

    def __init__(self, source: TokenSource):
        self._unrendered, self._told = Unrendered(source), set()

    def __call__(self, row: Row) -> None:
        for name in self._unrendered(row):
            if name not in self._told:
                self._told.add(name)
                logger.warning("The chat template does not render %s, which the scores therefore do not see.", name)


def _conversations(row: Row) -> Iterator[tuple[list[dict], dict[str, Any]]]:
    """The conversations that a row is encoded from, and how they are rendered."""
    prompt = row.get("prompt") or []
    if isinstance(next(iter(row.get("completions", ())), None), str):  # steps, which follow a conversation or text
        answers, options = [[]], {"add_generation_prompt": True}
    else:
        answers, options = [row[key] for key in ("chosen", "rejected", "completion") if key in row], {}
        answers += row.get("completions", [])
    for answer in answers:
        if isinstance(prompt, list) and isinstance(answer, list) and (prompt or answer):
            yield [*prompt, *answer], options


@dataclass
class _Marks:
    """Marks that stand in the place of a conversation's texts.

    Attributes:
        names: of each mark, the name of what it stands for. No mark is a part of another.

    >>> marks = _Marks()
    >>> marks.turn({"role": "assistant", "content": "Four.", "reasoning_content": "2+2=4"})
    {'role': 'assistant', 'content': 'zq0zz', 'reasoning_content': 'zq1zz'}
    >>> list(marks.names.values())
    ["'assistant' turns", "'reasoning_content' of 'assistant' turns"]
    """

    names: dict[str, str] = field(default_factory=dict)

    def turn(self, turn: dict) -> dict:
        """The turn with a mark for each text in it."""
        role, marked = turn["role"], {}
        for key, value in turn.items():
            name = f"'{role}' turns" if key == "content" else f"'{key}' of '{role}' turns"
            if key == "content" and isinstance(value, str) and _THOUGHTS in value:
                marked[key] = self._with_thoughts(value, role, name)
            else:
                marked[key] = value if key in _SAYS_NOTHING else self._value(value, name)
        return marked

    def _with_thoughts(self, content: str, role: str, name: str) -> str:
        """Some templates cut a turn at the end of its thoughts, so thoughts and answer have a mark each."""
        opening = "<think>\n" if content.lstrip().startswith("<think>") else ""
        thoughts = self._mark(f"the thoughts of '{role}' turns")
        answer = self._mark(name) if content.rpartition(_THOUGHTS)[2].strip() else ""
        return f"{opening}{thoughts}\n{_THOUGHTS}\n\n{answer}"

    def _value(self, value: Any, name: str) -> Any:
        if isinstance(value, str):
            return self._mark(name) if value.strip() else value
        if isinstance(value, list):
            return [self._value(entry, name) for entry in value]
        if not isinstance(value, dict):
            return value
        kept = _SAYS_NOTHING if "arguments" not in value else ("id", "type")
        return {key: entry if key in kept else self._value(entry, name) for key, entry in value.items()}

    def _mark(self, name: str) -> str:
        mark = f"zq{len(self.names)}zz"
        self.names[mark] = name
        return mark
