"""A whole recipe: its command line, its rows, its trainer and its run.

In: the classes of a trainer and its config, and the recipe's defaults. Out: what `training.run` leaves, or one line of
error.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trl import ModelConfig, get_peft_config, get_quantization_config

from ..exits import error_line
from .arguments import RecipeArguments, parse_recipe
from .splits import load_splits
from .training import run


def train_recipe(
    trainer_class: type,
    config_class: type,
    defaults: dict[str, Any],
    *,
    demo: str,
    deepspeed: Path,
    adjust: Callable[[RecipeArguments, Any, ModelConfig], None] | None = None,
) -> dict[str, float]:
    """Train what the command line says.

    Args:
        defaults, demo, deepspeed: as for `parse_recipe`.
        adjust: sets what the recipe's own model needs, once the command line is known.

    Returns:
        The figures of the held-out rows; {} without such rows.
    """
    arguments, args, model_args = parse_recipe(config_class, defaults, demo=demo, deepspeed=deepspeed)
    if adjust is not None:
        adjust(arguments, args, model_args)
    train, held_out = load_splits(arguments, args, model_args, demo=demo)
    settings = model_settings(model_args, args)
    trainer = trainer_class(args=args, train_dataset=train, eval_dataset=held_out, **settings)
    return run(trainer, arguments.if_packed)


def model_settings(model_args: ModelConfig, args: Any) -> dict[str, Any]:
    """The trainer's arguments that come from TRL's `ModelConfig`; `args.model_init_kwargs` is set beside."""
    kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
    }
    args.model_init_kwargs = {key: value for key, value in kwargs.items() if value is not None} | (
        args.model_init_kwargs or {}
    )
    return {
        "model": model_args.model_name_or_path,
        "peft_config": get_peft_config(model_args),
        "quantization_config": get_quantization_config(model_args),
    }


def in_one_line(main: Callable[[], Any]) -> str | None:
    """Run `main`; what the user can mend ends as one line, for `sys.exit`. REWARDPLUG_DEBUG=1 shows the traceback.

    >>> in_one_line(lambda: int("x"))
    "error: invalid literal for int() with base 10: 'x'"
    """
    try:
        main()
    except Exception as error:
        line = error_line(error)
        if line is None or os.environ.get("REWARDPLUG_DEBUG"):
            raise
        return line
    return None
