"""Prefix-tree attention against its definition, and packed batches against padded ones, outputs and gradients."""

import copy
import random
import shutil

import pytest
import torch
from families import CONFIGS, HEADS, SIZES, build
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch.nn.attention.flex_attention import create_block_mask, create_mask
from transformers import AutoConfig, AutoModelForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from hf_rewardplug.data.collator import PreferenceCollator, StepCollator
from hf_rewardplug.data.prefix_tree import PrefixTree
from hf_rewardplug.model.attention import FAMILIES, share_prefixes, why_not
from hf_rewardplug.model.head import install_reward_head
from hf_rewardplug.model.kernels import SpanAttention, flex_attention, reference_attention, spans
from hf_rewardplug.model.kernels.flex import _block_mask
from hf_rewardplug.model.kinds import ORM, PRM
from hf_rewardplug.model.layout import TreeLayout, branches
from hf_rewardplug.model.loading import reward_peft_config


def random_rows(kind: str, count: int = 5, seed: int = 0) -> list[dict]:
    """Rows whose prompts partly agree; the longest is longer than every window."""
    g = random.Random(seed)

    def tokens(least, most):
        return [g.randrange(2, 64) for _ in range(g.randint(least, most))]

    prompts = [tokens(3, 9) for _ in range(2)]
    rows = []
    for _ in range(count):
        prompt = g.choice(prompts)
        if kind == "orm":
            rows.append({"chosen_ids": prompt + tokens(1, 8), "rejected_ids": prompt + tokens(1, 8)})
        else:
            steps = [tokens(1, 4) for _ in range(g.randint(1, 4))]
            labels = [-100.0] * len(prompt)
            for step in steps:
                labels += [-100.0] * (len(step) - 1) + [float(g.random() < 0.5)]
            rows.append({"input_ids": prompt + [token for step in steps for token in step], "labels": labels})
    return rows


def batches(kind: str, rows: list[dict], **options):
    collator = PreferenceCollator if kind == "orm" else StepCollator
    return [collator(0, prefix_sharing=sharing, **options)(rows) for sharing in (False, True)]


def scored(model, batch: dict) -> torch.Tensor:
    keys = ("input_ids", "attention_mask", "position_ids", "prefix_tree", "score_positions")
    return model(**{key: batch[key] for key in keys if key in batch}).logits


