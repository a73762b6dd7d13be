"""The CUDA kernels against their definition in fp32, and packed batches against padded ones, on a GPU.

bf16 rounds to 8 bits, so everything is compared by the norm of the difference, relative to the norm of the truth. A
kernel's output is within 1e-2 of the definition and its gradients within 2e-2. A packed batch's scores and gradient are
at most twice as far from those in fp32 as the padded batch's.

FlexAttention is compiled for few shapes, so that the whole file takes about 90 seconds.
"""

import copy
import random
import sys

import pytest
import torch
from test_attention import layout_of
from transformers import AutoModelForSequenceClassification, Gemma2Config, LlamaConfig, MistralConfig, Qwen2Config
from transformers.integrations.liger import apply_liger_kernel

from hf_rewardplug.data.collator import PreferenceCollator
from hf_rewardplug.model import attention, liger
from hf_rewardplug.model.attention import share_prefixes
from hf_rewardplug.model.head import install_reward_head
from hf_rewardplug.model.kernels import (
    Heads,
    choice,
    choose_kernel,
    flash_attention,
    flex_attention,
    reference_attention,
    span_attention,
)
from hf_rewardplug.model.kernels.choice import find_fault
from hf_rewardplug.model.kernels.flex import _compiled_flex
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


def distance(tensor: torch.Tensor, truth: torch.Tensor) -> float:
    """Norm of the difference, relative to the norm of the truth."""
    return float((tensor.float() - truth.float()).norm() / truth.float().norm())


# ---- kernels --------------------------------------------------------------------------------------------------------


def on_the_card(layout: TreeLayout) -> TreeLayout:
    return TreeLayout(layout.spans, layout.position_ids_T.to(DEVICE), layout.longest)


def random_trie(seed: int, longest: int = 150) -> tuple[TreeLayout, int]:
    """Short sequences, where one key more or less shows, and long ones, in more than one block of 128 tokens."""
    g = random.Random(seed)
    short = [[g.randrange(3) for _ in range(g.randint(1, 9))] for _ in range(10)]
    prompts = [[3, *(g.randrange(64) for _ in range(g.randint(1, longest)))] for _ in range(2)]
    long = [g.choice(prompts) + [g.randrange(64) for _ in range(g.randint(1, longest))] for _ in range(6)]
    layout, size = layout_of(short + long)
    return on_the_card(layout), size


def wide_trie(branches: int = 256) -> tuple[TreeLayout, int]:
    """One trunk that every branch sees, so that its keys' gradients are sums of many."""
    g = random.Random(0)
    trunk = [1] * 60
    layout, size = layout_of([[*trunk, 2 + number, *(g.randrange(64) for _ in range(5))] for number in range(branches)])
    return on_the_card(layout), size


def random_inputs(size: int, heads: int, key_heads: int, dim: int, dtype=torch.bfloat16) -> list[torch.Tensor]:
    """Query, key and value as a model has them: (T, heads, D) in memory."""
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn(size, count, dim, generator=g).to(DEVICE, dtype) for count in (heads, key_heads, key_heads)]
    return [tensor.transpose(0, 1).requires_grad_() for tensor in tensors]


def with_gradients(kernel, inputs, *arguments) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    output = kernel(*inputs, *arguments)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.device, output.dtype)
    return output.detach(), torch.autograd.grad(output, inputs, weights)


def assert_is_the_definition(kernel, layout: TreeLayout, inputs, softcap=None, window=None, least=1e-2):
    arguments = (layout, inputs[0].shape[-1] ** -0.5, softcap, window)
    exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
    expected, expected_gradients = with_gradients(reference_attention, exact, *arguments)
    output, gradients = with_gradients(kernel, inputs, *arguments)
    assert output.dtype == inputs[0].dtype
    assert distance(output, expected) <= least
    for name, gradient, truth in zip(("query", "key", "value"), gradients, expected_gradients, strict=True):
        assert distance(gradient, truth) <= 2 * least, name


def test_the_card_takes_its_main_kernel():
    """A card of compute capability 8.0 or more has flash attention in every torch that is supported: no skip."""
    heads = Heads(DEVICE, torch.bfloat16, 16, 2, 128, 128, 128**-0.5)
    expected = flash_attention if torch.cuda.get_device_capability() >= (8, 0) else span_attention
    assert choose_kernel(heads) is expected
    if expected is flash_attention:
        assert find_fault(flash_attention, heads) is None


