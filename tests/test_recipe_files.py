"""Each YAML recipe by its own command, on rows of its data set's format and tiny models: it trains, and says so."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from hf_rewardplug import RewardScorer
from hf_rewardplug.demo import save_demo_model

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
FILES = sorted(path.name for path in RECIPES.glob("*.yaml"))
RATINGS = {"helpfulness": 4, "correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 0}


def feedback(number: int) -> dict:
    answers = [{"response": f"{number + step}", "fine-grained_score": float(step)} for step in range(4)]
    return {"instruction": f"Which is larger, {number} or {number + 3}?", "completions": answers}


def ratings(number: int) -> dict:
    return {
        "prompt": f"Is {number} odd?",
        "response": "yes" if number % 2 else "no",
        **RATINGS,
        "verbosity": number % 5,
    }


def tree(number: int) -> dict:
    steps = [
        {
            "completions": [{"text": f"{number}", "rating": 1}, {"text": "0", "rating": -1}],
            "human_completion": None,
            "chosen_completion": 0,
        },
        {"completions": [{"text": "So.", "rating": 0}], "human_completion": None, "chosen_completion": None},
    ]
    return {"question": {"problem": f"{number} + 0?"}, "label": {"steps": steps}}


def soft(number: int) -> dict:
    return {"prompt": f"{number} + 0?", "completions": [f"{number}", "So."], "labels": [0.875, number % 8 / 8]}


def marked(number: int) -> dict:
    text = f"{number} + 0? Step 1: {number} ки\nStep 2: So. ки"
    return {"input": text, "label": text.replace("ки", "+", 1).replace("ки", "-")}


def vote(number: int) -> dict:
    return {"question": f"{number}?", "good": "yes", "bad": f"no {number}"}


def talk(number: int) -> dict:
    turns = [{"role": "user", "content": f"{number}?"}]
    return {key: [*turns, {"role": "assistant", "content": key}] for key in ("chosen", "rejected")}


def processbench(number: int) -> dict:
    return {"problem": f"{number} + 0?", "steps": [f"{number}", "So."], "label": number % 2 - 1}


ROWS = {
    "ultrafeedback_lists.yaml": feedback,
    "helpsteer_regression.yaml": ratings,
    "prm800k_trees.yaml": tree,
    "math_shepherd_soft.yaml": soft,
    "math_shepherd_lm_head.yaml": marked,
}
QUICK = {
    "max_steps": 2,
    "eval_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "test_size": 0.25,
    "disable_tqdm": True,
}


def write(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def models(assets, tmp_path_factory) -> dict[str, Path]:
    """A tiny model for each of the two scripts, the second with Qwen2.5's own tokenizer."""
    gemma, qwen = (tmp_path_factory.mktemp(name) for name in ("gemma", "qwen"))
    save_demo_model(gemma, style="gemma")
    tokenizer = AutoTokenizer.from_pretrained(assets / "tokenizers" / "qwen2_5")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=1, **sizes, **ids)).save_pretrained(
        qwen
    )
    tokenizer.save_pretrained(qwen)
    return {"orm_gemma": gemma, "prm_qwen": qwen}


def command_of(name: str) -> list[str]:
    """The words of the header's command."""
    (line,) = re.findall(r"^# Command +(python recipes/.*)$", (RECIPES / name).read_text(), re.MULTILINE)
    return line.split()[1:]


def test_every_file_is_tested():
    assert FILES == sorted([*ROWS, "mixture.yaml"])


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_recipe_trains(name, models, tmp_path, monkeypatch, capsys):
    script, flag, config = command_of(name)
    assert flag == "--config" and Path(config).name == name
    recipe, given = Path(script).stem, yaml.safe_load((RECIPES / name).read_text())
    out = tmp_path / "out"
    options = {**QUICK, "output_dir": str(out), "model_name_or_path": str(models[recipe])}
    if recipe == "orm_gemma":
        options["chat_template"] = "gemma"
    if name == "mixture.yaml":
        for entry, row in zip(given["datasets"], (talk, feedback, vote), strict=True):
            entry["path"] = write(tmp_path / f"{entry['subset']}.jsonl", map(row, range(10, 34)))
    else:
        options["dataset_name"] = write(tmp_path / "rows.jsonl", map(ROWS[name], range(10, 34)))
    if "eval_dataset_name" in given:
        options["eval_dataset_name"] = write(tmp_path / "held_out.jsonl", map(processbench, range(40, 48)))
    own = tmp_path / name
    own.write_text(yaml.safe_dump({**given, **options}))
    monkeypatch.setattr(sys, "argv", [script, "--config", str(own)])
    runpy.run_path(str(RECIPES / f"{recipe}.py"), run_name="__main__")

    assert "Held-out figures" in capsys.readouterr().out
    results = json.loads((out / "eval_results.json").read_text())
    assert results["eval_loss"] > 0
    described = json.loads((out / "config.json").read_text())
    scorer = RewardScorer.from_pretrained(str(out))
    if recipe == "orm_gemma":
        assert len(scorer.score(["12?"], [["yes", "no"]])[0]) == 2
    else:
        assert all(0 < p < 1 for p in scorer.score_steps(["12 + 0?"], [["12", "So."]])[0])
    if name == "helpsteer_regression.yaml":
        assert described["id2label"] == {str(index): attribute for index, attribute in enumerate(RATINGS)}
    if name == "mixture.yaml":
        assert {f"eval_subset_{subset}_accuracy" for subset in ("chat", "feedback", "votes")} <= results.keys()
    assert described["architectures"][0].endswith("CausalLM") == ("lm_head" in name)
