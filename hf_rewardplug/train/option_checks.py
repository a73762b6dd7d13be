"""The configs' options, looked at before anything is loaded.

In: a config. Out: nothing, or an error with the option, its value and what was expected.
"""

import math
import os
from collections.abc import Callable
from typing import Any

from ..data.encoding import OVERLONG, check_whole
from ..data.pipeline import ON_BAD_ROW

PAIR_LOSSES = ("bradley_terry", "log_exp", "hinge", "rao_kupper")
LIST_LOSSES = ("plackett_luce", "all_pairs")
SCORE_LOSSES = ("mse", "huber", "bce")
REWARD_LOSSES = (*PAIR_LOSSES, *LIST_LOSSES, *SCORE_LOSSES)
_NO_ARGUMENTS = {"conversation", "messages", "tokenize", "return_dict", "add_generation_prompt", "tools"}
STEP_LOSSES = ("cross_entropy", "pqm", "min_form")


def check_choices(config) -> None:
    """The options of `DataOptions`, and those that both configs take over from TRL."""
    if config.overlong not in OVERLONG:
        raise ValueError(f"overlong={config.overlong!r} is not one of {', '.join(map(repr, OVERLONG))}.")
    if config.on_bad_row not in ON_BAD_ROW:
        raise ValueError(f"on_bad_row={config.on_bad_row!r} is not one of {', '.join(map(repr, ON_BAD_ROW))}.")
    if os.path.isfile(config.output_dir):
        raise ValueError(f"output_dir={config.output_dir!r} is a file; expected a folder, there or not.")
    for name in ("prefix_sharing", "group_by_prefix"):
        _expect(config, name, bool, "True or False")
    for name in ("adapter", "chat_template", "step_token", "eos_token"):
        _expect(config, name, str | None, "text or None")
    _expect(config, "step_separator", str, "text")
    _expect(config, "model_init_kwargs", dict | None, "a dict (or JSON of one) or None")
    _expect(config, "chat_template_kwargs", dict | None, "a dict (or JSON of one) or None")
    if ours := sorted({*(config.chat_template_kwargs or {})} & _NO_ARGUMENTS):
        raise ValueError(f"chat_template_kwargs has {', '.join(ours)}, which the encoder sets. Leave it out.")
    template = config.chat_template_path
    if template is not None and str(template).endswith((".jinja", ".j2")) and not os.path.isfile(template):
        raise ValueError(
            f"chat_template_path={template!r} is not there; expected a Jinja file, or a tokenizer's folder or id."
        )
    _check_mapping(config.column_mapping)
    names = config.ignore_columns
    if names is not None and not (isinstance(names, list | tuple) and all(isinstance(one, str) for one in names)):
        raise TypeError(f"ignore_columns={names!r} is no list of columns; expected names, such as ['system'].")
    for name in ("max_length", "max_completion_length", "max_tokens_per_batch"):
        check_whole(name, getattr(config, name, None))
    for name in ("dataset_num_proc", "pad_to_multiple_of"):
        check_whole(name, getattr(config, name, None), least=0)


def _expect(config, name: str, kind: Any, words: str) -> None:
    if hasattr(config, name) and not isinstance(value := getattr(config, name), kind):
        raise TypeError(f"{name}={value!r} is {type(value).__name__}; expected {words}.")


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
    loss_type, weights = config.loss_type, config.attribute_weights
    _check_number(config, "label_smoothing", lambda value: 0 <= value < 0.5, "a number in [0, 0.5)")
    _check_number(config, "tie_threshold", lambda value: 0 < value < math.inf, "a number above 0")
    _check_number(config, "huber_delta", lambda value: 0 < value < math.inf, "a number above 0")
    if config.label_smoothing and loss_type not in ("bradley_terry", "log_exp"):
        raise ValueError(f"label_smoothing does not go with loss_type='{loss_type}'; set it to 0, or 'bradley_terry'.")
    if config.center_rewards_coefficient is not None:
        _check_number(config, "center_rewards_coefficient", math.isfinite, "a finite number, or None")
    if config.center_rewards_coefficient is not None and loss_type not in PAIR_LOSSES:
        raise ValueError(
            f"center_rewards_coefficient centres the rewards of pairs, but loss_type='{loss_type}' sees none. Leave it "
            f"out, or take one of {', '.join(PAIR_LOSSES)}."
        )
    if config.attributes is None:
        if weights is not None:
            raise ValueError("attribute_weights are set without attributes; name those too.")
        return
    if loss_type not in SCORE_LOSSES:
        raise ValueError(
            f"attributes need a score each, but loss_type='{loss_type}' compares completions by one reward. Leave "
            f"`attributes` out, or take one of {', '.join(SCORE_LOSSES)}."
        )
    named = config.attributes and all(isinstance(name, str) for name in config.attributes)
    if not named or len({*config.attributes}) < len(config.attributes):
        raise ValueError(f"attributes={config.attributes!r}: expected names, each once.")
    if weights is not None and not _are_numbers(weights, len(config.attributes)):
        raise ValueError(f"attribute_weights={weights!r}; expected {len(config.attributes)} numbers, one an attribute.")


def check_step_loss(config) -> None:
    """`loss_type` of a `PRMConfig`, and the options that belong to one."""
    _check_loss_type(config, STEP_LOSSES)
    _check_number(config, "pqm_margin", lambda value: 0 <= value < math.inf, "a number of 0 or more")
    weights = config.class_weights
    if weights is not None and not (_are_numbers(weights, 2) and min(weights) >= 0 and max(weights) > 0):
        raise ValueError(f"class_weights={weights!r}; expected two weights, of wrong and of right steps: [2.0, 1.0].")
    if weights is not None and config.loss_type != "cross_entropy":
        raise ValueError(f"class_weights do not go with loss_type='{config.loss_type}'; leave them out.")
    if (config.good_token is None) != (config.bad_token is None):
        raise ValueError("good_token and bad_token go together; set both, or neither.")
    if config.good_token is not None and config.good_token == config.bad_token:
        raise ValueError(f"good_token and bad_token are both {config.good_token!r}; take two tokens.")
    if config.good_token is not None and config.num_labels == 1:
        raise ValueError("num_labels=1 does not go with good_token and bad_token, which are two labels.")
    if config.train_on_last_step_only and config.loss_type != "cross_entropy":
        raise ValueError(f"train_on_last_step_only leaves one step, but loss_type='{config.loss_type}' needs them all.")


def _check_loss_type(config, known: tuple[str, ...]) -> None:
    if config.loss_type not in known:
        raise ValueError(f"loss_type={config.loss_type!r} is not one of {', '.join(map(repr, known))}.")


def _are_numbers(values: Any, count: int) -> bool:
    return len(values) == count and all(isinstance(one, int | float) and math.isfinite(one) for one in values)


def _check_number(config, name: str, holds: Callable[[float], bool], words: str) -> None:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value):
        raise ValueError(f"{name}={value!r}; expected {words}.")
