"""BIG-Bench-Mistake: exact places by hand, in the columns of its own files."""

import json

import pytest

from hf_rewardplug.score.benchmarks import detect_benchmark, evaluate
from hf_rewardplug.score.benchmarks.big_bench_mistake import TASKS, big_bench_mistake
from hf_rewardplug.score.benchmarks.registry import Rows


class Fake:
    """A process reward model: a step's probability stands at its end ("so 4 .9"); 0.3 for a step without text."""

    kind = "prm"

    def __init__(self):
        self.calls, self.prompts, self.steps = 0, None, None

    def score_steps(self, prompts, steps, aggregate=None):
        self.calls, self.prompts, self.steps = self.calls + 1, prompts, steps
        return [[float(step.split()[-1]) if step.strip() else 0.3 for step in of] for of in steps]


def row(mistake, *probabilities, **more):
    steps = [f"so {value}" for value in probabilities]
    return {"input": "b a", "steps": steps, "target": "a b", "answer": "a b", "mistake_index": mistake, **more}


ROWS = [  # found at 0.5, right?
    row(1, 0.9, 0.2, 0.1, task="word_sorting"),  # 1, yes
    row(1, 0.4, 0.2, task="word_sorting"),  # 0, no
    row(0, 0.9, 0.9, task="word_sorting"),  # none, no
    row(None, 0.9, 0.5, task="word_sorting"),  # none, yes: 0.5 is not below 0.5
    row(None, 0.9, 0.4, task="dyck_languages"),  # 1, no
    row(2, 0.8, 0.7, 0.1, task="dyck_languages"),  # 2, yes
]


def test_figures_by_task():
    scorer = Fake()
    result = big_bench_mistake(scorer, ROWS)
    assert result.figures == pytest.approx(
        {
            "accuracy": 3 / 6,
            "accuracy_wrong": 2 / 4,
            "accuracy_right": 1 / 2,
            "n": 6,
            "n_wrong": 4,
            "accuracy/word_sorting": 2 / 4,
            "accuracy_wrong/word_sorting": 1 / 3,
            "accuracy_right/word_sorting": 1.0,
            "n/word_sorting": 4,
            "n_wrong/word_sorting": 3,
            "accuracy/dyck_languages": 1 / 2,
            "accuracy_wrong/dyck_languages": 1.0,
            "accuracy_right/dyck_languages": 0.0,
            "n/dyck_languages": 2,
            "n_wrong/dyck_languages": 1,
            "task_accuracy": 1 / 2,
            "threshold": 0.5,
        }
    )
    assert [item["prediction"] for item in result.items] == [1, 0, -1, -1, 1, 2]
    assert result.items[1] == {
        "row": 1,
        "prompt": "b a",
        "completions": ["so 0.4", "so 0.2"],
        "scores": [0.4, 0.2],
        "label": 1,
        "prediction": 0,
        "right": False,
        "subset": "word_sorting",
    }
    assert scorer.calls == 1


def test_tasks_of_different_sizes_count_alike_in_their_mean():
    figures = big_bench_mistake(Fake(), [ROWS[0], ROWS[0], ROWS[0], ROWS[4]]).figures
    assert (figures["accuracy"], figures["task_accuracy"]) == (3 / 4, 1 / 2)


def test_another_threshold():
    found = [item["prediction"] for item in big_bench_mistake(Fake(), ROWS, threshold=0.15).items]
    assert found == [2, -1, -1, -1, -1, 2]


def test_without_tasks_the_figures_stand_once():
    figures = big_bench_mistake(Fake(), [row(1, 0.9, 0.2), row(None, 0.9)]).figures
    assert set(figures) == {
        "accuracy",
        "accuracy_wrong",
        "accuracy_right",
        "n",
        "n_wrong",
        "task_accuracy",
        "threshold",
    }
    assert "accuracy_right" not in big_bench_mistake(Fake(), [row(1, 0.9, 0.2)]).figures


@pytest.mark.parametrize("task", TASKS)
def test_a_file_tells_its_task(tmp_path, task):
    file = tmp_path / f"{task}.jsonl"
    lines = [{key: value for key, value in one.items() if key != "task"} for one in ROWS]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = evaluate(Fake(), file)
    assert (result.name, result.figures[f"n/{task}"]) == ("big_bench_mistake", 6)


def test_a_folder_of_its_files(tmp_path):
    for task in TASKS:
        (tmp_path / f"{task}.jsonl").write_text(json.dumps(row(1, 0.9, 0.1 if task < "m" else 0.9)) + "\n")
    figures = evaluate(Fake(), tmp_path).figures
    assert [figures[f"accuracy/{task}"] for task in TASKS] == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert (figures["n"], figures["task_accuracy"]) == (5, 2 / 5)


def test_an_option_or_a_column_tells_the_task():
    rows = [{**row(1, 0.9, 0.2), "subset": "mine"}, row(1, 0.9, 0.2)]
    figures = big_bench_mistake(Fake(), Rows(rows, files=["dyck_languages", "rows"]), task="word_sorting").figures
    assert (figures["n/mine"], figures["n/word_sorting"]) == (1, 1)


def test_steps_without_text_are_rated():
    """One of the 2,186 traces has such a step."""
    (item,) = big_bench_mistake(Fake(), [{**row(1), "steps": ["a .9", "", "b .1"]}]).items
    assert (item["completions"], item["prediction"], item["right"]) == (["a .9", "", "b .1"], 1, True)


def test_what_the_model_is_asked():
    scorer = Fake()
    big_bench_mistake(scorer, ROWS[3:5], instruction="Sort: ")
    assert scorer.prompts == ["Sort: b a", "Sort: b a"]
    big_bench_mistake(scorer, ROWS[3:5], instruction={"dyck_languages": "Close: "}, chat=True)
    assert scorer.prompts == [[{"role": "user", "content": "b a"}], [{"role": "user", "content": "Close: b a"}]]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"mistake_index": 2}, "'mistake_index': is 2, and there are 2 steps, counted from 0"),
        ({"mistake_index": -1}, "'mistake_index': is -1, and there are 2 steps, counted from 0"),
        ({"mistake_index": 0.5}, "'mistake_index': expected a whole number, found 0.5"),
        ({"mistake_index": "1"}, "'mistake_index': expected a finite number, found '1'"),
        ({"steps": []}, r"'steps': expected a list of steps, found \[\]"),
        ({"steps": ["a", None]}, "'steps': expected a list of steps, found"),
        ({"input": None}, "'input': expected text, found None"),
    ],
)
def test_a_bad_row_is_told_by_its_number(change, error):
    scorer = Fake()
    with pytest.raises(ValueError, match=f"benchmark 'big_bench_mistake', row 7: column {error}"):
        big_bench_mistake(scorer, Rows([ROWS[0], {**ROWS[1], **change}], numbers=[3, 7]))
    assert scorer.calls == 0


def test_a_bad_threshold_and_an_outcome_reward_model():
    with pytest.raises(ValueError, match=r"threshold=2 is no number in \[0, 1\]. Give one"):
        big_bench_mistake(Fake(), ROWS, threshold=2)
    scorer = Fake()
    scorer.kind = "orm"
    with pytest.raises(ValueError, match="'big_bench_mistake' rates steps; this model is an outcome reward model"):
        big_bench_mistake(scorer, ROWS)


def test_detected_from_its_columns():
    assert detect_benchmark(list(row(1, 0.9, 0.2)), row(None, 0.9)).name == "big_bench_mistake"
