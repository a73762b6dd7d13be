"""What the recipes make of a command line and of a YAML file: the same, help and precision included."""

import sys

import pytest
import yaml

from hf_rewardplug import RewardConfig
from hf_rewardplug.demo import DEMO_ARGUMENTS
from hf_rewardplug.train import script
from hf_rewardplug.train.script import parse_recipe

DEFAULTS = {"learning_rate": 1e-5, "dataset_name": "nobody/nothing"}


@pytest.fixture(params=["command line", "YAML"])
def parsed(request, tmp_path, monkeypatch):
    """What `parse_recipe` says of options, given in one of the two ways."""

    def parse(*words: str, **options):
        if request.param == "YAML":
            (tmp_path / "config.yaml").write_text(yaml.safe_dump(options))
            words = ("--config", str(tmp_path / "config.yaml"), *words)
        else:
            words = (*(word for key, value in options.items() for word in (f"--{key}", str(value))), *words)
        monkeypatch.setattr(sys, "argv", ["recipe", "--output_dir", str(tmp_path), "--use_cpu", "true", *words])
        return parse_recipe(RewardConfig, DEFAULTS, demo="gemma", deepspeed=tmp_path / "zero2.json")

    return parse


def test_adapters_have_their_learning_rate(parsed):
    _, args, model_args = parsed(use_peft=True)
    assert model_args.use_peft and args.learning_rate == 1e-4
    assert parsed(use_peft=True, learning_rate=3e-4)[1].learning_rate == 3e-4
    assert parsed(use_peft=False)[1].learning_rate == 1e-5
    assert parsed("--use_peft", "false", use_peft=True)[1].learning_rate == 1e-5, "the last word is the command line's"


def test_the_demo_has_its_arguments(parsed):
    arguments, args, _ = parsed(demo=True, max_steps=7)
    assert arguments.demo and args.max_steps == 7, "what is given goes before the demo's"
    assert args.per_device_train_batch_size == DEMO_ARGUMENTS["gemma"]["per_device_train_batch_size"] == 32
    assert args.learning_rate == DEMO_ARGUMENTS["gemma"]["learning_rate"] != DEFAULTS["learning_rate"]


def test_fp16_alone_turns_the_default_bf16_off(parsed, monkeypatch):
    monkeypatch.setattr(script, "is_torch_bf16_gpu_available", lambda: True)
    args = parsed(fp16=True)[1]
    assert args.fp16 and not args.bf16
    args = parsed(fp16=False)[1]
    assert args.bf16 and not args.fp16
    with pytest.raises(ValueError, match="At most one of fp16 and bf16"):
        parsed(fp16=True, bf16=True)


def test_help_names_every_option(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["recipe", "--help"])
    with pytest.raises(SystemExit) as done:
        parse_recipe(RewardConfig, DEFAULTS, demo="gemma", deepspeed=tmp_path / "zero2.json")
    assert done.value.code == 0
    told = capsys.readouterr().out
    for option in ("learning_rate", "loss_type", "max_length", "output_dir", "overlong", "use_peft", "datasets"):
        assert f"--{option} " in told, option
