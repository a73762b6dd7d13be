"""Liger's kernels in the body of a causal LM with label tokens; without a GPU in Triton's interpreter."""

import pytest
import torch
from test_label_tokens import BAD_GOOD, build, of_whole_vocabulary

pytest.importorskip("liger_kernel")
from interpreted import DEVICE, triton_here  # noqa: F401
from test_attention import batches, random_rows
from test_liger import accelerated, patched, scores_and_gradients

from hf_rewardplug.model.label_tokens import LabelTokenHead, install_label_tokens


def test_the_body_alone_is_patched(triton_here):  # noqa: F811
    plain, model = build("llama").to(DEVICE), build("llama").to(DEVICE)
    batch, _ = batches("prm", random_rows("prm", count=2))
    on_device = {key: value.to(DEVICE) for key, value in batch.items()}
    expected = of_whole_vocabulary(plain, on_device)
    install_label_tokens(model, BAD_GOOD)
    accelerated(model)
    assert patched(model) == {"LlamaRMSNorm", "LlamaMLP"} and type(model.lm_head) is LabelTokenHead
    found, gradients = scores_and_gradients(model, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    (expected * torch.linspace(-1, 1, expected.numel(), device=DEVICE).view_as(expected)).sum().backward()
    for name, parameter in plain.named_parameters():
        assert (gradients[name] - parameter.grad).norm() <= 1e-4 * parameter.grad.norm() + 1e-7, name