def assert_packed_is_padded(kind: str, family: str, rows: list[dict], prepare=lambda model: model, **options):
    """Logits within 1e-5, gradients within 1e-4 relative, of transformers' own attention on the padded batch."""
    plain, shared = (prepare(build(family, kind)) for _ in range(2))
    for model in (plain, shared):
        install_reward_head(model)
    assert share_prefixes(shared) is None
    padded, packed = batches(kind, rows, **options)
    assert packed["input_ids"].numel() < padded["attention_mask"].sum() or options
    expected, found = scored(plain, padded), scored(shared, packed)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    for logits in (expected, found):
        (logits * weights).sum().backward()
    for (name, a), b in zip(plain.named_parameters(), shared.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            assert (a.grad - b.grad).norm() <= 1e-4 * a.grad.norm() + 1e-7, name


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("family", CONFIGS)
def test_packed_is_padded(family, kind):
    assert_packed_is_padded(kind, family, random_rows(kind))


def test_every_family_is_under_test():
    assert {config.model_type for config in CONFIGS.values()} == FAMILIES


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("options", [{"pad_to_multiple_of": 64}, {"pad_to_multiple_of": 7}])
def test_a_padded_length_changes_nothing(family, options):
    assert_packed_is_padded("orm", family, random_rows("orm"), **options)
    packed = batches("orm", random_rows("orm"), **options)[1]
    assert packed["input_ids"].shape[1] % options["pad_to_multiple_of"] == 0


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_gradient_checkpointing(family, reentrant):
    def prepare(model):
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return model.train()

    assert_packed_is_padded("prm", family, random_rows("prm"), prepare)


@pytest.mark.parametrize("kind", HEADS)
def test_lora(kind):
    def prepare(model):
        torch.manual_seed(1)
        return get_peft_model(
            model,
            reward_peft_config(
                LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear"), {"orm": ORM, "prm": PRM}[kind]
            ),
        )

    assert_packed_is_padded(kind, "qwen2", random_rows(kind), prepare)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral"])
def test_plain_calls_are_as_before(family, dtype):
    plain, shared = (build(family, "orm", dtype=dtype) for _ in range(2))
    assert share_prefixes(shared) is None
    padded = batches("orm", random_rows("orm"))[0]
    arguments = {key: padded[key] for key in ("input_ids", "attention_mask")}
    assert torch.equal(plain(**arguments).logits, shared(**arguments).logits)


def test_bf16_scores_are_those_of_the_padded_batch_within_bf16():
    plain, shared = (build("llama", "orm", dtype=torch.bfloat16) for _ in range(2))
    for model in (plain, shared):
        install_reward_head(model)
    share_prefixes(shared)
    padded, packed = batches("orm", random_rows("orm"))
    exact = build("llama", "orm")
    install_reward_head(exact)
    rounding = (scored(plain, padded) - scored(exact, padded)).abs().max()
    assert (scored(shared, packed) - scored(exact, padded)).abs().max() <= 2 * rounding


@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral"])
def test_autocast(family):
    """An fp32 model in bf16 autocast, as TRL trains by default: fp32 queries beside bf16 values."""
    plain, shared = (build(family, "orm") for _ in range(2))
    for model in (plain, shared):
        install_reward_head(model)
    share_prefixes(shared)
    padded, packed = batches("orm", random_rows("orm"))
    exact = scored(plain, padded)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounding = (scored(plain, padded) - exact).abs().max()
        found = scored(shared, packed)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() <= 2 * rounding
    found.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in shared.parameters())


def layout_of(sequences) -> tuple[TreeLayout, int]:
    tree = PrefixTree()
    for sequence in sequences:
        tree.add(sequence)
    packed = tree.pack()
    longest = max(packed.position_ids) + 1
    return TreeLayout(packed.spans, torch.tensor(packed.position_ids), longest), len(packed.input_ids)


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=12),
    st.sampled_from([-1, 0, 2, 8, 32, spans.TOLL]),
)
@settings(max_examples=60, deadline=None)
def test_spans_are_the_definition_on_any_trie(sequences, toll):
    layout, size = layout_of(sequences)
    with pytest.MonkeyPatch.context() as patch:  # from a block a span, by the least toll, to one block of all
        patch.setattr(spans, "TOLL", toll)
        blocks = spans.blocks_of(layout.spans)
    assert [block.q0 for block in blocks if block.causal] == [0, *(b.q1 for b in blocks if b.causal)][:-1]
    assert toll >= 0 or len(blocks) == len(layout.spans)
    layout.cache["blocks"] = blocks
    for softcap, window in ((None, None), (3.0, None), (None, 2), (3.0, 3)):
        generator = torch.Generator().manual_seed(0)
        inputs = [
            torch.randn(heads, size, 8, dtype=torch.float64, generator=generator, requires_grad=True)
            for heads in (4, 2, 2)
        ]
        found = SpanAttention.apply(*inputs, layout, 0.3, softcap, window)
        expected = reference_attention(*inputs, layout, 0.3, softcap, window)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        weights = torch.randn(found.shape, dtype=torch.float64, generator=generator)
        grads = [torch.autograd.grad((output * weights).sum(), inputs) for output in (found, expected)]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=12))
