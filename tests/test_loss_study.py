"""benchmarks/losses.py: its problems, its figures beside the trainers' own, and that it runs."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("losses")
    monkeypatch.setattr(module, "quiet", lambda: None)  # other tests read what transformers logs
    return module


def test_it_runs_and_its_accuracy_is_the_trainers(study, tmp_path, capsys):
    names = ["pairs:bradley_terry", "pairs:bce", "lists:plackett_luce", "steps:min_form"]
    out = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    study.main(["--smoke", "--workers", "1", "--seeds", "0", "--only", *names, *out])
    runs = {f"{run['panel']}:{run['loss']}": run for run in json.loads((tmp_path / "out.json").read_text())["runs"]}
    assert [*runs] == names
    for name, run in runs.items():
        if name != "pairs:bce":  # whose trainer tells the accuracy of each completion
            assert run["accuracy"] == pytest.approx(run["evaluation"]["test_accuracy"], abs=1e-9), name
        assert 0 <= run["calibration_error"] <= 1
    assert (tmp_path / "out.png").stat().st_size > 1000
    assert "| plackett_luce | 0." in capsys.readouterr().out


def test_rewards_are_judged_with_the_best_completion_first(study):
    """One problem in the right order and one in the wrong one, which sigmoid(1) = 0.731 is sure of alike."""
    figures = study.judged_answers(np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]), "plackett_luce", 3)
    assert figures["accuracy"] == 0.5
    by_pairs = study.judged_answers(np.array([[2.0, 1.0], [0.0, 1.0]]), "hinge", 2)
    assert by_pairs == {"accuracy": 0.5, "calibration_error": pytest.approx(0.731 - 0.5, abs=1e-3)}
    scored = study.judged_answers(np.array([[0.9], [0.1]]), "mse", 2)
    assert scored["meant"] == pytest.approx(0)


def test_a_calibrated_model_says_what_nine_labels_in_ten_say(study):
    true = np.array([1.0, 1.0, 0.0, 0.0])
    assert study.calibration_error(np.array([0.9, 0.9, 0.1, 0.1]), true) == pytest.approx(0)
    assert study.calibration_error(np.array([1.0, 1.0, 0.0, 0.0]), true) == pytest.approx(0.1)
    assert study.calibration_error(np.full(4, 0.5), true) == pytest.approx(0)  # knows nothing, and says so
    logits = np.array([[[0.0, np.log(9)], [np.log(9), 0.0]], [[0.0, 5.0], [-100.0, -100.0]]])
    figures = study.judged_steps(logits[:1], np.array([[1.0, 0.0]]))
    assert figures == {"accuracy": 1.0, "calibration_error": pytest.approx(0)}
    assert study.judged_steps(logits, np.array([[0.0, 1.0], [1.0, -100.0]]))["accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("panel", ["pairs", "lists", "steps"])
def test_one_label_in_ten_is_flipped_and_the_seed_says_which(study, panel):
    rows, held_out = study.problems(panel, 1000, 100)
    assert len(rows) == 1000 and len(held_out) == 100
    assert not {str(row["prompt"]) for row in rows} & {str(row["prompt"]) for row in held_out}
    key = "labels" if panel == "steps" else "scores"
    noisy = study.flipped(rows, 0)
    pairs = [pair for a, b in zip(rows, noisy, strict=True) for pair in zip(a[key], b[key], strict=True)]
    assert 0.08 < sum(a != b for a, b in pairs) / len(pairs) < 0.12
    assert noisy == study.flipped(rows, 0) != study.flipped(rows, 1)


def test_half_of_the_solutions_are_right_whatever_their_length(study):
    rows, _ = study.problems("steps", 600, 0)
    right = [all(row["labels"]) for row in rows]
    assert sum(right) == 300
    for length in {len(row["labels"]) for row in rows}:
        assert np.mean([one for one, row in zip(right, rows, strict=True) if len(row["labels"]) == length]) == 0.5
    outcomes = [row["outcome"] for row in study.flipped(rows, 0, outcomes=True)]
    assert 0.06 < np.mean(np.array(outcomes) != right) < 0.14
    soft = study.flipped(rows, 0, soft=True)
    assert {label for row in soft for label in row["labels"]} == {0.1, 0.9}
