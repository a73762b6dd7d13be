"""The block `rewardplug` that a trainer writes into a model's config, as one object.

In: a model's config, or the content of a config.json. Out: a `Description`; or an error that names the field.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from ..checks import is_number, shown

_EXPECTED: dict[str, tuple[type, str]] = {
    "chat_template_kwargs": (dict, "an object"),
    "calibration": (dict, 'an object {"mean": number, "std": number}'),
    "attribute_weights": (list, "a list of numbers, one a label"),
    "head": (list, "a list of names of layers"),
}
"""{field: its type, and the words for it in an error}; all others are text"""


@dataclass(frozen=True)
class Description:
    """The block of one config. A field that the block leaves out, or has as null, is None; other entries are not read.

    Attributes:
        kind: "orm" or "prm" (`kinds.py`).
        rows: form of the rows that were trained on, "text", "turns" or "both".
        date: the day that the saved chat template writes, as 2026-11-30.
        step_separator, step_token: what ends a step and is scored; one of the two.
        good_token, bad_token: a causal LM's tokens for a right and for a wrong step.
        chat_template_kwargs: arguments of the chat template that all rows had.
        calibration: {"mean", "std"} of the rewards in the last evaluation.
        attribute_weights: weight of each output in the sum that is the score.
        head: names of the layers of a head that has several.
    """

    kind: str | None = None
    rows: str | None = None
    date: str | None = None
    step_separator: str | None = None
    step_token: str | None = None
    good_token: str | None = None
    bad_token: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, float] | None = None
    attribute_weights: list[float] | None = None
    head: list[str] | None = None

    @property
    def step_end(self) -> str | None:
        """The text that ends each step; a step is scored at its last token."""
        return self.step_token or self.step_separator

    @classmethod
    def of(cls, config: Any) -> "Description":
        """The description in `config`, a model's config or a dict, without a check.

        >>> Description.of({"rewardplug": {"kind": "prm", "step_separator": "\\n"}}).step_end
        '\\n'
        """
        block = _block(config) or {}
        names = [entry.name for entry in fields(cls)]
        return cls(**{name: block[name] for name in names if block.get(name) is not None})

    @classmethod
    def checked(cls, config: Any, place: str) -> "Description":
        """The same as `of`, for a config that was read from a file, with a check.

        Args:
            place: whose config it is, for the error.

        Raises:
            ValueError: the block is no object, or a field is of another type than a trainer writes.

        >>> Description.checked({"rewardplug": {"kind": "orm", "calibration": {"std": 1}}}, "config.json")
        Traceback (most recent call last):
        ValueError: config.json: rewardplug.calibration is {'std': 1}; expected an object \
{"mean": number, "std": number}. Take the config that was saved with the weights.
        """
        block = _block(config)
        if not isinstance(block, dict | None):
            raise _fault(place, "rewardplug", block, "an object that a trainer wrote")
        description = cls.of(config)
        for name, value in vars(description).items():
            if value is None:
                continue
            value_type, expected = _EXPECTED.get(name, (str, "text"))
            fits = isinstance(value, value_type)
            if fits and name == "calibration":
                fits = all(_is_number(value.get(key)) for key in ("mean", "std"))
            if fits and name == "attribute_weights":
                # A dict does not say how many.
                labels = getattr(config, "num_labels", len(value))
                fits = len(value) == labels > 0 and all(map(_is_number, value))
            if fits and name == "head":
                fits = all(isinstance(layer, str) for layer in value)
            if not fits:
                raise _fault(place, f"rewardplug.{name}", value, expected)
        return description


def _block(config: Any) -> Any:
    return config.get("rewardplug") if isinstance(config, dict) else getattr(config, "rewardplug", None)


def _is_number(value: Any) -> bool:
    # JSON may hold greater numbers.
    return is_number(value) and abs(value) < 1e300


def _fault(place: str, name: str, value: Any, expected: str) -> ValueError:
    return ValueError(
        f"{place}: {name} is {shown(value)}; expected {expected}. Take the config that was saved with the weights."
    )
