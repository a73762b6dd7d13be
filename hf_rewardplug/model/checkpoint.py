"""A trained reward model, loaded from a plain transformers folder or from an adapter and its base model.

In: a folder or hub id. Out: the model with its scored forward, and its tokenizer; or (`merge_adapter`) a plain folder
again.
"""

from typing import Any

from peft import PeftConfig, PeftModel
from peft.utils import ModulesToSaveWrapper
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .description import Description
from .head import HEAD_NAME, install_reward_head
from .head_layers import build_head, saved_layers
from .inference import described_label_tokens, install_scored_forward
from .kinds import LM, architecture, kind_of_class, kind_of_task, published
from .loading import ADAPTER_MODEL_CONFIG, vocabulary_size
from .places import HUB, check_place, find_file, is_adapter, read, refuse_pickled_adapter
from .saved import SavedModel
from .weights import adapter_head_shapes, check_saved_head


def load_checkpoint(
    name: str, *, good_token: str | None = None, bad_token: str | None = None, **kwargs
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """A trained reward model, ready to score: in eval mode, on the CPU unless `device_map` says otherwise.

    Args:
        name: folder or hub id of a sequence or token classifier, of a causal LM with label tokens, or of an adapter
            that a trainer saved.
        good_token, bad_token: what a causal LM says of right and wrong steps, where its config does not name them.
        kwargs: for `from_pretrained`, such as `dtype` (the checkpoint's own by default), `revision`.

    Raises:
        ValueError: it is none of these, its weights cannot be read, or they have no head.
    """
    # Without an answer transformers would ask at the terminal whether to run a model's own code.
    saved = SavedModel(name, {"trust_remote_code": False, "dtype": "auto", **kwargs})
    if "gguf_file" not in kwargs:
        check_place(name, saved.hub)
    of_tokenizer = {key: value for key, value in saved.hub.items() if key != "subfolder"}
    tokenizer = read(AutoTokenizer, name, trust_remote_code=saved.options["trust_remote_code"], **of_tokenizer)
    labels = {"good_token": good_token, "bad_token": bad_token}
    if is_adapter(name, saved.hub):
        model = _adapted(name, **saved.options)
        install_scored_forward(model, tokenizer, **labels)
        return model.eval(), tokenizer
    what = architecture(saved.config)
    model_kind, num_labels = published(saved.config) or (kind_of_class(what), saved.config.num_labels)
    if model_kind is None:
        raise ValueError(
            f"'{name}' is {what}; expected a sequence classifier (ORM), or a token classifier or causal LM "
            "(PRM), as `RewardTrainer` and `PRMTrainer` save them."
        )
    if model_kind is LM:  # before the weights are read
        described_label_tokens(f"'{name}' is {what}", saved.config, tokenizer, **labels)
    options = saved.arguments(model_kind, num_labels)
    with saved.reading(model_kind):
        model, info = model_kind.auto_class.from_pretrained(
            name, num_labels=num_labels, output_loading_info=True, **options
        )
    # A causal LM must be complete.
    head = "" if model_kind is LM else f"{HEAD_NAME}."
    if missing := sorted(key for key in info["missing_keys"] if key.startswith(head)):
        raise ValueError(
            f"'{name}' has no weights for its head ({', '.join(missing)}): it was never trained as a reward model, and "
            "would score by a random head."
        )
    install_scored_forward(model, tokenizer, **labels)
    return model.eval(), tokenizer


def merge_adapter(adapter: str, output_dir: str, **kwargs) -> None:
    """Merge a trained LoRA adapter into its base model, the head included, and save a plain transformers folder.

    Args:
        adapter: the folder or hub id that a trainer saved.
        output_dir: `AutoModelForSequenceClassification` (or `...TokenClassification`, `...CausalLM`) and
            `AutoTokenizer` load it.
        kwargs: for the base model's `from_pretrained`, such as `dtype` (the checkpoint's own by default); `revision`,
            `token` and the like are the adapter's.

    Raises:
        ValueError: it is no adapter of a reward model, or one that cannot be merged (prompt tuning).

    >>> merge_adapter("Qwen2.5-0.5B-Reward", "Qwen2.5-0.5B-Reward-merged")  # doctest: +SKIP
    """
    model = _adapted(adapter, merges=True, **kwargs).merge_and_unload(safe_merge=True)
    for name, module in list(model.named_modules()):
        # Some methods leave the wrapper (layer norm tuning).
        if isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save["default"])
    model.save_pretrained(output_dir)
    head = getattr(model, HEAD_NAME, None)  # a causal LM has none
    check_saved_head(output_dir, {} if head is None else head.state_dict())
    read(AutoTokenizer, adapter).save_pretrained(output_dir)


def _adapted(adapter: str, merges: bool = False, **kwargs: Any) -> PeftModel:
    """The base model with the adapter on it. Its config gets the entries that the trainer wrote beside the adapter."""
    # These are the adapter's; its config names those of its base model.
    hub = {key: kwargs.pop(key) for key in HUB if key in kwargs}
    check_place(adapter, hub)
    refuse_pickled_adapter(adapter, hub)
    peft_config = read(PeftConfig, adapter, **hub)
    if find_file(adapter, ADAPTER_MODEL_CONFIG, hub) is None:
        raise ValueError(
            f"'{adapter}' has no {ADAPTER_MODEL_CONFIG}, which this package's trainers write beside an adapter. Save "
            "the base model's config under that name, with `num_labels`, `pad_token_id` and `problem_type` set."
        )
    config = read(AutoConfig, adapter, _configuration_file=ADAPTER_MODEL_CONFIG, **hub)
    Description.checked(config, f"'{adapter}'")
    model_kind, method = kind_of_task(peft_config.task_type), getattr(peft_config.peft_type, "value", None)
    if model_kind is None or (merges and peft_config.is_prompt_learning):
        raise ValueError(
            f"'{adapter}' is a {method} adapter with task_type={peft_config.task_type}; expected "
            f"one {'that changes weights (LoRA), ' if merges else ''}with SEQ_CLS, TOKEN_CLS or CAUSAL_LM."
        )
    shared = {key: value for key, value in hub.items() if key not in ("revision", "subfolder")}
    defaults = {
        "dtype": "auto",
        "trust_remote_code": False,
        "use_safetensors": True,
        "revision": peft_config.revision or "main",
    }
    kwargs = {**defaults, **shared, **kwargs}
    base = peft_config.base_model_name_or_path
    with SavedModel(base, kwargs).reading(model_kind):
        model = model_kind.auto_class.from_pretrained(base, num_labels=config.num_labels, **kwargs)
    layers, shapes = saved_layers(config), adapter_head_shapes(adapter, hub)
    if hasattr(model, HEAD_NAME) and (layers or shapes.keys() == {"weight", "bias"}):
        setattr(model, HEAD_NAME, build_head(layers, shapes))
    text_config = config.get_text_config()
    # Training has added a row for the pad token.
    if text_config.vocab_size != vocabulary_size(model):
        model.resize_token_embeddings(text_config.vocab_size)
    if model_kind is not LM:  # fp32 before the adapter's head is read
        install_reward_head(model)
    model.config.get_text_config().pad_token_id = text_config.pad_token_id
    for name in ("problem_type", "id2label", "label2id", "rewardplug"):
        if hasattr(config, name):
            setattr(model.config, name, getattr(config, name))
    return PeftModel.from_pretrained(model, adapter, **hub)
