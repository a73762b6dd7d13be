"""One training step of this package against TRL's, same model, same rows, interleaved in one process.

    python benchmarks/step_overhead.py --model FOLDER [--data FILE] [--pairs 8] [--repeats 15] [--json OUT]

Both pad; what differs is the head (fp32, at the scored positions alone here, at every position in TRL) and the metrics
(sums on the device here, read at every step in TRL). The ratio of the medians should be 1.0 or less.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import trl
from datasets import load_dataset

import hf_rewardplug as rp


def build(trainer_class: type, config_class: type, options: argparse.Namespace, folder: str):
    """A trainer of either package on the same rows, in fp32 without gradient checkpointing."""
    args = config_class(
        output_dir=folder,
        per_device_train_batch_size=options.pairs,
        gradient_checkpointing=False,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        max_length=None,
    )
    rows = load_dataset("json", data_files=options.data, split=f"train[:{options.pairs}]")
    return trainer_class(options.model, args, train_dataset=rows)


def step(trainer, batch: dict) -> float:
    """Seconds of one forward and backward pass."""
    trainer.model.zero_grad()
    start = time.perf_counter()
    trainer.training_step(trainer.model, dict(batch))
    return time.perf_counter() - start


def main() -> None:
    assets = Path(os.environ.get("REWARDPLUG_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a decoder with a chat template")
    parser.add_argument("--data", default=str(assets / "pandalm" / "test.jsonl"))
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            "trl": build(trl.RewardTrainer, trl.RewardConfig, options, folder),
            "hf_rewardplug": build(rp.RewardTrainer, rp.RewardConfig, options, folder),
        }
        batches = {name: trainer.data_collator(list(trainer.train_dataset)) for name, trainer in trainers.items()}
        seconds = {name: [] for name in trainers}
        for repeat in range(options.repeats + 1):
            for name, trainer in trainers.items():
                took = step(trainer, batches[name])
                if repeat:  # the first warms up
                    seconds[name].append(took)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    figures = {
        "median_seconds": medians,
        "ratio_to_trl": medians["hf_rewardplug"] / medians["trl"],
        "pairs": options.pairs,
        "torch": torch.__version__,
        "trl": trl.__version__,
    }
    print(json.dumps(figures, indent=2))
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
