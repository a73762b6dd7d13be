"""Heads that transformers' class does not build by itself: loaded as they were saved, against a forward by hand."""

import copy
import json
import pickle

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_loading import tiny_model, word_tokenizer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Qwen2Config,
    Qwen2Model,
)

from hf_rewardplug import RewardScorer, merge_adapter
from hf_rewardplug.model.checkpoint import load_checkpoint
from hf_rewardplug.model.families import check_model
from hf_rewardplug.model.head import install_reward_head
from hf_rewardplug.model.head_layers import build_head, check_reloads, layer_names
from hf_rewardplug.model.kinds import ORM, PRM
from hf_rewardplug.model.loading import describe_checkpoint, reward_peft_config
from hf_rewardplug.model.saved import SavedModel
from hf_rewardplug.model.weights import check_saved_head

SEQUENCES, TOKENS = AutoModelForSequenceClassification, AutoModelForTokenClassification
WORDS = ("<pad>", "</s>", "a", "b", "<extra_0>", "ab", "abb")


def two_layers(outputs: int = 1, size: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, outputs))


def tokenizer():
    return word_tokenizer(*WORDS, pad_token="<pad>", eos_token="</s>")


def qwen_folder(folder, architecture: str, outputs: int):
    """As Qwen2.5-Math-RM and -PRM are published: a body, `score.0` and `score.2`, and code of their own."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "vocab_size": 8, "initializer_range": 0.5}
    config = Qwen2Config(**sizes, pad_token_id=0, eos_token_id=1)
    body, head = Qwen2Model(config).eval(), two_layers(outputs)
    tensors = {f"model.{key}": value for key, value in body.state_dict().items()}
    tensors |= {f"score.{key}": value for key, value in head.state_dict().items()}
    tokenizer().save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    code = {"AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig", "AutoModel": f"modeling_qwen2_rm.{architecture}"}
    saved = {**config.to_dict(), "architectures": [architecture], "auto_map": code}
    (folder / "config.json").write_text(json.dumps(saved))

    def logits(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            hidden_D = body(torch.tensor([ids])).last_hidden_state[0, -1]
            weights = head[0].weight @ hidden_D + head[0].bias
            return head[2].weight @ weights.clamp(min=0) + head[2].bias

    return str(folder), logits


@pytest.mark.parametrize("trust_remote_code", [False, True])
def test_qwen_math_s_reward_model_scores(trust_remote_code, tmp_path):
    name, logits = qwen_folder(tmp_path, "Qwen2ForRewardModel", 1)
    model, _ = load_checkpoint(name, trust_remote_code=trust_remote_code)  # whose config makes the tokenizer Qwen2's
    assert RewardScorer(model, tokenizer()).score(["a"], ["b"]) == [pytest.approx(logits([5, 1]).item(), abs=1e-5)]
    assert not hasattr(model.config, "auto_map"), "its code is not saved with it"


def test_qwen_math_s_process_reward_model_scores(tmp_path):
    name, logits = qwen_folder(tmp_path, "Qwen2ForProcessRewardModel", 2)
    scorer = RewardScorer(load_checkpoint(name)[0], tokenizer(), step_separator="<extra_0>")
    expected = logits([2, 3, 4]).softmax(-1)[1].item()
    assert scorer.score_steps(["a"], [["b"]]) == [[pytest.approx(expected, abs=1e-5)]]


@pytest.mark.parametrize(("auto_class", "kind", "outputs"), [(SEQUENCES, ORM, 1), (TOKENS, PRM, 2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "auto"])
def test_layers_come_back_in_fp32(auto_class, kind, outputs, dtype, tmp_path):
    model = tiny_model(auto_class, num_labels=outputs)
    model.score = two_layers(outputs)
    model = model.to(torch.float32 if dtype == "float32" else torch.bfloat16)
    install_reward_head(model)
    with torch.no_grad():
        model.score[2].weight.add_(1e-4)  # which bf16 does not have
    describe_checkpoint(model, kind)
    assert model.config.rewardplug["head"] == ["Linear", "ReLU", "Linear"]
    model.save_pretrained(tmp_path)
    check_saved_head(tmp_path, model.score.state_dict())
    tokenizer().save_pretrained(tmp_path)
    loaded, _ = load_checkpoint(str(tmp_path), dtype=dtype)
    assert {key: value.dtype for key, value in loaded.score.state_dict().items()}["2.weight"] == torch.float32
    for key, value in model.score.state_dict().items():
        assert torch.equal(loaded.score.state_dict()[key], value), key
    assert loaded.model.embed_tokens.weight.dtype == getattr(torch, dtype, torch.bfloat16)
    assert type(loaded) is type(model) and pickle.dumps(type(loaded))


@pytest.mark.parametrize("shards", ["1GB", "2KB"])
@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "auto"])
def test_a_single_head_is_not_rounded(dtype, shards, tmp_path):
    model = tiny_model().bfloat16()
    install_reward_head(model)
    with torch.no_grad():
        model.score.weight.mul_(1 + 1e-3)
    model.save_pretrained(tmp_path, max_shard_size=shards)
    tokenizer().save_pretrained(tmp_path)
    loaded, _ = load_checkpoint(str(tmp_path), dtype=dtype)
    assert torch.equal(loaded.score.weight, model.score.weight)
    plain = SEQUENCES.from_pretrained(tmp_path, dtype=dtype)  # transformers has one dtype for all
    assert torch.equal(plain.score.weight, model.score.weight.bfloat16())
    exact = SEQUENCES.from_pretrained(tmp_path, dtype="float32")
    assert torch.equal(exact.score.weight, model.score.weight)


@pytest.mark.parametrize("auto_class", [SEQUENCES, TOKENS])
@pytest.mark.parametrize("bias", [False, True])
def test_a_bias_is_there_where_it_was(auto_class, bias, tmp_path):
    model = tiny_model(auto_class)
    model.score = nn.Linear(16, 1, bias=bias)
    describe_checkpoint(model, ORM if auto_class is SEQUENCES else PRM)
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    loaded, _ = load_checkpoint(str(tmp_path))
    assert loaded.score.state_dict().keys() == model.score.state_dict().keys()
    ids = torch.tensor([[2, 3, 1]])
    torch.testing.assert_close(loaded(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


@pytest.mark.parametrize("head", [two_layers(), nn.Linear(16, 1)], ids=["layers", "bias"])
def test_an_adapter_s_head_comes_back(head, tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    base = SEQUENCES.from_pretrained(tmp_path / "base")
    base.score = copy.deepcopy(head)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(base, reward_peft_config(config, ORM)).eval()
    install_reward_head(model)
    describe_checkpoint(model, ORM)
    expected = model(input_ids=torch.tensor([[2, 3, 1]])).logits
    model.save_pretrained(tmp_path / "adapter")
    model.config.to_json_file(tmp_path / "adapter" / "reward_config.json")
    tokenizer().save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert not [key for key in saved if "score" in key and "lora" in key]
    merge_adapter(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    for folder in ("adapter", "merged"):
        loaded, _ = load_checkpoint(str(tmp_path / folder))
        found = loaded(input_ids=torch.tensor([[2, 3, 1]])).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


class Scaled(nn.Module):
    """A head whose parameters say nothing of what it does with them."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 16))

    def forward(self, hidden):
        return 3 * (hidden @ self.weight.T)


