"""The two configs of axolotl's guide trained without axolotl, compared with trainers that are called by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from ranks import run_forked
from transformers import AutoTokenizer
from typer.testing import CliRunner

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardScorer, RewardTrainer
from hf_rewardplug.cli import app
from hf_rewardplug.demo import demo_rows, save_demo_model
from hf_rewardplug.integrations.axolotl import training
from hf_rewardplug.integrations.axolotl.config import translate
from hf_rewardplug.integrations.axolotl.training import make_trainer, read_yaml, train_file
from hf_rewardplug.train.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
STYLES = {"orm": "gemma", "prm": "qwen"}
TYPES = {"orm": "bradley_terry.chat_template", "prm": "stepwise_supervised"}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, dict[str, str]]:
    """A tiny model and a file of rows of each kind; Orca's pairs without `system`."""
    found = {}
    for kind, style in STYLES.items():
        folder = tmp_path_factory.mktemp(kind)
        rows, _ = demo_rows(style, train=60, test=1)
        if kind == "orm":
            rows = [
                {
                    key: row[name][0]["content"]
                    for key, name in (("input", "prompt"), ("chosen",) * 2, ("rejected",) * 2)
                }
                for row in rows
            ]
        file = folder / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found[kind] = {"base_model": str(save_demo_model(folder / "model", style=style)), "path": str(file)}
    return found


def config(files, kind: str, folder, **more) -> dict:
    of_kind = {
        "orm": {
            "model_type": "AutoModelForSequenceClassification",
            "num_labels": 1,
            "reward_model": True,
            "chat_template": "gemma",
        },
        "prm": {"model_type": "AutoModelForTokenClassification", "num_labels": 2, "process_reward_model": True},
    }
    short = {"max_steps": 4, "micro_batch_size": 2, "learning_rate": "1e-3", "lr_scheduler": "linear", "bf16": False}
    return {
        "base_model": files[kind]["base_model"],
        **of_kind[kind],
        "datasets": [{"path": files[kind]["path"], "type": TYPES[kind]}],
        **short,
        **{"optimizer": "adamw_torch", "warmup_steps": 0, "sequence_len": 128, "logging_steps": 1, "seed": 3},
        **{"save_strategy": "no", "output_dir": str(folder), **more},
    }


def losses(trainer) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def by_hand(files, kind: str, folder, **more):
    trainer_class, config_class = {"orm": (RewardTrainer, RewardConfig), "prm": (PRMTrainer, PRMConfig)}[kind]
    rows = [json.loads(line) for line in open(files[kind]["path"])]
    options = {"chat_template": "gemma"} if kind == "orm" else {}
    args = config_class(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        lr_scheduler_type="linear",
        optim="adamw_torch",
        weight_decay=0.0,
        max_length=128,
        logging_steps=1,
        seed=3,
        save_strategy="no",
        report_to="none",
        bf16=False,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32"},
        **{**options, **more},
    )
    trainer = trainer_class(files[kind]["base_model"], args, train_dataset=Dataset.from_list(rows))
    trainer.train()
    return trainer


@pytest.mark.parametrize("kind", STYLES)
def test_a_config_trains_as_the_trainer_does(kind, files, tmp_path):
    trainer = make_trainer(translate(config(files, kind, tmp_path / "a")))
    trainer.train()
    assert len(losses(trainer)) == 4 and losses(trainer) == losses(by_hand(files, kind, tmp_path / "b"))


def test_options_of_a_data_set_arrive(files, tmp_path):
    options = {"step_separator": "|", "max_completion_length": 40, "train_on_last_step_only": True}
    raw = config(files, "prm", tmp_path / "a")
    raw["datasets"][0] |= options
    trainer = make_trainer(translate(raw))
    trainer.train()
    assert losses(trainer) == losses(by_hand(files, "prm", tmp_path / "b", **options))
    assert losses(trainer) != losses(by_hand(files, "prm", tmp_path / "c"))
    assert trainer.model.config.rewardplug["step_separator"] == "|"


@pytest.mark.parametrize("kind", STYLES)
def test_the_command(kind, files, tmp_path):
    file = tmp_path / "run.yaml"
    raw = config(files, kind, tmp_path / "out", val_set_size=0.2, sample_packing=True, eval_steps=2)
    file.write_text(yaml.safe_dump(raw))
    result = CliRunner().invoke(app, ["train", str(file)])
    assert result.exit_code == 0, result.output
    assert "Held-out figures" in result.output and "12 " in result.output
    told = [line for line in result.stderr.splitlines() if line.startswith("not taken")]
    assert told == ["not taken  sample_packing: batches are packed trees of prefixes, nothing is padded"]
    scorer = RewardScorer.from_pretrained(tmp_path / "out")
    scores = scorer.score(["1?"], [["2"]]) if kind == "orm" else scorer.score_steps(["1?"], [["2"]])
    assert len(scores[0]) == 1
    assert (tmp_path / "out" / "eval_results.json").is_file()


def test_nothing_is_held_out_and_an_adapter_goes_on(files, tmp_path):
    options = {"adapter": "lora", "lora_r": 2, "lora_target_linear": True, "save_steps": 2, "max_steps": 4}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config(files, "prm", tmp_path / "out", **options)))
    assert train_file(file) == {}
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    state = json.loads((tmp_path / "out" / "checkpoint-4" / "trainer_state.json").read_text())
    options |= {"max_steps": 6, "auto_resume_from_checkpoints": True}
    file.write_text(yaml.safe_dump(config(files, "prm", tmp_path / "out", **options)))
    train_file(file)
    after = json.loads((tmp_path / "out" / "checkpoint-6" / "trainer_state.json").read_text())
    assert after["log_history"][:4] == state["log_history"][:4] and after["global_step"] == 6


