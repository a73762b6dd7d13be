"""The report of runs on scores, outcomes, lists and ties: its figures by hand."""

import math

import numpy as np
import pytest
from test_report import PAIRS, SOLUTIONS, make_run

from hf_rewardplug.figure_names import score_baselines
from hf_rewardplug.score.report import outcomes, scored, write_report
from hf_rewardplug.score.report.curves import held_out_set

SCORED = [  # errors -1, 2, 0 and 1; the scores' mean is 2, their variance 5 / 4
    {"text": "a", "rewards": {"kind": 1.0, "brief": 3.0}, "scores": {"kind": 2.0, "brief": 1.0}, "subset": "x"},
    {"text": "b", "rewards": {"kind": 4.0, "brief": 9.0}, "scores": {"kind": 4.0, "brief": None}, "subset": "x"},
    {"text": "c", "rewards": {"kind": 2.0, "brief": 9.0}, "scores": {"kind": 1.0, "brief": None}, "subset": "y"},
]
GOOD_OR_BAD = [  # found good: no, yes, yes; are: no, yes, no
    {"text": "a", "probabilities": {"score": 0.2}, "scores": {"score": 0}},
    {"text": "b", "probabilities": {"score": 0.8}, "scores": {"score": 1}},
    {"text": "c", "probabilities": {"score": 0.6}, "scores": {"score": 0.25}},
]
OUTCOMES = [  # worst steps 0.3, 0.7, 0.6; are right, right, wrong
    {"prompt": "p", "steps": ["s", "t"], "probabilities": [0.9, 0.3], "labels": [-100, -100], "outcome": 1.0},
    {"prompt": "p", "steps": ["s"], "probabilities": [0.7], "labels": [-100], "outcome": 1.0},
    {"prompt": "p", "steps": ["s", "t"], "probabilities": [0.6, 0.8], "labels": [-100, -100], "outcome": 0.0},
]


def test_figures_of_four_scores_and_of_outcomes():
    found = scored.scored_figures(SCORED)
    assert (found.names, found.outcomes) == (["kind", "brief"], None)
    together = scored.errors(found.rewards_NA.ravel(), found.scores_NA.ravel())
    assert (together["n"], together["mse"], together["mae"]) == (4, (1 + 4 + 0 + 1) / 4, (1 + 2 + 0 + 1) / 4)
    assert score_baselines(found.scores_NA)["mse"] == 1.5  # of 2, 1, 4, 1 around 2
    # rewards 1, 3, 4, 2 around 2.5: the covariance is (-1.5 * 0 + 0.5 * -1 + 1.5 * 2 + -0.5 * -1) / 4 = 0.75
    assert together["pearson"] == pytest.approx(0.75 / math.sqrt(1.25 * 1.5))
    good = scored.scored_figures(GOOD_OR_BAD).outcomes
    assert (good.accuracy.value, good.values["auroc"], good.values["wrong_rate"]) == (
        pytest.approx(2 / 3),
        1.0,
        pytest.approx(2 / 3),
    )
    solutions = outcomes.of_solutions(OUTCOMES)
    assert (solutions.accuracy.value, solutions.accuracy.n, solutions.values["auroc"]) == (pytest.approx(1 / 3), 3, 0.5)
    assert outcomes.of_solutions(SOLUTIONS) is None
    assert math.isnan(scored.errors(np.array([1.0]), np.array([np.nan]))["mse"])


def test_a_page_of_scores(tmp_path):
    results = {"eval_loss": 0.4321, "eval_mse": 1.5, "eval_mae": 1.0, "eval_pearson": 0.5}
    state = {"global_step": 2, "log_history": [{"step": 1, "loss": 2.0}]}
    run = make_run(tmp_path / "a", SCORED, eval_results=results, trainer_state=state)
    text = write_report(run).read_text(encoding="utf-8")
    for shown in ("Of 4 scores.", "the mean score everywhere: 1.500", "By attribute", "By subset", "off by 2.00"):
        assert shown in text, shown
    assert "<td>brief</td><td>1</td><td>4.000</td>" in text and "<td>brief</td><td>9.00</td><td>not rated</td>" in text
    assert "<td>y</td><td>1</td><td>1.000</td>" in text and "two accuracies" not in text.lower()
    assert {path.stem for path in (run / "report").glob("*.png")} >= {"scored", "training_mse"}
    text = write_report(make_run(tmp_path / "b", eval_results=results)).read_text(encoding="utf-8")
    assert "squared error" in text and "1.500" in text and "pairs</dt>" not in text


def test_a_page_of_good_and_bad_completions(tmp_path):
    results = {"eval_loss": 0.4, "eval_accuracy": 0.6667, "eval_auroc": 1.0, "eval_ece": 0.3}
    text = write_report(make_run(tmp_path / "a", GOOD_OR_BAD, eval_results=results)).read_text(encoding="utf-8")
    for shown in ("0.667 ± 0.272", "the majority outcome everywhere: 0.667", "off by 0.35", "good completions"):
        assert shown in text, shown
    assert "Two accuracies" not in text
    text = write_report(make_run(tmp_path / "b", eval_results=results)).read_text(encoding="utf-8")
    assert "AUROC of the outcomes" in text and "squared error" not in text


