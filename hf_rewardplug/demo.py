"""The embedded default of the recipes: generated problems, a tokenizer trained on them, a tiny model of random weights.

In: a style ("gemma": preference pairs for the ORM, "qwen": step-labelled solutions for the PRM) and a seed. Out: rows
whose truth is computed, and a folder that `from_pretrained` loads. No network, nobody's text, nobody's weights.

    pairs   Which is larger, 47 or 82?                         chosen 82, rejected 47
    steps   Which is the largest of 47, 82 and 15?             47 < 82, keep 82. (right)  82 < 15, keep 15. (wrong)

Held-out problems never occur in training; right and wrong are balanced, and length tells nothing.
"""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

ROWS = {"gemma": (3000, 400), "qwen": (4000, 300)}
"""style -> rows to train on, rows held out"""

_COMMON = {
    "bf16": False,
    "gradient_checkpointing": False,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "linear",
    "warmup_steps": 20,
    "adam_beta2": 0.99,
    "per_device_eval_batch_size": 100,
    "gradient_accumulation_steps": 1,
    "max_length": 128,
    "logging_steps": 10,
    "eval_strategy": "no",
    "dataset_name": "generated",
}
DEMO_ARGUMENTS = {
    "gemma": {**_COMMON, "per_device_train_batch_size": 32, "max_steps": 300},
    "qwen": {**_COMMON, "per_device_train_batch_size": 48, "max_steps": 600},
}
"""style -> arguments that take the place of a recipe's own under `--demo`"""

_SPECIAL = {
    "gemma": {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"},
    "qwen": {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"},
}
_MARKERS = {"gemma": ["<start_of_turn>", "<end_of_turn>"], "qwen": ["<|im_start|>"]}


def _comparisons(generator: random.Random) -> Iterator[dict]:
    """Preference rows without end, no two numbers asked about twice."""
    seen = set()
    while True:
        a, b = generator.sample(range(100, 1000), 2)
        if frozenset((a, b)) in seen:
            continue
        seen.add(frozenset((a, b)))
        word = generator.choice(("larger", "smaller"))
        best, worst = (max(a, b), min(a, b)) if word == "larger" else (min(a, b), max(a, b))
        yield {
            "prompt": [{"role": "user", "content": f"Which is {word}, {a} or {b}?"}],
            "chosen": [{"role": "assistant", "content": str(best)}],
            "rejected": [{"role": "assistant", "content": str(worst)}],
        }


def _searches(generator: random.Random) -> Iterator[dict]:
    """Step-labelled rows without end, no problem twice.

    A step compares the number kept so far with the next one and keeps one of them. It is right when it keeps the larger
    one, whatever happened before; half of the steps do.
    """
    seen = set()
    while True:
        numbers = generator.sample(range(10, 100), generator.randint(4, 6))
        if frozenset(numbers) in seen:
            continue
        seen.add(frozenset(numbers))
        kept, steps, labels = numbers[0], [], []
        for number in numbers[1:]:
            right = generator.random() < 0.5
            larger = (kept > number) is right  # what the step claims
            steps.append(f"{kept} {'>' if larger else '<'} {number}, keep {kept if larger else number}.")
            labels.append(right)
            kept = kept if larger else number
        listed = ", ".join(map(str, numbers[:-1]))
        yield {
            "prompt": f"Which is the largest of {listed} and {numbers[-1]}?\n",
            "completions": steps,
            "labels": labels,
        }


def demo_rows(style: str, *, seed: int = 0, train: int | None = None, test: int | None = None):
    """Rows to train on and held-out rows, `ROWS[style]` of them where `train` and `test` are None.

    >>> train, test = demo_rows("gemma", train=1, test=1)
    >>> [test[0][key][-1]["content"] for key in ("prompt", "chosen", "rejected")]
    ['Which is smaller, 141 or 365?', '141', '365']
    >>> train, test = demo_rows("qwen", train=1, test=1)
    >>> list(zip(test[0]["completions"], test[0]["labels"]))[:2]
    [('37 > 74, keep 37.', False), ('37 < 27, keep 27.', False)]
    """
    problems = {"gemma": _comparisons, "qwen": _searches}[style](random.Random(seed))
    train, test = (given or default for given, default in zip((train, test), ROWS[style], strict=True))
    rows = list(itertools.islice(problems, train + test))
    return rows[:train], rows[train:]


def demo_tokenizer(style: str):
    """A `PreTrainedTokenizerFast` of some hundred tokens, one a digit, with the special tokens of its style."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rows, _ = demo_rows(style, train=500, test=1)
    texts = ["user\nmodel\nassistant\n"]
    for row in rows:
        texts += [row["prompt"], *row["completions"]] if style == "qwen" else [row["prompt"][0]["content"]]
    special = _SPECIAL[style]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = [*special.values(), *_MARKERS[style]]
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="right", **special)


def save_demo_model(folder: str | Path, *, style: str, seed: int = 0) -> Path:
    """Write a tiny Gemma 2 or Qwen2 body with random weights, and its tokenizer, into `folder`.

    Wide enough to learn `demo_rows` in a minute on two CPU cores; soft-capping and the sliding window stay on.
    """
    from transformers import Gemma2Config, Gemma2ForCausalLM, Qwen2Config, Qwen2ForCausalLM, set_seed

    tokenizer = demo_tokenizer(style)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.1 if style == "gemma" else 0.05,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    set_seed(seed)
    if style == "gemma":
        model = Gemma2ForCausalLM(Gemma2Config(**sizes, head_dim=16, query_pre_attn_scalar=16, sliding_window=8))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)
