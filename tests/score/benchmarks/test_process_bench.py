"""ProcessBench: hand-made rows whose figures can be checked by eye, every threshold tried, and the real files."""

import itertools
import random

import pytest

from hf_rewardplug.figures import first_below
from hf_rewardplug.score.benchmarks import detect_benchmark, evaluate
from hf_rewardplug.score.benchmarks.process_bench import Solution, best_threshold, process_bench
from hf_rewardplug.score.benchmarks.registry import Rows


class Fake:
    """A process reward model: a step's probability stands at its end ("so 4 .9")."""

    kind = "prm"

    def __init__(self, rate=lambda prompt, step: float(step.split()[-1])):
        self.rate, self.calls, self.prompts = rate, 0, None

    def score_steps(self, prompts, steps, aggregate=None):
        self.calls, self.prompts = self.calls + 1, prompts
        return [[self.rate(prompt, step) for step in of] for prompt, of in zip(prompts, steps, strict=True)]


def row(label, *probabilities, **more):
    return {"problem": "p", "steps": [f"step {value}" for value in probabilities], "label": label, **more}


ROWS = [  # prediction at 0.5, right?
    row(1, 0.9, 0.2, 0.1, id="math-0"),  # 1, yes
    row(1, 0.4, 0.2, id="math-1"),  # 0, no
    row(0, 0.9, 0.9, id="math-2"),  # -1, no
    row(0, 0.3, id="math-3"),  # 0, yes
    row(-1, 0.9, 0.5, id="math-4"),  # -1, yes: 0.5 is not below 0.5
    row(-1, 0.9, 0.4, id="gsm8k-0"),  # 1, no
    row(-1, 0.6, id="gsm8k-1"),  # -1, yes
    row(2, 0.8, 0.7, 0.1, id="gsm8k-2"),  # 2, yes
]


def test_figures_by_subset_and_their_mean():
    scorer = Fake()
    result = process_bench(scorer, ROWS)
    assert result.name == "process_bench"
    assert result.figures == pytest.approx(
        {
            "accuracy_wrong/math": 2 / 4,
            "accuracy_right/math": 1.0,
            "f1/math": 2 / 3,  # 2 * 0.5 * 1 / 1.5
            "accuracy_wrong/gsm8k": 1.0,
            "accuracy_right/gsm8k": 1 / 2,
            "f1/gsm8k": 2 / 3,
            "accuracy_wrong": 3 / 4,
            "accuracy_right": 3 / 4,
            "f1": 2 / 3,  # the mean of the two, not 3/4, the harmonic mean of the means
            "n": 8,
            "n/math": 5,
            "n/gsm8k": 3,
            "n_wrong": 5,
            "n_wrong/math": 4,
            "n_wrong/gsm8k": 1,
            "threshold": 0.5,
        }
    )
    assert [item["prediction"] for item in result.items] == [1, 0, -1, 0, -1, 1, -1, 2]
    assert result.items[1] == {
        "row": 1,
        "prompt": "p",
        "completions": ["step 0.4", "step 0.2"],
        "scores": [0.4, 0.2],
        "label": 1,
        "prediction": 0,
        "right": False,
        "subset": "math",
    }
    assert scorer.calls == 1


@pytest.mark.parametrize("label", [-1, 0, 1, 2])
@pytest.mark.parametrize("columns", ["process_bench", "stepwise"])
def test_steps_without_text_are_rated(label, columns):
    """An empty step is found wrong by this model, so that it is the first wrong one."""
    steps = ["a .9", "", "b .9"]
    rows = [{"problem": "p", "steps": steps, "label": label}, row(0, 0.1), row(-1, 0.9)]
    if columns == "stepwise":
        rows = [
            {
                "prompt": "p",
                "completions": one["steps"],
                "labels": [one["label"] != index for index, _ in enumerate(one["steps"])],
            }
            for one in rows
        ]
    scorer = Fake(lambda prompt, step: float(step.split()[-1]) if step.strip() else 0.3)
    item = process_bench(scorer, rows).items[0]
    assert (item["completions"], item["prediction"], item["right"]) == (steps, 1, label == 1)


