"""Rows with several rated answers to one prompt -> ranked rows, or preference rows where only pairs were compared.

In: a prompt with answers and scores, ranks or pairwise votes. Out: {prompt, completions, scores} with higher scores
better, or {prompt, chosen, rejected}, with `tie` where two answers are as good: what becomes of it is the loss's
business.
"""

from ...checks import RowError, shown
from .fields import (
    TEMPLATE_ARGUMENTS,
    Row,
    dicts,
    field,
    items,
    messages,
    number,
    template_arguments,
    text,
    with_system_turn,
)
from .registry import register_adapter
from .turns import assistant, helpsteer2_turns, hh_turns, user

ULTRAFEEDBACK_SCORES = ("fine-grained_score", "overall_score", "score")


@register_adapter(
    "ranked", columns=("prompt", "completions", "scores"), optional=("system", "weight", *TEMPLATE_ARGUMENTS)
)
def ranked(row: Row) -> Row:
    """This package's own ranked rows, as they are; answers as text to a prompt in messages are assistant turns.

    >>> ranked({"prompt": "2+2?", "completions": ["4", "5"], "scores": [1.0, 0.0], "id": 7})
    {'prompt': '2+2?', 'completions': ['4', '5'], 'scores': [1.0, 0.0]}
    """
    weight = {"weight": row["weight"]} if "weight" in row else {}
    prompt, completions = with_system_turn(row, field(row, "prompt")), items(row, "completions")
    if isinstance(prompt, list):
        completions = [[assistant(answer)] if isinstance(answer, str) else answer for answer in completions]
    scores = items(row, "scores")
    return {"prompt": prompt, "completions": completions, "scores": scores, **weight, **template_arguments(row)}


def _has_responses(row: Row) -> bool:
    return _dicts_with(row.get("completions"), "response")


@register_adapter(
    "ultrafeedback",
    columns=("instruction", "completions"),
    matches=_has_responses,
    optional=(),
    ignored=("source", "models", "correct_answers", "incorrect_answers"),
)
def ultrafeedback(row: Row) -> Row | list[Row]:
    """UltraFeedback (openbmb): four models' answers with GPT-4's ratings. A prompt without answers gives no row.

    The score is `fine-grained_score` (the mean of four aspects) where every answer has one, else `overall_score`, else
    `score`: `overall_score` has known wrong 10s (ratings of 1 read as 10). `custom_system_prompt` is not used: it
    differs between the answers of a row, and a ranked row has one prompt.

    >>> row = ultrafeedback({"instruction": "2+2?", "completions": [
    ...     {"response": "4", "fine-grained_score": 5.0, "overall_score": 9.0},
    ...     {"response": "5", "fine-grained_score": 1.25, "overall_score": 10.0}]})
    >>> row["scores"]
    [5.0, 1.25]
    >>> row["prompt"], row["completions"][0]
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': '4'}])
    """
    instruction, completions = text(row, "instruction"), dicts(row, "completions")
    if not completions:
        return []
    for key in ULTRAFEEDBACK_SCORES:
        if all(completion.get(key) is not None for completion in completions):
            break
    else:
        raise RowError(
            f"no score that every completion has; looked for {', '.join(ULTRAFEEDBACK_SCORES)}", "completions"
        )
    return {
        "prompt": [user(instruction)],
        "completions": [[assistant(text(completion, "response", "completions"))] for completion in completions],
        "scores": [number(completion, key, "completions") for completion in completions],
    }


@register_adapter(
    "finegrained_rlhf",
    columns=("prompt", "completions", "preference_pairs", "preference"),
    optional=(),
    ignored=tuple(f"feedback_on_prediction_{number}" for number in (1, 2, 3, 4)),
)
def finegrained_rlhf(row: Row) -> list[Row]:
    """FineGrainedRLHF: people's votes over pairs of completions; one preference row a pair, with `tie` for a tie.

    `preference` holds 1 where the first of the pair is better, 2 for the second, 0 for a tie. Votes stay pairs: they
    need not agree on one order.

    >>> rows = finegrained_rlhf({"prompt": "2+2?", "completions": ["4", "5", "four"],
    ...                          "preference_pairs": [[0, 1], [0, 2], [1, 2]], "preference": [1, 0, 2]})
    >>> for row in rows: print(row)
    {'prompt': '2+2?', 'chosen': '4', 'rejected': '5'}
    {'prompt': '2+2?', 'chosen': '4', 'rejected': 'four', 'tie': True}
    {'prompt': '2+2?', 'chosen': 'four', 'rejected': '5'}
    """
    prompt, completions = field(row, "prompt"), items(row, "completions")
    pairs, votes = items(row, "preference_pairs"), items(row, "preference")
    if len(pairs) != len(votes):
        raise RowError(f"{len(votes)} votes for {len(pairs)} pairs", "preference")
    rows = []
    for pair, vote in zip(pairs, votes, strict=True):
        if not isinstance(pair, list) or len(pair) != 2 or any(index not in range(len(completions)) for index in pair):
            raise RowError(
                f"expected pairs of indices below {len(completions)}, found {shown(pair)}", "preference_pairs"
            )
        if vote not in (0, 1, 2):
            raise RowError(f"expected 1 (first is better), 2 (second) or 0 (tie), found {shown(vote)}", "preference")
        first, second = (completions[int(index)] for index in pair)
        chosen, rejected = (second, first) if vote == 2 else (first, second)
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected, **({} if vote else {"tie": True})})
    return rows


