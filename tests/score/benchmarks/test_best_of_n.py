"""Best of n: every closed form against all subsets, two rows worked out by hand, draws against the truth."""

import itertools
import random
from statistics import fmean

import pytest

from hf_rewardplug.score.benchmarks import detect_benchmark, evaluate
from hf_rewardplug.score.benchmarks.best_of_n import best_of_n, expected_pass, expected_pick, expected_vote
from hf_rewardplug.score.benchmarks.registry import Rows


class Orm:
    kind = "orm"

    def __init__(self, rate=lambda prompt, text: float(text.split()[-1])):
        self.rate, self.calls, self.asked = rate, 0, None

    def score(self, prompts, completions):
        self.calls, self.asked = self.calls + 1, completions
        return [[self.rate(prompt, one) for one in of] for prompt, of in zip(prompts, completions, strict=True)]


class Prm(Orm):
    kind = "prm"

    def score_steps(self, prompts, steps, aggregate=None):
        self.calls, self.asked = self.calls + 1, steps
        return [self.rate(prompt, one) for prompt, one in zip(prompts, steps, strict=True)]


def subsets(total, size):
    return list(itertools.combinations(range(total), size))


# ---- closed forms against all subsets --------------------------------------------------------------------------------


def brute_pick(scores, correct, size):
    picks = []
    for chosen in subsets(len(scores), size):
        best = max(scores[index] for index in chosen)
        picks.append(fmean(correct[index] for index in chosen if scores[index] == best))
    return fmean(picks)


def brute_vote(answers, correct, weights, size):
    votes = []
    for chosen in subsets(len(answers), size):
        sums = {}
        for index in chosen:
            if answers[index] is not None:
                sums[answers[index]] = sums.get(answers[index], 0) + weights[index]
        winners = [answer for answer, total in sums.items() if abs(total - max(sums.values())) < 1e-9]
        votes.append(fmean(correct[answers.index(answer)] for answer in winners) if winners else 0.0)
    return fmean(votes)


@pytest.mark.parametrize("seed", range(12))
def test_expectations_are_those_of_all_subsets(seed):
    draw = random.Random(seed)
    total = draw.randint(1, 9)
    scores = [draw.choice([0.1, 0.2, 0.3, draw.random()]) for _ in range(total)]  # with ties
    answers = [draw.choice(["7", "8", "9", None]) for _ in range(total)]
    right = {"7": True, "8": False, "9": draw.random() < 0.5, None: False}
    correct = [right[answer] for answer in answers]
    for size in range(1, total + 1):
        assert expected_pick(scores, correct, size) == pytest.approx(brute_pick(scores, correct, size))
        any_right = fmean(any(correct[index] for index in chosen) for chosen in subsets(total, size))
        assert expected_pass(correct, size) == pytest.approx(any_right)
        for weights in ([1.0] * total, scores, [score - 0.25 for score in scores]):
            found = expected_vote(answers, correct, weights, size, draws=1000, seed=0)
            assert found == pytest.approx(brute_vote(answers, correct, weights, size))


def test_many_samples_stay_exact():
    """N = 1,000: the best 10 are right, so that a pick is right where a subset has one of them."""
    correct = [index < 10 for index in range(1000)]
    scores = [-index for index in range(1000)]
    missed = 1.0
    for index in range(32):
        missed *= (990 - index) / (1000 - index)
    assert expected_pick(scores, correct, 32) == pytest.approx(1 - missed, rel=1e-12)
    assert expected_pass(correct, 32) == pytest.approx(1 - missed, rel=1e-12)
    assert expected_pick(scores, correct, 1) == pytest.approx(0.01)
    assert expected_pick(scores, correct, 1000) == 1.0


