"""What data say reaches a terminal without control characters, and a model card without markup."""

import json
import re

import pytest
from datasets import Dataset
from rows import quick, text_pairs
from tiny_checkpoints import checkpoint
from typer.testing import CliRunner

from hf_rewardplug import RewardConfig, RewardTrainer
from hf_rewardplug.cli import app
from hf_rewardplug.train import model_card

TITLE, CLEAR = "\x1b]0;PWNED\x07", "\x1b[2J\x9b2J\x08\u202e"
MARKUP = "x`|\n# Heading\n```\n<img src=x onerror=alert(1)>[link](https://evil.example) www.evil.example " + CLEAR
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def printed(*arguments) -> str:
    return CliRunner().invoke(app, [str(argument) for argument in arguments]).output


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


HOSTILE = {"prompt": f"Hi {TITLE}", "chosen": f"a{CLEAR}", "rejected": "b", "subset": f"x{CLEAR}\nforged line"}
STEPS = {"prompt": f"Hi {TITLE}", "completions": [f"a{CLEAR}", "b\r\n"], "labels": [True, False]}


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("rows", [[HOSTILE] * 3, [STEPS] * 3, [{**HOSTILE, f"col{TITLE}": 1}], [{f"a{TITLE}": "b"}]])
def test_inspect_prints_no_control_character_of_the_data(rows, tokens, tmp_path, assets):
    model = ["--model", assets / "stories260K"] if tokens else []
    text = printed("inspect", written(tmp_path / "rows.jsonl", rows), *model)
    assert ("PWNED" in text or tokens) and not CONTROLS.search(text) and "\nforged" not in text


def test_evaluate_score_and_check_print_none_either(tmp_path, assets):
    orm = checkpoint("orm", str(assets / "stories260K"))
    rows = written(tmp_path / "rows.jsonl", [{**HOSTILE, "subset": f"x{TITLE}\nforged line"}] * 3)
    text = printed("evaluate", orm, rows, "--device", "cpu")
    assert "PWNED" in text and not CONTROLS.search(text) and "\nforged" not in text
    bad = written(tmp_path / "bad.jsonl", [{"prompt": 3, f"b{TITLE}": None}])
    for command in (
        ["score", orm, bad, "-o", tmp_path / "out.jsonl"],
        ["check", orm, "--data", bad],
        ["check", f"a{TITLE}"],
    ):
        text = printed(*command)
        assert "error" in text and not CONTROLS.search(text)


def test_the_card_takes_no_markup_of_the_data_and_no_absolute_path(assets, tmp_path):
    rows = [{**row, "subset": MARKUP} for row in text_pairs(4, 1)]
    out = tmp_path / "home" / "out"
    trainer = RewardTrainer(
        str(assets / "stories260K"),
        RewardConfig(**quick(out)),
        train_dataset=Dataset.from_list(text_pairs(6)),
        eval_dataset={MARKUP: Dataset.from_list(rows)},
    )
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    trainer.create_model_card(model_name=f"out\n# Heading <img src=x>{CLEAR}", dataset_name=str(tmp_path / "rows"))
    card = (out / "README.md").read_text()
    assert str(tmp_path) not in card and str(assets) not in card
    assert not CONTROLS.search(card) and not re.search(r"^\s*# Heading", card, re.MULTILINE)
    prose, _, fenced = card.partition("## Data")
    names = re.findall(r"`([^`\n]*)`", prose)  # code spans, in which nothing is markup
    assert any("evil.example" in name for name in names)
    for name in names:
        prose = prose.replace(f"`{name}`", "")
    assert "<img" not in prose and "evil.example" not in prose
    fence = re.search(r"^`{3,}", fenced, re.MULTILINE)[0]
    inside, after = fenced.split(f"\n{fence}\n", 2)[1:]
    assert "evil.example" in inside and fence not in inside and "evil.example" not in after


@pytest.mark.parametrize("name", ["/home/me/base", "../base", "x](https://evil.example) <b>", "None"])
def test_a_base_model_that_is_none_of_the_hub_is_a_local_one(name):
    card = f"---\nbase_model: {name}\ntags: x\n---\nThis model is a fine-tuned version of [{name}](https://huggingface.co/{name}).\n"
    card = model_card._LOCAL_MODEL.sub("a local model", model_card._LOCAL_BASE.sub("", card))
    if name == "None":
        card = card.replace("base_model: None\n", "")
    assert card == "---\ntags: x\n---\nThis model is a fine-tuned version of a local model.\n"
