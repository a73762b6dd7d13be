"""An axolotl config as the settings of a run of this package.

In: the keys and values of the YAML. Out: `Settings`: arguments of `RewardConfig` or `PRMConfig`, data entries, adapter
and quantization, and every key that is not taken with the reason. A pure function; axolotl is not imported.
"""

from dataclasses import dataclass, field
from typing import Any

from . import keys
from . import options as read
from .data import RUN_OPTIONS, DataEntry, format_options, read_entries

KINDS = ("orm", "prm")

_MODELS = {"orm": "SequenceClassification", "prm": "TokenClassification"}
_TEMPLATES = ("gemma", "chatml", "llama3")
_FALLBACK = "tokenizer_default_fallback_"
_FLOATS = (
    *("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "lora_dropout"),
    *("cosine_min_lr_ratio", "warmup_ratio", "center_rewards_coefficient", "val_set_size", "num_epochs"),
)
"""numbers that YAML reads as text when they are written as 1e-5"""

_OF_OTHERS = frozenset(
    """
    adapter column_mapping chat_template logging_nan_inf_filter max_length learning_rate num_labels
    dataset_num_proc model_init_kwargs trust_remote_code pad_to_multiple_of chat_template_path disable_dropout
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
        kind: "orm" or "prm".
        model, tokenizer: names; the tokenizer's is None where it is the model's.
        special_tokens: {"pad_token": "<pad>", ...}.
        template: (how, what) for a chat template that the config's `chat_template` cannot name: ("text" or "file", it),
            or ("fallback", a name) for a tokenizer without one.
        config: arguments of `RewardConfig` or `PRMConfig`.
        entries, test_entries, val_set_size: the data.
        peft, quantization: arguments of `LoraConfig` and `BitsAndBytesConfig`, or None.
        patience: evaluations without a better one before the run stops.
        auto_resume: go on from the newest checkpoint, if there is one.
        environment: variables that trackers read.
        ignored: {key: why it is not taken}.
    """

    kind: str
    model: str
    tokenizer: str | None = None
    special_tokens: dict[str, str] = field(default_factory=dict)
    template: tuple[str, str] | None = None
    config: dict[str, Any]
    entries: list[DataEntry]
    test_entries: list[DataEntry] = field(default_factory=list)
    val_set_size: float = 0
    peft: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    patience: int | None = None
    auto_resume: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)


def kind_of(raw: dict[str, Any]) -> str | None:
    """
    >>> kind_of({"reward_model": True}), kind_of({"process_reward_model": True}), kind_of({})
    ('orm', 'prm', None)

    Raises:
        ValueError: both are asked for.
    """
    if raw.get("reward_model") and raw.get("process_reward_model"):
        raise ValueError("Both `reward_model` and `process_reward_model` are true; a run trains one of them.")
    return "orm" if raw.get("reward_model") else "prm" if raw.get("process_reward_model") else None


def own_options(kind: str) -> tuple[str, ...]:
    """Options of this package that a config may set at the top, beside axolotl's keys.

    >>> "prefix_sharing" in own_options("orm"), "step_separator" in own_options("prm")
    (True, True)
    """
    from ...train.config import PRMConfig, RewardConfig

    config_class = {"orm": RewardConfig, "prm": PRMConfig}[kind]
    of_ours = [one for one in config_class.__mro__ if one.__module__ == config_class.__module__]
    declared = dict.fromkeys(name for one in reversed(of_ours) for name in one.__annotations__)
    return tuple(name for name in declared if name not in _OF_OTHERS and not name.startswith("_"))


def translate(raw: dict[str, Any], *, bf16_here: bool = False) -> Settings:
    """`raw`, the YAML, as settings.

    Args:
        bf16_here: whether the device computes in bf16, for `bf16: auto`.

    Raises:
        ValueError: no reward model is asked for, an unknown key (with the nearest known one), keys that cannot be had,
            or values that do not go together.
    """
    given = {key: _number(key, value) for key, value in raw.items() if value is not None}
    kind = kind_of(given)
    if kind is None:
        raise ValueError("Neither `reward_model: true` nor `process_reward_model: true` is set; set one of them.")
    own = (*own_options(kind), *RUN_OPTIONS)  # the latter are told apart from unknown keys in both kinds
    ignored = _check_keys(given, own)
    if "base_model" not in given:
        raise ValueError("`base_model` is not set: a hub id or a folder.")
    entries, test_entries, of_data, not_taken = read_data(given, kind=kind)
    own_given = of_data | {name: given[name] for name in own if name in given}
    told, model_init, of_model = _model(given, kind, own_given, bf16_here)
    named, template = _template(given)
    peft, quantization = read.lora(given)
    held_out = bool(test_entries or given.get("val_set_size"))
    config = _plain(given, held_out=held_out) | of_model | named | format_options(entries, test_entries=test_entries)
    return Settings(
        kind=kind,
        model=given["base_model"],
        tokenizer=given.get("tokenizer_config"),
        special_tokens=dict(given.get("special_tokens", {})),
        template=template,
        config={**config, **own_given, "model_init_kwargs": model_init},
        entries=entries,
        test_entries=test_entries,
        val_set_size=given.get("val_set_size", 0),
        peft=peft,
        quantization=quantization,
        patience=given.get("early_stopping_patience"),
        auto_resume=bool(given.get("auto_resume_from_checkpoints")),
        environment={keys.ENVIRONMENT[key]: str(given[key]) for key in keys.ENVIRONMENT if key in given},
        ignored=ignored | not_taken | told,
    )


def read_data(
    given: dict[str, Any], *, kind: str
) -> tuple[list[DataEntry], list[DataEntry], dict[str, Any], dict[str, str]]:
    """Entries of `datasets` and `test_datasets`, the options of the run in them, and {key: why it is not taken}.

    Raises:
        ValueError: an option has two values, or is of process reward models and `kind` is "orm".
    """
    entries, options, ignored = read_entries(given.get("datasets"))
    test_entries: list[DataEntry] = []
    of_tests: dict[str, Any] = {}
    if given.get("test_datasets") is not None:
        test_entries, of_tests, not_taken = read_entries(given["test_datasets"], where="test_datasets")
        ignored |= not_taken
    for key in RUN_OPTIONS:
        places = {"datasets": options, "test_datasets": of_tests, "the top": given}
        values = {place: found[key] for place, found in places.items() if found.get(key) is not None}
        if len(set(map(repr, values.values()))) > 1:
            listed = ", ".join(f"{value!r} ({place})" for place, value in values.items())
            raise ValueError(f"`{key}` has two values, {listed}: a model has one.")
        if kind == "orm" and values:
            raise ValueError(f"`{key}` is an option of process reward models.")
    return entries, test_entries, of_tests | options, ignored


def _plain(given: dict[str, Any], *, held_out: bool) -> dict[str, Any]:
    """Arguments that no other key decides, over axolotl's defaults."""
    return {
        "output_dir": "./model-out",
        "weight_decay": 0.0,
        "num_train_epochs": 1.0,
        "max_length": 512,
        **{key: given[key] for key in keys.SAME if key in given},
        **{name: given[key] for key, name in keys.RENAMED.items() if key in given},
        **read.batches(given),
        **read.optimization(given),
        **read.saving(given, held_out=held_out),
        **read.reporting(given),
        **read.distributed(given),
        **read.liger(given),
        **read.overlong(given),
        **_others(given),
    }


def _number(key: str, value: Any) -> Any:
    if key not in _FLOATS or not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"`{key}` is {value!r}; expected a number.") from None


