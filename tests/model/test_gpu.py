"""The CUDA kernels against their definition in fp32, and packed batches against padded ones, on a GPU.

bf16 rounds to 8 bits. A kernel's outputs are within 2e-2 of the definition's element by element, its gradients within
2e-2 of their norm; a packed batch's scores and gradients are at most twice as far from fp32 as the padded batch's.
"""

import copy
import functools
import random
import sys
from importlib.util import find_spec

import pytest
import torch
from test_attention import layout_of
from transformers import AutoModelForSequenceClassification, Gemma2Config, LlamaConfig, MistralConfig, Qwen2Config
from transformers.integrations.liger import apply_liger_kernel

from hf_rewardplug.data.collator import PreferenceCollator
from hf_rewardplug.model import attention, kernels, liger
from hf_rewardplug.model.attention import share_prefixes
from hf_rewardplug.model.head import install_reward_head
from hf_rewardplug.model.kernels import SpanAttention, flex_attention, reference_attention, varlen_attention
from hf_rewardplug.model.layout import TreeLayout, tree_index
from hf_rewardplug.model.liger import register_liger

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICE = torch.device("cuda")

SIZES = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "pad_token_id": 0,
}
CONFIGS = {  # heads of 64, a size that all kernels take
    "llama": LlamaConfig(**SIZES, bos_token_id=1, eos_token_id=1),
    "qwen2": Qwen2Config(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=48),
    "gemma2": Gemma2Config(
        **SIZES, head_dim=64, query_pre_attn_scalar=64, sliding_window=48, attn_logit_softcapping=5.0
    ),
}


# ---- kernels --------------------------------------------------------------------------------------------------------


def random_trie(seed: int, longest: int = 150) -> tuple[TreeLayout, int]:
    """Short sequences, where one key more or less shows, and long ones, in more than one block of 128 tokens."""
    g = random.Random(seed)
    short = [[g.randrange(3) for _ in range(g.randint(1, 9))] for _ in range(10)]
    prompts = [[3, *(g.randrange(64) for _ in range(g.randint(1, longest)))] for _ in range(2)]
    long = [g.choice(prompts) + [g.randrange(64) for _ in range(g.randint(1, longest))] for _ in range(6)]
    layout, size = layout_of(short + long)
    return TreeLayout(layout.spans, layout.position_ids_T.to(DEVICE), layout.longest), size


def random_inputs(size: int, heads: int, key_heads: int, dim: int, dtype=torch.bfloat16) -> list[torch.Tensor]:
    """Query, key and value as a model has them: (T, heads, D) in memory."""
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn(size, count, dim, generator=g).to(DEVICE, dtype) for count in (heads, key_heads, key_heads)]
    return [tensor.transpose(0, 1).requires_grad_() for tensor in tensors]


def with_gradients(kernel, inputs, *arguments) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    output = kernel(*inputs, *arguments)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.device, output.dtype)
    return output.detach(), torch.autograd.grad(output, inputs, weights)


def assert_is_the_definition(kernel, layout: TreeLayout, inputs, softcap=None, window=None):
    arguments = (layout, inputs[0].shape[-1] ** -0.5, softcap, window)
    exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
    expected, expected_gradients = with_gradients(reference_attention, exact, *arguments)
    found, gradients = with_gradients(kernel, inputs, *arguments)
    assert found.dtype == inputs[0].dtype
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
    for a, b in zip(gradients, expected_gradients, strict=True):
        assert (a.float() - b).norm() <= 2e-2 * b.norm()


@pytest.fixture
def varlen():
    """`varlen_attention`, where torch's kernel is what it needs."""
    if not kernels._varlen_is_right(DEVICE):
        pytest.skip("this torch has no varlen_attn that is right")
    return varlen_attention


def test_varlen_is_right_or_says_why_not(caplog):
    kernels._varlen_is_right.cache_clear()
    right = kernels._varlen_is_right(DEVICE)
    assert right or "does not work here" in caplog.text or find_spec("torch.nn.attention.varlen") is None
    choose = functools.partial(kernels.choose_kernel, DEVICE, query_dim=128, value_dim=128)
    assert choose(torch.bfloat16, None) is (varlen_attention if right else flex_attention)
    assert choose(torch.bfloat16, 30.0) is flex_attention
    assert choose(torch.float32, None) == SpanAttention.apply


