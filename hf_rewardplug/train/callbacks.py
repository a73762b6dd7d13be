"""What follows the Trainer's events: tokens in the progress bar and their clock, and the epoch of a batch plan."""

from transformers import ProgressCallback, TrainerCallback

from ..data.batching import BatchPlan
from .metrics import TokenCounter


class TokenProgress(ProgressCallback):
    """transformers' progress bar, with the tokens a second and what sharing saves behind it."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs=logs, **kwargs)
        if self.training_bar is not None and logs and "tokens_per_second" in logs:
            speed, sharing = logs["tokens_per_second"], logs["sharing_ratio"]
            self.training_bar.set_postfix_str(f"{speed:,.0f} tokens/s, sharing x{sharing:.2f}")


class TokenClock(TrainerCallback):
    """Starts the time of tokens a second when training starts, behind what was set up before."""

    def __init__(self, tokens: TokenCounter):
        self.tokens = tokens

    def on_train_begin(self, args, state, control, **kwargs):
        self.tokens.start()


class PlanEpoch(TrainerCallback):
    """Tells a plan its epoch: accelerate's wrappers do not reach it when several ranks resume (accelerate 1.15)."""

    def __init__(self, plan: BatchPlan):
        self.plan = plan

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.plan.set_epoch(int((state.epoch or 0.0) + 1e-6))
