"""Which encoded rows share a batch: by number, tokens, prompts or length.

In: a trainer with an encoded train data set. Out: its data loader, the same on every rank and after a resume.
"""

import logging

import datasets
from torch.utils.data import DataLoader

from ..data.batching import BatchPlan, longest_sequence, shared_with_group, unique_tokens
from ..data.canonical import PROMPT_KEY
from .callbacks import PlanEpoch
from .dataset_checks import encoded_columns, plans_batches

logger = logging.getLogger(__name__)

_BY_LENGTH = ("group_by_length", "batch_rebalance")
_LOADER = ("num_workers", "pin_memory", "persistent_workers", "prefetch_factor", "multiprocessing_context", "in_order")


class LoaderTrainer:
    """Mixin in front of a transformers trainer with a `training_objective`, whose columns are the encoded rows'."""

    def _get_eval_sampler(self, eval_dataset):
        """transformers' draws another order with `group_by_length`; predictions are the rows', in their order."""
        asked, self.args.train_sampling_strategy = self.args.train_sampling_strategy, "random"
        try:
            return super()._get_eval_sampler(eval_dataset)
        finally:
            self.args.train_sampling_strategy = asked

    def _get_train_sampler(self, train_dataset=None):
        """transformers' reads a row's length off `input_ids`, which pairs and lists do not have."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy in _BY_LENGTH and isinstance(dataset, datasets.Dataset):
            lengths = self._lengths(encoded_columns(dataset, self.training_objective))
            dataset = datasets.Dataset.from_dict({self.args.length_column_name: lengths})
        return super()._get_train_sampler(dataset)

    def _lengths(self, rows: datasets.Dataset) -> list[int]:
        """What each row costs in a batch: its unique tokens where prefixes are shared, else its longest sequence."""
        if not getattr(self.data_collator, "prefix_sharing", False):
            return [longest_sequence(row) for row in rows]
        return [unique_tokens(row, self.data_collator.side_of) for row in rows]

    def get_train_dataloader(self) -> DataLoader:
        """transformers' batches have a number of rows; here they may have a budget of tokens, or prompts in common.

        Its batches of like length are others after a resume, and on a rank that has drawn another mask of dropout.

        Raises:
            ValueError: the batches depend on all rows, but the data set is a stream, which transformers passes over.
        """
        args, strategy = self.args, self.args.train_sampling_strategy
        asked = "`max_tokens_per_batch`" if args.max_tokens_per_batch is not None else None
        asked = asked or ("`group_by_prefix`" if args.group_by_prefix else None)
        if strategy == "batch_rebalance" and asked:
            logger.warning("%s goes before train_sampling_strategy='%s'.", asked, strategy)
        by_length = f"train_sampling_strategy='{strategy}'" if strategy in _BY_LENGTH else None
        if (asked or by_length) and not isinstance(self.train_dataset, datasets.Dataset):
            raise ValueError(f"{asked or by_length} must see all rows beforehand, but the train data set is a stream.")
        if by_length and args.length_column_name != "length" and args.process_index == 0:
            logger.warning("`length_column_name` has no effect: the tokens of the encoded rows are counted.")
        if not plans_batches(args):
            return super().get_train_dataloader()
        if args.dataloader_drop_last and args.process_index == 0:
            logger.warning("`dataloader_drop_last=True` drops nothing here: no number of rows makes a batch complete.")
        plan = self._batch_plan()
        self.pop_callback(PlanEpoch)
        self.add_callback(PlanEpoch(plan))
        loader = DataLoader(
            self._remove_unused_columns(self.train_dataset, description="Training"),
            batch_sampler=plan,
            collate_fn=self.data_collator,
            **{name: getattr(args, f"dataloader_{name}") for name in _LOADER},
        )
        even_batches, self.accelerator.even_batches = self.accelerator.even_batches, False  # the plan sees to it
        try:
            return self.accelerator.prepare(loader)
        finally:
            self.accelerator.even_batches = even_batches

    def get_total_train_batch_size(self, args) -> int:
        """transformers' is `per_device_train_batch_size` times the batches of a step; a plan has other rows in each."""
        plan = next(
            (callback.plan for callback in self.callback_handler.callbacks if isinstance(callback, PlanEpoch)), None
        )
        if plan is None:
            return super().get_total_train_batch_size(args)
        batches = args.gradient_accumulation_steps * self.accelerator.num_processes // self.get_tp_size()
        return max(1, round(batches * len(self.train_dataset) / len(plan)))

    def _batch_plan(self) -> BatchPlan:
        args, dataset = self.args, self.train_dataset
        if args.group_by_prefix and PROMPT_KEY not in dataset.column_names:
            raise ValueError(
                "`group_by_prefix=True`, but the train data set was prepared without it. Give the raw rows."
            )
        rows = encoded_columns(dataset, self.training_objective)
        groups = dataset[PROMPT_KEY][:] if args.group_by_prefix else None
        by_length = args.train_sampling_strategy == "group_by_length"
        lengths = self._lengths(rows) if by_length or args.max_tokens_per_batch is not None else None
        if args.max_tokens_per_batch is None:
            costs, savings, budget = [1] * len(dataset), None, self._train_batch_size
        elif not getattr(self.data_collator, "prefix_sharing", False):
            raise ValueError(
                "`max_tokens_per_batch` counts the unique tokens of packed batches, but batches are padded here (the "
                "warning above says why). Set `per_device_train_batch_size` instead."
            )
        else:
            costs = lengths
            savings = None if groups is None else shared_with_group(rows, groups, self.data_collator.side_of)
            # `auto_find_batch_size` halves the rows of a batch; here the tokens
            budget = max(1, args.max_tokens_per_batch * self._train_batch_size // args.train_batch_size)
        return BatchPlan(
            costs,
            budget=budget,
            ranks=self.accelerator.num_processes // self.get_tp_size(),
            seed=args.seed if args.data_seed is None else args.data_seed,
            groups=groups,
            savings=savings,
            lengths=lengths if by_length else None,
            shuffle=args.train_sampling_strategy != "sequential",
        )