@pytest.mark.parametrize("window", [None, 4, 40])
@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (8, 1)])
def test_varlen_is_the_definition(varlen, heads, key_heads, dim, window):
    for seed in range(3):
        layout, size = random_trie(seed)
        assert_is_the_definition(varlen, layout, random_inputs(size, heads, key_heads, dim), None, window)


@pytest.mark.parametrize(
    ("heads", "key_heads", "dim", "softcap", "window"),
    [
        (4, 4, 64, None, None),
        (4, 2, 64, 5.0, None),
        (4, 2, 64, 5.0, 40),
        (8, 1, 128, None, 4),
        (8, 1, 128, 5.0, 4),
        (8, 4, 256, 50.0, None),  # Gemma 2
    ],
)
def test_flex_is_the_definition(heads, key_heads, dim, softcap, window):
    for seed in range(3):
        layout, size = random_trie(seed)
        assert_is_the_definition(flex_attention, layout, random_inputs(size, heads, key_heads, dim), softcap, window)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("window", [None, 4])
def test_spans_on_the_gpu_are_the_definition(softcap, window):
    layout, size = random_trie(0)
    inputs = random_inputs(size, 4, 2, 64, torch.float32)
    arguments = (layout, 0.125, softcap, window)
    expected, expected_gradients = with_gradients(reference_attention, inputs, *arguments)
    found, gradients = with_gradients(SpanAttention.apply, inputs, *arguments)
    torch.testing.assert_close((found, *gradients), (expected, *expected_gradients), rtol=1e-4, atol=1e-4)


def test_flex_is_compiled_a_few_times_whatever_the_lengths():
    """One graph a mask, and one for rows of a single block, where dynamo takes the number of blocks for a constant."""
    torch._dynamo.reset()
    kernels._compiled_flex.cache_clear()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    sizes = set()
    for seed in range(100):
        layout, size = random_trie(seed, longest=5 if seed % 5 == 4 else 50 + 3 * seed)
        sizes.add(size)
        for window in (None, 40):
            output = flex_attention(*random_inputs(size, 4, 2, 64), layout, 0.125, 5.0, window)
            output.sum().backward()
    assert len(sizes) > 60 and min(sizes) <= 128
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before <= 4


# ---- models ---------------------------------------------------------------------------------------------------------


def model_of(family: str, dtype: torch.dtype):
    """The same bf16 weights in any dtype, with the fp32 head."""
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[family])
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.bfloat16).to(DEVICE, dtype).eval()
    install_reward_head(model)
    return model


