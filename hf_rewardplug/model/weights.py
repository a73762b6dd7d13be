"""What a checkpoint holds, looked at before it is loaded: safetensors alone, whole, with a head that fits.

In: a model's name (folder or hub id) and the head that is wanted. Out: arguments for `from_pretrained`, or an error.
transformers reads a cut-off file into an opaque error, falls back to pickles, and draws a new head where the
checkpoint's has another name.
"""

import json
import logging
import re
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.modeling_utils import set_zero3_state
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    import_utils,
)

from .description import check_description
from .families import check_family
from .head import HEAD_NAME
from .head_layers import PUBLISHED, build_head, published, saved_layers, with_saved_head
from .places import check_place, find_file, read

logger = logging.getLogger(__name__)

FOREIGN_HEADS = (
    *("v_head.summary", "v_head", "value_head.summary", "value_head", "reward_head", "rm_head", "regression_head"),
    *("regression_layer", "classification_head", "classifier"),
)
"""names that heads have in checkpoints of TRL's PPO, OpenRLHF, LLaMA-Factory, InternLM2, ArmoRM and others"""

_TOP = r"^(?:(?:module|model|base_model|pretrained_model)\.)?"  # a body has a `classifier` too (LongCat's router)
HUB = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
"""arguments of `from_pretrained` that say where a name is to be found"""

_OF_HEAD = re.compile(rf"(?:^|\.){HEAD_NAME}\.(.+)$")  # a parameter of the head in a file that was saved here

_ANEW = "ignore_mismatched_sizes"

_ELSEWHERE = ("gguf_file", "state_dict", "variant")
"""arguments of `from_pretrained` that take the weights from another file"""


def loading_arguments(name: str, auto_class: Any, num_labels: int, given: dict[str, Any]) -> dict[str, Any]:
    """`given`, the arguments for `auto_class.from_pretrained(name)`, with what makes the checkpoint's head arrive.

    A linear head under another name (`FOREIGN_HEADS`, or OpenRLHF's `value_head_prefix` in the config) is mapped to
    `score` where its shape fits, and the log says so. (Of a causal LM the LM head counts.)

    Raises:
        ValueError: the weights are cut off, or a pickle (`use_safetensors=False` allows it); the head does not fit
            (`ignore_mismatched_sizes=True` draws a new one); `use_kernels=True` without the package `kernels`.
    """
    if given.get("use_kernels") and not import_utils.is_kernels_available():  # told before the weights are read
        versions = f"kernels>={import_utils.KERNELS_MIN_VERSION},<{import_utils.KERNELS_MAX_VERSION}"
        raise ValueError(
            "`use_kernels=True` (the trainers' model_init_kwargs={'use_kernels': True}) needs the package `kernels` in "
            f"a version that this transformers takes: `pip install '{versions}'`; or leave it out. "
            "(`use_liger_kernel=True` needs `liger-kernel` instead.)"
        )
    if given.get("use_safetensors") is False or any(given.get(key) for key in _ELSEWHERE):
        return given
    given = {"use_safetensors": True, **given}
    hub = {key: given[key] for key in HUB if key in given}
    check_place(name, hub)
    if is_adapter(name, hub):
        raise ValueError(
            f"'{name}' is an adapter, not a model. To go on training it, give the trainer `PeftModel.from_pretrained("
            "base, adapter, is_trainable=True)`; to train what it makes of its base, `merge_adapter` first."
        )
    config = read_config(name, given)
    check_family(config, auto_class, f"'{name}'")
    if published(config):
        given = {**given, "trust_remote_code": False}  # the body is transformers' own, and the head is known
    code = {"trust_remote_code": given.get("trust_remote_code", False)}
    found, shapes = _head_shapes(name, config, hub)
    if given.get(_ANEW) or not shapes:
        return given
    if auto_class is AutoModelForCausalLM:  # whose head is the LM's, whatever stands beside it
        if (config.architectures or [""])[0].endswith(("ForSequenceClassification", "ForTokenClassification")):
            raise ValueError(
                f"'{name}' is {config.architectures[0]}, which has no LM head. Take a causal LM; or leave `good_token` "
                "and `bad_token` out."
            )
        return given
    config.num_labels = num_labels
    try:
        with torch.device("meta"), set_zero3_state():  # or ZeRO-3 would divide what is not there among its ranks
            own = {key: list(value.shape) for key, value in auto_class.from_config(config, **code).named_parameters()}
    except (AssertionError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"'{name}' cannot be built as its config.json says: {error}.") from error
    if (layers := saved_layers(config)) is not None:
        named = {found[key][2]: shape for key, shape in shapes.items() if found[key][1] == HEAD_NAME}
        head = build_head(layers, named)
        if head[-1].out_features != num_labels:
            raise _misfit(name, shapes, {f"{HEAD_NAME}.{len(head) - 1}.weight": [num_labels, head[-1].in_features]})
        return given
    if own.keys() & shapes:
        misfits = {key: shape for key, shape in shapes.items() if shape != own.get(key, shape)}
        if misfits:
            raise _misfit(name, misfits, {key: own[key] for key in misfits})
        return given
    head, expected = f"{HEAD_NAME}.weight", {key: own[key] for key in own if key.startswith(f"{HEAD_NAME}.")}
    weights = [key for key in shapes if found[key][2] == "weight"]
    parts = {found[key][2] for key in shapes}
    if len(weights) != 1 or shapes[weights[0]] != own.get(head) or not parts <= {"weight", "bias"}:
        raise _misfit(name, shapes, expected)
    foreign = found[weights[0]][1]
    logger.warning("The head '%s' of '%s' is taken as '%s'.", foreign, name, HEAD_NAME)
    mapping = {rf"{_TOP}{re.escape(foreign)}\.": f"{HEAD_NAME}."}
    return {**given, "key_mapping": {**(given.get("key_mapping") or {}), **mapping}}


