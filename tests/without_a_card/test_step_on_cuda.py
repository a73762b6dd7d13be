"""TRL's default training step on fake CUDA tensors: fp32 weights, bf16 autocast, with gradient checkpointing or not.

With a CUDA build of torch: `make test-cuda`. tests/model/test_step_without_a_card.py does some of it with every build.
"""

import pytest

FAMILIES = ("qwen2", "gemma2")  # flash attention; FlexAttention, one layer with a window and one without
PLAIN, BARE = {"layers": 4}, {"layers": 4, "attention": False}
STEPS = {
    "plain": PLAIN,
    "plain, 2 layers": {**PLAIN, "layers": 2},
    "no attention": BARE,
    "no attention, 2 layers": {**BARE, "layers": 2},
    **{
        f"{checkpointing}{shorter}": {"layers": layers, "checkpointing": checkpointing}
        for checkpointing in ("reentrant", "non-reentrant")
        for shorter, layers in (("", 4), (", 2 layers", 2))
    },
}

ATTENTION = {
    # queries and keys cast to bf16 as SDPA's are, since rotary embeddings leave them in fp32; keys and values gathered;
    # the kernel | keys and values gathered again; the kernel; for each of both gradients zeros, a cast to fp32, the sum
    # and a cast back; the casts' own backward for queries and keys
    "qwen2": {"forward": 2 + 2 + 1, "backward": 2 + 1 + 2 * 4 + 2},
    # the casts; the kernel | the output's gradient made contiguous; its dot products with the output; the kernel; casts
    "gemma2": {"forward": 2 + 1, "backward": 1 + 1 + 1 + 2},
}
"""launches of a layer's attention"""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def steps(without_a_card, family) -> dict[str, dict]:
    task = {"steps": [{"family": family, **step} for step in STEPS.values()]}
    return dict(zip(STEPS, without_a_card("step_on_a_card.py", task), strict=True))


def launches_a_layer(steps: dict[str, dict], name: str, phase: str) -> float:
    """The difference of 4 layers and 2, halved: without what is done once a step."""
    totals = [
        sum(count for operation, count in steps[step]["launches"].items() if operation.startswith(phase))
        for step in (name, f"{name}, 2 layers")
    ]
    return (totals[0] - totals[1]) / 2


def test_attention_is_bf16_and_everything_else_as_the_weights_are(steps):
    for name, step in steps.items():
        assert step["attention"] == ([] if name.startswith("no attention") else ["torch.bfloat16"]), name
        assert step["logits"] == "torch.float32" and step["gradients"] == ["torch.float32"], name


def test_the_host_never_waits_for_the_device(steps):
    assert {name: step["waits"] for name, step in steps.items() if step["waits"]} == {}


@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_launches_of_the_attention(steps, family, phase):
    """Over a layer whose attention launches nothing. A gradient as large as the row, made and added, would show."""
    whole, bare = (launches_a_layer(steps, name, phase) for name in ("plain", "no attention"))
    print(f"{family}, {phase}: {whole:g} launches a layer, {whole - bare:g} of them attention's")
    assert 0 < whole - bare <= ATTENTION[family][phase]


@pytest.mark.parametrize("checkpointing", ["reentrant", "non-reentrant"])
def test_checkpointing_computes_a_layer_once_more(steps, family, checkpointing):
    forward, backward = (launches_a_layer(steps, "plain", phase) for phase in ("forward", "backward"))
    again = launches_a_layer(steps, checkpointing, "backward") - backward
    print(f"{family}, {checkpointing}: {forward:g} and {backward:g} launches a layer, {again:g} more")
    assert launches_a_layer(steps, checkpointing, "forward") == forward
    assert 0 < again <= forward
