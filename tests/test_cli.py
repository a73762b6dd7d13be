"""The command as a user meets it: help at once, tables, one-line errors, exit statuses."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoints import checkpoint
from transformers import AutoTokenizer, RobertaConfig
from typer.testing import CliRunner

from hf_rewardplug import RewardScorer
from hf_rewardplug.cli import app
from hf_rewardplug.cli.options import Aggregate, ChatTemplate, Overlong, bench_options
from hf_rewardplug.cli.output import figure_rows
from hf_rewardplug.data.chat_templates import CHAT_TEMPLATES
from hf_rewardplug.data.length_limits import OVERLONG
from hf_rewardplug.score import check
from hf_rewardplug.score.aggregates import AGGREGATES

ROOT = Path(__file__).resolve().parent.parent
PAIRS = [{"prompt": "the cat ", "chosen": f"sat {n}", "rejected": f"ran {n}"} for n in range(5)]


def run(*arguments, status: int = 0, **env):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return path


@pytest.fixture(scope="module")
def orm(assets) -> str:
    return checkpoint("orm", str(assets / "stories260K"))


def test_help_imports_nothing_heavy():
    code = """
import sys
from typer.testing import CliRunner
from hf_rewardplug.cli import app
output = CliRunner().invoke(app, ["--help"]).output
assert all(name in output for name in ("inspect", "train", "score", "check", "evaluate", "report")), output
print(sorted({"torch", "transformers", "trl", "datasets", "numpy", "peft"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "[]\n", result.stderr


@pytest.mark.parametrize("name", ["inspect", "train", "score", "check", "evaluate", "report"])
def test_every_option_is_explained(name):
    output = run(name, "--help").output
    options = re.findall(r"^  (?:-\w, )?--[\w-]+.*$(?:\n {10,}\S.*)*", output, re.MULTILINE)
    assert options
    for option in options:
        assert len(option.split()) > 3, option


def test_the_entry_point_and_the_choices():
    project = (ROOT / "pyproject.toml").read_text()
    assert '[project.scripts]\nrewardplug = "hf_rewardplug.cli:app"\n' in project and '"typer>=' in project
    assert [one.value for one in Aggregate] == list(AGGREGATES)
    assert [one.value for one in Overlong] == list(OVERLONG)
    assert {one.value for one in ChatTemplate} == set(CHAT_TEMPLATES)
    assert run("--version").output.startswith("rewardplug 0.")


def test_inspect(pairs, assets):
    output = run("inspect", pairs).output
    assert "format      preference" in output and "kept        5 pairs" in output and "Tokens" not in output
    output = run("inspect", pairs, "--model", assets / "stories260K", "--max-length", 12).output
    assert "max_length 12" in output and "padding" in output and "[[</s>]]" in output
    assert "\x1b" not in output  # no terminal: no colours


def test_inspect_tells_what_trains_on_the_rows(tmp_path):
    for row, expected in (
        ({"prompt": "2+2?", "completion": "4", "label": True}, ["RewardTrainer", "mse, huber, bce (to be set"]),
        ({"prompt": "2+2?", "completions": ["4", "5"], "scores": [2, 1]}, ["plackett_luce, all_pairs, mse, huber"]),
        ({"prompt": "2+2?", "completions": ["4"], "outcome": False}, ["PRMTrainer", "loss_type   min_form (to be"]),
    ):
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(row) + "\n")
        output = run("inspect", path).output
        assert all(text in output for text in expected), output


def test_inspect_takes_the_options_of_a_run(pairs, assets, tmp_path):
    config = tmp_path / "run.yaml"
    options = {"dataset_name": str(pairs), "model_name_or_path": str(assets / "stories260K"), "max_length": 100}
    config.write_text(json.dumps({**options, "overlong": "truncate", "learning_rate": 1e-4}))
    assert "max_length 100" in run("inspect", "--config", config).output
    assert "max_length 90" in run("inspect", "--config", config, "--max-length", 90).output
    assert "no limit" in run("inspect", "--config", config, "--max-length", 0).output
    config.write_text("- a\n")
    assert "holds list" in run("inspect", "--config", config, status=1).stderr


def test_inspect_knows_the_models_positions(pairs, assets, tmp_path):
    """A table of 12 rows, of which RoBERTa's pad token takes two (its id is 1)."""
    AutoTokenizer.from_pretrained(assets / "stories260K").save_pretrained(tmp_path)
    RobertaConfig(max_position_embeddings=12, num_hidden_layers=1, vocab_size=512).save_pretrained(tmp_path)
    with pairs.open("a") as rows:
        rows.write(json.dumps({"prompt": "the cat", "chosen": " sat on the mat", "rejected": " ran"}) + "\n")
    output = run("inspect", pairs, "--model", tmp_path).output
    assert "max_length 10)" in output and "longer than max_length=10: 1" in output
    assert "max_length 9)" in run("inspect", pairs, "--model", tmp_path, "--max-length", 9).output


def test_inspect_maps_columns(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "2+2?", "chosen": "4", "rejected": "5"}) + "\n")
    output = run("inspect", path, "--column-mapping", '{"input": "question"}').output
    assert "bradley_terry.chat_template" in output
    assert "is no mapping" in run("inspect", path, "--column-mapping", "question", status=1).stderr


