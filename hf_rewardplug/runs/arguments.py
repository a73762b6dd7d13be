"""The arguments of a recipe: every one of TRL's `ModelConfig`, of the trainer's config and of `RecipeArguments`.

In: a command line, with `--config file.yaml` if there is one, and the recipe's defaults. Out: three objects of options.
"""

import os
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import trl
from transformers.utils import is_liger_kernel_available, is_torch_bf16_gpu_available
from trl import ModelConfig, TrlParser

from ..data.yaml_file import read_yaml
from ..demo import DEMO_ARGUMENTS
from .launchers import deepspeed_on_cpu, on_cpu_under_launcher, under_deepspeed_launcher

TOKENS_PER_BATCH = 16384
"""Unique tokens of a batch on a GPU, where nobody asks for rows. The recipes' rows hold so many at most (4 pairs of 2 x
2,048 tokens, 8 solutions of 2,048), so a batch takes no more memory than theirs. But every batch is full: batches of a
few short rows make a GPU wait for Python, which takes 70 ms to launch a step of 28 layers, whatever its size. One such
batch replaces four of rows, and about as many rows make an optimizer step."""

_OF_DATA = (
    *("dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split", "dataset_streaming"),
    *("eval_dataset_name", "test_size", "max_train_rows", "max_eval_rows"),
    *("datasets", "eval_datasets", "stopping_strategy"),
)


@dataclass
class RecipeArguments(trl.ScriptArguments):
    """`trl.ScriptArguments` (`dataset_name`, `dataset_config`, `dataset_streaming`, ...) and:

    Args:
        eval_dataset_name (`str`, *optional*): held-out rows, hub id or file. When None: the data set's test split if it
            has one, else `test_size` of the rows, no prompt on both sides (a stream: its first rows).
        test_size (`float`): share of the rows to hold out.
        max_train_rows, max_eval_rows (`int`, *optional*): use so many rows at most; held-out ones of several data sets
            in equal shares.
        datasets (`list`, *optional*): several data sets to train on instead of `dataset_name`, mixed by their weights;
            `hf_rewardplug.runs.mixture` says what an entry may hold.
        eval_datasets (`list`, *optional*): their held-out rows, every row once. When None: `test_size` of the prompts
            of each of `datasets`, no prompt on both sides (streams: their first rows).
        stopping_strategy (`str`, *optional*): when a mixture with weights stops, as `datasets.interleave_datasets`
            takes it: "first_exhausted" (when None), "all_exhausted" (rows come twice or more) or
            "all_exhausted_without_replacement".
        demo (`bool`): a tiny model on generated problems instead of a real model and data; needs no network.
    """

    eval_dataset_name: str | None = field(
        default=None, metadata={"help": "Held-out rows: hub id, or a file or folder as for `dataset_name`."}
    )
    test_size: float = field(
        default=0.05, metadata={"help": "Share of the rows to hold out where there is no test split."}
    )
    max_train_rows: int | None = field(default=None, metadata={"help": "Train on so many rows at most."})
    max_eval_rows: int | None = field(default=1000, metadata={"help": "Evaluate on so many rows at most."})
    datasets: list[str] | None = field(
        default=None, metadata={"help": "Data sets to mix: entries of a YAML file, JSON objects or paths."}
    )
    eval_datasets: list[str] | None = field(
        default=None, metadata={"help": "Held-out rows for `datasets`, in the same form."}
    )
    stopping_strategy: str | None = field(
        default=None, metadata={"help": "When a mixture with weights stops: 'first_exhausted', 'all_exhausted', ..."}
    )
    demo: bool = field(default=False, metadata={"help": "A tiny model on generated problems; no network."})
    if_packed: dict[str, int] = field(default_factory=dict, init=False)  # no option, but what `fill_batches` sets

    def __post_init__(self):
        """What belongs to one data set, to several and to the demo are not given together."""
        for option in fields(RecipeArguments):
            if self.demo and option.name in _OF_DATA and getattr(self, option.name) != option.default:
                raise ValueError(f"`demo` generates its rows. Leave `{option.name}` out, or `demo`.")
        for name in ("dataset_name", "dataset_config", "eval_dataset_name"):
            if getattr(self, name) is not None and (self.datasets, self.eval_datasets) != (None, None):
                raise ValueError(
                    f"`{name}` belongs to one data set, `datasets` and `eval_datasets` to several. Give everything as "
                    "entries of the two lists; a list may have one entry."
                )
        for name in ("eval_datasets", "stopping_strategy"):
            if getattr(self, name) is not None and self.datasets is None:
                raise ValueError(f"`{name}` belongs to a mixture: give `datasets` too, a list of one entry or more.")


def parse_recipe(config_class: type, defaults: dict[str, Any], *, demo: str, deepspeed: Path):
    """Command line -> (`RecipeArguments`, config, `ModelConfig`).

    Args:
        defaults: the recipe's own defaults; `--config` and the command line go before them.
        demo: style of the demo ("gemma" or "qwen"), whose arguments `--demo` puts before the recipe's own.
        deepspeed: ZeRO config to take under the `deepspeed` launcher when none is given.
    """
    classes = (RecipeArguments, config_class, ModelConfig)
    if "--config" in sys.argv[:-1]:  # TRL's parser reads it without a bound, and takes the last of two equal keys
        read_yaml(sys.argv[sys.argv.index("--config") + 1], such_as="max_length: 512")
    look = _Given(classes, add_help=False)
    look.set_defaults_with_config(**dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps")))
    options = look.parse_args_and_config(fail_with_unknown_args=False)  # None: neither asked for
    on_gpu = torch.cuda.is_available()
    fast = {"use_liger_kernel": on_gpu and is_liger_kernel_available(), "dataloader_num_workers": 2 * on_gpu}
    defaults = {"bf16": is_torch_bf16_gpu_available() and not options.fp16, **fast, **defaults}
    if options.use_peft:
        defaults["learning_rate"] = 1e-4  # adapters take ten times a full model's
    if options.demo:
        if options.model_name_or_path is not None:
            raise ValueError("`demo` makes a tiny model. Leave `model_name_or_path` out, or `demo`.")
        defaults |= DEMO_ARGUMENTS[demo]
    if under_deepspeed_launcher():
        defaults["deepspeed"] = str(deepspeed)
    asked = options.deepspeed or "deepspeed" in defaults or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    if asked and on_cpu_under_launcher():  # before the config is built, which sets up the process group
        defaults["accelerator_config"] = deepspeed_on_cpu()
    dataset_name = defaults.pop("dataset_name", None)  # not the parser's: `datasets` may be given instead
    parser = TrlParser(classes)
    parser.set_defaults_with_config(**defaults)
    arguments, args, model_args = parser.parse_args_and_config()
    if arguments.dataset_name is None and arguments.datasets is None:
        arguments.dataset_name = dataset_name
    rows_or_tokens = options.per_device_train_batch_size or options.max_tokens_per_batch or options.demo
    if on_gpu and not rows_or_tokens:
        accumulation = options.gradient_accumulation_steps or 1
        arguments.if_packed = {"max_tokens_per_batch": TOKENS_PER_BATCH, "gradient_accumulation_steps": accumulation}
    return arguments, args, model_args


class _Given(TrlParser):
    """Looks at what the command line and the YAML file say, and builds nothing; unknown words are the next parser's."""

    def parse_args_into_dataclasses(self, args=None, **options):
        return self.parse_known_args(args)[0]
