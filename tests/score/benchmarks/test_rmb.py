"""RMB: pairs and best of n by hand, in the columns of its own files."""

import json

import pytest

from hf_rewardplug.score.benchmarks import detect_benchmark, evaluate

TURNS = [{"content": "?", "language": "English", "role": "user"}]


def answer(score):
    return {"llm_name": "a model", "answer": str(score)}


def pair(path, chosen, reject, **more):
    return {
        "pair_uid": "15089",
        "conversation_input": TURNS,
        "chosen": answer(chosen),
        "reject": answer(reject),
        "category_path": f"Pairwise_set/{path}",
        **more,
    }


def best(path, first, *others, **more):
    return {
        "conversation_input": TURNS,
        "bon_best": answer(first),
        "loser_list": [answer(other) for other in others],
        "bon_uid": "1",
        "category_path": f"BoN_set/{path}",
        **more,
    }


@pytest.fixture
def literal(scorer_of):
    """Scores each completion with the number that it says."""
    return scorer_of(lambda _, completion: float(completion))


ROWS = [
    pair("Helpfulness/Chat/Discussion", 2, 1),  # right
    pair("Helpfulness/Chat/Discussion", 1, 1),  # a tie is wrong
    pair("Helpfulness/Chat/Casual Conversation", 2, 1),  # right
    pair("Helpfulness/Code/Documentation", 0, 1),  # wrong
    pair("Harmlessness/S1", 2, 1),  # right
    best("Helpfulness/Chat/Discussion", 3, 1, 2),  # right
    best("Helpfulness/Chat/Discussion", 3, 1, 4),  # one other answer is better
    best("Helpfulness/Code/Documentation", 3, 3, 1),  # a tie is wrong
    best("Harmlessness/S1", 3, 2, 2, 2, 2, 2, 2),  # right
]


def test_figures_along_the_path(literal):
    result = evaluate(literal, "rmb", data=ROWS)
    accuracies = {
        "Pairwise_set": 3 / 5,
        "Pairwise_set/Helpfulness": 2 / 4,
        "Pairwise_set/Helpfulness/Chat": 2 / 3,
        "Pairwise_set/Helpfulness/Chat/Discussion": 1 / 2,
        "Pairwise_set/Helpfulness/Chat/Casual Conversation": 1.0,
        "Pairwise_set/Helpfulness/Code": 0.0,
        "Pairwise_set/Helpfulness/Code/Documentation": 0.0,
        "Pairwise_set/Harmlessness": 1.0,
        "Pairwise_set/Harmlessness/S1": 1.0,
        "BoN_set": 2 / 4,
        "BoN_set/Helpfulness": 1 / 3,
        "BoN_set/Helpfulness/Chat": 1 / 2,
        "BoN_set/Helpfulness/Chat/Discussion": 1 / 2,
        "BoN_set/Helpfulness/Code": 0.0,
        "BoN_set/Helpfulness/Code/Documentation": 0.0,
        "BoN_set/Harmlessness": 1.0,
        "BoN_set/Harmlessness/S1": 1.0,
    }
    assert {name: value for name, value in result.figures.items() if name.startswith("accuracy/")} == pytest.approx(
        {f"accuracy/{path}": value for path, value in accuracies.items()}
    )
    assert result.figures["accuracy"] == pytest.approx((2 / 4 + 1 + 1 / 3 + 1) / 4)  # of the four sections
    counts = {"n": 9, "n/Pairwise_set": 5, "n/BoN_set/Helpfulness": 3, "n/Pairwise_set/Helpfulness/Chat": 3}
    assert {name: result.figures[name] for name in counts} == counts
    assert [item["right"] for item in result.items] == [True, False, True, False, True, True, False, False, True]
    assert len(literal.calls) == 1


