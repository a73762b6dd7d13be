"""A prompt that lies in several columns -> messages.

In: texts from a row's columns. Out: messages {"role": "user", "content": ...}.
"""

from ..canonical import PAIR_EXTRAS
from .fields import Row, text
from .turns import Message, assistant, user


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
