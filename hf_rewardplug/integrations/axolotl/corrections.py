"""An axolotl config before axolotl reads it: what the plugin sets right, and what it refuses.

In: the YAML's keys and values, which are changed in place. Out: warnings, or a `ValueError` where axolotl would train
something else in silence, or fail where nobody can tell why. axolotl is not imported.
"""

import difflib
from collections.abc import MutableMapping
from typing import Any

from ...model.head import HEAD_NAME
from . import keys
from .config import KINDS, own_options
from .values import set_values

_FUSED_LORA = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")

_DROPPED = tuple(
    """
    streaming dataset_shard_num dataset_shard_idx dataset_exact_deduplication eval_sequence_len layer_offloading
    context_parallel_size sequence_parallel_degree
    """.split()
)
"""keys of its own that axolotl 0.19 does not bring to a plugin's data or trainer, or that cut packed trees"""

_CALLED = {"orm": "outcome", "prm": "process"}

_OF_COMMANDS = frozenset("debug debug_text_only debug_num_examples prompter shard download iterable inference".split())
"""arguments of axolotl's commands, which stand beside the keys"""

_NEAR = 0.85
"""similarity from which a key is taken for a misspelt option of this package"""


def correct(cfg: MutableMapping[str, Any], kind: str) -> list[str]:
    """Change `cfg` in place.

    Args:
        kind: "orm" or "prm".

    Returns:
        Warnings.

    Raises:
        ValueError: an option of the other kind, a misspelt one, or a key that would do nothing or lose the head.
    """
    own = own_options(kind)
    given = set_values(cfg, options=own)
    warnings = _check_options(given, kind, own)
    for key in (*_DROPPED, *(("activation_offloading",) if kind == "prm" else ())):
        if keys.asks(given, key):
            raise ValueError(f"`{key}`: {keys.REFUSED[key]}.")
    if given.get("merge_lora") and not given.get("good_token"):
        raise ValueError("`axolotl merge-lora` leaves the reward head out. In Python: hf_rewardplug.merge_adapter.")
    if given.get("adapter") in ("lora", "qlora"):
        cfg.update(_of_adapter(given, kind))
    if given.get("good_token") and not (given.get("model_type") or given.get("type_of_model")):
        cfg["model_type"] = "AutoModelForCausalLM"
    if attributes := given.get("attributes"):
        if given.get("num_labels") not in (None, len(attributes)):
            raise ValueError(f"`num_labels: {given['num_labels']}`; `attributes` has {len(attributes)}: leave it out.")
        cfg["num_labels"] = len(attributes)
    return warnings


def _check_options(given: dict[str, Any], kind: str, own: dict[str, Any]) -> list[str]:
    """axolotl's schema drops whatever it does not know."""
    others = {name for one in KINDS for name in own_options(one)}.difference(own)
    of_axolotl = {*keys.known(), *own}
    for name in ("column_mapping", "ignore_columns"):
        if given.get(name):
            raise ValueError(f"`{name}` belongs to a data set: set it in an entry of `datasets`.")
    warnings = []
    for key in map(str, given):
        if key in others:
            raise ValueError(f"`{key}` is not had for {_CALLED[kind]} reward models.")
        if key in of_axolotl or key in _OF_COMMANDS:
            continue
        if difflib.get_close_matches(key, own, n=1, cutoff=_NEAR):
            raise ValueError(keys.unknown_key(key, own))
        warnings.append(f"{keys.unknown_key(key, of_axolotl)} Only another plugin may know it.")
    return warnings


def _of_adapter(given: dict[str, Any], kind: str) -> dict[str, Any]:
    """Fused kernels, which axolotl switches on, are for causal LMs alone; a head must not be quantized.

    >>> _of_adapter({"adapter": "qlora"}, "prm")["bnb_config_kwargs"]
    {'llm_int8_skip_modules': ['score']}
    """
    found: dict[str, Any] = {}
    for key in _FUSED_LORA:
        if given.get(key) and not given.get("good_token"):
            raise ValueError(f"`{key}` is for causal LMs alone; leave it out.")
        found[key] = given.get(key, False)
    if kind == "prm" and given.get("load_in_8bit"):
        raise ValueError("`load_in_8bit` would quantize the head; take `adapter: qlora` with `load_in_4bit: true`.")
    if given["adapter"] == "qlora":
        options = given.get("bnb_config_kwargs", {})
        head = "lm_head" if given.get("good_token") else HEAD_NAME
        skipped = [*(options.get("llm_int8_skip_modules") or ()), head]
        found["bnb_config_kwargs"] = {**options, "llm_int8_skip_modules": skipped}
    return found
