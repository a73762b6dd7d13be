"""Mr-Ben: counts by hand, step numbers as its texts say them, MCC and MR-score as a slow twin writes them."""

import json
import random

import numpy as np
import pytest

from hf_rewardplug.score.benchmarks import detect_benchmark, evaluate
from hf_rewardplug.score.benchmarks.mr_ben import mcc, mr_ben
from hf_rewardplug.score.benchmarks.registry import Rows


class Fake:
    """A process reward model: a step's probability stands at its end ("Step 1: so 4 .9")."""

    kind = "prm"

    def __init__(self, rate=lambda step: float(step.split()[-1])):
        self.rate, self.calls, self.prompts, self.steps = rate, 0, None, None

    def score_steps(self, prompts, steps, aggregate=None):
        self.calls, self.prompts, self.steps = self.calls + 1, prompts, steps
        return [[self.rate(step) for step in of] for of in steps]


def row(first_error, *probabilities, subject="college_math", **more):
    """A row in its own columns; `first_error` "N/A" is a right solution."""
    return {
        "Question_UUID": "209d2eea",
        "Subject": subject,
        "Question": "1+1?",
        "Options": "A: 2 \nB: 3 ",
        "Ground_Truth_Analysis": "",
        "Ground_Truth_Answer": "A",
        "Ground_Truth_Answer_Modified": "A",
        "Sampled_Model": "Claude2",
        "Model_Solution_Steps": [f"Step {number}: so {value}" for number, value in enumerate(probabilities, 1)],
        "Model_Solution_Correctness": "correct" if first_error == "N/A" else "incorrect",
        "Model_Solution_First_Error_Step": first_error,
        "Model_Solution_Error_Reason": "N/A",
        "Model_Solution_Rectified_First_Error_Step": "N/A",
        **more,
    }


ROWS = [  # found at 0.5
    row("N/A", 0.9, 0.8),  # right
    row("N/A", 0.9, 0.5),  # right: 0.5 is not below 0.5
    row("N/A", 0.9, 0.2),  # step 2: taken for a wrong one
    row("2", 0.9, 0.2, 0.1),  # step 2, yes
    row("2", 0.1, 0.2, 0.1),  # step 1, no
    row("1", 0.9, 0.8),  # right: taken for a right one
    row("N/A", 0.9, subject="college_medicine"),  # right
    row("1", 0.1, subject="college_medicine"),  # step 1, yes
]


def test_figures_by_subject_and_their_mean():
    scorer = Fake()
    result = mr_ben(scorer, ROWS)
    # math: tp 2, fn 1, tn 2, fp 1: (4 - 1) / sqrt(3 * 3 * 3 * 3) = 1/3. Of three wrong solutions one step is found
    # medicine: all found
    math_score = 0.2 * (1 / 3) + 0.3 * (1 / 3)
    assert result.figures == pytest.approx(
        {
            "mcc/math": 1 / 3,
            "accuracy_right/math": 2 / 3,
            "step_accuracy/math": 1 / 3,
            "mr_score/math": math_score,
            "n/math": 6,
            "n_wrong/math": 3,
            "n_beyond/math": 0,
            "mcc/medicine": 1.0,
            "accuracy_right/medicine": 1.0,
            "step_accuracy/medicine": 1.0,
            "mr_score/medicine": 0.5,
            "n/medicine": 2,
            "n_wrong/medicine": 1,
            "n_beyond/medicine": 0,
            "mcc": (1 / 3 + 1) / 2,
            "accuracy_right": (2 / 3 + 1) / 2,
            "step_accuracy": (1 / 3 + 1) / 2,
            "mr_score": (math_score + 0.5) / 2,
            "n": 8,
            "n_wrong": 4,
            "n_beyond": 0,
            "left out": 0,
            "threshold": 0.5,
        }
    )
    assert [item["right"] for item in result.items] == [True, True, False, True, False, False, True, True]
    assert result.items[3] == {
        "row": 3,
        "prompt": "1+1?\nA: 2 \nB: 3 ",
        "completions": ["Step 1: so 0.9", "Step 2: so 0.2", "Step 3: so 0.1"],
        "scores": [0.9, 0.2, 0.1],
        "label": False,
        "wrong": [1],
        "prediction": 1,
        "right": True,
        "subset": "math",
    }
    assert scorer.calls == 1


def official(judged):
    """MR-score of (is right, error step or None, said right, said step) as Mr-Ben's script writes it, reasons wrong."""
    tp = sum(right and says for right, _, says, _ in judged)
    tn = sum(not right and not says for right, _, says, _ in judged)
    good, bad = sum(right for right, *_ in judged), sum(not right for right, *_ in judged)
    fp, fn = bad - tn, good - tp
    bottom = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    correlation = (tp * tn - fp * fn) / bottom if bottom else 0.0
    steps = sum(not right and not says and step == said for right, step, says, said in judged) / bad
    return 0.2 * max(0, correlation) + 0.3 * steps + 0.5 * 0.0


