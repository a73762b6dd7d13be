"""Groups of axolotl's keys that are read together, as arguments of this package's configs.

In: the keys of a config that are set. Out: arguments of `RewardConfig` and `PRMConfig`, each group by a pure function.
Defaults are axolotl's where it has one.
"""

from typing import Any

from . import keys

Keys = dict[str, Any]

_OWN_OPTIMIZERS = (
    *("optimi_adamw", "ao_adamw_4bit", "ao_adamw_8bit", "ao_adamw_fp8", "adopt_adamw", "adamc", "came_pytorch", "muon"),
    *("dion", "sinkgd", "polora", "flash_adamw", "flash_adam", "flash_sgd", "flash_sgdw", "flash_lion"),
    *("q_galore_adamw8bit", "scao", "muon_8bit"),
)


def overlong(cfg: Keys) -> dict[str, Any]:
    """
    >>> overlong({"excess_length_strategy": "raise"}), overlong({})
    ({'overlong': 'error'}, {})
    """
    strategy = cfg.get("excess_length_strategy")
    if strategy not in (None, "drop", "truncate", "raise"):
        raise ValueError(f"`excess_length_strategy: {strategy}`; expected drop, truncate or raise.")
    return {} if strategy is None else {"overlong": "error" if strategy == "raise" else strategy}


def batches(cfg: Keys) -> dict[str, Any]:
    """
    >>> batches({"batch_size": 32, "micro_batch_size": 4})
    {'per_device_train_batch_size': 4, 'per_device_eval_batch_size': 4, 'gradient_accumulation_steps': 8}
    """
    rows, steps = cfg.get("micro_batch_size", 1), cfg.get("gradient_accumulation_steps")
    if steps is None:
        steps = cfg.get("batch_size", rows) // rows
        if steps < 1:
            raise ValueError(f"`batch_size: {cfg['batch_size']}` is below `micro_batch_size: {rows}`.")
    elif "batch_size" in cfg:
        raise ValueError("Both `batch_size` and `gradient_accumulation_steps` are set; leave `batch_size` out.")
    return {
        "per_device_train_batch_size": rows,
        "per_device_eval_batch_size": cfg.get("eval_batch_size", rows),
        "gradient_accumulation_steps": steps,
    }


def optimization(cfg: Keys) -> dict[str, Any]:
    """Optimizer and schedule. A `warmup_steps` below 1 is a share of the steps.

    >>> optimization({"cosine_min_lr_ratio": 0.1})["lr_scheduler_kwargs"]
    {'min_lr_rate': 0.1}
    """
    optimizer, schedule = cfg.get("optimizer", "adamw_torch_fused"), cfg.get("lr_scheduler", "cosine")
    if optimizer in _OWN_OPTIMIZERS:
        raise ValueError(
            f"`optimizer: {optimizer}` is axolotl's own. Take one of transformers', such as adamw_torch_fused."
        )
    if schedule in ("one_cycle", "rex"):
        raise ValueError(f"`lr_scheduler: {schedule}` is axolotl's own. Take one of transformers', such as cosine.")
    options = {"optim": optimizer, "lr_scheduler_type": schedule}
    options["warmup_steps"] = cfg.get("warmup_steps", cfg.get("warmup_ratio", 0.03))
    if "cosine_min_lr_ratio" in cfg and schedule == "cosine":
        options["lr_scheduler_type"] = "cosine_with_min_lr"
        options["lr_scheduler_kwargs"] = {"min_lr_rate": cfg["cosine_min_lr_ratio"]}
    extra = cfg.get("optim_args")
    if extra is not None:
        options["optim_args"] = ",".join(f"{k}={v}" for k, v in extra.items()) if isinstance(extra, dict) else extra
    return options


def precision(cfg: Keys, *, bf16_here: bool) -> tuple[dict[str, Any], str]:
    """Arguments, and the dtype that the weights are loaded in: bf16 with bf16, as axolotl loads them, or fp32.

    >>> precision({"bf16": "auto"}, bf16_here=False), precision({"bf16": True}, bf16_here=True)
    (({'bf16': False, 'fp16': False}, 'float32'), ({'bf16': True, 'fp16': False}, 'bfloat16'))
    """
    bf16, fp16 = cfg.get("bfloat16") or cfg.get("bf16", "auto"), bool(cfg.get("fp16") or cfg.get("float16"))
    if bf16 not in (True, False, "auto", "full"):
        raise ValueError(f"`bf16: {bf16}`; expected auto, true, false or full.")
    full = bf16 == "full"
    bf16 = (bf16_here and not fp16 and not cfg.get("float32")) if bf16 == "auto" else bool(bf16)
    if bf16 and fp16:
        raise ValueError("Both `bf16` and `fp16` are on; take one of them.")
    options = {"bf16": bf16, "fp16": fp16}
    options |= {"bf16_full_eval": True} if full else {}
    options |= {"tf32": True} if cfg.get("tf32") is True else {}
    return options, "bfloat16" if bf16 else "float32"