def test_another_threshold():
    figures = process_bench(Fake(), ROWS[:5], threshold=0.25).figures
    # predictions 1, 1, -1, -1, -1
    assert (figures["accuracy_wrong"], figures["accuracy_right"], figures["threshold"]) == (0.5, 1.0, 0.25)


def test_without_subsets_the_figures_stand_once():
    figures = process_bench(Fake(), [{**one, "id": "mine"} for one in ROWS]).figures
    assert set(figures) == {"f1", "accuracy_wrong", "accuracy_right", "n", "n_wrong", "threshold"}
    assert (figures["accuracy_wrong"], figures["accuracy_right"], figures["f1"]) == (0.6, 2 / 3, pytest.approx(12 / 19))


def test_a_model_that_passes_everything_has_no_f1():
    figures = process_bench(Fake(lambda prompt, step: 1.0), ROWS).figures
    assert (figures["accuracy_wrong"], figures["accuracy_right"], figures["f1"]) == (0.0, 1.0, 0.0)


def test_a_model_that_is_never_right_has_no_f1_either():
    rows = [row(1, 0.1, 0.1), row(-1, 0.1)]
    assert process_bench(Fake(), rows).figures["f1"] == 0.0


def test_the_columns_of_subsets():
    for one, subset in (
        ({"subset": "a", "split": "b", "id": "math-0"}, "a"),
        ({"subset": None, "split": "b", "id": "math-0"}, "b"),
        ({"id": "omnimath-17"}, "omnimath"),
        ({"id": "mathematics-17"}, ""),
        ({"id": 3}, ""),
    ):
        rows = [row(0, 0.1, **one), row(-1, 0.9, **one)]
        assert [item["subset"] for item in process_bench(Fake(), rows).items] == [subset, subset]


def test_stepwise_rows():
    """Labels up to the first error; the steps behind it are read by the model, too."""
    rows = [
        {"prompt": "p", "completions": ["a .9", "b .1"], "labels": [True, False], "steps_after_first_error": ["c .8"]},
        {"prompt": "p", "completions": ["a .9", "b .8"], "labels": [True, 1.0], "first_error": -1},
        {"prompt": "p", "completions": ["a .1", "b .8", "c .8"], "labels": [0, -100, 1], "first_error": 0},
    ]
    assert detect_benchmark(list(rows[0]), rows[0]).name == "process_bench.stepwise"
    result = evaluate(Fake(), rows)
    assert [item["label"] for item in result.items] == [1, -1, 0]
    assert [item["scores"] for item in result.items] == [[0.9, 0.1, 0.8], [0.9, 0.8], [0.1, 0.8, 0.8]]
    assert result.figures["f1"] == 1.0
    assert (
        process_bench(Fake(), [*rows, {**rows[0], "completions": ["a .1", "b .1"]}]).figures["accuracy_wrong"] == 2 / 3
    )


def test_problems_as_turns():
    scorer = Fake()
    process_bench(scorer, ROWS, chat=True)
    assert scorer.prompts[0] == [{"role": "user", "content": "p"}]


# ---- the threshold ---------------------------------------------------------------------------------------------------


def f1_at(threshold, solutions, probabilities):
    """The slow twin of the curves in `best_threshold`."""
    by_subset = {}
    for one, steps in zip(solutions, probabilities, strict=True):
        hits = by_subset.setdefault(one.subset, {True: [], False: []})
        hits[one.first_error >= 0].append(first_below(steps, threshold) == one.first_error)
    f1s = []
    for hits in by_subset.values():
        wrong, right = (sum(hits[kind]) / len(hits[kind]) for kind in (True, False))
        f1s.append(2 * wrong * right / (wrong + right) if wrong + right else 0.0)
    return sum(f1s) / len(f1s)


