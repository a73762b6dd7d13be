"""Whether there is a head to train: has transformers a class for the family, and is the model of that class?

In: a model's config, or a model, and the kind that is wanted. Out: nothing, or an error that says what to do instead.
"""

import os
from typing import Any

from torch import nn

from .attention import unwrapped
from .kinds import LM, PRM, Kind, kind_of_class


def check_family(config: Any, model_kind: Kind, subject: str) -> None:
    """transformers has a class of this kind for the model; `subject` is what an error calls the model.

    Raises:
        ValueError: it has none. (transformers' own error lists a hundred classes.)
    """
    own_code = getattr(config, "auto_map", None) or {}
    if type(config) in model_kind.auto_class._model_mapping or model_kind.auto_class.__name__ in own_code:
        return
    ways = ["Take a model of a family that has one, such as Qwen3, Llama or Mistral"]
    if model_kind is LM:
        ways.append("leave `good_token` and `bad_token` out, which need an LM head")
    elif type(config) in LM.auto_class._model_mapping:
        ways.append(
            "train a process reward model by its LM head: `PRMTrainer` with `good_token` and `bad_token`, two tokens "
            "that it says of right and wrong steps"
        )
    raise ValueError(
        f"{subject} is a '{config.model_type}', and transformers has no '{config.model_type}' model "
        f"{model_kind.class_endings[0]}, so there is no head to train. {'; or '.join(ways)}."
    )


def check_model(model: Any, model_kind: Kind) -> None:
    """`model` is a name, or has the head of `model_kind`: another head's checkpoint would be no reward model.

    Raises:
        TypeError: it is neither a name nor a model. ValueError: a model of another kind.
    """
    if isinstance(model, str):
        if model.startswith(("/", "./", "../", "~")) and not os.path.isdir(model):
            raise ValueError(f"model='{model}' is no folder; expected a model's folder, or a hub id.")
        return
    auto_class = model_kind.auto_class.__name__
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"`model` is a {type(model).__name__}; expected a folder or hub id as str, or a model that "
            f"`{auto_class}.from_pretrained` loads."
        )
    name = type(unwrapped(model)).__name__
    class_kind = kind_of_class(name)
    if class_kind is None and not name.endswith("ForConditionalGeneration"):
        # It may have a head of this kind: a class of its own code, or a body.
        return
    check_family(model.config, model_kind, f"`model`, a {name},")
    if name.endswith(model_kind.class_endings):
        return
    more = ""
    if model_kind is LM:
        more = " (`good_token` and `bad_token` ask for it: leave them out to train a head of its own)"
    elif model_kind is PRM and class_kind is LM:
        more = "; or set `good_token` and `bad_token`, with which a causal LM is a process reward model as it is"
    raise ValueError(
        f"`model` is a {name}; expected a model {model_kind.class_endings[0]}. Load it with "
        f"`{auto_class}.from_pretrained`, or give its name{more}."
    )
