"""Flash attention over a tree without a card: aten's two operators are replaced by what they are documented to compute.

So everything around them is tested: the gathered keys, the lengths, the bounds of the window, the saved tensors and the
sums of the gradients. `test_gpu.py` tests the operators themselves.
"""

import inspect
import itertools
import random

import pytest
import torch
from test_attention import layout_of

from hf_rewardplug.model.kernels import flash_attention, reference_attention
from hf_rewardplug.model.kernels.choice import small_tree


def one_sequence(query_QHD, key_KHD, value_KHD, scale, left):
    """Plain attention of the last Q of K tokens. A query sees its own key and `left` before it; -1 means all."""
    groups = query_QHD.shape[1] // key_KHD.shape[1]
    key_KHD, value_KHD = (tensor.repeat_interleave(groups, 1) for tensor in (key_KHD, value_KHD))
    queries, keys = len(query_QHD), len(key_KHD)
    own_Q = torch.arange(keys - queries, keys)[:, None]  # aligned at the bottom right corner
    seen_QK = torch.arange(keys) <= own_Q
    if left >= 0:
        seen_QK &= torch.arange(keys) >= own_Q - left
    scores_HQK = scale * torch.einsum("qhd,khd->hqk", query_QHD, key_KHD)
    weights_HQK = scores_HQK.masked_fill(~seen_QK, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights_HQK, value_KHD)


class SlowFlash:
    """The operators with their leading arguments, as aten names them; each sequence by itself, in its own dtype."""

    def __init__(self):
        self.calls = []

    def all_sequences(self, query, key, value, cu_seq_q, cu_seq_k, scale, left):
        outputs = []
        for q0, q1, k0, k1 in zip(cu_seq_q, cu_seq_q[1:], cu_seq_k, cu_seq_k[1:], strict=False):
            outputs.append(one_sequence(query[q0:q1], key[k0:k1], value[k0:k1], scale, left))
        return torch.cat(outputs)

    def forward(
        self, query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, return_debug_mask, *,
        scale=None, window_size_left=None, window_size_right=None,
    ):  # fmt: skip
        assert (dropout_p, return_debug_mask, window_size_right) == (0.0, False, 0)
        assert is_causal == (window_size_left == -1), "without a window the mask is causal, with one it is the window's"
        assert cum_seq_q.dtype == cum_seq_k.dtype == torch.int32
        assert (max_q, max_k) == (int(cum_seq_q.diff().max()), int(cum_seq_k.diff().max()))
        self.calls.append("forward")
        output = self.all_sequences(query, key, value, cum_seq_q, cum_seq_k, scale, window_size_left)
        lse, rng_state, unused = torch.zeros(1), torch.tensor([7]), torch.tensor([8])
        return output, lse, rng_state, unused, torch.zeros(0)

    def backward(
        self, grad_out, query, key, value, out, logsumexp, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal,
        rng_state, unused, *, scale=None, window_size_left=None, window_size_right=None,
    ):  # fmt: skip
        assert grad_out.is_contiguous() and (rng_state.item(), unused.item()) == (7, 8)
        assert is_causal == (window_size_left == -1) and (dropout_p, window_size_right) == (0.0, 0)
        self.calls.append("backward")
        tensors = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
        with torch.enable_grad():
            output = self.all_sequences(*tensors, cum_seq_q, cum_seq_k, scale, window_size_left)
        torch.testing.assert_close(out, output)
        return torch.autograd.grad(output, tensors, grad_out)


@pytest.fixture
def slow_flash(monkeypatch):
    slow = SlowFlash()
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", slow.forward)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_backward", slow.backward)
    return slow