@pytest.mark.parametrize("window", [None, 4, 40])
@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (8, 1), (16, 2)])
def test_flash_is_the_definition(heads, key_heads, dim, window):
    for seed in range(3):
        layout, size = random_trie(seed)
        assert_is_the_definition(flash_attention, layout, random_inputs(size, heads, key_heads, dim), None, window)


@pytest.mark.parametrize("kernel", [flash_attention, flex_attention])
def test_a_wide_tree(kernel):
    """A bf16 sum of 256 gradients would be 2 % off."""
    layout, size = wide_trie()
    assert_is_the_definition(kernel, layout, random_inputs(size, 4, 2, 64))


@pytest.mark.parametrize(
    ("heads", "key_heads", "dim", "softcap", "window"),
    [(4, 2, 64, 5.0, None), (4, 2, 64, 5.0, 40), (8, 4, 256, 50.0, None)],  # the last are Gemma 2's
)
def test_flex_is_the_definition(heads, key_heads, dim, softcap, window):
    for seed in range(3):
        layout, size = random_trie(seed)
        assert_is_the_definition(flex_attention, layout, random_inputs(size, heads, key_heads, dim), softcap, window)


@pytest.mark.parametrize("size", [65, 100, 127])
def test_flex_takes_rows_of_one_block(size):
    """Under 128 queries Inductor's own choice would be a kernel for decoding."""
    layout, _ = layout_of([list(range(size - 5)), [0, 1, 60, 61, 62, 63, 64]])
    layout = on_the_card(layout)
    inputs = random_inputs(len(layout.position_ids_T), 4, 2, 64)
    assert len(inputs[0][0]) == size
    assert_is_the_definition(flex_attention, layout, inputs, 5.0)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("window", [None, 4])
def test_spans_on_the_gpu_are_the_definition(softcap, window):
    layout, size = random_trie(0)
    inputs = random_inputs(size, 4, 2, 64, torch.float32)
    arguments = (layout, 0.125, softcap, window)
    expected, expected_gradients = with_gradients(reference_attention, inputs, *arguments)
    output, gradients = with_gradients(span_attention, inputs, *arguments)
    torch.testing.assert_close((output, *gradients), (expected, *expected_gradients), rtol=1e-4, atol=1e-4)


def test_flex_is_compiled_a_few_times_whatever_the_lengths():
    """One graph a mask, and one for rows of a single block, where dynamo takes the number of blocks for a constant."""
    torch._dynamo.reset()
    _compiled_flex.cache_clear()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    sizes = set()
    for seed in range(40):
        layout, size = random_trie(seed, longest=5 if seed % 5 == 4 else 50 + 3 * seed)
        sizes.add(size)
        for window in (None, 40):
            output = flex_attention(*random_inputs(size, 4, 2, 64), layout, 0.125, 5.0, window)
            output.sum().backward()
    assert len(sizes) > 25 and min(sizes) <= 128
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


