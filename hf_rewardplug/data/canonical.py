"""Canonical rows: what an adapter returns, checked.

    preference   prompt (optional), chosen, rejected; optional margin, weight, chosen_probability, tie
    ranked       prompt (optional), completions, scores (higher is better); optional weight
    scored       prompt (optional), completion, and a score or attributes {name: score or None}; optional weight
    stepwise     prompt, completions (the steps), labels
    outcome      prompt, completions (the steps), outcome
    step_tree    prompt, nodes [{text, label, parent}]

Text or messages, optional `tools` and `chat_template_kwargs`. In: rows in this dialect, which is TRL's. Out: the same
rows, validated and without the None that Arrow filled into their messages (`messages.py`). `expansion.py` turns them
into the rows that a loss trains on. A fault is a `RowError` that names the column; the caller adds the row number. Pure
Python: no torch, no transformers.
"""

import json
import math
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import takewhile
from typing import Any

from ..checks import DropRow, RowError, are_texts, expect, finite, nonempty_list, shown
from .messages import cleaned_message, without_none

Row = dict[str, Any]

UNLABELLED = -100
"""label of a step (and of every other token) that no loss and no metric sees"""

EXAMPLE_ID = "rewardplug_id"
"""column with a number for each encoded example of a data set"""

_MEDIA = ("image", "images", "audio", "audios", "video", "videos")
"""fields of messages with something else than text"""

PROMPT_KEY = "rewardplug_prompt"
"""column that is equal where prompts are, for batches by prompt"""

PAIR_NUMBERS = ("margin", "weight", "chosen_probability")
PAIR_EXTRAS = (*PAIR_NUMBERS, "tie")
"""Columns that may stand beside a pair (`weight` beside other rows too): numbers, each of them in all examples of a
data set or in none, and whether the pair is a tie."""

SUBSET = "rewardplug_subset"
"""column with the raw row's `subset` as text, for evaluation figures by subset"""


def subset_name(value: Any) -> str | None:
    """What figures call a row's subset: text as it is, the names of a list joined; None where there is none.

    >>> subset_name("chat"), subset_name(["math", "algebra"]), subset_name(3), subset_name([]), subset_name(None)
    ('chat', 'math, algebra', '3', None, None)
    """
    if isinstance(value, list | tuple):
        value = ", ".join(str(name) for name in value if name is not None) or None
    return None if value is None else str(value)


def prompt_key(row: Row) -> int:
    """63 bits of a row's prompt; without one, of what all its answers begin with, or of its only answer."""
    prompt = row.get("prompt") or row.get("input_ids") or row.get("completion")
    for names in (("chosen", "rejected"), ("chosen_ids", "rejected_ids"), ("completions",), ("completion_ids",)):
        if not prompt and names[0] in row:
            answers = row[names[0]] if len(names) == 1 else [row[name] for name in names]
            prompt = common_beginning(answers)
    return hash63(json.dumps(prompt, sort_keys=True, default=str))


def common_beginning(sequences: Iterable[Sequence]) -> list:
    """What all the sequences begin with.

    >>> common_beginning(["abc", "abd"])
    ['a', 'b']
    """
    places = zip(*sequences, strict=False)
    return [items[0] for items in takewhile(lambda items: all(item == items[0] for item in items), places)]


def hash63(text: str) -> int:
    """The same 63 bits of a text in every process."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def checked_pair(row: Row) -> Row:
    """A preference row that can be encoded, or a `RowError`."""
    checked = {**_prompt(row), **{key: text_or_messages(row, key) for key in ("chosen", "rejected")}}
    _check_alike(checked)
    return {**checked, **checked_columns(row), **template_arguments(row)}


def checked_list(row: Row) -> Row:
    """A ranked row that can be encoded, or a `RowError`: a prompt or none, two completions or more, a score each."""
    prompt, completions, scores = _prompt(row), nonempty_list(row, "completions"), nonempty_list(row, "scores")
    if len(completions) != len(scores):
        raise RowError(f"{len(scores)} scores for {len(completions)} completions", column="scores")
    completions = [text_or_messages({"completions": answer}, "completions") for answer in completions]
    _check_alike({**prompt, **{f"completion {index}": answer for index, answer in enumerate(completions)}})
    scores = [finite(score, "scores") for score in scores]
    return {**prompt, "completions": completions, "scores": scores, **_weight(row), **template_arguments(row)}


def _prompt(row: Row) -> Row:
    """The row's prompt, which may be empty text; nothing where it has none."""
    if row.get("prompt") in (None, []):
        return {}
    return {"prompt": text_or_messages(row, "prompt", may_be_empty=True)}