def random_inputs(size: int, heads: int, key_heads: int, dtype=torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    counts = (heads, key_heads, key_heads)
    tensors = [torch.randn(size, count, 8, dtype=torch.float64, generator=generator).to(dtype) for count in counts]
    return [tensor.transpose(0, 1).requires_grad_() for tensor in tensors]


def with_gradients(kernel, inputs, *options):
    output = kernel(*inputs, *options)
    weights = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return output, torch.autograd.grad(output, inputs, weights.to(output.dtype))


@pytest.mark.parametrize("window", [None, 1, 3, 40])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (8, 1)])
def test_flash_attention_is_the_definition(slow_flash, heads, key_heads, window):
    g = random.Random(0)
    trees = [small_tree(torch.device("cpu"))]
    for _ in range(5):
        layout, _ = layout_of([[g.randrange(3) for _ in range(g.randint(1, 9))] for _ in range(8)])
        trees.append(layout)
    for layout in trees:
        inputs = random_inputs(len(layout.position_ids_T), heads, key_heads)
        options = (layout, 0.3, None, window)
        output, gradients = with_gradients(flash_attention, inputs, *options)
        expected, expected_gradients = with_gradients(reference_attention, inputs, *options)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
        for gradient, truth in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(gradient, truth, rtol=1e-6, atol=1e-6)  # they are summed in fp32
    assert slow_flash.calls == ["forward", "backward"] * len(trees)


def test_no_gathered_key_is_saved(slow_flash):
    """A tree of 50 branches gathers 50 times its trunk; what is saved is as long as the tree."""
    layout, size = layout_of([[1] * 100 + [2 + n] for n in range(50)])
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.shape) or tensor, lambda x: x):
        flash_attention(*random_inputs(size, 4, 2), layout, 0.3)
    index = layout.on(torch.device("cpu"))
    assert len(index["key_index"]) > 30 * size
    assert {shape[0] for shape in saved if len(shape) == 3} == {size}


def test_rows_that_share_nothing_are_not_gathered(slow_flash, monkeypatch):
    """Packing without sharing, and batches whose prompts all differ: the keys stand in order already."""
    layout, size = layout_of([[1, 2, 3, 4], [2, 5], [3] * 9])
    assert layout.on(torch.device("cpu"))["key_index"] is None
    monkeypatch.setattr(torch.Tensor, "index_select", None)
    monkeypatch.setattr(torch.Tensor, "index_add_", None)
    inputs = random_inputs(size, 4, 2)
    for window in (None, 3):
        output, gradients = with_gradients(flash_attention, inputs, layout, 0.3, None, window)
        expected, expected_gradients = with_gradients(reference_attention, inputs, layout, 0.3, None, window)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
        for gradient, truth in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(gradient, truth, rtol=0, atol=1e-12)


def test_gradients_of_a_key_that_many_branches_see_are_summed_in_fp32(slow_flash):
    """bf16 has 8 bits: a sum of equal numbers stops to grow at 256 times one of them."""
    layout, size = layout_of([[1] * 4 + [2 + n] for n in range(1000)])
    inputs = random_inputs(size, 2, 1, torch.bfloat16)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    _, gradients = with_gradients(flash_attention, inputs, layout, 0.3)
    _, truth = with_gradients(reference_attention, exact, layout, 0.3)
    trunk = slice(0, 4)
    for gradient, expected in zip(gradients[1:], truth[1:], strict=True):
        difference = gradient[:, trunk].double() - expected[:, trunk]
        assert difference.norm() <= 5e-3 * expected[:, trunk].norm()


def test_the_operators_take_these_arguments():
    """Upstream's names and their order, which torch 2.7 to 2.15 share; a change shows here first."""
    slow = SlowFlash()
    for name, twin in (("_flash_attention_forward", slow.forward), ("_flash_attention_backward", slow.backward)):
        upstream = [argument.name for argument in getattr(torch.ops.aten, name).default._schema.arguments]
        ours = [*inspect.signature(twin).parameters]
        assert upstream[: len(ours)] == ours


def test_shapes_and_dtypes_on_meta_tensors():
    """aten's own shape functions take what is handed over."""
    trees = [layout_of([[1, 2, 3, 4], [1, 2, 5], [6]]), layout_of([[1, 2, 3, 4], [5, 6]])]  # the second has no fork
    for (layout, size), window in itertools.product(trees, (None, 3)):
        layout.position_ids_T = layout.position_ids_T.to("meta")
        tensors = [torch.empty(size, n, 64, device="meta", dtype=torch.bfloat16).transpose(0, 1) for n in (8, 2, 2)]
        inputs = [tensor.requires_grad_() for tensor in tensors]
        output = flash_attention(*inputs, layout, 0.3, None, window)
        assert output.shape == (8, size, 64) and output.dtype == torch.bfloat16
        gradients = torch.autograd.grad(output.sum(), inputs)
        assert [(g.shape, g.dtype) for g in gradients] == [(tensor.shape, torch.bfloat16) for tensor in inputs]