def saving(cfg: Keys, *, held_out: bool) -> dict[str, Any]:
    """When to save and to evaluate; steps below 1 are a share of all.

    >>> saving({"saves_per_epoch": 2, "num_epochs": 2}, held_out=False)
    {'save_strategy': 'steps', 'save_steps': 0.25, 'save_total_limit': 4, 'eval_strategy': 'no', 'eval_on_start': False}
    """
    options = {"save_strategy": cfg.get("save_strategy", "epoch")}
    if save_steps := cfg.get("save_steps") or _share(cfg, "saves_per_epoch"):
        options |= {"save_strategy": "steps", "save_steps": save_steps}
    options["save_total_limit"] = cfg.get("save_total_limit") or 4
    options["eval_strategy"] = cfg.get("eval_strategy", cfg.get("evaluation_strategy", "no"))
    if eval_steps := cfg.get("eval_steps") or _share(cfg, "evals_per_epoch"):
        options |= {"eval_strategy": "steps", "eval_steps": eval_steps}
    if not held_out:
        options["eval_strategy"] = "no"
    options["eval_on_start"] = options["eval_strategy"] != "no" and cfg.get("eval_on_start", True)
    return options | (_early_stopping(cfg, options) if cfg.get("early_stopping_patience") else {})


def _early_stopping(cfg: Keys, options: dict[str, Any]) -> dict[str, Any]:
    """The best model is kept where every one that is saved is evaluated, by axolotl's rule."""
    if options["eval_strategy"] == "no":
        raise ValueError(
            "`early_stopping_patience` counts evaluations: set `eval_steps`, and `val_set_size` or `test_datasets`."
        )
    saved, evaluated = options.get("save_steps", 0), options.get("eval_steps", 0)
    if min(saved, evaluated) < 1 or saved % evaluated:  # shares of a run are rounded, each by itself
        raise ValueError(
            "`early_stopping_patience` keeps the best model: set `save_steps` and `eval_steps`, in steps, the first a "
            "multiple of the second."
        )
    return {"metric_for_best_model": cfg.get("metric_for_best_model", "loss"), "load_best_model_at_end": True}


def _share(cfg: Keys, key: str) -> float | None:
    """So many times an epoch as a share of the run; None where that would be every step, as in axolotl."""
    share = 1 / (cfg[key] * cfg.get("num_epochs", 1)) if cfg.get(key) else 1
    return share if share < 1 else None


def reporting(cfg: Keys) -> dict[str, Any]:
    """
    >>> reporting({"use_wandb": True, "wandb_name": "run 1"}), reporting({"trackio_project_name": "p"}), reporting({})
    ({'report_to': ['wandb'], 'run_name': 'run 1'}, {'report_to': ['trackio']}, {'report_to': []})
    """
    by_project = {flag: True for project, flag in keys.PROJECTS.items() if cfg.get(project)}
    trackers = [tracker for key, tracker in keys.REPORTS.items() if cfg.get(key, by_project.get(key))]
    options = {"report_to": trackers}
    run_names = ("wandb_name", "wandb_run_id", "mlflow_run_name", "trackio_run_name")
    names = [str(cfg[key]) for key in run_names if key in cfg]
    return {**options, "run_name": names[0]} if names else options


def distributed(cfg: Keys) -> dict[str, Any]:
    """DeepSpeed and FSDP, in transformers' words.

    >>> distributed({"fsdp_version": 2, "fsdp_config": {"offload_params": True, "reshard_after_forward": True}})
    {'fsdp': True, 'fsdp_config': {'cpu_offload': True, 'reshard_after_forward': True, 'version': 2}}
    """
    if cfg.get("deepspeed"):
        if cfg.get("fsdp") or cfg.get("fsdp_config"):
            raise ValueError("Both `deepspeed` and `fsdp_config` are set; take one of them.")
        return {"deepspeed": cfg["deepspeed"]}
    config = _fsdp_config(cfg)
    if not config and not cfg.get("fsdp"):
        return {}
    final = cfg.get("fsdp_final_state_dict_type", config.pop("final_state_dict_type", None))
    if final not in (None, "FULL_STATE_DICT"):
        raise ValueError(f"`fsdp_final_state_dict_type: {final}` is not supported: the final model is saved whole.")
    if "offload_params" in config:
        config["cpu_offload"] = config.pop("offload_params")
    if "fsdp_version" in cfg:
        config["version"] = cfg["fsdp_version"]
    for key in config:
        if key not in {*keys.FSDP, *keys.FSDP_OF_AXOLOTL}:
            raise ValueError(f"{keys.unknown_key(key, keys.FSDP)} (in `fsdp_config`)")
    taken = {key: value for key, value in config.items() if key in keys.FSDP}
    return {"fsdp": cfg.get("fsdp") or True, "fsdp_config": dict(sorted(taken.items()))}