def batches(count: int = 12, seed: int = 0) -> tuple[dict, dict]:
    """The same pairs padded and packed, on the device; some are longer than the windows."""
    g = random.Random(seed)

    def tokens(most: int) -> list[int]:
        return [g.randrange(2, 128) for _ in range(g.randint(1, most))]

    prompts = [tokens(100) for _ in range(count // 2)]
    rows = [{key: g.choice(prompts) + tokens(60) for key in ("chosen_ids", "rejected_ids")} for _ in range(count)]
    made = [PreferenceCollator(0, prefix_sharing=sharing)(rows) for sharing in (False, True)]
    return tuple(
        {key: value.to(DEVICE) if torch.is_tensor(value) else value for key, value in batch.items()} for batch in made
    )


def scores_and_gradient(model, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores, and the gradient of a weighted sum of them as one vector."""
    model.zero_grad()
    scores = model(**batch, use_cache=False).logits
    weights = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1)).to(scores.device)
    (scores * weights).sum().backward()
    gradient = torch.cat([parameter.grad.float().flatten() for parameter in model.parameters()])
    return scores.detach(), gradient


@pytest.mark.parametrize("family", CONFIGS)
def test_bf16_is_as_near_to_fp32_as_the_padded_batch(family):
    padded, packed = batches()
    plain, shared, exact = (model_of(family, dtype) for dtype in (torch.bfloat16, torch.bfloat16, torch.float32))
    assert share_prefixes(shared) is None
    scores, gradient = scores_and_gradient(exact, padded)
    rounded_scores, rounded_gradient = scores_and_gradient(plain, padded)
    found_scores, found_gradient = scores_and_gradient(shared, packed)
    assert (found_scores - scores).abs().max() <= 2 * (rounded_scores - scores).abs().max()
    assert (found_gradient - gradient).norm() <= 2 * (rounded_gradient - gradient).norm()


@pytest.mark.parametrize("family", CONFIGS)
def test_fp32_is_the_padded_batch(family):
    padded, packed = batches()
    plain, shared = (model_of(family, torch.float32) for _ in range(2))
    share_prefixes(shared)
    expected, gradient = scores_and_gradient(plain, padded)
    found, found_gradient = scores_and_gradient(shared, packed)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (found_gradient - gradient).norm() <= 1e-4 * gradient.norm()


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_fp32_weights_under_autocast_take_the_bf16_kernels(family, monkeypatch):
    """TRL's default: rotary embeddings leave query and key in fp32 there."""
    padded, packed = batches()
    shared, exact = (model_of(family, torch.float32) for _ in range(2))
    share_prefixes(shared)
    dtypes, choose_kernel = set(), attention.choose_kernel

    def noted(device, dtype, softcap, **dims):
        dtypes.add(dtype)
        return choose_kernel(device, dtype, softcap, **dims)

    monkeypatch.setattr(attention, "choose_kernel", noted)
    with torch.no_grad():
        scores = exact(**padded, use_cache=False).logits
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            rounding = (exact(**padded, use_cache=False).logits - scores).abs().max()
            found = shared(**packed, use_cache=False).logits
    assert dtypes == {torch.bfloat16}
    assert (found - scores).abs().max() <= 2 * rounding


@pytest.mark.parametrize("family", CONFIGS)
def test_liger_is_as_near_to_fp32_as_the_plain_model(family, monkeypatch):
    pytest.importorskip("liger_kernel")
    _, packed = batches()
    plain, fused, exact = (model_of(family, dtype) for dtype in (torch.bfloat16, torch.bfloat16, torch.float32))
    for model in (plain, fused, exact):
        share_prefixes(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(liger, "DEVICES", set())  # an earlier test's rotary function is the whole family's
        scores, gradient = scores_and_gradient(exact, packed)
        rounded_scores, rounded_gradient = scores_and_gradient(plain, packed)
    modeling = sys.modules[type(fused).__module__]
    monkeypatch.setattr(modeling, "apply_rotary_pos_emb", modeling.apply_rotary_pos_emb)  # and so is this one's
    assert register_liger(fused, DEVICE) is None
    apply_liger_kernel(fused, {})
    assert sum(hasattr(vars(module).get("forward"), "by_device") for module in fused.modules()) >= 7
    found_scores, found_gradient = scores_and_gradient(fused, packed)
    assert (found_scores - scores).abs().max() <= 2 * (rounded_scores - scores).abs().max()
    assert (found_gradient - gradient).norm() <= 2 * (rounded_gradient - gradient).norm()


@pytest.mark.parametrize("family", CONFIGS)
def test_the_workers_index_is_the_layouts(family):
    _, packed = batches()
    model = model_of(family, torch.bfloat16)
    share_prefixes(model)
    expected, _ = scores_and_gradient(model, packed)
    tree = packed["prefix_tree"]
    index = {
        key: value.to(DEVICE) if torch.is_tensor(value) else value
        for key, value in tree_index(tree["spans"], packed["input_ids"].shape[1]).items()
    }
    found, _ = scores_and_gradient(model, {**packed, "prefix_tree": {**tree, "index": index}})
    assert torch.equal(found, expected)


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_a_hundred_batches_compile_nothing_again(family):
    """With gradient checkpointing, as TRL trains; Gemma 2's two graphs and their backwards are all that there is."""
    torch._dynamo.reset()
    kernels._compiled_flex.cache_clear()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    model = model_of(family, torch.bfloat16).train()
    share_prefixes(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    sizes = set()
    for count in range(2, 102):
        _, packed = batches(count // 2 * 2, seed=count)
        sizes.add(packed["input_ids"].shape[1])
        scores_and_gradient(model, packed)
    assert len(sizes) > 60
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before <= 4


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_gradient_checkpointing_changes_nothing(family):
    """But the order in which flash attention's backward adds up its blocks."""
    _, packed = batches()
    model = model_of(family, torch.bfloat16).train()
    share_prefixes(model)
    expected, gradient = scores_and_gradient(model, packed)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    found, found_gradient = scores_and_gradient(model, packed)
    assert torch.equal(found, expected)
    assert (found_gradient - gradient).norm() <= 1e-2 * gradient.norm()
