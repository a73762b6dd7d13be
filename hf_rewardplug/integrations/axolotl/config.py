"""An axolotl config as the settings of a run of this package.

In: the keys and values of the YAML. Out: `Settings`: arguments of `RewardConfig` or `PRMConfig`, data entries, adapter
and quantization, and every key that is not taken with the reason. A pure function; axolotl is not imported.
"""

from dataclasses import dataclass, field
from typing import Any

from ...data.chat_templates import CHAT_TEMPLATES
from ...data.entries import DataEntry
from . import keys
from . import options as read
from .data import RUN_OPTIONS, format_options, read_entries
from .values import set_values, truth

KINDS = ("orm", "prm")

_KIND_KEYS = {"reward_model": "orm", "process_reward_model": "prm"}
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
        kind: "orm" or "prm".
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

    kind: str
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


def kind_of(raw: dict[str, Any]) -> str | None:
    """
    >>> kind_of({"reward_model": True}), kind_of({"process_reward_model": True}), kind_of({})
    ('orm', 'prm', None)

    Raises:
        ValueError: both are asked for.
    """
    asked = [kind for key, kind in _KIND_KEYS.items() if truth(raw.get(key)) is True]
    if len(asked) > 1:
        raise ValueError("Both `reward_model` and `process_reward_model` are true; a run trains one of them.")
    return asked[0] if asked else None


def own_options(kind: str) -> dict[str, Any]:
    """Options of this package that a config may set at the top, beside axolotl's keys: {name: type}.

    >>> own_options("orm")["prefix_sharing"], own_options("prm")["step_separator"]
    (<class 'bool'>, <class 'str'>)
    """
    from ...train.config import PRMConfig, RewardConfig

    config_class = {"orm": RewardConfig, "prm": PRMConfig}[kind]
    of_ours = [one for one in config_class.__mro__ if one.__module__ == config_class.__module__]
    declared = {name: kind for one in reversed(of_ours) for name, kind in one.__annotations__.items()}
    return {name: kind for name, kind in declared.items() if name not in _OF_OTHERS and not name.startswith("_")}


def translate(raw: dict[str, Any], *, bf16_here: bool = False) -> Settings:
    """`raw`, the YAML, as settings.

    Args:
        bf16_here: whether the device computes in bf16, for `bf16: auto`.

    Raises:
        ValueError: no reward model is asked for, an unknown key (with the nearest known one), keys that cannot be had,
            or values that do not go together.
    """
    kind = kind_of(raw)
    if kind is None:
        raise ValueError("Neither `reward_model: true` nor `process_reward_model: true` is set; set one of them.")
    own = RUN_OPTIONS | own_options(kind)  # RUN_OPTIONS are told from unknown keys in both kinds
    given = set_values(raw, options=own)
    ignored = _check_keys(given, kind, own)
    if "base_model" not in given:
        raise ValueError("`base_model` is not set: a hub id or a folder.")
    entries, test_entries, of_data, not_taken = read_data(given, kind=kind)
    own_given = of_data | {name: given[name] for name in own if name in given}
    told, model_init, of_model = _model(given, kind, own_given, bf16_here)
    named, template = _template(given)
    peft, quantization = read.lora(given, dtype=model_init["dtype"])
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
        ordered=bool(given.get("curriculum_sampling")),
        patience=given.get("early_stopping_patience") or None,
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
    template = given.get("chat_template")
    entries, options, ignored = read_entries(given.get("datasets"), template=template)
    test_entries: list[DataEntry] = []
    of_tests: dict[str, Any] = {}
    if given.get("test_datasets"):
        test_entries, of_tests, not_taken = read_entries(
            given["test_datasets"], where="test_datasets", template=template
        )
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


def _check_keys(given: dict[str, Any], kind: str, own: dict[str, Any]) -> dict[str, str]:
    """{key: why it is ignored}; whatever is false, or what is done anyway, is no wish."""
    known = {*keys.known(), *own}
    for key in given:
        if key not in known:
            raise ValueError(keys.unknown_key(key, known))
    refused = [f"  {key}: {keys.REFUSED[key]}" for key in given if key in keys.REFUSED and keys.asks(given, key)]
    if refused:
        raise ValueError("Some keys cannot be had here. Take them out:\n" + "\n".join(refused))
    ignored = {key: keys.IGNORED[key] for key, value in given.items() if key in keys.IGNORED and value is not False}
    for name in given.get("plugins", ()):
        if why := _PLUGINS.get(str(name).replace(":", "."), "plugins of axolotl's are not run"):
            ignored[f"plugins: {name}"] = why
    if not given.get("adapter"):
        ignored |= {key: "`adapter` is not set" for key in (*keys.LORA, "lora_target_linear") if given.get(key)}
    if kind == "prm" and given.pop("center_rewards_coefficient", None):
        ignored["center_rewards_coefficient"] = "it centres the rewards of outcome reward models"
    return ignored | read.told(given)


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
    if attention is not None and read.pads(given):
        model_init["attn_implementation"] = attention
    elif attention is not None:
        key = next(key for key in ("attn_implementation", *keys.ATTENTION) if given.get(key))
        told = {key: keys.ATTENTION_OF_TREES}
    return told, model_init, numbers | ({"num_labels": labels} if kind == "prm" else {})


def _template(given: dict[str, Any]) -> tuple[dict[str, str], tuple[str, str] | None]:
    """The config's argument for a template that it can name; or how else to set it."""
    name, jinja = given.get("chat_template"), given.get("chat_template_jinja")
    if name in (None, "jinja") and jinja is not None:
        return {}, ("text" if "{" in jinja else "file", jinja)
    if name in (None, "tokenizer_default"):
        return {}, None
    if name in keys.OWN_TEMPLATES:
        return {}, ("own", keys.OWN_TEMPLATES[name])
    short = str(name).removeprefix(_FALLBACK)
    if short not in CHAT_TEMPLATES:
        raise ValueError(
            f"`chat_template: {name}` is not had; expected {', '.join((*CHAT_TEMPLATES, *keys.OWN_TEMPLATES))}, "
            "tokenizer_default (the model's own), or jinja with `chat_template_jinja`."
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
