"""What can be said of a checkpoint without scoring: its label tokens, chat template, pad token and head.

In: its tokenizer, config or model. Out: a `Finding` each.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import torch

from ..data.template_dates import frozen_date, writes_date
from ..model.description import Description
from ..model.label_tokens import label_token_ids
from ..model.loading import conversation_ends


@dataclass(frozen=True)
class Finding:
    """What one check says. `ok` is None where the check reports something and does not judge it."""

    check: str
    found: str
    ok: bool | None = None
    remedy: str = ""


def label_tokens(tokenizer: Any, good_token: str, bad_token: str) -> tuple[tuple[int, int] | None, Finding]:
    """Ids of a causal LM's tokens for wrong and right, as the scorer finds them."""
    try:
        ids = label_token_ids(tokenizer, good_token, bad_token)
    except ValueError as error:
        remedy = "Set `good_token` and `bad_token` in config.json to two tokens of the vocabulary, as it writes them."
        return None, Finding("label tokens", str(error), False, remedy)
    wrong, right = tokenizer.convert_ids_to_tokens(ids)
    return ids, Finding("label tokens", f"{wrong!r} (id {ids[0]}) is wrong, {right!r} (id {ids[1]}) is right", True)


def template(tokenizer: Any, description: Description) -> Finding:
    """What is rendered: the template, its arguments and date, and whether training rendered conversations."""
    parts = ["there" if tokenizer.chat_template else "none: conversations cannot be scored"]
    if rows := description.rows:
        parts.append({"turns": "trained on conversations", "text": "trained on text"}.get(rows, "trained on both"))
    kwargs = description.chat_template_kwargs
    parts += [f"chat_template_kwargs={json.dumps(kwargs)}"] * bool(kwargs)
    if day := frozen_date(tokenizer):
        parts.append(f"the date in it is {day}")
    elif writes_date(tokenizer, **kwargs):
        parts.append("it writes today's date, so that scores of conversations change from day to day")
    return Finding("chat template", "; ".join(parts))


def pad_token(tokenizer: Any, config: Any) -> Finding:
    own, of_config = tokenizer.pad_token_id, config.get_text_config().pad_token_id
    kwargs = Description.of(config).chat_template_kwargs
    remedy = "Set a token that ends nothing in the tokenizer, and its id as `pad_token_id` in config.json."
    if own is None:
        return Finding("pad token", "the tokenizer has none", False, remedy)
    token = f"{tokenizer.pad_token!r} (id {own})"
    faults = []
    if own == tokenizer.eos_token_id:
        faults.append("it is EOS too, so plain transformers score the token before EOS")
    elif tokenizer.pad_token in conversation_ends(tokenizer, **kwargs):
        faults.append("the chat template ends conversations with it, so plain transformers score the token before it")
    if own != of_config:
        faults.append(f"the config has {of_config}")
    return Finding("pad token", "; ".join([token, *faults]), not faults, remedy)


def head(model: torch.nn.Module, missing: list[str]) -> Finding:
    if missing:
        remedy = (
            "Train it, or map the head's name (README: heads of other names). A bias, and several layers that the "
            "config describes, are loaded by `RewardScorer` alone."
        )
        return Finding("head", f"plain transformers leave out or draw anew: {', '.join(missing[:4])}", False, remedy)
    named = [(key, value) for key, value in model.named_parameters() if re.search(r"\b(score|classifier)\b", key)]
    named = [(key, value) for key, value in named if "original_module" not in key]  # PEFT's, that is not used
    if (lm_head := model.get_output_embeddings()) is not None:  # may be the embedding too
        named = [(f"LM head.{key}", value) for key, value in lm_head.named_parameters()]
    if bad := [key for key, value in named if not value.isfinite().all()]:
        return Finding("head", f"not finite: {', '.join(bad)}", False, "The run diverged; take an earlier checkpoint.")
    shapes = ", ".join(f"{key.rsplit('.', 2)[-1]} {tuple(value.shape)}" for key, value in named)
    return Finding(
        "head", f"there and finite ({shapes})", bool(named), "No parameter is called `score` or `classifier`."
    )
