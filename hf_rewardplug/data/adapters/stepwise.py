"""Solutions with rated steps -> stepwise rows, or step_tree rows where steps have alternatives.

In: steps in a list, in one marked text, or in a tree. Out: {prompt, completions, labels} or {prompt, nodes}, a label a
step: True/1 right, False/0 wrong, a float between, -100 unlabelled.
"""

import re
from collections.abc import Hashable, Mapping
from typing import Any

from ...checks import RowError, expect, shown
from ..canonical import UNLABELLED
from .fields import (
    TEMPLATE_ARGUMENTS,
    Row,
    dicts,
    field,
    integer,
    items,
    messages,
    template_arguments,
    text,
    with_system_turn,
)
from .registry import register_adapter

MATH_SHEPHERD_MARK = "ки"
QWEN_STEP_TOKEN = "<extra_0>"

# PRM800K rates steps -1 wrong, 0 neutral, 1 right. Neutral counts as right, as in the evaluation that its authors
# report (Lightman et al. 2023, arXiv:2305.20050); an alternative that nobody rated is unlabelled.
PRM800K_LABELS = {-1: 0, 0: 1, 1: 1, None: UNLABELLED}

FIRST_STEP = re.compile(r"step 1:", re.IGNORECASE)
_LATER_STEP = re.compile(r"\s*step (?!1:)\d+:", re.IGNORECASE)

_OPTIONAL = ("system", *TEMPLATE_ARGUMENTS)


@register_adapter("stepwise_supervised", columns=("prompt", "completions", "labels"), optional=_OPTIONAL)
def stepwise_supervised(row: Row) -> Row:
    """TRL's stepwise supervision (up to 1.13) under axolotl's name, as it is.

    >>> stepwise_supervised({"prompt": "2+2+2?", "completions": ["2+2=4", "4+2=7"], "labels": [True, False], "id": 3})
    {'prompt': '2+2+2?', 'completions': ['2+2=4', '4+2=7'], 'labels': [True, False]}
    """
    return _solution(row, labels=items(row, "labels"))


@register_adapter("stepwise_outcome", columns=("prompt", "completions", "outcome"), optional=_OPTIONAL)
def stepwise_outcome(row: Row) -> Row:
    """Steps of a solution of which only the outcome is known: True, False or a share in [0, 1].

    >>> stepwise_outcome({"prompt": "2+2+2?", "completions": ["2+2=4", "4+2=7"], "outcome": False, "id": 3})
    {'prompt': '2+2+2?', 'completions': ['2+2=4', '4+2=7'], 'outcome': False}
    """
    return _solution(row, outcome=field(row, "outcome"))


def _solution(row: Row, **rated: Any) -> Row:
    prompt = with_system_turn(row, field(row, "prompt"))
    return {"prompt": prompt, "completions": items(row, "completions"), **rated, **template_arguments(row)}


@register_adapter("step_tree", columns=("prompt", "nodes"), optional=_OPTIONAL)
def step_tree(row: Row) -> Row:
    """A tree of steps as this package writes it: `parent` is an earlier node's index, or -1 behind the prompt.

    >>> step_tree({"prompt": "2+2?", "nodes": [{"text": "4", "label": 1, "parent": -1}], "id": 3})
    {'prompt': '2+2?', 'nodes': [{'text': '4', 'label': 1, 'parent': -1}]}
    """
    prompt = with_system_turn(row, field(row, "prompt"))
    return {"prompt": prompt, "nodes": dicts(row, "nodes"), **template_arguments(row)}


def _has_mark(row: Row) -> bool:
    return (
        isinstance(row.get("input"), str) and isinstance(row.get("label"), str) and MATH_SHEPHERD_MARK in row["input"]
    )


@register_adapter("math_shepherd", columns=("input", "label"), matches=_has_mark, optional=(), ignored=("task",))
def math_shepherd(row: Row) -> Row:
    r"""Math-Shepherd (peiyi9979), raw: `label` is `input` with each step mark "ки" replaced by "+" or "-".

    Both texts are walked together, so "+" and "-" in the solution do not matter. Steps keep their "Step n:". The
    question ends before "Step 1:"; the few rows without it are cut as in TRL's conversion of the data set: behind the
    question mark if there is just one, else at the first step mark. A mark within the question rates no step. Text
    behind the last mark is an unlabelled step.

    >>> math_shepherd({"input": "What is 2+2-1? Step 1: 2+2=4 ки\nStep 2: 4-1=2 ки",
    ...                "label": "What is 2+2-1? Step 1: 2+2=4 +\nStep 2: 4-1=2 -"})
    {'prompt': 'What is 2+2-1?', 'completions': ['Step 1: 2+2=4', 'Step 2: 4-1=2'], 'labels': [True, False]}
    """
    segments, labels = _rated_segments(text(row, "input"), text(row, "label"))
    return split_at_first_step(segments, labels, column="input")


