"""Recipes on files of every kind, formats of Python files and refused rows, from the command line to the model card."""

import csv
import gzip
import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from rows import text_pairs

from hf_rewardplug import RewardConfig
from hf_rewardplug.data.adapters import registry
from hf_rewardplug.data.origin import Origin
from hf_rewardplug.runs.arguments import parse_recipe
from hf_rewardplug.runs.splits import load_splits

ROOT = Path(__file__).resolve().parents[2]
NEVER = {"eval_strategy": "no", "eval_on_start": False, "bf16": False, "use_cpu": True, "disable_tqdm": True}
ROWS = text_pairs(30)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry.ADAPTERS, "things", dict(registry.ADAPTERS.things))
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with open("rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    Dataset.from_list(ROWS).to_parquet("rows.parquet")
    Dataset.from_list(ROWS).save_to_disk("saved")
    Path("rows.arrow").write_bytes(next(Path("saved").glob("*.arrow")).read_bytes())
    for kind in ("jsonl", "csv", "parquet", "arrow"):
        Path(f"packed_{kind}").mkdir()
        Path(f"packed_{kind}/rows.{kind}.gz").write_bytes(gzip.compress(Path(f"rows.{kind}").read_bytes()))
    return tmp_path


def given(monkeypatch, config, *words):
    Path("config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(sys, "argv", ["recipe", "--config", "config.yaml", "--output_dir", "out", *words])


def splits(monkeypatch, config, *words):
    given(monkeypatch, {**NEVER, **config}, *words)
    arguments, args, model_args = parse_recipe(RewardConfig, {}, demo="gemma", deepspeed=Path("none"))
    return load_splits(arguments, args, model_args, demo="gemma")


KINDS = [f"rows.{kind}" for kind in ("jsonl", "csv", "parquet", "arrow")]
KINDS += [f"packed_{kind}" for kind in ("jsonl", "csv", "parquet", "arrow")] + ["saved"]


@pytest.mark.parametrize("name", KINDS)
def test_one_data_set_and_several_of_every_kind(name, monkeypatch):
    train, held_out = splits(monkeypatch, {"dataset_name": name, "test_size": 0.2})
    assert sorted([*train, *held_out], key=str) == sorted(ROWS, key=str)
    for side in (train, held_out):
        assert [ROWS[Origin.of(side).number(place)] for place in range(len(side))] == side.to_list()
    config = {"datasets": [{"path": name, "split": "train[10:]"}, "rows.jsonl"], "eval_datasets": [name]}
    config["datasets"][0]["subset"], config["datasets"][1] = "part", {"path": "rows.jsonl", "subset": "all"}
    train, held_out = splits(monkeypatch, config)
    for row in [*train, *held_out]:
        assert json.loads(row["canonical"]) == [ROWS[row["source_row"]]]
    assert min(row["source_row"] for row in train if row["subset"] == "part") == 10


@pytest.mark.parametrize("name", KINDS[:-1])
def test_streams_number_their_rows(name, monkeypatch):
    config = {"dataset_name": name, "dataset_streaming": True, "max_eval_rows": 4}
    train, held_out = splits(monkeypatch, config)
    assert [row["rewardplug_row"] for row in held_out] == [0, 1, 2, 3]
    for row in [*train, *held_out]:
        number, _ = row.pop("rewardplug_row"), row.pop("rewardplug_file")
        assert row == ROWS[number]
    config = {"datasets": [{"path": name, "columns": ["chosen", "rejected"], "max_rows": 9}], "max_eval_rows": 2}
    train, held_out = splits(monkeypatch, {**config, "dataset_streaming": True})
    assert [row["source_row"] for row in (*held_out, *train)] == [*range(9)]


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_a_recipe_leaves_out_what_a_format_of_ones_own_refuses(stream, assets, monkeypatch):
    Path("mine.py").write_text(
        "def votes(row):\n    if row['up'] == 'bad':\n        raise ValueError('nobody voted')\n"
        "    return {'prompt': row['q'], 'chosen': row['up'], 'rejected': row['down']}\n"
    )
    votes = [{"q": row["prompt"], "up": row["chosen"], "down": row["rejected"]} for row in ROWS]
    votes[11]["up"] = votes[26]["up"] = "bad"
    Path("votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in votes))
    config = {"model_name_or_path": str(assets / "stories260K"), "dataset_name": "votes.jsonl", "max_length": 256}
    config |= {"max_steps": 2, "per_device_train_batch_size": 13, "gradient_accumulation_steps": 1, "max_eval_rows": 4}
    config |= {"on_bad_row": "drop", "test_size": 0.1, "dataset_streaming": stream, **NEVER}
    given(monkeypatch, config, "--adapter", "mine.py:votes")
    runpy.run_path(str(ROOT / "recipes" / "orm_gemma.py"), run_name="__main__")
    card = Path("out/README.md").read_text()
    data = card[card.index("## Data") :]
    assert data.count("refused, ValueError: nobody voted: ") in (1, 2)
    assert "11" in data and "26" in data
    assert json.loads(Path("out/eval_results.json").read_text())["eval_accuracy"] >= 0