def scores_and_gradient(model, batch: dict, autocast: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores, and the gradient of a weighted sum of them as a vector."""
    model.zero_grad()
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=autocast):
        scores = model(**batch, use_cache=False).logits
    weights = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1)).to(scores.device)
    (scores * weights).sum().backward()
    gradient = torch.cat([parameter.grad.float().flatten() for parameter in model.parameters()])
    return scores.detach().float(), gradient


def assert_as_near(found: tuple, rounded: tuple, exact: tuple) -> None:
    """Scores and gradient, by their norms, at most twice as far from the exact ones as the rounded ones."""
    for name, ours, theirs, truth in zip(("scores", "gradient"), found, rounded, exact, strict=True):
        assert distance(ours, truth) <= 2 * distance(theirs, truth), name


@pytest.mark.parametrize("family", CONFIGS)
def test_bf16_is_as_near_to_fp32_as_the_padded_batch(family):
    padded, packed = batches()
    plain, shared, exact = (model_of(family, dtype) for dtype in (torch.bfloat16, torch.bfloat16, torch.float32))
    assert share_prefixes(shared) is None
    assert_as_near(
        scores_and_gradient(shared, packed), scores_and_gradient(plain, padded), scores_and_gradient(exact, padded)
    )


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_the_default_path_is_as_near_to_fp32_as_the_padded_batch(family, reentrant, monkeypatch):
    """TRL's default: fp32 weights under bf16 autocast, with gradient checkpointing; the attention computes in bf16."""
    padded, packed = batches()
    exact = scores_and_gradient(model_of(family, torch.float32), padded)
    plain, shared = (model_of(family, torch.float32).train() for _ in range(2))
    assert share_prefixes(shared) is None
    seen, choose = set(), attention.choose_kernel
    monkeypatch.setattr(attention, "choose_kernel", lambda heads: seen.add(heads.dtype) or choose(heads))
    for model in (plain, shared):
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
    rounded = scores_and_gradient(plain, padded, autocast=True)
    found = scores_and_gradient(shared, packed, autocast=True)
    assert_as_near(found, rounded, exact)
    assert seen == {torch.bfloat16}


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_fp32_is_the_padded_batch(family):
    padded, packed = batches()
    plain, shared = (model_of(family, torch.float32) for _ in range(2))
    share_prefixes(shared)
    expected, gradient = scores_and_gradient(plain, padded)
    found, found_gradient = scores_and_gradient(shared, packed)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert distance(found_gradient, gradient) <= 1e-4


def test_heads_of_eight_take_spans_and_say_so(assets, caplog):
    """stories260K's heads are narrower than what Triton multiplies."""
    choice._checked_kernel.cache_clear()  # or an earlier test has had the warning
    choice._warn_once.cache_clear()
    padded, packed = batches()
    models = [
        AutoModelForSequenceClassification.from_pretrained(assets / "stories260K", num_labels=1, dtype=dtype).to(DEVICE)
        for dtype in (torch.bfloat16, torch.bfloat16, torch.float32)
    ]
    for model in models:
        model.config.pad_token_id = 0
        install_reward_head(model)
        model.score.weight.data.normal_(generator=torch.Generator(DEVICE).manual_seed(0))
    plain, shared, exact = models
    assert share_prefixes(shared) is None
    assert_as_near(
        scores_and_gradient(shared, packed), scores_and_gradient(plain, padded), scores_and_gradient(exact, padded)
    )
    assert "heads are 8 wide" in caplog.text and "`span_attention` takes its place" in caplog.text


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_liger_is_as_near_to_fp32_as_the_plain_model(family, monkeypatch):
    pytest.importorskip("liger_kernel")
    padded, packed = batches()
    plain, fused, exact = (model_of(family, dtype) for dtype in (torch.bfloat16, torch.bfloat16, torch.float32))
    for model in (plain, fused):
        share_prefixes(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(liger, "DEVICES", set())  # an earlier test's rotary function is the whole family's
        truth, rounded = scores_and_gradient(exact, padded), scores_and_gradient(plain, packed)
    modeling = sys.modules[type(fused).__module__]
    monkeypatch.setattr(modeling, "apply_rotary_pos_emb", modeling.apply_rotary_pos_emb)  # and so is this one's
    assert register_liger(fused, DEVICE) is None
    apply_liger_kernel(fused, {})
    assert sum(hasattr(vars(module).get("forward"), "by_device") for module in fused.modules()) >= 7
    assert_as_near(scores_and_gradient(fused, packed), rounded, truth)


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
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


def test_many_batches_compile_nothing_again():
    """With gradient checkpointing, as TRL trains; Gemma 2's two masks are all there is.

    The first row has more blocks than key heads, since dynamo takes two sizes that are equal for the same one.
    """
    torch._dynamo.reset()
    _compiled_flex.cache_clear()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    model = model_of("gemma2", torch.bfloat16).train()
    share_prefixes(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    sizes = set()
    for count in range(10, 50):
        _, packed = batches(count // 2 * 2, seed=count)
        sizes.add(packed["input_ids"].shape[1])
        scores_and_gradient(model, packed)
    assert len(sizes) > 25 and min(sizes) > 3 * 128
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before <= 2


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_gradient_checkpointing_changes_nothing(family):
    """But the order in which flash attention's backward adds up its blocks."""
    _, packed = batches()
    model = model_of(family, torch.bfloat16).train()
    share_prefixes(model)
    expected, gradient = scores_and_gradient(model, packed)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    found, found_gradient = scores_and_gradient(model, packed)
    assert torch.equal(found, expected)
    assert distance(found_gradient, gradient) <= 1e-2