def _check_alike(values: dict[str, Any]) -> None:
    if len({type(value) for value in values.values()}) > 1:
        types = ", ".join(f"{key}: {type(value).__name__}" for key, value in values.items())
        raise RowError(f"text and messages are mixed ({types}). Give all of them as text or all as message lists")


_RANGES = {"weight": (0, math.inf, "number of 0 or more"), "chosen_probability": (0, 1, "probability in [0, 1]")}


def checked_columns(row: Row) -> Row:
    """The columns of `PAIR_EXTRAS` that a row has beside its texts or tokens, checked."""
    if "margin" in row and row["margin"] is None:
        raise RowError("is None; every row needs a margin where the column exists", column="margin")
    checked = {name: finite(row[name], name) for name in PAIR_NUMBERS if row.get(name) is not None}
    for name, (least, most, words) in _RANGES.items():
        if name in checked and not least <= checked[name] <= most:
            raise RowError(f"expected a {words}, found {row[name]!r}", column=name)
    if row.get("tie") is not None:
        checked["tie"] = expect(row["tie"], bool, "True or False", "tie")
    return checked


def _weight(row: Row) -> Row:
    return {key: value for key, value in checked_columns(row).items() if key == "weight"}


def checked_completion(row: Row) -> Row:
    """A prompt (or none) with its `completion`, which may be empty, as text or as messages both; or a `RowError`."""
    checked = {"prompt": text_or_messages(row, "prompt")} if row.get("prompt") else {}
    checked["completion"] = text_or_messages(row, "completion", may_be_empty=True)
    return {"prompt": type(checked["completion"])(), **checked, **_weight(row), **template_arguments(row)}


def checked_steps(row: Row, column: str = "completions", *, empty_steps: bool = False) -> Row:
    """A step row that can be encoded, or a `RowError`. Labels: bool, 0/1, a float in [0, 1], or -100 (unlabelled).

    Args:
        empty_steps: True where rows are rated and not learned from: a step without text is then its separator alone.
    """
    prompt = text_or_messages(row, "prompt", may_be_empty=True)
    if row.get("completions") == []:
        raise DropRow("there are no steps", column=column)
    steps, labels = nonempty_list(row, "completions", column), nonempty_list(row, "labels")
    if len(steps) != len(labels):
        raise RowError(f"{len(labels)} labels for {len(steps)} steps", column="labels")
    for index, step in enumerate(steps):
        if not isinstance(step, str):
            raise RowError(f"step {index} is {step!r}; expected text", column=column)
        if not step.strip() and not empty_steps:
            raise DropRow("a step is empty", column=column)
        _encodable(step, column)
    label_column = "labels" if column == "completions" else column
    labels = [_label(label, index, label_column) for index, label in enumerate(labels)]
    return {"prompt": prompt, "completions": steps, "labels": labels, **template_arguments(row)}


def _label(label: Any, index: int, column: str) -> int | float:
    if isinstance(label, bool):
        return int(label)
    if isinstance(label, int) and label in (0, 1, UNLABELLED):
        return label
    if isinstance(label, float) and (0.0 <= label <= 1.0 or label == UNLABELLED):
        return label
    raise RowError(
        f"label {index} is {label!r}; expected a bool, 0, 1, a float in [0, 1], or -100 for an unlabelled step. "
        "Map other ratings (such as -1/0/1) in an adapter",
        column=column,
    )


