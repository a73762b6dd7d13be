"""A checkpoint, checked before it is loaded: it is in safetensors, it is whole, and its head fits.

In: a model's name (folder or hub id) and the kind that is wanted. Out: arguments for `from_pretrained`, or an error.
transformers reads a cut-off file into an opaque error, falls back to pickles, and draws a new head where the
checkpoint's has another name.
"""

import copy
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, PreTrainedConfig
from transformers.modeling_utils import set_zero3_state
from transformers.utils import import_utils

from .description import Description
from .families import check_family
from .head import HEAD_NAME
from .head_layers import build_head, saved_layers, with_saved_head
from .kinds import LM, PUBLISHED, Kind, architecture, kind_of_class, published
from .places import HUB, check_place, is_adapter, read
from .weights import model_head_shapes

logger = logging.getLogger(__name__)

FOREIGN_HEADS = (
    "v_head.summary",
    "v_head",
    "value_head.summary",
    "value_head",
    "reward_head",
    "rm_head",
    "regression_head",
    "regression_layer",
    "classification_head",
    "classifier",
)
"""names that heads have in checkpoints of TRL's PPO, OpenRLHF, LLaMA-Factory, InternLM2, ArmoRM and others"""

# Only at the top, because a body may have a `classifier` too (LongCat's router).
_TOP = r"^(?:(?:module|model|base_model|pretrained_model)\.)?"

_ANEW = "ignore_mismatched_sizes"

_ELSEWHERE = ("gguf_file", "state_dict", "variant")
"""arguments of `from_pretrained` that take the weights from another file"""


class HeadTensor(NamedTuple):
    """A tensor of a head in a checkpoint's files: "score.0.weight" is the parameter "0.weight" of the head "score"."""

    head: str
    parameter: str
    shape: list[int]