def read_config(name: str, given: Mapping[str, Any]) -> Any:
    """The config of `name`; of a public checkpoint with a known head without its code, whatever `given` allows."""
    hub = {key: given[key] for key in HUB if key in given}
    known = (PreTrainedConfig.get_config_dict(name, **hub)[0].get("architectures") or [""])[0] in PUBLISHED
    config = read(AutoConfig, name, trust_remote_code=not known and given.get("trust_remote_code", False), **hub)
    check_description(getattr(config, "rewardplug", None), f"'{name}'", labels=config.num_labels)
    return config


def _head_shapes(name: str, config: Any, hub: dict) -> tuple[dict[str, re.Match | None], dict[str, list[int]]]:
    """{key of a tensor: whether it is a head's}, and the shapes of a head's."""
    head_key = _head_key(getattr(config, "value_head_prefix", None))
    shard_of = _shards(name, hub, head_key)
    found = {key: head_key.match(key) for key in shard_of}
    return found, {key: _shape(shard_of[key], key) for key in shard_of if found[key]}


def _head_key(named: str | None) -> re.Pattern:
    """What keys of heads look like, the one that a config names included.

    >>> _head_key("reward_value").match("model.reward_value.weight").groups()
    ('reward_value', 'weight')
    """
    names = (HEAD_NAME, *FOREIGN_HEADS, named or HEAD_NAME)
    return re.compile(rf"{_TOP}({'|'.join(map(re.escape, names))})\.(.+)$")


def _misfit(name: str, found: dict[str, list[int]], expected: dict[str, list[int]]) -> ValueError:
    told = [", ".join(f"{key} {tuple(shape)}" for key, shape in some.items()) for some in (found, expected)]
    layered = any(re.search(rf"\b{HEAD_NAME}\.\d+\.", key) for key in found)
    return ValueError(
        f"The head of '{name}' does not fit: it has {told[0]}, expected {told[1] or 'a head of another kind'}. Take a "
        "checkpoint with such a head, or set model_init_kwargs={'ignore_mismatched_sizes': True} to train a new one."
        + ' Or say in its config.json what its layers are: "rewardplug": {"head": ["Linear", "ReLU", "Linear"]}.'
        * layered
    )


@contextmanager
def reading_head(name: str, auto_class: Any, given: Mapping[str, Any]):
    """Within it `auto_class.from_pretrained(name, **given)` builds the head that the checkpoint has, and keeps it fp32.

    By itself transformers drops a bias, draws a head of several layers anew, and rounds what it reads to one dtype. It
    also prints the shapes that do not fit, and raises an error that says "above".
    """
    config = read_config(name, given)
    check_family(config, auto_class, f"'{name}'")
    shapes: dict[str, list[int]] = {}
    if given.get("use_safetensors") is not False and not any(given.get(key) for key in (*_ELSEWHERE, _ANEW)):
        hub = {key: given[key] for key in HUB if key in given}
        found, all_shapes = _head_shapes(name, config, hub)
        own = [key for key in all_shapes if found[key][1] == HEAD_NAME]
        shapes = {found[key][2]: all_shapes[key] for key in own or all_shapes}
    mapping, kind = auto_class._model_mapping, type(config)
    before, model_class = mapping._extra_content.get(kind), mapping[kind] if kind in mapping else None
    if auto_class is not AutoModelForCausalLM and isinstance(model_class, type):  # not its own code's, nor several
        mapping.register(kind, with_saved_head(model_class, saved_layers(config), shapes), exist_ok=True)
    try:
        yield
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(
            f"'{name}' cannot be loaded: its weights have other shapes than its config.json gives them (the report "
            "above lists them). Take the config.json that was saved with the weights."
        ) from error
    finally:
        mapping._extra_content.pop(kind, None)
        if before is not None:
            mapping._extra_content[kind] = before