def split_at_first_step(segments: list[str], labels: list[Any], *, column: str) -> Row:
    """n + 1 texts divided by step marks and n labels -> a stepwise row; the question is cut off as in `math_shepherd`.

    >>> split_at_first_step(["What is 2+2-1? Step 1: 2+2=4 ", " Step 2: 4-1=2"], [True], column="input")
    {'prompt': 'What is 2+2-1?', 'completions': ['Step 1: 2+2=4', 'Step 2: 4-1=2'], 'labels': [True, -100]}
    """
    index, start = _first_step(segments)
    steps, labels = [segments[index][start:], *segments[index + 1 :]], labels[index:]
    if not steps[-1].strip():
        steps.pop()
    else:
        labels = [*labels, UNLABELLED]
    if not steps:
        raise RowError("no step before a mark", column)
    question = "".join(segments[:index]) + segments[index][:start]
    return {"prompt": question.strip(), "completions": [step.strip() for step in steps], "labels": labels}


def _has_steps(row: Row) -> bool:
    return isinstance(row.get("label"), dict) and "steps" in row["label"]


@register_adapter(
    "prm800k",
    columns=("question", "label"),
    matches=_has_steps,
    optional=(),
    ignored=(
        *("labeler", "timestamp", "generation", "is_quality_control_question", "is_initial_screening_question"),
        "split",
    ),
)
def prm800k(row: Row, *, labels: Mapping[int | None, Any] = PRM800K_LABELS) -> Row | list[Row]:
    """PRM800K (OpenAI), raw: every step with all its rated alternatives -> one tree; every rating counts once.

        step 1     step 2              step 3
        a (1) ──┬─ b (-1)
                ├─ c (0, chosen) ───── d (1)
                └─ e (1)

    The path goes on from the chosen completion, or, where none was chosen, from the one that the labeller wrote (not
    rated: an unlabelled node). Where neither exists the solution ends: the data's last step looks so when the labeller
    found an error, gave up or was done. Ratings behind such an end could hang nowhere: an error. A row without any
    completion gives no row.

    Both phases look so: in phase 1 most steps have alternatives, and a labeller may have written one; in phase 2
    labelling ends at the first error, and `question` also has the pre-generated solution, which the steps repeat. The
    questions for quality control and for screening, which every labeller rated, are rows like others, and so are those
    with the `finish_reason` `bad_problem` or `give_up`: their ratings stand. Select rows before, if you want others.
    Columns: openai/prm800k, README.md.

    `labels` maps ratings to labels. For another mapping, register your own:
    `register_adapter("prm800k.strict")(functools.partial(prm800k, labels={-1: 0, 0: 0, 1: 1, None: -100}))`

    >>> steps = [
    ...     {"completions": [{"text": "a", "rating": -1}, {"text": "b", "rating": 1}],
    ...      "human_completion": None, "chosen_completion": 1},
    ...     {"completions": [{"text": "c", "rating": 0}], "human_completion": None, "chosen_completion": None}]
    >>> for node in prm800k({"question": {"problem": "2+2?"}, "label": {"steps": steps}})["nodes"]: print(node)
    {'text': 'a', 'label': 0, 'parent': -1}
    {'text': 'b', 'label': 1, 'parent': -1}
    {'text': 'c', 'label': 1, 'parent': 1}
    """
    question = expect(field(row, "question"), dict, "a dict", "question")
    label = expect(field(row, "label"), dict, "a dict", "label")
    nodes = _tree(dicts(label, "steps", "label"), labels)
    return {"prompt": text(question, "problem", "question"), "nodes": nodes} if nodes else []


@register_adapter(
    "processbench",
    columns=("problem", "steps", "label"),
    optional=(),
    ignored=("id", "generator", "final_answer_correct"),
)
def processbench(row: Row) -> Row:
    """ProcessBench (Qwen), raw: `label` is the index of the first wrong step, -1 where all are right.

    Steps behind the first error are unlabelled: nobody rated them.

    >>> processbench({"problem": "2+2+2?", "steps": ["2+2=4", "4+2=7", "So 7"], "label": 1})
    {'prompt': '2+2+2?', 'completions': ['2+2=4', '4+2=7', 'So 7'], 'labels': [True, False, -100]}
    """
    steps, first_error = items(row, "steps"), integer(row, "label")
    if not -1 <= first_error < len(steps):
        raise RowError(f"the first wrong step is {first_error}, outside the {len(steps)} steps (-1: none)", "label")
    labels = [True] * len(steps)
    if first_error >= 0:
        labels[first_error:] = [False] + [UNLABELLED] * (len(steps) - first_error - 1)
    return {"prompt": text(row, "problem"), "completions": steps, "labels": labels}


def _qwen_messages(row: Row) -> bool:
    conversation = row.get("messages")
    last = conversation[-1] if isinstance(conversation, list) and conversation else None
    return isinstance(last, dict) and isinstance(last.get("content"), str) and QWEN_STEP_TOKEN in last["content"]


