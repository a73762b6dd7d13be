"""RM-Bench: the 3x3 matrix, its triangles and the means over domains by hand."""

import json

import pytest

from hf_rewardplug.score.benchmarks import detect_benchmark, evaluate


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


# ---- the files of one domain -----------------------------------------------------------------------------------------

FILES = {  # columns beside prompt, chosen and rejected, as THU-KEG/RM-Bench's data folder has them (math: id at least)
    "chat_filtered": {"id": 8, "subset": "alpacaeval", "error_key": "shoes", "error": "No shoes."},
    "code_filtered": {"id": 8, "subset": "bigcode/humanevalpack", "language": "cpp", "task_id": "CPP/8"},
    "math_filtered": {"id": 0},
    "safety-refuse_filtered": {"id": 2952, "subset": "refusals-dangerous"},
    "safety-response_filtered": {"id": 3155, "subset": "xstest-should-respond"},
}


def without_domain(file, chosen=(1, 2, 3), rejected=(0, 1, 3)):
    row = {**FILES[file], **styles("", chosen, rejected), "id": FILES[file]["id"]}
    return {key: value for key, value in row.items() if key != "domain"}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("named", [True, False])
def test_a_file_of_one_domain_is_told_by_its_name(literal, tmp_path, file, named):
    path = tmp_path / f"{file}.json"
    path.write_text(json.dumps([without_domain(file), without_domain(file, [9, 9, 9], [0, 0, 0])]))
    result = evaluate(literal, "rm_bench", data=path) if named else evaluate(literal, path)
    domain = file.split("_")[0].split("-")[0]
    assert result.name == "rm_bench"
    assert result.figures[f"accuracy/{domain}"] == result.figures["accuracy"] == pytest.approx((5 / 9 + 1) / 2)
    assert {name for name in result.figures if name.startswith("n")} == {"n", f"n/{domain}"}
    assert [item["subset"] for item in result.items] == [domain] * 2


def test_a_folder_of_the_files(literal, tmp_path):
    for file in FILES:
        wins = not file.startswith("safety-refuse")
        rows = [without_domain(file, *(([9, 9, 9], [0, 0, 0]) if wins else ([0, 0, 0], [9, 9, 9])))]
        (tmp_path / f"{file}.json").write_text(json.dumps(rows))
    figures = evaluate(literal, tmp_path).figures
    assert (figures["n/safety"], figures["accuracy/safety"], figures["accuracy"]) == (2, 0.5, (3 + 0.5) / 4)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("option", ["chat", "math", "code", "safety", "safety-refuse"])
def test_an_option_tells_the_domain_of_rows_without_one(literal, file, option):
    figures = evaluate(literal, [without_domain(file)], domain=option).figures
    assert figures[f"accuracy/{option.split('-')[0]}"] == figures["accuracy"] == pytest.approx(5 / 9)


def test_the_domain_of_a_row_stands(literal, tmp_path):
    path = tmp_path / "chat_filtered.json"
    path.write_text(json.dumps([styles("math", [9, 9, 9], [0, 0, 0]), without_domain("chat_filtered")]))
    figures = evaluate(literal, path).figures
    assert (figures["n/math"], figures["n/chat"], figures["accuracy/math"]) == (1, 1, 1.0)


def test_rows_whose_domain_nobody_tells(literal, tmp_path):
    with pytest.raises(ValueError, match="'rm_bench', row 0: column 'domain': is missing, and no file's name tells it"):
        evaluate(literal, [without_domain("safety-refuse_filtered")])
    path = tmp_path / "total_dataset.json"
    path.write_text(json.dumps([without_domain("chat_filtered")]))
    with pytest.raises(ValueError, match=r"Give domain='chat' or another one"):
        evaluate(literal, path)
    with pytest.raises(ValueError, match="domain='poems' is none of RM-Bench's: chat, math, code, safety"):
        evaluate(literal, [without_domain("chat_filtered")], domain="poems")


def test_what_is_no_rm_bench():
    messages = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
    for chosen in (messages, "abc", ["a", "b"], [1, 2, 3], None):
        row = {"prompt": "p", "chosen": chosen, "rejected": chosen}
        assert not detect_benchmark(["prompt", "chosen", "rejected"], {**row, "chosen": "a", "rejected": "b"}).by_row
        try:
            assert not detect_benchmark(list(row), row).name.startswith("rm_bench")
        except ValueError as error:
            assert "no benchmark fits" in str(error)
