"""What the recipes share: arguments, data sets from the hub or from files, and a run from first to last figure.

In: a command line (every argument of TRL's `ModelConfig`, of the trainer's config and of `RecipeArguments`, `--config
file.yaml` too). Out: a trained model in `output_dir` itself, `eval_results.json`, a table, scored examples and a plot.
"""

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import datasets
import torch
import trl
from accelerate import PartialState
from transformers.utils import is_liger_kernel_available, is_torch_bf16_gpu_available
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

from ..data.files import at_most, load_split
from ..data.held_out import hold_out
from ..data.yaml_file import read_yaml
from ..demo import DEMO_ARGUMENTS, demo_rows, save_demo_model
from ..texts import USER_ERRORS, error_text
from .mixture import load_mixture
from .summary import print_summary, save_items

logger = logging.getLogger(__name__)

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
            `hf_rewardplug.train.mixture` says what an entry may hold.
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
    given = look.parse_args_and_config(fail_with_unknown_args=False)  # None: neither asked for
    on_gpu = torch.cuda.is_available()
    fast = {"use_liger_kernel": on_gpu and is_liger_kernel_available(), "dataloader_num_workers": 2 * on_gpu}
    defaults = {"bf16": is_torch_bf16_gpu_available() and not given.fp16, **fast, **defaults}
    if given.use_peft:
        defaults["learning_rate"] = 1e-4  # adapters take ten times a full model's
    if given.demo:
        if given.model_name_or_path is not None:
            raise ValueError("`demo` makes a tiny model. Leave `model_name_or_path` out, or `demo`.")
        defaults |= DEMO_ARGUMENTS[demo]
    if under_deepspeed_launcher():
        defaults["deepspeed"] = str(deepspeed)
    asked = given.deepspeed or "deepspeed" in defaults or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    if asked and on_cpu_under_launcher():  # before the config is built, which sets up the process group
        defaults["accelerator_config"] = deepspeed_on_cpu()
    dataset_name = defaults.pop("dataset_name", None)  # not the parser's: `datasets` may be given instead
    parser = TrlParser(classes)
    parser.set_defaults_with_config(**defaults)
    arguments, args, model_args = parser.parse_args_and_config()
    if arguments.dataset_name is None and arguments.datasets is None:
        arguments.dataset_name = dataset_name
    rows_or_tokens = given.per_device_train_batch_size or given.max_tokens_per_batch or given.demo
    if on_gpu and not rows_or_tokens:
        accumulation = given.gradient_accumulation_steps or 1
        arguments.if_packed = {"max_tokens_per_batch": TOKENS_PER_BATCH, "gradient_accumulation_steps": accumulation}
    return arguments, args, model_args


class _Given(TrlParser):
    """Looks at what the command line and the YAML file say, and builds nothing; unknown words are the next parser's."""

    def parse_args_into_dataclasses(self, args=None, **options):
        return self.parse_known_args(args)[0]


def in_one_line(main: Callable[[], Any]) -> str | None:
    """Run `main`; what the user can mend ends as one line, for `sys.exit`. REWARDPLUG_DEBUG=1 shows the traceback.

    >>> in_one_line(lambda: int("x"))
    "error: invalid literal for int() with base 10: 'x'"
    """
    try:
        main()
    except USER_ERRORS as error:
        if os.environ.get("REWARDPLUG_DEBUG"):
            raise
        return error_text(error)
    return None


def under_deepspeed_launcher() -> bool:
    """Whether `deepspeed script.py` started this process; its launcher alone sets CROSS_SIZE."""
    others = ("TORCHELASTIC_RUN_ID", "ACCELERATE_USE_DEEPSPEED")
    return "CROSS_SIZE" in os.environ and not any(name in os.environ for name in others)


def on_cpu_under_launcher() -> bool:
    """Whether a launcher started this process on a machine without a GPU, where DeepSpeed needs `deepspeed_on_cpu`."""
    return "LOCAL_RANK" in os.environ and not torch.accelerator.is_available()


def deepspeed_on_cpu() -> dict[str, bool]:
    """accelerate knows no CPU backend under DeepSpeed, and would give every rank all rows; here it is told gloo.

    Returns:
        What the trainer's config takes as `accelerator_config`.
    """
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    PartialState(backend="gloo")
    return {"use_configured_state": True}