@pytest.mark.parametrize(
    "head",
    [
        nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 1)]),
        nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 1)),
        nn.Sequential(nn.Linear(16, 16), nn.LeakyReLU(0.3), nn.Linear(16, 1)),
        nn.Sequential(nn.Sequential(nn.Linear(16, 16), nn.ReLU()), nn.Linear(16, 1)),
        nn.Sequential(nn.Linear(16, 1), nn.Tanh()),
        Scaled(),
    ],
    ids=lambda head: type(head).__name__,
)
def test_a_head_that_could_not_be_loaded_is_refused(head):
    model = tiny_model()
    model.score = head
    with pytest.raises(ValueError, match=r"`model\.score` is not what Llama.* builds.*As `model\.score` take a linear"):
        check_reloads(model)


def test_heads_that_can_be_loaded_are_taken():
    check_reloads(tiny_model())
    model = tiny_model()
    model.score = nn.Sequential(nn.Dropout(0.1), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 1))
    check_reloads(model)
    assert layer_names(model.score) == ["Identity", "Linear", "GELU", "Linear"]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    for kind in ("bert", "roberta"):
        encoder = SEQUENCES.from_config(AutoConfig.for_model(kind, **sizes, vocab_size=40, num_labels=1))
        check_reloads(encoder)
        encoder.classifier = two_layers()
        with pytest.raises(ValueError, match=r"`model\.classifier` is not what"):
            check_reloads(encoder)


