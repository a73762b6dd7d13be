"""The YAML's values as axolotl's schema reads them.

In: keys and values as YAML has them, where `2e-5` and `"8"` are text and an unquoted `no` is false. Out: the keys that
are set, numbers and booleans as such; a `ValueError` names the key of a value of another kind.
"""

import math
from collections.abc import Mapping
from types import UnionType
from typing import Any, get_args, get_origin

_WHOLE = frozenset(
    """
    batch_size dataloader_num_workers dataloader_prefetch_factor dataset_num_proc dataset_processes ddp_bucket_cap_mb
    ddp_timeout early_stopping_patience eval_batch_size eval_sequence_len fsdp_version gradient_accumulation_steps
    lora_alpha lora_r max_steps micro_batch_size num_labels save_total_limit seed sequence_len
    torch_empty_cache_steps
    """.split()
)
_NUMBERS = _WHOLE | frozenset(
    """
    adam_beta1 adam_beta2 adam_epsilon center_rewards_coefficient cosine_min_lr_ratio eval_steps evals_per_epoch
    learning_rate logging_steps lora_dropout max_grad_norm num_epochs save_steps saves_per_epoch val_set_size
    warmup_ratio warmup_steps weight_decay
    """.split()
)
_AT_LEAST_ONE = frozenset({"micro_batch_size", "gradient_accumulation_steps", "eval_batch_size", "sequence_len"})

_KINDS = {
    dict: frozenset(
        """
        bnb_config_kwargs fsdp_config gradient_checkpointing_kwargs lr_scheduler_kwargs model_kwargs
        overrides_of_model_kwargs special_tokens
        """.split()
    ),
    list: frozenset({"plugins", "datasets", "test_datasets"}),
    bool: frozenset(
        """
        auto_resume_from_checkpoints bfloat16 curriculum_sampling eval_on_start float16 float32 fp16 full_determinism
        load_best_model_at_end load_in_4bit load_in_8bit lora_target_linear use_comet use_mlflow use_tensorboard
        use_trackio use_wandb
        """.split()
    ),
    str: frozenset("base_model tokenizer_config model_type output_dir chat_template chat_template_jinja".split()),
}
_CALLED = {dict: "keys with values", list: "a list", str: "text, in quotes", bool: "true or false"}

_STRATEGIES = ("save_strategy", "eval_strategy", "evaluation_strategy")


def set_values(raw: dict[str, Any], *, options: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """The keys that are set; an empty text and a null set nothing.

    >>> given = {"learning_rate": "2e-5", "micro_batch_size": "8", "bf16": "false", "wandb_name": "", "seed": None}
    >>> set_values({**given, "good_token": "true"}, options={"good_token": str})
    {'learning_rate': 2e-05, 'micro_batch_size': 8, 'bf16': False, 'good_token': 'true'}

    Args:
        options: {option of this package: its type}; one that is text may be "true", or empty.
        place: of the keys, in messages: "datasets[0].".

    Raises:
        ValueError: a value of another kind than its key's.
    """
    given = {}
    for key, value in raw.items():
        if value is None or (value == "" and options.get(key) is not str):
            continue
        given[key] = option(place + key, value, options[key]) if key in options else _value(key, value)
    return given


def option(key: str, value: Any, kind: Any) -> Any:
    """`value` as an option of the type `kind`.

    >>> option("max_tokens_per_batch", "4096", int | None), option("prefix_sharing", "false", bool)
    (4096, False)

    Raises:
        ValueError: it is of another type.
    """
    members = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    kinds = [get_origin(one) or one for one in members]
    if int in kinds or float in kinds:
        return number(key, value, whole=int in kinds)
    if bool in kinds:
        value = truth(value)
    if not isinstance(value, tuple(kinds)):
        called = " or ".join(_CALLED[one] for one in kinds if one in _CALLED)
        raise ValueError(f"`{key}` is {value!r}; expected {called}.")
    is_of_numbers = any(float in get_args(one) for one in members)
    return [number(key, one) for one in value] if is_of_numbers else value


def truth(value: Any) -> Any:
    """
    >>> truth("True"), truth("false"), truth("auto"), truth(1)
    (True, False, 'auto', 1)
    """
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


def _value(key: str, value: Any) -> Any:
    value = truth(value)
    if key in _STRATEGIES and value is False:
        return "no"  # YAML's unquoted one
    if key in _NUMBERS:
        return number(key, value, whole=key in _WHOLE)
    for kind, keys in _KINDS.items():
        if key in keys and not isinstance(value, kind):
            raise ValueError(f"`{key}` is {value!r}; expected {_CALLED[kind]}.")
    if key == "special_tokens":
        return {name: one for name, one in value.items() if one is not None}
    if key == "lr_scheduler_kwargs":
        return {name: number(f"{key}.{name}", one) if isinstance(one, str) else one for name, one in value.items()}
    return value


def number(key: str, value: Any, *, whole: bool = False) -> int | float:
    """
    >>> number("lora_r", "8"), number("learning_rate", "1e-5"), number("num_epochs", 2)
    (8, 1e-05, 2)

    Raises:
        ValueError: no number, none that is whole where `whole`, or one below 1 where that says nothing.
    """
    try:
        found = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found) or (whole and found != int(found)):
        raise ValueError(f"`{key}` is {value!r}; expected a {'whole ' * whole}number.")
    if key in _AT_LEAST_ONE and found < 1:
        raise ValueError(f"`{key}` is {value!r}; expected 1 or more.")
    if key == "num_epochs" and found <= 0:
        raise ValueError(f"`{key}` is {value!r}; expected a number above 0.")
    if key == "max_steps" and (found == 0 or found < -1):
        raise ValueError(f"`{key}` is {value!r}; expected 1 or more, or leave it out to train `num_epochs`.")
    return found if isinstance(value, float) and not whole else int(found) if found == int(found) else found
