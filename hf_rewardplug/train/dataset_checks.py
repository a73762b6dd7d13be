"""A trainer's data sets, before they are encoded.

In: what was handed over as a data set. Out: the same, or an error that says what to do; a stream that ranks can share.
"""

import logging
from functools import partial

import datasets

from ..data.adapters.prompts import PAIR_EXTRAS
from ..data.batching import longest_sequence
from ..data.preparation_report import PreparationReport, length_remedy
from ..data.step_nodes import NODE_PARENTS, is_chain

logger = logging.getLogger(__name__)


def check_is_dataset(dataset, name: str) -> None:
    """A `TypeError` with what to do, unless it is a `Dataset` or an `IterableDataset`."""
    if isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
        return
    remedy = "`Dataset.from_list(rows)` makes one"
    if isinstance(dataset, dict):
        remedy = f"Give one of its splits, {sorted(dataset)}"
    raise TypeError(
        f"The {name} data set must be a `Dataset` or `IterableDataset`, got `{type(dataset).__name__}`. {remedy}."
    )


def without_empty_columns(dataset, name: str):
    """The data set without those columns beside pairs that are None in every row; a stream as it is, row by row."""
    if not isinstance(dataset, datasets.Dataset):
        return dataset
    for column in PAIR_EXTRAS:
        if (
            column in dataset.column_names
            and dataset[0][column] is None
            and not any(value is not None for value in dataset[column][:])
        ):
            logger.warning("The column '%s' is None in every row of the %s data set and is left out.", column, name)
            dataset = dataset.remove_columns(column)
    return dataset


def prepared_earlier(dataset, objective, *, name: str, positions: int | None):
    """A data set that a trainer has encoded, where this trainer can take it as it is.

    Args:
        name: of the data set, for errors. positions: how many tokens the model has positions for; None: any number.

    Raises:
        ValueError: it was prepared for a loss that needs other columns, or for a model that takes longer rows.
    """
    error = f"{name} data set: it was prepared for another loss than loss_type='{objective.loss_type}' (the columns "
    names = {*(dataset.column_names or next(iter(dataset)))}
    if missing := {"tie", "steps_labelled"} & {*objective.columns} - names:
        raise ValueError(f"{error}{', '.join(sorted(missing))}). Give the raw rows.")
    _check_lengths(dataset, objective, positions, name)
    return dataset if objective.takes_trees else solutions_alone(dataset, f"{error}node_lengths). Give the raw rows.")


def solutions_alone(dataset, error: str):
    """The encoded step rows, each of which must be a tree with one branch; a stream's are looked at as they are read.

    Raises:
        ValueError: `error`; one of the rows has several branches.
    """
    if isinstance(dataset, datasets.IterableDataset):  # whose first row is not read twice to learn its columns
        return dataset.filter(partial(_is_solution, error=error))
    if NODE_PARENTS in dataset.column_names:
        for row in dataset.select_columns(NODE_PARENTS):
            _is_solution(row, error)
    return dataset


def _is_solution(row: dict, error: str) -> bool:
    """What `filter` asks of each row: True, or the error. A row without nodes is a solution."""
    if not is_chain(row.get(NODE_PARENTS) or ()):
        raise ValueError(error)
    return True


def encoded_columns(dataset: datasets.Dataset, objective) -> datasets.Dataset:
    """The columns that the batches of an `objective` are made of, without the raw ones beside them."""
    return dataset.select_columns([name for name in objective.columns if name in dataset.column_names])


def _check_lengths(dataset, objective, positions: int | None, name: str) -> None:
    """A data set that was prepared for another model may have rows longer than this one's `positions`.

    (Of a stream, which nothing sees beforehand, the model itself tells.)
    """
    if positions is None or not isinstance(dataset, datasets.Dataset):
        return
    for row, encoded in enumerate(encoded_columns(dataset, objective)):
        if (tokens := longest_sequence(encoded)) > positions:
            raise ValueError(
                f"{name} data set, row {row}: {tokens} tokens are more than the model's {positions} positions; it was "
                "prepared for another model. Give the raw rows."
            )


def plans_batches(args) -> bool:
    """Whether a `BatchPlan` makes the train batches: by tokens, prompts or length, and not by a number of rows."""
    by_length = args.train_sampling_strategy == "group_by_length"
    return args.max_tokens_per_batch is not None or args.group_by_prefix or by_length


def check_batches(train, held_out, args) -> None:
    """`dataloader_drop_last` leaves each data set a batch. transformers goes on without any, or asks for `max_steps`.

    A plan of batches drops none, `auto_find_batch_size` may make them smaller, and of a stream nobody knows the rows.
    """
    known = [] if plans_batches(args) else [("train", train, args.train_batch_size)]
    held_out = held_out.values() if isinstance(held_out, dict) else [held_out]
    known += [("eval", dataset, args.eval_batch_size) for dataset in held_out]
    for name, dataset, rows in known if args.dataloader_drop_last and not args.auto_find_batch_size else ():
        whole = rows * (1 if args.accelerator_config.split_batches else args.world_size)
        if isinstance(dataset, datasets.Dataset) and len(dataset) < whole:
            raise ValueError(
                f"dataloader_drop_last=True leaves nothing of the {name} data set: its {len(dataset)} rows are fewer "
                f"than the {whole} of a batch on all ranks. Leave it out, or lower `per_device_{name}_batch_size`."
            )


def empty_stream(report: PreparationReport | None, args) -> ValueError:
    """What to say of a stream that has ended without an example."""
    drops = " or dropped with an incomplete batch (`dataloader_drop_last=True`)" * args.dataloader_drop_last
    remedy = length_remedy(report.seen) if report is not None and report.seen is not None else ""
    return ValueError(
        f"The train stream gave no example: every row was left out{drops}; the warnings above name the reasons.{remedy}"
    )


def one_shard(stream: datasets.IterableDataset) -> datasets.IterableDataset:
    """A stream that accelerate deals out row by row: shards of uneven length leave ranks waiting for each other."""
    return datasets.IterableDataset.from_generator(_rows_of, gen_kwargs={"stream": stream}, features=stream.features)


def _rows_of(stream: datasets.IterableDataset):
    yield from stream
