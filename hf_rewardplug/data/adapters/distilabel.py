"""What distilabel and Argilla publish: rated generations, pairs made of them, Orca pairs with their status.

In: `generations` with `ratings`, or a pair with the ratings it was made from. Out: ranked, preference or scored rows in
messages. Ratings become scores where several answers are ranked, never a margin.
"""

from ...checks import DropRow, RowError, shown
from .fields import TEMPLATE_ARGUMENTS, Row, field, items, messages, text
from .preference import preference
from .prompts import PAIR_EXTRAS, answered_pair, asked, optional_text
from .registry import register_adapter
from .turns import Message, assistant

_MADE_BY = ("model_name", "generation_model", "generation_models", "model_names", "types", "rationales", "rationale")
_LABELLED_BY = ("rationales-for-ratings", "distilabel_metadata", "labelling_model", "labelling_prompt")
_BESIDE_RATINGS = (*_MADE_BY, *_LABELLED_BY, "raw_labelling_response")


def _is_rated(row: Row) -> bool:
    return isinstance(row.get("generations"), list) and isinstance(row.get("ratings", row.get("rating")), list)


@register_adapter(
    "distilabel.rating",
    columns=("input", "generations", "rating"),
    matches=_is_rated,
    optional=("system",),
    ignored=_BESIDE_RATINGS,
)
@register_adapter(
    "distilabel.input",
    columns=("input", "generations", "ratings"),
    matches=_is_rated,
    optional=("system",),
    ignored=_BESIDE_RATINGS,
)
@register_adapter(
    "distilabel.chat",
    columns=("messages", "generations", "ratings"),
    matches=_is_rated,
    ignored=_BESIDE_RATINGS,
    optional=(),
)
@register_adapter(
    "distilabel",
    columns=("instruction", "generations", "ratings"),
    matches=_is_rated,
    optional=("system_prompt",),
    ignored=_BESIDE_RATINGS,
)
def distilabel(row: Row) -> Row:
    """distilabel's rated generations, before they are made a pair: a ranked list. Gives turns.

    The prompt is `instruction` (with `system_prompt`), `input` (distilabel 0.x, with `system`) or `messages`; the
    ratings are `ratings` or, in 0.x, `rating`. A generation or a rating that is None (a failed call, an answer that
    could not be parsed) cannot be ranked: that answer is left out.
    Columns: argilla-io/distilabel, steps/tasks/ultrafeedback.py and steps/formatting/dpo.py; 0.x's as in the card of
    argilla/distilabel-intel-orca-dpo-pairs.

    >>> row = distilabel({"instruction": "2+2?", "generations": ["4", "5", "6"], "ratings": [5, 1, None]})
    >>> row["prompt"], row["scores"]
    ([{'role': 'user', 'content': '2+2?'}], [5, 1])
    >>> row["completions"]
    [[{'role': 'assistant', 'content': '4'}], [{'role': 'assistant', 'content': '5'}]]
    """
    column = "ratings" if "ratings" in row else "rating"
    generations, ratings = items(row, "generations"), items(row, column)
    if len(generations) != len(ratings):
        raise RowError(f"{len(ratings)} ratings for {len(generations)} generations", column)
    rated = [pair for pair in zip(generations, ratings, strict=True) if None not in pair]
    if not rated:
        raise DropRow("no generation has a rating", column)
    return {
        "prompt": _prompt(row),
        "completions": [[assistant(text({"generations": answer}, "generations"))] for answer, _ in rated],
        "scores": [rating for _, rating in rated],
    }


def _prompt(row: Row) -> list[Message]:
    if "instruction" in row:
        return asked(text(row, "instruction"), system=optional_text(row, "system_prompt"))
    if "messages" in row:
        return messages(row, "messages")
    return asked(text(row, "input"), system=optional_text(row, "system"))


# pairs made of ratings, in the columns that TRL reads: what differs is what stands beside them
_BESIDE_BINARIZED = ("system", *PAIR_EXTRAS, *TEMPLATE_ARGUMENTS)


def _are_conversations(row: Row) -> bool:
    """What these formats ignore repeats whole conversations; beside text it may hold what the text lacks."""
    return isinstance(row.get("chosen"), list) and isinstance(row.get("rejected"), list)


