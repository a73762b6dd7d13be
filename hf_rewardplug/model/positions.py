"""What positions limit: how long a text may be, and which texts are rotated by the same frequencies.

In: a model. Out: how many rows its table of positions has; and, where its rotary frequencies depend on a text's length,
a function that says which lengths have the same.

    rotary frequencies    of texts up to the limit    of longer texts           limit
    LongRoPE              the short factors           the long factors          `original_max_position_embeddings`
    dynamic NTK           as they were trained        each length its own       `max_position_embeddings`
    all others            the same for all texts

transformers takes the frequencies of the longest text for the whole batch; with dynamic NTK even those of a longer text
in an earlier batch.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from .attention import unwrapped
from .places import read

Limit = tuple[int, bool]
"""a length up to which all texts have the same frequencies, and whether each length beyond has its own"""

_ENDLESS = 2**31 - 1

_TABLES = (
    "position_embeddings",
    "embed_positions",
    "wpe",
    "positions_embed",
    "char_position_embeddings",
    # CTRL's sines, which end like GPT-J's `embed_positions`.
    "pos_encoding",
)
"""what transformers' models call a table with a row for each position"""


def learned_positions(model: nn.Module | str, peft_config: object = None, **kwargs) -> int | None:
    """Tokens that a text may have where the model has a table of positions; None where it computes them.

    Args:
        model: a model, PEFT-wrapped or not; or a name, whose config is loaded with `kwargs`.
        peft_config: the adapter that it will get; its virtual tokens take positions too.

    >>> from transformers import BertConfig, BertModel
    >>> learned_positions(BertModel(BertConfig(hidden_size=12, num_hidden_layers=0, vocab_size=9)))
    512
    """
    if isinstance(model, str):
        config = read(AutoConfig, model, **kwargs)
        if getattr(config.get_text_config(), "rope_parameters", None):
            return None
        with torch.device("meta"):
            model = AutoModel.from_config(config, trust_remote_code=kwargs.get("trust_remote_code", False))
    adapter = peft_config or getattr(model, "active_peft_config", None)
    virtual = getattr(adapter, "num_virtual_tokens", None) or 0
    return min((rows - virtual for rows in _table_rows(unwrapped(model))), default=None)


def _table_rows(base: nn.Module) -> Iterator[int]:
    for module in base.modules():
        for name in _TABLES:
            table = getattr(module, name, None)
            # PEFT may have wrapped the table.
            table = getattr(table, "base_layer", getattr(table, "original_module", table))
            weight = table if torch.is_tensor(table) else getattr(table, "weight", None)
            # Under ZeRO-3 the parameter itself is empty.
            shape = getattr(weight, "ds_shape", getattr(weight, "shape", ()))
            if len(shape) != 2:
                continue
            padding, counted = getattr(table, "padding_idx", None), getattr(module, "position_ids", None)
            rows = shape[0] - (getattr(table, "offset", 0) if padding is None else padding + 1)
            yield min(rows, counted.shape[-1]) if torch.is_tensor(counted) else rows
        # MPT has a table of distances.
        if hasattr(module, "build_mpt_alibi_tensor"):
            yield module.config.max_seq_len


SideOf = Callable[[int], tuple[int, ...]]
"""tokens of a text -> a value that is equal for texts with the same frequencies"""


def rotary_sides(model: nn.Module) -> SideOf | None:
    """Which lengths have the same frequencies; None where all lengths have."""
    limits = {limit for module in unwrapped(model).modules() for limit in _limits(module).values()}
    return partial(_sides, tuple(sorted(limits))) if limits else None


def separate_lengths(model: nn.Module) -> SideOf | None:
    """`rotary_sides`; and each text of a batch gets the frequencies that it has alone, in place, once or again.

    Texts on different sides must not share a prefix.
    """
    base = unwrapped(model)
    for name, rotary in list(base.named_modules()):
        if _limits(rotary) and _rotate_each not in rotary._forward_hooks.values():
            body = base.get_submodule(name.rpartition(".")[0])
            # The hooks are functions, so that copies of the model keep them.
            body.register_forward_pre_hook(_keep_mask, with_kwargs=True)
            rotary.register_forward_hook(_rotate_each, with_kwargs=True)
    return rotary_sides(model)


