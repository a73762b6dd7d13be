"""What a scorer is given, as rows that the encoder takes, and the way back to the caller's nesting.

In: prompts and completions or steps, single or N a prompt, text or conversations. Out: flat rows, each with a `name`
for errors, and a function that nests their scores as the input was.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..checks import RowError
from ..data.canonical import checked_completion, checked_steps, template_arguments
from .rendering import for_each_prompt

KEYS = ("completion", "completions", "steps")
"""columns that hold what is scored; the first that is given counts"""

EXPECTED = "expected 'prompt' (\"\" if there is none) and one of 'completion', 'completions' and 'steps'"


def key_of(row: dict[str, Any]) -> str | None:
    """The column of a row that is scored; None where there is none, or no prompt: it may be empty, but not left out.

    >>> key_of({"prompt": None, "completion": None, "steps": ["4"]}), key_of({"question": "2+2?", "completion": "4"})
    ('steps', None)
    """
    return next((key for key in KEYS if row.get(key) is not None), None) if "prompt" in row else None


def cut_into_steps(row: dict[str, Any], separator: str) -> dict[str, Any]:
    """A completion's steps: what stands between its separators; the turns before the last one belong to the prompt.

    >>> cut_into_steps({"prompt": "2+2?", "completion": "Two and two.\\nFour.\\n"}, "\\n")
    {'prompt': '2+2?', 'completions': ['Two and two.', 'Four.']}
    """
    prompt, text = row["prompt"], row["completion"]
    rest = {key: value for key, value in row.items() if key != "completion"}
    if not isinstance(text, str):
        prompt, text = [*prompt, *text[:-1]] or "", text[-1].get("content") or ""
    steps = [step for step in text.split(separator) if step.strip()]
    return {**rest, "prompt": prompt, "completions": steps or [text]}


def is_conversation(value: Any) -> bool:
    """Whether it is a list of messages.

    >>> is_conversation([{"role": "user", "content": "Hi"}]), is_conversation(["Hi"]), is_conversation([])
    (True, False, False)
    """
    return isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)


def _listed(value: Any) -> Any:
    """Tuples, arrays, generators as lists."""
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str | dict | list) else value


class Completions:
    """Completions of a prompt: text, or the messages that follow."""

    name, expected = "completions", "text or messages, or a list of such"

    @staticmethod
    def is_one(value: Any) -> bool:
        return isinstance(value, str) or is_conversation(value)

    @staticmethod
    def row(prompt: Any, completion: Any, more: dict[str, Any] | None = None) -> dict[str, Any]:
        """Text and messages together become messages: a question and its answer.

        >>> Completions.row([{"role": "user", "content": "2+2?"}], "4")["completion"]
        [{'role': 'assistant', 'content': '4'}]
        """
        if is_conversation(prompt) and isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}]
        elif isinstance(prompt, str) and prompt and is_conversation(completion):
            prompt = [{"role": "user", "content": prompt}]
        return checked_completion({**(more or {}), "prompt": prompt, "completion": completion})


class Solutions:
    """Solutions of a prompt: lists of steps."""

    name, expected = "steps", "a list of steps, or a list of such; `score` cuts a text into steps"

    @staticmethod
    def is_one(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(isinstance(step, str) for step in value)

    @staticmethod
    def row(prompt: Any, steps: Any, more: dict[str, Any] | None = None) -> dict[str, Any]:
        """A step without text is rated at its separator, as the benchmarks' own code does.

        >>> Solutions.row("2+2?", ["4", ""])
        {'prompt': '2+2?', 'completions': ['4', '']}
        """
        labels = [1] * len(steps) if isinstance(steps, list) else [1]
        row = {**(more or {}), "prompt": "" if prompt is None else prompt, "completions": steps, "labels": labels}
        return {key: value for key, value in checked_steps(row, empty_steps=True).items() if key != "labels"}


def nested_rows(
    prompts: Any,
    items: Any,
    item_type: type[Completions] | type[Solutions],
    names: list[str] | None = None,
    tools: Any = None,
    chat_template_kwargs: Any = None,
    form: Callable[[Any, Any], tuple[Any, Any]] | None = None,
) -> tuple[list[dict[str, Any]], Callable[[Iterable], Any]]:
    """Flat rows, each with its `name` and with the `item` of its prompt that it is, and what nests their scores.

    Args:
        prompts, items: lists of the same length, or a single prompt with its item or items.
        names: what errors call each prompt; by its index when None.
        tools, chat_template_kwargs: as in `rendering.for_each_prompt`, of each prompt where there are `names`.
        form: a prompt and an item -> the same as the model was trained on them.

    Raises:
        RowError: an item cannot be scored. ValueError: lengths differ, or an item is neither one nor a list of them.

    >>> rows, nest = nested_rows(["p", "q"], [["a", "b"], "c"], Completions)
    >>> [row["completion"] for row in rows], nest([1.0, 2.0, 3.0])
    (['a', 'b', 'c'], [[1.0, 2.0], 3.0])
    """
    is_single = isinstance(prompts, str) or is_conversation(prompts)
    expected = "expected one (or one list) a prompt"
    if isinstance(items, str) and not is_single:
        raise ValueError(f"{item_type.name} is one text for a list of prompts; {expected}.")
    prompts, items = ([prompts], [items]) if is_single else (list(prompts), list(items))
    if len(prompts) != len(items):
        raise ValueError(f"{len(items)} {item_type.name} for {len(prompts)} prompts; {expected}.")
    arguments = for_each_prompt(len(prompts), tools, chat_template_kwargs, each=names is not None)
    rows, sizes = [], []
    for index, (prompt, item) in enumerate(zip(prompts, items, strict=True)):
        name, item = names[index] if names else f"{item_type.name}[{index}]", _listed(item)
        is_list = not item_type.is_one(item)
        if is_list and not isinstance(item, list):
            what = f"is {type(item).__name__}; expected {item_type.expected}"
            raise RowError(f"{item_type.name} {what}", row=name) if names else ValueError(f"{name} {what}.")
        sizes.append(len(item) if is_list else None)
        for number, each in enumerate(item if is_list else [item]):
            place = {"name": f"{name}[{number}]", "item": number} if is_list else {"name": name, "item": None}
            try:
                pair = _listed(prompt), _listed(each)
                row = item_type.row(*(form(*pair) if form else pair), template_arguments(arguments[index]))
                rows.append({**place, **row})
            except RowError as error:
                error.row, error.item = place.values()
                raise
    return rows, partial(_nested, sizes=sizes, is_single=is_single)


def _nested(scores: Iterable, *, sizes: list[int | None], is_single: bool) -> Any:
    """Flat scores in the nesting of the input: `sizes` has the length of each prompt's list, None where it is none."""
    flat = iter(list(scores))
    nested = [next(flat) if size is None else [next(flat) for _ in range(size)] for size in sizes]
    return nested[0] if is_single else nested
