"""The rows of a recipe: data sets from the hub, from files or generated, and which of them are held out.

In: `RecipeArguments`, and the trainer's config. Out: rows to train on, and held-out rows.
"""

from pathlib import Path
from typing import Any

import datasets
from trl import ModelConfig

from ..data.files import at_most, load_split
from ..data.held_out import hold_out
from ..demo import demo_rows, save_demo_model
from .arguments import RecipeArguments
from .mixture import load_mixture


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