class SavedModel:
    """A checkpoint that is not loaded yet. Its config and the shapes of its head are read once, when they are needed.

    Args:
        name: folder or hub id.
        options: arguments for `from_pretrained`.
    """

    def __init__(self, name: str, options: Mapping[str, Any]):
        self.name, self.options = name, dict(options)
        self.hub = {key: options[key] for key in HUB if key in options}
        elsewhere = any(options.get(key) for key in _ELSEWHERE)
        self._in_safetensors = options.get("use_safetensors") is not False and not elsewhere

    @cached_property
    def config(self) -> Any:
        """The checked config. Known public checkpoints are read without their own code, even where that is allowed.

        Raises:
            ValueError: it cannot be read, or what a trainer wrote into it has been changed.
        """
        trusted = self.options.get("trust_remote_code", False)
        if trusted:
            written, _ = PreTrainedConfig.get_config_dict(self.name, **self.hub)
            trusted = (written.get("architectures") or [""])[0] not in PUBLISHED
        config = read(AutoConfig, self.name, trust_remote_code=trusted, **self.hub)
        Description.checked(config, f"'{self.name}'")
        return config

    @cached_property
    def head(self) -> dict[str, HeadTensor]:
        """{key: tensor of a head of any name}; empty where the files cannot be looked at.

        Raises:
            ValueError: the weights are cut off, or a pickle.
        """
        names = (HEAD_NAME, *FOREIGN_HEADS, getattr(self.config, "value_head_prefix", None) or HEAD_NAME)
        pattern = re.compile(rf"{_TOP}({'|'.join(map(re.escape, names))})\.(.+)$")
        shapes = model_head_shapes(self.name, self.hub, pattern)
        return {key: HeadTensor(*pattern.match(key).groups(), shape) for key, shape in shapes.items()}

    def _own_head(self) -> dict[str, list[int]]:
        """{parameter: shape} of the head that is called `score`."""
        return {tensor.parameter: tensor.shape for tensor in self.head.values() if tensor.head == HEAD_NAME}

    def check_is_model(self) -> None:
        """
        Raises:
            ValueError: there is no such folder, or it holds an adapter.
        """
        check_place(self.name, self.hub)
        if is_adapter(self.name, self.hub):
            raise ValueError(
                f"'{self.name}' is an adapter, not a model. To go on training it, give the trainer "
                "`PeftModel.from_pretrained(base, adapter, is_trainable=True)`; to train what it makes of its base, "
                "`merge_adapter` first."
            )

    def arguments(self, model_kind: Kind, num_labels: int) -> dict[str, Any]:
        """The options for `model_kind.auto_class.from_pretrained`, so that the checkpoint's head arrives.

        A linear head under another name (`FOREIGN_HEADS`, or OpenRLHF's `value_head_prefix` in the config) is mapped
        to `score` where its shape fits, and the log says so. (Of a causal LM the LM head counts.)

        Raises:
            ValueError: the weights are cut off, or a pickle (`use_safetensors=False` allows it); the head does not fit
                (`ignore_mismatched_sizes=True` draws a new one); `use_kernels=True` without the package `kernels`.
        """
        if self.options.get("use_kernels"):
            _check_kernels()
        if not self._in_safetensors:
            return self.options
        self.check_is_model()
        check_family(self.config, model_kind, f"'{self.name}'")
        options = {"use_safetensors": True, **self.options}
        if published(self.config):
            # The body is transformers' own, and the head is known.
            options["trust_remote_code"] = False
        if not self.head or options.get(_ANEW):
            return options
        # Its LM head counts, even where the files hold another head too.
        if model_kind is LM:
            name = architecture(self.config)
            if kind_of_class(name) not in (LM, None):
                raise ValueError(
                    f"'{self.name}' is {name}, which has no LM head. Take a causal LM; or leave `good_token` and "
                    "`bad_token` out."
                )
            return options
        foreign = self._head_to_rename(model_kind, num_labels)
        if foreign is not None:
            logger.warning("The head '%s' of '%s' is taken as '%s'.", foreign, self.name, HEAD_NAME)
            mapping = {rf"{_TOP}{re.escape(foreign)}\.": f"{HEAD_NAME}."}
            options["key_mapping"] = {**(options.get("key_mapping") or {}), **mapping}
        return options

    @contextmanager
    def reading(self, model_kind: Kind) -> Iterator[None]:
        """Inside it `model_kind.auto_class.from_pretrained` builds the head that the checkpoint has, and keeps it fp32.

        By itself transformers drops a bias, draws a head of several layers anew, and rounds what it reads to one
        dtype. It also prints the shapes that do not fit, and raises an error that says "above".
        """
        check_family(self.config, model_kind, f"'{self.name}'")
        shapes: dict[str, list[int]] = {}
        if self._in_safetensors and not self.options.get(_ANEW):
            shapes = self._own_head() or {tensor.parameter: tensor.shape for tensor in self.head.values()}
        mapping, config_class = model_kind.auto_class._model_mapping, type(self.config)
        before = mapping._extra_content.get(config_class)
        model_class = mapping[config_class] if config_class in mapping else None
        # Only transformers' own classes: a model of its own code has no class here, and some configs have several.
        if model_kind is not LM and isinstance(model_class, type):
            # `register` would not do: before transformers 5.18 or so it ignores a config of transformers' own.
            mapping._extra_content[config_class] = with_saved_head(model_class, saved_layers(self.config), shapes)
        try:
            yield
        except RuntimeError as error:
            if _ANEW not in str(error):
                raise
            raise ValueError(
                f"'{self.name}' cannot be loaded: its weights have other shapes than its config.json gives them (the "
                "report above lists them). Take the config.json that was saved with the weights."
            ) from error
        finally:
            mapping._extra_content.pop(config_class, None)
            if before is not None:
                mapping._extra_content[config_class] = before

    def _head_to_rename(self, model_kind: Kind, num_labels: int) -> str | None:
        """Another name under which the files hold the head; None where it is called `score`.

        Raises:
            ValueError: it does not fit.
        """
        shapes = {key: tensor.shape for key, tensor in self.head.items()}
        built = self._built_shapes(model_kind, num_labels)
        layers = saved_layers(self.config)
        weights = [tensor for tensor in self.head.values() if tensor.parameter == "weight"]
        if layers is not None:
            head = build_head(layers, self._own_head())
            if head[-1].out_features == num_labels:
                return None
            expected = {f"{HEAD_NAME}.{len(head) - 1}.weight": [num_labels, head[-1].in_features]}
        elif built.keys() & shapes:
            shapes = {key: shape for key, shape in shapes.items() if shape != built.get(key, shape)}
            if not shapes:
                return None
            expected = {key: built[key] for key in shapes}
        else:
            is_linear = {tensor.parameter for tensor in self.head.values()} <= {"weight", "bias"} and len(weights) == 1
            if is_linear and weights[0].shape == built.get(f"{HEAD_NAME}.weight"):
                return weights[0].head
            expected = {key: shape for key, shape in built.items() if key.startswith(f"{HEAD_NAME}.")}
        raise _misfit(self.name, shapes, expected)

    def _built_shapes(self, model_kind: Kind, num_labels: int) -> dict[str, list[int]]:
        """{key: shape} of the model as transformers builds it."""
        config = copy.deepcopy(self.config)
        config.num_labels = num_labels
        trusted = self.options.get("trust_remote_code", False) and not published(config)
        try:
            # ZeRO-3 would divide the empty tensors among its ranks.
            with torch.device("meta"), set_zero3_state():
                model = model_kind.auto_class.from_config(config, trust_remote_code=trusted)
        except (AssertionError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
            raise ValueError(f"'{self.name}' cannot be built as its config.json says: {error}.") from error
        return {key: list(value.shape) for key, value in model.named_parameters()}


def _check_kernels() -> None:
    """The package that `use_kernels=True` needs, before the weights are read.

    Raises:
        ValueError: it is missing.
    """
    if import_utils.is_kernels_available():
        return
    versions = f"kernels>={import_utils.KERNELS_MIN_VERSION},<{import_utils.KERNELS_MAX_VERSION}"
    raise ValueError(
        "`use_kernels=True` (the trainers' model_init_kwargs={'use_kernels': True}) needs the package `kernels` in "
        f"a version that this transformers takes: `pip install '{versions}'`; or leave it out. "
        "(`use_liger_kernel=True` needs `liger-kernel` instead.)"
    )


def _misfit(name: str, shapes: dict[str, list[int]], expected: dict[str, list[int]]) -> ValueError:
    saved, built = (
        ", ".join(f"{key} {tuple(shape)}" for key, shape in tensors.items()) for tensors in (shapes, expected)
    )
    remedy = ""
    if re.search(rf"\b{HEAD_NAME}\.\d+\.", saved):
        remedy = ' Or say in its config.json what its layers are: "rewardplug": {"head": ["Linear", "ReLU", "Linear"]}.'
    return ValueError(
        f"The head of '{name}' does not fit: it has {saved}, expected {built or 'a head of another kind'}. "
        "Take a checkpoint with such a head, or set model_init_kwargs={'ignore_mismatched_sizes': True} to train a new "
        f"one.{remedy}"
    )