def test_draws_are_near_the_truth_and_the_same_each_time():
    draw = random.Random(1)
    answers = [draw.choice("aabc") for _ in range(12)]
    correct, weights = [answer == "a" for answer in answers], [draw.random() for _ in answers]
    for votes in ([1.0] * 12, weights):
        truth = brute_vote(answers, correct, votes, 5)
        exact = expected_vote(answers, correct, votes, 5, draws=792, seed=0)  # C(12, 5)
        drawn = expected_vote(answers, correct, votes, 5, draws=791, seed=0)
        assert exact == pytest.approx(truth) and drawn != exact
        assert abs(drawn - truth) < 4 * 0.5 / 791**0.5
        assert drawn == expected_vote(answers, correct, votes, 5, draws=791, seed=0)
        assert drawn != expected_vote(answers, correct, votes, 5, draws=791, seed=1)


def test_every_subset_is_drawn_equally_often():
    """Four different answers, the right one with the most weight: it wins in the half of the pairs that hold it."""
    found = expected_vote(list("abcd"), [True, False, False, False], [4.0, 3.0, 2.0, 1.0], 2, draws=5, seed=0)
    assert found in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    many = [
        expected_vote(list("abcd"), [True, False, False, False], [4.0, 3, 2, 1], 2, draws=5, seed=s) for s in range(400)
    ]
    assert abs(fmean(many) - 0.5) < 0.05  # 2,000 draws, standard error 0.011


def test_samples_without_an_answer_have_no_vote():
    assert expected_vote([None, None, "7"], [False, False, True], [9.0, 9.0, 0.0], 3, draws=9, seed=0) == 1.0
    assert expected_vote([None, None, "7"], [False, False, True], [9.0, 9.0, 0.0], 1, draws=9, seed=0) == pytest.approx(
        1 / 3
    )
    assert expected_vote([None], [True], [1.0], 1, draws=9, seed=0) == 0.0


def official_pick(scores, correct, answers, size):
    """All subsets of `size`, as prm800k's estimator takes each of its random ones: samples without an answer are left
    out, then the highest score is taken (the first of equal ones, in a random order); nothing left is wrong."""
    picks = []
    for chosen in subsets(len(scores), size):
        left = [index for index in chosen if answers[index] is not None]
        best = max((scores[index] for index in left), default=None)
        picks.append(fmean(correct[index] for index in left if scores[index] == best) if left else 0.0)
    return fmean(picks)


@pytest.mark.parametrize(
    ("scores", "answers", "correct", "expected"),
    [
        ([0.9, 0.5], [None, "7"], [False, True], {"rm@1": 0.5, "rm@2": 1.0}),  # one of the two, then "7"
        ([0.9, 0.5], [None, None], [False, False], {"rm@1": 0.0, "rm@2": 0.0}),
        ([0.9, 0.5], [None, "7"], [True, False], {"rm@1": 0.0, "rm@2": 0.0}),  # no answer is no right answer
        ([0.5, 0.5], [None, "7"], [False, True], {"rm@1": 0.5, "rm@2": 1.0}),  # a tie with it is none
        ([0.9, 0.7, 0.5], [None, "7", "8"], [False, False, True], {"rm@1": 1 / 3, "rm@2": 1 / 3, "rm@3": 0.0}),
    ],
)
def test_samples_without_an_answer_are_never_picked(scores, answers, correct, expected):
    row = {"prompt": "p", "completions": [f"a {score}" for score in scores], "correct": correct, "answers": answers}
    result = best_of_n(Orm(), [row])
    assert {name: result.figures[name] for name in expected} == pytest.approx(expected)
    assert result.items[0]["right"] == expected[f"rm@{len(scores)}"]
    assert result.items[0]["scores"] == scores
    steps = best_of_n(Prm(lambda prompt, steps: [float(steps[0].split()[-1])]), [row]).figures
    for curve in ("rm_min", "rm_prod", "rm_last", "rm_mean"):
        assert {f"rm@{size}": steps[f"{curve}@{size}"] for size in (1, 2)} == pytest.approx(
            {name: expected[name] for name in ("rm@1", "rm@2")}
        )


