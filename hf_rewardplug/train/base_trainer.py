"""What both trainers add to TRL's: one loss an optimizer step whatever the split, and metrics that count.

In: batches with `score_positions` from the collators. Out: losses divided by the items (pairs or labelled steps) of the
whole optimizer step, logs and evaluation figures from sums and counts over all ranks.
"""

import logging

import datasets
import numpy as np
import torch
from accelerate.utils import gather_object, is_peft_model
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.trainer_utils import EvalLoopOutput
from trl.trainer.utils import get_config_model_id

from ..data.canonical import EXAMPLE_ID
from ..data.chat_templates import set_chat_template
from ..data.prepare import RowPipeline, choose_adapter, prepare_dataset
from ..model.head import behind_virtual_tokens
from ..model.loading import choose_pad_token, set_pad_token, vocabulary_size
from .config import DataOptions
from .metrics import Running, concatenated, first_seen

logger = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]


class ScoreTrainer:
    """Mixin in front of a TRL trainer. A subclass says what an item is:

    - `item_losses(logits, inputs)` -> losses (items,), {name: values an item, kept for evaluation}
    - `item_count(inputs)` -> number of items of a batch
    - `running(losses, items)` -> sums, minima, maxima for the training logs
    - `figures(items)` -> evaluation figures from every item, each once
    - `predictions(items)` -> predictions and labels for `compute_metrics`, first dimension the batch's rows
    - `encoder(tokenizer, args)`, `encode(encoder, tokenized, args, name)`, `expand`, `columns`, `tokenized_columns`,
      `keep_columns`: how its rows are encoded
    """

    loss_is_scaled_for_ga = False
    """as in TRL: the loss of anybody's `compute_loss` is divided by the accumulation steps"""

    targets = ("labels", "margin", "step_labels", "step_rows", EXAMPLE_ID)
    """keys of a batch that the model's forward does not take"""

    def _set_up_scores(self) -> None:
        """Counters and flags; to be called behind TRL's constructor."""
        self.model_accepts_loss_kwargs = False  # what transformers < 5.19 asks instead of `loss_is_scaled_for_ga`
        self.current_gradient_accumulation_steps = 1  # of a `training_step` before `train`, which sets it
        self.can_return_loss, self.label_names = True, []
        self._running = Running()
        self._tokens_here: torch.Tensor | int = 0
        self._evaluated: list[Tensors] = []

    # ---- data ----------------------------------------------------------------------------------------------------

    def _prepare_dataset(self, dataset, processing_class, args: DataOptions, dataset_name: str):
        """TRL's tokenizes one format, drops long rows in silence and fails in the middle of the map."""
        if not isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
            raise TypeError(
                f"The {dataset_name} data set must be a `Dataset` or `IterableDataset`, got "
                f"`{type(dataset).__name__}`. `Dataset.from_list(rows)` makes one."
            )
        first = next(iter(dataset), None)
        if first is None:
            raise ValueError(f"The {dataset_name} data set has no rows.")
        names = set(dataset.column_names or first)
        tokenized = set(self.tokenized_columns) <= names
        if tokenized and EXAMPLE_ID in names:
            return dataset
        pipeline = RowPipeline(
            name=dataset_name,
            columns=self.columns,
            encode=self.encode(self.encoder(processing_class, args), tokenized, args, dataset_name),
            expand=self.expand,
            adapter=None if tokenized else choose_adapter(first, args.adapter, args.column_mapping),
            column_mapping=args.column_mapping,
        )
        if isinstance(dataset, datasets.IterableDataset) and dataset_name != "train":
            dataset = _one_shard(dataset)
        with args.main_process_first(desc=f"encoding {dataset_name}"):
            dataset, report = prepare_dataset(
                dataset, pipeline, keep_columns=self.keep_columns, num_proc=args.dataset_num_proc
            )
        self.__dict__.setdefault("preparation_reports", {})[dataset_name] = report
        if report and args.process_index == 0:
            logger.warning("%s", report)
        return dataset

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """`Trainer.evaluate`, which takes raw rows too."""
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

    # ---- loss ----------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """transformers counts `labels` alone; an item here is a pair or a labelled step (transformers#47688)."""
        batch_samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batch_samples:
            if self.state.global_step == 0:
                raise ValueError(
                    "The train stream gave no example: every row was left out. `max_length` may be too short for them; "
                    "the warnings above name the reasons."
                )
            return batch_samples, None
        count = sum(self.item_count(batch) for batch in batch_samples)
        if not torch.is_tensor(count):
            count = torch.full((), count, device=device, dtype=torch.long)  # filled on the device, nothing to wait for
        if self.args.world_size > 1:
            count = self.accelerator.gather(count).sum() // self.get_tp_size()
        return batch_samples, count

    def _get_num_items_in_batch(self, batch_samples, device):
        """Counted in `get_batch_samples`; an evaluation batch needs no count."""
        return None

    def compute_loss(self, model, inputs: Tensors, return_outputs: bool = False, num_items_in_batch=None):
        """TRL's averages each micro-batch and each rank by itself, and reads metrics off the device at every step."""
        arguments = {key: value for key, value in inputs.items() if key not in self.targets}
        if "score_positions" in arguments:
            arguments["score_positions"] = behind_virtual_tokens(self.model, **arguments)
        outputs = model(**arguments, use_cache=False)
        losses, items = self.item_losses(outputs.logits, inputs)
        if num_items_in_batch is None:
            loss = losses.sum() / max(len(losses), 1)
        else:
            ranks = self.accelerator.num_processes // self.get_tp_size()  # DDP and ZeRO average over them
            loss = losses.sum() * ranks / torch.as_tensor(num_items_in_batch, device=losses.device).clamp(min=1)
            loss = loss * self.current_gradient_accumulation_steps  # `training_step` divides by it
        items = {key: value.detach() for key, value in {"loss": losses, **items}.items()}
        if self.model.training:
            mask = inputs.get("attention_mask")
            self._tokens_here = self._tokens_here + (inputs["input_ids"].numel() if mask is None else mask.sum())
            self._running.add(**self.running(items))
        else:
            ids = {} if EXAMPLE_ID not in inputs else {EXAMPLE_ID: inputs[EXAMPLE_ID]}
            self._evaluated.append({**items, **ids})
        return (loss, outputs) if return_outputs else loss

    # ---- metrics -------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's averages the averages of the batches."""
        if self.model.training and "loss" in logs:  # the call that every rank makes
            figures = self._running.read(self._gather_row)
            logs.update({**figures, "num_tokens": self._num_tokens()} if figures else {})
        super().log(logs, start_time)

    def _gather_row(self, vector_K: torch.Tensor) -> torch.Tensor:
        return self.accelerator.gather(vector_K[None])

    def _num_tokens(self) -> int:
        """Tokens trained on so far, over all ranks; tensor parallel ranks see the same ones."""
        here = torch.as_tensor(self._tokens_here, device=self.accelerator.device)
        return int(self.accelerator.gather(here).sum()) // self.get_tp_size()

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """transformers' returns the raw logits, in a shape that no metric can use (trl#7010)."""
        before = len(self._evaluated)
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if not prediction_loss_only and len(self._evaluated) > before:
            logits, labels = self.predictions(self._evaluated[-1])
        return loss, logits, labels

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """transformers' weights each batch's mean by its rows; here every item counts once (trl#7010)."""
        self._evaluated = []
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if self._evaluated:
            own = {f"{metric_key_prefix}_{key}": value for key, value in self._own_figures().items()}
            loss_key = f"{metric_key_prefix}_loss"
            output.metrics.update({key: own[key] for key in own if key == loss_key or key not in output.metrics})
        self._evaluated = []
        return output

    def _own_figures(self) -> dict[str, float]:
        here = [{key: value.float().cpu().numpy() if value.is_floating_point() else value.cpu().numpy()
                 for key, value in batch.items()} for batch in self._evaluated]  # fmt: skip
        batches = gather_object(here) if self.accelerator.num_processes > 1 else here
        return {**self.figures(unique_items(batches)), "num_tokens": self._num_tokens()}

    # ---- set-up --------------------------------------------------------------------------------------------------

    @staticmethod
    def _set_up_inputs(tokenizer: PreTrainedTokenizerBase | None, args, model) -> PreTrainedTokenizerBase:
        """The tokenizer with EOS, named chat template and a pad token that ends no sequence; `model` or its name."""
        # accelerate's dispatching cuts every tensor of a batch to its first dimension and sends it to the ranks
        if args.accelerator_config.dispatch_batches:
            logger.warning("`dispatch_batches=True` is set to False: score positions cannot be cut out of a batch.")
        args.accelerator_config.dispatch_batches = False
        if args.use_liger_kernel:
            _keep_classifier_forward(args)
        hub = {"trust_remote_code": args.trust_remote_code}
        if revision := (args.model_init_kwargs or {}).get("revision"):
            hub["revision"] = revision
        if tokenizer is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            tokenizer = AutoTokenizer.from_pretrained(name, **hub)
        if args.eos_token is not None and args.eos_token in tokenizer.get_vocab():  # TRL names it where it is not
            tokenizer.eos_token = args.eos_token
        if args.chat_template is not None:
            if args.chat_template_path is not None:
                raise ValueError("Both `chat_template` and `chat_template_path` are set; give one of them.")
            set_chat_template(tokenizer, args.chat_template)
        pad_token = getattr(args, "pad_token", None)
        if pad_token is None:
            pad_token = choose_pad_token(tokenizer, vocabulary_size(model, **(hub if isinstance(model, str) else {})))
            set_pad_token(None, tokenizer, pad_token)
        elif pad_token in tokenizer.get_vocab():  # TRL names it where it is not
            tokenizer.pad_token = pad_token
        return tokenizer

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        """An adapter's folder has no config, and with it no pad token, separator and score position (TRL, PEFT)."""
        super()._save(output_dir, state_dict)
        if is_peft_model(self.model):
            self.model.config.save_pretrained(output_dir or self.args.output_dir)


