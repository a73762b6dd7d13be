"""Preference data of any format, and JudgeBench: every figure by hand, from scores that the test gives."""

import json

import pytest

from hf_rewardplug.score.benchmarks import evaluate

USER = [{"role": "user", "content": "2+2?"}]


def answer(text):
    return [{"role": "assistant", "content": text}]


def test_preference_figures(scorer_of):
    rows = [  # score, the longer one:
        {"prompt": "a", "chosen": "yes", "rejected": "no", "subset": "x"},  # 3 > 1, chosen
        {"prompt": "b", "chosen": "no", "rejected": "yes", "subset": "x"},  # 1 < 3, rejected
        {"prompt": "c", "chosen": "ok", "rejected": "no", "subset": "x"},  # 1 = 1, as long
        {"prompt": "d", "chosen": "fine", "rejected": "ok", "subset": "y"},  # 5 > 1, chosen
    ]
    scorer = scorer_of({"yes": 3, "no": 1, "ok": 1, "fine": 5})
    result = evaluate(scorer, rows)
    assert result.name == "preference"
    assert result.figures == {
        "accuracy": 0.5,
        "ties": 0.25,
        "margin": (2 - 2 + 0 + 4) / 4,
        "accuracy/chosen longer": 1.0,
        "accuracy/chosen shorter": 0.0,
        "accuracy/x": 1 / 3,
        "accuracy/y": 1.0,
        "n": 4,
        "n/chosen longer": 2,
        "n/chosen shorter": 1,
        "n/x": 3,
        "n/y": 1,
        "left out": 0,
    }
    assert [item["right"] for item in result.items] == [True, False, False, True]
    first = {"prompt": "a", "completions": ["yes", "no"], "scores": [3.0, 1.0], "right": True, "subset": "x"}
    assert result.items[0] == first
    assert json.loads(json.dumps(result.items)) == result.items
    assert scorer.calls == [(["a", "b", "c", "d"], [["yes", "no"], ["no", "yes"], ["ok", "no"], ["fine", "ok"]])]


def test_the_prompt_is_what_the_adapter_says(scorer_of):
    whole = {"chosen": USER + answer("4"), "rejected": USER + answer("5")}
    scorer = scorer_of({"4": 1, "5": 0})
    evaluate(scorer, [whole])
    assert scorer.calls == [([USER], [[answer("4"), answer("5")]])]


@pytest.mark.parametrize(
    "chosen, rejected, prompt", [("Q: 2+2? A: 4", "Q: 2+2? A: 5", ""), (answer("4"), answer("5"), [])]
)
def test_without_a_prompt(scorer_of, chosen, rejected, prompt):
    scorer = scorer_of(lambda _, completion: completion.endswith("4"))
    assert evaluate(scorer, [{"chosen": chosen, "rejected": rejected}]).figures["accuracy"] == 1.0
    assert scorer.calls == [([prompt], [[chosen, rejected]])]


def test_a_ranked_list_scores_each_completion_once(scorer_of):
    scorer = scorer_of({"a": 2.0, "b": 3.0, "c": 1.0})
    rows = [
        {"prompt": "p", "completions": ["a", "b", "c"], "scores": [9, 5, 1]},  # a>b wrong, a>c right, b>c right
        {"prompt": "q", "completions": ["a", "b"], "scores": [4, 4]},  # a tie of the annotators: no pair
    ]
    result = evaluate(scorer, rows)
    assert scorer.calls == [(["p"], [["a", "b", "c"]])]
    assert result.figures == {"accuracy": 2 / 3, "ties": 0.0, "margin": (-1 + 1 + 2) / 3, "n": 3, "left out": 1}


@pytest.mark.parametrize(
    ("value", "name"),
    [(["math", "algebra"], "math, algebra"), (["math"], "math"), ([], None), (["math", None], "math"), (7, "7")],
)
@pytest.mark.parametrize("column", ["subset", "source", "topic"])
def test_the_names_of_a_list_are_one_subset(scorer_of, column, value, name):
    rows = [{"prompt": "p", "chosen": "longer", "rejected": "short", column: value}]
    options = {"subset": "topic"} if column == "topic" else {}
    result = evaluate(scorer_of(lambda _, completion: len(completion)), rows, **options)
    assert result.name == "preference" and result.items[0]["subset"] == name
    subsets = {figure for figure in result.figures if figure.startswith("n/")} - {"n/chosen longer"}
    assert subsets == ({f"n/{name}"} if name else set())


