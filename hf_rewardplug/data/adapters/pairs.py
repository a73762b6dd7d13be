r"""Pairs whose prompt or answers stand in columns of other names -> preference rows.

In: a question, a trajectory or marked text beside two answers of which one is the better. Out: {prompt, chosen,
rejected} in messages. Formats of LLaMA-Factory stand in `llamafactory.py`, of distilabel in `distilabel.py`.
"""

import re

from ...checks import RowError
from .fields import TEMPLATE_ARGUMENTS, Row, messages, template_arguments, text, text_or_texts
from .preference import preference
from .prompts import (
    PAIR_EXTRAS,
    answered_pair,
    asked,
    optional_text,
    pair_extras,
)
from .registry import register_adapter
from .turns import Message, assistant

_OASST_MARK = re.compile(r"(?:\A|\n)(prompter|assistant): ?")
_OASST_ROLES = {"prompter": "user", "assistant": "assistant"}


@register_adapter("orca_pairs", columns=("question", "chosen", "rejected"), optional=("system", *PAIR_EXTRAS))
def orca_pairs(row: Row) -> Row:
    """Orca pairs (Intel/orca_dpo_pairs): `question` with `system` where it is not empty. Gives turns.

    A list of rejected answers gives a ranked row, as in `preference`.

    Columns: LLaMA-Factory, data/dataset_info.json (`orca_pairs`); axolotl, prompt_strategies/dpo/chatml.py (`intel`).

    >>> row = orca_pairs({"system": "Be brief.", "question": "2+2?", "chosen": "4", "rejected": "5"})
    >>> row["prompt"]
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': '2+2?'}]
    >>> row["chosen"], row["rejected"]
    ([{'role': 'assistant', 'content': '4'}], [{'role': 'assistant', 'content': '5'}])
    """
    prompt = asked(text(row, "question"), system=optional_text(row, "system"))
    answers = {"chosen": text(row, "chosen"), "rejected": text_or_texts(row, "rejected")}
    return preference({"prompt": prompt, **answers, **pair_extras(row)})


@register_adapter(
    "code_preference", columns=("input", "accepted", "rejected"), optional=("instruction",), ignored=("ID",)
)
def code_preference(row: Row) -> Row:
    r"""Vezora/Code-Preference-Pairs: code without (`accepted`) and with a bug (`rejected`). Gives turns.

    Where `instruction` holds text, it comes before the input on lines of its own, as LLaMA-Factory joins the two.
    Columns: TRL, docs/source/dpo_trainer.md, which converts this data set.

    >>> code_preference({"instruction": "", "input": "Add 1.", "accepted": "x + 1", "rejected": "x", "ID": 3})["chosen"]
    [{'role': 'assistant', 'content': 'x + 1'}]
    """
    question = "\n".join(part for part in (optional_text(row, "instruction"), text(row, "input")) if part)
    return answered_pair(asked(question), text(row, "accepted"), text(row, "rejected"))


@register_adapter(
    "ultrainteract",
    columns=("trajectory", "chosen", "rejected"),
    ignored=("id", "parent_id", "task", "dataset"),
    optional=(),
)
def ultrainteract(row: Row) -> Row:
    """UltraInteract pairs (openbmb/UltraInteract_pair): two next actions behind one trajectory. Gives turns.

    Columns: OpenBMB/Eurus, README.md (Preference Learning).

    >>> row = ultrainteract({"task": "Math_CoT", "trajectory": [{"from": "user", "value": "2+2?"}],
    ...                      "chosen": "Step 1: 4", "rejected": "Step 1: 5"})
    >>> row["prompt"], row["chosen"]
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': 'Step 1: 4'}])
    """
    return answered_pair(messages(row, "trajectory"), text(row, "chosen"), text(row, "rejected"))


@register_adapter(
    "step_dpo",
    columns=("prompt", "initial_reason_steps", "chosen", "rejected"),
    ignored=("dataset", "full_chosen", "full_rejected", "answer"),
    optional=(),
)
def step_dpo(row: Row) -> Row:
    r"""Step-DPO (xinlai/Math-Step-DPO-10K): two next steps behind the same first steps. Gives turns.

    `initial_reason_steps` begins both answers, letter by letter, as in Step-DPO's own training. `full_chosen` and
    `full_rejected` are whole solutions; they are not read.
    Columns: dvlab-research/Step-DPO, train.py; `dataset`, `full_*` and `answer` as users of the data set list them.

    >>> row = step_dpo({"dataset": "gsm8k", "prompt": "2+2+2?", "initial_reason_steps": "Step 1: 2+2=4\nStep 2:",
    ...                 "chosen": " 4+2=6", "rejected": " 4+2=7", "full_chosen": "6", "full_rejected": "7"})
    >>> row["rejected"]
    [{'role': 'assistant', 'content': 'Step 1: 2+2=4\nStep 2: 4+2=7'}]
    """
    begun = text(row, "initial_reason_steps")
    return answered_pair(asked(text(row, "prompt")), begun + text(row, "chosen"), begun + text(row, "rejected"))


