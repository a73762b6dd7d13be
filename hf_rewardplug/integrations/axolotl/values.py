"""The YAML's values as axolotl's schema reads them.

In: keys and values as YAML has them, where `2e-5` and `"8"` are text and an unquoted `no` is false. Out: the keys that
are set, numbers and booleans as such; a `ValueError` names the key of a value of another kind.
"""

import math
from collections.abc import Mapping
from typing import Any, get_args

_WHOLE = frozenset(
    """
    batch_size dataloader_num_workers dataloader_prefetch_factor dataset_num_proc dataset_processes ddp_bucket_cap_mb
    ddp_timeout early_stopping_patience eval_batch_size fsdp_version gradient_accumulation_steps lora_alpha lora_r
    max_completion_length max_steps micro_batch_size num_labels save_total_limit seed sequence_len
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
    str: frozenset({"base_model", "tokenizer_config", "model_type", "output_dir", "chat_template"}),
}
_CALLED = {dict: "keys with values", list: "a list", str: "text"}

_STRATEGIES = ("save_strategy", "eval_strategy", "evaluation_strategy")


def set_values(raw: dict[str, Any], *, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The keys that are set; an empty text and a null set nothing.

    >>> set_values({"learning_rate": "2e-5", "micro_batch_size": "8", "bf16": "false", "wandb_name": "", "seed": None})
    {'learning_rate': 2e-05, 'micro_batch_size': 8, 'bf16': False}

    Args:
        options: {option of this package: its type}; where it may be text, "true" and "" are meant.

    Raises:
        ValueError: a value of another kind than its key's.
    """
    given = {}
    for key, value in raw.items():
        kind = (options or {}).get(key)
        if kind is not None and value is not None and (not isinstance(value, str) or str in (kind, *get_args(kind))):
            given[key] = value
        elif value is not None and value != "":
            given[key] = _value(key, value, is_number=kind not in (None, bool))
    return given


def _value(key: str, value: Any, *, is_number: bool = False) -> Any:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        value = value.lower() == "true"
    if key in _STRATEGIES and value is False:
        return "no"  # YAML's unquoted one
    if key in _NUMBERS or is_number:
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
    return found if isinstance(value, float) and not whole else int(found) if found == int(found) else found