def test_a_subset_column_of_another_name(scorer_of):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "topic": topic} for topic in ("x", None)]
    scorer = scorer_of({"a": 1, "b": 0})
    figures = evaluate(scorer, rows, subset="topic").figures
    assert (figures["n"], figures["n/x"], figures["accuracy/x"]) == (2, 1, 1.0)
    with pytest.raises(ValueError, match="no column 'subject' for subset; found"):
        evaluate(scorer, rows, subset="subject")


def test_bad_pairs_are_told_by_number(scorer_of):
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    scorer = scorer_of({"a": 1, "b": 0})
    with pytest.raises(
        ValueError, match="benchmark 'preference', row 1: column 'rejected': expected text like the other"
    ):
        evaluate(scorer, [good, {**good, "rejected": None}])
    with pytest.raises(ValueError, match="row 4: column 'rejected'"):  # the number in the data, not in the sample
        evaluate(scorer, [good] * 4 + [{**good, "rejected": None}] * 4, max_rows=2)
    with pytest.raises(ValueError, match=r"row 0: columns \['rejected'\] are missing.*column_mapping"):
        evaluate(scorer, "preference", data=[{"prompt": "p", "chosen": "a"}], adapter="preference")
    with pytest.raises(ValueError, match=r"row 0: column 'tools': `scorer.score` takes no arguments"):
        evaluate(scorer, [{"prompt": USER, "chosen": answer("a"), "rejected": answer("b"), "tools": [{"name": "f"}]}])
    with pytest.raises(ValueError, match="stepwise row cannot train an outcome"):
        evaluate(scorer, "preference", data=[{"prompt": "p", "completions": ["s"], "labels": [True]}])
    with pytest.raises(ValueError, match="none of the 1 rows has a better answer"):
        evaluate(scorer, [{"prompt": "q", "completions": ["a", "b"], "scores": [4, 4]}])


def test_scores_that_are_no_numbers(scorer_of):
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    with pytest.raises(ValueError, match=r"example 1: the scores are \[nan, 0.0\]"):
        evaluate(
            scorer_of(lambda prompt, c: float("nan") if (prompt, c) == ("q", "a") else 0), [row, {**row, "prompt": "q"}]
        )

    class Short:
        def score(self, prompts, completions):
            return [[0.0] for _ in prompts]

    with pytest.raises(ValueError, match="other numbers of scores"):
        evaluate(Short(), [row])


# ---- JudgeBench ------------------------------------------------------------------------------------------------------


def judged(label, source, a="A", b="B"):
    return {"pair_id": "0", "source": source, "question": "?", "response_A": a, "response_B": b, "label": label}


def test_judge_bench_figures(scorer_of):
    rows = [
        judged("A>B", "mmlu-pro-law"),  # right
        judged("B>A", "mmlu-pro-computer science"),  # wrong
        judged("B>A", "livebench-reasoning", b="AA"),  # right
        judged("A>B", "livebench-math", b="A"),  # a tie: wrong
        judged("B>A", "livebench-math", b="A"),  # a tie: wrong too
        judged("A>B", "livecodebench"),  # right
    ]
    scorer = scorer_of({"A": 1, "B": 0, "AA": 2})
    result = evaluate(scorer, rows)
    assert result.name == "judge_bench"
    assert result.figures == {
        "accuracy": 0.5,
        "accuracy/knowledge": 0.5,
        "accuracy/reasoning": 1.0,
        "accuracy/math": 0.0,
        "accuracy/coding": 1.0,
        "n": 6,
        "n/knowledge": 2,
        "n/reasoning": 1,
        "n/math": 2,
        "n/coding": 1,
        "ties": 2 / 6,
    }
    chosen_first = result.items[2]
    assert chosen_first["completions"] == [answer("AA"), answer("A")]
    assert (chosen_first["scores"], chosen_first["right"], chosen_first["subset"]) == ([2.0, 1.0], True, "reasoning")
    assert len(scorer.calls) == 1


def test_judge_bench_as_text_and_other_sources(scorer_of):
    scorer = scorer_of({"A": 1, "B": 0})
    figures = evaluate(scorer, [judged("A>B", "my-exam")], chat=False).figures
    assert figures == {"accuracy": 1.0, "accuracy/my-exam": 1.0, "n": 1, "n/my-exam": 1, "ties": 0.0}
    assert scorer.calls == [(["?"], [["A", "B"]])]


def test_judge_bench_labels(scorer_of):
    with pytest.raises(ValueError, match="benchmark 'judge_bench', row 1: column 'label': expected 'A>B' or 'B>A'"):
        evaluate(scorer_of({"A": 1, "B": 0}), [judged("A>B", "x"), judged("A=B", "x")])