def test_layers_that_nothing_describes_are_refused_with_the_remedy(tmp_path):
    model = tiny_model()
    model.score = two_layers()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r'say in its config.json .*"rewardplug": {"head": \["Linear", "ReLU"'):
        SavedModel(str(tmp_path), {}).arguments(ORM, 1)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rewardplug"] = {"head": ["Linear", "ReLU", "Linear"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = SavedModel(str(tmp_path), {}).arguments(ORM, 1)
    with SavedModel(str(tmp_path), arguments).reading(ORM):
        loaded = SEQUENCES.from_pretrained(tmp_path, **arguments)
    assert torch.equal(loaded.score[2].weight, model.score[2].weight)
    assert type(SEQUENCES.from_config(loaded.config).score) is nn.Linear, "transformers' own is as it was"
    with pytest.raises(ValueError, match=r"expected score.2.weight \(2, 16\)"):
        SavedModel(str(tmp_path), {}).arguments(PRM, 2)
    with pytest.raises(ValueError, match=r"rewardplug.head=\['Linear', 'eval'\] does not describe"):
        build_head(["Linear", "eval"], {"0.weight": [1, 16]})


# ---- encoders with a decoder, and families without a head ------------------------------------------------------------


def t5gemma(auto_class, labels: int):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "head_dim": 8, "vocab_size": 8, "initializer_range": 0.5}
    config = AutoConfig.for_model(
        "t5gemma", encoder=sizes, decoder={**sizes, "cross_attention_hidden_size": 16}, pad_token_id=0, bos_token_id=2
    )
    config.num_labels = labels
    return auto_class.from_config(config).eval()


def test_an_encoder_with_a_decoder_scores_each_text_as_it_does_alone(tmp_path):
    """Its own pooling looks one token later in a row that is padded."""
    model, ids = t5gemma(SEQUENCES, 1), [[5, 1], [6, 1]]
    with torch.no_grad():
        expected = [model(input_ids=torch.tensor([one])).logits.item() for one in ids]
    scorer = RewardScorer(model, tokenizer())
    assert scorer.score("a", ["b", "bb"]) == pytest.approx(expected[:2], abs=1e-5)
    batch = {"input_ids": torch.tensor([[5, 1, 0], [6, 6, 1]]), "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}
    with torch.no_grad():
        rewards = model(**batch, score_positions=torch.tensor([1, 5])).logits
        assert rewards[0].item() == pytest.approx(expected[0], abs=1e-5)
        assert rewards[1].item() == pytest.approx(model(input_ids=batch["input_ids"][1:]).logits.item(), abs=1e-5)
    check_reloads(model)
    model.config.rewardplug = {"kind": "orm"}
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    again, _ = load_checkpoint(str(tmp_path))
    assert RewardScorer(again, tokenizer()).score("a", "b") == pytest.approx(expected[0], abs=1e-5)


def test_an_encoder_with_a_decoder_rates_steps():
    model = t5gemma(TOKENS, 2)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([[2, 3, 4]])).logits[0, 2].softmax(-1)[1].item()
    scorer = RewardScorer(model, tokenizer(), step_separator="<extra_0>")
    assert scorer.score_steps(["a"], [["b"]]) == [[pytest.approx(expected, abs=1e-5)]]


@pytest.mark.parametrize("family", ["granite", "olmoe", "cohere2"])
def test_a_family_without_a_head_names_what_works(family, tmp_path):
    config = AutoConfig.for_model(family)
    config.save_pretrained(tmp_path)
    said = rf"is a '{family}', and transformers has no .* For{{}}Classification.*`PRMTrainer` with `good_token`"
    for kind, task in ((ORM, "Sequence"), (PRM, "Token")):
        with pytest.raises(ValueError, match=said.format(task)) as error:
            with SavedModel(str(tmp_path), {}).reading(kind):
                pass
        assert len(str(error.value)) < 500
        with pytest.raises(ValueError, match=said.format(task)):
            SavedModel(str(tmp_path), {}).arguments(kind, 1)
    model = type("GraniteForCausalLM", (nn.Module,), {})()
    model.config = config
    with pytest.raises(ValueError, match=said.format("Sequence")):
        check_model(model, ORM)
