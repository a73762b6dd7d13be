r"""The date in a chat template: templates that call `strftime_now` write today's date into every prompt.

In: a tokenizer whose template does so, and a date. Out: the same template with that date in it for good, so that the
same messages have the same tokens on any day, here, in plain transformers and on a server, which all read the template
that is saved with the model.

    {{ 'Today: ' + strftime_now('%d %b %Y') }}        Today: 30 Nov 2026, tomorrow: Today: 01 Dec 2026
    with `freeze_date(tokenizer, date(2026, 11, 30))` Today: 30 Nov 2026, on any day

transformers gives templates a function `strftime_now`. The frozen template defines a macro of that name in front, and
Jinja prefers the template's own. Whether a template writes the date into a common conversation is found by rendering
it under two dates; whoever asks for the date at all is frozen, since some rows may be another case.
"""

import contextlib
import copy
import re
from collections.abc import Iterator
from datetime import date, datetime
from string import ascii_letters
from typing import Any

_DIRECTIVES = re.compile(r"%-?[a-zA-Z]")
_MARK = "strftime_now"
_CALL_WITH_NAME = re.compile(r"strftime_now\(\s*(?:format\s*=\s*)?[^\s'\"]")  # the format is in a variable
_FROZEN = re.compile(r"\{#- hf_rewardplug: the date is (\d{4}-\d{2}-\d{2}) -#\}")
_TWO_DATES = (datetime(2001, 2, 3, 4, 5, 6), datetime(2024, 11, 28, 19, 47, 38))
"""in no directive of `strftime` alike"""

_USER, _ASSISTANT = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
_TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer", "description": "A number."}}},
    },
}
_CONVERSATIONS = (
    ([_USER, _ASSISTANT], {}),
    ([_USER], {"add_generation_prompt": True}),
    ([{"role": "system", "content": "Be brief."}, _USER, _ASSISTANT], {}),
    ([_USER, _ASSISTANT], {"tools": [_TOOL]}),
    ([{"role": "system", "content": "Be brief."}, _USER, _ASSISTANT], {"tools": [_TOOL]}),
)
"""conversations and arguments under which templates may write the date"""


def writes_date(tokenizer: Any, **chat_template_kwargs: Any) -> bool:
    """Whether the chat template writes the date of the day into some conversation.

    >>> class Tokenizer:
    ...     chat_template = "Today: {{ strftime_now('%d %b %Y') }}"
    ...     def apply_chat_template(self, messages, chat_template, **options):
    ...         from jinja2 import Template
    ...         return Template(chat_template).render(messages=messages)
    >>> tokenizer = Tokenizer()
    >>> writes_date(tokenizer)
    True
    >>> freeze_date(tokenizer, date(2026, 11, 30))
    >>> writes_date(tokenizer), frozen_date(tokenizer)
    (False, '2026-11-30')
    """
    for template in _templates(tokenizer):
        if _MARK not in template:
            continue
        first, second = (_prefix(moment, template) + template for moment in _TWO_DATES)
        for messages, options in _CONVERSATIONS:
            arguments = {"tokenize": False, **options, **chat_template_kwargs}
            with contextlib.suppress(Exception):  # a template may refuse tools or roles, by any exception
                rendered = (
                    tokenizer.apply_chat_template(messages, chat_template=source, **arguments)
                    for source in (first, second)
                )
                if len({*rendered}) == 2:
                    return True
    return False


def may_write_date(tokenizer: Any) -> bool:
    """Whether the chat template asks for the date of the day anywhere, for whichever rows."""
    return any(_MARK in template and not _FROZEN.match(template) for template in _templates(tokenizer))


def today(tokenizer: Any) -> date:
    """The day that `strftime_now` gives to templates."""
    source = "{{ strftime_now('%Y-%m-%d') }}"
    return date.fromisoformat(tokenizer.apply_chat_template([_USER], chat_template=source, tokenize=False))


def freeze_date(tokenizer: Any, day: date) -> None:
    """Write `day` into the tokenizer's chat template, in place of the day on which it is rendered."""

    def frozen(template: str) -> str:
        note = f"{{#- hf_rewardplug: the date is {day.isoformat()} -#}}"
        return note + _prefix(datetime(day.year, day.month, day.day), template) + template

    template = tokenizer.chat_template
    if isinstance(template, dict):
        tokenizer.chat_template = {name: frozen(of_name) for name, of_name in template.items()}
    else:
        tokenizer.chat_template = frozen(template)


def frozen_date(tokenizer: Any) -> str | None:
    """The date in a template that `freeze_date` wrote, as 2026-11-30; None in any other."""
    return next((match[1] for template in _templates(tokenizer) if (match := _FROZEN.match(template))), None)


def with_date(tokenizer: Any, day: date) -> Any:
    """A copy of the tokenizer with `day` in its chat template."""
    tokenizer = copy.copy(tokenizer)
    freeze_date(tokenizer, day)
    return tokenizer


def _templates(tokenizer: Any) -> Iterator[str]:
    """A tokenizer has a template, none, or several by name."""
    template = getattr(tokenizer, "chat_template", None)
    yield from template.values() if isinstance(template, dict) else [template] * bool(template)


def _prefix(moment: datetime, template: str) -> str:
    """A macro `strftime_now` that gives `moment`; Jinja drops the new line that follows it (`trim_blocks`)."""
    directives = {*_DIRECTIVES.findall(template)}
    if _CALL_WITH_NAME.search(template):
        directives |= {f"%{letter}" for letter in ascii_letters}
    values = {directive: moment.strftime(directive) for directive in sorted(directives)}
    replaced = "".join(f" | replace('{name}', '{value}')" for name, value in values.items() if value != name)
    body = "{{ format" + replaced + " }}"
    if "%%" in template:  # which is a percent sign
        body = (
            "{%- for part in format.split('%%') -%}{{ '' if loop.first else '%' }}{{ part"
            + replaced
            + " }}{%- endfor -%}"
        )
    return "{%- macro strftime_now(format) -%}" + body + "{%- endmacro %}\n"