def test_score_resumes_and_reports(pairs, orm, tmp_path):
    out = tmp_path / "out.jsonl"
    assert "5 rows scored" in run("score", orm, pairs, "-o", out).output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    expected = RewardScorer.from_pretrained(orm).score(
        [row["prompt"] for row in PAIRS], [[row["chosen"], row["rejected"]] for row in PAIRS]
    )
    assert [row["scores"] for row in rows] == [pytest.approx(scores, abs=1e-5) for scores in expected]
    whole = out.read_bytes()
    out.write_bytes(whole[:-20])
    run("score", orm, pairs, "-o", out)
    assert out.read_bytes() == whole
    assert "0 rows scored (5 were there)" in run("score", orm, pairs, "-o", out).output
    with open(pairs, "a") as lines:
        lines.write("{\n")
    stopped = run("score", orm, pairs, "-o", out, status=1)
    assert "line 6: no JSON" in stopped.stderr and "--skip-bad" in stopped.stderr
    output = run("score", orm, pairs, "-o", out, "--skip-bad").output
    assert "1 lines could not be scored" in output and out.read_bytes() == whole


def test_check(orm, tmp_path):
    output = run("check", orm).output
    assert re.search(r"scores in fp32 +ok", output) and "all checks passed" in output
    shutil.copytree(orm, tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "problem_type": None}))
    output = run("check", tmp_path / "m", status=1).output
    assert re.search(r"problem type +NOT OK", output) and "servers return a sigmoid" in output


def test_evaluate(pairs, orm, tmp_path):
    output = run("evaluate", orm, pairs, "-o", tmp_path / "figures.json", "--max-rows", 4).output
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["name"] == "preference" and found["figures"]["n"] == 4 == len(found["items"])
    assert f"{found['figures']['accuracy']:.4f}" in output
    assert "the nearest first: rewardbench" in run("evaluate", orm, "rewardbenc", status=1).stderr


def test_evaluate_with_options_and_columns_of_other_names(orm, assets, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"q": row["prompt"], **row, "prompt": "", "t": "x"}) + "\n" for row in PAIRS))
    arguments = ["evaluate", orm, "preference", "--data", rows, "--column-mapping", '{"prompt": "q"}']
    run(*arguments, "--option", "subset=t", "--option", "adapter=preference", "--split", "train", "-o", tmp_path / "f")
    found = json.loads((tmp_path / "f").read_text())
    assert found["figures"]["n/x"] == 5 and {item["prompt"] for item in found["items"]} == {PAIRS[0]["prompt"]}
    unknown = run(*arguments, "--option", "threshold=tune", status=1).stderr
    assert "benchmark 'preference' has no option 'threshold'; it has adapter, subset" in unknown
    assert "--option 'chat': expected NAME=VALUE" in run(*arguments, "--option", "chat", status=1).stderr