def describe_checkpoint(model, **description) -> None:
    """What a scorer must know, into the config that is saved with the model."""
    model.config.rewardplug = description
    if model.config.num_labels == 1:
        model.config.problem_type = "regression"  # servers return the raw score, not a sigmoid of it


def _keep_classifier_forward(args) -> None:
    """Liger puts a causal LM's forward on every model, which fails with `no attribute 'lm_head'` on a classifier."""
    if not torch.cuda.is_available():
        logger.warning("`use_liger_kernel=True` needs a CUDA device; training goes on without it.")
        args.use_liger_kernel = False
        return
    args.liger_kernel_config = {**(args.liger_kernel_config or {}), "fused_linear_cross_entropy": False}


def _one_shard(stream: datasets.IterableDataset) -> datasets.IterableDataset:
    """A stream that accelerate deals out row by row: shards of uneven length leave ranks waiting for each other."""
    return datasets.IterableDataset.from_generator(_rows_of, gen_kwargs={"stream": stream}, features=stream.features)


def _rows_of(stream: datasets.IterableDataset):
    yield from stream


def unique_items(batches: list[Tensors]) -> dict[str, np.ndarray]:
    """Items of all batches of all ranks as arrays, those of a repeated example left out."""
    offset = 0
    for batch in batches:
        rows = int(batch["rows"].max()) + 1 if batch.get("rows") is not None and len(batch["rows"]) else 0
        count = len(batch[EXAMPLE_ID]) if EXAMPLE_ID in batch else rows or len(batch["loss"])
        batch["rows"] = batch.get("rows", np.arange(count)) + offset
        batch.setdefault(EXAMPLE_ID, -1 - offset - np.arange(count))
        offset += count
    items = concatenated(batches)
    keep = first_seen(items.pop(EXAMPLE_ID))[items["rows"]]
    return {key: value[keep] for key, value in items.items()}
