"""hf_rewardplug: reward models for people who know TRL's `RewardTrainer` by heart.

from hf_rewardplug import RewardConfig, RewardTrainer  # instead of: from trl import ...
from hf_rewardplug import PRMConfig, PRMTrainer        # instead of: from trl.experimental.prm import ... (<= 1.13)
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors; at run time each name is imported when it is asked for
    from .data.adapters import adapter_names, get_adapter, register_adapter
    from .data.collator import PreferenceCollator, RankedCollator, ScoredCollator, StepCollator
    from .data.encoding import Encoder
    from .model.checkpoint import merge_adapter
    from .score.callback import BenchmarkCallback
    from .score.scorer import RewardScorer
    from .train.config import PRMConfig, RewardConfig
    from .train.metrics import compute_accuracy
    from .train.prm_trainer import PRMTrainer
    from .train.reward_trainer import RewardTrainer

_WHERE = {
    "BenchmarkCallback": ".score.callback",
    "Encoder": ".data.encoding",
    "PRMConfig": ".train.config",
    "PRMTrainer": ".train.prm_trainer",
    "PreferenceCollator": ".data.collator",
    "RankedCollator": ".data.collator",
    "RewardConfig": ".train.config",
    "RewardScorer": ".score.scorer",
    "RewardTrainer": ".train.reward_trainer",
    "ScoredCollator": ".data.collator",
    "StepCollator": ".data.collator",
    "adapter_names": ".data.adapters",
    "compute_accuracy": ".train.metrics",
    "get_adapter": ".data.adapters",
    "merge_adapter": ".model.checkpoint",
    "register_adapter": ".data.adapters",
}

__version__ = "0.1.0"
__all__ = [
    "BenchmarkCallback",
    "Encoder",
    "PRMConfig",
    "PRMTrainer",
    "PreferenceCollator",
    "RankedCollator",
    "RewardConfig",
    "RewardScorer",
    "RewardTrainer",
    "ScoredCollator",
    "StepCollator",
    "adapter_names",
    "compute_accuracy",
    "get_adapter",
    "merge_adapter",
    "register_adapter",
]


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
