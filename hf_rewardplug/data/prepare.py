"""Raw data sets to encoded ones, with a report of every row that was left out or cut.

In: a `datasets.Dataset` or `IterableDataset` of raw rows and a `RowPipeline`. Out: the data set with its token columns
and a `rewardplug_id` (a number for each encoded example, by which evaluation counts each one once), and a
`PreparationReport`.
"""

from dataclasses import replace

from datasets import Dataset, Features, IterableDataset

from ..checks import RowError
from .canonical import EXAMPLE_ID, PAIR_NUMBERS
from .fingerprint import code_state, file_state
from .origin import Origin
from .pipeline import BOOKKEEPING, RowPipeline
from .preparation_report import PreparationReport, check_left, check_refused
from .prepare_streams import prepare_stream
from .row_forms import ROW_LOOK, RowLooks
from .unrendered import UNRENDERED

__all__ = ["PreparationReport", "prepare_dataset"]


def prepare_dataset(
    dataset: Dataset | IterableDataset,
    pipeline: RowPipeline,
    *,
    looks: RowLooks | None = None,
    keep_columns: bool = True,
    num_proc: int | None = None,
) -> tuple[Dataset | IterableDataset, PreparationReport]:
    """Run `pipeline` over `dataset`.

    A `Dataset` is encoded now and its report is complete; an `IterableDataset` is encoded while it is read: a bad row
    raises there, and rows left out or cut are counted in warnings (the 1st, the 10th, the 100th, ...).

    Args:
        looks: counts what the encoded rows looked like.

    Raises:
        RowError: a row that cannot be used, where `pipeline.on_bad_row` is "error".
        ValueError: no rows, or no rows left.
    """
    dataset = dataset.with_format(None)  # tensors are no lists, and their NaN is no None
    looks = RowLooks() if looks is None else looks
    if isinstance(dataset, IterableDataset):
        return prepare_stream(dataset, pipeline, looks, keep_columns=keep_columns)
    if not len(dataset):
        raise ValueError(f"The {pipeline.name} data set has no rows.")
    is_mixture = {"canonical", "subset", "source_row"} <= {*dataset.column_names}  # whose rows have names of their own
    origin = Origin() if is_mixture else Origin.of(dataset)
    encoded = _encoded(dataset, pipeline.keeping(dataset.column_names, keep_columns), origin, num_proc)
    report = _report(encoded, pipeline.name, origin)
    report.rows = len(dataset)
    check_refused(report, dataset["subset"][:] if is_mixture else None)
    check_left(report)
    if report.dropped:
        encoded = encoded.select([index for index, reason in enumerate(encoded["dropped"]) if reason is None])
    encoded = _with_or_without(encoded, report, origin)
    looks.read(look for look in encoded[ROW_LOOK] if look is not None)
    encoded = encoded.remove_columns(list(BOOKKEEPING))
    return encoded.add_column(EXAMPLE_ID, list(range(len(encoded)))), report


def _encoded(dataset: Dataset, pipeline: RowPipeline, origin: Origin, num_proc: int | None) -> Dataset:
    adapter = [] if pipeline.adapter is None else [pipeline.adapter.function]
    files = [file_state(file["filename"])[1:3] for file in dataset.cache_files]
    pipeline = replace(pipeline, code=f"{code_state(pipeline.encode, pipeline.expand, *adapter)} {files}")
    kinds = {name: dataset.features[name] for name in pipeline.kept}
    try:
        return dataset.map(
            pipeline,
            batched=True,
            batch_size=256,
            with_indices=True,
            num_proc=num_proc if num_proc and num_proc > 1 else None,
            remove_columns=[name for name in dataset.column_names if name not in pipeline.kept],
            features=Features({**kinds, **pipeline.columns, **BOOKKEEPING}),
            desc=f"Encoding {pipeline.name} data",
        )
    except RowError as error:
        error.row = error.row or origin.described(error.number)
        raise


def _report(encoded: Dataset, name: str, origin: Origin) -> PreparationReport:
    report = PreparationReport(name)
    columns = encoded.select_columns([*BOOKKEEPING])[:]
    for values in zip(*columns.values(), strict=True):
        example = dict(zip(columns, values, strict=True))
        if example["dropped"] is None and not example["cut"] and not example[UNRENDERED]:
            report.examples += 1
        else:
            position = example["row"]
            report.count(example, origin.number(position), example["place"] or origin.name(position))
    return report


def _with_or_without(encoded: Dataset, report: PreparationReport, origin: Origin) -> Dataset:
    """A margin for all examples or for none: TRL asks the first row only, and fails in the middle of training."""
    for column in filter(encoded.column_names.__contains__, PAIR_NUMBERS):
        missing = [row for row, value in zip(encoded["row"], encoded[column], strict=True) if value is None]
        if len(missing) == len(encoded):
            encoded = encoded.remove_columns(column)
        elif missing:
            for position in missing:
                report.call(origin.number(position), origin.name(position))
            rows = report.counted(map(origin.number, missing))
            raise ValueError(f"{report.name} data set: '{column}' is missing in {rows}. Give every row one, or none.")
    return encoded