def _check_keys(given: dict[str, Any], own: tuple[str, ...]) -> dict[str, str]:
    """{key: why it is ignored}; whatever is false is no wish."""
    taken = {*keys.SAME, *keys.RENAMED, *keys.LORA, *keys.LIGER, *keys.ATTENTION, *keys.ENVIRONMENT, *keys.REPORTS}
    known = {*taken, *keys.SPECIAL, *keys.IGNORED, *keys.REFUSED, *own}
    for key in given:
        if key not in known:
            raise ValueError(keys.unknown_key(key, known))
    refused = [f"  {key}: {keys.REFUSED[key]}" for key, value in given.items() if key in keys.REFUSED and value]
    if refused:
        raise ValueError("Some keys cannot be had here. Take them out:\n" + "\n".join(refused))
    ignored = {key: keys.IGNORED[key] for key, value in given.items() if key in keys.IGNORED and value is not False}
    for name in given.get("plugins", ()):
        if why := _PLUGINS.get(name, "plugins of axolotl's are not run"):
            ignored[f"plugins: {name}"] = why
    return ignored


def _model(given: dict[str, Any], kind: str, own: dict[str, Any], bf16_here: bool):
    """Why an attention is ignored, `model_init_kwargs`, and arguments of the config."""
    suffix = "CausalLM" if own.get("good_token") else _MODELS[kind]
    name = given.get("model_type", given.get("type_of_model", suffix))
    if not name.endswith(suffix):
        raise ValueError(f"`model_type: {name}`; expected AutoModelFor{suffix}, or leave it out.")
    expected = {"orm": (len(own.get("attributes") or [0]),), "prm": (2, 1)}[kind]
    labels = given.get("num_labels", expected[0])
    if labels not in expected:
        raise ValueError(f"`num_labels: {labels}`; expected {' or '.join(map(str, expected))}, or leave it out.")
    if given.get("base_model_config", given.get("base_model")) != given.get("base_model"):
        raise ValueError("`base_model_config` names another model than `base_model`; leave it out.")
    if given.get("model_config"):
        raise ValueError("`model_config` changes the model, which is trained as it is; take it out.")
    numbers, dtype = read.precision(given, bf16_here=bf16_here)
    model_init = {"dtype": dtype, **given.get("model_kwargs", given.get("overrides_of_model_kwargs", {}))}
    if revision := given.get("model_revision", given.get("revision_of_model")):
        model_init["revision"] = revision
    if given.get("use_kernels"):
        model_init["use_kernels"] = True
    told, attention = {}, read.attention(given)
    if attention is not None and own.get("prefix_sharing") is False:
        model_init["attn_implementation"] = attention
    elif attention is not None:
        key = next(key for key in ("attn_implementation", *keys.ATTENTION) if given.get(key))
        told = {key: "prefix trees have an attention of their own (`prefix_sharing: false` takes it)"}
    return told, model_init, numbers | ({"num_labels": labels} if kind == "prm" else {})


