"""The command on files of every kind, adapters of Python files, columns of other names, and rows that are refused."""

import csv
import gzip
import json
from pathlib import Path

import datasets
import pytest
import transformers
import yaml
from test_cli import run
from tiny_checkpoints import checkpoint
from transformers import AutoTokenizer
from typer.testing import CliRunner

from hf_rewardplug.cli import app
from hf_rewardplug.data.adapters import registry

PAIRS = [{"prompt": "the cat ", "chosen": f"sat {n}", "rejected": f"ran {n}"} for n in range(6)]
FORMAT = "def votes(row):\n    return {'prompt': row['q'], 'chosen': row['up'], 'rejected': row['down']}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working folder, with the rows in files of every kind and an adapter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry.ADAPTERS, "things", dict(registry.ADAPTERS.things))
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    Path("pairs.json").write_text(json.dumps(PAIRS, indent=2))
    with open("pairs.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(PAIRS[0]))
        writer.writeheader()
        writer.writerows(PAIRS)
    datasets.Dataset.from_list(PAIRS).to_parquet("pairs.parquet")
    datasets.Dataset.from_list(PAIRS).save_to_disk("saved")
    Path("pairs.arrow").write_bytes(next(Path("saved").glob("*.arrow")).read_bytes())
    for kind in ("jsonl", "json", "csv", "parquet", "arrow"):
        Path(f"pairs.{kind}.gz").write_bytes(gzip.compress(Path(f"pairs.{kind}").read_bytes()))
    Path("my_format.py").write_text(FORMAT)
    votes = [{"q": row["prompt"], "up": row["chosen"], "down": row["rejected"]} for row in PAIRS]
    Path("votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in votes))
    yield tmp_path
    transformers.utils.logging.enable_progress_bar()
    datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def orm(assets) -> str:
    return checkpoint("orm", str(assets / "stories260K"))


def read(name):
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


EVERY = [f"pairs.{kind}{gz}" for kind in ("jsonl", "json", "csv", "parquet", "arrow") for gz in ("", ".gz")]


def test_every_kind_of_file_for_inspect_score_and_evaluate(orm):
    for name in [*EVERY, "saved"]:
        assert "kept        6 pairs" in run("inspect", name).output
    scores, figures = [], []
    for name in EVERY:
        run("score", orm, name, "-o", f"out_{name}.jsonl")
        scores.append([row["scores"] for row in read(f"out_{name}.jsonl")])
        run("evaluate", orm, name, "-o", "figures.json")
        figures.append(json.loads(Path("figures.json").read_text())["figures"])
    assert all(one == [pytest.approx(pair) for pair in scores[0]] for one in scores)
    assert all(one == pytest.approx(figures[0]) for one in figures) and figures[0]["n"] == 6


def test_an_adapter_of_a_python_file(orm):
    named = ("--adapter", "my_format.py:votes")
    assert "format      my_format.py:votes (by name)" in run("inspect", "votes.jsonl", *named).output
    run("score", orm, "votes.jsonl", "-o", "out.jsonl", *named)
    run("score", orm, "pairs.jsonl", "-o", "plain.jsonl")
    assert [row["scores"] for row in read("out.jsonl")] == [pytest.approx(row["scores"]) for row in read("plain.jsonl")]
    assert "preference" in run("evaluate", orm, "votes.jsonl", *named).output
    message = run("score", orm, "votes.jsonl", "-o", "new.jsonl", "--adapter", "my_format.py:vote", status=1).stderr
    assert "the file has no function 'vote'. Its functions: votes" in message and not Path("new.jsonl").exists()


def test_columns_of_other_names(orm):
    mapping = ("--column-mapping", '{"prompt": "q", "chosen": "up", "rejected": "down"}')
    run("score", orm, "votes.jsonl", "-o", "out.jsonl", *mapping)
    run("score", orm, "pairs.jsonl", "-o", "plain.jsonl")
    assert [row["scores"] for row in read("out.jsonl")] == [pytest.approx(row["scores"]) for row in read("plain.jsonl")]
    assert "kept        6 pairs" in run("inspect", "votes.jsonl", *mapping).output
    assert "accuracy" in run("evaluate", orm, "votes.jsonl", *mapping).output


def test_columns_to_ignore(orm):
    Path("more.jsonl").write_text("".join(json.dumps({**row, "history": "And the dog?"}) + "\n" for row in PAIRS))
    for command in (
        ["inspect", "more.jsonl"],
        ["score", orm, "more.jsonl", "-o", "o"],
        ["evaluate", orm, "more.jsonl"],
    ):
        assert "--ignore-columns history" in run(*command, status=1).stderr
        run(*command, "--ignore-columns", "history")


def bad_rows(*numbers):
    rows = [{**row, "rejected": None} if number in numbers else row for number, row in enumerate(PAIRS)]
    Path("bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "bad.jsonl"


def test_rows_that_are_refused(orm):
    name, drop = bad_rows(2, 4), ("--on-bad-row", "drop")
    output = run("inspect", name).output
    assert "kept        4 pairs of 6 rows" in output and "REFUSED" in output and "2 rows (2, 4): column 'rej" in output
    output = run("inspect", name, *drop).output
    assert "REFUSED" not in output and "refused, column 'rejected'" in output and "2 (rows 2, 4)" in output
    assert "bad.jsonl', line 3: column 'rejected'" in run("score", orm, name, "-o", "out.jsonl", status=1).stderr
    output = run("score", orm, name, "-o", "out.jsonl", *drop).output
    assert "out.jsonl: 4 rows scored" in output and "2 (rows 2, 4)" in output
    assert [row.get("score", "-") for row in read("out.jsonl")] == ["-", "-", None, "-", None, "-"]
    assert "benchmark 'preference', row 2: column 'rejected'" in run("evaluate", orm, name, status=1).stderr
    output = run("evaluate", orm, name, *drop, "-o", "figures.json").output
    assert "refused, column 'rejected'" in output and "2 (row 2, row 4)" in output
    found = json.loads(Path("figures.json").read_text())
    assert found["figures"]["n"] == 4 and [*found["refused"].values()] == [["row 2", "row 4"]]


@pytest.mark.parametrize("options", [[], ["--on-bad-row", "drop"]])
def test_where_nothing_is_left_the_status_is_1(orm, options):
    name = bad_rows(*range(6))
    result = run("inspect", name, *options, status=1)
    assert "6 rows (0, 1" in result.output or "6 (rows 0, 1" in result.output
    assert "error: no row of 'bad.jsonl' can be kept" in result.stderr
    run("score", orm, name, "-o", "out.jsonl", *options, status=1)
    run("evaluate", orm, name, *options, status=1)
    Path("same.jsonl").write_text(json.dumps({**PAIRS[0], "rejected": PAIRS[0]["chosen"]}) + "\n")
    assert "chosen and rejected are identical" in run("inspect", "same.jsonl", *options, status=1).output


def test_a_broken_file_is_named_with_its_line(orm):
    Path("bad.csv").write_text("prompt,chosen,rejected\na,b,c\na,b\n")
    for command in (["inspect", "bad.csv"], ["score", orm, "bad.csv", "-o", "o"], ["evaluate", orm, "bad.csv"]):
        assert run(*command, status=1).stderr.startswith("error: 'bad.csv', line 3: 2 cells, but the header has 3")


@pytest.mark.slow
def test_train_reads_them_too(assets):
    """An axolotl config with a gzipped csv file, and one of a format of one's own with a row that is refused."""
    model = str(assets / "stories260K")
    AutoTokenizer.from_pretrained(model).save_pretrained("model")
    config = {"base_model": model, "reward_model": True, "max_steps": 1, "bf16": False, "micro_batch_size": 2}
    config |= {"sequence_len": 128, "output_dir": "out", "save_strategy": "no"}
    Path("a.yaml").write_text(yaml.safe_dump({**config, "datasets": [{"path": "pairs.csv.gz"}]}))
    run("train", "a.yaml")
    assert Path("out/model.safetensors").exists()
    rows = read("votes.jsonl")
    rows[3]["down"] = None
    Path("votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = {"path": "votes.jsonl", "type": "my_format.py:votes"}
    Path("b.yaml").write_text(yaml.safe_dump({**config, "datasets": [entry], "on_bad_row": "drop"}))
    run("train", "b.yaml")
    card = Path("out/README.md").read_text()
    assert "refused, column 'rejected'" in card and "1 (row 3)" in card


def test_score_reads_standard_input_and_writes_standard_output(orm):
    run("score", orm, "pairs.jsonl", "-o", "out.jsonl")
    result = CliRunner().invoke(app, ["score", orm, "-", "-o", "-"], input=Path("pairs.jsonl").read_bytes())
    assert result.exit_code == 0, result.output
    found = [json.loads(line)["scores"] for line in result.stdout.splitlines()]
    assert found == [pytest.approx(row["scores"]) for row in read("out.jsonl")]
    assert "6 rows scored" in result.stderr


def test_ctrl_c_says_how_to_go_on(orm, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_rewardplug.score.files.scored_lines", interrupted)
    stderr = run("score", orm, "pairs.jsonl", "-o", "out.jsonl", status=130).stderr
    assert "the same command goes on with what 'out.jsonl' has" in stderr and "Traceback" not in stderr


def test_score_and_evaluate_take_a_longest_sequence(orm):
    rows = [{**row, "prompt": "the cat " * 40} if number == 2 else row for number, row in enumerate(PAIRS)]
    Path("long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    limit = ("--max-length", "40")
    assert "long.jsonl', line 3: completions[0]:" in run("score", orm, "long.jsonl", "-o", "o", *limit, status=1).stderr
    run("score", orm, "long.jsonl", "-o", "out.jsonl", *limit, "--overlong", "drop")
    assert [row.get("error") for row in read("out.jsonl")][2] and len(read("out.jsonl")) == 6
    run("score", orm, "long.jsonl", "-o", "cut.jsonl", *limit, "--overlong", "truncate")
    assert all("scores" in row for row in read("cut.jsonl"))
    assert "row 2: " in run("evaluate", orm, "long.jsonl", *limit, status=1).stderr
    run("evaluate", orm, "long.jsonl", *limit, "--on-bad-row", "drop", "-o", "figures.json")
    assert json.loads(Path("figures.json").read_text())["figures"]["n"] == 5
