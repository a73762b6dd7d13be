"""Scores of a trained reward model: one number a completion, or a probability a step, by the encoder of training.

In: a checkpoint, prompts and completions (text or conversations). Out: floats in the nesting and order of the input.

    prompts               completions, steps            scores
    ["p", "q"]            ["a", "b"]                    [0.3, -1.2]                 score
    ["p", "q"]            [["a", "b"], ["c"]]           [[0.3, 0.1], [-1.2]]        score, best-of-N
    ["p"]                 [["a"]]                       [[{"kind": 0.2, ...}]]      score_attributes
    ["p"]                 [["step", "step"]]            [[0.9, 0.2]]                score_steps
    ["p"]                 [[["step"], ["s", "t"]]]      [[[0.9], [0.8, 0.2]]]       score_steps, best-of-N

Sequences are sorted so that common prefixes meet in a batch, where they are computed once; a batch holds so many unique
tokens. Models that cannot take prefix trees get padded batches, sorted by length.
"""

import inspect
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checks import RowError, check_choice, check_whole
from ..data.adapters.fields import TEMPLATE_ARGUMENTS
from ..data.canonical import template_arguments
from ..data.collator import StepCollator
from ..data.columns import media_columns
from ..data.columns.watch import RowWatch
from ..model.attention import share_prefixes, unwrapped
from ..model.checkpoint import load_checkpoint
from ..model.description import Description
from ..model.inference import install_scored_forward, own_device, scorable_kind
from ..model.kinds import attributes
from ..model.layout import tree_index
from ..model.positions import separate_lengths
from .aggregates import AGGREGATES, aggregated
from .forward import ScoredRows, build_encoder
from .inputs import EXPECTED, KEYS, Completions, Solutions, cut_into_steps, key_of, nested_rows
from .rendering import TrainedForm
from .requests import PLAIN


