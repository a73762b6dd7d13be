"""evaluate on every format and file that training reads; refused rows are named by their rows, or passed over."""

import gzip
import json
import random
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_dataset

from hf_rewardplug.checks import RefusedRows, RowError
from hf_rewardplug.data.adapters import registry
from hf_rewardplug.figures import step_figures
from hf_rewardplug.score.benchmarks import detect_benchmark, evaluate, register_benchmark, scored
from hf_rewardplug.score.benchmarks.registry import BENCHMARKS, places_of, read_rows
from hf_rewardplug.score.callback import BenchmarkCallback

HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry.ADAPTERS, "things", dict(registry.ADAPTERS.things))


class Strict:
    """A score is the length of the text; text with a question mark is refused, as a scorer words it."""

    kind = "orm"

    def __init__(self):
        self.calls = 0

    def score(self, prompts, completions):
        self.calls += 1
        for index, several in enumerate(completions):
            for number, one in enumerate(several):
                if "?" in text_of(one):
                    raise RowError("asks", "completion", row=f"completions[{index}][{number}]", item=number)
        return [[float(len(text_of(one))) for one in several] for several in completions]


class Rater:
    """A process reward model of given probabilities by text."""

    kind = "prm"

    def __init__(self, probabilities):
        self.probabilities = probabilities

    def score_steps(self, prompts, steps):
        for index, several in enumerate(steps):
            if "refused" in several:
                raise RowError("is refused", "completions", row=f"steps[{index}]")
        return [[self.probabilities[step] for step in several] for several in steps]


def text_of(part):
    return part if isinstance(part, str) else "".join(message["content"] for message in part)


def pairs(count, bad=()):
    return [
        {"prompt": f"p {n}", "chosen": "four" + "?" * (n in bad), "rejected": "5" * (1 + 5 * (n % 2))}
        for n in range(count)
    ]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


# ---- formats and files ---------------------------------------------------------------------------------------------


def test_files_of_every_kind_give_the_same_figures(tmp_path):
    rows = pairs(6)
    jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rows.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    Dataset.from_list(rows).to_csv(tmp_path / "rows.csv", index=False)
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "rows.arrow").write_bytes(next((tmp_path / "saved").glob("*.arrow")).read_bytes())
    expected = evaluate(Strict(), rows)
    assert expected.figures["accuracy"] == 0.5
    for name in ("rows.jsonl", "rows.json.gz", "rows.csv", "rows.parquet", "saved", "folder"):
        assert evaluate(Strict(), str(tmp_path / name)) == expected


def test_an_adapter_of_a_file_and_columns_of_other_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "def votes(row):\n    return {'prompt': row['q'], 'chosen': row['up'], 'rejected': row['down']}\n"
        "def solved(row):\n    return {'prompt': row['q'], 'completions': [row['up'], row['down']], 'labels': [1, 0]}\n"
    )
    rows = [{"q": "2+2?", "up": "four", "down": "5"}, {"q": "1+1?", "up": "2", "down": "three"}]
    found = evaluate(Strict(), rows, adapter="mine.py:votes")
    assert found.name == "preference" and [item["right"] for item in found.items] == [True, False]
    steps = evaluate(Rater({"four": 0.9, "5": 0.1, "2": 0.4, "three": 0.3}), rows, adapter="mine.py:solved")
    assert steps.name == "steps" and steps.figures["accuracy"] == 0.75
    mapping = {"prompt": "q", "chosen": "up", "rejected": "down"}
    assert evaluate(Strict(), rows, column_mapping=mapping).figures["accuracy"] == 0.5
    rated = [{"prompt": "p", "response": "a", **dict.fromkeys(HELPSTEER, 1)}]
    with pytest.raises(ValueError, match="adapter 'helpsteer' reads none of the first rows as pairs"):
        evaluate(Strict(), rated, adapter="helpsteer")
    with pytest.raises(ValueError, match="benchmark 'rm_bench' has no option 'adapter'"):
        evaluate(Strict(), "rm_bench", data=rows, adapter="mine.py:votes")
    ignored = [{**row, "system": "Be brief."} for row in rows]
    assert evaluate(Strict(), ignored, adapter="mine.py:votes", ignore_columns=["system"]).figures == found.figures
    with pytest.raises(ValueError, match="ignore_columns names 'sytem', which is no column"):
        evaluate(Strict(), ignored, adapter="mine.py:votes", ignore_columns=["sytem"])


def step_rows(generator, count):
    """Solutions and trees with labels, some missing, and each step's probability by its text."""
    rows, probabilities = [], {}
    for number in range(count):
        nodes = []
        for index in range(generator.randint(1, 7)):
            text, label = f"step {number} {index}", generator.choice([0, 1, 1, 0.25, -100])
            nodes.append({"text": text, "label": label, "parent": generator.randint(-1, index - 1)})
            probabilities[text] = generator.choice([0.1, 0.4, 0.5, 0.8])
        rows.append({"prompt": f"p {number}", "nodes": nodes})
    return rows, probabilities


