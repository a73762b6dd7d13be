r"""Two answers and a word that says who won -> preference rows, with `tie` where the vote is for neither.

In: two responses or two whole conversations and a vote. Out: {prompt, chosen, rejected} in messages. Comparisons by an
index or by scores stand in `comparisons.py`, which takes the last four functions from here.
"""

import json

from ...checks import RowError, shown
from .fields import Row, field, integer, messages, text
from .prompts import answered_pair, asked
from .registry import register_adapter
from .turns import Message, assistant, split_at_common_prefix, user

# who won: the first answer (0), the second (1), neither (None). FastChat's words and its judge's, LMArena's,
# JudgeBench's, Preference-Collection's
VOTES = dict.fromkeys(("model_a", "a", "[[a]]", "a>b", "a>>b"), 0) | dict.fromkeys(("model_b", "b", "[[b]]", "b>a"), 1)
VOTES |= {"b>>a": 1} | dict.fromkeys(("tie", "tie (bothbad)", "tie (inconsistent)", "both_bad", "[[c]]", "a=b"))


@register_adapter(
    "arena",
    columns=("conversation_a", "conversation_b", "winner"),
    optional=("turn",),
    ignored=(
        *("question_id", "model_a", "model_b", "judge", "anony", "language", "tstamp"),
        *("openai_moderation", "toxic_chat_tag", "conv_metadata", "full_conversation"),
    ),
)
def arena(row: Row) -> Row:
    """Votes over two conversations: lmsys/chatbot_arena_conversations, lmsys/mt_bench_human_judgments. Gives turns.

    `turn` is the turn that was judged: what MT-Bench's conversations hold behind it nobody voted on, and is cut.
    Columns: FastChat, serve/monitor/clean_battle_data.py, llm_judge/compute_agreement.py and, for `toxic_chat_tag`,
    serve/monitor/dataset_release_scripts/arena_33k.

    >>> question, more = {"role": "user", "content": "2+2?"}, {"role": "user", "content": "3+3?"}
    >>> four, five = {"role": "assistant", "content": "4"}, {"role": "assistant", "content": "5"}
    >>> row = arena({"conversation_a": [question, five, more, four], "conversation_b": [question, four, more, five],
    ...              "winner": "model_b", "turn": 1})
    >>> row["prompt"], row["chosen"]
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': '4'}])
    """
    return conversations_by_vote(*(_judged_turns(row, f"conversation_{side}") for side in "ab"), vote(row, "winner"))


@register_adapter(
    "judge_votes",
    columns=("prompt", "response_a", "response_b", "winner"),
    ignored=("id", "model_a", "model_b"),
    optional=(),
)
@register_adapter(
    "arena.responses",
    columns=("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"),
    ignored=("id", "model_a", "model_b"),
    optional=(),
)
def arena_responses(row: Row) -> Row:
    r"""Votes over two responses: lmarena-ai/arena-human-preference-55k, routellm/gpt4_judge_battles. Gives turns.

    `prompt` and both responses are JSON lists, a text a turn, or plain texts; an answer that is null is empty. The vote
    is one 1 among `winner_model_a`, `winner_model_b` and `winner_tie`, or a word in `winner`.
    Columns: the card of a copy of the data set (mlabonne/lmsys-arena-human-preference-filtered-19k); RouteLLM,
    routers/similarity_weighted/utils.py, which reads both data sets.

    >>> row = arena_responses({"prompt": '["2+2?"]', "response_a": '["4"]', "response_b": '["Four"]',
    ...                        "winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1})
    >>> row["prompt"], row["tie"]
    ([{'role': 'user', 'content': '2+2?'}], True)
    >>> arena_responses({"prompt": "2+2?", "response_a": "5", "response_b": "4", "winner": "model_b"})["chosen"]
    [{'role': 'assistant', 'content': '4'}]
    """
    first, second = (_conversation(row, f"response_{side}") for side in "ab")
    return conversations_by_vote(first, second, vote(row, "winner") if "winner" in row else _one_of_three(row))


@register_adapter(
    "judgebench",
    columns=("question", "response_A", "response_B", "label"),
    ignored=("pair_id", "original_id", "source", "response_model"),
    optional=(),
)
def judgebench(row: Row) -> Row:
    """JudgeBench (ScalerLab): which of two responses is right, as "A>B" or "B>A". Gives turns.

    Columns: ScalerLab/JudgeBench, README.md.

    >>> judgebench({"question": "2+2?", "response_A": "5", "response_B": "4", "label": "B>A"})["chosen"]
    [{'role': 'assistant', 'content': '4'}]
    """
    answers = text(row, "response_A"), text(row, "response_B")
    return answers_by_vote(asked(text(row, "question")), *answers, vote(row, "label"))