def _template(given: dict[str, Any]) -> tuple[dict[str, str], tuple[str, str] | None]:
    """The config's argument for a template that it can name; or how else to set it."""
    name, jinja = given.get("chat_template"), given.get("chat_template_jinja")
    if name in (None, "jinja") and jinja is not None:
        return {}, ("text" if "{" in jinja else "file", jinja)
    if name in (None, "tokenizer_default"):
        return {}, None
    short = str(name).removeprefix(_FALLBACK)
    if short not in _TEMPLATES:
        raise ValueError(
            f"`chat_template: {name}` is not had; expected {', '.join(_TEMPLATES)}, tokenizer_default, or jinja with "
            "`chat_template_jinja`."
        )
    return ({"chat_template": name}, None) if short == name else ({}, ("fallback", short))


def _others(given: dict[str, Any]) -> dict[str, Any]:
    """Keys that stand alone."""
    options: dict[str, Any] = {}
    if (checkpointing := given.get("gradient_checkpointing", False)) not in (True, False):
        raise ValueError(f"`gradient_checkpointing: {checkpointing}` is not had; expected true or false.")
    options["gradient_checkpointing"] = checkpointing
    if given.get("torch_compile") is True:
        options["torch_compile"] = True
    if given.get("curriculum_sampling"):
        options["train_sampling_strategy"] = "sequential"
    if "hub_model_id" in given:
        options |= {"push_to_hub": True, "hub_private_repo": True, "hub_always_push": True}
    if "resume_from_checkpoint" in given:
        options["resume_from_checkpoint"] = given["resume_from_checkpoint"]
    return options
