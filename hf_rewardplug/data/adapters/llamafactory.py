r"""LLaMA-Factory's formats for preferences: Alpaca columns and ShareGPT conversations, as pairs or for KTO.

In: `instruction`, `input`, `history` or `conversations`, with two answers or with one and its `kto_tag`. Out:
preference or scored rows in messages.
"""

from ...checks import RowError, shown
from .distilabel import judged
from .fields import (
    TEMPLATE_ARGUMENTS,
    Row,
    field,
    items,
    messages,
    template_arguments,
    text,
    text_or_texts,
    with_system_turn,
)
from .preference import preference
from .prompts import (
    PAIR_EXTRAS,
    asked,
    optional_text,
    pair_extras,
)
from .registry import register_adapter
from .turns import Message, assistant, user


def _is_text(*columns: str):
    return lambda row: all(isinstance(row.get(column), str) for column in columns)


@register_adapter(
    "alpaca",
    columns=("instruction", "chosen", "rejected"),
    matches=_is_text("instruction", "chosen"),
    optional=("input", "history", "system", *TEMPLATE_ARGUMENTS, *PAIR_EXTRAS),
)
def alpaca(row: Row) -> Row:
    r"""Alpaca's columns with `chosen` and `rejected`. Gives turns.

    The question is `instruction` and, where it holds text, `input` on a line of its own. `history` holds the turns
    before as pairs of question and answer, `system` the system turn. A list of rejected answers gives a ranked row.
    Columns: LLaMA-Factory, data/README.md and src/llamafactory/data/converter.py.

    >>> row = alpaca({"instruction": "Translate.", "input": "Guten Tag", "chosen": "Good day", "rejected": "Bye",
    ...               "system": "Be brief.", "history": [["Hi", "Hello"]]})
    >>> [turn["content"] for turn in row["prompt"]]
    ['Be brief.', 'Hi', 'Hello', 'Translate.\nGuten Tag']
    >>> row["chosen"]
    [{'role': 'assistant', 'content': 'Good day'}]
    """
    answers = {"chosen": text(row, "chosen"), "rejected": text_or_texts(row, "rejected")}
    return preference({"prompt": _alpaca_prompt(row), **answers, **pair_extras(row), **_tools(row)})


@register_adapter(
    "alpaca.kto",
    columns=("instruction", "output", "kto_tag"),
    optional=("input", "history", "system", *TEMPLATE_ARGUMENTS),
)
def alpaca_kto(row: Row) -> Row:
    """Alpaca's columns with one `output` and its `kto_tag`, good or bad: a score, 1 or 0. Gives turns.

    Columns: LLaMA-Factory, as in `alpaca`; `kto_tag` in its section on KTO.

    >>> row = alpaca_kto({"instruction": "2+2?", "input": "", "output": "4", "kto_tag": True})
    >>> row["prompt"], row["completion"], row["score"]
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': '4'}], 1.0)
    """
    completion = [assistant(text(row, "output"))]
    return {"prompt": _alpaca_prompt(row), "completion": completion, "score": judged(row, "kto_tag"), **_tools(row)}


def _asks(column: str):
    """Whether the column holds turns of which the last is not an answer, as `messages` of other formats is."""

    def matches(row: Row) -> bool:
        last = row[column][-1] if isinstance(row.get(column), list) and row[column] else None
        return isinstance(last, dict) and (last.get("role") or last.get("from")) not in ("assistant", "gpt")

    return matches


@register_adapter(
    "sharegpt.messages",
    columns=("messages", "chosen", "rejected"),
    matches=lambda row: _asks("messages")(row) and isinstance(row.get("chosen"), dict | str),
    optional=("system", *TEMPLATE_ARGUMENTS, *PAIR_EXTRAS),
)
@register_adapter(
    "sharegpt",
    columns=("conversations", "chosen", "rejected"),
    matches=_asks("conversations"),
    optional=("system", *TEMPLATE_ARGUMENTS, *PAIR_EXTRAS),
)
def sharegpt(row: Row) -> Row:
    """ShareGPT's `conversations`, or `messages`, with `chosen` and `rejected` as one message each. Gives turns.

    The answers may be text or lists of turns too, and `rejected` a list of several, as in `preference`.
    Columns: LLaMA-Factory, data/README.md and src/llamafactory/data/converter.py; `messages`: axolotl,
    prompt_strategies/dpo/chat_template.py.

    >>> row = sharegpt({"conversations": [{"from": "human", "value": "2+2?"}],
    ...                 "chosen": {"from": "gpt", "value": "4"}, "rejected": {"from": "gpt", "value": "5"}})
    >>> row["prompt"], row["chosen"]
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': '4'}])
    """
    prompt = messages(row, "conversations" if "conversations" in row else "messages")
    answers = {column: field(row, column) for column in ("chosen", "rejected")}
    system = {"system": row.get("system")}
    return preference({"prompt": prompt, **answers, **system, **pair_extras(row), **_tools(row)})


def _is_conversation(column: str, label: str):
    def matches(row: Row) -> bool:
        turns = row.get(column)
        return (
            isinstance(row.get(label), bool)
            and isinstance(turns, list)
            and all(isinstance(turn, dict) for turn in turns)
        )

    return matches


@register_adapter(
    "kto.completion",
    columns=("completion", "label"),
    matches=_is_conversation("completion", "label"),
    optional=("system", *TEMPLATE_ARGUMENTS),
)
@register_adapter(
    "kto.messages",
    columns=("messages", "label"),
    matches=_is_conversation("messages", "label"),
    optional=("system", *TEMPLATE_ARGUMENTS),
)
@register_adapter("sharegpt.kto", columns=("conversations", "kto_tag"), optional=("system", *TEMPLATE_ARGUMENTS))
def conversation_kto(row: Row) -> Row:
    """A conversation whose last turn was judged, good or bad: a score, 1 or 0. Gives turns.

    The conversation is `conversations` with `kto_tag`, or `messages` with `label` (kto_en_demo), or `completion` with
    `label` and no prompt (argilla/kto-mix-15k).
    Columns: LLaMA-Factory, data/README.md and data/dataset_info.json.

    >>> row = conversation_kto({"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "5"}],
    ...                         "kto_tag": False})
    >>> row["prompt"], row["completion"], row["score"]
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': '5'}], 0.0)
    """
    column = next((name for name in ("messages", "completion") if name in row), "conversations")
    *prompt, last = messages(row, column)
    if last["role"] != "assistant" or not prompt:
        raise RowError(f"expected a prompt and an assistant turn at the end, found {shown(row[column])}", column)
    label = "kto_tag" if "kto_tag" in row else "label"
    prompt = with_system_turn(row, prompt)
    return {"prompt": prompt, "completion": [last], "score": judged(row, label), **_tools(row)}


def _alpaca_prompt(row: Row) -> list[Message]:
    question = "\n".join(part for part in (text(row, "instruction"), optional_text(row, "input")) if part)
    if not question:
        raise RowError("is empty, and so is 'input'", "instruction")
    history: list[Message] = []
    for turn in items(row, "history") if row.get("history") is not None else []:
        if not isinstance(turn, list | tuple) or len(turn) != 2 or not all(isinstance(part, str) for part in turn):
            raise RowError(f"expected pairs of question and answer, found {shown(turn)}", "history")
        history += [user(turn[0]), assistant(turn[1])]
    return asked(question, system=optional_text(row, "system"), history=history)


def _tools(row: Row) -> Row:
    """LLaMA-Factory writes "" where a row has no tools."""
    return {name: value for name, value in template_arguments(row).items() if value}