class RewardScorer(ScoredRows):
    """Scores completions with an outcome reward model (ORM), solutions and steps with a process reward model (PRM).

    A text completion is scored at the EOS behind it and a conversation at the last token that its template renders; a
    step at the last token of its separator: as in training, with the checkpoint's own separator. Rewards are fp32.

    Strings become turns where the model was trained on conversations. It is a TRL reward function too:
    `GRPOTrainer(reward_funcs=scorer)`; the columns `tools` and `chat_template_kwargs` are rendered there.

    Args:
        model: a sequence classifier (ORM), or a token classifier or causal LM (PRM); PEFT-wrapped or not.
        tokenizer: the checkpoint's.
        max_tokens_per_batch: unique tokens of a packed batch, tokens with padding of a padded one.
        aggregate: what `score` makes of a PRM's steps: "min", "prod", "last", "mean" or "soft-min".
        normalize: subtract the mean of the rewards and divide by their standard deviation, both of the evaluation that
            the checkpoint remembers. ORM only.
        prefix_sharing: False pads.
        separator: what `score` cuts a PRM's completions at; `step_separator` when None. Needed where that is a special
            token, which TRL leaves out when it decodes, or one that no policy writes.
        step_separator: text that is put behind each step and scored at its last token; the checkpoint's own when None.
        good_token, bad_token: what a causal LM says of right and wrong steps; the checkpoint's own when None. Of
            Math-Shepherd's public model: `step_separator="ки", good_token="+", bad_token="-"`.
        chat_template_kwargs: arguments of the chat template, before the checkpoint's own; those of a call or of a row
            go before them.
        as_text: keep strings as text where the model was trained on conversations. They become the turns that
            training rendered otherwise, a user's and an assistant's, and a notice says so once.
        max_length: longest sequence in tokens, each completion by itself; None for no limit but the model's positions.
        overlong: what becomes of longer ones. "error": a `ValueError`. "drop": too, but `score_file` leaves the row
            out. "truncate": a completion loses the left of its prompt, as in training; steps are never lost.

    >>> scorer = RewardScorer.from_pretrained("runs/orm_gemma")  # doctest: +SKIP
    >>> scorer.score([[{"role": "user", "content": "What is 2+2?"}]], [["4", "5"]])  # doctest: +SKIP
    [[1.7, -0.6]]
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens_per_batch: int = 16384,
        aggregate: str = "min",
        normalize: bool = False,
        prefix_sharing: bool = True,
        separator: str | None = None,
        step_separator: str | None = None,
        good_token: str | None = None,
        bad_token: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        as_text: bool = False,
        max_length: int | None = None,
        overlong: str = "error",
    ):
        self.model, self.tokenizer, self._lock = model, tokenizer, threading.Lock()  # of the model's mode
        self.max_tokens_per_batch, self.aggregate, self.normalize = max_tokens_per_batch, aggregate, normalize
        description = Description.of(model.config)
        if step_separator is not None:
            description = replace(description, step_separator=step_separator, step_token=None)
        self.kind = scorable_kind(model, tokenizer).config_name
        check_whole("max_tokens_per_batch", max_tokens_per_batch)
        check_choice("aggregate", aggregate, AGGREGATES)
        self.calibration, self.attributes = description.calibration, attributes(model.config)
        if normalize and not self.calibration:
            raise ValueError(
                "normalize=True, but the checkpoint remembers no mean and standard deviation of its rewards; an ORM "
                "that was trained here does. Leave it out, or normalise the scores yourself."
            )
        self.__name__ = Path(model.config.name_or_path or "reward").name  # TRL names a reward function's figures by it
        kwargs = template_arguments({"chat_template_kwargs": chat_template_kwargs}).get("chat_template_kwargs", {})
        kwargs = {**description.chat_template_kwargs, **kwargs}
        self.form, self.as_text = TrainedForm(self.__name__, tokenizer, description, kwargs), as_text
        self.encoder = build_encoder(model, self.form, description, max_length=max_length, overlong=overlong)
        self.separator = separator or self.encoder.step_token or self.encoder.step_separator
        self.label_options = {"good_token": good_token, "bad_token": bad_token}
        install_scored_forward(model, tokenizer, **self.label_options)
        self.prefix_sharing = prefix_sharing and share_prefixes(model) is None
        self._collate = StepCollator(
            tokenizer.pad_token_id or 0,
            prefix_sharing=self.prefix_sharing,
            tree_index=tree_index if model.device.type == "cuda" else None,
            side_of=separate_lengths(model),
        )

    @classmethod
    def from_pretrained(cls, name: str, *, device: str | torch.device | None = None, **kwargs) -> "RewardScorer":
        """Load a folder or hub id: a plain checkpoint, or an adapter that a trainer saved.

        Args:
            device: this process's accelerator when None, or the CPU.
            kwargs: options of `RewardScorer`, and others for the model's `from_pretrained`, such as `dtype` (the
                checkpoint's own by default), `revision`.

        Raises:
            ValueError: it is no reward model, or cannot be read.
        """
        options = {key: kwargs.pop(key) for key in inspect.signature(cls).parameters if key in kwargs}
        labels = {key: options.get(key) for key in ("good_token", "bad_token")}
        model, tokenizer = load_checkpoint(name, **labels, **kwargs)
        if "device_map" not in kwargs:
            model.to(own_device() if device is None else device)
        scorer = cls(model, tokenizer, **options)
        scorer.__name__ = scorer.form.name = Path(name).resolve().name  # an adapter's config names its base model
        return scorer

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """TRL's AsyncGRPOTrainer pickles its reward functions, and pickle takes a bound `forward` for the class's."""
        vars(self).update(state, _lock=threading.Lock())
        for name in ("forward", "_plain_forward"):
            vars(unwrapped(self.model)).pop(name, None)
        install_scored_forward(self.model, self.tokenizer, **self.label_options)

    # ---- scores --------------------------------------------------------------------------------------------------

    def score(self, prompts, completions, *, tools=None, chat_template_kwargs=None, as_text=None) -> Any:
        """A score a completion, in the nesting of `completions`.

        Args:
            prompts: strings or conversations (lists of `{"role", "content"}`); or a single one.
            completions: for each prompt a completion (a string, or the messages that follow) or a list of them. A PRM
                cuts them into steps at its separator, and gives one number a solution (`aggregate`); an ORM with
                attributes gives their weighted sum.
            tools: a list of tools for all prompts, or such a list for each, as in training's column of that name.
            chat_template_kwargs: arguments of the chat template for all prompts (a dict), or one for each.
            as_text: the scorer's own when None.

        Raises:
            ValueError: another number of prompts than of completions, or something that cannot be scored, by its index.
        """
        more = {"tools": tools, "chat_template_kwargs": chat_template_kwargs, "as_text": as_text}
        return self._completions(prompts, completions, **more)

    def score_steps(
        self, prompts, steps, aggregate: str | None = None, *, tools=None, chat_template_kwargs=None, as_text=None
    ) -> Any:
        """The probability that each step is right, in the nesting of `steps`; or one number a solution.

        Args:
            prompts, tools, chat_template_kwargs, as_text: as in `score`.
            steps: for each prompt a solution, which is a list of strings, or a list of solutions.
            aggregate: "min", "prod", "last", "mean" or "soft-min"; None for the probabilities themselves.

        Raises:
            ValueError: as in `score`; or the model is no PRM.
        """
        more = {"tools": tools, "chat_template_kwargs": chat_template_kwargs, "as_text": as_text}
        return self._solutions(prompts, steps, aggregate, **more)

    def score_attributes(self, prompts, completions, *, tools=None, chat_template_kwargs=None, as_text=None) -> Any:
        """What `score` sums up: {attribute: score} a completion, in the nesting of `completions`. Arguments: `score`'s.

        Raises:
            ValueError: as in `score`; or the model has no attributes.
        """
        if self.attributes is None:
            raise ValueError(f"'{self.__name__}' was not trained on attributes (`attributes=[...]`). Take `score`.")
        more = {"tools": tools, "chat_template_kwargs": chat_template_kwargs, "as_text": as_text}
        rows, nest = self._rows(prompts, completions, Completions, **more)
        return nest(dict(zip(self.attributes, outputs, strict=True)) for (outputs,) in self.flat_outputs(rows))

    def score_rows(
        self,
        rows: Iterable[dict[str, Any]],
        *,
        window: int = 1024,
        as_text: bool | None = None,
        ignore_columns: Sequence[str] = (),
    ) -> Iterator[Any]:
        """Scores of rows that need not fit into memory, one by one, in order.

        Args:
            rows: `{"prompt", "completion"}`, or "completions" (a list), or "steps" (a solution or a list of them). A
                prompt may be empty or None, but not left out. `tools` and `chat_template_kwargs` are rendered. Another
                column with a part of a prompt is an error.
            window: rows that are read, sorted and scored at a time.
            as_text: the scorer's own when None.
            ignore_columns: columns that are not to be read, though they look like parts of the prompt.

        Raises:
            ValueError: a row that cannot be scored, by its number.
        """
        check_whole("window", window)
        rows, start, watch = iter(rows), 0, RowWatch()
        while batch := list(islice(rows, window)):
            scores: dict[int, Any] = {}
            for index, row in enumerate(batch):
                try:
                    _ = key_of(row) and watch(PLAIN, {key: row[key] for key in row if key not in ignore_columns})
                except ValueError as error:
                    raise RowError(str(error), number=start + index) from error
            for key in KEYS:
                chosen = [index for index, row in enumerate(batch) if key_of(row) == key]
                if chosen:
                    method = self._solutions if key == "steps" else self._completions
                    names = [f"row {start + index}" for index in chosen]
                    prompts, items = ([batch[index][name] for index in chosen] for name in ("prompt", key))
                    more = {name: [batch[index].get(name) for index in chosen] for name in TEMPLATE_ARGUMENTS}
                    nested = method(prompts, items, names=names, as_text=as_text, **more)
                    scores |= zip(chosen, nested, strict=True)
            for index, row in enumerate(batch):
                if index not in scores:
                    what = f"found {sorted(row)}; {EXPECTED}. Rename the columns"
                    raise RowError(what, number=start + index)
                yield scores[index]
            start += len(batch)

    def __call__(self, prompts, completions, **kwargs) -> list[float]:
        """TRL's reward function: `(prompts, completions, columns of the data set) -> [reward]`.

        Raises:
            ValueError: as in `score`; or a column holds images, sound or video.
        """
        if media := media_columns(kwargs):
            raise ValueError(f"column '{media[0]}': images, sound and video are not scored. Leave such rows out.")
        columns = {name: kwargs[name] for name in TEMPLATE_ARGUMENTS if kwargs.get(name) is not None}
        each = all(isinstance(values, list) and len(values) == len(completions) for values in columns.values())
        names = [f"completions[{index}]" for index in range(len(completions))] if columns and each else None
        return self._completions(prompts, completions, names=names, **columns)

    def _rows(self, prompts, items, item_type, *, as_text: bool | None = None, **more) -> tuple:
        form = partial(getattr(self.form, item_type.name), as_text=self.as_text if as_text is None else as_text)
        return nested_rows(prompts, items, item_type, form=form, **more)

    def _completions(self, prompts, completions, **more) -> Any:
        rows, nest = self._rows(prompts, completions, Completions, **more)
        if self.kind == "prm":
            cut = (cut_into_steps(row, self.separator) for row in rows)
            return nest(aggregated(steps, self.aggregate) for steps in self.flat_scores(cut))
        mean, std = (self.calibration["mean"], self.calibration["std"] or 1.0) if self.normalize else (0.0, 1.0)
        return nest((score - mean) / std for (score,) in self.flat_scores(rows))

    def _solutions(self, prompts, steps, aggregate: str | None = None, **more) -> Any:
        if self.kind != "prm":
            raise ValueError(f"'{self.__name__}' is an outcome reward model: it has no scores of steps. Take `score`.")
        check_choice("aggregate", aggregate or "min", AGGREGATES)
        rows, nest = self._rows(prompts, steps, Solutions, **more)
        return nest(aggregated(scores, aggregate) if aggregate else scores for scores in self.flat_scores(rows))
