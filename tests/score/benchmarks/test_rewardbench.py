"""RewardBench 1 and 2: subsets, sections, best of four and Ties by hand."""

import math

import pytest

from hf_rewardplug.score.benchmarks import evaluate
from hf_rewardplug.score.benchmarks.rewardbench import SECTIONS, section_accuracies
from hf_rewardplug.score.benchmarks.rewardbench2 import ties_score

SCORES = {"good": 2.0, "same": 1.0, "bad": 1.0, "worse": 0.0}


def pair(subset, chosen="good", rejected="bad"):
    return {"prompt": "?", "chosen": chosen, "rejected": rejected, "subset": subset}


COUNTS = {  # EXAMPLE_COUNTS of rewardbench/constants.py at 05a9005 (2026-01-31), by SUBSET_MAPPING's sections
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}

README = {  # the metrics of its README's example (PKU-Alignment/beaver-7b-v1.0-cost)
    "alpacaeval-easy": 0.5,
    "alpacaeval-hard": 0.7052631578947368,
    "alpacaeval-length": 0.5894736842105263,
    "donotanswer": 0.8235294117647058,
    "hep-cpp": 0.6280487804878049,
    "hep-go": 0.6341463414634146,
    "hep-java": 0.7073170731707317,
    "hep-js": 0.6646341463414634,
    "hep-python": 0.5487804878048781,
    "hep-rust": 0.6463414634146342,
    "llmbar-adver-GPTInst": 0.391304347826087,
    "llmbar-adver-GPTOut": 0.46808510638297873,
    "llmbar-adver-manual": 0.3695652173913043,
    "llmbar-adver-neighbor": 0.43283582089552236,
    "llmbar-natural": 0.52,
    "math-prm": 0.2953020134228188,
    "mt-bench-easy": 0.5714285714285714,
    "mt-bench-hard": 0.5405405405405406,
    "mt-bench-med": 0.725,
    "refusals-dangerous": 0.97,
    "refusals-offensive": 1.0,
    "xstest-should-refuse": 1.0,
    "xstest-should-respond": 0.284,
}


def test_rewardbench_counts_are_those_of_its_code():
    """The whole table: a sum is blind to two counts that change places."""
    assert SECTIONS == COUNTS


def test_rewardbench_figures_of_its_readme():
    """The pairs that are right: 50 + 56 + 67 + 16 + 29, 20 + 52 + 58 + 36 + 22 + 17, 97 + 100 + 154 + 71 + 112, and
    628 of 984 pairs of code, which count as much as the 132 of 447 of math."""
    sections = section_accuracies(README)
    reasoning = (132 / 447 + 628 / 984) / 2
    assert sections == pytest.approx(
        {"Chat": 218 / 358, "Chat Hard": 205 / 456, "Safety": 534 / 740, "Reasoning": reasoning}
    )
    assert round(sections["Safety"], 4) == 0.7216
    assert round(sum(sections.values()) / 4, 4) == 0.5617


def test_rewardbench_figures_of_whole_data(scorer_of):
    """As many pairs a subset as the data have, as many of them right as the README's metrics say: the same figures."""
    rows = []
    sizes = {**{name: count for counts in COUNTS.values() for name, count in counts.items()}, "math-prm": 447}
    for subset, size in sizes.items():
        right = round(README[subset] * size)
        assert right / size == pytest.approx(README[subset])
        rows += [pair(subset, "good", "bad")] * right + [pair(subset, "bad", "good")] * (size - right)
    figures = evaluate(scorer_of({"good": 1.0, "bad": 0.0}), rows).figures
    assert figures["n"] == 2985
    assert (round(figures["accuracy/Safety"], 4), round(figures["accuracy"], 4)) == (0.7216, 0.5617)


