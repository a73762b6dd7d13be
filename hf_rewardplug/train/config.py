"""The two configs of the trainers: TRL's arguments, followed by the options of this package."""

import json
from dataclasses import dataclass, field
from typing import Any

import trl
from transformers.utils import is_torch_bf16_gpu_available
from trl.trainer.base_config import _BaseConfig

from ..figure_names import lower_is_better
from .losses import LOSSES_OF_OPTION, OPTIONS, REWARD_LOSSES, STEP_LOSSES, names_of
from .option_checks import check_choices, check_reward_loss, check_step_loss


def _declared(name: str) -> dict[str, Any]:
    """The field of an option that some losses read, as they declare it."""
    option = OPTIONS[name]
    return {"default": option.default, "metadata": {"help": f"{option.help} ({', '.join(LOSSES_OF_OPTION[name])})."}}


@dataclass
class DataOptions:
    """Options of this package that both configs take.

    Args:
        adapter (`str`, *optional*): format of the raw rows, one of `hf_rewardplug.adapter_names()`, or a function of a
            Python file, as "my_format.py:my_format"; detected from the columns when None.
        column_mapping (`dict`, *optional*): {column that the format expects: column of the data}, such as
            {"input": "question"}.
        ignore_columns (`list[str]`, *optional*): columns that are not to be read. A column that looks like a part of
            the prompt and that the format does not read is an error, unless it is named here.
        chat_template (`str`, *optional*): "gemma", "chatml" or "llama3", set on the tokenizer. For a base model that
            carries no template.
        chat_template_kwargs (`dict`, *optional*): arguments of the chat template for every conversation, such as
            {"enable_thinking": False}; a row's own column of that name goes before them. Saved with the model, whose
            scorer renders with them.
        overlong (`str`): what becomes of rows over `max_length`: "drop", "truncate" or "error". The first two are
            counted and reported.
        on_bad_row (`str`): what becomes of a row that the adapter, the checks or the chat template refuses: "error"
            (the run stops) or "drop" (it is left out, counted and named in the report and in the model card). A data
            set of which every row is refused is an error. `overlong` decides about rows that are too long.
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
        default=None,
        metadata={
            "help": "Format of the raw rows, or `my_format.py:my_format`; detected from the columns when not set."
        },
    )
    column_mapping: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": 'Column the format expects -> column of the data, e.g. \'{"input": "question"}\'.'},
    )
    ignore_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns not to be read, though they look like parts of the prompt."},
    )
    chat_template: str | None = field(
        default=None,
        metadata={"help": "Chat template by name, for a tokenizer without one: gemma, chatml or llama3."},
    )
    chat_template_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Arguments of the chat template, e.g. '{\"enable_thinking\": false}'; a row's own win."},
    )
    overlong: str = field(
        default="drop",
        metadata={
            "help": "Rows over `max_length`: leave them out (drop), cut them (truncate) or stop (error).",
            "choices": ["drop", "truncate", "error"],
        },
    )
    on_bad_row: str = field(
        default="error",
        metadata={
            "help": "Rows that the adapter, the checks or the chat template refuses: stop (error), or leave them out "
            "and report them (drop).",
            "choices": ["error", "drop"],
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
        accelerator, greater = self.accelerator_config, self.greater_is_better
        if isinstance(accelerator, str) and accelerator.lstrip().startswith("{"):
            accelerator = json.loads(accelerator)
        for name in ("checkpointing", "checkpointing_kwargs"):  # transformers 5.23 warns of TRL's names
            if getattr(self, f"activation_{name}", 0) is None:
                setattr(self, f"activation_{name}", getattr(self, f"gradient_{name}"))
        super().__post_init__()
        if greater is None and self.metric_for_best_model is not None:  # transformers knows it of a loss alone
            self.greater_is_better = not lower_is_better(self.metric_for_best_model)
        if accelerator is None or (isinstance(accelerator, dict) and "non_blocking" not in accelerator):
            apple = self.device.type == "mps"  # copies to it from pageable memory read what is gone (pytorch#139550)
            self.accelerator_config.non_blocking = self.dataloader_pin_memory and not apple
        check_choices(self)


@dataclass
class RewardConfig(DataOptions, trl.RewardConfig):
    """`trl.RewardConfig` with the options of `DataOptions` and these. Every argument is kept, every default but two.

    Args:
        loss_type (`str`): what the rewards are trained for; "bradley_terry" is TRL's. `hf_rewardplug.train.losses` has
            the formulas, in modules by what the rows hold:

            - `pairs`: a chosen and a rejected completion. Ranked lists give every pair of theirs.
            - `scores`: ranked lists, each as a whole, where a pair is a list of two; or completions with a score each,
              where ranked lists give their own.
        label_smoothing (`float`): probability in [0, 0.5) that a pair's label is flipped, as in `trl.DPOConfig`.
        tie_threshold (`float`): of the model of ties, in units of reward: a difference of so much makes "better" as
            likely as not; more means more ties.
        huber_delta (`float`): in units of score: beyond it the loss is linear.
        attributes (`list[str]`, *optional*): the scores that each completion has: the head has one output for each. A
            single `score` when None.
        attribute_weights (`list[float]`, *optional*): of the weighted sum that scoring gives; 1 / number when None.

    Long pairs are left out as TRL leaves them out (`overlong="drop"`), but counted; "truncate" cuts the left of the
    prompt instead.
    """

    _VALID_DICT_FIELDS = [*trl.RewardConfig._VALID_DICT_FIELDS, "column_mapping", "chat_template_kwargs"]

    loss_type: str = field(
        default="bradley_terry",
        metadata={
            "help": f"Pairs: {', '.join(names_of('pairs'))}. Ranked lists: {', '.join(names_of('lists'))}. Scored "
            f"completions: {', '.join(names_of('completions'))}.",
            "choices": list(REWARD_LOSSES),
        },
    )
    label_smoothing: float = field(**_declared("label_smoothing"))
    tie_threshold: float = field(**_declared("tie_threshold"))
    huber_delta: float = field(**_declared("huber_delta"))
    attributes: list[str] | None = field(**_declared("attributes"))
    attribute_weights: list[float] | None = field(**_declared("attribute_weights"))

    def __post_init__(self):
        super().__post_init__()
        check_reward_loss(self)


@dataclass
class PRMConfig(DataOptions, _BaseConfig):
    """The `PRMConfig` of TRL 1.13, its arguments and defaults kept, with the options of `DataOptions` and these:

    Args:
        num_labels (`int`): outputs of the head when the model is given by name: 2 (cross-entropy; label 1 is right) or
            1 (binary cross-entropy).
        step_token (`str`, *optional*): a single reserved token to stand after each step instead of
            `step_separator`; it cannot merge with the text around it when others tokenize the joint text.
        loss_type (`str`): "cross_entropy" (each step, hard or soft; binary with one label), "pqm" (right steps rank
            above wrong ones), "min_form" (the worst step has the solution's outcome).
        class_weights (`list[float]`, *optional*): of wrong and of right steps, for "cross_entropy".
        pqm_margin (`float`): of "pqm", in logits: zeta, how far wrong steps stay below right ones.
        good_token, bad_token (`str`, *optional*): single tokens for a right and a wrong step. With both the model is a
            causal LM that says one of them after each step (Math-Shepherd, RLHFlow), and stays one.
        model_init_kwargs, trust_remote_code, chat_template_path, eos_token, pad_to_multiple_of:
            as in `RewardConfig`.

    Long rows are cut (`overlong="truncate"`) as TRL 1.13 cut them, but between steps.
    """

    _VALID_DICT_FIELDS = [
        *_BaseConfig._VALID_DICT_FIELDS,
        *("column_mapping", "chat_template_kwargs", "model_init_kwargs"),
    ]

    learning_rate: float = field(default=1e-5, metadata={"help": "The initial learning rate for AdamW."})
    max_length: int | None = field(
        default=1024, metadata={"help": "Longest sequence in tokens, prompt and steps; None for no limit."}
    )
    max_completion_length: int | None = field(
        default=None, metadata={"help": "Longest sequence of steps in tokens, separators included."}
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Whether to disable dropout in the model."})
    step_separator: str = field(default="\n", metadata={"help": "Text after each step; its last token is scored."})
    train_on_last_step_only: bool = field(**_declared("train_on_last_step_only"))
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
        metadata={"help": "A reserved single token to stand after each step instead of `step_separator`."},
    )
    loss_type: str = field(
        default="cross_entropy",
        metadata={
            "help": "cross_entropy, pqm (ranks steps) or min_form (outcome alone).",
            "choices": list(STEP_LOSSES),
        },
    )
    class_weights: list[float] | None = field(**_declared("class_weights"))
    pqm_margin: float = field(**_declared("pqm_margin"))
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
        if self.step_token is not None and self.step_separator != "\n":
            raise ValueError(
                f"step_token={self.step_token!r} stands behind each step instead of "
                f"step_separator={self.step_separator!r}. Leave one of them out."
            )
        if self.num_labels not in (1, 2) or isinstance(self.num_labels, bool):
            raise ValueError(f"num_labels={self.num_labels!r}: a process reward model has 1 or 2 labels.")
        check_step_loss(self)


def default_args(config_class: type, output_dir: str):
    """The config of a trainer without `args`: all defaults, in fp32 where nothing computes in bf16."""
    return config_class(output_dir, bf16=None if is_torch_bf16_gpu_available() else False)
