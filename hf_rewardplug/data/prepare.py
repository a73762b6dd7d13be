"""Raw data sets to encoded ones, with a report of every row that was left out or cut.

In: a `datasets.Dataset` or `IterableDataset` of raw rows and a `RowPipeline`. Out: the data set with its token columns
and a `rewardplug_id` (one number an encoded example, which tells evaluation what it has seen already), and a
`PreparationReport`.
"""

from collections import Counter
from dataclasses import replace

from datasets import Dataset, Features, IterableDataset

from ..checks import RowError
from .canonical import EXAMPLE_ID, PAIR_NUMBERS
from .fingerprint import code_state, file_state
from .origin import Origin
from .pipeline import BOOKKEEPING, RowPipeline
from .preparation_report import REMEDY, PreparationReport, check_left, check_refused
from .prepare_streams import prepare_stream
from .unrendered import UNRENDERED

__all__ = ["PreparationReport", "prepare_dataset"]


def prepare_dataset(
    dataset: Dataset | IterableDataset, pipeline: RowPipeline, *, keep_columns: bool = True, num_proc: int | None = None
) -> tuple[Dataset | IterableDataset, PreparationReport]:
    """Run `pipeline` over `dataset`.

    A `Dataset` is encoded now and its report is complete; an `IterableDataset` is encoded while it is read: a bad row
    raises there, and rows left out or cut are counted in warnings (the 1st, the 10th, the 100th, ...).

    Raises:
        RowError: a row that cannot be used, where `pipeline.on_bad_row` is "error".
        ValueError: no rows, or no rows left.
    """
    dataset = dataset.with_format(None)  # tensors are no lists, and their NaN is no None
    if isinstance(dataset, IterableDataset):
        return prepare_stream(dataset, pipeline, keep_columns=keep_columns)
    if not len(dataset):
        raise ValueError(f"The {pipeline.name} data set has no rows.")
    is_mixture = {"canonical", "subset", "source_row"} <= {*dataset.column_names}  # whose rows have names of their own
    origin = Origin() if is_mixture else Origin.of(dataset)
    encoded = _encoded(dataset, pipeline.keeping(dataset.column_names, keep_columns), origin, num_proc)
    report = _report(encoded, pipeline.name, origin)
    report.rows = len(dataset)
    check_refused(report)
    if is_mixture:
        _check_parts(report, dataset["subset"][:])
    check_left(report)
    if report.dropped:
        encoded = encoded.select([index for index, reason in enumerate(encoded["dropped"]) if reason is None])
    encoded = _with_or_without(encoded, pipeline.name, origin)
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
    told = ("place", "dropped", "refused", "cut", "cut_labels", UNRENDERED)
    for position, *values in zip(encoded["row"], *(encoded[key][:] for key in told), strict=True):
        example = dict(zip(told, values, strict=True))
        if example["dropped"] is None and not example["cut"] and not example[UNRENDERED]:
            report.examples += 1
        else:
            report.count(example, origin.number(position), example["place"] or origin.name(position))
    return report


def _check_parts(report: PreparationReport, parts: list[str]) -> None:
    """`check_refused` for each part of a mixture."""
    counts, refused = Counter(parts), Counter(parts[row] for row in report.refused_rows())
    for part, count in refused.items():
        if count == counts[part]:
            first = next(why for why in report.refused if any(parts[row] == part for row in report.dropped[why]))
            raise ValueError(
                f"{report.name} data set: every row of part '{part}' was refused, the first for this: {first}. {REMEDY}"
            )


def _with_or_without(encoded: Dataset, name: str, origin: Origin) -> Dataset:
    """A margin for all examples or for none: TRL asks the first row only, and fails in the middle of training."""
    for column in PAIR_NUMBERS:
        if column not in encoded.column_names:
            continue
        missing = [row for row, value in zip(encoded["row"], encoded[column], strict=True) if value is None]
        if len(missing) == len(encoded):
            encoded = encoded.remove_columns(column)
        elif missing:
            report = PreparationReport(name)
            for position in missing:
                report.call(origin.number(position), origin.name(position))
            rows = report.counted(map(origin.number, missing))
            raise ValueError(f"{name} data set: '{column}' is missing in {rows}. Give every row one, or none.")
    return encoded