@pytest.mark.parametrize("seed", range(8))
def test_mr_score_is_that_of_its_script(seed):
    draw = random.Random(seed)
    rows, judged = [], {"biology": [], "logic": []}
    for _ in range(60):
        subject = draw.choice(["college_biology", "high_school_biology", "logiqa"])
        probabilities = [draw.choice([0.1, 0.9, 0.9]) for _ in range(draw.randint(1, 6))]
        error = draw.choice([None, *range(1, len(probabilities) + 1)])
        rows.append(row("N/A" if error is None else str(error), *probabilities, subject=subject))
        said = next((number for number, value in enumerate(probabilities, 1) if value < 0.5), None)
        judged["logic" if subject == "logiqa" else "biology"].append((error is None, error, said is None, said))
    figures = mr_ben(Fake(), rows).figures
    scores = {subject: official(of) for subject, of in judged.items()}
    assert {subject: figures[f"mr_score/{subject}"] for subject in scores} == pytest.approx(scores)
    assert figures["mr_score"] == pytest.approx(sum(scores.values()) / 2)


@pytest.mark.parametrize("seed", range(8))
def test_mcc_is_the_correlation_of_two_binary_variables(seed):
    draw = random.Random(seed)
    truth, said = ([draw.random() < 0.4 for _ in range(50)] for _ in range(2))
    cells = list(zip(truth, said, strict=True))
    counts = [cells.count(cell) for cell in ((True, True), (False, False), (False, True), (True, False))]
    assert mcc(*counts) == pytest.approx(np.corrcoef(truth, said)[0, 1])
    assert mcc(3, 0, 2, 0) == 0.0  # a judge who says "right" always


# ---- which entries are a step ----------------------------------------------------------------------------------------

LABELLED = ["Here is an analysis:", "Step 1: a", "- b", "", "Step 2: c", "", "Step 3: d", "- e", "Solution: Choice_A"]


@pytest.mark.parametrize(
    ("steps", "error", "entries"),
    [
        (["Step 1: a", "Step 2: b", "Step 3: c"], "2", [1]),
        (["a", "b", "c"], "2", [1]),  # nobody says a number: places
        (["a", "", "b", "c"], "2", [1]),  # entries without text are none, nor rated
        (LABELLED, "1", [1, 2]),  # of the seven entries with text
        (LABELLED, "2", [3]),
        (LABELLED, "3", [4, 5, 6]),
        (["Step 1: a", "Step 2: b", "Solution: Choice_C"], "3", [2]),  # its solution is the third step
        (["Step 1: a", "", "Step 2: b", "", "Solution: Choice_C"], "5", []),  # behind the end
        (["tep 1: a", "Step 2: b"], "1", [0]),  # a slip of some rows
        (["step 1. a", "**Step 2:** b", "- Step 3: c"], "3", [2]),
        (["Step 1: a", "Step 2: b", "Step 2.1: c", "Step 3: d"], "2", [1, 2]),
        (["Step 1: a", "Step 2: b", "Step 1: c", "Step 2: d"], "2", [1, 3]),  # the text says it twice
        (["Step 1: a", "Step 2: b"], "N/A", []),
        (["Step 1: a", "Step 2: b"], "Step 2", [1]),
        (["Step 1: a", "Step 2: b"], 2, [1]),
    ],
)
def test_entries_of_the_first_wrong_step(steps, error, entries):
    rows = [{**row("1", 0.9), "Model_Solution_Steps": steps, "Model_Solution_First_Error_Step": error}]
    scorer = Fake(lambda step: 0.9)
    result = mr_ben(scorer, rows)
    assert result.items[0]["wrong"] == entries
    assert scorer.steps == [[step for step in steps if step]]
    assert result.figures["n_beyond"] == (not entries)
    for index in range(len(scorer.steps[0])):
        found = mr_ben(Fake(lambda step, at=scorer.steps[0][index]: 0.1 if step == at else 0.9), rows).items[0]
        assert found["right"] == (found["prediction"] in entries)


def test_code_has_no_steps_and_is_left_out():
    code = row("        return True", subject="coding", Model_Solution_Steps="def f():\n        return True\n")
    del code["Options"]
    scorer = Fake()
    figures = mr_ben(scorer, [code, *ROWS]).figures
    assert figures == {**mr_ben(Fake(), ROWS).figures, "left out": 1}
    with pytest.raises(ValueError, match="benchmark 'mr_ben': all 1 rows are code, which has no steps"):
        mr_ben(scorer, [code])


