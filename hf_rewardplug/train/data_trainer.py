"""The data of the trainers: rows of any format become encoded rows.

In: raw data sets of any format that an adapter reads, and a `Setup`. Out: encoded data sets, each with a report
(`preparation_reports`). `loaders.py` makes the batches.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property

import datasets

from ..checks import RowError
from ..data.canonical import EXAMPLE_ID, PAIR_EXTRAS, PROMPT_KEY, SUBSET
from ..data.columns import beside_tokens
from ..data.encoding import Encoder
from ..data.pipeline import RowPipeline
from ..data.prepare import PreparationReport, prepare_dataset
from ..data.raw import Opened, opened, plain_rows
from ..data.row_forms import RowLooks
from ..data.step_nodes import NODE_COLUMNS, NODE_PARENTS, is_chain
from ..data.unrendered import Unrendered
from .config import DataOptions
from .dataset_checks import check_is_dataset, one_shard, prepared_earlier, without_empty_columns
from .loaders import LoaderTrainer
from .objectives import Objective
from .rendering import description, freeze_run_date, warn_of_row_forms
from .setup import Setup

logger = logging.getLogger(__name__)


_ENCODING = ("max_length", "overlong", "step_separator", "step_token", "max_completion_length")
"""The options of the encoder. A `RewardConfig` has the first two."""


class DataTrainer(LoaderTrainer):
    """Mixin in front of a transformers trainer with a `Setup`, whose objective says how the rows are encoded."""

    setup: Setup
    """The parts of the trainer, which a subclass makes before any data are encoded."""

    @property
    def training_objective(self) -> Objective:
        """What the loss is (`objective` is a float of transformers' hyperparameter search)."""
        return self.setup.objective

    @cached_property
    def preparation_reports(self) -> dict[str, PreparationReport]:
        """For each data set, how many rows were kept, cut and left out, and why."""
        return {}

    @cached_property
    def _row_looks(self) -> dict[str, RowLooks]:
        """For each data set, whether its rows were text or conversations."""
        return defaultdict(RowLooks)

    def _prepare_dataset(self, dataset, processing_class, args: DataOptions, dataset_name: str):
        """Encode rows of any format. TRL tokenizes one format, drops long rows in silence and fails within the map."""
        check_is_dataset(dataset, dataset_name)
        with args.main_process_first(desc=f"reading {dataset_name}"):  # where the data set has a transform
            dataset = plain_rows(dataset)
        first = next(iter(dataset), None)
        if first is None:
            raise ValueError(f"The {dataset_name} data set has no rows.")
        dataset, objective = without_empty_columns(dataset, dataset_name), self.training_objective
        if dataset_name == "train" and "train" in self.preparation_reports:  # TRL names eval sets by their keys
            dataset_name = "eval (train)"
        self.preparation_reports[dataset_name] = PreparationReport(dataset_name)
        names = [*(dataset.column_names or first)]
        tokenized = {*objective.tokenized_columns} <= {*names}
        if tokenized and EXAMPLE_ID in names:
            positions = self.setup.learned_positions
            dataset = prepared_earlier(dataset, objective, name=dataset_name, positions=positions)
            self._check_collator(names, dataset_name)
            return self.setup.for_collator(dataset, dataset_name)
        date_notice = None if tokenized else freeze_run_date(processing_class, args)
        pipeline, dataset = self._pipeline(dataset, processing_class, args, dataset_name, names, tokenized=tokenized)
        if dataset_name == "train":  # before all rows are encoded
            self.setup.check_collator(_columns_of_first(pipeline, dataset))
        if isinstance(dataset, datasets.IterableDataset) and dataset_name != "train":
            dataset = one_shard(dataset)
        with args.main_process_first(desc=f"encoding {dataset_name}"):
            dataset, report = prepare_dataset(
                dataset,
                pipeline,
                looks=self._row_looks[dataset_name],
                keep_columns=objective.keep_columns,
                num_proc=args.dataset_num_proc,
            )
        self._check_collator(dataset.column_names or (), dataset_name)
        self.preparation_reports[dataset_name] = report
        report.unread = pipeline.unread
        if args.process_index == 0:
            if report:
                logger.warning("%s", report)
            warn_of_row_forms(dataset_name, self._row_looks, date_notice=date_notice)
        return self.setup.for_collator(dataset, dataset_name)

    @staticmethod
    def encoder(tokenizer, args: DataOptions) -> Encoder:
        """The encoder of training, evaluation and scoring."""
        options = {name: getattr(args, name) for name in _ENCODING if hasattr(args, name)}
        encoder = Encoder(tokenizer=tokenizer, chat_template_kwargs=args.chat_template_kwargs or {}, **options)
        if "step_token" in options:
            _ = encoder.separator_ids  # an unusable step token is refused here, because no row is at fault
        return encoder

    def _check_collator(self, columns: Iterable[str], dataset_name: str) -> None:
        if dataset_name == "train":
            self.setup.check_collator({*columns} - {*NODE_COLUMNS})

    def _pipeline(self, dataset, tokenizer, args: DataOptions, name: str, names: list[str], *, tokenized: bool):
        """The pipeline that encodes each row, and the rows in the form that it takes."""
        objective, mapping = self.training_objective, dict(args.column_mapping or {})
        columns = dict(objective.columns)
        subset = mapping.pop("subset", "subset")  # an optional column of any format
        if name != "train" and subset in names:
            columns[SUBSET] = datasets.Value("string")
        if name == "train" and args.group_by_prefix:
            columns[PROMPT_KEY] = datasets.Value("int64")
        sizes = {"vocab_size": self.setup.vocab_size, "positions": self.setup.learned_positions}
        encoder = replace(self.encoder(tokenizer, args), pad_token_id=tokenizer.pad_token_id, **sizes)
        if tokenized:
            options = {"adapter": args.adapter, "ignore_columns": args.ignore_columns, "column_mapping": mapping}
            for option in options if args.process_index == 0 else ():
                if options[option]:
                    logger.warning("`%s` has no effect on the %s data set: its rows are tokenized.", option, name)
            read = (*columns, *objective.tokenized_columns, *PAIR_EXTRAS, subset)
            adapter, unread = None, beside_tokens(names, (*read, *(args.ignore_columns or ())))
        else:
            raw = self._opened(dataset, args, name, mapping, subset)
            dataset, adapter, unread = raw.rows, raw.adapter, raw.unread
        pipeline = RowPipeline(
            name=name,
            columns=datasets.Features(columns),
            encode=objective.encode(encoder, tokenized=tokenized, name=name),
            expand=objective.expand,
            unrendered=None if tokenized else Unrendered(encoder),
            adapter=adapter,
            column_mapping=mapping,
            subset=subset,
            unread=unread,
            on_bad_row=args.on_bad_row,
        )
        return pipeline, dataset

    @staticmethod
    def _opened(dataset, args: DataOptions, name: str, mapping: dict[str, str], subset: str) -> Opened:
        """Open the raw rows with their adapter. A data set other than the train data set may lack ignored columns."""
        ignored = args.ignore_columns or ()
        if name != "train":
            ignored = [column for column in ignored if column in (dataset.column_names or next(iter(dataset)))]
        try:
            return opened(
                dataset, adapter=args.adapter, column_mapping=mapping, ignore_columns=ignored, beside=(subset,)
            )
        except ValueError as error:
            raise ValueError(f"{name} data set: {error}") from error

    def store_row_description(self) -> None:
        """Write into the model's config what the rows looked like: of a stream, the rows read so far."""
        if (saved := getattr(self.model.config, "rewardplug", None)) is not None:
            saved.update(self.row_description())

    def row_description(self) -> dict:
        """The entries of a checkpoint that describe the rows of training."""
        return description(self._row_looks["train"], self.processing_class, self.args)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model with a description of all rows read so far."""
        self.store_row_description()
        super().save_model(output_dir, _internal_call)

    def _set_signature_columns_if_needed(self):
        """Name the columns of encoded rows. transformers would read them off the signature of the model's forward."""
        if self._signature_columns is None:
            self._signature_columns = [*self.training_objective.columns, "attention_mask", EXAMPLE_ID, SUBSET]

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """`Trainer.evaluate`, which takes raw rows too."""
        self.store_row_description()  # a callback may score with the model
        is_name = isinstance(eval_dataset, str)  # of one of the trainer's own eval sets, which are prepared
        dataset = eval_dataset if is_name else self._prepared(eval_dataset)
        return super().evaluate(dataset, ignore_keys, metric_key_prefix)

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix="test"):
        """`Trainer.predict`, which takes raw rows too. Predictions and labels have the shapes of `compute_metrics`."""
        return super().predict(self._prepared(test_dataset, "test"), ignore_keys, metric_key_prefix)

    def _prepared(self, dataset, name: str = "eval"):
        if dataset is None:
            return None
        if isinstance(dataset, dict):
            return {key: self._prepared(rows, f"{name} ({key})") for key, rows in dataset.items()}
        return self._prepare_dataset(dataset, self.setup.tokenizer, self.setup.args, name)


def _columns_of_first(pipeline: RowPipeline, dataset) -> Iterator[str]:
    """The columns that the first encoded row fills.

    A refused row fills none, and a solution, which is a tree with one branch, fills no columns of nodes.
    """
    try:
        examples = pipeline.examples(next(iter(dataset)), 0)
    except RowError:
        return
    for example in examples:
        solution = is_chain(example.get(NODE_PARENTS, ()))
        yield from (
            name
            for name, value in example.items()
            if value is not None and value != [] and not (solution and name in NODE_COLUMNS)
        )
