"""The tokenizer that inspection uses, and what the model beside it says of encoding.

In: a model's folder or hub id, or a folder with a tokenizer alone. Out: the tokenizer, and options of `Encoder`.
"""

import json
from contextlib import suppress
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import CONFIG_NAME

from ..data.chat_templates import set_chat_template
from ..model.description import Description
from ..model.loading import ADAPTER_MODEL_CONFIG
from ..model.places import find_file
from ..model.positions import learned_positions


def load_tokenizer(name: str, chat_template: str | None = None) -> tuple[Any, dict[str, Any]]:
    """The tokenizer of a model or of a folder with a tokenizer alone, and what the model says of encoding.

    Returns:
        The tokenizer, and options of `Encoder`: `vocab_size` and `positions` where the model has them, and of a process
        reward model the separator that it was trained with.

    Raises:
        ValueError: there is none that can be loaded.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"'{name}' has no tokenizer that can be loaded ({why}). Give a folder with one, or a hub id."
        ) from error
    if chat_template is not None:
        set_chat_template(tokenizer, chat_template)
    options: dict[str, Any] = {}
    if path := find_file(name, CONFIG_NAME, {}) or find_file(name, ADAPTER_MODEL_CONFIG, {}):
        config = json.loads(path.read_text(encoding="utf-8"))  # it may lack what transformers needs to build a model
        description = Description.of(config)
        options["vocab_size"] = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
        separators = {"step_separator": description.step_separator, "step_token": description.step_token}
        options |= {key: text for key, text in separators.items() if text}
    with suppress(OSError, ValueError):  # a tokenizer without a model
        if (positions := learned_positions(name)) is not None:
            options["positions"] = positions
    return tokenizer, options
