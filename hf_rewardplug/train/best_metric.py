"""`metric_for_best_model` is a figure of the evaluation: known before the first step, not at the first save.

In: a trainer. Out: nothing, or an error with the nearest name.
"""

from ..checks import nearest
from ..data.canonical import SUBSET

_OF_EVERY_EVALUATION = (
    *("num_tokens", "runtime", "samples_per_second", "steps_per_second"),
    *("model_preparation_time", "jit_compilation_time"),
)
"""what this package and transformers add to the figures of any loss"""


def check_best_metric(trainer) -> None:
    """
    Raises:
        ValueError: no evaluation has a figure of this name. Where somebody else adds figures nothing is known.
    """
    args, known = trainer.args, evaluation_names(trainer)
    asked = args.metric_for_best_model
    if known is None or asked is None or args.eval_strategy == "no":
        return
    asked = asked.removeprefix("eval_")
    if asked not in known:
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r} is no figure of the evaluation; do you mean "
            f"'{nearest(asked, known)}'? There are: {', '.join(known)}."
        )


def evaluation_names(trainer) -> list[str] | None:
    """Figures of all eval sets and their subsets, without the "eval_" before each; None where they cannot be known."""
    callbacks = (type(callback).on_evaluate for callback in trainer.callback_handler.callbacks)
    methods = (*callbacks, type(trainer).evaluate, type(trainer).evaluation_loop)
    room = __package__.partition(".")[0]
    if trainer.compute_metrics is not None or not all(_adds_none(method, room) for method in methods):
        return None
    names = trainer.training_objective.metrics
    sets = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {None: trainer.eval_dataset}
    known = []
    for key, rows in sets.items():
        prefix = "" if key is None else f"{key}_"
        known += [prefix + name for name in (*names, *_OF_EVERY_EVALUATION)]
        if SUBSET in (getattr(rows, "column_names", None) or ()):
            if not hasattr(rows, "unique"):  # a stream
                return None
            subsets = [subset for subset in rows.unique(SUBSET) if subset]
            known += [f"{prefix}subset_{subset}_{name}" for subset in subsets for name in names]
    return known


def _adds_none(method, room: str) -> bool:
    """transformers' and this package's trainers; of callbacks a benchmark's adds its own."""
    return method.__module__.startswith(("transformers.", f"{room}.train."))
