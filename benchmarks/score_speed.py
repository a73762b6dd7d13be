"""Best-of-N scores by this package, as TRL's GRPO makes them and by transformers' pipeline, interleaved in one process.

    python benchmarks/score_speed.py [--model FOLDER] [--data NAME ...] [--n 16 64] [--prompts 4] [--rounds 3]

hf_rewardplug   RewardScorer.score: a prompt's tokens once, nothing padded
trl             GRPOTrainer with a reward model: the N completions of a prompt padded on the right in one forward
pipeline        pipeline("text-classification", function_to_apply="none"), 16 texts a batch

Each is given the same conversations and renders and tokenizes them within its time; their scores are compared first, in
fp32. Prompts are real, a prompt's completions its own and other rows' responses; the head is random. Figures are
medians of the rounds; read the ratios. `_long` is a data set's tenth with the longest prompts. With --memory: what
`score_rows` takes at most, over 500 and over 2,000 rows, with the model's first layer.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from side_by_side import Contestant, machine, timed
from train_speed import read
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from transformers.utils import logging as transformers_logging

from hf_rewardplug import RewardScorer
from hf_rewardplug.model.loading import choose_pad_token, set_pad_token

LONG = "_long"
DATA = [name + suffix for name in ("hh_harmless", "pandalm") for suffix in ("", LONG)]
TOLERANCE = 1e-4


def best_of(data: str, n: int, count: int) -> tuple[list[list[dict]], list[list[list[dict]]]]:
    """`count` prompts, and `n` different completions of each."""
    rows, generator = read(data.removesuffix(LONG)), random.Random(0)
    responses = list({row[key][-1]["content"]: row[key] for row in rows for key in ("chosen", "rejected")}.values())
    if data.endswith(LONG):
        rows = sorted(rows, key=lambda row: -len(str(row["prompt"])))[: len(rows) // 10]
    rows, completions = generator.sample(rows, count), []
    for row in rows:
        others = [other for other in generator.sample(responses, n) if other != row["chosen"]]
        completions.append([row["chosen"], *others][:n])
    return [row["prompt"] for row in rows], completions


def load(options, layers: int):
    """The model with a random head, and its tokenizer."""
    kwargs = {"num_hidden_layers": layers} if layers else {}
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=1, dtype="float32", **kwargs)
    with torch.no_grad():
        model.score.weight.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    set_pad_token(model, tokenizer, choose_pad_token(tokenizer, model.config.vocab_size))
    return model.eval(), tokenizer


# ---- contestants -----------------------------------------------------------------------------------------------------


def padded_forward(model, tokenizer) -> Callable[[dict], list[float]]:
    """`GRPOTrainer._calculate_rewards` of a reward model, a prompt at a time."""

    def run(batch: dict) -> list[float]:
        scores = []
        for prompt, completions in zip(batch["prompts"], batch["completions"], strict=True):
            texts = _texts(tokenizer, prompt, completions)
            inputs = tokenizer(
                text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
            )
            inputs.pop("token_type_ids", None)
            with torch.inference_mode():
                scores += model(**inputs).logits[:, 0].tolist()
        return scores

    return run


def piped(model, tokenizer, batch_size: int = 16) -> Callable[[dict], list[float]]:
    options = {"function_to_apply": "none", "batch_size": batch_size, "device": model.device}
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, **options)

    def run(batch: dict) -> list[float]:
        pairs = zip(batch["prompts"], batch["completions"], strict=True)
        texts = [text for prompt, completions in pairs for text in _texts(tokenizer, prompt, completions)]
        return [found["score"] for found in classify(texts, add_special_tokens=False)]

    return run


def _texts(tokenizer, prompt: list[dict], completions: list[list[dict]]) -> list[str]:
    return [tokenizer.apply_chat_template(prompt + completion, tokenize=False) for completion in completions]


def contestants_of(options, data: str, n: int) -> list[Contestant]:
    prompts, completions = best_of(data, n, options.prompts)
    plain, tokenizer = load(options, options.layers)
    scorer = RewardScorer(*load(options, options.layers))
    runs = {
        "hf_rewardplug": (
            scorer.model,
            lambda batch: [score for of_prompt in scorer.score(**batch) for score in of_prompt],
        ),
        "trl": (plain, padded_forward(plain, tokenizer)),
        "pipeline": (plain, piped(plain, tokenizer)),
    }
    batch = {"prompts": prompts, "completions": completions}
    return [Contestant(name, [batch], run, model, pairs=n * len(prompts)) for name, (model, run) in runs.items()]


def forwarded_and_scores(contestant: Contestant) -> tuple[int, list[float]]:
    """Tokens that go through the body, padding included, and what comes out."""
    counts = []
    embedding = contestant.model.get_input_embeddings()
    hook = embedding.register_forward_hook(lambda module, inputs, output: counts.append(inputs[0].numel()))
    try:
        scores = contestant.run(dict(contestant.batches[0]))
    finally:
        hook.remove()
    return sum(counts), scores


def figures(options, data: str, n: int) -> dict:
    contestants = contestants_of(options, data, n)
    forwarded, scores = zip(*map(forwarded_and_scores, contestants), strict=True)
    for contestant, found in zip(contestants, scores, strict=True):
        apart = max(abs(a - b) for a, b in zip(found, scores[0], strict=True))
        assert apart <= TOLERANCE, f"{contestant.name}: scores are up to {apart} apart"
    timed(contestants, options.rounds)
    ours, table = contestants[0], {"prompt_share": prompt_share(options, data, n)}
    for contestant, tokens in zip(contestants, forwarded, strict=True):
        ratios = [a / b for a, b in zip(contestant.seconds, ours.seconds, strict=True)]
        table[contestant.name] = {
            "seconds": round(contestant.median, 3),
            "scores_per_second": round(contestant.pairs / contestant.median, 2),
            "forwarded_tokens": tokens,
            "tokens_ratio": round(tokens / forwarded[0], 2),
            "times_as_slow": round(statistics.median(ratios), 2),
            "least_and_most": [round(min(ratios), 2), round(max(ratios), 2)],
        }
    return table


def prompt_share(options, data: str, n: int) -> float:
    """Tokens of the prompts over all tokens, of the sequences one by one."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    of_prompts = of_all = 0
    for prompt, completions in zip(*best_of(data, n, options.prompts), strict=True):
        of_prompts += n * len(tokenizer.apply_chat_template(prompt, return_dict=True)["input_ids"])
        of_all += sum(
            len(tokenizer(text, add_special_tokens=False)["input_ids"])
            for text in _texts(tokenizer, prompt, completions)
        )
    return round(of_prompts / of_all, 3)


