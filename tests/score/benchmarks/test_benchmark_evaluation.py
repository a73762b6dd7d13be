"""Names and data to benchmarks: detection, loading, sampling, and what is told where that fails."""

import json
import pkgutil
import sys
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from hf_rewardplug.score import benchmarks
from hf_rewardplug.score.benchmarks import (
    BENCHMARKS,
    Result,
    detect_benchmark,
    evaluate,
    get_benchmark,
    prepare,
    register_benchmark,
)

ROW = {"prompt": "p", "chosen": "longer", "rejected": "short"}


@pytest.fixture
def longer(scorer_of):
    return scorer_of(lambda _, completion: len(completion))


@pytest.mark.parametrize(
    "columns, name",
    [
        (["prompt", "chosen", "rejected"], "preference"),
        (["chosen", "rejected", "score"], "preference"),
        (["prompt", "chosen", "chosen_model", "rejected", "rejected_model", "subset", "id"], "rewardbench"),
        (["id", "prompt", "chosen", "rejected", "num_correct", "num_incorrect", "models", "subset"], "rewardbench2"),
        (["id", "prompt", "chosen", "rejected", "domain"], "rm_bench"),
        (["pair_id", "source", "question", "response_A", "response_B", "label"], "judge_bench"),
    ],
)
def test_detection_from_columns(columns, name):
    assert detect_benchmark(columns).name == name


def test_detection_looks_at_the_row():
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "subset": "hep-go", "domain": "chat"}
    assert detect_benchmark(list(row), row).name == "rewardbench"  # RM-Bench's answers are lists of three
    row["subset"] = "poems"
    assert detect_benchmark(list(row), row).name == "preference"
    row["subset"] = ["hep-go", "poems"]
    assert detect_benchmark(list(row), row).name == "preference"
    row = {"prompt": "p", "answers": [{"answer": "a", "rank": 1.0}, {"answer": "b", "rank": 2.0}]}
    assert detect_benchmark(list(row), row).name == "preference"  # by the adapter `nectar`


def test_columns_of_nothing():
    with pytest.raises(ValueError, match=r"no benchmark fits the columns \['text'\](.|\n)*judge_bench: question, resp"):
        detect_benchmark(["text"], {"text": "a"})


def test_unknown_names(longer):
    with pytest.raises(
        ValueError, match=r"unknown benchmark 'rewardbench3'. Known, the nearest first: rewardbench2?, "
    ):
        evaluate(longer, "rewardbench3")
    with pytest.raises(ValueError, match=r"unknown benchmark 'pairs.jsonl'.*Or give a file or a hub id"):
        evaluate(longer, "pairs.jsonl")
    with pytest.raises(ValueError, match="benchmark 'preference' has no data of its own"):
        evaluate(longer, "preference")
    with pytest.raises(ValueError, match="data are given twice"):
        evaluate(longer, [ROW], data=[ROW])
    with pytest.raises(ValueError, match="'allenai/no-such-data' is neither a file or folder here nor"):
        evaluate(longer, "rewardbench", data="allenai/no-such-data")


def test_a_benchmarks_hub_id_is_its_name(longer, monkeypatch):
    asked = []
    row = {**ROW, "subset": "hep-go"}
    monkeypatch.setattr("hf_rewardplug.data.files.load_split", lambda *given, **rest: asked.append(given) or [row])
    assert evaluate(longer, "allenai/reward-bench").name == "rewardbench"
    evaluate(longer, "allenai/reward-bench", split="raw")
    evaluate(longer, "allenai/other")
    assert [split for _, split in asked] == ["filtered", "raw", "test"]


def test_options_that_a_benchmark_does_not_have(longer):
    with pytest.raises(ValueError, match="benchmark 'preference' has no option 'chat'; it has adapter, subset"):
        evaluate(longer, [ROW], chat=True)
    with pytest.raises(ValueError, match="benchmark 'rm_bench': chat='no' is neither True nor False"):
        evaluate(longer, "rm_bench", data=[ROW], chat="no")


def test_missing_columns(longer):
    message = (
        r"benchmark 'rewardbench', row 0: columns \['subset'\] are missing; found \['chosen', 'prompt', 'rejected'\]"
    )
    with pytest.raises(ValueError, match=message + ". Map them: column_mapping="):
        evaluate(longer, "rewardbench", data=[ROW])
    mapped = evaluate(longer, "rewardbench", data=[{**ROW, "kind": "hep-go"}], column_mapping={"subset": "kind"})
    assert mapped.figures["accuracy/hep-go"] == 1.0


def test_all_kinds_of_data(longer, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(ROW) + "\n")
    dataset = Dataset.from_list([ROW])
    for data in (str(file), file, [ROW], dataset, dataset.with_format("torch"), dataset.to_iterable_dataset()):
        assert evaluate(longer, data).figures["n"] == 1
        assert evaluate(longer, "preference", data=data).figures["n"] == 1


