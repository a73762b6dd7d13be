"""Folders that somebody else made: no code is offered, no pickle read, no network asked, errors are lines."""

import builtins
import json
import pickle
import shutil
import socket

import pytest
from tiny_checkpoints import checkpoint
from typer.testing import CliRunner

from hf_rewardplug import RewardScorer
from hf_rewardplug.cli import app
from hf_rewardplug.inspection import load_tokenizer
from hf_rewardplug.model.checkpoint import load_checkpoint, merge_adapter
from hf_rewardplug.model.loading import vocabulary_size
from hf_rewardplug.model.positions import learned_positions


@pytest.fixture(scope="module")
def base(assets) -> str:
    return str(assets / "stories260K")


@pytest.fixture
def folder(base, tmp_path):
    def copied(kind):
        shutil.copytree(checkpoint(kind, base), tmp_path / kind)
        return tmp_path / kind

    return copied


class Trap:
    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return open, (self.trace, "w")


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("load", [load_checkpoint, vocabulary_size, learned_positions, load_tokenizer])
def test_nobody_is_asked_whether_code_may_run(load, folder, tmp_path, monkeypatch):
    orm, trace = folder("orm"), tmp_path / "trace"
    (orm / "own.py").write_text(f"open({str(trace)!r}, 'w')\nclass Own: pass\n")
    names = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification")
    edit(orm / "config.json", model_type="foreign", auto_map=dict.fromkeys(names, "own.Own"))
    edit(orm / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]})
    asked = []
    monkeypatch.setattr(builtins, "input", lambda *_: asked.append(1) or "y")
    with pytest.raises(ValueError, match="contains custom code"):
        load(str(orm))
    assert not asked and not trace.exists()


def test_a_pickled_adapter_and_the_pickled_base_of_one_are_refused_unread(base, folder, tmp_path):
    lora, trap = folder("lora"), pickle.dumps(Trap(tmp_path / "trace"))
    shutil.copytree(base, tmp_path / "base")
    weights = next((tmp_path / "base").glob("*.safetensors"))
    weights.unlink()
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(trap)
    edit(lora / "adapter_config.json", base_model_name_or_path=str(tmp_path / "base"))
    for load in (load_checkpoint, lambda name: merge_adapter(name, str(tmp_path / "merged"))):
        with pytest.raises(ValueError, match=r"pickle \(pytorch_model.bin\).*Convert it to safetensors"):
            load(str(lora))
    assert CliRunner().invoke(app, ["check", str(lora)]).exit_code == 1
    edit(lora / "adapter_config.json", base_model_name_or_path=base)
    (lora / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no adapter_model.safetensors"):  # and PEFT does not look on the hub
        load_checkpoint(str(lora))
    (lora / "adapter_model.bin").write_bytes(trap)
    for load in (load_checkpoint, lambda name: merge_adapter(name, str(tmp_path / "merged"))):
        with pytest.raises(ValueError, match=r"pickle \(adapter_model.bin\).*Convert it to safetensors"):
            load(str(lora))
    assert CliRunner().invoke(app, ["check", str(lora)]).exit_code == 1
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("kind", ["orm", "prm", "lora"])
def test_a_local_path_asks_nothing_of_the_network(kind, folder, monkeypatch):
    import huggingface_hub.constants

    path = folder(kind)

    def connect(*arguments, **options):
        raise AssertionError(f"the network was asked: {arguments}")

    for place in ("HF_HUB_OFFLINE",):
        monkeypatch.setattr(huggingface_hub.constants, place, False)
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    RewardScorer.from_pretrained(str(path), device="cpu")
    load_tokenizer(str(path))
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 0, result.output


MALFORMED = {
    "config.json": [
        *("", "{", "[]", "null", "3", "{}", {"rewardplug": "x"}, {"rewardplug": [1]}, {"rewardplug": {"rows": 3}}),
        *({"rewardplug": {"attribute_weights": [1, 2]}}, {"rewardplug": {"calibration": {"std": 1}}}),
        *({"hidden_size": "x"}, {"architectures": []}, {"architectures": "LlamaForSequenceClassification"}),
        *({"model_type": "nope"}, {"pad_token_id": 10**6}, {"vocab_size": 10}, {"id2label": {"0": "a", "1": "b"}}),
        *({"num_attention_heads": 0}, {"num_hidden_layers": None}, {"id2label": 3}, {"dtype": "x"}),
    ],
    "tokenizer.json": ["", "x", "[]", "{}"],
    "tokenizer_config.json": ["x", "[]", "3", {"tokenizer_class": 3}],
    "adapter_config.json": ["", "x", "[]", "{}", {"peft_type": "NOPE"}, {"task_type": 3}, {"r": "x"}],
    "reward_config.json": ["x", {"rewardplug": "x"}],
    "model.safetensors.index.json": ["", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "b"}}'],
}


@pytest.mark.parametrize(("name", "change"), [(name, change) for name, some in MALFORMED.items() for change in some])
def test_check_and_the_scorer_end_a_malformed_folder_in_one_line(name, change, folder):
    path = folder("lora" if name in ("adapter_config.json", "reward_config.json") else "orm")
    if isinstance(change, str):
        (path / name).write_text(change)
    else:
        edit(path / name, **change)
    if name == "model.safetensors.index.json":
        (path / "model.safetensors").unlink()
    result = CliRunner().invoke(app, ["check", str(path)])
    assert isinstance(result.exception, SystemExit) and result.exit_code == 1, repr(result.exception)
    try:
        RewardScorer.from_pretrained(str(path), device="cpu").score(["a "], ["b"])
    except (ValueError, TypeError, OSError) as error:
        assert str(error)