def text_or_messages(row: Row, column: str, *, may_be_empty: bool = False) -> str | list[dict]:
    """`row[column]` as text, or as messages without the None that Arrow filled in."""
    value = row.get(column)
    if isinstance(value, str):
        if not value and not may_be_empty:
            raise RowError("is empty text", column=column)
        return _encodable(value, column)
    if not isinstance(value, list) or not value:
        raise RowError(f"expected text or a list of messages, found {shown(value)}", column=column)
    return [_message(message, index, column) for index, message in enumerate(value)]


def _message(message: Any, index: int, column: str) -> dict:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RowError(f"message {index} is {shown(message)}; expected {{'role': ..., 'content': ...}}", column=column)
    message = cleaned_message(message)
    if "content" not in message and not message.get("tool_calls"):
        raise RowError(f"message {index} ({message['role']}) has no content", column=column)
    if media := [name for name in _MEDIA if message.get(name)]:
        raise _no_text(message, index, media[0], column)
    if isinstance(message.get("content"), list):
        message["content"] = _joined(message, index, column)
    if not isinstance(message.get("content", ""), str):
        raise RowError(f"message {index} has content {shown(message['content'])}; expected text", column=column)
    for value in message.values():
        if isinstance(value, str):
            _encodable(value, column)
    return message


def _joined(message: dict, index: int, column: str) -> str:
    """Text parts as one text: a template that knows no parts would write the Python list itself into the prompt."""
    parts = message["content"]
    typed = [part for part in parts if isinstance(part, dict) and isinstance(part.get("type"), str)]
    if other := [part["type"] for part in typed if part["type"] != "text"]:
        raise _no_text(message, index, other[0], column)
    texts = [part.get("text") for part in typed]
    if not parts or len(texts) < len(parts) or not are_texts(texts):
        raise RowError(f"message {index} has content {shown(parts)}; expected text, or text parts only", column=column)
    return "".join(texts)


def _no_text(message: dict, index: int, held: str, column: str) -> RowError:
    why = "but models are trained and asked on text alone. Leave such rows out"
    return RowError(f"message {index} ({message['role']}) holds '{held}', {why}", column=column)


def _encodable(text: str, column: str) -> str:
    """The text, unless it has lone surrogates, on which a tokenizer would crash without naming the row."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"broken unicode at character {error.start} ({error.reason})", column=column) from None
    return text


ENCODERS_ARGUMENTS = {
    *("conversation", "messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message"),
    *("tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "tokenizer_kwargs", "processor_kwargs", "sanitize_control_tokens"),
}
"""arguments of `apply_chat_template` that nobody else may give: the template itself and how its text becomes tokens"""


def template_arguments(row: Row) -> Row:
    """`tools` and `chat_template_kwargs`, or JSON of them as TRL takes it, where the row has them."""
    arguments = {}
    if tools := _tools(row.get("tools")):
        arguments["tools"] = tools
    if kwargs := _from_json(row.get("chat_template_kwargs"), "chat_template_kwargs"):
        if not isinstance(kwargs, dict):
            raise RowError(f"expected a dict, or JSON of one; found {shown(kwargs)}", column="chat_template_kwargs")
        if ours := sorted(ENCODERS_ARGUMENTS & kwargs.keys()):
            raise RowError(
                f"has {', '.join(ours)}, which the encoder sets. Leave it out", column="chat_template_kwargs"
            )
        arguments["chat_template_kwargs"] = kwargs
    return arguments


def _tools(value: Any) -> list:
    tools = _from_json(value, "tools") or []
    if isinstance(tools, list):
        tools = [_from_json(tool, "tools") if isinstance(tool, str) else tool for tool in tools]
    if not isinstance(tools, list) or not all(isinstance(tool, dict) or callable(tool) for tool in tools):
        raise RowError(f"expected a list of tools, or JSON of one; found {shown(value)}", column="tools")
    return tools


def _from_json(value: Any, column: str) -> Any:
    """What JSON text encodes, with its None; any other value without None-valued keys, which Arrow may have added."""
    try:
        return json.loads(value) if isinstance(value, str) and value else without_none(value)
    except json.JSONDecodeError as error:
        raise RowError(f"is not JSON: {error}", column=column) from None
