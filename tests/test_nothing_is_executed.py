"""Data, models, checkpoints and YAML are read, never run: a file that would leave a trace when run leaves none."""

import json
import pickle
import sys

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer
from hf_rewardplug.data.files import load_split
from hf_rewardplug.runs.arguments import parse_recipe

CPU = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "max_steps": 1, "disable_tqdm": True}
PAIRS = Dataset.from_list([{"prompt": "the cat ", "chosen": "sat", "rejected": "ran"}] * 2)
STEPS = Dataset.from_list([{"prompt": "the cat ", "completions": ["sat"], "labels": [True]}] * 2)
TRAINERS = {"orm": (RewardTrainer, RewardConfig, PAIRS), "prm": (PRMTrainer, PRMConfig, STEPS)}


class Trap:
    """A pickle that writes a file when it is read."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return open, (self.trace, "w")


@pytest.fixture
def model_folder(assets, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=512, num_labels=1, pad_token_id=0)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(assets / "stories260K").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", TRAINERS)
def test_trust_remote_code_is_off_and_code_of_a_model_is_not_run(kind, model_folder, tmp_path):
    trainer_class, config_class, rows = TRAINERS[kind]
    assert config_class(str(tmp_path / "out"), **CPU).trust_remote_code is False
    trace = tmp_path / "trace"
    (model_folder / "modeling.py").write_text(f"open({str(trace)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    config = json.loads((model_folder / "config.json").read_text())
    names = ("AutoModelForSequenceClassification", "AutoModelForTokenClassification", "AutoModel")
    config |= {"model_type": "foreign", "auto_map": {"AutoConfig": "modeling.Config"}}
    config["auto_map"] |= dict.fromkeys(names, "modeling.Model")
    (model_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"(?s)trust_remote_code|does not recognize this architecture"):
        trainer_class(str(model_folder), config_class(str(tmp_path / "out"), **CPU), train_dataset=rows)
    assert not trace.exists()


@pytest.mark.parametrize("kind", TRAINERS)
def test_pickled_weights_are_refused_unread(kind, model_folder, tmp_path):
    trainer_class, config_class, rows = TRAINERS[kind]
    (model_folder / "model.safetensors").unlink()
    (model_folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "trace")))
    with pytest.raises(ValueError, match=r"as a pickle \(pytorch_model.bin\).*Convert it to safetensors"):
        trainer_class(str(model_folder), config_class(str(tmp_path / "out"), **CPU), train_dataset=rows)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_s_pickles_run_nothing(name, model_folder, tmp_path):
    def trainer():
        args = RewardConfig(str(tmp_path / "out"), **{**CPU, "max_steps": 2, "save_strategy": "steps", "save_steps": 1})
        return RewardTrainer(str(model_folder), args, train_dataset=PAIRS)

    trainer().train()
    checkpoint = tmp_path / "out" / "checkpoint-1"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    del state["stateful_callbacks"]["rewardplug"]  # or the changed size is an error by itself
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    torch.save(Trap(tmp_path / "trace"), checkpoint / name)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        trainer().train(resume_from_checkpoint=str(checkpoint))
    assert not (tmp_path / "trace").exists()


def test_yaml_is_data(tmp_path, monkeypatch, capsys):
    trace = tmp_path / "trace"
    (tmp_path / "config.yaml").write_text(f'output_dir: !!python/object/apply:builtins.open ["{trace}", "w"]\n')
    monkeypatch.setattr(sys, "argv", ["recipe", "--config", str(tmp_path / "config.yaml")])
    with pytest.raises(Exception, match="could not determine a constructor"):
        parse_recipe(RewardConfig, {}, demo="gemma", deepspeed=tmp_path / "zero2.json")
    assert not trace.exists()


def test_a_script_beside_the_data_is_not_run(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    with pytest.raises(ValueError, match=r"expected \.json, \.jsonl, \.csv, \.parquet, \.arrow"):
        load_split(str(tmp_path / "data"), "train")
    assert not (tmp_path / "trace").exists()


def test_a_chat_template_cannot_reach_python(model_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    rows = Dataset.from_list(
        [{"chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "user", "content": "b"}]}]
    )
    args = RewardConfig(str(tmp_path / "out"), **CPU)
    with pytest.raises(ValueError, match=r"row 0: the chat template refuses the conversation .*unsafe"):
        RewardTrainer(str(model_folder), args, train_dataset=rows, processing_class=tokenizer)
