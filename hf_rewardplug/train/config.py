"""The two configs: TRL's own, with this package's options behind them."""

import json
import os
from dataclasses import dataclass, field
from typing import Any

import trl
from transformers.utils import is_torch_bf16_gpu_available
from trl.trainer.base_config import _BaseConfig

PAIR_LOSSES = ("bradley_terry", "log_exp", "hinge", "rao_kupper")
LIST_LOSSES = ("plackett_luce", "all_pairs")
SCORE_LOSSES = ("mse", "huber", "bce")
REWARD_LOSSES = (*PAIR_LOSSES, *LIST_LOSSES, *SCORE_LOSSES)
STEP_LOSSES = ("cross_entropy", "pqm", "min_form")


@dataclass
class DataOptions:
    """Options of this package that both configs take.

    Args:
        adapter (`str`, *optional*): format of the raw rows, one of `hf_rewardplug.adapter_names()`; detected from the
            columns when None.
        column_mapping (`dict`, *optional*): {column that the format expects: column of the data}, such as
            {"input": "question"}.
        chat_template (`str`, *optional*): "gemma", "chatml" or "llama3", set on the tokenizer. For a base model that
            carries no template.
        overlong (`str`): what becomes of rows over `max_length`: "drop", "truncate" or "error". The first two are
            counted and reported.
        prefix_sharing (`bool`): compute what sequences of a batch have in common once, and pad nothing. Same losses and
            gradients; a model, collator or loss that cannot take it gets padded batches, and the log says why.
        max_tokens_per_batch (`int`, *optional*): fill each device's batches up to so many unique tokens, instead of
            with `per_device_train_batch_size` rows. The loss stays the mean of the pairs or steps of an optimizer step.
        group_by_prefix (`bool`): bring rows with the same prompt into one batch, where it stands once.

    Two defaults differ from transformers', so that a step waits for nothing that the device computes:

        logging_nan_inf_filter: False. The filter reads each loss, and logs the average of the others in place of a NaN.
        accelerator_config: `non_blocking` is `dataloader_pin_memory`.
    """

    adapter: str | None = field(
        default=None, metadata={"help": "Format of the raw rows; detected from the columns when not set."}
    )
    column_mapping: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": 'Column the format expects -> column of the data, e.g. \'{"input": "question"}\'.'},
    )
    chat_template: str | None = field(
        default=None,
        metadata={"help": "Chat template by name, for a tokenizer without one: gemma, chatml or llama3."},
    )
    overlong: str = field(
        default="drop",
        metadata={
            "help": "Rows over `max_length`: leave them out (drop), cut them (truncate) or stop (error).",
            "choices": ["drop", "truncate", "error"],
        },
    )
    prefix_sharing: bool = field(
        default=True, metadata={"help": "Compute common prefixes of a batch once and pad nothing (exact)."}
    )
    max_tokens_per_batch: int | None = field(
        default=None,
        metadata={"help": "Fill a device's batches up to so many unique tokens, instead of with so many rows."},
    )
    group_by_prefix: bool = field(default=False, metadata={"help": "Bring rows with the same prompt into one batch."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Log the average of the other losses in place of a NaN; reads every loss."}
    )

    def __post_init__(self):
        given = self.accelerator_config
        if isinstance(given, str) and given.lstrip().startswith("{"):
            given = json.loads(given)
        super().__post_init__()
        if given is None or (isinstance(given, dict) and "non_blocking" not in given):
            apple = self.device.type == "mps"  # copies to it from pageable memory read what is gone (pytorch#139550)
            self.accelerator_config.non_blocking = self.dataloader_pin_memory and not apple
        _check_choices(self)


@dataclass
class RewardConfig(DataOptions, trl.RewardConfig):
    """`trl.RewardConfig` with the options of `DataOptions` and these. Every argument is kept, every default but two.

    Args:
        loss_type (`str`): what the rewards are trained for (`hf_rewardplug.train.losses` has the formulas):

            - pairs: "bradley_terry" (TRL's), "log_exp", "hinge", "rao_kupper" (a model of ties). Ranked lists give
              every pair of theirs.
            - ranked lists, each as a whole: "plackett_luce", "all_pairs". A pair is a list of two.
            - completions with a score each: "mse", "huber", "bce" (0/1 or a share). Ranked lists give their own.
        label_smoothing (`float`): probability in [0, 0.5) that a pair's label is flipped, as in `trl.DPOConfig`;
            for "bradley_terry" and "log_exp".
        tie_threshold (`float`): of "rao_kupper", in units of reward: a difference of so much makes "better" as likely
            as not; more means more ties.
        huber_delta (`float`): of "huber", in units of score: beyond it the loss is linear.
        attributes (`list[str]`, *optional*): the scores that each completion has, for "mse", "huber" and "bce": the
            head has one output for each. A single `score` when None.
        attribute_weights (`list[float]`, *optional*): of the weighted sum that scoring gives; 1 / number when None.

    Long pairs are left out as TRL leaves them out (`overlong="drop"`), but counted; "truncate" cuts the left of the
    prompt instead.
    """

    _VALID_DICT_FIELDS = [*trl.RewardConfig._VALID_DICT_FIELDS, "column_mapping"]

    loss_type: str = field(
        default="bradley_terry",
        metadata={
            "help": "Pairs: bradley_terry, log_exp, hinge, rao_kupper. Ranked lists: plackett_luce, all_pairs. Scored "
            "completions: mse, huber, bce.",
            "choices": list(REWARD_LOSSES),
        },
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "Probability that a pair's label is flipped (bradley_terry, log_exp)."}
    )
    tie_threshold: float = field(
        default=1.0, metadata={"help": "Difference of rewards at which better is as likely as not (rao_kupper)."}
    )
    huber_delta: float = field(default=1.0, metadata={"help": "Error beyond which the loss is linear (huber)."})
    attributes: list[str] | None = field(
        default=None, metadata={"help": "Names of the scores that each completion has; one output of the head each."}
    )
    attribute_weights: list[float] | None = field(
        default=None, metadata={"help": "Weights of the attributes' sum at scoring; all alike when not set."}
    )

    def __post_init__(self):
        super().__post_init__()
        _check_reward_loss(self)