@pytest.mark.parametrize("seed", range(6))
def test_steps_and_trees_have_the_figures_of_training(seed):
    """Against `step_figures`, which PRMTrainer's evaluation computes from its batches."""
    rows, probabilities = step_rows(random.Random(seed), 9)
    found, labels, back = [], [], []
    for row in rows:
        rated = {}  # node -> its place among the labelled ones
        for index, node in enumerate(row["nodes"]):
            if node["label"] == -100:
                continue
            before = node["parent"]
            while before >= 0 and before not in rated:
                before = row["nodes"][before]["parent"]
            rated[index] = len(labels)
            back.append(len(labels) - rated[before] if before >= 0 else 0)
            found.append(probabilities[node["text"]])
            labels.append(node["label"])
    expected = step_figures(np.array(found), np.array(labels), np.array(back))
    result = evaluate(Rater(probabilities), rows)
    assert result.name == "steps"
    for name in ("accuracy", "f1_wrong", "wrong_rate", "first_wrong_accuracy"):
        assert result.figures[name] == pytest.approx(expected[name]), name
    assert (result.figures["n"], result.figures["n_solutions"]) == (len(labels), 9)


def test_outcomes_subsets_and_what_is_no_step():
    rows = [{"prompt": "p", "completions": ["a", "b"], "outcome": outcome} for outcome in (True, False)]
    figures = evaluate(Rater({"a": 0.9, "b": 0.6}), rows).figures
    assert figures == {"outcome_accuracy": 0.5, "n_outcomes": 2, "n_solutions": 2}
    labelled = [
        {"prompt": "p", "completions": ["a"], "labels": [label], "subset": name}
        for label, name in ((1, "x"), (0, "x"), (0, "y"))
    ]
    figures = evaluate(Rater({"a": 0.9}), "steps", data=labelled).figures
    assert (figures["accuracy/x"], figures["accuracy/y"], figures["n/x"]) == (0.5, 0.0, 2)
    with pytest.raises(ValueError, match="benchmark 'steps', row 0: a preference row has no steps"):
        evaluate(Rater({}), "steps", data=pairs(1))
    assert detect_benchmark(["prompt", "nodes"], {"prompt": "p", "nodes": []}).name == "steps"


# ---- refused rows --------------------------------------------------------------------------------------------------


def with_none(rows, *numbers):
    return [{**row, "rejected": None} if number in numbers else row for number, row in enumerate(rows)]


def test_refused_rows_stop_with_their_number_or_are_passed_over_and_named():
    rows = with_none(pairs(40, bad=[7, 12, 30]), 21)
    with pytest.raises(RefusedRows, match=r"benchmark 'preference', row 21: column 'rejected'"):
        evaluate(Strict(), rows)
    with pytest.raises(RefusedRows, match=r"benchmark 'preference', row 7: column 'completion': asks"):
        evaluate(Strict(), [row for row in rows if row["rejected"]])
    found = evaluate(Strict(), rows, on_bad_row="drop")
    good = [row for number, row in enumerate(rows) if number not in (7, 12, 21, 30)]
    expected = evaluate(Strict(), good)
    assert found.figures == {**expected.figures, "refused": 4} and found.items == expected.items
    by_scorer = found.refused.pop("column 'completion': asks")
    assert by_scorer == ["row 7", "row 12", "row 30"] and [*found.refused.values()] == [["row 21"]]
    assert "refused" not in expected.figures and expected.refused == {}


def test_numbers_are_those_of_the_data_behind_a_sample_a_file_or_a_flattening(tmp_path):
    rows = with_none(pairs(40), 21, 22, 36)
    path = jsonl(tmp_path / "rows.jsonl", rows)
    data = load_dataset("json", data_files=path, split="train")
    for given, options, expected in (
        (rows, {}, [21, 22, 36]),
        (path, {}, [21, 22, 36]),
        (path, {"split": "train[20:30]"}, [21, 22]),
        (data.shuffle(seed=1), {}, [21, 22, 36]),
        (data.skip(22), {}, [22, 36]),
        (rows, {"max_rows": 10}, [36]),
        (Dataset.from_list(rows), {}, [21, 22, 36]),
        (data, {"max_rows": 20}, [22, 36]),
    ):
        found = evaluate(Strict(), given, on_bad_row="drop", **options).refused
        assert sorted(int(place.split()[1]) for places in found.values() for place in places) == expected
    texts = [["a", "bb", "ccc" + "?" * (number == 4)] for number in range(6)]
    lists = [{"prompt": f"p {n}", "completions": texts[n], "scores": [1, 2, 3]} for n in range(6)]
    lists[1]["scores"] = [2, 2, 2]  # gives no pair
    with pytest.raises(ValueError, match=r"row 4: completion \d: column 'completion': asks"):
        evaluate(Strict(), lists)
    with pytest.raises(ValueError, match=r"row 4: completion 2: column 'completion': asks"):
        evaluate(Strict(), "best_of_n", data=[{**row, "correct": [0, 1, 0]} for row in lists])


