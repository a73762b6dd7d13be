"""Rows with a chosen and a rejected answer -> preference rows.

In: `chosen` and `rejected` as text or as messages, with or without a prompt. Out: {prompt, chosen, rejected}, all text
or all messages; in messages, `prompt` is what comes before the answers, once, and the answers hold only what differs.
Several rejected answers in a list give {prompt, completions, scores}.
"""

from typing import Any

from ...checks import RowError, shown
from .fields import TEMPLATE_ARGUMENTS, Row, field, messages, template_arguments, text, text_or_texts, with_system_turn
from .prompts import PAIR_EXTRAS, pair_extras
from .registry import register_adapter
from .turns import Message, assistant, hh_turns, is_hh_text, shared_and_own, split_at_common_prefix, user

_OF_PAIRS_ALONE = tuple(name for name in PAIR_EXTRAS if name != "weight")

BESIDE_PAIR = ("prompt", "system", *PAIR_EXTRAS, *TEMPLATE_ARGUMENTS)
"""columns that `preference` reads where a row has them"""

_OPENING_ROLES = ("system", "developer", "user")  # an answer begins with none of these, a whole conversation does


@register_adapter("skywork", optional=("chosen", "rejected", *BESIDE_PAIR), ignored=("source",))
@register_adapter("preference", columns=("chosen", "rejected"), optional=BESIDE_PAIR)
def preference(row: Row) -> Row:
    """TRL's preference rows, and the data sets that hold whole conversations (Skywork-Reward, ...).

    Text stays as it is, with or without a prompt; the columns of `PAIR_EXTRAS`, tools and chat_template_kwargs are
    kept. In messages, the prompt stands once:

        whole conversations, no prompt          the common prefix is the prompt
        whole conversations, prompt as text     the same: the conversations hold the prompt, with system turns if any
        answers only, prompt as text            the prompt is a user turn
        prompt as messages, repeated (or its    the repeated part leaves the answers
        tail) at the start of the answers
        prompt as messages, answers as text     the answers are assistant turns
        one message for a list of messages      a list of it
        `system` beside them                    the first turn; beside text it is an error, since text has no turns

    A list of rejected answers gives a ranked row: the chosen one scores 1, the others 0, so that losses of pairs see
    the chosen one against each of the others.

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
    >>> preference({"prompt": "2+2?", "chosen": " 4", "rejected": [" 5", " 6"]})
    {'prompt': '2+2?', 'completions': [' 4', ' 5', ' 6'], 'scores': [1.0, 0.0, 0.0]}
    """
    rest = {**pair_extras(row), **template_arguments(row)}
    chosen, rejected = (_listed(field(row, column)) for column in ("chosen", "rejected"))
    several = _several(rejected, chosen)
    answers = [chosen, *(rejected if several else [rejected])]
    prompt, answers = _prompt_and_answers(_listed(row.get("prompt")), answers)
    if isinstance(answers[0], str):
        with_system_turn(row, "")  # which raises
    else:
        prompt = with_system_turn(row, prompt or [])
    prompt = {} if prompt in (None, []) else {"prompt": prompt}
    if not several:
        return {**prompt, "chosen": answers[0], "rejected": answers[1], **rest}
    if beside := [name for name in _OF_PAIRS_ALONE if rest.get(name) is not None]:
        raise RowError("belongs to a pair, but 'rejected' holds a list of answers. Give one row a pair", beside[0])
    rest = {name: value for name, value in rest.items() if name not in _OF_PAIRS_ALONE}
    return {**prompt, "completions": answers, "scores": [1.0] + [0.0] * (len(answers) - 1), **rest}


@register_adapter(
    "hh_rlhf",
    columns=("chosen", "rejected"),
    matches=lambda row: is_hh_text(row.get("chosen")) and is_hh_text(row.get("rejected")),
    optional=("prompt", *PAIR_EXTRAS, *TEMPLATE_ARGUMENTS),
)
def hh_rlhf(row: Row) -> Row:
    r"""Anthropic's HH-RLHF: whole conversations as marked text; the common prefix of their turns is the prompt.

    A turn begins at a blank line and "Human:" or "Assistant:"; blank lines within a turn stay. Turns lose the white
    space around them, since chat templates set their own. Two turns of one role in a row stay two (the data has some).
    A `prompt` beside them must be what both begin with.

    >>> row = hh_rlhf({
    ...     "chosen": "\n\nHuman: Name a prime.\n\nAssistant: 7",
    ...     "rejected": "\n\nHuman: Name a prime.\n\nAssistant: 8",
    ... })
    >>> row["prompt"], row["chosen"]
    ([{'role': 'user', 'content': 'Name a prime.'}], [{'role': 'assistant', 'content': '7'}])
    """
    conversations, prompt = {}, row.get("prompt") or ""
    for column in ("chosen", "rejected"):
        if not isinstance(prompt, str) or not text(row, column).startswith(prompt):
            raise RowError(f"expected what '{column}' begins with, found {shown(prompt)}", "prompt")
        turns = hh_turns(text(row, column), column)
        if turns[-1]["role"] != "assistant":
            raise RowError("expected an Assistant turn at the end, found a Human turn", column)
        conversations[column] = turns
    return {**split_at_common_prefix(**conversations), **pair_extras(row), **template_arguments(row)}


