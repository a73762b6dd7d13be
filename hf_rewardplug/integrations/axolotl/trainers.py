"""This package's trainers as axolotl builds them.

In: the arguments and keywords of axolotl's trainer builder. Out: trainers with axolotl's optimizers, schedulers and
savers around this package's losses, collators and metrics. Import late: axolotl gathers all plugins' training arguments
when the module of its own configs is imported.
"""

from dataclasses import dataclass, fields
from typing import Any

from axolotl.core.trainers.mixins import DistributedParallelMixin, RngLoaderMixin
from axolotl.core.trainers.mixins.optimizer import OptimizerInitMixin, OptimizerMixin
from axolotl.core.trainers.mixins.scheduler import SchedulerMixin
from axolotl.core.training_args import AxolotlTrainingMixins

from ... import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer

_OURS = ("chat_template", "logging_nan_inf_filter", "overlong", "train_sampling_strategy")
"""arguments that are not taken from axolotl's: the tokenizer has its template by then, the others' defaults differ"""


@dataclass
class AxolotlRewardConfig(AxolotlTrainingMixins, RewardConfig):
    """`RewardConfig` with what axolotl's optimizers and schedulers ask for."""


@dataclass
class AxolotlPRMConfig(AxolotlTrainingMixins, PRMConfig):
    """`PRMConfig` with what axolotl's optimizers and schedulers ask for."""


class BuiltByAxolotl(RngLoaderMixin, SchedulerMixin, OptimizerMixin, OptimizerInitMixin, DistributedParallelMixin):
    """Mixin in front of a trainer. A subclass says which `config_class` it takes, and its `options`."""

    config_class: type
    options: dict[str, Any] = {}

    def __init__(self, *, args, dataset_tags=None, **kwargs):
        """axolotl's builder names its own config's class, and writes one label into the model's config."""
        if attributes := self.options.get("attributes"):
            kwargs["model"].config.num_labels = len(attributes)
        super().__init__(args=converted(args, config_class=self.config_class, options=self.options), **kwargs)


class AxolotlRewardTrainer(BuiltByAxolotl, RewardTrainer):
    config_class = AxolotlRewardConfig


class AxolotlPRMTrainer(BuiltByAxolotl, PRMTrainer):
    config_class = AxolotlPRMConfig


def converted(args: Any, *, config_class: type, options: dict[str, Any]) -> Any:
    """`args` as a `config_class`, with `options` in place of what it says."""
    names = {field.name for field in fields(config_class) if field.init}.difference(_OURS)
    taken = {field.name: getattr(args, field.name) for field in fields(args) if field.init and field.name in names}
    return config_class(**{**taken, **options})
