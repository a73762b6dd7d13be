r"""Steps rated turn by turn, or at marks in one text -> stepwise rows.

In: a conversation of user turns (the steps) and assistant turns (the ratings), or a text with a mark behind each step
and a list of ratings. Out: {prompt, completions, labels}, the prompt and the steps as text.
"""

import re
from typing import Any

from ...checks import RowError, shown
from .fields import Row, items, messages, text
from .registry import register_adapter
from .stepwise import FIRST_STEP, MATH_SHEPHERD_MARK, QWEN_STEP_TOKEN, split_at_first_step

STEP_MARKS = (MATH_SHEPHERD_MARK, QWEN_STEP_TOKEN)
"""placeholder tokens that `openrlhf_prm` looks for"""

_JUDGEMENT = re.compile(r"boxed\s*\{\s*(?:\\text\s*\{\s*)?(yes|no)\b", re.IGNORECASE)
_SIGNS = {"+": True, "-": False}


def _turns(row: Row) -> list[dict]:
    conversation = row.get("conversations")
    if not isinstance(conversation, list) or not all(isinstance(turn, dict) for turn in conversation):
        return []
    return [turn for turn in conversation if turn.get("role") != "system"]


def _ratings(row: Row) -> list[str]:
    return [turn["content"] for turn in _turns(row)[1::2] if isinstance(turn.get("content"), str)]


@register_adapter(
    "rlhflow_prm",
    columns=("conversations",),
    matches=lambda row: bool(_ratings(row)) and all(rating.strip() in _SIGNS for rating in _ratings(row)),
    optional=(),
)
def rlhflow_prm(row: Row) -> Row:
    r"""RLHFlow's PRM data (Mistral-PRM-Data, Deepseek-PRM-Data): a user turn a step, answered "+" or "-". Gives text.

    The first user turn holds the question and the first step. The question ends before "Step 1:", or behind the
    question mark where the turn has just one; in other turns nothing tells where it ends, so that the whole turn is the
    first step, to an empty prompt. RLHFlow's ORM data look the same: their only step is the whole solution.
    Columns: the data card of RLHFlow/Mistral-ORM-Data; RLHFlow/RLHF-Reward-Modeling, math-rm/README.md.

    >>> turns = ["What is 2+2+2? Step 1: 2+2=4", "+", "Step 2: 4+2=7", "-"]
    >>> rlhflow_prm({"conversations": [{"role": role, "content": turn}
    ...                                for role, turn in zip(["user", "assistant"] * 2, turns)]})
    {'prompt': 'What is 2+2+2?', 'completions': ['Step 1: 2+2=4', 'Step 2: 4+2=7'], 'labels': [True, False]}
    """
    steps, ratings = _steps_and_ratings(row)
    if any(turn["role"] == "system" for turn in row["conversations"]):
        raise RowError("has a system turn, which a prompt as text has no place for. Take it out", "conversations")
    cut = _question_end(steps[0])
    prompt, first = steps[0][:cut].strip(), steps[0][cut:].strip()
    labels = [_signed(rating.strip(), "conversations") for rating in ratings]
    return {"prompt": prompt, "completions": [first, *(step.strip() for step in steps[1:])], "labels": labels}


@register_adapter(
    "genprm",
    columns=("conversations",),
    matches=lambda row: bool(_ratings(row)) and all("<output>" in rating for rating in _ratings(row)),
    optional=(),
)
def genprm(row: Row) -> Row:
    r"""GenPRM-MATH-Data: a user turn a paragraph, answered by a critique that ends in a judgement. Gives text.

    A paragraph is right where the last \boxed{} behind the critique's `<output>` says Yes. Only this judgement is kept:
    the critiques and the system turn, the critic's instructions, are not part of a solution. The first user turn is
    "Question: ", the problem, a blank line and the first paragraph (a paragraph holds no blank line); without a blank
    line it is the first step, to an empty prompt.
    Columns: the data card; RyanLiu112/GenPRM, README.md and src/prm_evaluation/genprm_inference.py.

    >>> judged = "<analyze>\nA sum.\n</analyze>\n<output>\n**Judgement**: $\\boxed{%s}$\n</output>"
    >>> genprm({"conversations": [
    ...     {"role": "system", "content": "You are a math teacher."},
    ...     {"role": "user", "content": "Question: What is 2+2+2?\n\n2+2=4"},
    ...     {"role": "assistant", "content": judged % "Yes"},
    ...     {"role": "user", "content": "So 7."}, {"role": "assistant", "content": judged % "No"}]})
    {'prompt': 'What is 2+2+2?', 'completions': ['2+2=4', 'So 7.'], 'labels': [True, False]}
    """
    steps, ratings = _steps_and_ratings(row)
    problem, blank, first = steps[0].rstrip().rpartition("\n\n")
    if not blank:
        problem, first = "", steps[0]
    labels = []
    for rating in ratings:
        judgements = _JUDGEMENT.findall(rating.rpartition("<output>")[2])
        if not judgements:
            raise RowError(f"expected \\boxed{{Yes}} or \\boxed{{No}} in <output>, found {shown(rating[-60:])}")
        labels.append(judgements[-1].lower() == "yes")
    prompt = problem.strip().removeprefix("Question:").strip()
    return {"prompt": prompt, "completions": [step.strip() for step in (first, *steps[1:])], "labels": labels}


