"""What is scored, in the form of the rows that the model was trained on.

In: prompts and completions or steps as a caller has them, and what the checkpoint says of its rows. Out: the same, with
strings as turns where training rendered turns; the tools and the arguments of the template that belong to each prompt.

    trained on    strings                              messages
    turns         turns: a user's and an assistant's   as they are
    text          as they are                          as they are, and a notice
    both, or not known                                 as they are
"""

import contextlib
import logging
from collections.abc import Iterable
from datetime import date
from typing import Any

from ..data.adapters.fields import TEMPLATE_ARGUMENTS
from ..data.adapters.turns import assistant, helpsteer2_turns, hh_turns, is_hh_text
from ..data.row_forms import TEXT, TURNS
from ..data.template_dates import may_write_date, today, with_date, writes_date
from ..model.description import Description

logger = logging.getLogger(__name__)


class TrainedForm:
    """Gives prompts and completions the form that they had in training, and says once what it does.

    Args:
        name: the model's, for notices.
        tokenizer: the checkpoint's.
        description: what the checkpoint says of itself.
        chat_template_kwargs: what the scorer renders with.

    Attributes:
        rows: "text", "turns" or "both"; None where the checkpoint says nothing.
        tokenizer: the same, or a copy whose template writes one date for good.
    """

    def __init__(self, name: str, tokenizer: Any, description: Description, chat_template_kwargs: dict[str, Any]):
        self.name, self.rows, self.tokenizer = name, description.rows, tokenizer
        self.chat_template_kwargs = chat_template_kwargs
        self._notices: set[str] = set()
        self._marks: tuple[str, ...] | None = None
        self._today = ""
        if may_write_date(tokenizer):
            day = description.date or today(tokenizer).isoformat()
            if description.date is None and writes_date(tokenizer, **chat_template_kwargs):
                self._today = day
            self.tokenizer = with_date(tokenizer, date.fromisoformat(day))

    def completions(self, prompt: Any, completion: Any, *, as_text: bool = False) -> tuple[Any, Any]:
        """A prompt and what follows it."""
        if (prompt and not isinstance(prompt, str)) or not isinstance(completion, str):
            self._look_at_turns()
        elif not as_text and self._makes_turns(prompt or completion):
            return conversation(prompt or "", completion)
        return prompt, completion

    def steps(self, prompt: Any, steps: Any, *, as_text: bool = False) -> tuple[Any, Any]:
        """A prompt and the steps of a solution, which are text in training too."""
        if prompt and not isinstance(prompt, str):
            self._look_at_turns()
        elif prompt and not as_text and self._makes_turns(prompt):
            turns = turns_of(prompt)
            return (turns[:-1] if turns[-1] == assistant("") else turns), steps
        return prompt, steps

    def _makes_turns(self, text: str) -> bool:
        """Whether text becomes turns: where training had turns, but for what is rendered already."""
        if self.rows != TURNS:
            return False
        if self._marks is None:
            self._marks = template_marks(self.tokenizer)
        if text.lstrip().startswith(self._marks):
            self._notify(
                "rendered",
                f"strings that begin with {' or '.join(self._marks)} are taken for rendered conversations, and scored "
                "as they are. Messages are rendered exactly as in training.",
            )
            return False
        self._notify(
            TURNS,
            "the model was trained on conversations, so strings are rendered as a user's turn and an assistant's, as "
            "in training (as_text=True keeps them as they are).",
        )
        return True

    def _look_at_turns(self) -> None:
        if self.rows == TEXT:
            self._notify(
                TEXT,
                "the model was trained on text, and has never seen a conversation as the chat template renders it. "
                "Give it strings, as its training data had them (a benchmark: chat=False, --option chat=false).",
            )
        if self._today:
            self._notify(
                "date",
                "the chat template writes the date into the prompt, and the checkpoint does not say which. This scorer "
                f"renders with {self._today}; one of another day gives other scores. Set the date by "
                "`chat_template_kwargs` where the template takes it, or write it into the tokenizer's template with "
                "`hf_rewardplug.data.template_dates.freeze_date`.",
            )

    def _notify(self, what: str, text: str) -> None:
        if what not in self._notices:
            self._notices.add(what)
            logger.warning("'%s': %s", self.name, text)