@dataclass
class PRMConfig(DataOptions, _BaseConfig):
    """The `PRMConfig` of TRL 1.13, its arguments and defaults kept, with the options of `DataOptions` and these:

    Args:
        num_labels (`int`): outputs of the head when the model is given by name: 2 (cross-entropy; label 1 is right) or
            1 (binary cross-entropy).
        step_token (`str`, *optional*): a single reserved token to stand behind each step instead of
            `step_separator`; it cannot merge with the text around it when others tokenize the joint text.
        loss_type (`str`): "cross_entropy" (each step, hard or soft; binary with one label), "pqm" (right steps rank
            above wrong ones), "min_form" (the worst step has the solution's outcome).
        class_weights (`list[float]`, *optional*): of wrong and of right steps, for "cross_entropy".
        pqm_margin (`float`): of "pqm", in logits: zeta, how far wrong steps stay below right ones.
        good_token, bad_token (`str`, *optional*): single tokens for a right and a wrong step. With both the model is a
            causal LM that says one of them behind each step (Math-Shepherd, RLHFlow), and stays one.
        model_init_kwargs, trust_remote_code, chat_template_path, eos_token, pad_to_multiple_of:
            as in `RewardConfig`.

    Long rows are cut (`overlong="truncate"`) as TRL 1.13 cut them, but between steps.
    """

    _VALID_DICT_FIELDS = [*_BaseConfig._VALID_DICT_FIELDS, "column_mapping", "model_init_kwargs"]

    learning_rate: float = field(default=1e-5, metadata={"help": "The initial learning rate for AdamW."})
    max_length: int | None = field(
        default=1024, metadata={"help": "Longest sequence in tokens, prompt and steps; None for no limit."}
    )
    max_completion_length: int | None = field(
        default=None, metadata={"help": "Longest sequence of steps in tokens, separators included."}
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Whether to disable dropout in the model."})
    step_separator: str = field(default="\n", metadata={"help": "Text behind each step; its last token is scored."})
    train_on_last_step_only: bool = field(
        default=False, metadata={"help": "Whether to train on the label of the last step alone (evaluation sees all)."}
    )
    dataset_num_proc: int | None = field(
        default=None, metadata={"help": "Number of processes that encode the data set."}
    )
    overlong: str = field(
        default="truncate",
        metadata={
            "help": "Rows over `max_length`: cut them at a step (truncate), leave them out (drop) or stop (error).",
            "choices": ["drop", "truncate", "error"],
        },
    )
    num_labels: int = field(
        default=2, metadata={"help": "Outputs of the head for a model given by name.", "choices": [1, 2]}
    )
    step_token: str | None = field(
        default=None,
        metadata={"help": "A reserved single token to stand behind each step instead of `step_separator`."},
    )
    loss_type: str = field(
        default="cross_entropy",
        metadata={
            "help": "cross_entropy, pqm (ranks steps) or min_form (outcome alone).",
            "choices": list(STEP_LOSSES),
        },
    )
    class_weights: list[float] | None = field(
        default=None, metadata={"help": "Weights of wrong and of right steps (cross_entropy)."}
    )
    pqm_margin: float = field(
        default=4.0, metadata={"help": "How far wrong steps stay below right ones, in logits (pqm)."}
    )
    good_token: str | None = field(
        default=None, metadata={"help": "Token for a right step; with `bad_token` the model is a causal LM."}
    )
    bad_token: str | None = field(default=None, metadata={"help": "Token for a wrong step; see `good_token`."})
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments for `from_pretrained` of a model given by name."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether to run Python code that comes with a model of the hub."}
    )
    chat_template_path: str | None = field(
        default=None, metadata={"help": "A Jinja file, or a tokenizer's folder or id, to take the chat template from."}
    )
    eos_token: str | None = field(
        default=None, metadata={"help": "Token that ends a sequence; the tokenizer's own when not set."}
    )
    pad_to_multiple_of: int | None = field(default=None, metadata={"help": "Pad the sequences to a multiple of this."})

    def __post_init__(self):
        super().__post_init__()
        if not self.step_separator and self.step_token is None:
            raise ValueError("step_separator='' leaves no token to score behind a step; set it to text such as '\\n'.")
        if self.num_labels not in (1, 2) or isinstance(self.num_labels, bool):
            raise ValueError(f"num_labels={self.num_labels!r}: a process reward model has 1 or 2 labels.")
        _check_step_loss(self)


