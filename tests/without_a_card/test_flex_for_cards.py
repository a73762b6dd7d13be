"""FlexAttention is compiled for each kind of card, and needs no more shared memory than the card has.

Dynamo, Inductor, Triton and ptxas run as on the card, with a CUDA build of torch: `make test-cuda`.
"""

import functools

import pytest
import torch
from pretended_card import SHARED_MEMORY

from hf_rewardplug.model.kernels.flex import kernel_options

CARDS = [(7, 5), (8, 0), (8, 9), (9, 0), (12, 0)]


def case_of(heads, key_heads, dim, dtype="half", softcap=None, window=None, tokens=300) -> dict:
    names = ("heads", "key_heads", "dim", "dtype", "softcap", "window", "tokens")
    return dict(zip(names, (heads, key_heads, dim, dtype, softcap, window, tokens), strict=True))


CASES = {
    "Qwen 2.5 0.5B": case_of(14, 2, 64),
    "Qwen 2.5 3B": case_of(16, 2, 128),
    "Qwen 2.5 7B, window": case_of(28, 4, 128, window=40),
    "Gemma 2 2B": case_of(8, 4, 256, softcap=50.0),
    "Gemma 2 2B, window": case_of(8, 4, 256, softcap=50.0, window=40),
    "Gemma 2 27B, window": case_of(32, 16, 128, softcap=50.0, window=40),
    "192 wide": case_of(4, 2, 192),
    "Qwen 2.5 0.5B, fp32": case_of(14, 2, 64, "float32"),
    "Qwen 2.5 3B, fp32, window": case_of(16, 2, 128, "float32", window=40),
    "Gemma 2 2B, fp32": case_of(8, 4, 256, "float32", softcap=50.0),
}
TOO_BIG = {((7, 5), "Gemma 2 2B, fp32")}  # 66,560 of a T4's 65,536; cards before compute capability 8.0 take spans

SHORT_CASES = {
    "16/2, 65 tokens": case_of(16, 2, 128, tokens=65),
    "28/4, 100 tokens": case_of(28, 4, 128, tokens=100, window=40),
    "8/4, 127 tokens": case_of(8, 4, 256, tokens=127, softcap=50.0),
}
INDUCTORS_OWN = {
    "grouped": {**case_of(16, 2, 128, tokens=100), "options": {"PRESCALE_QK": False}},
    "ungrouped": {**case_of(4, 4, 64, tokens=100), "options": {"PRESCALE_QK": False}},
}


@pytest.fixture(scope="module")
def results(without_a_card):
    """`results(card, cases)`: {case: what came of it}, all in one process."""

    @functools.cache
    def of(card: tuple[int, int], names: tuple[str, ...]) -> dict[str, dict]:
        cases = {**CASES, **SHORT_CASES, **INDUCTORS_OWN}
        half = "float16" if card < (8, 0) else "bfloat16"
        tasks = [{**cases[name], "dtype": cases[name]["dtype"].replace("half", half)} for name in names]
        lines = without_a_card("flex_for_a_card.py", {"capability": card, "cases": tasks})
        return dict(zip(names, lines, strict=True))

    return lambda card, cases: of(card, tuple(name for name in cases if (card, name) not in TOO_BIG))


def assert_it_fits(result: dict, card: tuple[int, int]) -> None:
    assert "error" not in result, result["error"]
    kernels = result["kernels"]
    names = {name for name, *_ in kernels}
    assert any("flex_attention_backward" in name for name in names) and len(names) >= 3, names
    assert not any(decoding for *_, decoding in kernels), "the decoding kernel refuses grouped heads"
    needed = [shared for name, shared, _ in kernels if "_tem_" in name]
    print(f"compute capability {card}: forward and backward need {needed} of {SHARED_MEMORY[card]} bytes")
    assert 0 < max(shared for _, shared, _ in kernels) <= SHARED_MEMORY[card], kernels


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"sm_{card[0]}{card[1]}")
def test_its_shared_memory_fits(results, card, name):
    if (card, name) in TOO_BIG:
        pytest.skip("fp32 heads 256 wide need 66,560 bytes, a T4 has 65,536; it takes spans, as all before 8.0")
    assert_it_fits(results(card, CASES)[name], card)


@pytest.mark.parametrize("name", SHORT_CASES)
def test_short_rows_do_not_take_the_decoding_kernel(results, name):
    assert_it_fits(results((8, 9), SHORT_CASES)[name], (8, 9))


def test_left_alone_inductor_takes_the_decoding_kernel(results):
    """What `FORCE_USE_FLEX_ATTENTION` is for: under 128 tokens it is taken, and with grouped heads it fails."""
    left_alone = results((8, 9), INDUCTORS_OWN)
    assert "error" in left_alone["grouped"]
    assert any(decoding for *_, decoding in left_alone["ungrouped"]["kernels"])


@pytest.mark.parametrize(
    ("dim", "dtype", "own", "fewer_stages"),
    [
        (16, torch.bfloat16, [*CARDS], []),
        (64, torch.float16, [*CARDS], []),
        (32, torch.float32, [*CARDS], []),
        (64, torch.float32, [(8, 0), (9, 0)], [(7, 5), (8, 9), (12, 0)]),
        (96, torch.bfloat16, [(8, 0), (9, 0)], [(7, 5), (8, 9), (12, 0)]),
        (128, torch.bfloat16, [(8, 0), (9, 0)], [(7, 5), (8, 9), (12, 0)]),
        (128, torch.float32, [(8, 0), (9, 0)], []),
        (256, torch.bfloat16, [(8, 0), (9, 0)], []),
        (256, torch.float32, [(8, 0), (9, 0)], []),
        (192, torch.bfloat16, [], []),
        (96, torch.float32, [], []),
    ],
)
def test_inductors_own_tiles_stay_where_they_fit(dim, dtype, own, fewer_stages):
    options = {card: kernel_options(dim, dtype, SHARED_MEMORY[card]) for card in CARDS}
    assert all(of_card.pop("FORCE_USE_FLEX_ATTENTION") for of_card in options.values())
    assert [card for card in CARDS if not options[card]] == own
    assert [card for card in CARDS if options[card] == {"num_stages": 2}] == fewer_stages
