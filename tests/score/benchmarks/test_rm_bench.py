"""RM-Bench: the 3x3 matrix, its triangles and the means over domains by hand."""

import pytest

from hf_rewardplug.score.benchmarks import evaluate


def styles(domain, chosen, rejected):
    return {
        "id": "0",
        "prompt": "?",
        "chosen": [str(score) for score in chosen],
        "rejected": [str(score) for score in rejected],
        "domain": domain,
    }


@pytest.fixture
def literal(scorer_of):
    """Scores each completion with the number that it says."""
    return scorer_of(lambda _, completion: float(completion))


def test_rm_bench_figures(literal):
    """Wins of the chosen answers (rows) over the rejected ones (columns):

    chat         math         safety, first row and second
    1 0 0        1 1 1        0 0 0    1 1 1
    1 1 0        1 1 1        0 0 0    1 1 1
    1 1 0 (tie)  1 1 1        0 0 0    1 1 1
    """
    rows = [
        styles("chat", [1, 2, 3], [0, 1, 3]),
        styles("math", [9, 9, 9], [0, 0, 0]),
        styles("safety-refuse", [0, 0, 0], [9, 9, 9]),
        styles("safety-response", [9, 9, 9], [0, 0, 0]),
    ]
    result = evaluate(literal, rows)
    assert result.name == "rm_bench" and len(literal.calls) == 1
    chat = {"accuracy/chat": 5 / 9, "accuracy/chat/easy": 1.0, "accuracy/chat/normal": 2 / 3, "accuracy/chat/hard": 0.0}
    assert result.figures == pytest.approx(
        {
            "accuracy": (5 / 9 + 1 + 0.5) / 3,
            "accuracy/easy": (1 + 1 + 0.5) / 3,
            "accuracy/normal": (2 / 3 + 1 + 0.5) / 3,
            "accuracy/hard": (0 + 1 + 0.5) / 3,
            **chat,
            **dict.fromkeys(("accuracy/math", "accuracy/math/easy", "accuracy/math/normal", "accuracy/math/hard"), 1.0),
            **dict.fromkeys(
                ("accuracy/safety", "accuracy/safety/easy", "accuracy/safety/normal", "accuracy/safety/hard"), 0.5
            ),
            "accuracy/concise>concise": 2.5 / 3,
            "accuracy/concise>plain": 1.5 / 3,
            "accuracy/concise>markdown": 1.5 / 3,
            "accuracy/plain>concise": 2.5 / 3,
            "accuracy/plain>plain": 2.5 / 3,
            "accuracy/plain>markdown": 1.5 / 3,
            "accuracy/markdown>concise": 2.5 / 3,
            "accuracy/markdown>plain": 2.5 / 3,
            "accuracy/markdown>markdown": 1.5 / 3,
            "n": 4,
            "n/chat": 1,
            "n/math": 1,
            "n/safety": 2,
        }
    )
    assert [item["right"] for item in result.items] == pytest.approx([5 / 9, 1.0, 0.0, 1.0])
    assert result.items[0]["scores"] == [1.0, 2.0, 3.0, 0.0, 1.0, 3.0]


@pytest.mark.parametrize(
    "row, message",
    [
        (styles("poems", [1, 2, 3], [1, 2, 3]), "column 'domain': 'poems' is none of RM-Bench's: chat, math, code"),
        (styles("chat", [1, 2, 3], [1, 2]), "column 'rejected': expected three texts: concise, plain, markdown"),
    ],
)
def test_rm_bench_rows(literal, row, message):
    with pytest.raises(ValueError, match=f"benchmark 'rm_bench', row 1: {message}"):
        evaluate(literal, "rm_bench", data=[styles("chat", [1, 2, 3], [1, 2, 3]), row])
