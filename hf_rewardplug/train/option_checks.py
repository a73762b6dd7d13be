"""The configs' options, looked at before anything is loaded.

In: a config. Out: nothing, or an error with the option, its value and what was expected.
"""

import math
import os
from typing import Any

from ..checks import are_texts, check_choice, check_that, check_type, check_whole
from ..data.canonical import ENCODERS_ARGUMENTS
from ..data.length_limits import OVERLONG
from ..data.pipeline import ON_BAD_ROW
from .losses import LOSSES_OF_OPTION, OPTIONS, REWARD_LOSSES, STEP_LOSSES

SEARCHED = {*LOSSES_OF_OPTION} - {"attributes", "attribute_weights", "train_on_last_step_only"}
"""numbers of the loss, which a hyperparameter search may change when the rows are prepared"""

_TYPES = {
    (bool, "True or False"): ("prefix_sharing", "group_by_prefix"),
    (str | None, "text or None"): ("adapter", "chat_template", "step_token", "eos_token"),
    (str, "text"): ("step_separator",),
    (dict | None, "a dict (or JSON of one) or None"): ("model_init_kwargs", "chat_template_kwargs"),
}
"""options by their type, each with what errors call it"""


def check_choices(config) -> None:
    """The options of `DataOptions`, and those that both configs take over from TRL."""
    check_choice("overlong", config.overlong, OVERLONG)
    check_choice("on_bad_row", config.on_bad_row, ON_BAD_ROW)
    if os.path.isfile(config.output_dir):
        raise ValueError(f"output_dir={config.output_dir!r} is a file; expected a folder, there or not.")
    for (expected_type, expected), names in _TYPES.items():
        for name in names:
            if hasattr(config, name):
                check_type(name, getattr(config, name), expected_type, expected)
    if ours := sorted({*(config.chat_template_kwargs or {})} & ENCODERS_ARGUMENTS):
        raise ValueError(f"chat_template_kwargs has {', '.join(ours)}, which the encoder sets. Leave it out.")
    template = config.chat_template_path
    if template is not None and str(template).endswith((".jinja", ".j2")) and not os.path.isfile(template):
        raise ValueError(
            f"chat_template_path={template!r} is not there; expected a Jinja file, or a tokenizer's folder or id."
        )
    _check_mapping(config.column_mapping)
    names = config.ignore_columns
    if names is not None and not are_texts(names):
        raise TypeError(f"ignore_columns={names!r} is no list of columns; expected names, such as ['system'].")
    for name in ("max_length", "max_completion_length", "max_tokens_per_batch"):
        check_whole(name, getattr(config, name, None))
    for name in ("dataset_num_proc", "pad_to_multiple_of"):
        check_whole(name, getattr(config, name, None), least=0)
    if config.label_smoothing_factor:
        remedy = "Give soft labels" if not hasattr(config, "label_smoothing") else "Set `label_smoothing`"
        raise ValueError(
            f"label_smoothing_factor={config.label_smoothing_factor} is for transformers' own losses, and none here "
            f"reads it. {remedy} instead."
        )


def _check_mapping(mapping: Any) -> None:
    example = """'{"input": "question"}'"""
    if isinstance(mapping, str):
        raise ValueError(f"column_mapping={mapping!r} is not a mapping; expected JSON such as {example}.")
    names = [*mapping, *mapping.values()] if isinstance(mapping, dict) else [mapping]
    if mapping is not None and not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"column_mapping={mapping!r} is no mapping of text to text; expected {{expected name: column of the "
            f"data}}, such as {example}."
        )


def check_reward_loss(config) -> None:
    """`loss_type` of a `RewardConfig`, and the options that belong to one."""
    _check_loss_type(config, REWARD_LOSSES)
    weights = config.attribute_weights
    if config.attributes is None:
        if weights is not None:
            raise ValueError("attribute_weights are set without attributes; name those too.")
        return
    named = config.attributes and all(isinstance(name, str) for name in config.attributes)
    if not named or len({*config.attributes}) < len(config.attributes):
        raise ValueError(f"attributes={config.attributes!r}: expected names, each once.")
    if weights is not None and not _are_numbers(weights, len(config.attributes)):
        raise ValueError(f"attribute_weights={weights!r}; expected {len(config.attributes)} numbers, one an attribute.")


def check_step_loss(config) -> None:
    """`loss_type` of a `PRMConfig`, and the options that belong to one."""
    _check_loss_type(config, STEP_LOSSES)
    weights = config.class_weights
    if weights is not None and not (_are_numbers(weights, 2) and min(weights) >= 0 and max(weights) > 0):
        raise ValueError(f"class_weights={weights!r}; expected two weights, of wrong and of right steps: [2.0, 1.0].")
    if (config.good_token is None) != (config.bad_token is None):
        raise ValueError("good_token and bad_token go together; set both, or neither.")
    if config.good_token is not None and config.good_token == config.bad_token:
        raise ValueError(f"good_token and bad_token are both {config.good_token!r}; take two tokens.")
    if config.good_token is not None and config.num_labels == 1:
        raise ValueError("num_labels=1 does not go with good_token and bad_token, which are two labels.")


def _check_loss_type(config, known: tuple[str, ...]) -> None:
    check_choice("loss_type", config.loss_type, known)
    for option in OPTIONS.values():
        losses, value = LOSSES_OF_OPTION[option.name], getattr(config, option.name, option.default)
        if config.loss_type not in losses and value != option.default:
            raise ValueError(
                f"{option.name}={value!r} does not go with loss_type='{config.loss_type}', which does not read it. "
                f"Leave it out, or take a loss that does: {', '.join(losses)}."
            )
        check_that(option.takes(value), option.name, value, option.expected)


def _are_numbers(values: Any, count: int) -> bool:
    return len(values) == count and all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def check_budget(args) -> None:
    """A run of no step: transformers saves the untrained model as its result."""
    if args.max_steps == 0 or args.max_steps < -1:
        raise ValueError(f"max_steps={args.max_steps}; expected 1 or more, or -1 to train num_train_epochs.")
    check_that(0 < args.num_train_epochs < math.inf, "num_train_epochs", args.num_train_epochs, "a number above 0")


def check_offloading(args) -> None:
    """`activation_offloading` has an accelerator to offload from; TRL's code fails on a CPU."""
    if getattr(args, "activation_offloading", False) and args.device.type == "cpu":
        raise ValueError(
            "activation_offloading=True moves activations from an accelerator to the CPU, but this run is on the CPU. "
            "Leave it out."
        )
