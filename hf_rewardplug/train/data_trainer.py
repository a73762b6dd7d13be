"""The trainers' data side: any format in, encoded rows out, and a tokenizer that fits.

In: raw data sets of any format that an adapter reads, a tokenizer or none, the config. Out: encoded data sets with a
report each (`preparation_reports`), the tokenizer with its pad token and template. `loaders.py` makes the batches.
"""

import logging
import math
import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import datasets
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from trl.trainer.utils import get_config_model_id

from ..data.canonical import EXAMPLE_ID, PAIR_EXTRAS, PROMPT_KEY, SUBSET
from ..data.chat_templates import set_chat_template
from ..data.columns import beside_tokens
from ..data.pipeline import RowPipeline
from ..data.prepare import PreparationReport, prepare_dataset
from ..data.raw import Opened, opened, plain_rows
from ..data.row_forms import RowLooks
from ..data.unrendered import Unrendered
from ..model.loading import choose_pad_token, set_pad_token, vocabulary_size
from ..model.places import HUB
from ..model.positions import learned_positions
from .config import DataOptions
from .dataset_checks import (
    check_kind,
    check_lengths,
    check_prepared,
    one_shard,
    plans_batches,
    solutions_alone,
    without_empty_columns,
)
from .loaders import LoaderTrainer
from .objectives import Objective
from .rendering import description, freeze_run_date, tell_looks

logger = logging.getLogger(__name__)


