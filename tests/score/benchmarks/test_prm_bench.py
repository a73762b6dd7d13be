"""PRMBench: hand-counted steps, precision and recall as its own code writes them, and its documentation's example."""

import random

import pytest
import torch
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

from hf_rewardplug import RewardScorer
from hf_rewardplug.score.benchmarks import evaluate
from hf_rewardplug.score.benchmarks.prm_bench import CATEGORIES, f1, prm_bench, step_scores
from hf_rewardplug.score.benchmarks.registry import Rows


class Fake:
    """A process reward model: a step's probability stands at its end ("so 4 .9")."""

    kind = "prm"

    def __init__(self):
        self.calls, self.prompts, self.steps = 0, None, None

    def score_steps(self, prompts, steps, aggregate=None):
        self.calls, self.prompts, self.steps = self.calls + 1, prompts, steps
        return [[float(step.split()[-1]) for step in of] for of in steps]


def row(kind, wrong, *probabilities, **more):
    steps = [f"{number}. so {value}" for number, value in enumerate(probabilities, 1)]
    return {"modified_question": "q", "modified_process": steps, "error_steps": wrong, "classification": kind, **more}


ROWS = [
    row("redundency", [2], 0.9, 0.1, 0.4),  # right, wrong, right found as right, wrong, wrong
    row("redundency", [1, 2], 0.8, 0.5, 0.7),  # wrong, wrong, right found as right, wrong (0.5 is not above), right
    row("circular", [2], 0.9, 0.2),  # all found
    row("multi_solutions", [], 0.9, 0.9, 0.9, 0.1),  # all right, one found wrong
]


