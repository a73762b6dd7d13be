"""Benchmarks while a reward model trains: each evaluation's metrics get their figures.

In: {benchmark: data}, given once, and the Trainer's `on_evaluate`. Out: `eval_<benchmark>_<figure>` in the metrics (so
that `metric_for_best_model` may name one), in the trainer's log (the trackers of `report_to`, the log history), and
figures on the screen.

    trainer.add_callback(BenchmarkCallback({"rewardbench": None, "llmbar": "llmbar/test.jsonl"}, max_rows=500))
"""

from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

from .benchmarks import BENCHMARKS, prepare
from .benchmarks.evaluation import run


class BenchmarkCallback(TrainerCallback):
    """Runs benchmarks at each evaluation with `RewardScorer(model, tokenizer)`.

    Every process runs all rows (the figures are the same on each), and within training once a step, however many eval
    sets there are; the first process prints the figures. They are an entry of their own in the log: transformers has
    logged the evaluation before it calls any callback. Put this one before an `EarlyStoppingCallback` that looks at its
    figures.

    Args:
        benchmarks: {name: data}: a benchmark's name, with data or None (its own on the hub); or any name and data that
            tell their benchmark (`hf_rewardplug.score.benchmarks.evaluate`).
        max_rows: of each, at even distances; None: all.
        options: {name: options of that benchmark}.
        on_bad_row: as in `evaluate`: "error", or "drop", which counts the rows that were refused as a figure.
        trainer: whose `log` the figures go through. This package's trainers tell it themselves; of another one, such as
            TRL's, give it, or the figures reach its metrics and history but no tracker.

    Raises:
        ValueError: as `evaluate`, before the first step.
    """

    def __init__(
        self,
        benchmarks: Mapping[str, Any],
        *,
        max_rows: int | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        trainer: Any = None,
        on_bad_row: str = "error",
    ):
        self.benchmarks, self.max_rows, self.options = dict(benchmarks), max_rows, dict(options or {})
        if strange := sorted(set(self.options) - set(self.benchmarks)):
            raise ValueError(f"options for {strange}, which are not among the benchmarks {sorted(self.benchmarks)}.")
        self._prepared, self._trainer, self.on_bad_row = None, trainer, on_bad_row
        self._training, self._step, self._figures = False, None, {}

    def attach_trainer(self, trainer: Any) -> None:
        """Called by this package's trainers: transformers gives a callback no way to log."""
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self._prepare()
        self._training, self._step = True, None

    def on_train_end(self, args, state, control, **kwargs):
        self._training = False  # the best model may have been loaded since the last evaluation

    def on_evaluate(self, args, state, control, metrics=None, model=None, processing_class=None, **kwargs):
        if not (self._training and self._step == state.global_step):
            results = self._run(model, processing_class)
            self._figures = {
                f"eval_{name}_{figure}": value for name, of in results.items() for figure, value in of.items()
            }
            self._step = state.global_step
            if state.is_world_process_zero:
                for name, figures in results.items():
                    tqdm.write(shown(name, figures, step=state.global_step))  # a bar stays below it
            self._log(state)
        if metrics is not None:
            metrics.update(self._figures)

    def _prepare(self) -> dict:
        if self._prepared is None:
            self._prepared = {
                name: prepare(name, data=data, max_rows=self.max_rows)
                if name in BENCHMARKS or data is None
                else prepare(data, max_rows=self.max_rows)
                for name, data in self.benchmarks.items()
            }
        return self._prepared

    def _log(self, state) -> None:
        if self._trainer is not None:
            self._trainer.log(dict(self._figures))  # which adds the epoch to what it gets
            return
        epoch = {} if state.epoch is None else {"epoch": state.epoch}
        state.log_history.append({**self._figures, **epoch, "step": state.global_step})

    def _run(self, model, processing_class) -> dict[str, dict[str, float]]:
        from ..model.inference import evaluating
        from .scorer import RewardScorer

        with evaluating(model):
            scorer = RewardScorer(model, processing_class)
            return {
                name: run(benchmark, scorer, rows, on_bad_row=self.on_bad_row, **self.options.get(name, {})).figures
                for name, (benchmark, rows) in self._prepare().items()
            }


def shown(name: str, figures: Mapping[str, float], *, step: int) -> str:
    """A benchmark's figures for the screen, without the counts of its parts.

    >>> print(shown("llmbar", {"accuracy": 0.5, "accuracy/GPTInst": 1.0, "n": 4, "n/GPTInst": 2}, step=7))
    llmbar, step 7
      accuracy          0.5000
      accuracy/GPTInst  1.0000
      n                 4
    """
    kept = {figure: value for figure, value in figures.items() if not figure.startswith("n/")}
    width = max(map(len, kept))
    lines = [
        f"  {figure:<{width}}  {value:,}" if isinstance(value, int) else f"  {figure:<{width}}  {value:.4f}"
        for figure, value in kept.items()
    ]
    return "\n".join([f"{name}, step {step}", *lines])