class DataTrainer(LoaderTrainer):
    """Mixin in front of a transformers trainer with a `training_objective`, which says how its rows are encoded; a
    subclass has the `encoder(tokenizer, args)` of training, evaluation and scoring.
    """

    training_objective: Objective
    """to be set before data are encoded (`objective` is a float of transformers' hyperparameter search)"""

    learned_positions: int | None = None
    """tokens that a row may have by the model's table of positions (`_bound_length`); None where there is none"""

    vocab_size: int | None = None
    """rows of the model's embedding, to be set before data are encoded; None where they are not known yet"""

    def _prepare_dataset(self, dataset, processing_class, args: DataOptions, dataset_name: str):
        """TRL's tokenizes one format, drops long rows in silence and fails in the middle of the map."""
        check_kind(dataset, dataset_name)
        with args.main_process_first(desc=f"reading {dataset_name}"):  # where the data set has a transform
            dataset = plain_rows(dataset)
        first = next(iter(dataset), None)
        if first is None:
            raise ValueError(f"The {dataset_name} data set has no rows.")
        dataset = without_empty_columns(dataset, dataset_name)
        reports = self.__dict__.setdefault("preparation_reports", {})
        if dataset_name == "train" and "train" in reports:  # TRL names eval sets by their keys
            dataset_name = "eval (train)"
        reports[dataset_name] = PreparationReport(dataset_name)
        names = set(dataset.column_names or first)
        tokenized = set(self.training_objective.tokenized_columns) <= names
        columns, mapping = dict(self.training_objective.columns), dict(args.column_mapping or {})
        if tokenized and EXAMPLE_ID in names:
            check_prepared(names, columns, f"{dataset_name} data set", args.loss_type)
            check_lengths(dataset, columns, self.learned_positions, f"{dataset_name} data set")
            if not self.training_objective.takes_trees:
                what = f"{dataset_name} data set: it was prepared for another loss than loss_type='{args.loss_type}'"
                return solutions_alone(dataset, f"{what} (the columns node_lengths). Give the raw rows.")
            return dataset
        subset = mapping.pop("subset", "subset")  # no format needs it, nor every data set
        for option in ("adapter", "ignore_columns", "column_mapping") if tokenized and args.process_index == 0 else ():
            if mapping if option == "column_mapping" else getattr(args, option):
                logger.warning("`%s` has no effect on the %s data set: its rows are tokenized.", option, dataset_name)
        if dataset_name != "train" and subset in names:
            columns[SUBSET] = datasets.Value("string")
        if dataset_name == "train" and args.group_by_prefix:
            columns[PROMPT_KEY] = datasets.Value("int64")
        date_notice = None if tokenized else self._set_up_template(processing_class, args)
        sizes = {"vocab_size": self.vocab_size, "positions": self.learned_positions}
        encoder = replace(self.encoder(processing_class, args), pad_token_id=processing_class.pad_token_id, **sizes)
        raw = None if tokenized else self._opened(dataset, args, dataset_name, mapping, subset)
        read = (*columns, *self.training_objective.tokenized_columns, *PAIR_EXTRAS, subset)
        read += tuple(args.ignore_columns or ())
        unread = raw.unread if raw else beside_tokens(dataset.column_names or first, read)
        dataset = dataset if raw is None else raw.rows
        pipeline = RowPipeline(
            name=dataset_name,
            columns=datasets.Features(columns),
            encode=self.training_objective.encode(encoder, tokenized=tokenized, name=dataset_name),
            expand=self.training_objective.expand,
            unrendered=None if tokenized else Unrendered(encoder),
            adapter=raw and raw.adapter,
            column_mapping=mapping,
            subset=subset,
            unread=unread,
            on_bad_row=args.on_bad_row,
        )
        if isinstance(dataset, datasets.IterableDataset) and dataset_name != "train":
            dataset = one_shard(dataset)
        with args.main_process_first(desc=f"encoding {dataset_name}"):
            dataset, report = prepare_dataset(
                dataset,
                pipeline,
                looks=self._row_looks.setdefault(dataset_name, RowLooks()),
                keep_columns=self.training_objective.keep_columns,
                num_proc=args.dataset_num_proc,
            )
        reports[dataset_name] = report
        report.unread = unread
        if args.process_index == 0:
            if report:
                logger.warning("%s", report)
            tell_looks(dataset_name, self._row_looks, date_notice=date_notice)
        return dataset

    @staticmethod
    def _opened(dataset, args: DataOptions, name: str, mapping: dict[str, str], subset: str) -> Opened:
        """The raw rows with their adapter. Columns to ignore are the train data set's; others may lack them."""
        ignored = args.ignore_columns or ()
        if name != "train":
            ignored = [column for column in ignored if column in (dataset.column_names or next(iter(dataset)))]
        try:
            return opened(
                dataset, adapter=args.adapter, column_mapping=mapping, ignore_columns=ignored, beside=(subset,)
            )
        except ValueError as error:
            raise ValueError(f"{name} data set: {error}") from error

    def _bound_length(self, model, args: DataOptions, peft_config=None) -> None:
        """A longer row than `model` (or its name) has positions for would fail in the middle of training."""
        hub = hub_arguments(args) if isinstance(model, str) else {}
        self.learned_positions = most = learned_positions(model, peft_config, **hub)
        if most is not None and not (args.max_length or math.inf) <= most and args.process_index == 0:
            logger.warning("`max_length=%s` becomes %d: the model has positions for no more.", args.max_length, most)

    @cached_property
    def _row_looks(self) -> dict[str, RowLooks]:
        """What the rows of each data set looked like."""
        return {}

    @staticmethod
    def _set_up_template(tokenizer: PreTrainedTokenizerBase, args: DataOptions) -> str | None:
        """The date of the run in a template that writes one; and, where TRL has cloned the template of another
        tokenizer, a pad token that ends no conversation of it.

        Returns:
            A notice about the date, or None.
        """
        if args.chat_template_path is not None and not os.path.isfile(args.chat_template_path):
            DataTrainer._choose_pad_token(tokenizer, args, len(tokenizer))
        return freeze_run_date(tokenizer, args)

    def remember_rows(self) -> None:
        """What the rows looked like into the saved config: of a stream, as far as it has been read."""
        if (saved := getattr(self.model.config, "rewardplug", None)) is not None:
            saved.update(self.row_description())

    def row_description(self) -> dict:
        """What a checkpoint says of the rows that were trained on."""
        return description(self._row_looks.get("train", RowLooks()), self.processing_class, self.args)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """transformers', with what is known of the rows by now."""
        self.remember_rows()
        super().save_model(output_dir, _internal_call)

    def _set_signature_columns_if_needed(self):
        """transformers reads them off the model's forward."""
        if self._signature_columns is None:
            self._signature_columns = [*self.training_objective.columns, "attention_mask", EXAMPLE_ID, SUBSET]

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """`Trainer.evaluate`, which takes raw rows too."""
        self.remember_rows()  # for a callback that scores
        return super().evaluate(self._prepared(eval_dataset), ignore_keys, metric_key_prefix)

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix="test"):
        """`Trainer.predict`, which takes raw rows too. Predictions and labels have the shapes of `compute_metrics`."""
        return super().predict(self._prepared(test_dataset, "test"), ignore_keys, metric_key_prefix)

    def _prepared(self, dataset, name: str = "eval"):
        if dataset is None or isinstance(dataset, str):
            return dataset
        if isinstance(dataset, dict):
            return {key: self._prepared(one, f"{name} ({key})") for key, one in dataset.items()}
        return self._prepare_dataset(dataset, self.processing_class, self.args, name)

    @staticmethod
    def _set_up_inputs(tokenizer: PreTrainedTokenizerBase | None, args, model) -> PreTrainedTokenizerBase:
        """The tokenizer with EOS, named chat template and a pad token that ends no sequence; `model` or its name."""
        # accelerate's dispatching cuts every tensor of a batch to its first dimension and sends it to the ranks
        if args.accelerator_config.dispatch_batches:
            logger.warning("`dispatch_batches=True` is set to False: score positions cannot be cut out of a batch.")
        args.accelerator_config.dispatch_batches = False
        if args.accelerator_config.split_batches and plans_batches(args):
            raise ValueError(
                "`split_batches=True` cannot go with `max_tokens_per_batch`, `group_by_prefix` or `group_by_length`."
            )
        hub = hub_arguments(args)
        rows = vocabulary_size(model, **(hub if isinstance(model, str) else {}))  # a missing model is told first
        if tokenizer is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            try:
                where = {key: value for key, value in hub.items() if key != "subfolder"}  # as TRL looks for it
                tokenizer = AutoTokenizer.from_pretrained(name, **where)
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"'{name}' has no tokenizer that can be loaded ({str(error).splitlines()[0]}). "
                    "Save one there, or give `processing_class`."
                ) from error
        if not hasattr(tokenizer, "get_vocab"):
            raise TypeError(
                f"`processing_class` is a {type(tokenizer).__name__}; expected a tokenizer: "
                "`AutoTokenizer.from_pretrained(...)`."
            )
        if args.eos_token is not None and args.eos_token not in tokenizer.get_vocab():
            raise ValueError(
                f"eos_token={args.eos_token!r} is not in the tokenizer's vocabulary. Take one of its tokens, or add it "
                "and resize the embeddings first."
            )
        if args.eos_token is not None:
            tokenizer.eos_token = args.eos_token
        if args.chat_template is not None:
            if args.chat_template_path is not None:
                raise ValueError("Both `chat_template` and `chat_template_path` are set; give one of them.")
            set_chat_template(tokenizer, args.chat_template)
        if args.chat_template_path is not None and os.path.isfile(args.chat_template_path):
            tokenizer.chat_template = Path(args.chat_template_path).read_text(encoding="utf-8")
        pad_token = getattr(args, "pad_token", None)
        if pad_token in tokenizer.get_vocab():  # TRL names it where it is not
            tokenizer.pad_token = pad_token
        if pad_token is None or pad_token in tokenizer.get_vocab():
            DataTrainer._choose_pad_token(tokenizer, args, rows)
        return tokenizer

    @staticmethod
    def _choose_pad_token(tokenizer: PreTrainedTokenizerBase, args: DataOptions, rows: int) -> None:
        """Another pad token where `pad_token` ends sequences, which plain transformers would then score elsewhere."""
        set_pad_token(None, tokenizer, choose_pad_token(tokenizer, rows, **(args.chat_template_kwargs or {})))
        if getattr(args, "pad_token", None) is not None:
            args.pad_token = tokenizer.pad_token  # TRL sets it again


def hub_arguments(args) -> dict:
    """What the config of the model's name is loaded with."""
    given = args.model_init_kwargs or {}
    return {"trust_remote_code": args.trust_remote_code, **{key: given[key] for key in HUB if key in given}}
