"""A new model for each training: what `model_init` returns, and the trials of `hyperparameter_search`.

In: the function `model_init`, a trial's values. Out: a model as ready to train as the constructor's, the options that a
trial has set where they are read, or an error for options that were read before.
"""

import inspect
import os
from dataclasses import fields

from torch import nn
from transformers import TrainingArguments, set_seed

from .objectives import StepObjective
from .option_checks import SEARCHED, check_reward_loss, check_step_loss
from .setup import Setup
from .sharding import prepare_for_accelerate


def first_model(model, model_init, args, *, peft_config, optimizers):
    """`model`, or the first one of `model_init`, which is called again whenever training starts.

    Raises:
        ValueError: there is neither or both, or an argument belongs to one model alone. TypeError: it returns none.
    """
    if model_init is None:
        if model is None:
            raise ValueError("`model` or `model_init` is required.")
        return model
    if model is not None:
        raise ValueError("`model` and `model_init` are both set: training would begin with a new model. Give one.")
    if peft_config is not None:
        raise ValueError("`peft_config` needs a `model`; let `model_init` return the PEFT model instead.")
    if any(part is not None for part in optimizers):
        raise ValueError("`optimizers` hold one model's weights, but `model_init` makes new ones. Leave them out.")
    set_seed(TrainingArguments.seed if args is None else args.seed)
    if (path := getattr(args, "chat_template_path", None)) is not None and not os.path.isfile(path):
        raise ValueError("With `model_init`, `chat_template_path` must be a Jinja file: no token can be added.")
    takes_trial = bool(inspect.signature(model_init).parameters)  # of a hyperparameter search
    made = model_init(None) if takes_trial else model_init()
    if not isinstance(made, nn.Module):
        raise TypeError(f"`model_init` returned a {type(made).__name__}; expected a model.")
    return made


class ModelInitTrainer:
    """Mixin in front of a transformers trainer with a `Setup`."""

    setup: Setup
    """The parts of the trainer: model, tokenizer, objective, collator, and the options that made them."""

    def hyperparameter_search(self, hp_space=None, compute_objective=None, *arguments, **options):
        """Search for the least loss. transformers would sum all figures, the count of tokens among them."""
        return super().hyperparameter_search(hp_space, compute_objective or self._eval_loss, *arguments, **options)

    def _eval_loss(self, metrics: dict[str, float]) -> float:
        """The loss of the evaluation set, or the sum over several sets."""
        several = self.eval_dataset if isinstance(self.eval_dataset, dict) else None
        return sum(metrics[f"eval_{name}_loss"] for name in several) if several else metrics["eval_loss"]

    def call_model_init(self, trial=None):
        """Make the new model ready. transformers would train it without the head, the pad token and packed rows."""
        model = self.setup.ready(super().call_model_init(trial))
        model.add_model_tags(self._tag_names)
        return model

    def _hp_search_setup(self, trial) -> None:
        """Read the trial's values again where they are used, because transformers only writes them into `args`.

        Raises:
            ValueError: the rows or the model were prepared with another value, or the loss does not take this one.
        """
        before = dict(vars(self.args))
        super()._hp_search_setup(trial)
        if self.model_init is not None:
            prepare_for_accelerate(self)  # of the new model, and of the new accelerator
        changed = {name for name, value in vars(self.args).items() if name in before and before[name] != value}
        own = {field.name for field in fields(self.args)} - {field.name for field in fields(TrainingArguments)}
        if fixed := sorted(changed & own - SEARCHED - {"max_tokens_per_batch"}):
            self.args.__dict__.update({name: before[name] for name in fixed})
            raise ValueError(
                f"The search changes {', '.join(fixed)}, but the rows and the model were prepared with the value that "
                "the trainer was built with. Build a trainer for each value."
            )
        if changed:
            (check_step_loss if isinstance(self.training_objective, StepObjective) else check_reward_loss)(self.args)
            self.setup.objective = type(self.training_objective).from_config(self.args)