def test_subjects_with_solutions_of_one_kind():
    """No wrong one: no step accuracy, no score. No right one: MCC is 0, as in its script."""
    figures = mr_ben(Fake(), [ROWS[0], *ROWS[6:]]).figures
    assert "mr_score/math" not in figures and "step_accuracy/math" not in figures
    assert (figures["mcc/math"], figures["mr_score"], figures["step_accuracy"]) == (0.0, 0.5, 1.0)
    figures = mr_ben(Fake(), [ROWS[3]]).figures
    assert (figures["mcc"], figures["step_accuracy"], figures["mr_score"]) == (0.0, 1.0, pytest.approx(0.3))


def test_what_the_model_is_asked():
    scorer = Fake()
    mr_ben(scorer, [ROWS[0], {**ROWS[0], "Options": None}], chat=True)
    assert scorer.prompts == [[{"role": "user", "content": text}] for text in ("1+1?\nA: 2 \nB: 3 ", "1+1?")]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"Model_Solution_Steps": []}, r"'Model_Solution_Steps': expected a list of steps, found \[\]"),
        ({"Model_Solution_Steps": ["", " "]}, "'Model_Solution_Steps': expected a list of steps, found"),
        ({"Model_Solution_Steps": ["a", None]}, "'Model_Solution_Steps': expected a list of steps, found"),
        ({"Model_Solution_Steps": None}, "'Model_Solution_Steps': expected a list, found None"),
        ({"Model_Solution_Correctness": "yes"}, "'Model_Solution_Correctness': expected 'correct' or 'incorrect', fou"),
        ({"Question": None}, "'Question': expected text, found None"),
        ({"Subject": None}, "'Subject': expected text, found None"),
    ],
)
def test_a_bad_row_is_told_by_its_number(change, error):
    scorer = Fake()
    with pytest.raises(ValueError, match=f"benchmark 'mr_ben', row 7: column {error}"):
        mr_ben(scorer, Rows([ROWS[0], {**ROWS[1], **change}], numbers=[3, 7]))
    assert scorer.calls == 0


def test_bad_thresholds_and_an_outcome_reward_model():
    with pytest.raises(ValueError, match=r"threshold='tune' is no number in \[0, 1\]. Give one"):
        mr_ben(Fake(), ROWS, threshold="tune")
    scorer = Fake()
    scorer.kind = "orm"
    with pytest.raises(ValueError, match="'mr_ben' rates steps; this model is an outcome reward model"):
        mr_ben(scorer, ROWS)


def test_detected_from_its_columns():
    assert detect_benchmark(list(ROWS[0]), ROWS[0]).name == "mr_ben"


def test_its_own_files_group_rows_by_question(tmp_path):
    """data/<subject>.json: {the question's id: its solutions}; a reason is a list of texts or "N/A"."""
    reasons = {"Model_Solution_Error_Reason": ["because", "so"]}
    grouped = {"209d2eea": ROWS[:3], "5972e0f6": [{**one, **reasons} for one in ROWS[3:6]], "4e54f235": ROWS[6:]}
    for indent in (2, None):
        file = tmp_path / f"math{indent}.json"
        file.write_text(json.dumps(grouped, indent=indent))
        for result in (evaluate(Fake(), file), evaluate(Fake(), "mr_ben", data=file)):
            assert result.name == "mr_ben"
            assert result.figures == mr_ben(Fake(), ROWS).figures
            assert [item["row"] for item in result.items] == list(range(8))


def test_its_own_folder(tmp_path):
    """A file a subject, and demonstrations, whose columns differ."""
    demonstration = {"Question": "1+1?", "Subject": "coding", "Solution": "x", "cot_analysis": "y"}
    files = {"math": {"a": ROWS[:6]}, "medicine": {"b": ROWS[6:]}, "k_shot_demo": {"coding": [demonstration]}}
    for name, grouped in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(grouped, indent=2))
    result = evaluate(Fake(), "mr_ben", data=tmp_path)
    assert result.figures == {**mr_ben(Fake(), ROWS).figures, "left out": 1}
    assert [item["row"] for item in result.items] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert evaluate(Fake(), tmp_path / "math.json").figures["n/math"] == 6


@pytest.mark.parametrize("number", [2, 2.0, "2", "Step 2"])
def test_an_error_step_may_be_any_number(number):
    """A table makes floats of whole numbers where a row has none."""
    figures = evaluate(Fake(), [row(number, 0.9, 0.2, 0.1)]).figures
    assert (figures["step_accuracy"], figures["n_beyond"]) == (1.0, 0)