def _fsdp_config(cfg: Keys) -> dict[str, Any]:
    return {key.removeprefix("fsdp_"): value for key, value in cfg.get("fsdp_config", {}).items()}


def not_taken(cfg: Keys) -> dict[str, str]:
    """{key: why it is not taken} of keys that are read with others.

    >>> not_taken({"fsdp_config": {"sync_module_states": True}, "torch_compile": "auto"})
    ... # doctest: +NORMALIZE_WHITESPACE
    {'fsdp_version': "FSDP2 is taken, where axolotl's default is 1",
     'fsdp_config.sync_module_states': 'FSDP1 alone has it',
     'torch_compile': 'packed batches have no fixed shape; true compiles, and pads'}
    """
    reasons, config = {}, _fsdp_config(cfg)
    version = cfg.get("fsdp_version", config.get("version"))
    if (config or cfg.get("fsdp")) and version is None:
        reasons["fsdp_version"] = "FSDP2 is taken, where axolotl's default is 1"
    reasons |= {f"fsdp_config.{key}": "accelerate decides it" for key in keys.FSDP_OF_AXOLOTL if key in config}
    if str(version) != "1":
        reasons |= {f"fsdp_config.{key}": "FSDP1 alone has it" for key in sorted(keys.OF_FSDP_1.intersection(config))}
    if cfg.get("torch_compile") == "auto":
        reasons["torch_compile"] = "packed batches have no fixed shape; true compiles, and pads"
    if (name := cfg.get("chat_template")) in keys.OWN_TEMPLATES:
        reasons["chat_template"] = f"the tokenizer's own template is taken, not axolotl's {name}"
    if cfg.get("chat_template_jinja") and cfg.get("chat_template") not in (None, "jinja"):
        reasons["chat_template_jinja"] = "`chat_template` is not jinja"
    return reasons


def liger(cfg: Keys) -> dict[str, Any]:
    """
    >>> liger({"liger_rope": True, "liger_glu_activation": False})
    {'use_liger_kernel': True, 'liger_kernel_config': {'rope': True, 'swiglu': False}}
    """
    parts = {name: cfg[key] for key, name in keys.LIGER.items() if key in cfg}
    return {"use_liger_kernel": True, "liger_kernel_config": parts} if any(parts.values()) else {}


def pads(cfg: Keys) -> bool:
    """Whether batches are padded, with the attention that a key names; prefix trees have one of their own."""
    return cfg.get("prefix_sharing") is False or cfg.get("torch_compile") is True


def attention(cfg: Keys) -> str | None:
    """`attn_implementation`, if a key names one."""
    flags = [name for flag, name in keys.ATTENTION.items() if cfg.get(flag)]
    return cfg.get("attn_implementation") or (flags[0] if flags else None)


def lora(cfg: Keys, *, dtype: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Arguments of `peft.LoraConfig` and of `transformers.BitsAndBytesConfig`, None where not asked for.

    >>> lora({"adapter": "lora", "lora_r": 8, "lora_target_linear": True}, dtype="bfloat16")
    ({'r': 8, 'target_modules': 'all-linear'}, None)

    Args:
        dtype: in which quantized weights are multiplied.
    """
    adapter, four, eight = cfg.get("adapter"), cfg.get("load_in_4bit"), cfg.get("load_in_8bit")
    if adapter not in (None, "lora", "qlora"):
        raise ValueError(f"`adapter: {adapter}` is not supported; expected lora or qlora.")
    if adapter is None:
        if four or eight:
            raise ValueError("Quantized weights are not trained, and `adapter` is not set; set `adapter: qlora`.")
        return None, None
    if adapter == "qlora" and not four:
        raise ValueError("`adapter: qlora` needs `load_in_4bit: true`.")
    arguments = {name: cfg[key] for key, name in keys.LORA.items() if key in cfg}
    if cfg.get("lora_target_linear"):
        arguments["target_modules"] = "all-linear"
    if four:
        four_bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        dtypes = {"bnb_4bit_compute_dtype": dtype, "bnb_4bit_quant_storage": "bfloat16"}
        return arguments, {**four_bits, **dtypes, **cfg.get("bnb_config_kwargs", {})}
    return arguments, {"load_in_8bit": True} if eight else None
