"""Between a benchmark's rows and its figures: what the benchmarks share.

    texts -> as_chat -> prompts and completions -> scored -> scores, nested as the completions -> mean_by -> figures
    steps -> as_turns -> step_probabilities -> a probability each -> first_below -> the first wrong step

The scorer sees a benchmark in one call, with all completions of a prompt beside it, so that it can batch and share.
"""

import inspect
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from hf_rewardplug.checks import RefusedRows, RowError, is_number, shown
from hf_rewardplug.data.adapters.fields import TEMPLATE_ARGUMENTS
from hf_rewardplug.data.adapters.turns import assistant, user
from hf_rewardplug.figures import first_below

from .registry import Row

Prompt = str | list[dict]
Completion = str | list[dict]


def as_chat(prompt: str, completions: Iterable[str], *, chat: bool = True) -> tuple[Prompt, list[Completion]]:
    """A text prompt and its answers as turns (the model's template then applies), or as they are.

    >>> as_chat("1+1?", ["2"])
    ([{'role': 'user', 'content': '1+1?'}], [[{'role': 'assistant', 'content': '2'}]])
    >>> as_chat("1+1?", ["2"], chat=False)
    ('1+1?', ['2'])
    """
    if not chat:
        return prompt, list(completions)
    return [user(prompt)], [[assistant(completion)] for completion in completions]


def scored(
    name: str,
    scorer: Any,
    prompts: list[Prompt],
    completions: list[list[Completion]],
    *,
    places: Sequence[str] | None = None,
    **more: Sequence[Any],
) -> list[list[float]]:
    """One finite float for each completion, from one call of the scorer.

    Args:
        places: what errors call each prompt: its row, as `places_of` calls it.
        more: arguments of the scorer, with a value for each prompt: `tools`, `chat_template_kwargs`.

    Raises:
        RefusedRows: the scorer refuses prompts, and `places` are given.
        ValueError: it refuses one and they are not; other numbers of scores, or NaN and infinity, which would count as
            wrong in silence.
    """
    nested = asked(name, scorer, "score", prompts, completions, places=places, **more)
    if [*map(len, nested)] != [*map(len, completions)]:
        raise ValueError(f"benchmark '{name}': the scorer gave other numbers of scores than there are completions.")
    scores = [[float(score) for score in row] for row in nested]
    for number, row in enumerate(scores):
        if not all(map(math.isfinite, row)):
            raise ValueError(
                f"benchmark '{name}', example {number}: the scores are {row}. Look at the model: its weights or its "
                "activations overflow (fp16?)."
            )
    return scores


def asked(
    name: str,
    scorer: Any,
    method: str,
    prompts: list[Prompt],
    items: list,
    *,
    places: Sequence[str] | None,
    **more: Sequence[Any],
) -> list:
    """What the scorer gives for all prompts; where it refuses some, all of them are named by their rows.

    Raises:
        RefusedRows: `places` are given, and one of the scorer's errors is a row's, or it does not take what a row has
            in `more`.
    """
    known = inspect.signature(getattr(scorer, method)).parameters
    for column in [column for column in more if column not in known]:
        what = f"`scorer.{method}` takes no arguments of the chat template; take the column away"
        named = zip(places or (), more[column], strict=True)
        raise RefusedRows(name, {place: RowError(what, column) for place, value in named if value is not None})
    try:
        return getattr(scorer, method)(prompts, items, **more)
    except ValueError as error:
        if places is None:
            raise
        from ..refusals import refusals  # which imports torch

        refused = refusals(scorer, prompts, items, method=method, **more)
        named = {places[index]: reason for index, reason in refused.items()}
        if not named or not all(place.startswith("row ") for place in named):  # of rows to tune on, say
            raise
        raise RefusedRows(name, named) from error


def step_probabilities(
    scorer: Any,
    name: str,
    solutions: list[tuple[Any, list[str]]],
    *,
    places: list[str],
    arguments: Sequence[Row] = (),
) -> list[list[float]]:
    """A probability a step of (prompt, steps) pairs, in one call; `places` names them in errors.

    Args:
        arguments: of the chat template, for each (`template_arguments`).

    Raises:
        RefusedRows: the scorer refuses solutions of rows.
        ValueError: it is no process reward model, or gives another number of values, or one outside [0, 1].
    """
    if getattr(scorer, "kind", "prm") != "prm":
        raise ValueError(
            f"benchmark '{name}' rates steps; this model is an outcome reward model (kind {scorer.kind!r}). Give a "
            "process reward model, or use 'best_of_n' or a benchmark of pairs."
        )
    prompts, items = [prompt for prompt, _ in solutions], [steps for _, steps in solutions]
    nested = asked(name, scorer, "score_steps", prompts, items, places=places, **template_columns(arguments))
    for (_, steps), values, place in zip(solutions, nested, places, strict=True):
        if len(values) != len(steps) or not all(0 <= value <= 1 for value in values):
            raise ValueError(
                f"benchmark '{name}', {place}: the scorer gave {shown(list(values))} for {len(steps)} steps. Expected "
                "a probability a step; check the scorer's max_length and the model's weights."
            )
    return [[float(value) for value in values] for values in nested]