@register_adapter("qwen_prm.messages", columns=("messages", "labels"), matches=_qwen_messages, optional=_OPTIONAL)
@register_adapter(
    "qwen_prm",
    columns=("prompt", "response", "labels"),
    matches=lambda row: isinstance(row.get("response"), str) and QWEN_STEP_TOKEN in row["response"],
    optional=_OPTIONAL,
)
def qwen_prm(row: Row) -> Row:
    """Rows for Qwen2.5-Math-PRM: the steps stand in one text, joined by its step token.

    The text is `response`, or the last (assistant) message of `messages`; labels may be "+" and "-". Steps lose the
    white space around them.

    >>> qwen_prm({"prompt": "2+2+2?", "response": "2+2=4<extra_0>4+2=7<extra_0>", "labels": ["+", "-"]})
    {'prompt': '2+2+2?', 'completions': ['2+2=4', '4+2=7'], 'labels': [True, False]}
    """
    if "response" in row:
        prompt, solution = field(row, "prompt"), text(row, "response")
    else:
        *prompt, last = messages(row, "messages")
        if last["role"] != "assistant":
            raise RowError(f"expected an assistant turn at the end, found a {last['role']} turn", "messages")
        solution = text(last, "content", "messages")
    steps = [step.strip() for step in solution.split(QWEN_STEP_TOKEN)]
    if not steps[-1]:
        steps.pop()
    labels = [label == "+" if label in ("+", "-") else label for label in items(row, "labels")]
    if len(labels) != len(steps):
        raise RowError(f"{len(labels)} labels for {len(steps)} steps divided by {QWEN_STEP_TOKEN}", "labels")
    prompt = with_system_turn(row, prompt)
    return {"prompt": prompt, "completions": steps, "labels": labels, **template_arguments(row)}


def _rated_segments(raw: str, rated: str) -> tuple[list[str], list[bool]]:
    """`raw` cut at its n step marks -> n + 1 texts and the n ratings that `rated` has in the marks' places."""
    segments, labels, position = [""], [], 0
    *pieces, tail = raw.split(MATH_SHEPHERD_MARK)
    for piece in pieces:
        end = position + len(piece)
        if not rated.startswith(piece, position):
            raise RowError(f"differs from 'input' between characters {position} and {end}", "label")
        segments[-1] += piece
        if rated.startswith(MATH_SHEPHERD_MARK, end):  # the same letters in a word, not a mark
            segments[-1] += MATH_SHEPHERD_MARK
            position = end + len(MATH_SHEPHERD_MARK)
        elif rated[end : end + 1] in ("+", "-"):
            segments.append("")
            labels.append(rated[end] == "+")
            position = end + 1
        else:
            raise RowError(f"expected '+' or '-' at character {end}, found {rated[end : end + 10]!r}", "label")
    if rated[position:].rstrip() != tail.rstrip():
        raise RowError(f"differs from 'input' behind the last step mark (character {position})", "label")
    segments[-1] += tail
    if not labels:
        raise RowError(f"no step mark {MATH_SHEPHERD_MARK!r} that 'label' rates", "input")
    return segments, labels


def _first_step(segments: list[str]) -> tuple[int, int]:
    """(segment, character) where the first step begins."""
    for index, segment in enumerate(segments):
        if index and _LATER_STEP.match(segment):
            break
        if marks := list(FIRST_STEP.finditer(segment)):
            return index, marks[-1].start()  # the last one: a question may quote "Step 1:" itself
    question, mark, step = segments[0].partition("?")
    if step.strip() and "?" not in step:
        return 0, len(question + mark)
    return 1, 0


def _tree(steps: list[dict], labels: Mapping[int | None, Any]) -> list[Row]:
    """PRM800K's steps -> nodes. `parent` is where the path stands: -1 at the prompt, None behind its end."""
    nodes: list[Row] = []
    parent: int | None = -1
    for number, step in enumerate(steps):
        human, chosen = step.get("human_completion"), step.get("chosen_completion")
        alternatives = expect(step.get("completions") or [], list, "a list of completions", "label.steps")
        if parent is None and (alternatives or human):
            raise RowError(f"step {number} follows a step with neither a chosen nor a human completion", "label.steps")
        first = len(nodes)
        nodes += [_node(alternative, parent, labels) for alternative in alternatives]
        if chosen is not None:
            if chosen not in range(len(alternatives)):
                raise RowError(f"step {number} chose {chosen!r} of {len(alternatives)} completions", "label.steps")
            parent = first + int(chosen)
        elif human:
            human = {"text": human, "rating": None} if isinstance(human, str) else human
            nodes.append(_node(human, parent, labels))
            parent = len(nodes) - 1
        else:
            parent = None
    return nodes


def _node(alternative: Any, parent: int | None, labels: Mapping[int | None, Any]) -> Row:
    alternative = expect(alternative, dict, "a completion with text and rating", "label.steps")
    rating = field(alternative, "rating", "label.steps")
    if not isinstance(rating, Hashable) or rating not in labels:
        raise RowError(f"rating {shown(rating)} has no label; labels are given for {list(labels)}", "label.steps")
    return {"text": text(alternative, "text", "label.steps"), "label": labels[rating], "parent": parent}
