"""Weights in files: whether they are whole, and which shapes they have.

In: a model's name, a folder or a file. Out: where each tensor is and its shape, or an error; nothing is loaded.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from .head import HEAD_NAME
from .places import find_file

# The key of a head's parameter in a file that was saved by this package.
_OF_HEAD = re.compile(rf"(?:^|\.){HEAD_NAME}\.(.+)$")


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
                if match := _OF_HEAD.search(key):
                    saved[match[1]] = tensors.get_tensor(key)
    for name, value in head.items():
        expected, read_back = value.detach().cpu(), saved.get(name)
        if read_back is None:
            fault = "is missing"
        elif read_back.shape == expected.shape and torch.allclose(
            read_back, expected.to(read_back.dtype), rtol=0, atol=0, equal_nan=True
        ):
            continue
        else:
            fault = f"has the shape {tuple(read_back.shape)} or other values"
        raise RuntimeError(
            f"The head that was just saved is not the one that trained: '{HEAD_NAME}.{name}' {fault} in '{folder}' "
            f"({', '.join(path.name for path in files) or 'no safetensors file'}), expected {tuple(expected.shape)}. "
            "Under ZeRO-3 set `stage3_gather_16bit_weights_on_model_save`; with PEFT, `modules_to_save=['score']`."
        )


def model_head_shapes(name: str, hub: dict, head_key: re.Pattern) -> dict[str, list[int]]:
    """{key: shape} of the tensors of a model whose keys begin with `head_key`.

    Empty where there is no file that can be looked at, so that `from_pretrained` must say what is wrong.

    Raises:
        ValueError: the weights are cut off, or a pickle.
    """
    if single := find_file(name, SAFE_WEIGHTS_NAME, hub):
        _check(name, [single])
        return _shapes(single, head_key)
    if index := find_file(name, SAFE_WEIGHTS_INDEX_NAME, hub):
        try:
            file_of = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = sorted({file for key, file in file_of.items() if head_key.search(key)})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"'{name}' cannot be loaded: {index.name} is no index of weights ({error}).") from error
        if Path(name).is_dir():
            _check(name, [index.parent / file for file in sorted({*file_of.values()})])
        shapes = {}
        for file in files:
            if path := find_file(name, file, hub):
                shapes |= _shapes(path, head_key)
        return shapes
    pickles = [file for file in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME) if find_file(name, file, hub)]
    if pickles:
        raise ValueError(
            f"'{name}' holds its weights as a pickle ({pickles[0]}), which can run code when it is read. Convert it to "
            "safetensors (`from_pretrained` and `save_pretrained`, where you trust it), or set "
            "model_init_kwargs={'use_safetensors': False}."
        )
    return {}


def adapter_head_shapes(adapter: str, hub: dict) -> dict[str, list[int]]:
    """{"weight": (C, D), ...} of the head in an adapter's file; empty where there is none."""
    path = find_file(adapter, SAFETENSORS_WEIGHTS_NAME, hub)
    shapes = {} if path is None else _shapes(path, _OF_HEAD)
    return {_OF_HEAD.search(key)[1]: shape for key, shape in shapes.items()}


def _shapes(path: Path, pattern: re.Pattern) -> dict[str, list[int]]:
    """{key: shape} of the tensors in a safetensors file whose keys match, by its header."""
    with safe_open(path, framework="pt") as tensors:
        return {key: tensors.get_slice(key).get_shape() for key in tensors.keys() if pattern.search(key)}


def _check(name: str, paths: list[Path]) -> None:
    for path in paths:
        reason = why_not_readable(path) if path.is_file() else f"{path.name} is missing"
        if reason:
            raise ValueError(f"'{name}' cannot be loaded: {reason}. Copy or download it again.")