def test_rows_made_in_python_are_named_by_both_numbers():
    rows = Dataset.from_list(with_none(pairs(9), 7)).select([0, 7, 2])
    with pytest.raises(ValueError, match=r"'preference', row 1 \(row 7 before it was selected\): column 'rejected'"):
        evaluate(Strict(), rows)


def test_rows_of_several_files_have_names(tmp_path):
    for name in "ab":
        jsonl(tmp_path / f"{name}.jsonl", with_none(pairs(5), 3))
    found = evaluate(Strict(), str(tmp_path), on_bad_row="drop").refused
    assert [*found.values()] == [["row 3 of a.jsonl", "row 3 of b.jsonl"]]
    with pytest.raises(ValueError, match=r"'preference', row 3 of a\.jsonl: column 'rejected'"):
        evaluate(Strict(), str(tmp_path))


@pytest.mark.parametrize("benchmark", ["preference", "rewardbench"])
def test_every_row_refused_is_an_error_with_the_first_reason(benchmark):
    rows = [{**row, "subset": "alpacaeval-easy"} for row in pairs(4, bad=range(4))]
    with pytest.raises(
        ValueError, match=rf"'{benchmark}': every row was refused. The first, row 0: column 'completion'"
    ):
        evaluate(Strict(), benchmark, data=rows, on_bad_row="drop")
    with pytest.raises(ValueError, match="on_bad_row='skip' is not one of 'error', 'drop'"):
        evaluate(Strict(), benchmark, data=rows, on_bad_row="skip")


def test_steps_that_a_scorer_refuses():
    rows = [{"problem": f"p {n}", "steps": ["a", "refused" if n == 5 else "b"], "label": n % 2 - 1} for n in range(8)]
    rater = Rater({"a": 0.2, "b": 0.9})
    with pytest.raises(ValueError, match=r"'process_bench', row 5: column 'completions': is refused"):
        evaluate(rater, rows)
    found = evaluate(rater, rows, on_bad_row="drop")
    assert found.figures["n"] == 7 and found.refused == {"column 'completions': is refused": ["row 5"]}


def test_a_third_partys_benchmark_names_rows_if_it_says_their_places(monkeypatch):
    monkeypatch.setattr("hf_rewardplug.score.benchmarks.registry.BENCHMARKS", BENCHMARKS)

    @register_benchmark("theirs", kind="orm", columns=["prompt", "chosen"], source="-", detected=False)
    def theirs(scorer, rows, *, named=True):
        read = read_rows("theirs", rows, lambda row: (row["prompt"], [row["chosen"]]))
        places = places_of(rows) if named else None
        scores = scored("theirs", scorer, [one for one, _ in read], [few for _, few in read], places=places)
        return type(evaluate(Strict(), pairs(2)))("theirs", {"n": len(scores)}, [])

    try:
        assert evaluate(Strict(), "theirs", data=pairs(9, bad=[4]), on_bad_row="drop").figures == {"n": 8, "refused": 1}
        with pytest.raises(ValueError, match=r"^completions\[4\]\[0\]: column 'completion': asks"):
            evaluate(Strict(), "theirs", data=pairs(9, bad=[4]), named=False)
    finally:
        BENCHMARKS.things.pop("theirs")


def test_a_scorer_is_not_asked_for_each_row():
    scorer = Strict()
    evaluate(scorer, pairs(256, bad=[100]), on_bad_row="drop")
    assert scorer.calls <= 2 + 1 + 2 * 8  # fails, halves down to one row, and once more without it


def test_the_callback_passes_over_them_too(monkeypatch):
    callback = BenchmarkCallback({"mine": pairs(6, bad=[2])}, on_bad_row="drop")
    monkeypatch.setattr("hf_rewardplug.score.scorer.RewardScorer", lambda model, tokenizer: Strict())
    monkeypatch.setattr("hf_rewardplug.model.inference.evaluating", nullcontext)
    assert callback._run(None, None)["mine"]["refused"] == 1
    callback.on_bad_row = "error"
    with pytest.raises(ValueError, match=r"'preference', row 2: column 'completion': asks"):
        callback._run(None, None)


def test_a_bad_first_row_does_not_make_another_format_of_the_others():
    hh = [{key: f"\n\nHuman: {n}\n\nAssistant: {key}" for key in ("chosen", "rejected")} for n in range(4)]
    found = evaluate(Strict(), [{"chosen": None, "rejected": "no"}, *hh], on_bad_row="drop")
    assert [item["prompt"][0]["content"] for item in found.items] == ["0", "1", "2", "3"]  # turns, not text
    assert [*found.refused.values()] == [["row 0"]]