@pytest.mark.parametrize("seed", range(20))
def test_no_threshold_is_better(seed):
    draw = random.Random(seed)
    solutions, probabilities = [], []
    for index in range(24):
        steps = [draw.choice([0.0, 1.0, draw.random(), round(draw.random(), 1)]) for _ in range(draw.randint(1, 4))]
        label = draw.randrange(len(steps)) if index % 2 else -1
        solutions.append(Solution("p", ["a"] * len(steps), label, "ab"[index // 2 % 2]))
        probabilities.append(steps)
    found = best_threshold(solutions, probabilities)
    ends = sorted({0.0, 1.0, *itertools.chain(*probabilities)})
    tried = [f1_at(value, solutions, probabilities) for a, b in itertools.pairwise(ends) for value in ((a + b) / 2, b)]
    assert 0 < found < 1
    assert f1_at(found, solutions, probabilities) == pytest.approx(max(tried))


def test_the_middle_of_the_best_interval_and_of_several_the_nearest_to_one_half():
    good, bad = Solution("p", ["a"], -1), Solution("p", ["a"], 0)
    assert best_threshold([good, bad], [[0.9], [0.2]]) == pytest.approx(0.55)
    both = [good, good, bad, bad]  # F1 is 2/3 up to 0.1 and above 0.6; 1 is nowhere: 0.7 > 0.6 fits, 0.1 < 0.4 does not
    assert best_threshold(both, [[0.7], [0.1], [0.4], [0.05]]) == pytest.approx(0.55)


def test_tuning_leaves_its_problems_out():
    rows = [
        {**row(label, 0.9, value), "problem": f"problem {n}"}
        for n in range(60)
        for label, value in ((1, 0.3), (-1, 0.4))
    ]
    scorer = Fake()
    result = process_bench(scorer, rows, threshold="tune", tune_share=0.3)
    figures = result.figures
    assert figures["threshold"] == pytest.approx(0.35) and figures["f1"] == 1.0
    assert figures["n_tune"] + figures["n"] == 120 and 12 <= figures["n_tune"] <= 60
    assert len({item["prompt"] for item in result.items}) == figures["n"] / 2  # both solutions of a problem on one side
    assert scorer.calls == 1
    again = process_bench(Fake(), rows[::-1], threshold="tune", tune_share=0.3)
    assert {item["prompt"] for item in again.items} == {item["prompt"] for item in result.items}
    assert result.items[0]["row"] == rows.index(
        next(one for one in rows if one["problem"] == result.items[0]["prompt"])
    )


def test_tuning_rows_of_their_own():
    tune_rows = [row(0, 0.6), row(-1, 0.8)]
    result = process_bench(Fake(), ROWS, threshold="tune", tune_rows=tune_rows)
    assert result.figures["threshold"] == pytest.approx(0.7)
    assert (result.figures["n_tune"], result.figures["n"]) == (2, 8)
    assert [item["prediction"] for item in result.items] == [1, 0, -1, 0, 1, 1, 0, 2]


# ---- errors ----------------------------------------------------------------------------------------------------------

STEPWISE = {"prompt": "p", "completions": ["a .9", "b .1"], "labels": [1, 0]}


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (row(3, 0.1), "row 7: column 'label': the first wrong step is 3, outside the 1 steps"),
        ({**row(0, 0.1), "steps": "a"}, "row 7: column 'steps': expected a list, found 'a'"),
        ({**row(0, 0.1), "steps": ["a", None]}, "row 7: column 'completions': step 1 is None; expected text"),
        ({"problem": "p", "steps": ["a"]}, r"row 7: columns \['label'\] are missing; found"),
    ],
)
def test_a_bad_row_is_told_by_its_number(bad, error):
    with pytest.raises(ValueError, match=f"benchmark 'process_bench', {error}"):
        process_bench(Fake(), Rows([ROWS[0], bad], numbers=[3, 7]))


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({**STEPWISE, "labels": [-100, 0]}, "'labels': step 0 is unlabelled, and no step before it is wrong"),
        ({**STEPWISE, "first_error": 0}, "'first_error': is 0, but the labels' first wrong step is 1"),
        ({**STEPWISE, "steps_after_first_error": "c"}, "'steps_after_first_error': expected steps behind a wrong one"),
        ({**STEPWISE, "labels": [1, 1], "steps_after_first_error": ["c"]}, "expected steps behind a wrong one"),
        ({"prompt": "p", "completions": ["a"]}, r"columns \['labels'\] are missing"),
    ],
)
def test_a_bad_stepwise_row(bad, error):
    with pytest.raises(ValueError, match=f"benchmark 'process_bench', row 1: .*{error}"):
        process_bench(Fake(), [STEPWISE, bad])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"threshold": 1.5}, r"threshold=1.5 is no number in \[0, 1\]. Give one, or 'tune'"),
        ({"threshold": "best"}, "threshold='best' is no number"),
        ({"threshold": "tune", "tune_share": 1}, "tune_share=1 is not between 0 and 1"),
        ({"tune_rows": ROWS}, "tune_rows are given, and threshold=0.5 needs none"),
        (
            {"threshold": "tune", "tune_rows": [row(9, 0.1)]},
            "tune_rows: benchmark 'process_bench', row 0: column 'label'",
        ),
        (
            {"threshold": "tune", "tune_rows": ROWS[:2]},
            "tuning rows of math hold 2 solutions with a wrong step and 0 w",
        ),
        ({"threshold": "tune"}, "F1 needs both. Take more rows, or another tune_share"),
    ],
)
def test_bad_options(options, error):
    scorer = Fake()
    with pytest.raises(ValueError, match=error):
        process_bench(scorer, ROWS, **options)
    assert scorer.calls == 0  # before the long part


