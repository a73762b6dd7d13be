"""Rows to the outputs of a reward model: encoded, sorted so that prefixes meet, a batch at a time.

In: flat rows, text or messages, with a `name` for errors. Out: for each, in order, its reward (or its attributes'
scores), or the probability of each of its steps.
"""

import logging
import math
import operator
import threading
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..checks import RowError
from ..data.batching import packed_batches, padded_batches
from ..data.canonical import UNLABELLED
from ..data.collator import StepCollator
from ..data.encoding import Encoder
from ..data.unrendered import UnrenderedNotice
from ..exits import out_of_memory
from ..model.description import Description
from ..model.head import behind_virtual_tokens, step_probabilities
from ..model.inference import evaluating, pools, scorable_kind
from ..model.positions import learned_positions
from .rendering import TrainedForm

WINDOW = 4096
"""sequences that are sorted together; what lies in memory at a time"""


logger = logging.getLogger(__name__)


def build_encoder(
    model: PreTrainedModel, form: TrainedForm, description: Description, *, max_length: int | None, overlong: str
) -> Encoder:
    """The encoder of training: with the checkpoint's separator, and within the positions that the model has."""
    is_pooled = scorable_kind(model, form.tokenizer).config_name == "orm" and pools(model)
    return Encoder(
        tokenizer=form.tokenizer,
        chat_template_kwargs=form.chat_template_kwargs,
        pad_token_id=form.tokenizer.pad_token_id if is_pooled else None,
        vocab_size=model.get_input_embeddings().weight.shape[0],
        step_separator="\n" if description.step_separator is None else description.step_separator,
        step_token=description.step_token,
        max_length=max_length,
        overlong=overlong,
        positions=learned_positions(model),
    )


class ScoredRows:
    """Mixin that computes. A subclass has what is annotated here."""

    kind: str
    model: PreTrainedModel
    encoder: Encoder
    attributes: dict[str, float] | None
    max_tokens_per_batch: int
    prefix_sharing: bool
    _collate: StepCollator
    _lock: threading.Lock

    def flat_scores(self, rows: Iterable[dict[str, Any]]) -> Iterator[list[float]]:
        """For each flat row, the probability of each of its steps, or its reward as a list of one number."""
        if self.kind == "prm":
            return self.flat_outputs(rows)
        weights = (self.attributes or {"reward": 1.0}).values()
        return ([sum(map(operator.mul, weights, values)) for values in outputs] for outputs in self.flat_outputs(rows))

    def flat_outputs(self, rows: Iterable[dict[str, Any]]) -> Iterator[list[Any]]:
        """The same, with all of an ORM's outputs as a list; in order, window by window."""
        rows = iter(rows)
        while window := [self.encode(row) for row in islice(rows, WINDOW)]:
            yield from self._window(window)

    @cached_property
    def _notice(self) -> UnrenderedNotice:
        return UnrenderedNotice(self.encoder)

    def encode(self, row: dict[str, Any]) -> dict[str, list]:
        """Token ids of a flat row, a label wherever a score is wanted, and the row's name.

        Raises:
            RowError: the row cannot be scored; a `DropRow` where it is too long and `overlong="drop"`.
        """
        try:
            self._notice(row)
            if self.kind == "prm":
                encoded = self.encoder.steps({**row, "labels": [1.0] * len(row["completions"])})
            else:
                ids = self.encoder.scored({**row, "scores": None})["input_ids"]
                encoded = {"input_ids": ids, "labels": [UNLABELLED] * (len(ids) - 1) + [1.0]}
            if lost := encoded.get("cut_labels"):
                raise RowError(
                    f"{lost} steps are beyond max_length={self.encoder.max_length}, and would have no score. Raise it, "
                    "or set overlong='drop'"
                )
            return {**encoded, "name": row["name"], "item": row["item"]}
        except RowError as error:
            error.row, error.item = row["name"], row["item"]
            raise

    def _window(self, encoded: list[dict[str, list]]) -> list[list[Any]]:
        sequences = [row["input_ids"] for row in encoded]
        budget, side_of = self.max_tokens_per_batch or math.inf, self._collate.side_of
        packs = self.prefix_sharing
        plan = list(packed_batches(sequences, budget, side_of) if packs else padded_batches(sequences, budget))
        quiet = True if len(plan) < 2 else None  # None: where stderr is no terminal
        outputs: list[list[Any]] = [[] for _ in encoded]
        with self._lock, evaluating(self.model):
            for batch in tqdm(plan, desc="Scoring", unit="batch", delay=5, leave=False, disable=quiet):
                values = iter(self._values([encoded[index] for index in batch]))
                for index in batch:
                    count = sum(label != UNLABELLED for label in encoded[index]["labels"])
                    outputs[index] = list(islice(values, count))
        return outputs

    def _values(self, rows: list[dict[str, list]]) -> list[Any]:
        """`_forward`; where memory does not hold the batch, of its halves.

        Raises:
            RowError: memory does not hold a row alone.
        """
        try:
            return self._forward(rows)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        if len(rows) > 1:
            logger.warning("Memory does not hold a batch: its halves are scored. Lower max_tokens_per_batch.")
            middle = len(rows) // 2
            return self._values(rows[:middle]) + self._values(rows[middle:])
        raise RowError(
            f"memory does not hold its {len(rows[0]['input_ids'])} tokens. Leave out or cut what is longer than "
            "others: max_length=..., overlong='drop' or 'truncate' (--max-length, --overlong)",
            row=rows[0]["name"],
            item=rows[0]["item"],
        )

    @torch.no_grad()
    def _forward(self, rows: list[dict[str, list]]) -> list[Any]:
        batch = self._collate(rows)
        keys = ("input_ids", "attention_mask", "position_ids", "score_positions")
        arguments = {key: batch[key].to(self.model.device) for key in keys if key in batch}
        arguments["score_positions"] = behind_virtual_tokens(self.model, **arguments)
        if "prefix_tree" in batch:
            arguments["prefix_tree"] = batch["prefix_tree"]
        logits_SC = self.model(**arguments, use_cache=False).logits.float()
        return (step_probabilities(logits_SC) if self.kind == "prm" else logits_SC).tolist()
