"""What a chat template leaves out of a conversation: roles that it does not know, fields, a second system turn, tools.

In: canonical rows. Out: for each, the names of what its template does not render. The truth is the template's own: a
conversation of the same shape, with a mark in the place of each text, is rendered, and the marks are looked for. Once a
shape, which is the roles and the fields of all turns, and not once a row.

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
"""column of encoded rows with what was not rendered, a line each; it goes when it is counted"""

_SAYS_NOTHING = ("role", "type", "id", "tool_call_id", "name")
"""fields of turns and calls that tell what belongs together and are no text of the conversation"""

_THOUGHTS = "</think>"


@dataclass(frozen=True)
class Unrendered:
    """Names what the template of `source` leaves out of a row; of text, which it does not render, tools alone."""

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
        marks: dict[str, str] = {}
        marked = [_marked_turn(turn, f"zq{index}", marks) for index, turn in enumerate(turns)]
        rest = {key: row[key] for key in ("tools", "chat_template_kwargs") if key in row}
        shape = json.dumps([marked, bool(rest.get("tools")), rest.get("chat_template_kwargs"), options], default=str)
        if shape not in self._shapes:
            self._shapes[shape] = tuple(self._missing(marked, marks, rest, options))
        return self._shapes[shape]

    def _missing(self, marked: list[dict], marks: dict[str, str], rest: Row, options: dict[str, Any]) -> Iterator[str]:
        try:
            rendered = self.source.rendered(marked, rest, tokenize=False, **options)
            bare = self.source.rendered(marked, {**rest, "tools": None}, tokenize=False, **options)
        except Exception:  # what the template refuses is told where the row itself is rendered
            return
        yield from dict.fromkeys(name for mark, name in marks.items() if mark not in rendered)
        if rest.get("tools") and rendered == bare:
            yield "tools"


class UnrenderedNotice:
    """Warns of what the template leaves out of rows that are scored, once of each name."""

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
    if isinstance(next(iter(row.get("completions", ())), None), str):  # steps, behind a conversation or text
        answers, options = [[]], {"add_generation_prompt": True}
    else:
        answers, options = [row[key] for key in ("chosen", "rejected", "completion") if key in row], {}
        answers += row.get("completions", [])
    for answer in answers:
        if isinstance(prompt, list) and isinstance(answer, list) and (prompt or answer):
            yield [*prompt, *answer], options


def _marked_turn(turn: dict, mark: str, marks: dict[str, str]) -> dict:
    """The turn with a mark for each text in it; `marks` gets each of them with the name of what it stands for.

    >>> marks = {}
    >>> _marked_turn({"role": "assistant", "content": "Four.", "reasoning_content": "2+2=4"}, "zq1", marks)
    {'role': 'assistant', 'content': 'zq1n0zz', 'reasoning_content': 'zq1n1zz'}
    >>> list(marks.values())
    ["'assistant' turns", "'reasoning_content' of 'assistant' turns"]
    """
    role, marked = turn["role"], {}
    for key, value in turn.items():
        own = f"'{role}' turns" if key == "content" else f"'{key}' of '{role}' turns"
        if key == "content" and isinstance(value, str) and _THOUGHTS in value:
            opening = "<think>\n" if value.lstrip().startswith("<think>") else ""
            thoughts = _mark(mark, f"the thoughts of '{role}' turns", marks)
            answer = _mark(mark, own, marks) if value.rpartition(_THOUGHTS)[2].strip() else ""
            marked[key] = f"{opening}{thoughts}\n{_THOUGHTS}\n\n{answer}"
        else:
            marked[key] = value if key in _SAYS_NOTHING else _marked(value, mark, own, marks)
    return marked


def _marked(value: Any, mark: str, name: str, marks: dict[str, str]) -> Any:
    if isinstance(value, str):
        return _mark(mark, name, marks) if value.strip() else value
    if isinstance(value, dict):
        kept = [key for key in value if key in ("id", "type") or (key in _SAYS_NOTHING and "arguments" not in value)]
        return {key: one if key in kept else _marked(one, mark, name, marks) for key, one in value.items()}
    return [_marked(one, mark, name, marks) for one in value] if isinstance(value, list) else value


def _mark(mark: str, name: str, marks: dict[str, str]) -> str:
    """A mark that stands in no other one."""
    own = f"{mark}n{len(marks)}zz"
    marks[own] = name
    return own