def template_marks(tokenizer: Any) -> tuple[str, ...]:
    """What rendered conversations begin with: special tokens of the chat template, or its own words before a turn."""
    special = {*tokenizer.all_special_tokens}
    special |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    user, system = ({"role": role, "content": "2+2=?"} for role in ("user", "system"))
    marks: set[str] = set()
    for messages in ([user], [system, user]):
        with contextlib.suppress(Exception):  # a template raises whatever its author chose
            rendered = tokenizer.apply_chat_template(messages, tokenize=False)
            marks |= {token for token in special if token.strip() and token in rendered}
            words = rendered.partition(user["content"])[0].removeprefix(tokenizer.bos_token or "").strip()
            marks |= {words} - {""} if not words.startswith((*marks,)) else set()
    return tuple(sorted(marks))


def turns_of(prompt: str) -> list[dict]:
    r"""A prompt as the adapters make turns of text: marked text as its turns, anything else as a user's.

    >>> turns_of("2+2?"), len(turns_of("\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: 2+2?\n\nAssistant:"))
    ([{'role': 'user', 'content': '2+2?'}], 4)
    """
    return hh_turns(prompt, "prompt") if is_hh_text(prompt) else helpsteer2_turns(prompt)


def conversation(prompt: str, completion: str) -> tuple[list[dict], list[dict]]:
    r"""A prompt and its completion as turns.

    >>> conversation("2+2?", "4")
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': '4'}])
    >>> conversation("\n\nHuman: 2+2?\n\nAssistant:", " 4")
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': '4'}])
    >>> conversation("", "\n\nHuman: 2+2?\n\nAssistant: 4")
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': '4'}])
    """
    if not prompt:
        turns = hh_turns(completion, "completion") if is_hh_text(completion) else [assistant(completion)]
        return turns[:-1], turns[-1:]
    turns = turns_of(prompt)
    if turns[-1]["role"] == "assistant":  # the prompt ends where the assistant begins to speak
        completion = (turns.pop()["content"] + completion).strip()
    return turns, [assistant(completion)]


def for_each_prompt(count: int, tools: Any, chat_template_kwargs: Any, *, each: bool = False) -> list[dict[str, Any]]:
    """What the template takes beside the messages, for each of so many prompts.

    Args:
        tools: a list of tools for all prompts, or a list with one such list (or its JSON, or None) for each.
        chat_template_kwargs: a dict for all prompts, or a list with one (or None) for each.
        each: both are lists with one for each prompt, or None: a list of dicts is then no list of tools for all.

    Raises:
        ValueError: lists of another length.

    >>> for row in for_each_prompt(2, [{"name": "add"}], [{"mood": "calm"}, None]):
    ...     print(row)
    {'tools': [{'name': 'add'}], 'chat_template_kwargs': {'mood': 'calm'}}
    {'tools': [{'name': 'add'}], 'chat_template_kwargs': None}
    """
    of_all = not each and isinstance(tools, list | tuple) and all(isinstance(tool, dict) for tool in tools)
    tools = _for_each("tools", tools, count, shared=of_all)
    kwargs = _for_each("chat_template_kwargs", chat_template_kwargs, count)
    return [dict(zip(TEMPLATE_ARGUMENTS, values, strict=True)) for values in zip(tools, kwargs, strict=True)]


def _for_each(name: str, value: Any, count: int, *, shared: bool = False) -> list:
    shared = shared or not value or isinstance(value, str | dict) or not isinstance(value, Iterable)
    values = [value] * count if shared else list(value)
    if len(values) != count:
        raise ValueError(f"{len(values)} {name} for {count} prompts; expected one for all, or one for each.")
    return values