def test_one_kind_of_rows_is_an_error_before_scoring():
    scorer = Fake()
    with pytest.raises(ValueError, match="the rows hold 0 solutions with a wrong step and 1 without; F1 needs both"):
        process_bench(scorer, [row(-1, 0.9)])
    assert scorer.calls == 0


def test_an_outcome_reward_model_is_refused():
    scorer = Fake()
    scorer.kind = "orm"
    with pytest.raises(ValueError, match="'process_bench' rates steps; this model is an outcome reward model"):
        process_bench(scorer, ROWS)


@pytest.mark.parametrize("value", [float("nan"), 1.5, -0.1])
def test_scores_that_are_no_probabilities_are_refused(value):
    with pytest.raises(
        ValueError, match=r"'process_bench', row 0: the scorer gave \[.*\] for 3 steps. Expected a prob"
    ):
        process_bench(Fake(lambda prompt, step: value), ROWS)


def test_missing_scores_are_refused():
    scorer = Fake()
    scorer.score_steps = lambda prompts, steps: [[0.5] for _ in prompts]
    with pytest.raises(ValueError, match=r"row 4: the scorer gave \[0.5\] for 2 steps"):
        process_bench(scorer, Rows(ROWS[3:5], numbers=[3, 4]))


# ---- real rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count", "wrong"), [("gsm8k", 400, 207), ("math", 1000, 594)])
def test_the_real_files(assets, read_rows, name, count, wrong):
    """The counts are those of ProcessBench's own code; a model that knows the labels gets everything right."""
    known = {
        (one["prompt"], step): float(right)
        for one in read_rows(f"processbench/{name}.jsonl")
        for step, right in zip(one["completions"], one["labels"], strict=True)
    }
    oracle = Fake(lambda prompt, step: known.get((prompt, step), 0.0))
    figures = evaluate(oracle, str(assets / "processbench" / f"{name}.jsonl")).figures
    assert (figures["n"], figures["n_wrong"], figures[f"n/{name}"]) == (count, wrong, count)
    assert figures["f1"] == figures[f"f1/{name}"] > 0.99  # a step may stand twice, once right and once wrong
    passing = evaluate(Fake(lambda prompt, step: 0.9), "process_bench", data=assets / "processbench" / f"{name}.jsonl")
    assert (passing.figures["accuracy_wrong"], passing.figures["accuracy_right"]) == (0.0, 1.0)


def test_both_real_files(read_rows):
    rows = [one for name in ("gsm8k", "math") for one in read_rows(f"processbench/{name}.jsonl")]
    result = process_bench(Fake(lambda prompt, step: len(step) % 100 / 100), rows, threshold="tune")
    figures = result.figures
    assert figures["f1"] == pytest.approx((figures["f1/gsm8k"] + figures["f1/math"]) / 2)
    assert figures["n"] + figures["n_tune"] == 1400 and 200 < figures["n_tune"] < 360