def _is_list_of_ratings(input_column: str, label_column: str):
    return lambda row: isinstance(row.get(input_column), str) and isinstance(row.get(label_column), list)


@register_adapter(
    "openrlhf_prm.label",
    columns=("input", "label"),
    matches=_is_list_of_ratings("input", "label"),
    ignored=("task",),
    optional=(),
)
@register_adapter(
    "openrlhf_prm",
    columns=("input", "value"),
    matches=_is_list_of_ratings("input", "value"),
    ignored=("label", "task"),  # Math-Shepherd's: the ratings a second time, within the text
    optional=(),
)
def openrlhf_prm(row: Row, *, mark: str | None = None) -> Row:
    r"""OpenRLHF's process rewards: `input` has a placeholder behind each step, `value` lists the ratings. Gives text.

    Ratings are "+" and "-", or numbers in [0, 1]. OpenRLHF's default columns are `input` and `label`; its example
    (zhuzilin/Math-Shepherd) has `value`. The placeholder is "ки" or "<extra_0>", whichever stands as often as there are
    ratings; for another one register your own: `register_adapter("mine")(functools.partial(openrlhf_prm, mark="ⶻ"))`.
    The question is cut off as in `math_shepherd`. Text behind the last placeholder is an unlabelled step.
    Columns: OpenRLHF, examples/scripts/train_prm_mistral.sh and datasets/process_reward_dataset.py (until 2026-03).

    >>> openrlhf_prm({"input": "What is 2+2+2? Step 1: 2+2=4 ки\nStep 2: 4+2=7 ки", "value": ["+", "-"]})
    {'prompt': 'What is 2+2+2?', 'completions': ['Step 1: 2+2=4', 'Step 2: 4+2=7'], 'labels': [True, False]}
    """
    column = "value" if "value" in row else "label"
    solution, ratings = text(row, "input"), items(row, column)
    marks = STEP_MARKS if mark is None else (mark,)
    fitting = [placeholder for placeholder in marks if solution.count(placeholder) == len(ratings)]
    if not fitting or not ratings:
        counts = ", ".join(f"{solution.count(placeholder)} of {placeholder!r}" for placeholder in marks)
        raise RowError(f"{len(ratings)} ratings, but 'input' has {counts}", column)
    labels = [_SIGNS.get(rating, rating) if isinstance(rating, str) else rating for rating in ratings]
    return split_at_first_step(solution.split(fitting[0]), labels, column="input")


def _steps_and_ratings(row: Row) -> tuple[list[str], list[str]]:
    conversation = messages(row, "conversations")
    turns = [turn for turn in conversation if turn["role"] != "system"]
    roles = [turn["role"] for turn in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
        raise RowError(f"expected a user and an assistant turn in turn, found {shown(roles)}", "conversations")
    contents = [text(turn, "content", "conversations") for turn in turns]
    return contents[::2], contents[1::2]


def _question_end(turn: str) -> int:
    """The character where the first step begins, 0 where nothing tells."""
    marks = list(FIRST_STEP.finditer(turn))
    if marks:
        return marks[-1].start()  # the last one: a question may quote "Step 1:" itself
    question, mark, step = turn.partition("?")
    return len(question + mark) if step.strip() and "?" not in step else 0


def _signed(rating: Any, column: str) -> bool:
    if rating not in _SIGNS:
        raise RowError(f"expected '+' or '-', found {shown(rating)}", column)
    return _SIGNS[rating]