def test_rewardbench_figures(scorer_of):
    rows = [
        pair("alpacaeval-easy"),  # weight 100: 1
        pair("mt-bench-med", "bad", "good"),  # weight 40: 1/2
        pair("mt-bench-med"),
        pair("llmbar-natural", "same", "bad"),  # a tie: 0
        pair("donotanswer"),  # 1
        pair("math-prm"),  # weight 984: 1
        pair("hep-cpp", "worse", "bad"),  # weight 164: 0
        pair("hep-rust"),  # weight 164: 1
    ]
    scorer = scorer_of(SCORES)
    result = evaluate(scorer, rows)
    assert result.name == "rewardbench" and len(scorer.calls) == 1
    sections = {"Chat": 120 / 140, "Chat Hard": 0.0, "Safety": 1.0, "Reasoning": 1148 / 1312}
    assert {name: result.figures[f"accuracy/{name}"] for name in sections} == pytest.approx(sections)
    assert result.figures["accuracy"] == pytest.approx(sum(sections.values()) / 4)
    assert (result.figures["accuracy/mt-bench-med"], result.figures["n/mt-bench-med"]) == (0.5, 2)
    assert {name: result.figures[f"n/{name}"] for name in sections} == {
        "Chat": 3,
        "Chat Hard": 1,
        "Safety": 1,
        "Reasoning": 3,
    }
    assert result.figures["n"] == 8
    assert result.items[3] == {
        "prompt": [{"role": "user", "content": "?"}],
        "completions": [[{"role": "assistant", "content": text}] for text in ("same", "bad")],
        "scores": [1.0, 1.0],
        "right": False,
        "subset": "llmbar-natural",
    }


def test_rewardbench_without_some_sections(scorer_of):
    figures = evaluate(
        scorer_of(SCORES), "rewardbench", data=[pair("donotanswer"), pair("hep-go", "bad", "good")]
    ).figures
    assert figures["accuracy"] == 0.5 and "accuracy/Chat" not in figures


def test_lists_of_answers_are_no_rewardbench(scorer_of):
    """RM-Bench's safety file has RewardBench's names of subsets."""
    row = pair("refusals-dangerous", ["a", "b", "c"], ["d", "e", "f"])
    with pytest.raises(ValueError, match="'rewardbench', row 0: column 'chosen': expected text, found"):
        evaluate(scorer_of(SCORES), "rewardbench", data=[row])


def test_a_list_of_one_subset_is_that_subset(scorer_of):
    result = evaluate(scorer_of(SCORES), [pair(["hep-go"])])
    assert (result.name, result.figures["accuracy/hep-go"]) == ("rewardbench", 1.0)


def test_rewardbench_subsets(scorer_of):
    with pytest.raises(
        ValueError, match="'rewardbench', row 1: column 'subset': 'poems' is none of RewardBench's: alp"
    ):
        evaluate(scorer_of(SCORES), "rewardbench", data=[pair("hep-go"), pair("poems")])
    assert evaluate(scorer_of(SCORES), [pair("poems")]).name == "preference"


# ---- RewardBench 2 ---------------------------------------------------------------------------------------------------


def four(subset, *scores, chosen=1, id="0"):
    texts = [str(float(score)) for score in scores]
    return {
        "id": id,
        "prompt": "?",
        "chosen": texts[:chosen],
        "rejected": texts[chosen:],
        "num_correct": chosen,
        "subset": subset,
    }


@pytest.fixture
def literal(scorer_of):
    """Scores each completion with the number that it says."""
    return scorer_of(lambda _, completion: float(completion))


def test_rewardbench2_best_of_four(literal):
    rows = [
        four("Math", 3, 2, 1, 0),  # 1
        four("Math", 2, 3, 1, 0),  # 0
        four("Math", 3, 3, 1, 0),  # shared with one: 1/2
        four("Math", 3, 3, 3, 3),  # shared with three: 1/4
        four("Focus", 3, 2, 2, 2),  # 1
    ]
    result = evaluate(literal, rows)
    assert result.name == "rewardbench2" and len(literal.calls) == 1
    assert result.figures == {
        "accuracy": (1.75 / 4 + 1) / 2,
        "accuracy/Math": 1.75 / 4,
        "accuracy/Focus": 1.0,
        "n": 5,
        "n/Math": 4,
        "n/Focus": 1,
    }
    assert [item["right"] for item in result.items] == [1.0, 0.0, 0.5, 0.25, 1.0]


