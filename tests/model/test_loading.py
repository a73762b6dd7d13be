"""The pad token and the LoRA settings, on the real tokenizers of three families."""

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from hf_rewardplug.model.head import RewardHead, install_reward_head
from hf_rewardplug.model.kinds import ORM, PRM
from hf_rewardplug.model.loading import choose_pad_token, reward_peft_config, set_pad_token


def tiny_model(auto_class=AutoModelForSequenceClassification, vocab_size: int = 40, num_labels: int = 1):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return auto_class.from_config(
        LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=vocab_size, num_labels=num_labels, pad_token_id=0)
    )


def word_tokenizer(*words: str, **special) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(words)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, words[0])), **special)


@pytest.mark.parametrize(
    ("family", "vocab_size", "expected"),
    [
        ("gemma2", 256000, "<pad>"),
        ("qwen2_5", 151936, "<|endoftext|>"),
        ("llama3_1", 128256, "<|reserved_special_token_0|>"),
    ],
)
def test_pad_token_of_the_families(assets, family, vocab_size, expected):
    tokenizer = AutoTokenizer.from_pretrained(assets / "tokenizers" / family)
    assert choose_pad_token(tokenizer, vocab_size) == expected
    tokenizer.pad_token = tokenizer.eos_token  # what many scripts do, and what moves the scored token
    assert choose_pad_token(tokenizer, vocab_size) not in {tokenizer.eos_token, tokenizer.bos_token}


@pytest.mark.parametrize(
    ("words", "special", "vocab_size", "expected", "rows"),
    [
        (["a", "</s>", "<unk>"], {"eos_token": "</s>", "unk_token": "<unk>"}, 3, "<unk>", 3),
        (["a", "</s>", "<unused0>"], {"eos_token": "</s>"}, 3, "<unused0>", 3),
        (["a", "</s>"], {"eos_token": "</s>", "unk_token": "</s>"}, 8, "<|pad|>", 8),  # an unused row of the embedding
        (["a", "</s>"], {"eos_token": "</s>", "unk_token": "</s>"}, 2, "<|pad|>", 3),  # GPT-2: no id is free
        (["a", "</s>", "p"], {"eos_token": "</s>", "pad_token": "p"}, 3, "p", 3),
    ],
)
def test_an_embedding_grows_only_where_no_id_is_free(words, special, vocab_size, expected, rows):
    tokenizer, model = word_tokenizer(*words, **special), tiny_model(vocab_size=vocab_size)
    pad_token = choose_pad_token(tokenizer, vocab_size)
    assert pad_token == expected
    set_pad_token(model, tokenizer, pad_token)
    assert model.get_input_embeddings().num_embeddings == rows
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"]])
@pytest.mark.parametrize(
    ("auto_class", "kind", "num_labels"),
    [(AutoModelForSequenceClassification, ORM, 1), (AutoModelForTokenClassification, PRM, 2)],
)
@pytest.mark.parametrize("given", [None, "CAUSAL_LM"])
def test_lora_trains_saves_and_restores_the_head(tmp_path, targets, auto_class, kind, num_labels, given):
    config = LoraConfig(task_type=given, target_modules=targets, r=2)
    model = get_peft_model(tiny_model(auto_class, num_labels=num_labels), reward_peft_config(config, kind))
    assert config.task_type == given and config.modules_to_save is None  # the user's own stays as it was
    install_reward_head(model)
    head = model.base_model.model.score.modules_to_save["default"]
    assert type(head) is RewardHead and head.weight.requires_grad
    assert not any("lora" in name for name, _ in model.base_model.model.score.named_parameters())
    with torch.no_grad():
        head.weight.add_(1)
    ids = torch.tensor([[3, 4, 5]])
    expected = model.eval()(input_ids=ids).logits
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(auto_class, num_labels=num_labels), tmp_path).eval()
    torch.testing.assert_close(loaded(input_ids=ids).logits, expected)


def test_prompt_tuning_keeps_its_config():
    config = PromptTuningConfig(num_virtual_tokens=2)
    assert reward_peft_config(config, ORM).task_type == "SEQ_CLS"
