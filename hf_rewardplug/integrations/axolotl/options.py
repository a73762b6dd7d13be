"""Groups of axolotl's keys that are read together, as arguments of this package's configs.

In: the keys of a config that are set. Out: arguments of `RewardConfig` and `PRMConfig`, each group by a pure function.
Defaults are axolotl's where it has one.
"""

from typing import Any

from .keys import ATTENTION, LIGER, LORA, REPORTS

Given = dict[str, Any]

_OWN_OPTIMIZERS = (
    *("optimi_adamw", "ao_adamw_4bit", "ao_adamw_8bit", "ao_adamw_fp8", "adopt_adamw", "adamc", "came_pytorch", "muon"),
    *("dion", "sinkgd", "polora", "flash_adamw", "flash_adam", "flash_sgd", "flash_sgdw", "flash_lion"),
    "q_galore_adamw8bit",
)


def overlong(given: Given) -> dict[str, Any]:
    """
    >>> overlong({"excess_length_strategy": "raise"}), overlong({})
    ({'overlong': 'error'}, {})
    """
    strategy = given.get("excess_length_strategy")
    return {} if strategy is None else {"overlong": "error" if strategy == "raise" else strategy}


def batches(given: Given) -> dict[str, Any]:
    """
    >>> batches({"batch_size": 32, "micro_batch_size": 4})
    {'per_device_train_batch_size': 4, 'gradient_accumulation_steps': 8}
    """
    rows, steps = given.get("micro_batch_size", 1), given.get("gradient_accumulation_steps")
    if steps is None:
        steps = given.get("batch_size", rows) // rows
        if steps < 1:
            raise ValueError(f"`batch_size: {given['batch_size']}` is below `micro_batch_size: {rows}`.")
    elif "batch_size" in given:
        raise ValueError("Both `batch_size` and `gradient_accumulation_steps` are set; leave `batch_size` out.")
    return {"per_device_train_batch_size": rows, "gradient_accumulation_steps": steps}


def optimization(given: Given) -> dict[str, Any]:
    """Optimizer and schedule. A `warmup_steps` below 1 is a share of the steps.

    >>> optimization({"cosine_min_lr_ratio": 0.1})["lr_scheduler_kwargs"]
    {'min_lr_rate': 0.1}
    """
    optimizer, schedule = given.get("optimizer", "adamw_torch_fused"), given.get("lr_scheduler", "cosine")
    if optimizer in _OWN_OPTIMIZERS:
        raise ValueError(
            f"`optimizer: {optimizer}` is axolotl's own. Take one of transformers', such as adamw_torch_fused."
        )
    if schedule in ("one_cycle", "rex"):
        raise ValueError(f"`lr_scheduler: {schedule}` is axolotl's own. Take one of transformers', such as cosine.")
    options = {"optim": optimizer, "lr_scheduler_type": schedule}
    options["warmup_steps"] = given.get("warmup_steps", given.get("warmup_ratio", 0.03))
    if "cosine_min_lr_ratio" in given and schedule == "cosine":
        options["lr_scheduler_type"] = "cosine_with_min_lr"
        options["lr_scheduler_kwargs"] = {"min_lr_rate": given["cosine_min_lr_ratio"]}
    extra = given.get("optim_args")
    if extra is not None:
        options["optim_args"] = ",".join(f"{k}={v}" for k, v in extra.items()) if isinstance(extra, dict) else extra
    return options


def precision(given: Given, *, bf16_here: bool) -> tuple[dict[str, Any], str]:
    """Arguments, and the dtype that the weights are loaded in: bf16 with bf16, as axolotl loads them, or fp32.

    >>> precision({"bf16": "auto"}, bf16_here=False), precision({"bf16": True}, bf16_here=True)
    (({'bf16': False, 'fp16': False}, 'float32'), ({'bf16': True, 'fp16': False}, 'bfloat16'))
    """
    bf16, fp16 = given.get("bf16", given.get("bfloat16", "auto")), bool(given.get("fp16") or given.get("float16"))
    full = bf16 == "full"
    bf16 = (bf16_here and not fp16 and not given.get("float32")) if bf16 == "auto" else bool(bf16)
    if bf16 and fp16:
        raise ValueError("Both `bf16` and `fp16` are on; take one of them.")
    options = {"bf16": bf16, "fp16": fp16}
    options |= {"bf16_full_eval": True} if full else {}
    options |= {"tf32": True} if given.get("tf32") is True else {}
    return options, "bfloat16" if bf16 else "float32"