def test_what_the_model_reads(literal):
    """Turns without their language, the last one the user's; the best answer first."""
    turns = [
        {"content": "a", "language": "English", "role": "user"},
        {"content": "b", "language": "English", "role": "assistant"},
        {"content": "c", "language": "English", "role": "user"},
    ]
    item = evaluate(literal, [best("Harmlessness/multi", 3, 1, 2, conversation_input=turns)]).items[0]
    assert item == {
        "prompt": [{"role": turn["role"], "content": turn["content"]} for turn in turns],
        "completions": [[{"role": "assistant", "content": text}] for text in ("3", "1", "2")],
        "scores": [3.0, 1.0, 2.0],
        "right": True,
        "subset": "BoN_set/Harmlessness/multi",
    }


def test_parts_of_the_benchmark(literal, tmp_path):
    """Each set is detected by its own columns, and its accuracy is the mean of the goals that are there."""
    assert detect_benchmark(list(ROWS[0]), ROWS[0]).name == "rmb"
    assert detect_benchmark(list(ROWS[-1]), ROWS[-1]).name == "rmb.best_of_n"
    assert evaluate(literal, ROWS[:5]).figures["accuracy"] == pytest.approx((2 / 4 + 1) / 2)
    file = tmp_path / "Documentation.json"
    file.write_text(json.dumps(ROWS[7:8]))
    figures = evaluate(literal, file).figures
    assert figures["accuracy"] == figures["accuracy/BoN_set/Helpfulness/Code/Documentation"] == 0.0


def test_its_own_folders(literal, tmp_path):
    """RMB_dataset/Pairwise_set/Helpfulness/Chat/Discussion.json, ..., RMB_dataset/BoN_set/Harmlessness/S1.json."""
    for path in {row["category_path"] for row in ROWS}:
        file = tmp_path / f"{path}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([row for row in ROWS if row["category_path"] == path], indent=2))
    figures = evaluate(literal, "rmb", data=ROWS).figures
    assert evaluate(literal, tmp_path).figures == pytest.approx(figures)
    assert evaluate(literal, tmp_path / "BoN_set").figures["accuracy/BoN_set"] == figures["accuracy/BoN_set"]
    helpful = tmp_path / "Pairwise_set" / "Helpfulness"
    assert evaluate(literal, helpful).figures["accuracy"] == figures["accuracy/Pairwise_set/Helpfulness"]


def test_rows_of_both_sets_as_arrow_holds_them(literal):
    """In one table each row has the other set's columns, and None there."""
    columns = ("chosen", "reject", "pair_uid", "bon_best", "loser_list", "bon_uid")
    rows = [{**dict.fromkeys(columns), **row} for row in ROWS]
    assert evaluate(literal, rows).figures == evaluate(literal, "rmb", data=ROWS).figures


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"category_path": "Helpfulness/Chat/Discussion"}, "column 'category_path': expected 'Pairwise_set/<goal>/<sc"),
        ({"category_path": "Pairwise_set/Helpfulness"}, "column 'category_path': expected 'Pairwise_set/<goal>/<scen"),
        ({"chosen": "text"}, r"column 'chosen': expected {'llm_name', 'answer'}, found 'text'"),
        ({"reject": None}, r"column 'reject': expected {'llm_name', 'answer'}, found None"),
        ({"reject": {"llm_name": "a"}}, r"column 'reject.answer': is missing; found \['llm_name'\]"),
        ({"bon_best": answer(1), "loser_list": []}, "column 'loser_list': there is no other answer"),
        ({"conversation_input": []}, "column 'conversation_input': expected a list of messages that is not empty"),
        (
            {"conversation_input": [*TURNS, {"role": "assistant", "content": "b"}]},
            "column 'conversation_input': the last turn is the assistant's; expected the user's",
        ),
    ],
)
def test_a_bad_row_is_told_by_its_number(literal, row, error):
    with pytest.raises(ValueError, match=f"benchmark 'rmb', row 1: {error}"):
        evaluate(literal, "rmb", data=[ROWS[0], {**ROWS[0], **row}])
    assert not literal.calls