# ---- memory ----------------------------------------------------------------------------------------------------------


def file_of(rows: int) -> Iterator[dict]:
    """So many rows of pandalm's pairs, read again from the beginning where they end, none kept."""
    count = 0
    while True:
        for row in read("pandalm"):
            for key in ("chosen", "rejected"):
                if count == rows:
                    return
                yield {"prompt": row["prompt"], "completion": row[key]}
                count += 1


def memory(options) -> dict[str, float]:
    """MiB that `score_rows` takes at most beyond the loaded model, in a process each."""
    peaks = {}
    for rows in options.memory_rows:
        command = [sys.executable, __file__, "--model", options.model, "--memory_of", str(rows)]
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        peaks[f"{rows} rows"] = round(int(done.stdout.split()[-1]) / 2**20)
    return peaks


def memory_of(options) -> int:
    scorer = RewardScorer(*load(options, 1))
    scorer.score([[{"role": "user", "content": "Hi"}]], ["Hi"])
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    assert sum(1 for _ in scorer.score_rows(file_of(options.memory_of))) == options.memory_of
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def show(runs: dict[str, dict]) -> str:
    """Markdown: times as slow as hf_rewardplug, and tokens."""
    names = [name for name, value in next(iter(runs.values())).items() if isinstance(value, dict)]
    lines = ["| prompts, completions | share of the prompt | scores a second | " + " | ".join(names[1:]) + " |"]
    lines.append("|---" * (len(names) + 2) + "|")
    for key, run in runs.items():
        cells = [f"{run[name]['tokens_ratio']}, **{run[name]['times_as_slow']}**" for name in names[1:]]
        cells = [f"{run['prompt_share']:.0%}", str(run[names[0]]["scores_per_second"]), *cells]
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="folder or hub id of a decoder")
    parser.add_argument("--layers", type=int, default=4, help="use its first layers alone; 0 for all")
    parser.add_argument("--data", nargs="+", default=["hh_harmless", "pandalm"], choices=DATA)
    parser.add_argument("--n", nargs="+", type=int, default=[16, 64], help="completions a prompt")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="the peak of `score_rows` too, in a process a size")
    parser.add_argument("--memory_rows", nargs="+", type=int, default=[500, 2000])
    parser.add_argument("--memory_of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    if options.memory_of:
        print(memory_of(options))
        return
    results = {"machine": machine(), "model": Path(options.model).name, "layers": options.layers, "runs": {}}
    start = time.perf_counter()
    for data in options.data:
        for n in options.n:
            results["runs"][f"{data}, best of {n}"] = run = figures(options, data, n)
            print(json.dumps({f"{data}, best of {n}": run}, indent=2), flush=True)
    print(show(results["runs"]))
    if options.memory:
        results["peak_memory_MiB"] = memory(options)
        print(json.dumps({"peak_memory_MiB": results["peak_memory_MiB"]}))
    results["minutes"] = round((time.perf_counter() - start) / 60, 1)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