def as_turns(prompt: Any, chat: bool) -> Any:
    """A text prompt as a user's turn, where `chat` says so; messages stay as they are.

    >>> as_turns("1+1?", True)
    [{'role': 'user', 'content': '1+1?'}]
    """
    return [user(prompt)] if chat and isinstance(prompt, str) else prompt


def check_threshold(threshold: Any, remedy: str = "Give one.") -> None:
    """
    >>> check_threshold(1.5)
    Traceback (most recent call last):
    ValueError: threshold=1.5 is no number in [0, 1]. Give one.
    """
    if not (is_number(threshold) and 0 <= threshold <= 1):
        raise ValueError(f"threshold={threshold!r} is no number in [0, 1]. {remedy}")


def template_columns(arguments: Sequence[Row]) -> dict[str, list]:
    """What the scorer takes beside prompts, from each prompt's `template_arguments`.

    >>> template_columns([{}, {"chat_template_kwargs": {"mood": "calm"}}])
    {'chat_template_kwargs': [None, {'mood': 'calm'}]}
    """
    names = [name for name in TEMPLATE_ARGUMENTS if any(name in of_prompt for of_prompt in arguments)]
    return {name: [of_prompt.get(name) for of_prompt in arguments] for name in names}


def pair_item(
    prompt: Prompt, chosen: Completion, rejected: Completion, good: float, bad: float, subset: str | None
) -> dict:
    """A pair as a `Result` holds it; a tie is wrong."""
    return {
        "prompt": prompt,
        "completions": [chosen, rejected],
        "scores": [good, bad],
        "right": good > bad,
        "subset": subset,
    }


def text_of(completion: Completion) -> str:
    """The text of an answer, without roles.

    >>> text_of([{"role": "assistant", "content": "4"}])
    '4'
    """
    if isinstance(completion, str):
        return completion
    return "\n".join(message.get("content", "") for message in completion)


def file_names(rows: list) -> list[str]:
    """The name of each row's file without folder and suffix, "" where it is not known.

    >>> file_names([{"prompt": "p"}])
    ['']
    """
    return getattr(rows, "files", [""] * len(rows))


def grouped(items: Iterable[Any], keys: Iterable[Hashable] | None = None) -> dict[Hashable, list]:
    """The items by their keys, in the order in which the keys come first.

    Args:
        keys: one for each item; the items' "subset" when None.

    >>> grouped([1, 0, 1], ["a", "b", "a"])
    {'a': [1, 1], 'b': [0]}
    """
    items, groups = list(items), {}
    for item, key in zip(items, [item["subset"] for item in items] if keys is None else keys, strict=True):
        groups.setdefault(key, []).append(item)
    return groups


def first_error_item(
    number: int,
    prompt: Prompt,
    steps: list[str],
    probabilities: list[float],
    *,
    threshold: float,
    label: int,
    subset: str,
) -> dict:
    """A solution as a `Result` holds it; it is right where the first step below the threshold is step `label`.

    Args:
        label: index of the first wrong step, -1 where there is none.
    """
    prediction = first_below(probabilities, threshold)
    return {
        "row": number,
        "prompt": prompt,
        "completions": steps,
        "scores": probabilities,
        "label": label,
        "prediction": prediction,
        "right": prediction == label,
        "subset": subset,
    }


def mean_by(values: Iterable[float], keys: Iterable[Hashable], *, name: str = "accuracy") -> dict[str, float]:
    """The mean over all and over each key, and the counts.

    >>> mean_by([1, 0, 1, 1], ["a", "a", "b", "b"])
    {'accuracy': 0.75, 'accuracy/a': 0.5, 'accuracy/b': 1.0, 'n': 4, 'n/a': 2, 'n/b': 2}
    """
    values = list(values)
    groups = grouped(values, keys)
    means = {name: float(np.mean(values)), **{f"{name}/{key}": float(np.mean(of)) for key, of in groups.items()}}
    return {**means, "n": len(values), **{f"n/{key}": len(of) for key, of in groups.items()}}
