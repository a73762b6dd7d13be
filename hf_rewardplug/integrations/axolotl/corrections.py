"""An axolotl config before axolotl reads it: what the plugin sets right, and what it refuses.

In: the YAML's keys and values, which are changed in place. Out: warnings, or a `ValueError` where axolotl would train
something else in silence, or fail with an error that does not name the cause. axolotl is not imported.
"""

import difflib
from collections.abc import MutableMapping
from typing import Any

from ...model.head import HEAD_NAME
from . import keys
from .config import TASKS, own_options
from .values import set_values

_FUSED_LORA = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")

_DROPPED = tuple(
    """
    streaming dataset_shard_num dataset_shard_idx dataset_exact_deduplication eval_sequence_len layer_offloading
    context_parallel_size sequence_parallel_degree
    """.split()
)
"""keys that axolotl 0.19 does not pass on to the data or the trainer of a plugin, or that would cut packed trees"""

_CALLED = {"orm": "outcome", "prm": "process"}

_OF_COMMANDS = frozenset("debug debug_text_only debug_num_examples prompter shard download iterable inference".split())
"""arguments of axolotl's commands, which axolotl puts among the keys"""

_NEAR = 0.85
"""a key that is at least so similar to an option of this package counts as a misspelt one"""


def correct(raw: MutableMapping[str, Any], task: str) -> list[str]:
    """Change `cfg` in place.

    Args:
        task: "orm" or "prm".

    Returns:
        Warnings.

    Raises:
        ValueError: an option of the other task, a misspelt one, or a key that would do nothing or lose the head.
    """
    own = own_options(task)
    cfg = set_values(raw, options=own)
    warnings = _check_options(cfg, task, own)
    for key in (*_DROPPED, *(("activation_offloading",) if task == "prm" else ())):
        if keys.asks(cfg, key):
            raise ValueError(f"`{key}`: {keys.REFUSED[key]}.")
    if cfg.get("merge_lora") and not cfg.get("good_token"):
        raise ValueError("`axolotl merge-lora` leaves the reward head out. In Python: hf_rewardplug.merge_adapter.")
    if cfg.get("adapter") in ("lora", "qlora"):
        raw.update(_of_adapter(cfg, task))
    if cfg.get("good_token") and not (cfg.get("model_type") or cfg.get("type_of_model")):
        raw["model_type"] = "AutoModelForCausalLM"
    if attributes := cfg.get("attributes"):
        if cfg.get("num_labels") not in (None, len(attributes)):
            raise ValueError(f"`num_labels: {cfg['num_labels']}`; `attributes` has {len(attributes)}: leave it out.")
        raw["num_labels"] = len(attributes)
    return warnings


def _check_options(cfg: dict[str, Any], task: str, own: dict[str, Any]) -> list[str]:
    """Options are checked here, since axolotl's schema drops whatever it does not know."""
    others = {name for other in TASKS for name in own_options(other)}.difference(own)
    of_axolotl = {*keys.known(), *own}
    for name in ("column_mapping", "ignore_columns"):
        if cfg.get(name):
            raise ValueError(f"`{name}` belongs to a data set: set it in an entry of `datasets`.")
    warnings = []
    for key in map(str, cfg):
        if key in others:
            raise ValueError(f"`{key}` is not an option of {_CALLED[task]} reward models.")
        if key in of_axolotl or key in _OF_COMMANDS:
            continue
        if difflib.get_close_matches(key, own, n=1, cutoff=_NEAR):
            raise ValueError(keys.unknown_key(key, own))
        warnings.append(f"{keys.unknown_key(key, of_axolotl)} Only another plugin may know it.")
    return warnings


def _of_adapter(cfg: dict[str, Any], task: str) -> dict[str, Any]:
    """Fused kernels, which axolotl switches on, are for causal LMs alone; a head must not be quantized.

    >>> _of_adapter({"adapter": "qlora"}, "prm")["bnb_config_kwargs"]
    {'llm_int8_skip_modules': ['score']}
    """
    changes: dict[str, Any] = {}
    for key in _FUSED_LORA:
        if cfg.get(key) and not cfg.get("good_token"):
            raise ValueError(f"`{key}` is for causal LMs alone; leave it out.")
        changes[key] = cfg.get(key, False)
    if task == "prm" and cfg.get("load_in_8bit"):
        raise ValueError("`load_in_8bit` would quantize the head; take `adapter: qlora` with `load_in_4bit: true`.")
    if cfg["adapter"] == "qlora":
        options = cfg.get("bnb_config_kwargs", {})
        head = "lm_head" if cfg.get("good_token") else HEAD_NAME
        skipped = [*(options.get("llm_int8_skip_modules") or ()), head]
        changes["bnb_config_kwargs"] = {**options, "llm_int8_skip_modules": skipped}
    return changes