@pytest.mark.parametrize("seed", range(8))
def test_picks_are_those_of_the_official_estimator(seed):
    draw = random.Random(seed)
    rows = []
    for _ in range(3):
        answers = [draw.choice(["7", "8", None, None]) for _ in range(6)]
        scores = [draw.choice([0.1, 0.2, draw.random()]) for _ in answers]
        correct = [answer == "7" for answer in answers]
        completions = [f"a {score}" for score in scores]
        rows.append({"prompt": "p", "completions": completions, "correct": correct, "answers": answers})
    figures = best_of_n(Orm(), rows).figures
    for size in (1, 2, 4, 6):
        truth = [
            official_pick([float(one.split()[-1]) for one in row["completions"]], row["correct"], row["answers"], size)
            for row in rows
        ]
        assert figures[f"rm@{size}"] == pytest.approx(fmean(truth))


# ---- whole runs, by hand ---------------------------------------------------------------------------------------------

ROWS = [
    {"prompt": "p", "completions": ["a 3", "b 1", "c 2"], "correct": [True, False, False], "answers": ["7", "8", "8"]},
    {"prompt": "q", "completions": ["a 0", "b 5", "c 0"], "correct": [True, False, True], "answers": ["7", "8", "7"]},
]


def test_an_outcome_reward_model():
    scorer = Orm()
    result = best_of_n(scorer, ROWS)
    # row 0: the best is right. Pairs: ac right, ab right, bc wrong -> 2/3; pass the same
    # row 1: the best is wrong. Pairs: ab wrong, bc wrong, ac (a tie of two right ones) right -> 1/3; pass 1
    # majority of pairs, row 0: ab tie, ac tie, bc wrong -> 1/3; row 1: ab tie, bc tie, ac right -> 2/3; of three: 0, 1
    # weights, row 0: sigmoid(3, 1, 2) = .953 .731 .881: ab right, ac right, bc wrong; of three .953 < 1.612, wrong
    # row 1: sigmoid(0, 5, 0) = .5 .993 .5: ab wrong, bc wrong, ac right; of three 1 > .993, right
    assert result.figures == pytest.approx(
        {
            "mean": (1 / 3 + 2 / 3) / 2,
            "rm@1": 1 / 2,
            "pass@1": 1 / 2,
            "majority@1": 1 / 2,
            "weighted@1": 1 / 2,
            "rm@2": (2 / 3 + 1 / 3) / 2,
            "pass@2": (2 / 3 + 1) / 2,
            "majority@2": (1 / 3 + 2 / 3) / 2,
            "weighted@2": (2 / 3 + 1 / 3) / 2,
            "rm@3": 1 / 2,
            "pass@3": 1.0,
            "majority@3": 1 / 2,
            "weighted@3": 1 / 2,
            "n": 2,
            "samples": 3,
        }
    )
    assert result.items[1]["figures"]["weighted@3"] == 1.0 and result.items[0]["figures"]["weighted@3"] == 0.0
    item = {key: value for key, value in result.items[1].items() if key != "figures"}
    assert item == {
        "row": 1,
        "prompt": "q",
        "completions": ["a 0", "b 5", "c 0"],
        "scores": [0.0, 5.0, 0.0],
        "correct": [True, False, True],
        "right": 0.0,
    }
    assert scorer.calls == 1 and detect_benchmark(list(ROWS[0]), ROWS[0]).name == "best_of_n"


