"""Rows, a quick config, and the truth: plain transformers, one row at a time."""

import random

import torch
from rows import quick as quick_run
from rows import sentence
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

TURNS = "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"


def text_pairs(count: int, seed: int = 0) -> list[dict]:
    g = random.Random(seed)
    return [
        {"prompt": sentence(g, 2, 6) + "\n", "chosen": sentence(g, 1, 9), "rejected": sentence(g, 10, 12)}
        for _ in range(count)
    ]


def turn(role: str, content: str | None) -> dict:
    return {"role": role, "content": content}


def quick(folder, **options) -> dict:
    """Config arguments of a short fp32 run on the CPU, the rows in order."""
    in_order = {"max_steps": 1, "max_grad_norm": 1e9, "train_sampling_strategy": "sequential"}
    return quick_run(folder, **{**in_order, **options})


def plain(trainer):
    """The trainer's weights in a model that transformers alone loaded."""
    model = trainer.model
    steps = "TokenClassification" in type(model).__name__
    auto_class = AutoModelForTokenClassification if steps else AutoModelForSequenceClassification
    loaded = auto_class.from_pretrained(model.name_or_path, num_labels=model.config.num_labels, dtype=model.dtype)
    loaded.load_state_dict(model.state_dict())
    return loaded.eval()


def reward(model, ids: list[int]) -> float:
    """The body's last state times the head's weight, the product in fp32."""
    with torch.no_grad():
        state = model.model(torch.tensor([ids])).last_hidden_state[0, -1]
    return (state.float() @ model.score.weight[0].float()).item()


def pair_rewards(model, tokenizer, rows: list[dict]) -> torch.Tensor:
    """(N, 2): the rewards of chosen and rejected text, EOS behind it."""
    both = [[row["prompt"] + row[key] + tokenizer.eos_token for key in ("chosen", "rejected")] for row in rows]
    return torch.tensor([[reward(model, tokenizer(text)["input_ids"]) for text in pair] for pair in both])


def pair_loss(rewards_N2: torch.Tensor) -> float:
    return -torch.nn.functional.logsigmoid(rewards_N2[:, 0] - rewards_N2[:, 1]).mean().item()


def step_losses(model, tokenizer, rows: list[dict]) -> torch.Tensor:
    """(S,): cross-entropy of each step, at the line feed behind it."""
    losses = []
    for row in rows:
        ids, ends = [tokenizer.bos_token_id, *tokenizer.encode(row["prompt"], add_special_tokens=False)], []
        for step in row["completions"]:
            ids += tokenizer.encode(step, add_special_tokens=False) + tokenizer.encode("\n", add_special_tokens=False)
            ends.append(len(ids) - 1)
        logits, labels = model(torch.tensor([ids])).logits[0, ends], torch.tensor([float(y) for y in row["labels"]])
        targets = torch.stack([1 - labels, labels], 1)
        losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
    return torch.cat(losses)


def step_truth(model, tokenizer, rows: list[dict]) -> tuple[float, float]:
    """Mean loss of all labelled steps, and the norm of its gradient."""
    model.zero_grad()
    loss = step_losses(model, tokenizer, rows).mean()
    loss.backward()
    return loss.item(), torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()
