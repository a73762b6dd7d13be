"""A trainer's data sets, before they are encoded.

In: what was handed over as a data set. Out: the same, or an error that says what to do; a stream that ranks can share.
"""

import datasets


def check_kind(dataset, name: str) -> None:
    """A `TypeError` with what to do, unless it is a `Dataset` or an `IterableDataset`."""
    if isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
        return
    remedy = "`Dataset.from_list(rows)` makes one"
    if isinstance(dataset, dict):
        remedy = f"Give one of its splits, {sorted(dataset)}"
    raise TypeError(
        f"The {name} data set must be a `Dataset` or `IterableDataset`, got `{type(dataset).__name__}`. {remedy}."
    )


def check_prepared(names: set[str], columns: dict, what: str, loss_type: str) -> None:
    """A data set that was prepared for one loss may lack what another needs, or have what it cannot read."""
    missing, beyond = {"tie", "steps_labelled"} & {*columns} - names, {"node_lengths"} & names - {*columns}
    if missing or beyond:
        raise ValueError(
            f"{what}: it was prepared for another loss than loss_type='{loss_type}' (the columns "
            f"{', '.join(sorted(missing | beyond))}). Give the raw rows."
        )


def one_shard(stream: datasets.IterableDataset) -> datasets.IterableDataset:
    """A stream that accelerate deals out row by row: shards of uneven length leave ranks waiting for each other."""
    return datasets.IterableDataset.from_generator(_rows_of, gen_kwargs={"stream": stream}, features=stream.features)


def _rows_of(stream: datasets.IterableDataset):
    yield from stream