def test_tokenizers(files, tmp_path):
    raw = config(
        files,
        "orm",
        tmp_path,
        chat_template="jinja",
        chat_template_jinja="{% for m in messages %}{{ m.content }}{% endfor %}",
    )
    raw |= {"special_tokens": {"pad_token": "<unk>"}, "early_stopping_patience": 3, "val_set_size": 0.2}
    raw |= {"save_steps": 2, "eval_steps": 1}
    trainer = make_trainer(translate(raw))
    assert trainer.processing_class.pad_token == "<unk>"
    assert trainer.processing_class.chat_template == "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert any(type(one).__name__ == "EarlyStoppingCallback" for one in trainer.callback_handler.callbacks)
    raw |= {"chat_template": "tokenizer_default_fallback_gemma", "chat_template_jinja": None}
    assert "<start_of_turn>" in make_trainer(translate(raw)).processing_class.chat_template
    raw |= {"chat_template": "gemma3"}
    with pytest.raises(ValueError, match="has no template of its family, with <start_of_turn>"):
        make_trainer(translate(raw))  # a base model's
    tokenizer = AutoTokenizer.from_pretrained(files["orm"]["base_model"])
    tokenizer.chat_template = "<start_of_turn>{{ messages[1].content }}"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    raw |= {"tokenizer_config": str(tmp_path / "tokenizer")}
    assert make_trainer(translate(raw)).processing_class.chat_template == tokenizer.chat_template
    with pytest.raises(ValueError, match="there is no file"):
        make_trainer(translate({**raw, "chat_template": "jinja", "chat_template_jinja": "no.jinja"}))
    with pytest.raises(ValueError, match="a token of the vocabulary"):
        make_trainer(translate({**raw, "special_tokens": {"pad_token": "<nobody knows>"}}))


def test_fsdp_on_cpus_would_be_ddp(files, tmp_path, monkeypatch):
    for name, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(training, "on_cpu_under_launcher", lambda: True)
    with pytest.raises(ValueError, match="`fsdp_config` shards a model over GPUs"):
        make_trainer(translate(config(files, "orm", tmp_path, fsdp_config={"offload_params": True})))


def test_a_tracker_that_is_not_installed(files, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "get_available_reporting_integrations", list)
    with pytest.raises(ValueError, match="The tracker wandb is not installed"):
        make_trainer(translate(config(files, "orm", tmp_path, wandb_project="p")))


def test_early_stopping_keeps_the_best(files, tmp_path):
    """As axolotl: the first that is worse ends the run, the best is what is saved."""
    more = {"early_stopping_patience": 1, "val_set_size": 0.2, "eval_steps": 1, "save_steps": 1, "max_steps": 6}
    trainer = make_trainer(translate(config(files, "orm", tmp_path, **more, learning_rate=10)))
    trainer.train()
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert trainer.state.global_step < 6
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses[1:]), rel=1e-6)


def test_deepspeed_without_a_launcher(files, tmp_path, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match=r"`deepspeed` needs a launcher: accelerate launch -m hf_rewardplug\.train"):
        make_trainer(translate(config(files, "orm", tmp_path, deepspeed="zero2.json")))


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is no YAML"), ("- a", "holds list"), ("x: !!python/name:os", "no YAML")]
)
def test_files_that_are_no_config(text, message, tmp_path):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_yaml(tmp_path / "run.yaml")


def test_the_module_says_what_is_wrong(tmp_path):
    (tmp_path / "run.yaml").write_text("base_model: m\nreward_model: true\nsequnce_len: 3\n")
    assert "Did you mean `sequence_len`?" in main([str(tmp_path / "run.yaml")])
    assert main([str(tmp_path / "nowhere.yaml")]).startswith("error: ")
    assert main([]).startswith("usage: ") and main(["--help"]).startswith("usage: ")


ACCELERATE = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
]


@pytest.mark.slow
@pytest.mark.parametrize("launched", [False, pytest.param(True, marks=pytest.mark.matrix)])
@pytest.mark.parametrize("zero", [None, "zero2.json"])
def test_two_ranks_train_what_one_does(zero, launched, files, tmp_path):
    if zero:
        pytest.importorskip("deepspeed")
    zero = {"deepspeed": str(ROOT / "recipes" / "deepspeed" / zero)} if zero else {}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config(files, "orm", tmp_path / "two", save_steps=4, micro_batch_size=1, **zero)))
    if launched:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        command = [*ACCELERATE, "-m", "hf_rewardplug.train", str(file)]
        subprocess.run(command, check=True, env=env, cwd=tmp_path, capture_output=True)
    else:
        run_forked(main, [str(file)], ranks=2, log=tmp_path / "printed.log", cwd=tmp_path)
    state = json.loads((tmp_path / "two" / "checkpoint-4" / "trainer_state.json").read_text())
    two = [log["loss"] for log in state["log_history"] if "loss" in log]
    assert two == pytest.approx(losses(by_hand(files, "orm", tmp_path / "one")), rel=1e-4)
    assert bool(list((tmp_path / "two" / "checkpoint-4").glob("global_step*"))) is bool(zero)  # DeepSpeed's own
