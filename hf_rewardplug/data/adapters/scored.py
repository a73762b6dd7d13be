"""Rows with one rated answer -> scored rows.

In: a prompt, an answer and its score, its outcome or its ratings by attribute. Out: {prompt, completion, score} or
{prompt, completion, attributes}.
"""

from .fields import TEMPLATE_ARGUMENTS, Row, field, messages, number, template_arguments, text, with_system_turn
from .registry import register_adapter
from .turns import assistant, helpsteer2_turns, user

HELPSTEER_ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")

_OPTIONAL = ("system", "weight", *TEMPLATE_ARGUMENTS)


@register_adapter("scored", columns=("prompt", "completion", "score"), optional=_OPTIONAL)
def scored(row: Row) -> Row:
    """This package's own scored rows, as they are; an answer as text to a prompt in messages is an assistant turn.

    >>> scored({"prompt": "2+2?", "completion": "4", "score": 4.5, "id": 7})
    {'prompt': '2+2?', 'completion': '4', 'score': 4.5}
    """
    return {**_answered(row), "score": field(row, "score"), **_beside(row)}


@register_adapter("scored.attributes", columns=("prompt", "completion", "attributes"), optional=_OPTIONAL)
def scored_attributes(row: Row) -> Row:
    """The same with a score an attribute, None where it is not rated.

    >>> scored_attributes({"prompt": "2+2?", "completion": "4", "attributes": {"correct": 4, "brief": None}})
    {'prompt': '2+2?', 'completion': '4', 'attributes': {'correct': 4, 'brief': None}}
    """
    return {**_answered(row), "attributes": field(row, "attributes"), **_beside(row)}


@register_adapter("unpaired_preference", columns=("prompt", "completion", "label"), optional=_OPTIONAL)
def unpaired_preference(row: Row) -> Row:
    """TRL's unpaired preferences (as for KTO): the label, good or bad, is the score 1 or 0.

    >>> unpaired_preference({"prompt": "2+2?", "completion": "4", "label": True})
    {'prompt': '2+2?', 'completion': '4', 'score': 1.0}
    """
    label = field(row, "label")
    return {
        **_answered(row),
        "score": float(label) if isinstance(label, bool) else number(row, "label"),
        **_beside(row),
    }


@register_adapter("helpsteer", columns=("prompt", "response", *HELPSTEER_ATTRIBUTES), optional=(), ignored=("split",))
def helpsteer(row: Row) -> Row:
    """HelpSteer and HelpSteer2 (nvidia): five attributes, each rated from 0 to 4. Prompts as in `helpsteer2`.

    >>> ratings = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 0, "verbosity": 1}
    >>> row = helpsteer({"prompt": "2+2?", "response": "4", **ratings})
    >>> row["prompt"], row["completion"], row["attributes"] == ratings
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': '4'}], True)
    """
    return {
        "prompt": helpsteer2_turns(text(row, "prompt")),
        "completion": [assistant(text(row, "response"))],
        "attributes": {name: None if field(row, name) is None else number(row, name) for name in HELPSTEER_ATTRIBUTES},
    }


def _answered(row: Row) -> Row:
    prompt, completion = field(row, "prompt"), field(row, "completion")
    if isinstance(prompt, list) and isinstance(completion, str):
        completion = [assistant(completion)]
    elif isinstance(completion, list):
        completion = messages(row, "completion")
        prompt = [user(prompt)] if isinstance(prompt, str) and prompt else prompt
    return {"prompt": with_system_turn(row, prompt), "completion": completion}


def _beside(row: Row) -> Row:
    weight = {"weight": row["weight"]} if "weight" in row else {}
    return {**weight, **template_arguments(row)}