def test_counts_by_class():
    scorer = Fake()
    result = prm_bench(scorer, ROWS)
    figures = result.figures
    # redundency: right 3, of them 2 found right; wrong 3, of them 2 found wrong
    assert figures["f1/redundency"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert figures["negative_f1/redundency"] == pytest.approx(2 / 3)
    assert figures["prm_score/redundency"] == pytest.approx(2 / 3)
    assert figures["accuracy/redundency"] == pytest.approx(4 / 6)
    assert figures["prm_score/circular"] == 1.0
    # multi_solutions: 3 of 4 right steps found right, none wrong: precision 1, recall 3/4; PRMScore is F1 alone
    assert figures["f1/multi_solutions"] == figures["prm_score/multi_solutions"] == pytest.approx(6 / 7)
    assert figures["negative_f1/multi_solutions"] == 0.0
    # all steps: right 8 (6 found right), wrong 4 (3 found wrong)
    assert figures["f1"] == pytest.approx(12 / (12 + 2 + 1))
    assert figures["negative_f1"] == pytest.approx(6 / (6 + 1 + 2))
    assert figures["prm_score"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert figures["accuracy"] == pytest.approx(9 / 12)
    # first wrong steps: found, passed, found; multi_solutions has none
    assert figures["first_error_accuracy"] == pytest.approx(2 / 3)
    assert figures["simplicity"] == pytest.approx((2 / 3 + 1) / 2)
    assert "soundness" not in figures and "sensitivity" not in figures  # classes are missing
    counts = {key: value for key, value in figures.items() if key.split("/")[0].startswith("n") and "f1" not in key}
    assert counts == {
        "n": 4,
        "n/redundency": 2,
        "n/circular": 1,
        "n/multi_solutions": 1,
        "n_steps": 12,
        "n_repeated": 0,
        "n_beyond": 0,
    }
    assert scorer.calls == 1


def test_an_item():
    item = prm_bench(Fake(), ROWS).items[1]
    assert item == {
        "row": 1,
        "prompt": "q",
        "completions": ["so 0.8", "so 0.5", "so 0.7"],
        "scores": [0.8, 0.5, 0.7],
        "labels": [False, False, True],
        "found": [True, False, True],
        "right": pytest.approx(2 / 3),
        "subset": "redundency",
    }


def test_categories_are_those_of_its_code():
    """`classification_parallel_dict` of form_latex_strs.ipynb at a1ae4ea."""
    assert CATEGORIES == {
        "simplicity": ("redundency", "circular"),
        "soundness": ("counterfactual", "step_contradiction", "domain_inconsistency", "confidence"),
        "sensitivity": ("missing_condition", "deception", "multi_solutions"),
    }


def test_categories_are_means_of_their_classes():
    """All nine classes; each class's PRMScore is its own."""
    names = [name for classes in CATEGORIES.values() for name in classes]
    assert len(names) == 9
    rows = [row(name, [] if name == "multi_solutions" else [2], 0.9, 0.1 if name < "d" else 0.9) for name in names]
    figures = prm_bench(Fake(), rows).figures
    # found: 1.0. Passed: F1 2/3, negative F1 0, PRMScore 1/3. Names below "d": circular, confidence, counterfactual
    assert figures["simplicity"] == pytest.approx((1 / 3 + 1) / 2)
    assert figures["soundness"] == pytest.approx((1 + 1 / 3 + 1 / 3 + 1) / 4)
    assert figures["sensitivity"] == pytest.approx((1 / 3 + 1 / 3 + 1) / 3)


@pytest.mark.parametrize("seed", range(10))
def test_f1_is_that_of_precision_and_recall(seed):
    draw = random.Random(seed)
    labels, found = ([draw.random() < 0.6 for _ in range(30)] for _ in range(2))
    scores = step_scores(labels, found)
    f1s = []
    for positive in (True, False):
        hits = sum(a == b == positive for a, b in zip(labels, found, strict=True))
        precision, recall = hits / found.count(positive), hits / labels.count(positive)
        f1s.append(2 * precision * recall / (precision + recall))
    assert [scores["f1"], scores["negative_f1"]] == pytest.approx(f1s)
    assert scores["prm_score"] == pytest.approx(sum(f1s) / 2)


def test_f1_without_a_hit_is_zero():
    assert f1(0, misses=3, false_alarms=2) == f1(0, misses=0, false_alarms=0) == 0.0
    assert step_scores([True, False], [False, True])["prm_score"] == 0.0


def test_a_threshold_is_right_above_it():
    assert prm_bench(Fake(), [row("circular", [], 0.2)], threshold=0.2).items[0]["found"] == [False]
    assert prm_bench(Fake(), [row("circular", [], 0.2)], threshold=0.19).items[0]["found"] == [True]


def test_numbers_of_steps_are_stripped_or_kept():
    rows = [{**row("circular", [1], 0.1), "modified_process": ["Step 1. a .1", "2. b .9", "3.5 is c .9", "4.  .9"]}]
    scorer = Fake()
    prm_bench(scorer, rows)
    assert scorer.steps == [["a .1", "b .9", "5 is c .9", ".9"]]  # PRMBench's code takes the "3." of 3.5 too
    prm_bench(scorer, rows, strip_numbers=False)
    assert scorer.steps == [rows[0]["modified_process"]]
    assert scorer.prompts == ["q"]
    prm_bench(scorer, rows, chat=True)
    assert scorer.prompts == [[{"role": "user", "content": "q"}]]


def official_counts(labels, error_steps):
    """The four counts as PRMBench's evaluation makes them, over the labels of all steps, those without text too."""
    wrong = [number - 1 for number in error_steps]
    cells = [(index not in wrong, bool(label)) for index, label in enumerate(labels)]
    return {"TP": cells.count((True, True)), "FN": cells.count((True, False)), "FP": cells.count((False, True))} | {
        "TN": cells.count((False, False))
    }


@pytest.mark.parametrize(
    ("steps", "error_steps"),
    [
        (["a .9", "", "b .1", "", "", "c .1"], [3, 4]),  # an empty step that is named wrong, too
        (["", "a .9"], [1]),
        (["a .9", "2."], [2]),  # nothing behind the number
        (["a .9", " \n", "\t"], [1]),
        (["", ""], []),
    ],
)
def test_steps_without_text_are_rated(steps, error_steps):
    """Empty steps get 0.3 from this model: found wrong."""
    scorer = Fake()
    scorer.score_steps = lambda prompts, all_steps: [
        [float(step.split()[-1]) if step.strip() else 0.3 for step in of] for of in all_steps
    ]
    rows = [
        {"modified_question": "q", "modified_process": steps, "error_steps": error_steps, "classification": "circular"}
    ]
    for strip_numbers in (True, False) if "2." not in steps else (True,):
        result = prm_bench(scorer, rows, strip_numbers=strip_numbers)
        counts = official_counts(result.items[0]["found"], error_steps)
        assert result.figures["n_steps"] == len(steps) == sum(counts.values())
        right, wrong = counts["TP"] + counts["FN"], counts["TN"] + counts["FP"]
        precision = counts["TP"] / max(counts["TP"] + counts["FP"], 1)
        recall = counts["TP"] / max(right, 1)
        f1_right = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        assert result.figures["f1"] == pytest.approx(f1_right)
        assert result.figures["accuracy"] == (counts["TP"] + counts["TN"]) / (right + wrong)


@pytest.mark.parametrize("kind", ["separator", "one token"])
def test_a_step_without_text_is_rated_at_its_separator(assets, kind):
    """A whole model against plain transformers: the separator's tokens twice behind one another, read at both ends."""
    tokenizer = AutoTokenizer.from_pretrained(assets / "stories260K")
    config = AutoConfig.from_pretrained(assets / "stories260K", num_labels=2)
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(config, dtype=torch.float32).eval()
    separator = "\n\n" if kind == "separator" else "\n"
    scorer = RewardScorer(model, tokenizer, step_separator=separator)
    steps = ["One day", "", "she ran", "", ""]
    rows = [
        {"modified_question": "A girl.", "modified_process": steps, "error_steps": [2], "classification": "circular"}
    ]
    (item,) = prm_bench(scorer, rows).items
    ids, ends = [tokenizer.bos_token_id, *tokenizer("A girl.", add_special_tokens=False)["input_ids"]], []
    for step in steps:
        ids += tokenizer(step, add_special_tokens=False)["input_ids"] if step else []
        ids += tokenizer.encode(separator, add_special_tokens=False)
        ends.append(len(ids) - 1)
    with torch.no_grad():
        plain = model(input_ids=torch.tensor([ids])).logits[0, ends].softmax(-1)[:, 1]
    assert item["scores"] == pytest.approx(plain.tolist(), abs=1e-5)
    assert item["completions"] == steps and item["labels"] == [True, False, True, True, True]


def test_repeated_rows_count_once_and_the_first_of_them():
    rows = [
        row("circular", [], 0.9, idx="a"),
        row("circular", [], 0.1, idx="a"),
        row("redundency", [], 0.9, idx="a"),
        row("circular", [], 0.9),
        row("circular", [], 0.9),
    ]
    result = prm_bench(Fake(), rows)
    assert [item["row"] for item in result.items] == [0, 2, 3, 4]
    assert (result.figures["n"], result.figures["n_repeated"], result.figures["accuracy"]) == (4, 1, 1.0)


def test_error_steps_behind_the_end_mean_nothing_and_are_counted():
    figures = prm_bench(Fake(), [row("circular", [2, 3, 3], 0.9, 0.1)]).figures
    assert (figures["n_beyond"], figures["prm_score"]) == (1, 1.0)


def test_missing_error_steps_of_right_solutions():
    assert prm_bench(Fake(), [row("multi_solutions", None, 0.9)]).figures["prm_score/multi_solutions"] == 1.0
    assert "first_error_accuracy" not in prm_bench(Fake(), [row("multi_solutions", None, 0.9)]).figures


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (row("circular", None, 0.9), "'error_steps': expected the wrong steps' numbers, from 1, found None"),
        (row("circular", [0], 0.9), r"'error_steps': expected the wrong steps' numbers, from 1, found \[0\]"),
        (row("circular", ["1"], 0.9), "'error_steps': expected the wrong steps' numbers"),
        (row("circular", [True], 0.9), "'error_steps': expected the wrong steps' numbers"),
        (row(None, [1], 0.9), "'classification': expected text, found None"),
        (row("circular", [1]), r"'modified_process': expected a list of steps, found \[\]"),
        (
            {**row("circular", [1]), "modified_process": ["a", None]},
            "'modified_process': expected a list of steps",
        ),
        ({**row("circular", [1], 0.9), "modified_question": 3}, "'modified_question': expected text, found 3"),
        ({"modified_question": "q"}, r"columns \['modified_process', 'error_steps', 'classification'\] are missing"),
    ],
)
def test_a_bad_row_is_told_by_its_number(bad, error):
    scorer = Fake()
    with pytest.raises(ValueError, match=f"benchmark 'prm_bench', row 9: .*{error}"):
        prm_bench(scorer, Rows([ROWS[0], bad], numbers=[4, 9]))
    assert scorer.calls == 0


