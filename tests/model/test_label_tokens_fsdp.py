"""FSDP2 over gloo on two ranks, as accelerate shards: label tokens in bf16, their head tied to the embedding or not."""

import pytest
import torch
from families import SIZES
from test_sharding import as_accelerate_does, on_two_ranks
from torch import distributed
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModelForCausalLM, LlamaConfig

from hf_rewardplug.data.collator import StepCollator
from hf_rewardplug.model.label_tokens import LabelTokenHead, install_label_tokens

BAD_GOOD = [5, 9]
ROWS = [
    [{"input_ids": [5, 6, 7, 8], "labels": [-100, 1, -100, 0]}],
    [{"input_ids": [11, 2], "labels": [-100, 1]}],
]


def check(rank: int, port: str) -> None:
    """On one of two ranks."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for tied in (False, True):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, tie_word_embeddings=tied))
        install_label_tokens(model, BAD_GOOD)
        batch = StepCollator(pad_token_id=0)(ROWS[rank])
        plain = {key: batch[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            expected = model(**plain).logits.flatten(0, 1)[batch["score_positions"]][:, BAD_GOOD].float()
        as_accelerate_does(model, mended=True)
        assert isinstance(model, FSDPModule) and isinstance(model.lm_head, LabelTokenHead)
        install_label_tokens(model, BAD_GOOD)  # again, as a scorer of a model that trains
        logits = model(**plain, score_positions=batch["score_positions"]).logits
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected, rtol=0, atol=5e-3)
        logits.sum().backward()
        rows = model.lm_head.weight.grad.full_tensor().abs().sum(1).nonzero().flatten().tolist()
        assert set(BAD_GOOD) <= set(rows) if tied else rows == BAD_GOOD
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.slow
def test_label_tokens_under_fsdp2():
    on_two_ranks(check)
