"""Rows with a chosen and a rejected answer -> preference rows.

In: `chosen` and `rejected` as text or as messages, with or without a prompt. Out: {prompt, chosen, rejected}, all text
or all messages; in messages, `prompt` is what comes before the answers, once, and the answers hold only what differs.
"""

from ..canonical import RowError
from .fields import Row, field, messages, shown, template_arguments, text
from .registry import register_adapter
from .turns import Message, assistant, hh_turns, is_hh_text, split_at_common_prefix, user

_BESIDE = ("margin", "weight", "chosen_probability", "tie")
_OPENING_ROLES = ("system", "developer", "user")  # an answer begins with none of these, a whole conversation does


@register_adapter("skywork")
@register_adapter("preference", columns=("chosen", "rejected"))
def preference(row: Row) -> Row:
    """TRL's preference rows, and the data sets that hold whole conversations (Skywork-Reward, ...).

    Text stays as it is, with or without a prompt; margin, weight, chosen_probability, tie, tools and
    chat_template_kwargs are kept, other columns not.
    In messages, the prompt stands once:

        whole conversations, no prompt          the common prefix is the prompt
        whole conversations, prompt as text     the same: the conversations hold the prompt, with system turns if any
        answers only, prompt as text            the prompt is a user turn
        prompt as messages, repeated (or its    the repeated part leaves the answers
        tail) at the start of the answers
        prompt as messages, answers as text     the answers are assistant turns

    >>> row = preference({
    ...     "chosen": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
    ...     "rejected": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "5"}],
    ...     "source": "arithmetic",
    ... })
    >>> row["prompt"]
    [{'role': 'user', 'content': '2+2?'}]
    >>> row["chosen"], row["rejected"]
    ([{'role': 'assistant', 'content': '4'}], [{'role': 'assistant', 'content': '5'}])
    >>> preference({"prompt": "2+2?", "chosen": " 4", "rejected": " 5", "margin": 1.0})
    {'prompt': '2+2?', 'chosen': ' 4', 'rejected': ' 5', 'margin': 1.0}
    """
    prompt, chosen, rejected = row.get("prompt"), field(row, "chosen"), field(row, "rejected")
    rest = {**{name: row[name] for name in _BESIDE if name in row}, **template_arguments(row)}
    texts = _are_texts(chosen, rejected)
    if prompt is None or prompt == []:
        if texts:
            return {"chosen": chosen, "rejected": rejected, **rest}
        return {**split_at_common_prefix(messages(row, "chosen"), messages(row, "rejected")), **rest}
    if isinstance(prompt, str):
        if texts:
            return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **rest}
        return {**_with_text_prompt(prompt, messages(row, "chosen"), messages(row, "rejected")), **rest}
    return {**_with_messages_prompt(messages(row, "prompt"), _answer(row, "chosen"), _answer(row, "rejected")), **rest}


@register_adapter(
    "hh_rlhf",
    columns=("chosen", "rejected"),
    matches=lambda row: is_hh_text(row.get("chosen")) and is_hh_text(row.get("rejected")),
)
def hh_rlhf(row: Row) -> Row:
    r"""Anthropic's HH-RLHF: whole conversations as marked text; the common prefix of their turns is the prompt.

    A turn begins at a blank line and "Human:" or "Assistant:"; blank lines within a turn stay. Turns lose the white
    space around them, since chat templates set their own. Two turns of one role in a row stay two (the data has some).

    >>> row = hh_rlhf({
    ...     "chosen": "\n\nHuman: Name a prime.\n\nAssistant: 7",
    ...     "rejected": "\n\nHuman: Name a prime.\n\nAssistant: 8",
    ... })
    >>> row["prompt"], row["chosen"]
    ([{'role': 'user', 'content': 'Name a prime.'}], [{'role': 'assistant', 'content': '7'}])
    """
    conversations = {}
    for column in ("chosen", "rejected"):
        turns = hh_turns(text(row, column), column)
        if turns[-1]["role"] != "assistant":
            raise RowError("expected an Assistant turn at the end, found a Human turn", column)
        conversations[column] = turns
    return split_at_common_prefix(**conversations)


