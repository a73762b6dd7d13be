"""FSDP2 on two gloo ranks, sharded by axolotl, which replaces accelerate's function: the head's group is fp32."""

import test_sharding
from axolotl.monkeypatch.accelerate.fsdp2 import fsdp2_prepare_model


def check(rank: int, port: str) -> None:
    test_sharding.fsdp2_prepare_model = fsdp2_prepare_model
    test_sharding.check(rank, port)


def test_the_head_is_an_fp32_group():
    test_sharding.on_two_ranks(check)