@register_adapter(
    "preference_collection",
    columns=("orig_instruction", "orig_response_A", "orig_response_B", "orig_preference"),
    ignored=("orig_criteria", "orig_reference_answer", "output", "instruction"),
    optional=(),
)
def preference_collection(row: Row) -> Row:
    """Preference-Collection (prometheus-eval): a judge's choice, "A" or "B". Gives turns.

    Columns: prometheus-eval, eval/benchmark/data_loader.py; `orig_preference` as loaders of the data set read it.

    >>> preference_collection({"orig_instruction": "2+2?", "orig_response_A": "4", "orig_response_B": "5",
    ...                        "orig_preference": "A"})["chosen"]
    [{'role': 'assistant', 'content': '4'}]
    """
    answers = text(row, "orig_response_A"), text(row, "orig_response_B")
    return answers_by_vote(asked(text(row, "orig_instruction")), *answers, vote(row, "orig_preference"))


def _judged_turns(row: Row, column: str) -> list[Message]:
    """The conversation up to the answer of the turn that was judged, without what is not role or content."""
    conversation = messages(row, column)
    turns = [{key: turn[key] for key in ("role", "content") if key in turn} for turn in conversation]
    if row.get("turn") is None:
        return turns
    answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    judged = integer(row, "turn")
    if not 1 <= judged <= len(answers):
        raise RowError(f"turn {judged} was judged, but there are {len(answers)} answers", column)
    return turns[: answers[judged - 1] + 1]


def _conversation(row: Row, response_column: str) -> list[Message]:
    questions, answers = _texts(row, "prompt"), _texts(row, response_column)
    if len(questions) != len(answers):
        raise RowError(f"{len(answers)} answers for {len(questions)} turns of the prompt", response_column)
    turns = zip(questions, answers, strict=True)
    return [message for question, answer in turns for message in (user(question), assistant(answer))]


def _texts(row: Row, column: str) -> list[str]:
    """The texts of a JSON list or of a list, "" for null; any other text is the only one."""
    value = field(row, column)
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.startswith("[") else [value]
        except json.JSONDecodeError:
            value = [value]
    if not isinstance(value, list) or not all(isinstance(entry, str | None) for entry in value):
        raise RowError(f"expected text or a list of texts, found {shown(value)}", column)
    return ["" if entry is None else entry for entry in value]


def _one_of_three(row: Row) -> int | None:
    columns = ("winner_model_a", "winner_model_b", "winner_tie")
    flags = [integer(row, column) if not isinstance(row.get(column), bool) else int(row[column]) for column in columns]
    if sorted(flags) != [0, 0, 1]:
        raise RowError(f"expected one 1 among {', '.join(columns)}, found {flags}", columns[0])
    return (0, 1, None)[flags.index(1)]


def vote(row: Row, column: str) -> int | None:
    """A word of `VOTES`: 0 where the first answer won, 1 where the second did, None for a tie.

    >>> vote({"winner": "model_b"}, "winner"), vote({"winner": "tie (bothbad)"}, "winner")
    (1, None)
    """
    word = field(row, column)
    if not isinstance(word, str) or word.strip().lower() not in VOTES:
        raise RowError(f"expected one of {', '.join(VOTES)}, found {shown(word)}", column)
    return VOTES[word.strip().lower()]


def answers_by_vote(prompt: list[Message], first: str, second: str, better: int | None) -> Row:
    """The preference row of two answers to one prompt; `better` as `vote` gives it.

    >>> answers_by_vote([user("2+2?")], "4", "Four", None)["tie"]
    True
    """
    chosen, rejected = (second, first) if better == 1 else (first, second)
    return answered_pair(prompt, chosen, rejected, tie=better is None)


def conversations_by_vote(first: list[Message], second: list[Message], better: int | None) -> Row:
    """The preference row of two whole conversations; `better` as `vote` gives it. What they share is the prompt."""
    chosen, rejected = (second, first) if better == 1 else (first, second)
    row = split_at_common_prefix(chosen, rejected)
    return {**row, "tie": True} if better is None else row


def higher(first: float, second: float) -> int | None:
    """Which of two scores is higher: 0 the first, 1 the second, None where they are equal.

    >>> higher(0.0, 1.0), higher(0.5, 0.5)
    (1, None)
    """
    return None if first == second else int(second > first)
