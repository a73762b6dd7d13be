"""What a run must have in common with the checkpoint that it goes on from.

In: a trainer, and the settings that a checkpoint recorded. Out: notices; or an error with every option that differs,
where the result would be neither the run that was interrupted nor the one that is asked for.
"""

import json
import math
from hashlib import blake2b
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from accelerate.utils import is_peft_model

from .dataset_checks import encoded_columns
from .losses import LOSSES_OF_OPTION

_OF_A_STEP = ("per_device_train_batch_size", "gradient_accumulation_steps", "ranks")
"""a step has the same rows where their product is the same"""

_OF_THE_ORDER = (
    *("seed", "data_seed", "max_tokens_per_batch", "group_by_prefix", "train_sampling_strategy"),
    *("dataloader_drop_last", "train_dataset", *_OF_A_STEP),
)
"""what decides which rows a step has; of no interest where no row is passed over (`ignore_data_skip`)"""

_OF_THE_LOSS = ("trainer", "loss_type", *LOSSES_OF_OPTION, "optim", "peft")


def run_settings(trainer) -> dict[str, Any]:
    """{option: value}, as JSON gives them back, of what a resumed run must not change."""
    args, rows = trainer.args, trainer.train_dataset
    options = {name: getattr(args, name) for name in (*_OF_THE_LOSS, *_OF_THE_ORDER) if hasattr(args, name)}
    options |= {"trainer": type(trainer.training_objective).__name__, "peft": is_peft_model(trainer.model)}
    options["ranks"] = trainer.accelerator.num_processes
    if isinstance(rows, datasets.Dataset):
        options["train_dataset"] = f"{len(rows)} rows ({digest(encoded_columns(rows, trainer.training_objective))})"
    return json.loads(json.dumps(options, default=str))


def check_same_run(trainer, folder, saved: dict[str, Any], here: dict[str, Any], steps: int) -> list[str]:
    """What differs and does no harm, in words.

    Args:
        saved, here: `run_settings` of the checkpoint ({} of somebody else's) and of the trainer.
        steps: how many the checkpoint has trained.

    Raises:
        ValueError: what differs makes the result neither run.
    """
    differ = {name: f"{name}={saved[name]!r} (here {here[name]!r})" for name in here if name in saved}
    differ = {name: words for name, words in differ.items() if saved[name] != here[name]}
    harmless = set()
    if _rows_of_a_step(saved) == _rows_of_a_step(here):
        harmless = {*_OF_A_STEP}
    if trainer.args.ignore_data_skip:
        harmless = {*_OF_THE_ORDER}
    refused = [words for name, words in differ.items() if name not in harmless]
    if 0 < trainer.args.max_steps < steps:
        refused.append(f"{steps} steps (here max_steps={trainer.args.max_steps})")
    if refused:
        raise ValueError(
            f"'{folder}' cannot be resumed from: it was trained with {', '.join(refused)}, and the result would be "
            f"neither run. Take its values, or begin a new run from its weights: model='{folder}'."
        )
    return [words for name, words in differ.items() if name in harmless]


def _rows_of_a_step(options: dict[str, Any]) -> int | None:
    """None where a record was changed by hand: its numbers are then named as different.

    >>> _rows_of_a_step({"ranks": 2, "gradient_accumulation_steps": 3}), _rows_of_a_step({"ranks": None})
    (6, None)
    """
    names = _OF_A_STEP[options.get("max_tokens_per_batch") is not None :]
    numbers = [options.get(name, 1) for name in names]
    return math.prod(numbers) if all(isinstance(number, int) for number in numbers) else None


def digest(rows: datasets.Dataset) -> str:
    """16 hex digits of all numbers in the columns, whichever file or cache they are read from.

    >>> one, other = (datasets.Dataset.from_dict({"ids": [[1, 2], last]}) for last in ([3], [4]))
    >>> digest(one) == digest(one.select([0, 1])), digest(one) == digest(other), len(digest(one))
    (True, False, 16)
    """
    total = blake2b(digest_size=8)
    for table in rows.with_format("arrow").iter(batch_size=1000):
        for name in sorted(table.column_names):
            total.update(name.encode())
            values = table.column(name)
            while pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
                total.update(_bytes(pc.fill_null(pc.list_value_length(values), -1)))
                values = pc.list_flatten(values)
            total.update(_bytes(values.cast(pa.int8()) if pa.types.is_boolean(values.type) else values))
    return total.hexdigest()


def _bytes(values: pa.ChunkedArray) -> bytes:
    return np.ascontiguousarray(values.to_numpy()).tobytes()
