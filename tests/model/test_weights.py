"""What is looked at before a checkpoint is loaded, and after it is saved."""

import json

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_loading import tiny_model, word_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    OPTConfig,
    OPTForSequenceClassification,
)
from transformers import BertForTokenClassification as Bert

from hf_rewardplug import RewardScorer, merge_adapter
from hf_rewardplug.model.head import install_reward_head
from hf_rewardplug.model.kinds import ORM, PRM
from hf_rewardplug.model.loading import reward_peft_config
from hf_rewardplug.model.saved import SavedModel
from hf_rewardplug.model.weights import check_saved_head

SEQUENCES, TOKENS = AutoModelForSequenceClassification, AutoModelForTokenClassification


def saved(folder, auto_class=SEQUENCES, num_labels=1, rename=None, drop=(), **tensors):
    """A tiny checkpoint whose tensors are renamed, dropped or added to."""
    tiny_model(auto_class, num_labels=num_labels).save_pretrained(folder)
    path = folder / "model.safetensors"
    found = {(rename or {}).get(key, key): value for key, value in load_file(path).items() if key not in drop}
    save_file({**found, **tensors}, path, metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize("head", ["v_head.summary", "value_head", "classifier", "regression_head"])
def test_a_head_of_another_name_arrives(head, tmp_path, caplog):
    name = saved(tmp_path, rename={"score.weight": f"{head}.weight"})
    arguments = SavedModel(name, {}).arguments(ORM, 1)
    assert f"The head '{head}' of '{name}' is taken as 'score'" in caplog.text
    loaded, truth = SEQUENCES.from_pretrained(name, num_labels=1, **arguments), tiny_model()
    for (key, value), expected in zip(loaded.state_dict().items(), truth.state_dict().values(), strict=True):
        assert torch.equal(value, expected), key
    install_reward_head(loaded)
    loaded.save_pretrained(tmp_path / "again")
    again = SEQUENCES.from_pretrained(tmp_path / "again", num_labels=1)
    assert torch.equal(again.score.weight, truth.score.weight), "saved under its own name"
    plain = SEQUENCES.from_pretrained(name, num_labels=1)
    assert not torch.equal(plain.score.weight, truth.score.weight), "transformers draws a new one"


@pytest.mark.parametrize("shards", ["1GB", "2KB"])
def test_a_head_that_the_config_names_arrives(shards, tmp_path, caplog):
    """OpenRLHF writes `value_head_prefix`, any name, into config.json."""
    (model := tiny_model()).config.value_head_prefix = "reward_value"
    model.save_pretrained(tmp_path, max_shard_size=shards)
    for path in tmp_path.glob("model*.safetensors"):
        tensors = {key.replace("score.", "reward_value."): value for key, value in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    for index in tmp_path.glob("*.index.json"):
        index.write_text(index.read_text().replace('"score.', '"reward_value.'))
    arguments = SavedModel(str(tmp_path), {}).arguments(ORM, 1)
    assert f"The head 'reward_value' of '{tmp_path}' is taken as 'score'" in caplog.text
    loaded, info = SEQUENCES.from_pretrained(tmp_path, num_labels=1, output_loading_info=True, **arguments)
    assert torch.equal(loaded.score.weight, model.score.weight) and not info["unexpected_keys"]
    with pytest.raises(ValueError, match=r"it has reward_value.weight \(1, 16\), expected score.weight \(3, 16\)"):
        SavedModel(str(tmp_path), {}).arguments(ORM, 3)


def test_an_openrlhf_model_scores_once_its_config_is_edited(tmp_path):
    """The edits that docs/migrating.md lists; OpenRLHF's reward is the head's product at the last token."""
    saved(tmp_path, rename={"score.weight": "reward_value.weight"})
    word_tokenizer("<pad>", "</s>", "ab", pad_token="<pad>", eos_token="</s>").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in ("id2label", "label2id", "problem_type")}
    config |= {"architectures": ["RewardModel"], "value_head_prefix": "reward_value", "mean": 3.0, "std": 2.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is RewardModel; expected a sequence classifier"):
        RewardScorer.from_pretrained(str(tmp_path))
    config |= {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1}
    config["rewardplug"] = {"kind": "orm", "calibration": {"mean": 3.0, "std": 2.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = tiny_model().eval()
    with torch.no_grad():
        reward = model.score(model.model(torch.tensor([[2, 1]])).last_hidden_state[0, -1]).item()
    for normalize, expected in ((False, reward), (True, (reward - 3.0) / 2.0)):
        scorer = RewardScorer.from_pretrained(str(tmp_path), device="cpu", normalize=normalize)
        assert scorer.score(["a"], ["b"]) == [pytest.approx(expected, abs=1e-5)]


def test_a_bias_arrives_where_the_head_has_one(tmp_path, caplog):
    rename = {f"score.{key}": f"value_head.{key}" for key in ("weight", "bias")}
    name = saved(tmp_path / "prm", TOKENS, 2, rename)
    loaded = TOKENS.from_pretrained(name, num_labels=2, **SavedModel(name, {}).arguments(PRM, 2))
    assert torch.equal(loaded.score.bias, tiny_model(TOKENS, num_labels=2).score.bias)
    name = saved(tmp_path / "orm", rename={"score.weight": "v_head.weight"}, **{"v_head.bias": torch.ones(1)})
    arguments = SavedModel(name, {}).arguments(ORM, 1)
    with SavedModel(name, arguments).reading(ORM):
        loaded = SEQUENCES.from_pretrained(name, num_labels=1, **arguments)
    assert torch.equal(loaded.score.bias, torch.ones(1)) and "is taken as 'score'" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rename": {"score.weight": "v_head.0.weight"}}, r"v_head.0.weight \(1, 16\)"),
        (
            {"drop": ["score.weight"], "regression_layer.weight": torch.ones(19, 16)},
            r"regression_layer.weight \(19, 16\)",
        ),
        (
            {"drop": ["score.weight"], "value_head.weight": torch.ones(1, 8)},
            r"expected score.weight \(1, 16\)",
        ),
        ({"num_labels": 3}, r"score.weight \(3, 16\)"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(options, message, tmp_path):
    name = saved(tmp_path, **options)
    with pytest.raises(ValueError, match=message) as error:
        SavedModel(name, {}).arguments(ORM, 1)
    assert "ignore_mismatched_sizes" in str(error.value) and name in str(error.value)
    asked = {"ignore_mismatched_sizes": True}
    assert SavedModel(name, asked).arguments(ORM, 1) == {"use_safetensors": True, **asked}


def test_heads_that_transformers_itself_reads_are_left_alone(tmp_path):
    assert SavedModel(saved(tmp_path / "score"), {}).arguments(ORM, 1) == {"use_safetensors": True}
    assert SavedModel(saved(tmp_path / "none", drop=["score.weight"]), {}).arguments(ORM, 1).keys() == {
        "use_safetensors"
    }
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    Bert(BertConfig(**sizes, vocab_size=40, num_labels=2)).save_pretrained(tmp_path / "bert")
    assert SavedModel(str(tmp_path / "bert"), {}).arguments(PRM, 2) == {"use_safetensors": True}


def test_a_part_of_the_body_is_no_head(tmp_path):
    router = {"model.layers.0.mlp.router.classifier.weight": torch.ones(3, 16)}
    name = saved(tmp_path, drop=["score.weight"], **router)
    assert SavedModel(name, {}).arguments(ORM, 1) == {"use_safetensors": True}


def test_a_head_s_shape_is_what_its_model_says(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 32}
    projected = OPTConfig(**sizes, word_embed_proj_dim=16, vocab_size=40, num_labels=1)
    OPTForSequenceClassification(projected).save_pretrained(tmp_path / "opt")
    assert SavedModel(str(tmp_path / "opt"), {}).arguments(ORM, 1) == {"use_safetensors": True}
    with pytest.raises(ValueError, match=r"it has score.weight \(1, 16\), expected score.weight \(2, 16\)"):
        SavedModel(str(tmp_path / "opt"), {}).arguments(ORM, 2)


def test_shards_are_looked_at_one_by_one(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2 and SavedModel(str(tmp_path), {}).arguments(ORM, 1) == {"use_safetensors": True}
    shards[1].write_bytes(shards[1].read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"{shards[1].name} is cut off.*Copy or download it again"):
        SavedModel(str(tmp_path), {}).arguments(ORM, 1)
    shards[1].unlink()
    with pytest.raises(ValueError, match=f"{shards[1].name} is missing"):
        SavedModel(str(tmp_path), {}).arguments(ORM, 1)


class Touch:
    """A pickle that makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickled_weights_are_not_read(tmp_path):
    tiny_model().config.save_pretrained(tmp_path)
    torch.save({"score.weight": Touch(str(tmp_path / "was_here"))}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickle \(pytorch_model.bin\), which can run code when it is read. Convert"):
        SavedModel(str(tmp_path), {}).arguments(ORM, 1)
    assert not (tmp_path / "was_here").exists()
    assert SavedModel(str(tmp_path), {"use_safetensors": False}).arguments(ORM, 1) == {"use_safetensors": False}


# ---- after a save --------------------------------------------------------------------------------------------------


def test_a_saved_head_is_read_back(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    check_saved_head(tmp_path, model.score.state_dict())
    with pytest.raises(RuntimeError, match=r"'score.weight' has the shape \(1, 16\) or other values"):
        check_saved_head(tmp_path, {"weight": model.score.weight + 1})
    with torch.no_grad():
        model.score.weight[0, 0] = torch.nan  # a run that has diverged is not the save's fault
    model.save_pretrained(tmp_path)
    check_saved_head(tmp_path, model.score.state_dict())
    with pytest.raises(RuntimeError, match=r"'score.bias' is missing .*model.safetensors.*stage3_gather_16bit_weights"):
        check_saved_head(tmp_path, {"bias": torch.zeros(1)})
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(RuntimeError, match="Is the disk full"):
        check_saved_head(tmp_path, model.score.state_dict())


@pytest.mark.parametrize(("kind", "labels"), [(ORM, 1), (PRM, 2)])
def test_a_merged_adapter_scores_as_the_adapter_did(kind, labels, tmp_path):
    auto_class = {ORM: SEQUENCES, PRM: TOKENS}[kind]
    tiny_model(auto_class, num_labels=labels).save_pretrained(tmp_path / "base")
    base = auto_class.from_pretrained(tmp_path / "base")
    base.config.problem_type, base.config.rewardplug, base.config.pad_token_id = "regression", {"kind": "x"}, 3
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(base, reward_peft_config(config, kind)).eval()
    install_reward_head(model)
    with torch.no_grad():
        model.base_model.model.score.modules_to_save["default"].weight.add_(1)
    expected = model(input_ids=torch.tensor([[5, 6, 7]])).logits
    model.save_pretrained(tmp_path / "adapter")
    model.config.to_json_file(tmp_path / "adapter" / "reward_config.json")
    word_tokenizer("a", "b", pad_token="b").save_pretrained(tmp_path / "adapter")
    merge_adapter(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    merged = auto_class.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(input_ids=torch.tensor([[5, 6, 7]])).logits, expected, rtol=0, atol=1e-5)
    assert (merged.config.problem_type, merged.config.rewardplug) == ("regression", {"kind": "x"})
    assert merged.config.pad_token_id == 3 and (tmp_path / "merged" / "tokenizer.json").exists()


def test_what_cannot_be_merged_is_refused(tmp_path):
    base = tiny_model()
    model = get_peft_model(base, PromptTuningConfig(num_virtual_tokens=2, task_type="SEQ_CLS"))
    model.save_pretrained(tmp_path)
    base.config.to_json_file(tmp_path / "reward_config.json")
    with pytest.raises(ValueError, match=r"is a PROMPT_TUNING adapter .*expected one that changes weights"):
        merge_adapter(str(tmp_path), str(tmp_path / "merged"))