@example([[0, 1], [1], [2, 2, 2]])  # nothing is shared
@example([[0, 1, 2], [0, 1, 1], [2]])
@settings(max_examples=100, deadline=None)
def test_the_mask_and_the_gathered_keys_are_the_paths(sequences):
    """Each token's keys, by the mask, by the spans and by the gathered index of the CUDA path: its own prefix."""
    tree = PrefixTree()
    places = [[tree.add(sequence[: n + 1]) for n in range(len(sequence))] for sequence in sequences]
    packed = tree.pack()
    layout = TreeLayout(packed.spans, torch.tensor(packed.position_ids), max(packed.position_ids) + 1)
    mask_TT = layout.mask_TT(None)
    names = ("key_index", "cu_seq_q", "cu_seq_k", "max_q", "max_k")
    key_index, cu_q, cu_k, max_q, max_k = (layout.on(torch.device("cpu"))[name] for name in names)
    forks = len(packed.spans) > len(cu_q) - 1
    assert (key_index is None) == (not forks), "the keys of a forest without forks are the tokens in their order"
    if key_index is None:
        key_index = torch.arange(len(packed.input_ids))
    for sequence, of_sequence in zip(sequences, places, strict=True):
        path = [tree.position(place) for place in of_sequence]
        assert [packed.input_ids[index] for index in path] == sequence
        assert mask_TT[path[-1]].nonzero().flatten().tolist() == sorted(path)
        branch = int((cu_q <= path[-1]).sum()) - 1
        seen = int(cu_k[branch + 1]) - (int(cu_q[branch + 1]) - 1 - path[-1])  # causal from the bottom right
        assert key_index[int(cu_k[branch]) : seen].tolist() == path
    assert max_q == max(cu_q.diff()) and max_k == max(cu_k.diff())


@pytest.mark.parametrize("window", [None, 40, 200])
@pytest.mark.parametrize("seed", range(6))
def test_the_block_mask_is_that_of_all_pairs(seed, window):
    """torch's own looks at all T x T pairs. With a window ours may call a block partial in which nothing is seen."""
    g = random.Random(seed)
    stem = [g.randrange(64) for _ in range(300)]
    sequences = [stem[: g.randint(1, 300)] + [g.randrange(64) for _ in range(g.randint(1, 250))] for _ in range(5)]
    layout, size = layout_of(sequences)
    found = _block_mask(layout, window, torch.device("cpu"))
    expected = create_block_mask(found.mask_mod, None, None, size, size, device="cpu")
    assert torch.equal(create_mask(found.mask_mod, 1, 1, size, size, device="cpu")[0, 0], layout.mask_TT(window))
    assert found.shape == expected.shape
    seen, seen_by_torch = found.to_dense(), expected.to_dense()
    whole, whole_for_torch = full_blocks(found), full_blocks(expected)
    if window is None:
        assert torch.equal(seen, seen_by_torch) and torch.equal(whole, whole_for_torch) and whole.any()
    else:
        assert (seen >= seen_by_torch).all() and (whole <= whole_for_torch).all()
        assert seen.sum() <= 1.5 * seen_by_torch.sum()


def test_the_last_block_behind_a_window_is_no_wider_than_torchs():
    layout, size = layout_of([[token % 64 for token in range(2000)]])
    found = _block_mask(layout, 40, torch.device("cpu"))
    expected = create_block_mask(found.mask_mod, None, None, size, size, device="cpu")
    assert torch.equal(found.to_dense()[0, 0, -1], expected.to_dense()[0, 0, -1])


@pytest.mark.skipif(torch.__version__ < "2.8", reason="torch 2.7's kernel for the CPU fails where lengths vary")
@pytest.mark.skipif(shutil.which("g++") is None, reason="FlexAttention is compiled with g++ here")
@pytest.mark.parametrize(("softcap", "window"), [(None, None), (5.0, 40)])
def test_compiled_flex_attention_sees_what_the_definition_sees(softcap, window):
    """Forward alone: the CPU's has no backward. One graph for all lengths."""
    torch._dynamo.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for seed in range(3):
        g = random.Random(seed)
        stem = [g.randrange(64) for _ in range(300)]
        layout, size = layout_of([stem[: g.randint(1, 300)] + [g.randrange(64)] * g.randint(1, 250) for _ in range(5)])
        tensors = [torch.randn(heads, size, 16) for heads in (4, 2, 2)]
        with torch.no_grad():
            found = flex_attention(*tensors, layout, 0.25, softcap, window)
            expected = reference_attention(*tensors, layout, 0.25, softcap, window)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1


