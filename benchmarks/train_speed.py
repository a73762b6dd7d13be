"""Training steps of this package and of TRL, same rows, same weights, interleaved in one process.

    python benchmarks/train_speed.py [--model FOLDER] [--layers 4] [--data NAME ...] [--batch_sizes 8] [--json OUT]
    OMP_NUM_THREADS=2 python benchmarks/train_speed.py --busy [...]       on a machine of two cores that is quiet

Pairs     trl             TRL's RewardTrainer: padded batches in the data's order
          trl, grouped    the same with rows sorted by length, the least padding that grouping can reach
          padding-free    packed without padding, nothing shared
          hf_rewardplug   packed prefix trees
Steps     padded          this package with `prefix_sharing=False`, which pads as TRL <= 1.13 did
          hf_rewardplug
Trees     leaf by leaf    every path of a PRM800K tree as a row of its own
          hf_rewardplug
and       dense           plain rows of equal length with as many tokens and (query, key) pairs as hf_rewardplug's

A step is forward and backward in fp32 without gradient checkpointing. Figures are medians; read the ratios.

With `--busy` the first contestant and hf_rewardplug alone: on the quiet machine, beside a busy loop on each core, and
beside another torch process of two threads. What hf_rewardplug does about other programs serves its whole process, so
TRL's step gains from it too.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import (
    BESIDE,
    Contestant,
    beside,
    chunks,
    dense,
    interleaved,
    machine,
    peak_memory,
    stepper,
    trainer_of,
    without_sharing,
)
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from hf_rewardplug import get_adapter
from hf_rewardplug.data.expansion import to_pairs

ASSETS = Path(os.environ.get("REWARDPLUG_ASSETS", Path(__file__).resolve().parents[2] / "shared" / "assets"))
PAIRS = {
    "hh_harmless": "hh_harmless/train.jsonl",
    "pandalm": "pandalm/test.jsonl",
    "llmbar": "llmbar",
    "finegrained_rlhf": "finegrained_rlhf",  # six pairs of four completions, one behind the other
}
STEPS = {
    "prm800k_val": "prm800k_val/val.jsonl",
    "processbench_gsm8k": "processbench/gsm8k.jsonl",
    "processbench_math": "processbench/math.jsonl",
}
TREES = {"prm800k_trees": "prm800k_val/raw_tree_examples.jsonl"}


def read(name: str) -> list[dict]:
    path = ASSETS / {**PAIRS, **STEPS, **TREES}.get(name, name)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def pairs_of(name: str, count: int) -> list[dict]:
    rows = read(name)
    if name == "finegrained_rlhf":
        adapter = get_adapter(name)
        rows = [pair for row in rows[: count // 2 + 8] for canonical in adapter(row) for pair in to_pairs(canonical)]
    else:
        random.Random(0).shuffle(rows)
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
    return [row for row in rows if row["chosen"] != row["rejected"]][:count]


def pair_contestants(options, model, tokenizer, folder: str, name: str, batch_size: int) -> list[Contestant]:
    rows = pairs_of(name, batch_size * options.batches)
    ours = trainer_of("orm", model, tokenizer, rows, folder, batch_size)
    trls = trainer_of("trl", model, tokenizer, rows, folder, batch_size)
    encoded, theirs = list(ours.train_dataset), list(trls.train_dataset)
    assert [row["chosen_ids"] for row in encoded] == [row["chosen_ids"] for row in theirs], "the tokens differ"
    grouped = sorted(theirs, key=lambda row: max(len(row["chosen_ids"]), len(row["rejected_ids"])))
    batches = {
        "trl": (trls, [trls.data_collator(rows) for rows in chunks(theirs, batch_size)]),
        "trl, grouped": (trls, [trls.data_collator(rows) for rows in chunks(grouped, batch_size)]),
        "padding-free": (ours, [without_sharing(rows) for rows in chunks(encoded, batch_size)]),
        "hf_rewardplug": (ours, [ours.data_collator(rows) for rows in chunks(encoded, batch_size)]),
    }
    return [
        Contestant(key, made, stepper(trainer), trainer.model, pairs=len(rows))
        for key, (trainer, made) in batches.items()
    ] + [dense(ours.model, batches["hf_rewardplug"][1])]


def step_contestants(options, model, tokenizer, folder: str, name: str, batch_size: int) -> list[Contestant]:
    rows = read(name)
    random.Random(0).shuffle(rows)
    rows = [
        {key: row[key] for key in ("prompt", "completions", "labels")} for row in rows[: batch_size * options.batches]
    ]
    contestants = []
    for key, sharing in (("padded", False), ("hf_rewardplug", True)):
        trainer = trainer_of("prm", model, tokenizer, rows, folder, batch_size, prefix_sharing=sharing)
        batches = [trainer.data_collator(some) for some in chunks(list(trainer.train_dataset), batch_size)]
        contestants.append(Contestant(key, batches, stepper(trainer), trainer.model, pairs=len(rows)))
    return [*contestants, dense(trainer.model, batches)]


def tree_contestants(options, model, tokenizer, folder: str, row: dict) -> list[Contestant]:
    trainer = trainer_of("prm", model, tokenizer, [row], folder, 1)
    (tree,) = trainer.train_dataset
    packed = trainer.data_collator([tree])
    twin = type(trainer.data_collator)(trainer.data_collator.pad_token_id)([tree])
    width = twin["input_ids"].shape[1]
    leaves = []
    for index, mask in enumerate(twin["attention_mask"]):
        of_leaf = twin["score_positions"] // width == index
        leaves.append(
            {
                "input_ids": twin["input_ids"][index, mask.bool()][None],
                "attention_mask": mask[mask.bool()][None],
                "score_positions": twin["score_positions"][of_leaf] % width,
                **{key: twin[key][of_leaf] for key in ("step_labels", "step_rows")},
            }
        )
    # each label weighs the same on both sides: the mean of a leaf's labels is no mean of the tree's
    steps = len(packed["step_labels"])

    def run(batch):
        count = len(batch["step_labels"])
        return (
            trainer.training_step(trainer.model, batch, num_items_in_batch=steps) if count else _forward(trainer, batch)
        )

    return [
        Contestant("leaf by leaf", leaves, run, trainer.model, pairs=1),
        Contestant("hf_rewardplug", [packed], run, trainer.model, pairs=1),
        dense(trainer.model, [packed]),
    ]


def _forward(trainer, batch):
    """A leaf whose labels all counted in earlier leaves: computed all the same."""
    loss = trainer.model(**{key: batch[key] for key in ("input_ids", "attention_mask")}).logits.sum() * 0
    loss.backward()
    return loss.detach()


def figures(contestants: list[Contestant]) -> dict:
    ours = next(c for c in contestants if c.name == "hf_rewardplug")
    table = {}
    for c in contestants:
        table[c.name] = {
            "seconds": round(c.median, 3),
            "forwarded_tokens": c.forwarded,
            "tokens_ratio": round(c.forwarded / ours.forwarded, 2),
            "times_as_slow": round(statistics.median(a / b for a, b in zip(c.seconds, ours.seconds, strict=True)), 2),
        }
        if c.pairs:
            table[c.name]["rows_per_second"] = round(c.pairs / c.median, 3)
    table["overhead_a_token"] = round(
        statistics.median(a / b for a, b in zip(ours.seconds, contestants[-1].seconds, strict=True))
        * contestants[-1].forwarded
        / ours.forwarded,
        3,
    )
    return table


def busy_figures(contestants: list[Contestant], rounds: int) -> dict:
    """Seconds of the first contestant and of hf_rewardplug, interleaved, beside each of BESIDE."""
    theirs, ours = contestants[0], next(c for c in contestants if c.name == "hf_rewardplug")
    table = {}
    for name, (program, count) in BESIDE.items():
        theirs.seconds, ours.seconds = [], []
        with beside(program, count):
            interleaved([theirs, ours], rounds)
        ratios = (a / b for a, b in zip(theirs.seconds, ours.seconds, strict=True))
        table[name] = {c.name: round(c.median, 3) for c in (theirs, ours)}
        table[name]["times_as_slow"] = round(statistics.median(ratios), 2)
    return table


def collation_share(options, model, tokenizer, folder: str) -> float:
    """Time of building a batch of 8 pairs over that of its step."""
    rows = pairs_of("hh_harmless", 8)
    trainer = trainer_of("orm", model, tokenizer, rows, folder, 8)
    encoded, times = list(trainer.train_dataset), []
    for _ in range(20):
        start = time.perf_counter()
        batch = trainer.data_collator(encoded)
        times.append(time.perf_counter() - start)
    contestant = Contestant("", [batch], stepper(trainer), trainer.model)
    interleaved([contestant], 3)
    return statistics.median(times) / contestant.median


def contestants_of(options, name: str, batch_size: int, folder: str) -> list[list[Contestant]]:
    pairs = name in PAIRS
    auto_class = AutoModelForSequenceClassification if pairs else AutoModelForTokenClassification
    layers = {"num_hidden_layers": options.layers} if options.layers else {}
    model = auto_class.from_pretrained(options.model, num_labels=1 if pairs else 2, dtype="float32", **layers)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    if pairs:
        return [pair_contestants(options, model, tokenizer, folder, name, batch_size)]
    if name in STEPS:
        return [step_contestants(options, model, tokenizer, folder, name, batch_size)]
    distinct = {json.dumps(get_adapter("prm800k")(row)): row for row in read(name)}.values()
    return [tree_contestants(options, model, tokenizer, folder, row) for row in distinct]


def memory_in_own_processes(options, name: str, batch_size: int, names: list[str]) -> dict[str, float]:
    peaks = {}
    for contestant in names:
        command = [sys.executable, __file__, "--model", options.model, "--data", name, "--batches", "1"]
        command += ["--batch_sizes", str(batch_size), "--memory_of", contestant, "--layers", str(options.layers)]
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        peaks[contestant] = round(int(done.stdout.split()[-1]) / 2**20)
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="folder or hub id of a decoder")
    parser.add_argument("--layers", type=int, default=4, help="use its first layers alone; 0 for all")
    parser.add_argument("--data", nargs="+", default=["hh_harmless"], choices=[*PAIRS, *STEPS, *TREES])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[8])
    parser.add_argument("--batches", type=int, default=2, help="batches a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", action="store_true", help="two contestants, beside other programs too")
    parser.add_argument("--memory", action="store_true", help="peak memory too, in a process a contestant")
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    results = {"machine": machine(), "model": Path(options.model).name, "layers": options.layers, "runs": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.data:
            for batch_size in options.batch_sizes if name not in TREES else [1]:
                for index, contestants in enumerate(contestants_of(options, name, batch_size, folder)):
                    if options.memory_of:
                        print(peak_memory(next(c for c in contestants if c.name == options.memory_of)))
                        return
                    key = f"{name}, {f'tree {index + 1}' if name in TREES else f'{batch_size} rows a batch'}"
                    if options.busy:
                        run = busy_figures(contestants, options.rounds)
                    else:
                        interleaved(contestants, options.rounds)
                        run = figures(contestants)
                    if options.memory and name not in TREES:
                        names = [c.name for c in contestants if c.pairs]
                        run["peak_memory_MiB"] = memory_in_own_processes(options, name, batch_size, names)
                    results["runs"][key] = run
                    print(json.dumps({key: run}, indent=2), flush=True)
        if "hh_harmless" in options.data and not options.busy:
            results["collation_over_step"] = share = round(_collation(options, folder), 4)
            print(f"building a batch takes {share:.2%} of its step")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")


def _collation(options, folder: str) -> float:
    layers = {"num_hidden_layers": options.layers} if options.layers else {}
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=1, dtype="float32", **layers)
    return collation_share(options, model, AutoTokenizer.from_pretrained(options.model), folder)


if __name__ == "__main__":
    main()
