"""The two configs: TRL's own, with this package's options behind them."""

import json
import os
from dataclasses import dataclass, field
from typing import Any

import trl
from transformers.utils import is_torch_bf16_gpu_available
from trl.trainer.base_config import _BaseConfig


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
    """`trl.RewardConfig` with the options of `DataOptions`. Every argument is kept, and every default but two.

    Long pairs are left out as TRL leaves them out (`overlong="drop"`), but counted; "truncate" cuts the left of the
    prompt instead.
    """

    _VALID_DICT_FIELDS = [*trl.RewardConfig._VALID_DICT_FIELDS, "column_mapping"]


@dataclass
class PRMConfig(DataOptions, _BaseConfig):
    """The `PRMConfig` of TRL 1.13, its arguments and defaults kept, with the options of `DataOptions` and these:

    Args:
        num_labels (`int`): outputs of the head when the model is given by name: 2 (cross-entropy; label 1 is right) or
            1 (binary cross-entropy).
        step_token (`str`, *optional*): a single reserved token to stand behind each step instead of
            `step_separator`; it cannot merge with the text around it when others tokenize the joint text.
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
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments for `AutoModelForTokenClassification.from_pretrained`."}
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
