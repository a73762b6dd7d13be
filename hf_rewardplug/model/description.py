"""What a trainer writes of a model into its config under `rewardplug`, checked field by field.

In: that value as somebody's config.json holds it. Out: the same as a dict, or an error that names the field.
"""

from typing import Any

_KINDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("kind", "rows", "date", "step_separator", "step_token", "good_token", "bad_token"), (str, "text")),
    "chat_template_kwargs": (dict, "an object"),
    "calibration": (dict, 'an object {"mean": number, "std": number}'),
    "attribute_weights": (list, "a list of numbers, one a label"),
    "head": (list, "a list of names of layers"),
}


def shown(value: Any, most: int = 60) -> str:
    """A value in an error.

    >>> shown("x" * 100, most=5)
    "'xxxx..."
    """
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def check_description(description: Any, place: str, *, labels: int | None = None) -> dict[str, Any]:
    """`description`, or {} where it is None.

    Args:
        place: whose config it is in, for the error.
        labels: how many the model has; None where that is not known.

    Raises:
        ValueError: it is no object, or a field is of another kind than a trainer writes.

    >>> check_description({"kind": "orm", "calibration": {"std": 1}}, "config.json")
    Traceback (most recent call last):
    ValueError: config.json: rewardplug.calibration is {'std': 1}; expected an object {"mean": number, "std": number}. \
Take the config that was saved with the weights.
    """
    if description is None:
        return {}
    if not isinstance(description, dict):
        raise _fault(place, "rewardplug", description, "an object that a trainer wrote")
    for name, (kind, expected) in _KINDS.items():
        value = description.get(name)
        if value is None:
            continue
        fits = isinstance(value, kind)
        if fits and name == "calibration":
            fits = all(_is_number(value.get(key)) for key in ("mean", "std"))
        if fits and name == "attribute_weights":
            fits = len(value) == (labels or len(value)) > 0 and all(map(_is_number, value))
        if fits and name == "head":
            fits = all(isinstance(layer, str) for layer in value)
        if not fits:
            raise _fault(place, f"rewardplug.{name}", value, expected)
    return description


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _fault(place: str, name: str, value: Any, expected: str) -> ValueError:
    return ValueError(
        f"{place}: {name} is {shown(value)}; expected {expected}. Take the config that was saved with the weights."
    )
