"""Which families of transformers have a head to train, and what else can be done with the others.

In: a model's config, and the class that would load it. Out: nothing, or an error that names the way that works.
"""

from typing import Any

from transformers import AutoModelForCausalLM


def check_family(config: Any, auto_class: Any, what: str) -> None:
    """transformers has a class of `auto_class`'s kind for the model `what`.

    Raises:
        ValueError: it has none. (transformers' own words are the names of a hundred classes.)
    """
    own_code = getattr(config, "auto_map", None) or {}
    if type(config) in auto_class._model_mapping or auto_class.__name__ in own_code:
        return
    ways = ["Take a model of a family that has one, such as Qwen3, Llama or Mistral"]
    if auto_class is AutoModelForCausalLM:
        ways.append("leave `good_token` and `bad_token` out, which need an LM head")
    elif type(config) in AutoModelForCausalLM._model_mapping:
        ways.append(
            "train a process reward model by its LM head: `PRMTrainer` with `good_token` and `bad_token`, two tokens "
            "that it says of right and wrong steps"
        )
    raise ValueError(
        f"{what} is a '{config.model_type}', and transformers has no '{config.model_type}' model "
        f"{auto_class.__name__.removeprefix('AutoModel')}, so there is no head to train. {'; or '.join(ways)}."
    )
