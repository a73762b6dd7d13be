"""A whole training step as on a GPU, without a card.

Fake tensors have shapes and dtypes but no numbers, and the kernel is CUDA's. Whatever would read a number off the
device stops a fake tensor, and every operation is seen.

TRL's default is tested: fp32 weights, bf16 autocast, gradient checkpointing. (Fake CUDA tensors need a CUDA build of
torch, which `make test-cuda` has; here they are fake CPU tensors under the CPU's autocast.)
"""

import copy
from collections import Counter

import pytest
import torch
from families import CONFIGS
from test_attention import random_rows
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForSequenceClassification

from hf_rewardplug.data.collator import PreferenceCollator
from hf_rewardplug.model import attention
from hf_rewardplug.model.attention import share_prefixes
from hf_rewardplug.model.head import install_reward_head
from hf_rewardplug.model.kernels import flash_attention
from hf_rewardplug.model.layout import tree_index


class Operations(TorchDispatchMode):
    """Counts every operation by its phase and name, and keeps the dtypes that attention gets."""

    def __init__(self):
        super().__init__()
        self.phase, self.count, self.attention_dtypes = "forward", Counter(), set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.count[self.phase, name] += 1
        if name == "_flash_attention_forward":
            self.attention_dtypes |= {tensor.dtype for tensor in args[:3]}
        return function(*args, **(kwargs or {}))


@pytest.fixture
def cuda_kernels(monkeypatch):
    """Flash attention for everything without a soft-cap, as on a card where it is right."""
    chosen = []

    def choose(heads):
        chosen.append(heads)
        return flash_attention

    monkeypatch.setattr(attention, "choose_kernel", choose)
    return chosen


def step(family: str, layers: int, *, checkpointing: dict | None = None, dtype=torch.float32):
    """One step on fake tensors: (operations, model, logits)."""
    rows = random_rows("orm")
    batch = PreferenceCollator(0, prefix_sharing=True, tree_index=tree_index)(rows)
    config = copy.deepcopy(CONFIGS[family])
    config.num_labels, config.num_hidden_layers = 1, layers
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[0]] * layers
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model = AutoModelForSequenceClassification.from_config(config, dtype=dtype).train()
        install_reward_head(model)
        assert share_prefixes(model) is None
        if checkpointing is not None:
            model.gradient_checkpointing_enable(checkpointing)
            model.enable_input_require_grads()
        fake = {key: mode.from_tensor(value) if torch.is_tensor(value) else value for key, value in batch.items()}
        keys = ("input_ids", "position_ids", "prefix_tree", "score_positions")
        operations = Operations()
        with operations:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(**{key: fake[key] for key in keys}, use_cache=False).logits
                pairs = len(rows)
                loss = torch.nn.functional.softplus(logits[pairs:] - logits[:pairs]).sum()
            operations.phase = "backward"
            loss.backward()
    return operations, model, logits


@pytest.mark.parametrize("checkpointing", [None, {"use_reentrant": False}, {"use_reentrant": True}])
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_a_default_step_computes_in_bf16_and_reads_nothing(cuda_kernels, family, checkpointing):
    operations, model, logits = step(family, 2, checkpointing=checkpointing)
    assert operations.attention_dtypes == {torch.bfloat16}, "rotary embeddings leave queries and keys in fp32"
    assert logits.dtype == torch.float32
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())
    assert {heads.dtype for heads in cuda_kernels} == {torch.bfloat16}
    reads = {"_local_scalar_dense", "nonzero", "masked_select", "equal"}
    assert not reads & {name for _, name in operations.count}


def test_bf16_weights_have_bf16_gradients(cuda_kernels):
    operations, model, _ = step("llama", 2, dtype=torch.bfloat16)
    assert operations.attention_dtypes == {torch.bfloat16}
    dtypes = {name: parameter.grad.dtype for name, parameter in model.named_parameters()}
    assert dtypes.pop("score.weight") == torch.float32 and {*dtypes.values()} == {torch.bfloat16}


def test_operations_a_layer(cuda_kernels):
    """What sharing adds to a layer: keys and values gathered once each way, their gradients cast, summed and cast back.

    The difference of 3 layers and 2 is one layer, whatever is done once a step.
    """
    two, three = (step("llama", layers)[0].count for layers in (2, 3))
    layer = three - two
    assert layer["forward", "index_select"] == 2 and layer["backward", "index_select"] == 2
    assert layer["forward", "_flash_attention_forward"] == layer["backward", "_flash_attention_backward"] == 1
    assert layer["backward", "index_add_"] == 2 and layer["backward", "zeros"] == 2
    for name in ("select_backward", "index_put", "index_put_", "index", "repeat_interleave", "expand_backward"):
        assert layer["backward", name] == 0, "a gradient as large as the row would be made and added"
    checkpointed = step("llama", 3, checkpointing={"use_reentrant": False})[0].count
    checkpointed -= step("llama", 2, checkpointing={"use_reentrant": False})[0].count
    assert checkpointed["backward", "_flash_attention_forward"] == 1, (
        "the layer is computed once more, no more than that"
    )
    assert checkpointed["backward", "index_select"] == 4
