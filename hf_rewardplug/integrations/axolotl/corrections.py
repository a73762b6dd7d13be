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

_FUSED_LORA = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")

_DROPPED = (
    *("streaming", "dataset_shard_num", "dataset_shard_idx", "dataset_exact_deduplication", "eval_sequence_len"),
    "layer_offloading",
)
"""keys of its own that axolotl 0.19 does not bring to a plugin's data or trainer"""

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
    warnings = _check_options(cfg, kind)
    for key in (*_DROPPED, *(("activation_offloading",) if kind == "prm" else ())):
        if cfg.get(key) and not (key == "eval_sequence_len" and cfg[key] == cfg.get("sequence_len")):
            raise ValueError(f"`{key}`: {keys.REFUSED[key]}.")
    if cfg.get("merge_lora") and not cfg.get("good_token"):
        raise ValueError("`axolotl merge-lora` leaves the reward head out. In Python: hf_rewardplug.merge_adapter.")
    _correct_adapter(cfg, kind)
    if cfg.get("good_token") and not (cfg.get("model_type") or cfg.get("type_of_model")):
        cfg["model_type"] = "AutoModelForCausalLM"
    if attributes := cfg.get("attributes"):
        if cfg.get("num_labels") not in (None, len(attributes)):
            raise ValueError(f"`num_labels: {cfg['num_labels']}`; `attributes` has {len(attributes)}: leave it out.")
        cfg["num_labels"] = len(attributes)
    return warnings


def _check_options(cfg: MutableMapping[str, Any], kind: str) -> list[str]:
    """axolotl's schema drops whatever it does not know."""
    own = own_options(kind)
    others = {name for one in KINDS for name in own_options(one)}.difference(own)
    of_axolotl = {*keys.known(), *own}
    if cfg.get("column_mapping"):
        raise ValueError("`column_mapping` belongs to a data set: set it in an entry of `datasets`.")
    warnings = []
    for key in (str(key) for key, value in cfg.items() if value is not None):
        if key in others:
            raise ValueError(f"`{key}` is no option of {_CALLED[kind]} reward models.")
        if key in of_axolotl:
            continue
        if difflib.get_close_matches(key, own, n=1, cutoff=_NEAR):
            raise ValueError(keys.unknown_key(key, own))
        warnings.append(f"{keys.unknown_key(key, of_axolotl)} Only another plugin may know it.")
    return warnings


_CALLED = {"orm": "outcome", "prm": "process"}


def _correct_adapter(cfg: MutableMapping[str, Any], kind: str) -> None:
    """Fused kernels, which axolotl switches on, are for causal LMs alone; a head must not be quantized."""
    adapter = cfg.get("adapter")
    if adapter not in ("lora", "qlora"):
        return
    for key in _FUSED_LORA:
        if cfg.get(key) and not cfg.get("good_token"):
            raise ValueError(f"`{key}` is for causal LMs alone; leave it out.")
        if cfg.get(key) is None:
            cfg[key] = False
    if kind == "prm" and cfg.get("load_in_8bit"):
        raise ValueError("`load_in_8bit` would quantize the head; take `adapter: qlora` with `load_in_4bit: true`.")
    if adapter == "qlora":
        options = dict(cfg.get("bnb_config_kwargs") or {})
        skipped = options.get("llm_int8_skip_modules") or ()
        cfg["bnb_config_kwargs"] = {**options, "llm_int8_skip_modules": [*skipped, HEAD_NAME]}
