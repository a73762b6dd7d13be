"""What accelerate and DeepSpeed must know of the head before they prepare the model.

In: a trainer whose accelerator is made. Out: plugins that keep the head whole, and save it.
"""

import logging

from ..model.sharding import ask_for_head_group

logger = logging.getLogger(__name__)


def prepare_for_accelerate(trainer) -> None:
    """What accelerate must know of the head before it prepares the model."""
    if trainer.is_fsdp_enabled:
        ask_for_head_group(trainer.model, trainer.accelerator.state.fsdp_plugin)
    if trainer.is_deepspeed_enabled:
        _gather_on_save(trainer.accelerator.state.deepspeed_plugin)
    # under ZeRO-3 TRL asks for the reentrant form by the old name, which transformers 5.23 does not read any more
    trainer.args.activation_checkpointing_kwargs = trainer.args.gradient_checkpointing_kwargs


def _gather_on_save(deepspeed_plugin) -> None:
    """Without it ZeRO-3 writes no `model.safetensors`, and the head is in DeepSpeed's own files alone."""
    options = deepspeed_plugin.deepspeed_config.get("zero_optimization", {})
    if options.get("stage") == 3 and not options.get("stage3_gather_16bit_weights_on_model_save"):
        logger.warning(
            "`stage3_gather_16bit_weights_on_model_save` is set to true: without it no model would be saved."
        )
        options["stage3_gather_16bit_weights_on_model_save"] = True