def written(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_folders(longer, tmp_path):
    """A folder's own files, in the order of their names; where it has none, those of the folders in it."""
    for number, name in enumerate(("b", "a", "c")):
        written(tmp_path / "top" / name / f"{name}.jsonl", {**ROW, "prompt": str(number)})
        written(tmp_path / "top" / ".hidden" / f"{name}.jsonl", {**ROW, "prompt": "hidden"})
    assert [item["prompt"] for item in evaluate(longer, tmp_path / "top").items] == ["1", "0", "2"]
    written(tmp_path / "top" / "own.jsonl", {**ROW, "prompt": "own"}, {**ROW, "prompt": "own too"})
    assert [item["prompt"] for item in evaluate(longer, tmp_path / "top").items] == ["own", "own too"]
    assert [item["prompt"] for item in evaluate(longer, tmp_path / "top" / "a").items] == ["1"]


def test_rows_know_their_file(longer, tmp_path):
    for name in ("b", "a"):
        written(tmp_path / f"{name}.of.jsonl", *[{**ROW, "number": number} for number in range(3)])
    _, rows = prepare(tmp_path)
    assert rows.files == ["a.of"] * 3 + ["b.of"] * 3 and rows.numbers == list(range(6))
    _, rows = prepare(tmp_path, max_rows=2, column_mapping={"question": "prompt"})
    assert (rows.files, rows.numbers) == (["a.of", "b.of"], [0, 3])
    assert prepare([ROW])[1].files == [""]


def test_files_are_read_as_they_are(longer, tmp_path):
    """No column is filled up where another row has it, and a value may be text here and a list there."""
    written(tmp_path / "rows.jsonl", {**ROW, "more": "N/A"}, {**ROW, "more": ["a"]}, ROW)
    assert list(prepare(tmp_path / "rows.jsonl")[1]) == [{**ROW, "more": "N/A"}, {**ROW, "more": ["a"]}, ROW]
    assert evaluate(longer, tmp_path / "rows.jsonl").figures["n"] == 3
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n{\n")
    with pytest.raises(ValueError, match=r"rows.jsonl', line 2: no JSON"):
        evaluate(longer, tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    "data, message", [([], "have no rows"), (DatasetDict(train=Dataset.from_list([ROW])), "splits")]
)
def test_data_without_rows(longer, data, message):
    with pytest.raises(ValueError, match=message):
        evaluate(longer, data)


def test_max_rows_are_spread_over_the_data(longer):
    rows = [{**ROW, "prompt": str(number)} for number in range(10)]
    for data in (rows, Dataset.from_list(rows)):
        assert [item["prompt"] for item in evaluate(longer, data, max_rows=4).items] == ["0", "2", "5", "7"]
    stream = Dataset.from_list(rows).to_iterable_dataset()
    assert [item["prompt"] for item in evaluate(longer, stream, max_rows=2).items] == ["0", "1"]
    for wrong in (0, True, 2.5):
        with pytest.raises(ValueError, match=f"max_rows={wrong} is no number of rows"):
            evaluate(longer, rows, max_rows=wrong)


def test_a_benchmark_is_one_module():
    """Each module of the folder is imported, so that the next benchmark is a file and no more."""
    modules = {f"{benchmarks.__name__}.{module.name}" for module in pkgutil.iter_modules(benchmarks.__path__)}
    assert modules <= set(sys.modules)
    registered = {known.run.__module__ for known in BENCHMARKS.values()}
    assert registered == modules - {f"{benchmarks.__name__}.{name}" for name in ("evaluation", "examples", "registry")}
    assert {"rmb", "rmb.best_of_n", "big_bench_mistake", "mr_ben"} < set(BENCHMARKS)
    with open(Path(__file__).parents[3] / "docs" / "benchmarks.md", encoding="utf-8") as page:
        documented = page.read()
    published = [name for name, known in BENCHMARKS.items() if "arXiv" in known.source and "." not in name]
    assert len(published) >= 10 and [name for name in published if f"`{name}`" not in documented] == []


def test_a_benchmark_of_your_own(longer):
    before = dict(BENCHMARKS)
    try:

        @register_benchmark("mine", kind="orm", columns=["q"], source="here")
        def mine(scorer, rows, *, factor=1):
            return Result("mine", {"n": factor * len(rows)}, [])

        assert evaluate(longer, [{"q": 1}], factor=3) == Result("mine", {"n": 3}, [])
        assert get_benchmark("mine").run is mine
        register = register_benchmark("mine", kind="orm", columns=["q"], source="here")
        with pytest.raises(ValueError, match=r"benchmark 'mine' is taken by .*mine; .*evaluate cannot have it. Choose"):
            register(evaluate)
        register(mine)  # the same function may have it again
    finally:
        BENCHMARKS.things.clear()
        BENCHMARKS.things.update(before)
    with pytest.raises(ValueError, match=r"benchmark 'mine' has kind 'both'. Expected 'orm' or 'prm'"):
        register_benchmark("mine", kind="both", columns=[], source="")


def test_llmbar(longer, assets):
    """LLMBar's wrong answers are the longer ones: "the longer one wins" is right in 27 % of all pairs."""
    result = evaluate(longer, str(assets / "llmbar" / "test.jsonl"))
    with open(assets / "llmbar" / "test.jsonl", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    lengths = [(len(row["chosen"][0]["content"]), len(row["rejected"][0]["content"])) for row in rows]
    figures = result.figures
    assert figures["n"] == len(rows) == 419
    assert figures["accuracy"] == sum(chosen > rejected for chosen, rejected in lengths) / 419
    assert figures["ties"] == sum(chosen == rejected for chosen, rejected in lengths) / 419
    assert (figures["accuracy/chosen longer"], figures["accuracy/chosen shorter"]) == (1.0, 0.0)
    assert sum(figures[f"n/{source}"] for source in {row["source"] for row in rows}) == 419
    assert len(longer.calls) == 1