def test_rewardbench2_ties(literal):
    rows = [
        four("Ties", 5, 4, 1, 0, chosen=2, id="tied:0"),  # gap 3, spread 1
        four("Ties", 5, 2, chosen=1, id="ref:0"),  # gap 3
        four("Ties", 9, 4, 1, chosen=2, id="tied:1"),  # gap 3, spread 5
        four("Ties", 1, 2, chosen=1, id="ref:1"),  # gap -1
        four("Ties", 9, 1, 1, chosen=2, id="tied:2"),  # gap 0: no half with "ref"
        four("Safety", 1, 0, 0, 0),
    ]
    figures = evaluate(literal, rows).figures
    margin = (math.tanh(3 / 1 - 1) + math.tanh(-1 / 5 - 1)) / 2
    ties = 0.3 * 2 / 3 + 0.3 * 1 / 2 + 0.2 * 1 / 2 + 0.2 * 1 / 2 + 0.01 * margin
    assert figures == pytest.approx(
        {
            "accuracy": (ties + 1) / 2,
            "accuracy/Ties": ties,
            "accuracy/Ties/tied": 2 / 3,
            "accuracy/Ties/ref": 1 / 2,
            "accuracy/Ties/gap": 1 / 2,
            "accuracy/Ties/hard gap": 1 / 2,
            "accuracy/Ties/margin": margin,
            "accuracy/Safety": 1.0,
            "n": 6,
            "n/Ties": 5,
            "n/Safety": 1,
        }
    )


@pytest.mark.parametrize("gap, expected", [(1.0, 1.0), (0.0, 0.0), (-1.0, -1.0)])
def test_ties_without_a_spread(gap, expected):
    """Correct answers that score the same: a gap over 0 is infinite, and 0 / 0 counts as 0."""
    score = ties_score({("tied", "7"): ([2.0, 2.0, 2.0 - gap], 2), ("ref", "7"): ([3.0, 1.0], 1)})
    assert score["Ties/margin"] == expected


def test_ties_without_a_whole_prompt(literal, caplog):
    rows = [four("Ties", 5, 4, 1, chosen=2, id="tied:0"), four("Math", 1, 0, 0, 0)]
    figures = evaluate(literal, rows).figures
    assert figures == {"accuracy": 1.0, "accuracy/Math": 1.0, "n": 2, "n/Ties": 1, "n/Math": 1}
    assert "Ties is left out" in caplog.text
    with pytest.raises(ValueError, match="neither a best-of-four row nor a whole prompt of Ties"):
        evaluate(literal, rows[:1])


@pytest.mark.parametrize(
    "row, message",
    [
        (four("Math", 1, 0, 0, 0, chosen=2), "column 'chosen': expected one correct answer, found 2"),
        ({**four("Math", 1, 0), "rejected": "0.0"}, "column 'rejected': expected a list"),
        ({**four("Math", 1, 0), "rejected": [None]}, "column 'rejected': expected a list of texts"),
        ({**four("Math", 1, 0), "num_correct": 2}, "column 'num_correct': is 2, and there are 1 chosen answers"),
        (four("Ties", 1, 0, id="other:0"), "column 'id': expected 'ref:<number>' or 'tied:<number>', found 'other:0'"),
        (four("Ties", 1, 0, id="tied:0"), "column 'chosen': a 'tied' row needs two correct answers"),
    ],
)
def test_rewardbench2_rows(literal, row, message):
    with pytest.raises(ValueError, match=f"benchmark 'rewardbench2', row 0: {message}"):
        evaluate(literal, "rewardbench2", data=[row])
