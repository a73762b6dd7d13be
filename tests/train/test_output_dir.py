"""A folder of an earlier run: what it held of another kind goes, its figures go, and two runs at a time cannot be."""

import json
import shutil
import subprocess
import sys

import pytest
from datasets import Dataset
from peft import LoraConfig
from rows import quick, text_pairs
from transformers import AutoTokenizer, set_seed

from hf_rewardplug import RewardConfig, RewardScorer, RewardTrainer
from hf_rewardplug.runs.training import run
from hf_rewardplug.score.report import write_report

ROWS = [("Is it so?", ["Yes.", "No."])]
LORA = LoraConfig(task_type="SEQ_CLS", r=4, init_lora_weights="gaussian")


def trainer_of(model, folder, *, lora=False, held_out=False, rows=None, **options):
    set_seed(0)
    return RewardTrainer(
        str(model),
        RewardConfig(**quick(folder, **{"max_steps": 2, **options})),
        train_dataset=Dataset.from_list(rows or text_pairs(8)),
        eval_dataset=Dataset.from_list(text_pairs(4, 1)) if held_out else None,
        peft_config=LORA if lora else None,
    )


def finished(*arguments, **options):
    trainer = trainer_of(*arguments, **options)
    run(trainer)
    return trainer


@pytest.fixture
def model(assets):
    return assets / "stories260K"


def names(folder):
    return {path.name for path in folder.iterdir() if path.is_file() and path.name != "README.md"}


def score(folder):
    scorer = RewardScorer.from_pretrained(str(folder))
    return [scorer.score([prompt], [completions])[0] for prompt, completions in ROWS]


@pytest.mark.parametrize("second", ["adapter", "full model"])
def test_the_other_kind_of_model_goes(second, model, tmp_path, caplog):
    """As in a folder of its own, of the checkpoints with the same number too."""
    lora, saves = second == "adapter", {"save_strategy": "steps", "save_steps": 2}
    finished(model, tmp_path / "used", lora=not lora, learning_rate=1e-3, **saves)
    other = names(tmp_path / "used")
    for folder in ("used", "fresh"):
        finished(model, tmp_path / folder, lora=lora, learning_rate=1e-3, **saves)
    for part in (".", "checkpoint-2"):
        assert names(tmp_path / "used" / part) == names(tmp_path / "fresh" / part)
        assert score(tmp_path / "used" / part) == score(tmp_path / "fresh" / part)
    gone = other - names(tmp_path / "fresh")
    assert gone >= ({"model.safetensors", "config.json"} if lora else {"adapter_model.safetensors"})
    assert all(name in caplog.text for name in gone)


def test_a_chat_template_of_another_tokenizer_goes(model, tmp_path):
    trainer = trainer_of(model, tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "notes.json").write_text("{}")
    run(trainer)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template is None
    assert (tmp_path / "notes.json").exists()


def test_an_adapter_never_lies_beside_its_base_model(model, tmp_path):
    shutil.copytree(model, tmp_path / "base")
    before = names(tmp_path / "base")
    with pytest.raises(ValueError, match="is the folder of the base model"):
        trainer_of(tmp_path / "base", tmp_path / "base", lora=True).train()
    assert names(tmp_path / "base") == before


def test_saving_elsewhere_takes_nothing_away(model, tmp_path):
    shutil.copytree(model, tmp_path / "other")
    (tmp_path / "other" / "adapter_config.json").write_text("{}")
    trainer_of(model, tmp_path / "own").save_model(str(tmp_path / "other"))
    assert (tmp_path / "other" / "adapter_config.json").exists()


# ---- figures -------------------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_last_run(model, tmp_path):
    finished(model, tmp_path, held_out=True)
    (tmp_path / "benchmark_old.json").write_text(json.dumps({"name": "old", "figures": {"accuracy": 0.987}}))
    assert {"eval_results.json", "eval_items.jsonl"} <= names(tmp_path)
    finished(model, tmp_path, max_steps=1, rows=text_pairs(8, 3))
    left = {"eval_results.json", "eval_items.jsonl", "training.png", "benchmark_old.json", "all_results.json"}
    assert names(tmp_path).isdisjoint(left)
    page, card = write_report(tmp_path).read_text(), (tmp_path / "README.md").read_text()
    assert '<section id="benchmarks"' not in page and "Held-out figures" not in card
    assert "1 optimizer steps" in page


def test_a_model_without_the_logs_of_its_run_has_none(model, tmp_path):
    finished(model, tmp_path)
    trainer = trainer_of(model, tmp_path)
    trainer.train()
    trainer.save_model()
    assert "trainer_state.json" not in names(tmp_path)


def test_figures_of_this_run_stay(model, tmp_path):
    """Whether they are written before the model is saved or behind."""
    trainer = trainer_of(model, tmp_path, held_out=True)
    (tmp_path / "eval_results.json").write_text('{"eval_accuracy": 5.0}')
    trainer.train()
    trainer.save_metrics("eval", figures := trainer.evaluate())
    trainer.save_state()
    trainer.save_model()
    assert json.loads((tmp_path / "eval_results.json").read_text())["eval_accuracy"] == figures["eval_accuracy"]
    assert "trainer_state.json" in names(tmp_path)


def test_the_card_has_no_figures_of_the_model_before_training(model, tmp_path):
    trainer = trainer_of(model, tmp_path, held_out=True)
    trainer.evaluate()
    trainer.train()
    assert trainer.evaluated == {}


# ---- two runs ------------------------------------------------------------------------------------------------------

HOLDER = """import sys, time
from pathlib import Path
from hf_rewardplug.train.output_dir import _take
_take(Path(sys.argv[1]).resolve())
print("held", flush=True)
sys.stdin.read()
"""


def test_the_second_run_in_a_folder_is_refused_until_the_first_is_dead(model, tmp_path):
    trainer = trainer_of(model, tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"is in use: process {holder.pid} on .* is training there"):
            trainer.train()
        with pytest.raises(ValueError, match="is in use"):
            run(trainer)
        holder.kill()
        holder.wait()
    run(trainer)
    assert ".rewardplug.lock" not in names(tmp_path)


def test_a_run_that_fails_lets_go(model, tmp_path):
    trainer = trainer_of(model, tmp_path)
    with pytest.raises(ValueError, match="cannot be resumed from"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "nowhere"))
    assert ".rewardplug.lock" not in names(tmp_path)
    trainer.train()