@register_adapter(
    "helpsteer2",
    columns=("prompt", "response_1", "response_2", "preference_strength"),
    optional=(),
    ignored=(
        *("split", "preference_statement", "preference_elaboration", "three_most_similar_preferences"),
        "all_preferences_unprocessed",
    ),
)
def helpsteer2(row: Row) -> list[Row]:
    r"""HelpSteer2-Preference (nvidia): strength below 0 means response_1 is better, above 0 response_2; 0 is a tie.

    Prompts of several turns are marked by lines "<extra_id_1>Assistant" and "<extra_id_1>User"; they become turns. The
    strength does not become a margin, which would change the loss unasked.

    >>> helpsteer2({"prompt": "2+2?", "response_1": "4", "response_2": "5", "preference_strength": -3})[0]["chosen"]
    [{'role': 'assistant', 'content': '4'}]
    >>> helpsteer2({"prompt": "2+2?", "response_1": "4", "response_2": "Four", "preference_strength": 0})[0]["tie"]
    True
    """
    prompt = helpsteer2_turns(text(row, "prompt"))
    return _by_strength(prompt, text(row, "response_1"), text(row, "response_2"), number(row, "preference_strength"))


@register_adapter(
    "helpsteer3",
    columns=("context", "response1", "response2", "overall_preference"),
    optional=(),
    ignored=("domain", "language", "individual_preference"),
)
def helpsteer3(row: Row) -> list[Row]:
    """HelpSteer3 (nvidia), preference part: as `helpsteer2`, with the prompt as messages.

    >>> helpsteer3({"context": [{"role": "user", "content": "2+2?"}], "response1": "5", "response2": "4",
    ...             "overall_preference": 2})[0]["chosen"]
    [{'role': 'assistant', 'content': '4'}]
    """
    prompt = messages(row, "context")
    return _by_strength(prompt, text(row, "response1"), text(row, "response2"), number(row, "overall_preference"))


@register_adapter(
    "nectar",
    columns=("prompt", "answers"),
    matches=lambda row: _dicts_with(row.get("answers"), "rank"),
    optional=(),
    ignored=("turns", "num_responses", "source", "good_natured"),
)
def nectar(row: Row) -> Row:
    r"""Nectar (berkeley-nest): seven answers ranked by GPT-4, 1 the best; the score is minus the rank.

    The prompt is HH's marked text with an empty Assistant turn at its end, which is where the answers go.

    >>> row = nectar({"prompt": "\n\nHuman: 2+2?\n\nAssistant: ",
    ...               "answers": [{"answer": "5", "rank": 2.0}, {"answer": "4", "rank": 1.0}]})
    >>> row["prompt"], row["scores"]
    ([{'role': 'user', 'content': '2+2?'}], [-2.0, -1.0])
    >>> row["completions"][1]
    [{'role': 'assistant', 'content': '4'}]
    """
    prompt, answers = hh_turns(text(row, "prompt"), "prompt"), dicts(row, "answers")
    if prompt[-1] == assistant(""):
        prompt = prompt[:-1]
    return {
        "prompt": prompt,
        "completions": [[assistant(text(answer, "answer", "answers"))] for answer in answers],
        "scores": [-number(answer, "rank", "answers") for answer in answers],
    }


def _by_strength(prompt: list[dict], first: str, second: str, strength: float) -> list[Row]:
    chosen, rejected = (second, first) if strength > 0 else (first, second)
    tie = {} if strength else {"tie": True}
    return [{"prompt": prompt, "chosen": [assistant(chosen)], "rejected": [assistant(rejected)], **tie}]


def _dicts_with(value: object, key: str) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) and key in entry for entry in value)
