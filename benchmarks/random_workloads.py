"""Models of random weights in real shapes, and rows of random token ids in realistic lengths.

In: names of shapes and workloads, below. Out: a classifier on a device; tokenized pairs, steps and trees in batches.
With `smoke` models are tiny and lengths an eighth.
"""

import math
import random
from dataclasses import dataclass

import torch
from side_by_side import chunks
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Gemma2Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

SHAPES = {
    "Qwen2.5-3B": (
        Qwen2Config,
        {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16}
        | {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    ),
    "Qwen2.5-0.5B": (
        Qwen2Config,
        {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
        | {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    ),
    "Gemma-2-2b": (
        Gemma2Config,
        {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8}
        | {"num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000, "sliding_window": 4096}
        | {"attn_logit_softcapping": 50.0},
    ),
}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512}
HEADS = {"orm": (AutoModelForSequenceClassification, 1), "prm": (AutoModelForTokenClassification, 2)}


@dataclass(frozen=True)
class Workload:
    """Batches of random rows; `prompt` and `piece` are mean tokens: of prompts, and of responses or steps."""

    name: str
    size: int  # rows a batch
    batches: int
    prompt: int
    piece: int


WORKLOADS = {
    "orm": (
        Workload("8 pairs", 8, 4, 144, 45),
        Workload("32 pairs", 32, 1, 144, 45),
        Workload("8 long pairs", 8, 1, 600, 300),
    ),
    "prm": (Workload("32 rows of steps", 32, 1, 80, 30), Workload("tree of steps", 1, 1, 100, 35)),
}
HEADER = 20  # tokens of a chat template that all pairs begin with


def model_of(shape: str, kind: str, device: torch.device, dtype: torch.dtype, smoke: bool):
    """A sequence classifier ("orm") or token classifier ("prm"), made on the device; the same at every call."""
    config_class, sizes = SHAPES[shape]
    auto_class, labels = HEADS[kind]
    config = config_class(**(sizes | (TINY if smoke else {})), num_labels=labels, pad_token_id=0)
    torch.manual_seed(0)
    with device:
        return auto_class.from_config(config, dtype=dtype)


def rows_of(workload: Workload, kind: str, vocabulary: int, smoke: bool) -> list[list[dict]]:
    """Rows in batches; the same at every call."""
    generator, shrink = random.Random(0), 8 if smoke else 1

    def tokens(mean: float, spread: float = 0.7) -> list[int]:
        """Lognormal in number, which real lengths are nearly; at most eight times the mean."""
        mean = max(2.0, mean / shrink)
        length = generator.lognormvariate(math.log(mean) - spread**2 / 2, spread)
        return [generator.randrange(10, vocabulary) for _ in range(max(2, min(round(length), round(8 * mean))))]

    header = tokens(HEADER, 0.0)
    make = {"orm": pair, "prm": tree if "tree" in workload.name else steps}[kind]
    rows = [make(workload, tokens, generator, header) for _ in range(workload.size * workload.batches)]
    return chunks(rows, workload.size)


def pair(workload: Workload, tokens, generator, header: list[int]) -> dict:
    prompt = header + tokens(workload.prompt - HEADER)
    return {"chosen_ids": prompt + tokens(workload.piece), "rejected_ids": prompt + tokens(workload.piece)}


def steps(workload: Workload, tokens, generator, header) -> dict:
    """About 7 labelled steps."""
    pieces = [tokens(workload.piece, 0.4) for _ in range(generator.randint(4, 10))]
    return labelled([tokens(workload.prompt), *pieces], generator)


def tree(workload: Workload, tokens, generator, header) -> dict:
    """Like PRM800K's: 15 steps, one behind the other, and 3 alternatives to each."""
    pieces, parents, spine = [tokens(workload.prompt)], [-1], 0
    for _ in range(15):
        parents += [spine] * 4
        pieces += [tokens(workload.piece, 0.4) for _ in range(4)]
        spine = len(pieces) - 4
    return {**labelled(pieces, generator), "node_lengths": [len(piece) for piece in pieces], "node_parents": parents}


def labelled(pieces: list[list[int]], generator) -> dict:
    """The pieces in a row, with a label at the last token of each but the prompt's."""
    labels = [-100.0] * len(pieces[0])
    for piece in pieces[1:]:
        labels += [-100.0] * (len(piece) - 1) + [float(generator.random() < 0.7)]
    return {"input_ids": [token for piece in pieces for token in piece], "labels": labels}


def special_tokens() -> PreTrainedTokenizerFast:
    """A tokenizer of nothing else: all rows are token ids already."""
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, "<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
