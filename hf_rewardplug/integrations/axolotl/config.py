"""An axolotl config as the settings of a run of this package.

In: the keys and values of the YAML. Out: `Settings`: arguments of `RewardConfig` or `PRMConfig`, data entries, adapter
and quantization, and every key that is not taken with the reason. A pure function; axolotl is not imported.
"""

from dataclasses import dataclass, field
from typing import Any, get_type_hints

from ...data.chat_templates import CHAT_TEMPLATES
from ...data.entries import DataEntry
from . import keys
from . import options as read
from .data import RUN_OPTIONS, format_options, read_entries
from .values import set_values, truth

TASKS = ("orm", "prm")

_TASK_KEYS = {"reward_model": "orm", "process_reward_model": "prm"}
_MODELS = {"orm": "SequenceClassification", "prm": "TokenClassification"}
_FALLBACK = "tokenizer_default_fallback_"

_OF_OTHERS = frozenset(
    """
    adapter column_mapping ignore_columns chat_template max_length learning_rate num_labels dataset_num_proc
    model_init_kwargs trust_remote_code pad_to_multiple_of chat_template_path disable_dropout
    """.split()
)
"""arguments of this package's configs that axolotl has a key for, or that are of another use"""

_PLUGINS = {
    "hf_rewardplug.integrations.axolotl.RewardPlugPlugin": "",
    "axolotl.integrations.liger.LigerPlugin": "",
    "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin": "there is no vocabulary-wide loss",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an axolotl config asks for.

    Args:
        task: "orm" or "prm".
        model, tokenizer: names; the tokenizer's is None where it is the model's.
        special_tokens: {"pad_token": "<pad>", ...}.
        template: (how, what) for a chat template that the config's `chat_template` cannot name: ("text" or "file", it),
            ("fallback", a name) for a tokenizer without one, ("own", a mark) for the tokenizer's, if it has the mark.
        config: arguments of `RewardConfig` or `PRMConfig`.
        entries, test_entries, val_set_size: the data.
        ordered: the train rows stay in the order of their file.
        peft, quantization: arguments of `LoraConfig` and `BitsAndBytesConfig`, or None.
        patience: evaluations without a better one before the run stops.
        auto_resume: go on from the newest checkpoint, if there is one.
        environment: variables that trackers read.
        ignored: {key: why it is not taken}.
    """

    task: str
    model: str
    tokenizer: str | None = None
    special_tokens: dict[str, str] = field(default_factory=dict)
    template: tuple[str, str] | None = None
    config: dict[str, Any]
    entries: list[DataEntry]
    test_entries: list[DataEntry] = field(default_factory=list)
    val_set_size: float = 0
    ordered: bool = False
    peft: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    patience: int | None = None
    auto_resume: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)


def task_of(raw: dict[str, Any]) -> str | None:
    """
    >>> task_of({"reward_model": True}), task_of({"process_reward_model": True}), task_of({})
    ('orm', 'prm', None)

    Raises:
        ValueError: both are asked for.
    """
    asked = [task for key, task in _TASK_KEYS.items() if truth(raw.get(key)) is True]
    if len(asked) > 1:
        raise ValueError("Both `reward_model` and `process_reward_model` are true; a run trains one of them.")
    return asked[0] if asked else None


def own_options(task: str) -> dict[str, Any]:
    """Options of this package that a config may set at the top, beside axolotl's keys: {name: type}.

    >>> own_options("orm")["prefix_sharing"], own_options("prm")["step_separator"]
    (<class 'bool'>, <class 'str'>)
    """
    from ...train.config import PRMConfig, RewardConfig

    config_class = {"orm": RewardConfig, "prm": PRMConfig}[task]
    classes = [parent for parent in config_class.__mro__ if parent.__module__ == config_class.__module__]
    names = {name for parent in classes for name in parent.__annotations__}
    types = get_type_hints(config_class)
    return {name: types[name] for name in types if name in names - _OF_OTHERS and not name.startswith("_")}


def translate(raw: dict[str, Any], *, bf16_here: bool = False) -> Settings:
    """`raw`, the YAML, as settings.

    Args:
        bf16_here: whether the device computes in bf16, for `bf16: auto`.

    Raises:
        ValueError: no reward model is asked for, an unknown key (with the nearest known one), keys that are not
            supported, or values that do not go together.
    """
    task = task_of(raw)
    if task is None:
        raise ValueError("Neither `reward_model: true` nor `process_reward_model: true` is set; set one of them.")
    own = RUN_OPTIONS | own_options(task)  # both tasks know RUN_OPTIONS; `read_data` refuses them where it must
    cfg = set_values(raw, options=own)
    ignored = _check_keys(cfg, task, own)
    if "base_model" not in cfg:
        raise ValueError("`base_model` is not set: a hub id or a folder.")
    entries, test_entries, of_data, not_taken = read_data(cfg, task=task)
    own_given = of_data | {name: cfg[name] for name in own if name in cfg}
    not_taken_of_model, model_init, of_model = _model(cfg, task, own_given, bf16_here)
    named, template = _template(cfg)
    peft, quantization = read.lora(cfg, dtype=model_init["dtype"])
    held_out = bool(test_entries or cfg.get("val_set_size"))
    config = _plain(cfg, held_out=held_out) | of_model | named | format_options(entries, test_entries=test_entries)
    return Settings(
        task=task,
        model=cfg["base_model"],
        tokenizer=cfg.get("tokenizer_config"),
        special_tokens=dict(cfg.get("special_tokens", {})),
        template=template,
        config={**config, **own_given, "model_init_kwargs": model_init},
        entries=entries,
        test_entries=test_entries,
        val_set_size=cfg.get("val_set_size", 0),
        peft=peft,
        quantization=quantization,
        ordered=bool(cfg.get("curriculum_sampling")),
        patience=cfg.get("early_stopping_patience") or None,
        auto_resume=bool(cfg.get("auto_resume_from_checkpoints")),
        environment={keys.ENVIRONMENT[key]: str(cfg[key]) for key in keys.ENVIRONMENT if key in cfg},
        ignored=ignored | not_taken | not_taken_of_model,
    )


def read_data(
    cfg: dict[str, Any], *, task: str
) -> tuple[list[DataEntry], list[DataEntry], dict[str, Any], dict[str, str]]:
    """Entries of `datasets` and `test_datasets`, the options of the run in them, and {key: why it is not taken}.

    Raises:
        ValueError: an option has two values, or is of process reward models and `task` is "orm".
    """
    template = cfg.get("chat_template")
    entries, options, ignored = read_entries(cfg.get("datasets"), template=template)
    test_entries: list[DataEntry] = []
    of_tests: dict[str, Any] = {}
    if cfg.get("test_datasets"):
        test_entries, of_tests, not_taken = read_entries(cfg["test_datasets"], where="test_datasets", template=template)
        ignored |= not_taken
    for key in RUN_OPTIONS:
        places = {"datasets": options, "test_datasets": of_tests, "the top": cfg}
        values = {
            place: options_there[key] for place, options_there in places.items() if options_there.get(key) is not None
        }
        if len(set(map(repr, values.values()))) > 1:
            listed = ", ".join(f"{value!r} ({place})" for place, value in values.items())
            raise ValueError(f"`{key}` has two values, {listed}: a model has one.")
        if task == "orm" and values:
            raise ValueError(f"`{key}` is an option of process reward models.")
    return entries, test_entries, of_tests | options, ignored


def _plain(cfg: dict[str, Any], *, held_out: bool) -> dict[str, Any]:
    """Arguments that no other key decides, over axolotl's defaults."""
    return {
        "output_dir": "./model-out",
        "weight_decay": 0.0,
        "num_train_epochs": 1.0,
        "max_length": 512,
        **{key: cfg[key] for key in keys.SAME if key in cfg},
        **{name: cfg[key] for key, name in keys.RENAMED.items() if key in cfg},
        **read.batches(cfg),
        **read.optimization(cfg),
        **read.saving(cfg, held_out=held_out),
        **read.reporting(cfg),
        **read.distributed(cfg),
        **read.liger(cfg),
        **read.overlong(cfg),
        **_others(cfg),
    }


def _check_keys(cfg: dict[str, Any], task: str, own: dict[str, Any]) -> dict[str, str]:
    """{key: why it is ignored}; whatever is false, or what is done anyway, asks for nothing."""
    known = {*keys.known(), *own}
    for key in cfg:
        if key not in known:
            raise ValueError(keys.unknown_key(key, known))
    refused = [f"  {key}: {keys.REFUSED[key]}" for key in cfg if key in keys.REFUSED and keys.asks(cfg, key)]
    if refused:
        raise ValueError("Some keys are not supported here. Take them out:\n" + "\n".join(refused))
    ignored = {key: keys.IGNORED[key] for key, value in cfg.items() if key in keys.IGNORED and value is not False}
    for name in cfg.get("plugins", ()):
        if why := _PLUGINS.get(str(name).replace(":", "."), "plugins of axolotl's are not run"):
            ignored[f"plugins: {name}"] = why
    if not cfg.get("adapter"):
        ignored |= {key: "`adapter` is not set" for key in (*keys.LORA, "lora_target_linear") if cfg.get(key)}
    if task == "prm" and cfg.pop("center_rewards_coefficient", None):
        ignored["center_rewards_coefficient"] = "it centres the rewards of outcome reward models"
    return ignored | read.not_taken(cfg)


def _model(cfg: dict[str, Any], task: str, own: dict[str, Any], bf16_here: bool):
    """Why an attention is ignored, `model_init_kwargs`, and arguments of the config."""
    suffix = "CausalLM" if own.get("good_token") else _MODELS[task]
    name = cfg.get("model_type", cfg.get("type_of_model", suffix))
    if not name.endswith(suffix):
        raise ValueError(f"`model_type: {name}`; expected AutoModelFor{suffix}, or leave it out.")
    expected = {"orm": (len(own.get("attributes") or [0]),), "prm": (2, 1)}[task]
    labels = cfg.get("num_labels", expected[0])
    if labels not in expected:
        raise ValueError(f"`num_labels: {labels}`; expected {' or '.join(map(str, expected))}, or leave it out.")
    if cfg.get("base_model_config", cfg.get("base_model")) != cfg.get("base_model"):
        raise ValueError("`base_model_config` names another model than `base_model`; leave it out.")
    if cfg.get("model_config"):
        raise ValueError("`model_config` changes the model, which is trained as it is; take it out.")
    numbers, dtype = read.precision(cfg, bf16_here=bf16_here)
    model_init = {"dtype": dtype, **cfg.get("model_kwargs", cfg.get("overrides_of_model_kwargs", {}))}
    if revision := cfg.get("model_revision", cfg.get("revision_of_model")):
        model_init["revision"] = revision
    if cfg.get("use_kernels"):
        model_init["use_kernels"] = True
    not_taken_of_model, attention = {}, read.attention(cfg)
    if attention is not None and read.pads(cfg):
        model_init["attn_implementation"] = attention
    elif attention is not None:
        key = next(key for key in ("attn_implementation", *keys.ATTENTION) if cfg.get(key))
        not_taken_of_model = {key: keys.ATTENTION_OF_TREES}
    return not_taken_of_model, model_init, numbers | ({"num_labels": labels} if task == "prm" else {})


def _template(cfg: dict[str, Any]) -> tuple[dict[str, str], tuple[str, str] | None]:
    """The config's argument for a template that it can name; or how else to set it."""
    name, jinja = cfg.get("chat_template"), cfg.get("chat_template_jinja")
    if name in (None, "jinja") and jinja is not None:
        return {}, ("text" if "{" in jinja else "file", jinja)
    if name in (None, "tokenizer_default"):
        return {}, None
    if name in keys.OWN_TEMPLATES:
        return {}, ("own", keys.OWN_TEMPLATES[name])
    short = str(name).removeprefix(_FALLBACK)
    if short not in CHAT_TEMPLATES:
        raise ValueError(
            f"`chat_template: {name}` is not known; expected {', '.join((*CHAT_TEMPLATES, *keys.OWN_TEMPLATES))}, "
            "tokenizer_default (the model's own), or jinja with `chat_template_jinja`."
        )
    return ({"chat_template": name}, None) if short == name else ({}, ("fallback", short))


def _others(cfg: dict[str, Any]) -> dict[str, Any]:
    """Keys that stand alone."""
    options: dict[str, Any] = {}
    if (checkpointing := cfg.get("gradient_checkpointing", False)) not in (True, False):
        raise ValueError(f"`gradient_checkpointing: {checkpointing}` is not supported; expected true or false.")
    options["gradient_checkpointing"] = checkpointing
    if cfg.get("torch_compile") is True:
        options["torch_compile"] = True
    if cfg.get("curriculum_sampling"):
        options["train_sampling_strategy"] = "sequential"
    if "hub_model_id" in cfg:
        options |= {"push_to_hub": True, "hub_private_repo": True, "hub_always_push": True}
    if "resume_from_checkpoint" in cfg:
        options["resume_from_checkpoint"] = cfg["resume_from_checkpoint"]
    return options