def test_a_process_reward_model_by_each_aggregate():
    steps = {"x": [0.9, 0.5], "y": [0.6, 0.8], "z": [0.7, 0.6]}
    #           min    prod   last   mean
    # x right   0.5    0.45   0.5    0.7
    # y wrong   0.6    0.48   0.8    0.7
    # z wrong   0.6    0.42   0.6    0.65
    scorer = Prm(lambda prompt, solution: steps[solution[0]])
    row = {"prompt": "p", "completions": ["x\n\nrest", ["y", "rest"], "z\n\nrest"], "correct": [1, 0, 0]}
    figures = best_of_n(scorer, [row]).figures
    assert {name: figures[f"rm_{name}@3"] for name in ("min", "prod", "last", "mean")} == {
        "min": 0.0,
        "prod": 0.0,
        "last": 0.0,
        "mean": 0.5,  # a tie of x and y
    }
    # pairs xy, xz, yz: the product picks y, x, y; the mean x or y, x, y
    assert figures["rm_prod@2"] == pytest.approx(1 / 3)
    assert figures["rm_mean@2"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert figures["rm_min@2"] == figures["rm_last@2"] == 0.0
    assert not any("majority" in name or "weighted" in name for name in figures)


def test_a_process_reward_model_votes():
    scorer = Prm(lambda prompt, solution: [float(step) for step in solution])
    row = {"prompt": "p", "completions": [["0.9"], ["0.4"], ["0.4"]], "correct": [1, 0, 0], "answers": ["7", "8", "8"]}
    figures = best_of_n(scorer, [row]).figures
    assert figures["weighted_min@3"] == figures["weighted_prod@3"] == 1.0  # 0.9 > 0.4 + 0.4: no sigmoid
    assert figures["majority@3"] == 0.0


def test_sizes_end_at_the_fewest_samples():
    rows = [
        {"prompt": "p", "completions": ["a 1"] * 9, "correct": [True] * 9},
        {"prompt": "q", "completions": ["a 1", "b 2", "c 3", "d 4"], "correct": [False, False, False, True]},
    ]
    figures = best_of_n(Orm(), rows).figures
    assert {name for name in figures if name.startswith("rm")} == {"rm@1", "rm@2", "rm@4"}
    assert (figures["samples"], figures["rm@2"], figures["rm@4"]) == (4, (1 + 1 / 2) / 2, 1.0)
    figures = best_of_n(Orm(), rows[:1]).figures
    assert {name for name in figures if name.startswith("rm")} == {"rm@1", "rm@2", "rm@4", "rm@8", "rm@9"}
    single = best_of_n(Orm(), [{"prompt": "p", "completions": ["a 1"], "correct": [True]}]).figures
    assert single == {"mean": 1.0, "rm@1": 1.0, "pass@1": 1.0, "n": 1, "samples": 1}


def test_what_the_models_are_asked():
    messages = [{"role": "assistant", "content": "c"}]
    row = {"prompt": "p", "completions": ["a\n\nb", ["a", "b"], messages], "correct": [1, 1, 1]}
    scorer = Orm(lambda prompt, one: 0.0)
    best_of_n(scorer, [row])
    assert scorer.asked == [["a\n\nb", "a\n\nb", messages]]
    scorer = Prm(lambda prompt, one: [0.5] * len(one))
    best_of_n(scorer, [{**row, "completions": ["a|b| ", ["a", " ", "b"], "c"]}], step_separator="|")
    assert scorer.asked == [["a", "b"], ["a", "b"], ["c"]] and scorer.calls == 1


def test_votes_do_not_change_with_the_rows_beside():
    draw = random.Random(0)
    rows = [
        {
            "prompt": "p",
            "completions": [f"a {draw.random()}" for _ in range(20)],
            "correct": [answer == "7" for answer in answers],
            "answers": answers,
        }
        for answers in ([draw.choice("778") for _ in range(20)] for _ in range(3))
    ]
    whole = best_of_n(Orm(), rows, draws=50)
    part = best_of_n(Orm(), Rows(rows[2:], numbers=[2]), draws=50)
    assert whole.items[2] == part.items[0]
    twins = best_of_n(Orm(), [rows[0], rows[0]], draws=50).items
    assert twins[0]["figures"] != twins[1]["figures"]  # the draws of one row do not repeat the errors of another


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"correct": [True]}, "column 'correct': 1 values for 3 completions"),
        ({"correct": [True, None, False]}, "column 'correct': expected True or False, found None"),
        ({"correct": [1, 0, 2]}, "column 'correct': expected True or False, found 2"),
        ({"answers": ["7", "8"]}, "column 'answers': 2 values for 3 completions"),
        ({"answers": ["7", "8", 9]}, "column 'answers': expected text or None, found 9"),
        ({"answers": ["7", "7", "8"]}, "column 'answers': '7' is right in one completion and wrong in another"),
        ({"answers": "788"[:2]}, "column 'answers': expected a list, found '78'"),
        ({"completions": []}, "column 'completions': there are no completions"),
        ({"completions": "abc"}, "column 'completions': expected a list, found 'abc'"),
        ({"completions": ["a", "b", None]}, "column 'completions': expected text, steps or messages, found None"),
        ({"prompt": None}, "column 'prompt': expected text or messages, found None"),
        ({"answers": None}, "column 'answers' is missing, and other rows have it. Give every row its answers, or none"),
    ],
)
def test_a_bad_row_is_told_by_its_number(change, error):
    scorer = Orm()
    with pytest.raises(ValueError, match=f"benchmark 'best_of_n', row 6: {error}"):
        best_of_n(scorer, Rows([ROWS[0], {**ROWS[0], **change}], numbers=[2, 6]))
    assert scorer.calls == 0