def test_a_bad_threshold_and_an_outcome_reward_model():
    with pytest.raises(ValueError, match=r"threshold='tune' is no number in \[0, 1\]"):
        prm_bench(Fake(), ROWS, threshold="tune")
    scorer = Fake()
    scorer.kind = "orm"
    with pytest.raises(ValueError, match="'prm_bench' rates steps; this model is an outcome reward model"):
        prm_bench(scorer, ROWS)


def test_detected_from_its_columns(read_rows):
    """Real steps of ProcessBench in PRMBench's columns (its own data are not among the assets)."""
    rows = [
        {
            "modified_question": one["prompt"],
            "modified_process": one["completions"],
            "error_steps": [index for index, right in enumerate(one["labels"], 1) if not right],
            "classification": "step_contradiction",
            "idx": one["id"],
        }
        for one in read_rows("processbench/gsm8k.jsonl")
    ]
    scorer = Fake()
    scorer.score_steps = lambda prompts, steps: [[0.9] * len(of) for of in steps]
    result = evaluate(scorer, rows)
    steps, wrong = sum(len(one["modified_process"]) for one in rows), sum(len(one["error_steps"]) for one in rows)
    assert (result.name, wrong, result.figures["n_steps"]) == ("prm_bench", 207, steps)
    assert result.figures["accuracy"] == pytest.approx((steps - wrong) / steps)
    assert result.figures["f1"] == pytest.approx(2 * (steps - wrong) / (2 * steps - wrong))
    assert (result.figures["negative_f1"], result.figures["first_error_accuracy"]) == (0.0, 0.0)
