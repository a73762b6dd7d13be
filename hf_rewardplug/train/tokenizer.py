"""The tokenizer of a trainer: with the EOS, the chat template and the pad token that its config names.

In: a tokenizer or none, the config, the model or its name. Out: the tokenizer as training and scoring use it.
"""

import os
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from trl.trainer.utils import get_config_model_id

from ..data.chat_templates import set_chat_template
from ..model.loading import choose_pad_token, set_pad_token, vocabulary_size
from ..model.places import HUB
from ..model.saved import SavedModel


def load_tokenizer(tokenizer: PreTrainedTokenizerBase | None, args, model) -> PreTrainedTokenizerBase:
    """The tokenizer, or that of `model` (or its name), with the EOS and the chat template that `args` name."""
    if isinstance(model, str):  # a missing model, or an adapter, is a clearer error than its missing tokenizer
        SavedModel(model, hub_arguments(args)).check_is_model()
        vocabulary_size(model, **hub_arguments(args))
    if tokenizer is None:
        where = {key: value for key, value in hub_arguments(args).items() if key != "subfolder"}  # as TRL looks for it
        try:
            tokenizer = AutoTokenizer.from_pretrained(name_of(model), **where)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"'{name_of(model)}' has no tokenizer that can be loaded ({str(error).splitlines()[0]}). "
                "Save one there, or give `processing_class`."
            ) from error
    if not hasattr(tokenizer, "get_vocab"):
        raise TypeError(
            f"`processing_class` is a {type(tokenizer).__name__}; expected a tokenizer: "
            "`AutoTokenizer.from_pretrained(...)`."
        )
    _check_token(tokenizer, "eos_token", args.eos_token)
    if args.eos_token is not None:
        tokenizer.eos_token = args.eos_token
    if args.chat_template is not None:
        if args.chat_template_path is not None:
            raise ValueError("Both `chat_template` and `chat_template_path` are set; give one of them.")
        set_chat_template(tokenizer, args.chat_template)
    elif args.chat_template_path is not None and not clones_template(args):
        tokenizer.chat_template = Path(args.chat_template_path).read_text(encoding="utf-8")
    return tokenizer


def _check_token(tokenizer: PreTrainedTokenizerBase, option: str, token: str | None) -> None:
    if token is not None and token not in tokenizer.get_vocab():
        raise ValueError(
            f"{option}={token!r} is not in the tokenizer's vocabulary. Take one of its tokens, or add it and resize "
            "the embeddings first."
        )


def clones_template(args) -> bool:
    """Whether the chat template is another tokenizer's, with the tokens that it needs, and not a Jinja file."""
    return args.chat_template_path is not None and not os.path.isfile(args.chat_template_path)


def name_of(model) -> str:
    return model if isinstance(model, str) else get_config_model_id(model.config)


def hub_arguments(args) -> dict:
    """What the config of the model's name is loaded with."""
    options = args.model_init_kwargs or {}
    return {"trust_remote_code": args.trust_remote_code, **{key: options[key] for key in HUB if key in options}}


def choose_padding(tokenizer: PreTrainedTokenizerBase, args, model, hub: dict) -> None:
    """A pad token that ends no sequence, which plain transformers would else score elsewhere."""
    asked = getattr(args, "pad_token", None)
    _check_token(tokenizer, "pad_token", asked)
    if asked is not None:
        tokenizer.pad_token = asked
    rows = vocabulary_size(model, **hub)
    set_pad_token(None, tokenizer, choose_pad_token(tokenizer, rows, **(args.chat_template_kwargs or {})))
    if asked is not None:
        args.pad_token = tokenizer.pad_token  # TRL sets it again
