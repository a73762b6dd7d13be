"""The YAML's values as axolotl's schema reads them.

In: keys and values as YAML has them, where `2e-5` and `"8"` are text and an unquoted `no` is false. Out: the keys that
are set, numbers and booleans as such; a `ValueError` names the key of a value of another type.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from . import keys

_TYPED_AS = {
    "micro_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    **{
        key: key
        for key in """
        gradient_accumulation_steps save_steps save_total_limit eval_steps eval_on_start fp16 output_dir
        """.split()
    },
}
"""keys that are read by rules of their own, and have the type of an argument"""

_OF_AXOLOTL: dict[type, str] = {
    int: "batch_size early_stopping_patience eval_sequence_len fsdp_version lora_alpha lora_r num_labels",
    float: """
        cosine_min_lr_ratio evals_per_epoch lora_dropout saves_per_epoch val_set_size warmup_ratio warmup_steps""",
    dict: "bnb_config_kwargs fsdp_config model_kwargs overrides_of_model_kwargs special_tokens",
    list: "plugins datasets test_datasets",
    bool: """
        auto_resume_from_checkpoints bfloat16 curriculum_sampling float16 float32 load_in_4bit load_in_8bit
        lora_target_linear use_comet use_mlflow use_tensorboard use_trackio use_wandb""",
    str: "base_model tokenizer_config model_type chat_template chat_template_jinja",
}
"""types of the keys that no argument of the configs stands for"""

_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(
        ("micro_batch_size", "gradient_accumulation_steps", "eval_batch_size", "sequence_len"),
        (lambda number: number >= 1, "1 or more"),
    ),
    "num_epochs": (lambda number: number > 0, "a number above 0"),
    "max_steps": (
        lambda number: number >= 1 or number == -1,
        "1 or more, or leave it out to train `num_epochs`",
    ),
}

_WORDS = {dict: "keys with values", list: "a list", str: "text, in quotes", bool: "true or false"}

_STRATEGIES = ("save_strategy", "eval_strategy", "evaluation_strategy")


def set_values(raw: dict[str, Any], *, options: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """The keys that are set; an empty text and a null set nothing.

    >>> cfg = {"learning_rate": "2e-5", "micro_batch_size": "8", "bf16": "false", "wandb_name": "", "seed": None}
    >>> set_values({**cfg, "good_token": "true"}, options={"good_token": str})
    {'learning_rate': 2e-05, 'micro_batch_size': 8, 'bf16': False, 'good_token': 'true'}

    Args:
        options: {option of this package: its type}; one that is text may be "true", or empty.
        place: of the keys, in messages: "datasets[0].".

    Raises:
        ValueError: a value of another type than its key's.
    """
    values = {}
    for key, value in raw.items():
        if value is None or (value == "" and options.get(key) is not str):
            continue
        values[key] = option(place + key, value, options[key]) if key in options else _value(key, value)
    return values


def option(key: str, value: Any, annotation: Any) -> Any:
    """`value` as an option whose type is annotated so.

    >>> option("max_tokens_per_batch", "4096", int | None), option("prefix_sharing", "false", bool)
    (4096, False)

    Raises:
        ValueError: it is of another type.
    """
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    types = [get_origin(member) or member for member in members]
    if (int in types or float in types) and str not in types:
        return number(key, value, whole=int in types)
    if bool in types:
        value = truth(value)
    if not isinstance(value, tuple(types)):
        words = [_WORDS[expected] for expected in types if expected in _WORDS]
        raise ValueError(f"`{key}` is {value!r}; expected {' or '.join(words)}.")
    of_numbers = isinstance(value, list) and any(float in get_args(member) for member in members)
    return [number(key, element) for element in value] if of_numbers else value


def truth(value: Any) -> Any:
    """
    >>> truth("True"), truth("false"), truth("auto"), truth(1)
    (True, False, 'auto', 1)
    """
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


def number(key: str, value: Any, *, whole: bool = False) -> int | float:
    """
    >>> number("lora_r", "8"), number("learning_rate", "1e-5"), number("num_epochs", 2)
    (8, 1e-05, 2)

    Raises:
        ValueError: no number, a fraction where a `whole` number is expected, or one that is out of the key's range.
    """
    try:
        parsed = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        parsed = math.nan
    fits, expected = _RANGES.get(key, (math.isfinite, ""))
    if not math.isfinite(parsed) or (whole and not parsed.is_integer()):
        raise ValueError(f"`{key}` is {value!r}; expected a {'whole ' * whole}number.")
    if not fits(parsed):
        raise ValueError(f"`{key}` is {value!r}; expected {expected}.")
    stays_float = isinstance(value, float) and not whole
    return int(parsed) if parsed.is_integer() and not stays_float else parsed


@cache
def _types() -> dict[str, Any]:
    """{key: type}: that of the argument which the key becomes, or axolotl's own."""
    from ...train.config import RewardConfig

    arguments = get_type_hints(RewardConfig)
    argument_of = {**{key: key for key in keys.SAME}, **keys.RENAMED, **_TYPED_AS}
    types = {key: arguments[argument] for key, argument in argument_of.items()}
    return types | {key: expected for expected, names in _OF_AXOLOTL.items() for key in names.split()}


def _value(key: str, value: Any) -> Any:
    """The value of a key of axolotl's; keys of which nobody knows a type have booleans alone read."""
    if key in _STRATEGIES and truth(value) is False:
        return "no"  # YAML reads the unquoted word as false
    types = _types()
    value = option(key, value, types[key]) if key in types else truth(value)
    if key == "special_tokens":
        return {name: token for name, token in value.items() if token is not None}
    if key == "lr_scheduler_kwargs" and isinstance(value, dict):
        return {name: number(f"{key}.{name}", x) if isinstance(x, str) else x for name, x in value.items()}
    return value
