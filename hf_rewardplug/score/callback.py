"""Benchmarks while a reward model trains: each evaluation's metrics get their figures.

In: {benchmark: data}, given once, and the Trainer's `on_evaluate`. Out: `eval_<benchmark>_<figure>` in the metrics (so
that `metric_for_best_model` may name one) and in the state's log history.

    trainer.add_callback(BenchmarkCallback({"rewardbench": None, "llmbar": "llmbar/test.jsonl"}, max_rows=500))
"""

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from .benchmarks import BENCHMARKS, prepare


class BenchmarkCallback(TrainerCallback):
    """Runs benchmarks at each evaluation with `RewardScorer(model, tokenizer)`.

    Every process runs all rows (the figures are the same on each), and within training once a step, however many eval
    sets there are. Loggers such as W&B see the Trainer's own figures only: they have been logged by then. Put it before
    an `EarlyStoppingCallback` that looks at its figures.

    Args:
        benchmarks: {name: data}: a benchmark's name, with data or None (its own on the hub); or any name and data that
            tell their benchmark (`hf_rewardplug.score.benchmarks.evaluate`).
        max_rows: of each, at even distances; None: all.
        options: {name: options of that benchmark}.

    Raises:
        ValueError: as `evaluate`, before the first step.
    """

    def __init__(
        self,
        benchmarks: Mapping[str, Any],
        *,
        max_rows: int | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        self.benchmarks, self.max_rows, self.options = dict(benchmarks), max_rows, dict(options or {})
        if strange := sorted(set(self.options) - set(self.benchmarks)):
            raise ValueError(f"options for {strange}, which are not among the benchmarks {sorted(self.benchmarks)}.")
        self._prepared = None
        self._training, self._step, self._figures = False, None, {}

    def on_train_begin(self, args, state, control, **kwargs):
        self._prepare()
        self._training, self._step = True, None

    def on_train_end(self, args, state, control, **kwargs):
        self._training = False  # the best model may have been loaded since the last evaluation

    def on_evaluate(self, args, state, control, metrics=None, model=None, processing_class=None, **kwargs):
        if not (self._training and self._step == state.global_step):
            self._figures = self._run(model, processing_class)
            self._step = state.global_step
            epoch = {} if state.epoch is None else {"epoch": state.epoch}
            state.log_history.append({**self._figures, **epoch, "step": state.global_step})
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

    def _run(self, model, processing_class) -> dict[str, float]:
        from ..model.inference import evaluating
        from .scorer import RewardScorer

        figures = {}
        with evaluating(model):
            scorer = RewardScorer(model, processing_class)
            for name, (benchmark, rows) in self._prepare().items():
                result = benchmark.run(scorer, rows, **self.options.get(name, {}))
                figures |= {f"eval_{name}_{figure}": value for figure, value in result.figures.items()}
        return figures