register_adapter(
    "ultrafeedback_binarized",
    columns=("prompt", "chosen", "rejected", "score_chosen", "score_rejected"),
    matches=_are_conversations,
    optional=_BESIDE_BINARIZED,
    ignored=("prompt_id", "messages", "other_info"),  # `messages` repeats `chosen`
)(preference)
register_adapter(
    "ultrafeedback_binarized.argilla",
    columns=("prompt", "chosen", "rejected", "chosen-rating", "rejected-rating"),
    optional=_BESIDE_BINARIZED,
    ignored=("source", "chosen-model", "rejected-model"),
)(preference)
register_adapter(
    "distilabel.pairs",
    columns=("prompt", "chosen", "rejected", "chosen_rating", "rejected_rating"),
    matches=_are_conversations,
    optional=_BESIDE_BINARIZED,
    # the conversations in `chosen` and `rejected` hold the prompt and its system turn
    ignored=(
        *("prompt_id", "chosen_model", "rejected_model", "instruction", "system_prompt", "messages", "generations"),
        *("ratings", *_BESIDE_RATINGS),
    ),
)(preference)


@register_adapter("binarized_responses", columns=("instruction", "chosen_response", "rejected_response"), optional=())
def binarized_responses(row: Row) -> Row:
    """Pairs called `chosen_response` and `rejected_response`, as Argilla's first binarized sets. Gives turns.

    Columns: axolotl, prompt_strategies/dpo/chatml.py.

    >>> binarized_responses({"instruction": "2+2?", "chosen_response": "4", "rejected_response": "5"})["chosen"]
    [{'role': 'assistant', 'content': '4'}]
    """
    return answered_pair(asked(text(row, "instruction")), text(row, "chosen_response"), text(row, "rejected_response"))


ORCA_STATUS = {"unchanged": False, "swapped": False, "tie": True}
"""Argilla's `status` of an Orca pair -> whether it is a tie"""


@register_adapter(
    "orca_pairs.argilla",
    columns=("input", "chosen", "rejected", "status"),
    optional=("system",),
    ignored=(
        *("generations", "order", "labelling_model", "labelling_prompt", "raw_labelling_response", "rating"),
        *("rationale", "original_chosen", "original_rejected", "chosen_score", "in_gsm8k_train"),
    ),
)
def orca_pairs_argilla(row: Row) -> Row:
    """argilla/distilabel-intel-orca-dpo-pairs: Orca pairs rated again; a `status` of "tie" is a tie. Gives turns.

    `chosen` is the better one by the new ratings already ("swapped" where Intel had it the other way round), so that
    `status` changes nothing but ties.
    Columns: the data card (read in its copy, that of duxx/distilabel-intel-orca-dpo-pairs-tr).

    >>> row = orca_pairs_argilla({"system": "", "input": "2+2?", "chosen": "4", "rejected": "Four", "status": "tie"})
    >>> row["prompt"], row["tie"]
    ([{'role': 'user', 'content': '2+2?'}], True)
    >>> "tie" in orca_pairs_argilla({"input": "2+2?", "chosen": "4", "rejected": "5", "status": "swapped"})
    False
    """
    prompt = asked(text(row, "input"), system=optional_text(row, "system"))
    status = field(row, "status")
    if not isinstance(status, str) or status not in ORCA_STATUS:
        raise RowError(f"expected one of {', '.join(ORCA_STATUS)}, found {shown(status)}", "status")
    return answered_pair(prompt, text(row, "chosen"), text(row, "rejected"), tie=ORCA_STATUS[status])


@register_adapter(
    "orca_kto",
    columns=("system", "prompt", "completion", "label"),
    matches=lambda row: isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str),
    ignored=("rating", "status", "in_gsm8k_train"),
    optional=(),
)
def orca_kto(row: Row) -> Row:
    """argilla/distilabel-intel-orca-kto: one answer, good or bad, with a system turn: a score, 1 or 0. Gives turns.

    Columns: the data card.

    >>> row = orca_kto({"system": "Be brief.", "prompt": "2+2?", "completion": "4", "label": True, "rating": 9.0})
    >>> row["prompt"][0], row["completion"], row["score"]
    ({'role': 'system', 'content': 'Be brief.'}, [{'role': 'assistant', 'content': '4'}], 1.0)
    """
    return {
        "prompt": asked(text(row, "prompt"), system=optional_text(row, "system")),
        "completion": [assistant(text(row, "completion"))],
        "score": judged(row, "label"),
    }


def judged(row: Row, column: str) -> float:
    """KTO's label, good or bad, as the score 1 or 0.

    >>> judged({"kto_tag": False}, "kto_tag")
    0.0
    """
    label = field(row, column)
    if label not in (True, False):
        raise RowError(f"expected True or False, found {shown(label)}", column)
    return float(label)