def saving(given: Given, *, held_out: bool) -> dict[str, Any]:
    """When to save and to evaluate; steps below 1 are a share of all.

    >>> saving({"saves_per_epoch": 2, "num_epochs": 2}, held_out=False)
    {'save_strategy': 'steps', 'save_steps': 0.25, 'save_total_limit': 4, 'eval_strategy': 'no'}
    """
    options = {"save_strategy": given.get("save_strategy", "epoch")}
    if save_steps := given.get("save_steps") or _share(given, "saves_per_epoch"):
        options |= {"save_strategy": "steps", "save_steps": save_steps}
    options["save_total_limit"] = given.get("save_total_limit", 4)
    if not held_out:
        return {**options, "eval_strategy": "no"}
    options["eval_strategy"] = given.get("eval_strategy", given.get("evaluation_strategy", "no"))
    if eval_steps := given.get("eval_steps") or _share(given, "evals_per_epoch"):
        options |= {"eval_strategy": "steps", "eval_steps": eval_steps}
    options["eval_on_start"] = options["eval_strategy"] != "no"
    return options


def _share(given: Given, key: str) -> float | None:
    """So many times an epoch as a share of the run; None where that would be every step, as in axolotl."""
    share = 1 / (given[key] * given.get("num_epochs", 1)) if given.get(key) else 1
    return share if share < 1 else None


def reporting(given: Given) -> dict[str, Any]:
    """
    >>> reporting({"use_wandb": True, "wandb_name": "run 1"}), reporting({})
    ({'report_to': ['wandb'], 'run_name': 'run 1'}, {'report_to': 'none'})
    """
    trackers = [tracker for key, tracker in REPORTS.items() if given.get(key)]
    options = {"report_to": trackers or "none"}
    names = [given[key] for key in ("wandb_name", "mlflow_run_name", "trackio_run_name") if key in given]
    return {**options, "run_name": names[0]} if names else options


def distributed(given: Given) -> dict[str, Any]:
    """DeepSpeed and FSDP, in transformers' words.

    >>> distributed({"fsdp_version": 2, "fsdp_config": {"offload_params": True, "reshard_after_forward": True}})
    {'fsdp': True, 'fsdp_config': {'cpu_offload': True, 'reshard_after_forward': True, 'version': 2}}
    """
    if "deepspeed" in given:
        if given.get("fsdp") or given.get("fsdp_config"):
            raise ValueError("Both `deepspeed` and `fsdp_config` are set; take one of them.")
        return {"deepspeed": given["deepspeed"]}
    config = {key.removeprefix("fsdp_"): value for key, value in (given.get("fsdp_config") or {}).items()}
    if not config and not given.get("fsdp"):
        return {}
    final = given.get("fsdp_final_state_dict_type", config.pop("final_state_dict_type", None))
    if final not in (None, "FULL_STATE_DICT"):
        raise ValueError(f"`fsdp_final_state_dict_type: {final}` is not had: the final model is saved whole.")
    if "offload_params" in config:
        config["cpu_offload"] = config.pop("offload_params")
    if "fsdp_version" in given:
        config["version"] = given["fsdp_version"]
    return {"fsdp": given.get("fsdp") or True, "fsdp_config": dict(sorted(config.items()))}


def liger(given: Given) -> dict[str, Any]:
    """
    >>> liger({"liger_rope": True, "liger_glu_activation": False})
    {'use_liger_kernel': True, 'liger_kernel_config': {'rope': True, 'swiglu': False}}
    """
    parts = {name: given[key] for key, name in LIGER.items() if key in given}
    return {"use_liger_kernel": True, "liger_kernel_config": parts} if any(parts.values()) else {}


def attention(given: Given) -> str | None:
    """`attn_implementation`, if a key names one."""
    flags = [name for flag, name in ATTENTION.items() if given.get(flag)]
    return given.get("attn_implementation") or (flags[0] if flags else None)


def lora(given: Given) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Arguments of `peft.LoraConfig` and of `transformers.BitsAndBytesConfig`, None where not asked for.

    >>> lora({"adapter": "lora", "lora_r": 8, "lora_target_linear": True})
    ({'r': 8, 'target_modules': 'all-linear'}, None)
    """
    kind, four, eight = given.get("adapter"), given.get("load_in_4bit"), given.get("load_in_8bit")
    if kind not in (None, "lora", "qlora"):
        raise ValueError(f"`adapter: {kind}` is not had; expected lora or qlora.")
    if kind is None:
        if (four or eight) or any(given.get(key) for key in LORA):
            raise ValueError("Keys of an adapter are set, but `adapter` is not; set `adapter: lora` or qlora.")
        return None, None
    if kind == "qlora" and not four:
        raise ValueError("`adapter: qlora` needs `load_in_4bit: true`.")
    arguments = {name: given[key] for key, name in LORA.items() if key in given}
    if given.get("lora_target_linear"):
        arguments["target_modules"] = "all-linear"
    if four:
        four_bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        return arguments, {**four_bits, **given.get("bnb_config_kwargs", {})}
    return arguments, {"load_in_8bit": True} if eight else None
