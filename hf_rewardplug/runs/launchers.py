"""Which launcher started this process, and what DeepSpeed needs where no GPU is.

In: the environment that a launcher sets. Out: options for the trainer's config.
"""

import os

import torch
from accelerate import PartialState


def under_deepspeed_launcher() -> bool:
    """Whether `deepspeed script.py` started this process; its launcher alone sets CROSS_SIZE."""
    others = ("TORCHELASTIC_RUN_ID", "ACCELERATE_USE_DEEPSPEED")
    return "CROSS_SIZE" in os.environ and not any(name in os.environ for name in others)


def on_cpu_under_launcher() -> bool:
    """Whether a launcher started this process on a machine without a GPU, where DeepSpeed needs `deepspeed_on_cpu`."""
    return "LOCAL_RANK" in os.environ and not torch.accelerator.is_available()


def deepspeed_on_cpu() -> dict[str, bool]:
    """Set up gloo, because accelerate knows no CPU backend under DeepSpeed and would give every rank all rows.

    Returns:
        What the trainer's config takes as `accelerator_config`.
    """
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    PartialState(backend="gloo")
    return {"use_configured_state": True}