def test_missing_columns_and_bad_options():
    with pytest.raises(ValueError, match=r"'best_of_n', row 0: columns \['correct'\] are missing"):
        best_of_n(Orm(), [{"prompt": "p", "completions": ["a"]}])
    with pytest.raises(ValueError, match=r"draws=0 is no number of subsets. Give 1 or more"):
        best_of_n(Orm(), ROWS, draws=0)


def test_scores_that_are_no_numbers():
    with pytest.raises(ValueError, match="benchmark 'best_of_n', example 0: the scores are"):
        best_of_n(Orm(lambda prompt, text: float("nan")), ROWS)
    with pytest.raises(ValueError, match=r"benchmark 'best_of_n', row 0: the scorer gave \[\] for 1 steps"):
        best_of_n(Prm(lambda prompt, steps: []), ROWS)


# ---- real rows -------------------------------------------------------------------------------------------------------


def test_real_solutions_of_the_same_problems(read_rows):
    """ProcessBench has several solutions of some problems; its labels pick what its final answers allow."""
    problems = {}
    for one in read_rows("processbench/gsm8k.jsonl") + read_rows("processbench/math.jsonl"):
        problems.setdefault(one["prompt"], []).append(one)
    rows = [
        {
            "prompt": prompt,
            "completions": [one["completions"] for one in several],
            "correct": [one["final_answer_correct"] for one in several],
            "known": [one["first_error"] for one in several],
        }
        for prompt, several in problems.items()
        if len(several) > 1
    ]
    first_errors = {
        tuple(steps): error for row in rows for steps, error in zip(row["completions"], row["known"], strict=True)
    }
    labels = Prm(lambda prompt, steps: [float(index != first_errors[tuple(steps)]) for index in range(len(steps))])
    result = evaluate(labels, rows)
    figures = result.figures
    assert result.name == "best_of_n" and figures["n"] == len(rows) > 20 and figures["samples"] == 2
    assert figures["mean"] == pytest.approx(fmean(fmean(row["correct"]) for row in rows))
    assert figures["rm_min@1"] == pytest.approx(figures["mean"]) == pytest.approx(figures["pass@1"])
    assert figures["mean"] < figures["rm_min@2"] <= figures["pass@2"]
    assert (
        figures["rm_min@2"]
        == figures["rm_prod@2"]
        == pytest.approx(fmean(brute_pick([error < 0 for error in row["known"]], row["correct"], 2) for row in rows))
    )