@register_adapter("bradley_terry.chat_template", columns=("input", "chosen", "rejected"))
def bradley_terry_chat_template(row: Row) -> Row:
    """axolotl's type of that name: `input` and both answers as text, `system` where the row has one.

    >>> row = bradley_terry_chat_template({"system": "Be brief.", "input": "2+2?", "chosen": "4", "rejected": "Four."})
    >>> row["prompt"]
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': '2+2?'}]
    >>> row["chosen"], row["rejected"]
    ([{'role': 'assistant', 'content': '4'}], [{'role': 'assistant', 'content': 'Four.'}])
    """
    system = _system(row)
    return {
        "prompt": ([{"role": "system", "content": system}] if system else []) + [user(text(row, "input"))],
        "chosen": [assistant(text(row, "chosen"))],
        "rejected": [assistant(text(row, "rejected"))],
    }


@register_adapter("bradley_terry.llama3.icr")
def bradley_terry_llama3_icr(row: Row) -> Row:
    r"""axolotl's type of that name: the same rows as text with Llama 3's marks, whatever the tokenizer's template.

    Llama 3.1's own template would add a date to the system turn; this form does not. <|begin_of_text|> is left to the
    tokenizer. By name only: the columns are those of `bradley_terry.chat_template`.

    >>> row = bradley_terry_llama3_icr({"system": None, "input": "2+2?", "chosen": "4", "rejected": "5"})
    >>> print(row["prompt"] + row["chosen"])
    <|start_header_id|>user<|end_header_id|>
    <BLANKLINE>
    2+2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>
    <BLANKLINE>
    4<|eot_id|>
    """
    system = _system(row)
    return {
        "prompt": (_llama3_turn("system", system) if system else "")
        + _llama3_turn("user", text(row, "input"))
        + "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "chosen": f"{text(row, 'chosen')}<|eot_id|>",
        "rejected": f"{text(row, 'rejected')}<|eot_id|>",
    }


def _are_texts(chosen: object, rejected: object) -> bool:
    """Whether both are; what is neither text nor a list beside a text is at fault itself."""
    for column, value, other in (("chosen", chosen, rejected), ("rejected", rejected, chosen)):
        if isinstance(other, str) and not isinstance(value, str | list):
            raise RowError(f"expected text like the other answer, found {shown(value)}", column)
    return isinstance(chosen, str) and isinstance(rejected, str)


def _with_text_prompt(prompt: str, chosen: list[Message], rejected: list[Message]) -> Row:
    whole = [answer[0]["role"] in _OPENING_ROLES for answer in (chosen, rejected)]
    if all(whole):
        return split_at_common_prefix(chosen, rejected)
    if any(whole):
        raise RowError(
            f"begins with role '{rejected[0]['role']}', 'chosen' with '{chosen[0]['role']}'; "
            "expected two answers, or two whole conversations",
            "rejected",
        )
    return {"prompt": [user(prompt)], "chosen": chosen, "rejected": rejected}


def _with_messages_prompt(prompt: list[Message], chosen: list[Message], rejected: list[Message]) -> Row:
    system_added = all(
        answer[0]["role"] != prompt[0]["role"]
        and answer[0]["role"] in ("system", "developer")
        # the conversation repeats the whole prompt behind a system turn that the prompt column lacks
        and answer[1 : 1 + len(prompt)] == prompt
        for answer in (chosen, rejected)
    )
    if system_added:
        return split_at_common_prefix(chosen, rejected)
    return {
        "prompt": prompt,
        "chosen": _without_repeated(prompt, chosen),
        "rejected": _without_repeated(prompt, rejected),
    }


def _without_repeated(prompt: list[Message], answer: list[Message]) -> list[Message]:
    """The answer without the longest tail of the prompt that it begins with."""
    if answer[0]["role"] in _OPENING_ROLES:
        for size in range(min(len(prompt), len(answer) - 1), 0, -1):
            if prompt[-size:] == answer[:size]:
                return answer[size:]
    return answer


def _answer(row: Row, column: str) -> list[Message]:
    return [assistant(row[column])] if isinstance(row[column], str) else messages(row, column)


def _system(row: Row) -> str:
    return text(row, "system") if row.get("system") is not None else ""


def _llama3_turn(role: str, content: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"