def test_a_page_of_outcomes_has_no_figures_of_steps(tmp_path):
    results = {"eval_loss": 0.4, "eval_outcome_accuracy": 0.3333, "eval_outcome_auroc": 0.5, "eval_outcome_ece": 0.3}
    logs = [{"step": 1, "accuracy": 0.5}, {"step": 1, "eval_outcome_accuracy": 0.25}, {"step": 2, "accuracy": 0.75}]
    state = {"global_step": 2, "log_history": logs}
    config = {"rewardplug": {"kind": "prm"}}
    files = {"eval_results": results, "trainer_state": state, "config": config}
    run = make_run(tmp_path / "a", OUTCOMES, **files)
    text = write_report(run).read_text(encoding="utf-8")
    for shown in ("0.333 ± 0.272", "1 of 3 solutions are wrong", "1 solutions are right, but", "0 labelled steps"):
        assert shown in text, shown
    assert "step accuracy" not in text and "Two accuracies" not in text
    assert "n: 2 (training logs), 2 (evaluations)." in text  # the training logs count outcomes too
    names = {path.stem for path in (run / "report").glob("*.png")}
    assert names >= {"training_outcome_accuracy", "outcomes", "outcomes_calibration", "steps"}
    assert "training_accuracy" not in names
    text = write_report(make_run(tmp_path / "b", **files)).read_text(encoding="utf-8")
    assert "outcome, by the worst step" in text and "step accuracy" not in text
    both = [{**each, "outcome": 0.0} for each in SOLUTIONS]
    text = write_report(make_run(tmp_path / "c", both, config=config)).read_text(encoding="utf-8")
    assert "step accuracy" in text and "outcome, by the worst step" in text and "have a wrong step that" in text


def test_a_page_of_lists_and_of_ties(tmp_path):
    results = {"eval_accuracy": 0.5, "eval_best_accuracy": 0.125}
    text = write_report(make_run(tmp_path / "a", PAIRS, eval_results=results)).read_text(encoding="utf-8")
    assert "best of its list found" in text and "0.125" in text and "as if the pairs of a list were ind" in text
    results = {"eval_accuracy": 0.5, "eval_outcome_accuracy": 0.125}
    text = write_report(make_run(tmp_path / "b", PAIRS, eval_results=results)).read_text(encoding="utf-8")
    assert "better, tie or worse, as told" in text and "±: one standard error." in text


def test_a_figure_whose_name_ends_like_anothers_is_no_evaluation_set():
    assert held_out_set("eval_outcome_accuracy", "accuracy") is None
    assert held_out_set("eval_best_accuracy", "accuracy") is None
    assert held_out_set("eval_outcome_auroc", "auroc") is None
    assert held_out_set("eval_math_outcome_auroc", "outcome_auroc") == "math"
    assert held_out_set("eval_kind_mse", "mse") == "kind"


@pytest.mark.parametrize(
    ("item", "why"),
    [
        ({**SCORED[0], "scores": {"kind": 1.0}}, "'rewards' and 'scores' are no objects with the same names"),
        ({**SCORED[0], "rewards": {"kind": None, "brief": 1.0}}, "'rewards' holds None"),
        ({**SCORED[0], "scores": {"kind": "4", "brief": 1.0}}, "'scores' holds '4'"),
        ({**GOOD_OR_BAD[0], "scores": {"score": 4}}, "'probabilities' or 'scores' holds 4, no probability"),
        ({**SCORED[0], "text": None}, "'text' is no text"),
        ({**OUTCOMES[0], "outcome": "right"}, "'outcome' is 'right'"),
        ({**OUTCOMES[0], "outcome": 2}, "'outcome' is 2"),
    ],
)
def test_a_bad_score_or_outcome_is_named(tmp_path, item, why):
    with pytest.raises(ValueError, match=f"line 1: {why}.*Expected"):
        write_report(make_run(tmp_path, [item]))


def test_rewards_that_are_no_numbers(tmp_path):
    broken = [{**SCORED[0], "rewards": {"kind": math.nan, "brief": 1.0}}, {**SCORED[1], "scores": {"kind": None}}]
    broken[1]["rewards"] = {"kind": 1.0}
    write_report(make_run(tmp_path / "a", broken))
    write_report(make_run(tmp_path / "b", broken[1:]))  # not one score
    unrated = [{**GOOD_OR_BAD[0], "scores": {"score": None}}]
    write_report(make_run(tmp_path / "c", unrated))
    write_report(make_run(tmp_path / "d", [{**OUTCOMES[1], "probabilities": [math.nan]}]))
