"""Each text has the rotary frequencies that it has alone; and how long a text may be where positions are learned."""

import copy
import inspect
import itertools

import pytest
import torch
from families import HEADS, SIZES, Gemma3TextForTokenClassification, length_ropes
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from hf_rewardplug.data.collator import PreferenceCollator, StepCollator
from hf_rewardplug.model.attention import share_prefixes
from hf_rewardplug.model.head import behind_virtual_tokens, install_reward_head
from hf_rewardplug.model.label_tokens import install_label_tokens
from hf_rewardplug.model.positions import separate_lengths

LIMIT = 8
BEYOND = {"rope_theta": 1e4, "original_max_position_embeddings": LIMIT}
DYNAMIC, LONG = length_ropes(LIMIT).values()
ROPE = {
    "default": {"rope_theta": 1e4},
    "linear": {"rope_theta": 1e4, "factor": 4.0},
    "dynamic": DYNAMIC,
    "yarn": {**BEYOND, "factor": 4.0},
    "longrope": LONG,
    "llama3": {**BEYOND, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "proportional": {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
}
TINY = {**SIZES, "initializer_range": 0.3}  # so that positions count
CONFIGS = {
    **{
        kind: AutoConfig.for_model(
            "llama", **TINY, max_position_embeddings=LIMIT, rope_parameters={**options, "rope_type": kind}
        )
        for kind, options in ROPE.items()
    },
    "a kind for each type of layer": AutoConfig.for_model(
        "gemma3_text",
        **TINY,
        head_dim=8,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=LIMIT,
        rope_parameters={"sliding_attention": LONG, "full_attention": DYNAMIC},
    ),
    "phi3": AutoConfig.for_model("phi3", **TINY, eos_token_id=1, bos_token_id=1, rope_parameters=LONG),
    "phimoe": AutoConfig.for_model(
        "phimoe",
        **{**TINY, "num_local_experts": 2, "num_experts_per_tok": 2},
        rope_parameters={**LONG, "short_mscale": 1.0, "long_mscale": 1.5},
    ),
}


def build(name: str, kind: str):
    """A model of transformers alone, the same weights at every call and no text behind it."""
    torch.manual_seed(0)
    auto_class, labels = HEADS[kind]
    config = copy.deepcopy(CONFIGS[name])
    config.num_labels = labels
    if config.model_type == "gemma3_text" and kind == "prm":
        return Gemma3TextForTokenClassification._from_config(config).eval()
    return auto_class.from_config(config).eval()


def tokens(*numbers: int) -> list[int]:
    return [2 + 7 * number % 61 for number in numbers]


PROMPT = tokens(*range(4))
MORE = (2, 8, 4, 5, 8, 9, 1, 3)
TEXTS = [PROMPT + tokens(*range(10 * number, 10 * number + more)) for number, more in enumerate(MORE)]
"""6 tokens beside 12, 8 beside 9, 12 beside 13, 5 beside 7"""

PAIRS = [{"chosen_ids": TEXTS[index], "rejected_ids": TEXTS[index + 1]} for index in (0, 2, 4, 6)]
TREE = {
    "input_ids": PROMPT + tokens(*range(10, 19)),
    "node_lengths": [4, 2, 1, 4, 2],
    "node_parents": [-1, 0, 1, 1, 0],
    "labels": [-100.0] * 5 + [1.0, 0.0] + [-100.0] * 3 + [1.0] + [-100.0, 0.0],
}
"""6 tokens and then 7 or 10; 6"""


def whole_paths() -> list[tuple[list[int], list[int]]]:
    """The tree's texts, and where the labelled nodes end that no text before has."""
    ids, start = [], 0
    for length in TREE["node_lengths"]:
        ids.append(TREE["input_ids"][start : start + length])
        start += length
    prompt, first, short, long, other = ids
    return [(prompt + first + short, [5, 6]), (prompt + first + long, [9]), (prompt + other, [5])]


def alone(name: str, kind: str, weights: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Scores of each text by itself in a model that has seen no other, and the gradients of their weighted sum."""
    if kind == "orm":
        texts = [(row[key], [-1]) for key in ("chosen_ids", "rejected_ids") for row in PAIRS]
    else:
        texts = whole_paths()
    scores, gradients, row = [], None, 0
    for text, ends in texts:
        model = build(name, kind)
        logits = model(torch.tensor([text])).logits
        logits = logits if kind == "orm" else logits[0, ends]
        scores.append(logits.detach())
        (logits * weights[row : row + len(ends)]).sum().backward()
        row += len(ends)
        own = [torch.zeros_like(one) if one.grad is None else one.grad for one in model.parameters()]
        gradients = own if gradients is None else [a + b for a, b in zip(gradients, own, strict=True)]
    return torch.cat(scores), gradients


def scored(model, batch: dict) -> torch.Tensor:
    keys = ("input_ids", "attention_mask", "position_ids", "prefix_tree", "score_positions")
    arguments = {key: batch[key] for key in keys if key in batch}
    arguments["score_positions"] = behind_virtual_tokens(model, **arguments)
    return model(**arguments).logits


def batch_of(kind: str, side_of, *, packs: bool) -> dict:
    collator, rows = (PreferenceCollator, PAIRS) if kind == "orm" else (StepCollator, [TREE])
    return collator(0, prefix_sharing=packs, side_of=side_of, pad_to_multiple_of=5)(rows)


def test_every_kind_of_rotary_frequencies_is_under_test():
    assert {*ROPE} == {"default", *ROPE_INIT_FUNCTIONS}


CASES = [case for case in itertools.product(CONFIGS, HEADS, (False, True)) if case[0] != "phimoe"]


@pytest.mark.parametrize("name, kind, packs", [*CASES, ("phimoe", "orm", False)])  # which has no other head
def test_a_text_is_scored_as_it_is_alone(name, kind, packs):
    """Pairs and a tree whose branches lie on both sides of a limit, and another batch before."""
    weights = torch.linspace(-1, 1, 8 if kind == "orm" else 4)[:, None]
    expected, gradients = alone(name, kind, weights)
    model = build(name, kind)
    install_reward_head(model)
    side_of = separate_lengths(model)
    assert not packs or share_prefixes(model) is None
    batch = batch_of(kind, side_of, packs=packs)
    with torch.no_grad():
        model(torch.tensor([tokens(*range(20))]))  # dynamic NTK keeps a long text's frequencies
    found = scored(model, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    (found * weights).sum().backward()
    for (parameter, own), gradient in zip(model.named_parameters(), gradients, strict=True):
        own = torch.zeros_like(gradient) if own.grad is None else own.grad
        assert (own - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6, parameter


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_without_it_a_neighbour_counts(name):
    expected, _ = alone(name, "orm", torch.ones(8, 1))
    model = build(name, "orm")
    install_reward_head(model)
    found = scored(model, batch_of("orm", None, packs=False)).detach()
    assert (found - expected).abs().max() > 0.01


def test_sides():
    """Up to the limit all texts have the same frequencies; beyond it dynamic NTK has others for each length."""
    lengths = (3, LIMIT, LIMIT + 1, LIMIT + 2)
    sides = {name: separate_lengths(build(name, "orm")) for name in ("dynamic", "longrope", "default")}
    assert sides["default"] is None
    for name, count in (("dynamic", 3), ("longrope", 2)):
        found = [sides[name](length) for length in lengths]
        assert found[0] == found[1] != found[2] and len({*found}) == count


ADAPTERS = {
    "lora": (LoraConfig(task_type="SEQ_CLS", init_lora_weights=False, target_modules=["q_proj"]), True),
    "prompt tuning": (PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3), False),
    "prefix tuning": (PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3), False),
}


@pytest.mark.parametrize("name, adapter", [*itertools.product(["dynamic", "longrope"], ADAPTERS)])
def test_adapters(name, adapter):
    """PEFT calls a model's `forward` without its hooks; virtual tokens count as the text's."""
    if adapter == "prefix tuning" and "cache" in inspect.signature(LlamaModel.forward).parameters:
        pytest.skip("PEFT 0.21.2 looks for `past_key_values`, which transformers 5.24 calls `cache`")
    config, packs = ADAPTERS[adapter]

    def adapted():
        torch.manual_seed(1)
        return get_peft_model(build(name, "orm"), copy.deepcopy(config)).eval()

    texts = [torch.tensor([row[key]]) for key in ("chosen_ids", "rejected_ids") for row in PAIRS]
    with torch.no_grad():
        expected = torch.cat([adapted()(input_ids=text, attention_mask=torch.ones_like(text)).logits for text in texts])
    model = adapted()
    install_reward_head(model)
    side_of = separate_lengths(model)
    assert (share_prefixes(model) is None) == packs
    with torch.no_grad():
        torch.testing.assert_close(scored(model, batch_of("orm", side_of, packs=packs)), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("packs", [False, True])
def test_label_tokens(packs):
    def causal():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS["dynamic"])).eval()

    with torch.no_grad():
        each = [causal()(torch.tensor([text])).logits[0, ends] for text, ends in whole_paths()]
        expected = torch.cat(each)[:, [5, 9]]
        model = causal()
        install_label_tokens(model, (5, 9))
        side_of = separate_lengths(model)
        assert share_prefixes(model) is None
        found = scored(model, batch_of("prm", side_of, packs=packs))
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)