def why_not_readable(path: Path) -> str | None:
    """Why `path` is no whole safetensors file, or None. Reads its header alone, which says how long it must be."""
    try:
        with safe_open(path, framework="pt"):
            return None
    except SafetensorError as error:
        return f"{path.name} is cut off or no safetensors file ({error})"


def check_saved_head(folder: str | Path, head: Mapping[str, torch.Tensor], adapter: str | None = None) -> None:
    """Read a saved folder back: its safetensors files are whole, and its head is `head`, {"weight": (C, D), ...}.

    Args:
        adapter: name of the PEFT adapter that was saved; PEFT has a folder for each but "default".

    Raises:
        RuntimeError: it is not what was to be saved.
    """
    folder = Path(folder) if adapter in (None, "default") else Path(folder, adapter)
    files = sorted(folder.glob("model*.safetensors" if adapter is None else "adapter_model*.safetensors"))
    saved = {}
    for path in files:
        if reason := why_not_readable(path):
            raise RuntimeError(
                f"The model that was just saved in '{folder}' cannot be read: {reason}. Is the disk full?"
            )
        with safe_open(path, framework="pt") as tensors:
            for key in tensors.keys():
                if found := _OF_HEAD.search(key):
                    saved[found[1]] = tensors.get_tensor(key)
    for name, value in head.items():
        expected, found = value.detach().cpu(), saved.get(name)
        if found is not None and found.shape == expected.shape:
            if torch.allclose(found, expected.to(found.dtype), rtol=0, atol=0, equal_nan=True):
                continue
        what = "is missing" if found is None else f"has the shape {tuple(found.shape)} or other values"
        raise RuntimeError(
            f"The head that was just saved is not the one that trained: '{HEAD_NAME}.{name}' {what} in '{folder}' "
            f"({', '.join(path.name for path in files) or 'no safetensors file'}), expected {tuple(expected.shape)}. "
            "Under ZeRO-3 set `stage3_gather_16bit_weights_on_model_save`; with PEFT, `modules_to_save=['score']`."
        )


def _shards(name: str, hub: dict, head_key: re.Pattern) -> dict[str, Path]:
    """{key of a tensor: its file}; empty where nothing can be looked at and `from_pretrained` must tell."""
    if single := find_file(name, SAFE_WEIGHTS_NAME, hub):
        _check(name, [single])
        with safe_open(single, framework="pt") as tensors:
            return dict.fromkeys(tensors.keys(), single)
    if index := find_file(name, SAFE_WEIGHTS_INDEX_NAME, hub):
        try:
            file_of = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            wanted = {file for key, file in file_of.items() if head_key.match(key)}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"'{name}' cannot be loaded: {index.name} is no index of weights ({error}).") from error
        if Path(name).is_dir():
            _check(name, [index.parent / file for file in sorted({*file_of.values()})])
        paths = {file: find_file(name, file, hub) for file in wanted}
        return {key: paths[file] for key, file in file_of.items() if paths.get(file)}
    pickles = [file for file in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME) if find_file(name, file, hub)]
    if pickles:
        raise ValueError(
            f"'{name}' holds its weights as a pickle ({pickles[0]}), which can run code when it is read. Convert it to "
            "safetensors (`from_pretrained` and `save_pretrained`, where you trust it), or set "
            "model_init_kwargs={'use_safetensors': False}."
        )
    return {}


def _check(name: str, paths: list[Path]) -> None:
    for path in paths:
        reason = why_not_readable(path) if path.is_file() else f"{path.name} is missing"
        if reason:
            raise ValueError(f"'{name}' cannot be loaded: {reason}. Copy or download it again.")


def _shape(path: Path, key: str) -> list[int]:
    with safe_open(path, framework="pt") as tensors:
        return list(tensors.get_slice(key).get_shape())


def adapter_head_shapes(adapter: str, hub: dict) -> dict[str, list[int]]:
    """{"weight": (C, D), ...} of the head in an adapter's file."""
    if (path := find_file(adapter, SAFETENSORS_WEIGHTS_NAME, hub)) is None:
        return {}
    with safe_open(path, framework="pt") as tensors:
        named = {key: _OF_HEAD.search(key) for key in tensors.keys()}
        return {at[1]: list(tensors.get_slice(key).get_shape()) for key, at in named.items() if at}


def is_adapter(name: str, hub: dict) -> bool:
    """Whether it is an adapter without a model beside it."""
    return bool(find_file(name, ADAPTER_CONFIG_NAME, hub)) and not find_file(name, CONFIG_NAME, hub)