def load_splits(arguments: RecipeArguments, args: Any, model_args: ModelConfig, *, demo: str):
    """Train and held-out rows of a recipe, as `RecipeArguments` says.

    With `--demo` the rows are generated, and `model_args` names a tiny model of style `demo`, saved in `output_dir`.
    """
    if arguments.demo:
        folder = Path(args.output_dir) / "demo_model"
        with args.main_process_first(desc="making the demo model"):
            if args.process_index == 0:
                save_demo_model(folder, style=demo, seed=args.seed)
        model_args.model_name_or_path = str(folder)
        return tuple(datasets.Dataset.from_list(rows) for rows in demo_rows(demo, seed=args.seed))
    if arguments.datasets is not None:
        return load_mixture(arguments, args)
    if arguments.dataset_name is None:
        raise ValueError(
            "`dataset_name` is not set: give --dataset_name (hub id, file or folder), `datasets` (several), or --demo."
        )
    options = {"config": arguments.dataset_config, "streaming": arguments.dataset_streaming, "numbered": True}
    train = load_split(arguments.dataset_name, arguments.dataset_train_split, **options)
    if arguments.eval_dataset_name is not None:
        held_out = load_split(arguments.eval_dataset_name, arguments.dataset_test_split, **options)
    elif not Path(arguments.dataset_name).exists() and arguments.dataset_test_split in _hub_splits(arguments):
        held_out = load_split(arguments.dataset_name, arguments.dataset_test_split, **options)
    elif arguments.dataset_streaming:
        held_out, train = train.take(arguments.max_eval_rows or 1000), train.skip(arguments.max_eval_rows or 1000)
    else:
        rows_format = {name: getattr(args, name) for name in ("adapter", "column_mapping", "ignore_columns")}
        train, held_out = hold_out(train, arguments.test_size, args.seed, **rows_format)
    return at_most(train, arguments.max_train_rows), at_most(held_out, arguments.max_eval_rows)


def _hub_splits(arguments: RecipeArguments) -> list[str]:
    return datasets.get_dataset_split_names(arguments.dataset_name, arguments.dataset_config)


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


def fill_batches(trainer, settings: dict[str, int]) -> None:
    """Set the config's options `settings`, which are for packed batches, if this run can have batches by tokens.

    Padded batches, streams, batches by length and split ones stay as they are. So do those of DeepSpeed, whose own
    config holds the batch size by now.
    """
    args = trainer.args
    packed = getattr(trainer.data_collator, "prefix_sharing", False) and not trainer.is_deepspeed_enabled
    planned = isinstance(trainer.train_dataset, datasets.Dataset) and not args.accelerator_config.split_batches
    if settings and packed and planned and args.train_sampling_strategy in ("random", "sequential"):
        for name, value in settings.items():
            setattr(args, name, value)
        if args.process_index == 0:
            logger.warning(
                "A batch on a GPU holds up to %d unique tokens, and gradients are accumulated over %d of them. "
                "`--per_device_train_batch_size N` makes batches of rows.",
                *(args.max_tokens_per_batch, args.gradient_accumulation_steps),
            )


def run(trainer, arguments: RecipeArguments | None = None) -> dict[str, float]:
    """Train, save to `output_dir`, evaluate, write `eval_results.json`, and show what came out.

    Without held-out rows the model alone is saved, and there are no figures to return.

    `resume_from_checkpoint` may be a folder, or "true" for the newest whole checkpoint in `output_dir`.
    """
    fill_batches(trainer, {} if arguments is None else arguments.if_packed)
    with trainer.alone():
        return _run(trainer)


def _run(trainer) -> dict[str, float]:
    resume = trainer.args.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=True if str(resume).lower() == "true" else resume)
    trainer.save_model()
    trainer.save_state()
    held_out = trainer.eval_dataset is not None
    output = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval") if held_out else None
    trainer.save_config()  # with the rewards' mean and spread
    if held_out:
        trainer.save_metrics("eval", output.metrics)
    trainer.create_model_card(model_name=Path(trainer.args.output_dir).name)
    if held_out and trainer.is_world_process_zero():
        save_items(trainer, output)
        print_summary(trainer, output)
    trainer.accelerator.wait_for_everyone()  # a rank that leaves early can abort in gloo's teardown and take all along
    trainer.accelerator.end_training()
    return output.metrics if held_out else {}
