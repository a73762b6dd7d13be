"""What the recipes make of a command line and of a YAML file: the same, help and precision included."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from datasets import Dataset
from rows import text_pairs

from hf_rewardplug import RewardConfig, RewardTrainer
from hf_rewardplug.demo import DEMO_ARGUMENTS
from hf_rewardplug.runs import arguments as recipe_arguments
from hf_rewardplug.runs.arguments import parse_recipe
from hf_rewardplug.runs.recipe import model_settings
from hf_rewardplug.runs.training import fill_batches, run

DEFAULTS = {
    "learning_rate": 1e-5,
    "dataset_name": "nobody/nothing",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4,
}


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
    monkeypatch.setattr(recipe_arguments, "is_torch_bf16_gpu_available", lambda: True)
    args = parsed(fp16=True)[1]
    assert args.fp16 and not args.bf16
    args = parsed(fp16=False)[1]
    assert args.bf16 and not args.fp16
    with pytest.raises(ValueError, match="At most one of fp16 and bf16"):
        parsed(fp16=True, bf16=True)


@pytest.fixture
def on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(recipe_arguments, "is_torch_bf16_gpu_available", lambda: False)
    monkeypatch.setattr(recipe_arguments, "is_liger_kernel_available", lambda: False)


FULL = {"max_tokens_per_batch": 16384, "gradient_accumulation_steps": 1}


@pytest.mark.parametrize(
    ("options", "if_packed"),
    [
        ({}, FULL),
        ({"gradient_accumulation_steps": 2}, {**FULL, "gradient_accumulation_steps": 2}),
        ({"gradient_accumulation_steps": 1}, FULL),
        ({"per_device_train_batch_size": 8}, {}),  # transformers' own default, but asked for
        ({"max_tokens_per_batch": 4096}, {}),
        ({"demo": True}, {}),
    ],
)
def test_batches_on_a_gpu_are_filled_with_tokens_unless_rows_are_asked_for(parsed, on_a_gpu, options, if_packed):
    arguments, args, _ = parsed(**options)
    assert arguments.if_packed == if_packed
    for name, value in options.items():
        assert getattr(arguments if name == "demo" else args, name) == value
    if "demo" not in options:  # until it is known whether batches are packed
        assert args.max_tokens_per_batch == options.get("max_tokens_per_batch")
        assert args.per_device_train_batch_size == options.get("per_device_train_batch_size", 4)
        assert args.gradient_accumulation_steps == options.get("gradient_accumulation_steps", 4)


def test_batches_on_a_cpu_are_rows(parsed):
    arguments, args, _ = parsed()
    assert arguments.if_packed == {} and args.max_tokens_per_batch is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("why", "options", "steps"),
    [
        ("packed", {}, 1),  # 40 pairs of some 30 tokens are less than 16,384 tokens
        ("padded", {"prefix_sharing": False}, 3),  # 40 / (4 * 4)
        ("attention", {"attn_implementation": "eager"}, 3),
        ("stream", {"max_steps": 2}, 2),
        ("split", {"accelerator_config": '{"split_batches": true}'}, 3),
    ],
)
def test_a_default_that_cannot_hold_crashes_no_recipe(why, options, steps, assets, on_a_gpu, tmp_path, monkeypatch):
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    words += ["--output_dir", str(tmp_path), "--use_cpu", "true", "--num_train_epochs", "1", "--report_to", "none"]
    words += ["--model_name_or_path", str(assets / "stories260K"), "--dataloader_num_workers", "0"]
    monkeypatch.setattr(sys, "argv", ["recipe", "--logging_steps", "1", "--save_strategy", "no", *words])
    arguments, args, model_args = parse_recipe(RewardConfig, DEFAULTS, demo="gemma", deepspeed=tmp_path / "zero2.json")
    rows = Dataset.from_list(text_pairs(40))
    rows = rows.to_iterable_dataset() if why == "stream" else rows
    trainer = RewardTrainer(args=args, train_dataset=rows, **model_settings(model_args, args))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # what was asked of it stands in `arguments`
    run(trainer, arguments.if_packed)
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["global_step"] == steps
    assert trainer.args.max_tokens_per_batch == (16384 if why == "packed" else None)


def run_of(*, packed=True, deepspeed=False, stream=False, sampling="random", split=False) -> SimpleNamespace:
    accelerator_config = SimpleNamespace(split_batches=split)
    rows = Dataset.from_list([{"input_ids": [1]}])
    return SimpleNamespace(
        args=SimpleNamespace(
            **{"max_tokens_per_batch": None, "gradient_accumulation_steps": 4, "process_index": 0},
            **{"train_sampling_strategy": sampling, "accelerator_config": accelerator_config},
        ),
        data_collator=SimpleNamespace(prefix_sharing=packed),
        train_dataset=rows.to_iterable_dataset() if stream else rows,
        is_deepspeed_enabled=deepspeed,
    )


@pytest.mark.parametrize(
    ("trainer", "filled"),
    [
        (run_of(), True),
        (run_of(sampling="sequential"), True),
        (run_of(packed=False), False),
        (run_of(deepspeed=True), False),
        (run_of(stream=True), False),
        (run_of(sampling="group_by_length"), False),
        (run_of(split=True), False),
    ],
)
def test_batches_are_filled_where_they_are_packed_and_planned(trainer, filled, caplog):
    fill_batches(trainer, FULL)
    assert trainer.args.max_tokens_per_batch == (16384 if filled else None)
    assert trainer.args.gradient_accumulation_steps == (1 if filled else 4)
    assert ["up to 16384 unique tokens" in record.getMessage() for record in caplog.records] == [True] * filled


def test_help_names_every_option(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["recipe", "--help"])
    with pytest.raises(SystemExit) as done:
        parse_recipe(RewardConfig, DEFAULTS, demo="gemma", deepspeed=tmp_path / "zero2.json")
    assert done.value.code == 0
    told = capsys.readouterr().out
    for option in ("learning_rate", "loss_type", "max_length", "output_dir", "overlong", "use_peft", "datasets"):
        assert f"--{option} " in told, option
    assert "if_packed" not in told