def full_blocks(mask) -> torch.Tensor:
    found = torch.zeros_like(mask.to_dense()[0, 0], dtype=torch.bool)
    for row, (count, indices) in enumerate(zip(mask.full_kv_num_blocks[0, 0], mask.full_kv_indices[0, 0], strict=True)):
        found[row, indices[:count]] = True
    return found


def test_branches_of_the_drawing():
    assert branches([(0, 4, 0, 4), (4, 6, 4, 6), (4, 6, 0, 2)]) == [(0, 4, []), (4, 6, [(0, 2)])]


def test_a_model_that_was_switched_back_is_refused():
    model = build("llama", "orm")
    install_reward_head(model)
    share_prefixes(model)
    packed = batches("orm", random_rows("orm"))[1]
    model.set_attn_implementation("sdpa")
    with pytest.raises(RuntimeError, match="attention is 'sdpa', which would misread it"):
        scored(model, packed)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attention_dropout": 0.1}, "attention_dropout=0.1"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        ({"_attn_implementation": "eager"}, "attn_implementation='eager' was asked for"),
    ],
)
def test_reasons_of_the_config(change, reason):
    model = build("llama", "orm")
    before = model.config._attn_implementation
    for key, value in change.items():
        setattr(model.config, key, value)
    assert reason in share_prefixes(model)
    assert model.config._attn_implementation in (before, "eager")


def test_reasons_of_the_model():
    gpt2 = GPT2ForSequenceClassification(GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=64, num_labels=1))
    assert "'gpt2' is not among the tested families" in why_not(gpt2)
    for config in (PromptTuningConfig, PrefixTuningConfig):
        adapted = get_peft_model(build("llama", "orm"), config(task_type="SEQ_CLS", num_virtual_tokens=2))
        assert "virtual tokens" in why_not(adapted)
    both_sides = build("gemma3", "orm")
    both_sides.model.layers[0].self_attn.is_causal = False
    assert "both sides" in why_not(both_sides)
    no_head = build("llama", "orm")
    no_head.classifier, no_head.score = no_head.score, None
    assert "no head called `score`" in why_not(no_head)


def test_a_window_that_stands_in_the_mask_alone_is_refused():
    """Qwen2-MoE's attention does not pass it on, and the packed row has no mask."""
    window = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
    config = AutoConfig.for_model("qwen2_moe", **SIZES, **window, num_labels=1)
    assert "sliding window" in share_prefixes(AutoModelForSequenceClassification.from_config(config))


def test_an_implementation_that_cannot_be_changed_is_a_reason(monkeypatch):
    model = build("llama", "orm")
    monkeypatch.setattr(model, "_can_set_attn_implementation", lambda: False)
    assert "cannot be changed from 'sdpa'" in share_prefixes(model)


def test_a_saved_model_has_no_trace(tmp_path):
    model = build("gemma2", "orm")
    before = model.config._attn_implementation
    share_prefixes(model)
    model.save_pretrained(tmp_path)
    assert "prefix_tree" not in (tmp_path / "config.json").read_text()
    assert type(model).from_pretrained(tmp_path).config._attn_implementation == before


def test_a_copy_of_the_model_still_takes_trees():
    model = build("llama", "orm")
    install_reward_head(model)
    share_prefixes(model)
    packed = batches("orm", random_rows("orm"))[1]
    assert torch.equal(scored(copy.deepcopy(model), packed), scored(model, packed))