def test_values_of_bench_options():
    given = ["threshold=tune", "tune_share=0.5", "chat=false", "adapter=null", "subset=a=b"]
    assert bench_options(given) == {
        "threshold": "tune",
        "tune_share": 0.5,
        "chat": False,
        "adapter": None,
        "subset": "a=b",
    }


def test_counts_are_those_of_each_figure():
    figures = {"f1": 0.0, "accuracy_wrong": 0.0, "accuracy_right": 1.0, "n": 20, "n_wrong": 12, "threshold": 0.5}
    figures |= {"accuracy_wrong/a": 0.5, "accuracy_right/a": 0.5, "n/a": 6, "n_wrong/a": 2, "left out": 1}
    counts = {name: count for name, _, count in figure_rows(figures)}
    assert counts == {
        **{"f1": "20", "accuracy_wrong": "12", "accuracy_right": "8", "n_wrong": "", "threshold": "", "left out": ""},
        **{"accuracy_wrong/a": "2", "accuracy_right/a": "4", "n_wrong/a": ""},
    }


def test_the_report_has_what_evaluate_wrote(pairs, orm, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(orm, folder)
    hint = f"rewardplug evaluate {folder} rewardbench -o {folder / 'benchmark_rewardbench.json'}"
    run("report", folder, "-o", tmp_path / "page.html")
    assert hint in (tmp_path / "page.html").read_text()
    run("evaluate", folder, pairs, "-o", folder / "benchmark_mine.json")
    run("report", folder, "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Benchmarks" in page and ">preference<" in page and hint not in page


def test_a_finding_without_a_remedy_prints_no_line(orm, monkeypatch):
    findings = [check.Finding("a", "x", False, "mend"), check.Finding("b", "y", False)]
    monkeypatch.setattr(check, "check_model", lambda *arguments, **options: findings)
    output = run("check", orm, status=1).output
    assert "\n\na: mend\n\n" in output and "\n\n\n" not in output and "2 of 2 checks failed" in output


def test_report(orm, tmp_path):
    page = tmp_path / "page.html"
    assert run("report", orm, "-o", page).output.strip() == str(page)
    assert "<html" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "nowhere.jsonl"], "neither a file or folder here nor"),
        (["inspect"], "DATA is missing"),
        (["score", "nowhere", "nowhere.jsonl", "-o", "out.jsonl"], "'nowhere.jsonl' is no file"),
        (["check", "/nowhere"], "There is no folder '/nowhere'"),
        (["check", "/nowhere", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["report", "/nowhere"], "/nowhere"),
        (["evaluate", "/nowhere", "preference", "-o", "/nowhere/out.json"], "is no folder"),
    ],
)
def test_user_errors_are_one_line_without_a_traceback(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, status=1)
    assert result.stderr.startswith("error: ") and message in result.stderr and "Traceback" not in result.output
    assert result.stderr.count("\n") == 1


def test_a_device_that_is_not_there(pairs, orm, tmp_path):
    result = run("score", orm, pairs, "-o", tmp_path / "out.jsonl", "--device", "nothing", status=1)
    assert result.stderr.startswith("error: --device nothing: ") and not (tmp_path / "out.jsonl").exists()


def test_debug_lets_the_traceback_out(tmp_path):
    for arguments, env in ((["--debug"], {}), ([], {"REWARDPLUG_DEBUG": "1"})):
        result = CliRunner().invoke(app, [*arguments, "report", str(tmp_path / "nowhere")], env=env)
        assert isinstance(result.exception, (ValueError, OSError))