def _is_oasst_text(row: Row) -> bool:
    texts = [row.get(column) for column in ("prompt", "chosen", "rejected")]
    return all(isinstance(value, str) for value in texts) and texts[0].startswith("prompter:")


@register_adapter(
    "oasst_pairs",
    columns=("prompt", "chosen", "rejected"),
    matches=_is_oasst_text,
    ignored=("lang", "parent_id", "rank"),
    optional=(),
)
def oasst_pairs(row: Row) -> Row:
    r"""OASST pairs (tasksource/oasst1_pairwise_rlhf_reward): the prompt is marked text. Gives turns.

    A turn begins on a line of its own with "prompter: " or "assistant: ", the two in turn: a mark of the one who speaks
    already belongs to the message. Columns: the data card, whose script writes these marks; oasst2's adds `rank`.

    >>> row = oasst_pairs({"lang": "en", "parent_id": "7", "prompt": "prompter: Hi\nassistant: Yes?\nprompter: 2+2?",
    ...                    "chosen": "4", "rejected": "5"})
    >>> [turn["content"] for turn in row["prompt"]], row["chosen"]
    (['Hi', 'Yes?', '2+2?'], [{'role': 'assistant', 'content': '4'}])
    """
    return answered_pair(_oasst_turns(text(row, "prompt")), text(row, "chosen"), text(row, "rejected"))


def _oasst_turns(marked: str) -> list[Message]:
    turns: list[Message] = []
    start, role = 0, None
    for mark in _OASST_MARK.finditer(marked):
        if _OASST_ROLES[mark[1]] != ("assistant" if role == "user" else "user"):
            continue  # a line of the message that happens to begin like a mark
        if role:
            turns.append({"role": role, "content": marked[start : mark.start()]})
        elif mark.start():
            break
        start, role = mark.end(), _OASST_ROLES[mark[1]]
    if role is None:
        raise RowError(f"expected text that begins with 'prompter:', found {marked[:40]!r}", "prompt")
    turns.append({"role": role, "content": marked[start:]})
    if role != "user":
        raise RowError("expected a prompter's turn at the end, found an assistant's", "prompt")
    return turns


@register_adapter(
    "ms_swift.messages",
    columns=("messages", "rejected_messages"),
    optional=("system", *PAIR_EXTRAS, *TEMPLATE_ARGUMENTS),
)
@register_adapter(
    "ms_swift",
    columns=("messages", "rejected_response"),
    optional=("system", *PAIR_EXTRAS, *TEMPLATE_ARGUMENTS),
)
def ms_swift(row: Row) -> Row:
    """ms-swift's pairs: `messages` ends with the better answer, beside it the worse one. Gives turns.

    The worse one is `rejected_response` (text, or a list of several), or `rejected_messages`, a whole conversation.
    Columns: ms-swift, docs/source_en/Customization/Custom-dataset.md (DPO/ORPO/CPO/SimPO/RM).

    >>> row = ms_swift({"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
    ...                 "rejected_response": "5"})
    >>> row["prompt"], row["rejected"]
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': '5'}])
    """
    conversation = messages(row, "messages")
    if conversation[-1]["role"] != "assistant":
        raise RowError(f"expected an assistant turn at the end, found a {conversation[-1]['role']} turn", "messages")
    if row.get("rejected_response") is not None:
        worse = text_or_texts(row, "rejected_response")
        several = [[*conversation[:-1], assistant(answer)] for answer in ([worse] if isinstance(worse, str) else worse)]
        worse = several[0] if isinstance(worse, str) else several
    else:
        worse = messages(row, "rejected_messages")
    answers = {"chosen": conversation, "rejected": worse, "system": row.get("system")}
    return preference({**answers, **pair_extras(row), **template_arguments(row)})


@register_adapter(
    "stack_exchange_paired",
    columns=("question", "response_j", "response_k"),
    ignored=("qid", "date", "metadata"),
    optional=(),
)
def stack_exchange_paired(row: Row) -> Row:
    """lvwerra/stack-exchange-paired: of two answers, `response_j` has more votes. Gives turns.

    Columns: TRL, examples/research_projects/stack_llama (removed in 2025).

    >>> stack_exchange_paired({"qid": 7, "question": "2+2?", "response_j": "4", "response_k": "5"})["chosen"]
    [{'role': 'assistant', 'content': '4'}]
    """
    return answered_pair(asked(text(row, "question")), text(row, "response_j"), text(row, "response_k"))