def _sides(limits: tuple[Limit, ...], tokens: int) -> tuple[int, ...]:
    return tuple(longest_alike(tokens, limit) for limit in limits)


def longest_alike(tokens: int, limit: Limit) -> int:
    """Tokens of the longest text with the same frequencies as one of `tokens`.

    >>> longest_alike(3, (4, False)), longest_alike(4, (4, True)), longest_alike(6, (4, True))
    (4, 4, 6)
    >>> longest_alike(5, (4, False)) == longest_alike(6, (4, False))
    True
    """
    length, each = limit
    if tokens <= length:
        return length
    return tokens if each else _ENDLESS


def _limits(module: nn.Module) -> dict[str | None, Limit]:
    """{layer type, or None where there is one for all layers: limit} of a rotary embedding that depends on lengths."""
    rope_types = getattr(module, "rope_type", None) or {}
    if not isinstance(rope_types, dict):
        rope_types = {None: rope_types}
    limits: dict[str | None, Limit] = {}
    for layer_type, rope_type in rope_types.items():
        options = module.config.rope_parameters
        options = options if layer_type is None else options[layer_type]
        if "dynamic" in rope_type:
            limits[layer_type] = module.config.max_position_embeddings, True
        elif rope_type == "longrope" or "long_mscale" in options:  # the latter of PhiMoE
            limits[layer_type] = options["original_max_position_embeddings"], False
    return limits


def _keep_mask(body: nn.Module, args: tuple, kwargs: dict) -> None:
    mask = kwargs.get("attention_mask")
    for rotary in body.children():
        if hasattr(rotary, "rope_type"):
            rotary.text_mask_BL = mask if torch.is_tensor(mask) and mask.ndim == 2 else None


def _rotate_each(rotary: nn.Module, args: tuple, kwargs: dict, output):
    """Each token's cosine and sine by the length of its own text."""
    hidden, position_ids, *layer_type = (*args, *kwargs.values())
    limit = _limits(rotary).get(layer_type[0] if layer_type else None)
    if limit is None or position_ids.ndim != 2:
        return output
    length_BL = _text_lengths(position_ids, getattr(rotary, "text_mask_BL", None))
    alike: dict[int, list[int]] = {}
    for length in length_BL.unique().tolist():
        alike.setdefault(longest_alike(length, limit), []).append(length)
    rotated = None
    for longest, lengths in alike.items():
        # After a short text dynamic NTK no longer uses the frequencies of a long one.
        rotary.forward(hidden, position_ids[:1, :1] * 0, *layer_type)
        own = rotary.forward(hidden, position_ids.clamp(max=longest - 1), *layer_type)
        # The output is cosine and sine, or a complex number.
        own = own if isinstance(own, tuple) else (own,)
        own_BL1 = torch.isin(length_BL, torch.tensor(lengths, device=length_BL.device))[..., None]
        rotated = tuple(torch.where(own_BL1, *pair) for pair in zip(own, rotated or own, strict=True))
    return rotated if isinstance(output, tuple) else rotated[0]


def _text_lengths(position_ids: torch.Tensor, mask_BL: torch.Tensor | None) -> torch.Tensor:
    """Tokens of the text (or tree of texts) that each token is in: one begins at each position 0.

    >>> _text_lengths(torch.tensor([[0, 1, 2, 3, 2, 0, 1]]), None)
    tensor([[4, 4, 4, 4, 4, 2, 2]])
    >>> _text_lengths(torch.tensor([[0, 1, 2]]), torch.tensor([[1, 1, 1], [1, 1, 0]]))
    tensor([[3, 3, 3],
            [2, 2, 1]])
    """
    if mask_BL is not None:
        # The mask has columns for PEFT's virtual tokens, and the positions have none.
        position_ids = position_ids * mask_BL[:, -position_ids.shape[1] :].bool()
    text_BL = (position_ids == 0).long().cumsum(1)
    length_of_text = text_BL.new_zeros(len(text_BL), text_BL.shape[1] + 1)
    return length_of_text.scatter_reduce(1, text_BL, position_ids.long() + 1, "amax").gather(1, text_BL)