@register_adapter(
    "bradley_terry.chat_template",
    columns=("input", "chosen", "rejected"),
    optional=("system", *PAIR_EXTRAS, *TEMPLATE_ARGUMENTS),
)
def bradley_terry_chat_template(row: Row) -> Row:
    """axolotl's type of that name: `input` and both answers as text, `system` where the row has one. A list of rejected
    answers gives a ranked row, as in `preference`.

    >>> row = bradley_terry_chat_template({"system": "Be brief.", "input": "2+2?", "chosen": "4", "rejected": "Four."})
    >>> row["prompt"]
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': '2+2?'}]
    >>> row["chosen"], row["rejected"]
    ([{'role': 'assistant', 'content': '4'}], [{'role': 'assistant', 'content': 'Four.'}])
    """
    system = _system(row)
    prompt = ([{"role": "system", "content": system}] if system else []) + [user(text(row, "input"))]
    answers = {"chosen": text(row, "chosen"), "rejected": text_or_texts(row, "rejected")}
    return preference({"prompt": prompt, **answers, **pair_extras(row), **template_arguments(row)})


@register_adapter("bradley_terry.llama3.icr", optional=("input", "chosen", "rejected", "system", *PAIR_EXTRAS))
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
        **pair_extras(row),
    }


def _listed(answer: Any) -> Any:
    """One message as a list of messages."""
    return [answer] if isinstance(answer, dict) else answer


def _several(rejected: Any, chosen: Any) -> bool:
    """Whether `rejected` is a list of answers: of texts, or of conversations."""
    if isinstance(chosen, list) and chosen and not isinstance(chosen[0], dict):
        raise RowError(
            f"is a list, {shown(chosen)}; expected one answer. Several rated ones go into 'completions', with 'scores'",
            "chosen",
        )
    if not isinstance(rejected, list) or not any(isinstance(answer, str | list) for answer in rejected):
        return False
    if len({type(answer) for answer in rejected}) > 1 or not all(rejected):
        raise RowError(
            f"{shown(rejected)}; expected one answer, or a list of several that are all text or all messages, none "
            "of them empty",
            "rejected",
        )
    return True


def _prompt_and_answers(prompt: Any, answers: list[Any]) -> tuple[Any, list[Any]]:
    """The chosen answer and the rejected ones with their prompt: all text, or all messages with the prompt once."""
    texts = _are_texts(answers)
    if isinstance(prompt, list) and prompt:
        return _with_messages_prompt(messages({"prompt": prompt}, "prompt"), [*map(_conversation, *_named(answers))])
    if not (prompt is None or isinstance(prompt, str) or prompt == []):
        messages({"prompt": prompt}, "prompt")  # which raises
    if texts:
        return prompt, answers
    conversations = [messages({column: answer}, column) for column, answer in zip(*_named(answers), strict=True)]
    return _with_text_prompt(prompt, conversations) if prompt else shared_and_own(conversations)


def _named(answers: list[Any]) -> tuple[list[str], list[Any]]:
    """The column of each answer, and the answers."""
    return ["chosen"] + ["rejected"] * (len(answers) - 1), answers


def _are_texts(answers: list[Any]) -> bool:
    """Whether all are; what is neither text nor a list beside a text is at fault itself."""
    for column, value in zip(*_named(answers), strict=True):
        if (value == [] or not isinstance(value, str | list)) and any(isinstance(other, str) for other in answers):
            raise RowError(f"expected text like the other answer, found {shown(value)}", column)
    return all(isinstance(value, str) for value in answers)


def _conversation(column: str, answer: Any) -> list[Message]:
    return [assistant(answer)] if isinstance(answer, str) else messages({column: answer}, column)


def _with_text_prompt(prompt: str, answers: list[list[Message]]) -> tuple[list[Message], list[list[Message]]]:
    whole = [answer[0]["role"] in _OPENING_ROLES for answer in answers]
    if all(whole):
        return shared_and_own(answers)
    if any(whole):
        other = answers[next(index for index, conversation in enumerate(whole) if conversation != whole[0])]
        raise RowError(
            f"begins with role '{other[0]['role']}', 'chosen' with '{answers[0][0]['role']}'; "
            "expected two answers, or two whole conversations",
            "rejected",
        )
    return [user(prompt)], answers


def _with_messages_prompt(prompt: list[Message], answers: list[list[Message]]):
    system_added = all(
        answer[0]["role"] != prompt[0]["role"]
        and answer[0]["role"] in ("system", "developer")
        # the conversation repeats the whole prompt behind a system turn that the prompt column lacks
        and answer[1 : 1 + len(prompt)] == prompt
        for answer in answers
    )
    if system_added:
        return shared_and_own(answers)
    return prompt, [_without_repeated(prompt, answer) for answer in answers]


def _without_repeated(prompt: list[Message], answer: list[Message]) -> list[Message]:
    """The answer without the longest tail of the prompt that it begins with."""
    if answer[0]["role"] in _OPENING_ROLES:
        for size in range(min(len(prompt), len(answer) - 1), 0, -1):
            if prompt[-size:] == answer[:size]:
                return answer[size:]
    return answer


def _system(row: Row) -> str:
    return text(row, "system") if row.get("system") is not None else ""


def _llama3_turn(role: str, content: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"
