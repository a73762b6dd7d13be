"""A reward model as everybody else loads and runs it: transformers, PEFT, right-padded batches, fp32.

In: a checkpoint's name and rows. Out: its scores, without this package's head, attention, encoder or loading.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from ..model.head import HEAD_NAME
from ..model.kinds import LM, Kind
from ..model.places import find_file
from ..model.positions import learned_positions, rotary_sides
from ..model.weights import why_not_readable

_PICKLES = re.compile(r"(pytorch_model|model|adapter_model)[\w.-]*\.(bin|pt|pth|ckpt|pkl)")
_BATCH = 8
_SAFE = {"dtype": torch.float32, "trust_remote_code": False, "use_safetensors": True}


def weight_files(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Names of safetensors files and of pickled weights in a folder, and what is wrong with the former."""
    names = sorted(path.name for path in folder.iterdir())
    files = [name for name in names if re.fullmatch(r"(adapter_)?model[\w.-]*\.safetensors", name)]
    faults = [reason for name in files if (reason := why_not_readable(folder / name))]
    if SAFE_WEIGHTS_INDEX_NAME in names:
        try:
            index = json.loads((folder / SAFE_WEIGHTS_INDEX_NAME).read_text(encoding="utf-8"))
            faults += [f"{name} is missing" for name in sorted({*index["weight_map"].values()} - set(files))]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            faults.append(f"{SAFE_WEIGHTS_INDEX_NAME} is no index of weights ({type(error).__name__})")
    return files, [name for name in names if _PICKLES.fullmatch(name)], faults


def load_plain(name: str, kind: Kind, config: Any, *, adapter: bool) -> tuple[torch.nn.Module, list[str]]:
    """The model in fp32, and the parameters that transformers draws anew, or leaves out of the checkpoint's head."""
    if adapter:
        return _load_adapter(name, kind, config)
    model, info = kind.auto_class.from_pretrained(name, output_loading_info=True, **_SAFE)
    left_out = {key for key in info["unexpected_keys"] if key.startswith(f"{HEAD_NAME}.")}
    return model.eval(), sorted({*info["missing_keys"], *left_out})


def _load_adapter(name: str, kind: Kind, config: Any) -> tuple[torch.nn.Module, list[str]]:
    from peft import PeftConfig, PeftModel

    base_name = PeftConfig.from_pretrained(name).base_model_name_or_path
    base = kind.auto_class.from_pretrained(base_name, num_labels=config.num_labels, **_SAFE)
    if len(base.get_input_embeddings().weight) != config.get_text_config().vocab_size:
        base.resize_token_embeddings(config.get_text_config().vocab_size)
    base.config.get_text_config().pad_token_id = config.get_text_config().pad_token_id
    return PeftModel.from_pretrained(base, name).eval(), [] if kind is LM else lacks_head(name)


def lacks_head(name: str) -> list[str]:
    """What an adapter, in a folder or of the hub, should have saved beside its own weights and has not."""
    with safe_open(find_file(name, "adapter_model.safetensors", {}), framework="pt") as tensors:
        head = any(re.search(r"\b(score|classifier)\b", key) for key in tensors.keys())
    return [] if head else ["the head (modules_to_save)"]


@torch.no_grad()
def plain_scores(
    model: torch.nn.Module,
    tokenizer: Any,
    cases: list[dict],
    *,
    separator: str,
    label_tokens: tuple[int, int] | None = None,
    attribute_weights: list[float] | None = None,
) -> list[list[float]]:
    """Scores of canonical rows: of a completion its reward, of steps the probability of each that it is right.

    Args:
        label_tokens: ids of a causal LM's tokens for a wrong and for a right step.
        attribute_weights: of the outputs' sum that is the reward; there is one output when None.

    Raises:
        ValueError: the model has no position for a token of a case.
    """
    weights = torch.tensor(attribute_weights or [1.0])
    columns = None if label_tokens is None else list(label_tokens)
    encoded = [
        _steps(tokenizer, case, separator) if "completions" in case else _completion(tokenizer, case) for case in cases
    ]
    most, rows = learned_positions(model) or math.inf, len(model.get_input_embeddings().weight)
    for case, (ids, _) in zip(cases, encoded, strict=True):
        if len(ids) > most:
            raise ValueError(f"{case['name']}: {len(ids)} tokens are more than the model's {most} positions.")
        if max(ids, default=0) >= rows:
            raise ValueError(f"{case['name']}: token {max(ids)} is beyond the model's embedding of {rows} rows.")
    pad, scores = model.config.get_text_config().pad_token_id, []
    alone = rotary_sides(model) is not None  # or the longest text of a batch would decide over the others
    size = 1 if alone or pad is None else _BATCH
    for start in range(0, len(encoded), size):
        batch = encoded[start : start + size]
        width = max(len(ids) for ids, _ in batch)
        input_ids = torch.full((len(batch), width), pad or 0)
        mask = torch.zeros_like(input_ids)
        for row, (ids, _) in enumerate(batch):
            input_ids[row, : len(ids)], mask[row, : len(ids)] = torch.tensor(ids), 1
        if alone:
            model(input_ids=input_ids[:, :1])  # a short text: dynamic NTK forgets a longer one
        logits = model(input_ids=input_ids, attention_mask=mask).logits
        logits = (logits if columns is None else logits[..., columns]).float()
        for row, (_, ends) in enumerate(batch):
            scores.append(
                [(logits[row] @ weights).item()] if ends is None else _probabilities(logits[row], ends, width)
            )
    return scores


def _probabilities(logits_LC: torch.Tensor, ends: list[int], width: int) -> list[float]:
    logits_SC = logits_LC[len(logits_LC) - width :][ends]  # behind the virtual tokens of prompt tuning
    return (logits_SC.sigmoid()[:, 0] if logits_SC.shape[-1] == 1 else logits_SC.softmax(-1)[:, 1]).tolist()


def _completion(tokenizer: Any, case: dict) -> tuple[list[int], None]:
    """Text with EOS behind it, or what the chat template renders."""
    prompt, completion = case["prompt"], case["completion"]
    if not isinstance(completion, str):
        return _rendered(tokenizer, [*prompt, *completion], case), None
    ids = tokenizer(prompt + completion)["input_ids"]
    eos = tokenizer.eos_token_id
    return (ids if eos is None or ids[-1:] == [eos] else [*ids, eos]), None


def _steps(tokenizer: Any, case: dict, separator: str) -> tuple[list[int], list[int]]:
    """The prompt, each step and each separator tokenized by itself, and where the separators end."""
    prompt, bos = case["prompt"], tokenizer.bos_token_id
    if isinstance(prompt, str):
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = ids if bos is None or ids[:1] == [bos] else [bos, *ids]
    else:
        ids = _rendered(tokenizer, prompt, case, add_generation_prompt=True)
    ends = []
    for step in case["completions"]:
        for text in (step, separator):
            ids += tokenizer(text, add_special_tokens=False)["input_ids"]
        ends.append(len(ids) - 1)
    return ids, ends


def _rendered(tokenizer: Any, messages: list[dict], case: dict, **options: Any) -> list[int]:
    options |= {"tools": case.get("tools"), **case.get("chat_template_kwargs", {})}
    return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)["input_ids"])
