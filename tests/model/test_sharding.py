"""FSDP2 over gloo on two ranks: the head's group is fp32 in a bf16 model, by hand and the way accelerate shards."""

import os
import types

import pytest
import torch
import torch.nn.functional as F
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from families import SIZES
from packaging.version import Version
from peft import LoraConfig, get_peft_model
from ranks import context_with_imports, free_port
from torch import distributed
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import AutoModelForSequenceClassification, LlamaConfig

from hf_rewardplug.data.collator import PreferenceCollator
from hf_rewardplug.model.head import install_reward_head
from hf_rewardplug.model.kinds import ORM
from hf_rewardplug.model.loading import reward_peft_config
from hf_rewardplug.model.sharding import ask_for_head_group, keep_head_fp32, shard_head

BF16 = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}
PAIRS = [
    [{"chosen_ids": [5, 6, 7, 8], "rejected_ids": [5, 9]}],
    [{"chosen_ids": [11, 2], "rejected_ids": [12, 13, 14]}],
]


def reward_model(lora: bool = False):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(LlamaConfig(**SIZES, num_labels=1))
    if lora:
        model = get_peft_model(model, reward_peft_config(LoraConfig(r=2, target_modules=["q_proj"]), ORM))
    install_reward_head(model)
    return model


def head_of(model):
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(base.score, "modules_to_save", {"default": base.score})["default"]


def by_hand(model, mended: bool):
    if mended:
        shard_head(model)
    for layer in model.model.layers:
        fully_shard(layer, mp_policy=MixedPrecisionPolicy(**BF16))
    output = torch.float32 if mended else torch.bfloat16
    fully_shard(model, mp_policy=MixedPrecisionPolicy(**BF16, output_dtype=output))


def as_accelerate_does(model, mended: bool, **options):
    policy = MixedPrecisionPolicy(**BF16, output_dtype=torch.bfloat16)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        mixed_precision_policy=policy,
        cpu_ram_efficient_loading=False,
        reshard_after_forward=True,
        **options,
    )
    accelerator = types.SimpleNamespace(
        state=types.SimpleNamespace(fsdp_plugin=plugin),
        mixed_precision="bf16",
        is_main_process=distributed.get_rank() == 0,
        device=torch.device("cpu"),
    )
    if mended:
        ask_for_head_group(model, plugin)
    fsdp2_prepare_model(accelerator, model)
    if mended:
        keep_head_fp32(model)


WAYS = {
    "by hand": (by_hand, False, {}),
    "accelerate": (as_accelerate_does, False, {}),
    "accelerate, layers named": (as_accelerate_does, False, {"transformer_cls_names_to_wrap": ["LlamaDecoderLayer"]}),
    "accelerate, lora": (as_accelerate_does, True, {}),
}


def check(rank: int, port: str) -> None:
    """On one of two ranks."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    for way in WAYS:
        check_way(way, rank, mended=True)
        check_way(way, rank, mended=False)
    distributed.barrier()
    distributed.destroy_process_group()


def check_way(way: str, rank: int, mended: bool) -> None:
    """Logits are the fp32 product of the bf16 hidden states and the unrounded weight; without the mend they are not."""
    shard, lora, options = WAYS[way]
    model = reward_model(lora)
    weight = head_of(model).weight.detach().clone()
    shard(model, mended, **options)
    with torch.no_grad():  # an `evaluate` before training; transformers 5.24 shards again what it leaves whole
        model(**PreferenceCollator(pad_token_id=0)(PAIRS[rank]))
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    head, seen = head_of(model), []
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    logits = model(**PreferenceCollator(pad_token_id=0)(PAIRS[rank])).logits
    (hidden,) = seen
    assert isinstance(head, FSDPModule) == (logits.dtype == torch.float32) == mended, way
    assert torch.equal(logits.float(), F.linear(hidden.float(), weight)) == mended, way
    logits.sum().backward()
    expected = hidden.float().sum(0, keepdim=True)
    distributed.all_reduce(expected)
    if mended and Version(torch.__version__) >= Version("2.8"):  # 2.7 over gloo sums where it should average
        torch.testing.assert_close(head.weight.grad.full_tensor(), expected / 2)


def on_two_ranks(check) -> None:
    """`check(rank, port)` in two processes. Torch's caches of meshes keep gloo's threads past `destroy_process_group`,
    and a thread that then wants the interpreter aborts a process that takes it down; a forkserver's child just ends."""
    context_with_imports()  # start_processes takes the same server
    torch.multiprocessing.start_processes(check, (free_port(),), nprocs=2, start_method="forkserver")


@pytest.mark.slow
def test_the_head_is_an_fp32_group():
    on_two_ranks(check)
