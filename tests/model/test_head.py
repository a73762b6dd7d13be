"""The fp32 head and the scored forward, against transformers' own forward."""

import copy

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from families import SIZES
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForSequenceClassification,
    Gemma2Config,
    GPT2Config,
    GPT2ForTokenClassification,
    LlamaConfig,
    Qwen2Config,
)

from hf_rewardplug.data.collator import PreferenceCollator, StepCollator
from hf_rewardplug.model.head import RewardHead, install_reward_head

CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "gemma2": Gemma2Config(**SIZES, head_dim=8, sliding_window=4),
}
PAIRS = [
    {"chosen_ids": [5, 6, 7, 8], "rejected_ids": [5, 9]},
    {"chosen_ids": [11], "rejected_ids": [12, 13, 14]},
]
STEPS = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, 1, -100, -100, 0]},
    {"input_ids": [5, 6], "labels": [-100, 1]},
]


def build(auto_class, name: str, num_labels: int, **kwargs):
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[name])
    config.num_labels = num_labels
    return auto_class.from_config(config, **kwargs).eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_rewards_are_transformers_pooled_logits(name):
    batch = PreferenceCollator(pad_token_id=0)(PAIRS)
    model = build(AutoModelForSequenceClassification, name, 1)
    plain = {key: batch[key] for key in ("input_ids", "attention_mask")}
    expected = model(**plain).logits
    assert install_reward_head(model)
    torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(model(**plain).logits, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_step_logits_are_transformers_logits_at_the_labels(name):
    batch = StepCollator(pad_token_id=0)(STEPS)
    model = build(AutoModelForTokenClassification, name, 2)
    plain = {key: batch[key] for key in ("input_ids", "attention_mask")}
    expected = model(**plain).logits
    install_reward_head(model)
    logits = model(**plain, score_positions=batch["score_positions"]).logits
    torch.testing.assert_close(logits, torch.stack([expected[0, 1], expected[0, 4], expected[1, 1]]))


def test_the_head_is_fp32_in_a_bf16_body_and_under_autocast():
    model = build(AutoModelForSequenceClassification, "llama", 1, dtype=torch.bfloat16)
    install_reward_head(model)
    assert model.score.weight.dtype == torch.float32
    assert model.model.embed_tokens.weight.dtype == torch.bfloat16
    batch = PreferenceCollator(pad_token_id=0)(PAIRS)
    assert model(**batch).logits.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.score(torch.randn(3, 32)).dtype == torch.float32


def test_a_bf16_product_would_tie_what_the_fp32_head_tells_apart():
    torch.manual_seed(0)
    hidden, head = torch.randn(2000, 64), RewardHead(64, 1, bias=False)
    with torch.no_grad():
        exact = head(hidden.bfloat16()).unique().numel()
        rounded = torch.nn.functional.linear(hidden.bfloat16(), head.weight.bfloat16()).unique().numel()
    assert exact > 1990 and rounded < 1200  # PITFALLS 10: 1005 of 2000


def test_installing_twice_and_copying_keep_one_forward():
    model = build(AutoModelForSequenceClassification, "llama", 1)
    batch = PreferenceCollator(pad_token_id=0)(PAIRS)
    install_reward_head(model)
    expected = model(**batch).logits
    install_reward_head(model)
    torch.testing.assert_close(model(**batch).logits, expected)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.score.weight.zero_()
    assert twin(**batch).logits.abs().max() == 0
    torch.testing.assert_close(model(**batch).logits, expected)


def test_a_saved_folder_has_no_trace_of_the_head(tmp_path):
    model = build(AutoModelForSequenceClassification, "llama", 1)
    batch = PreferenceCollator(pad_token_id=0)(PAIRS)
    install_reward_head(model)
    expected = model(**batch).logits
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).architectures == ["LlamaForSequenceClassification"]
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(loaded.score) is torch.nn.Linear
    plain = {key: batch[key] for key in ("input_ids", "attention_mask")}
    torch.testing.assert_close(loaded(**plain).logits, expected, rtol=0, atol=1e-5)


def test_other_heads_compute_every_position_and_pick():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    bert = BertForSequenceClassification(BertConfig(**sizes, vocab_size=64, num_labels=1)).eval()
    pairs = PreferenceCollator(pad_token_id=0)(PAIRS)
    expected = bert(input_ids=pairs["input_ids"], attention_mask=pairs["attention_mask"]).logits
    assert not install_reward_head(bert)
    torch.testing.assert_close(bert(**pairs).logits, expected)

    gpt2 = GPT2ForTokenClassification(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, num_labels=2)).eval()
    steps = StepCollator(pad_token_id=0)(STEPS)
    plain = {key: steps[key] for key in ("input_ids", "attention_mask")}
    expected = gpt2(**plain).logits
    assert not install_reward_head(gpt2)
    logits = gpt2(**plain, score_positions=steps["score_positions"]).logits
    torch.testing.assert_close(logits, torch.stack([expected[0, 1], expected[0, 4], expected[1, 1]]))


def test_a_head_with_accelerates_hook_is_fp32():
    """As `device_map` over several devices leaves it: the hook calls the forward that it found."""
    model = build(AutoModelForSequenceClassification, "llama", 1, dtype=torch.bfloat16)
    add_hook_to_module(model.score, AlignDevicesHook("cpu"))
    install_reward_head(model)
    hidden = torch.randn(5, SIZES["hidden_size"], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.score(hidden)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, hidden.float() @ model.score.weight.T)
