"""A run of a trainer that is ready: train, save, evaluate, and show what came out.

In: a trainer. Out: a trained model in `output_dir` itself, `eval_results.json`, a table, scored examples and a plot.
"""

import logging
from pathlib import Path

import datasets

from ..train.summary import print_summary, save_items

logger = logging.getLogger(__name__)


def fill_batches(trainer, settings: dict[str, int]) -> None:
    """Set the config's options `settings`, which are for packed batches, if this run can have batches by tokens.

    Padded batches, streams, batches by length and split ones stay as they are. So do those of DeepSpeed, whose own
    config holds the batch size by now.
    """
    args = trainer.args
    packed = getattr(trainer.data_collator, "prefix_sharing", False) and not trainer.is_deepspeed_enabled
    planned = isinstance(trainer.train_dataset, datasets.Dataset) and not args.accelerator_config.split_batches
    if settings and packed and planned and args.train_sampling_strategy in ("random", "sequential"):
        for name, value in settings.items():
            setattr(args, name, value)
        if args.process_index == 0:
            logger.warning(
                "A batch on a GPU holds up to %d unique tokens, and gradients are accumulated over %d of them. "
                "`--per_device_train_batch_size N` makes batches of rows.",
                *(args.max_tokens_per_batch, args.gradient_accumulation_steps),
            )


def run(trainer, if_packed: dict[str, int] | None = None) -> dict[str, float]:
    """Train, save to `output_dir`, evaluate, write `eval_results.json`, and show what came out.

    Without held-out rows the model alone is saved, and there are no figures to return.

    `resume_from_checkpoint` may be a folder, or "true" for the newest whole checkpoint in `output_dir`.
    """
    fill_batches(trainer, if_packed or {})
    with trainer.alone():
        return _run(trainer)


def _run(trainer) -> dict[str, float]:
    resume = trainer.args.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=True if str(resume).lower() == "true" else resume)
    trainer.save_model()
    trainer.save_state()
    held_out = trainer.eval_dataset is not None
    output = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval") if held_out else None
    trainer.save_config()  # with the rewards' mean and spread
    if held_out:
        trainer.save_metrics("eval", output.metrics)
    trainer.create_model_card(model_name=Path(trainer.args.output_dir).name)
    if held_out and trainer.is_world_process_zero():
        save_items(trainer, output)
        print_summary(trainer, output)
    trainer.accelerator.wait_for_everyone()  # a rank that leaves early can abort in gloo's teardown and take all along
    trainer.accelerator.end_training()
    return output.metrics if held_out else {}