def default_args(config_class: type, output_dir: str):
    """The config of a trainer without `args`: all defaults, in fp32 where nothing computes in bf16."""
    return config_class(output_dir, bf16=None if is_torch_bf16_gpu_available() else False)


def _check_choices(config: DataOptions) -> None:
    from ..data.encoding import OVERLONG, check_whole

    if config.overlong not in OVERLONG:
        raise ValueError(f"overlong={config.overlong!r} is not one of {', '.join(map(repr, OVERLONG))}.")
    if os.path.isfile(config.output_dir):
        raise ValueError(f"output_dir={config.output_dir!r} is a file; expected a folder, there or not.")
    for name in ("prefix_sharing", "group_by_prefix"):
        _expect(config, name, bool, "True or False")
    for name in ("adapter", "chat_template", "step_token", "eos_token"):
        _expect(config, name, str | None, "text or None")
    _expect(config, "step_separator", str, "text")
    _expect(config, "model_init_kwargs", dict | None, "a dict (or JSON of one) or None")
    template = config.chat_template_path
    if template is not None and str(template).endswith((".jinja", ".j2")) and not os.path.isfile(template):
        raise ValueError(
            f"chat_template_path={template!r} is not there; expected a Jinja file, or a tokenizer's folder or id."
        )
    _check_mapping(config.column_mapping)
    for name in ("max_length", "max_completion_length", "max_tokens_per_batch"):
        check_whole(name, getattr(config, name, None))
    for name in ("dataset_num_proc", "pad_to_multiple_of"):
        check_whole(name, getattr(config, name, None), least=0)


def _expect(config: DataOptions, name: str, kind: Any, words: str) -> None:
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


def _check_reward_loss(config: RewardConfig) -> None:
    _check_loss_type(config, REWARD_LOSSES)
    loss_type, weights = config.loss_type, config.attribute_weights
    _check_number(config, "label_smoothing", 0 <= config.label_smoothing < 0.5, "a number in [0, 0.5)")
    _check_number(config, "tie_threshold", config.tie_threshold > 0, "a number above 0")
    _check_number(config, "huber_delta", config.huber_delta > 0, "a number above 0")
    if config.label_smoothing and loss_type not in ("bradley_terry", "log_exp"):
        raise ValueError(f"label_smoothing does not go with loss_type='{loss_type}'; set it to 0, or 'bradley_terry'.")
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
    if not config.attributes or len({*config.attributes}) < len(config.attributes):
        raise ValueError(f"attributes={config.attributes!r}: expected names, each once.")
    if weights is not None and len(weights) != len(config.attributes):
        raise ValueError(f"{len(weights)} attribute_weights for {len(config.attributes)} attributes; give one each.")


def _check_step_loss(config: PRMConfig) -> None:
    _check_loss_type(config, STEP_LOSSES)
    _check_number(config, "pqm_margin", config.pqm_margin >= 0, "a number of 0 or more")
    weights = config.class_weights
    if weights is not None and (len(weights) != 2 or min(weights) < 0 or max(weights) <= 0):
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


def _check_loss_type(config: DataOptions, known: tuple[str, ...]) -> None:
    if config.loss_type not in known:
        raise ValueError(f"loss_type={config.loss_type!r} is not one of {', '.join(map(repr, known))}.")


def _check_number(config: DataOptions, name: str, holds: bool, words: str) -> None:
    if not holds:
        raise ValueError(f"{name}={getattr(config, name)!r}; expected {words}.")
