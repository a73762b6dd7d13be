"""score on every format and kind of file that training reads; rows without a score get a line that says so."""

import csv
import gzip
import json
import re
from pathlib import Path

import pytest
from datasets import Dataset
from rows import conversations, solutions, text_pairs
from tiny_checkpoints import checkpoint

from hf_rewardplug import RewardScorer
from hf_rewardplug.data.adapters import registry
from hf_rewardplug.score.check import rows_of_file
from hf_rewardplug.score.files import find_progress, rejects_of, score_file

PAIRS = text_pairs(5)


@pytest.fixture(scope="module")
def orm(assets) -> RewardScorer:
    return RewardScorer.from_pretrained(checkpoint("orm", str(assets / "stories260K")))


@pytest.fixture(scope="module")
def prm(assets) -> RewardScorer:
    return RewardScorer.from_pretrained(checkpoint("prm", str(assets / "stories260K")))


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry.ADAPTERS, "things", dict(registry.ADAPTERS.things))


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write(path: Path, rows: list[dict]) -> Path:
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    plain = path.with_suffix(".plain")
    if kind == "jsonl":
        jsonl(plain, rows)
    elif kind == "json":
        plain.write_text(json.dumps(rows, indent=1))
    elif kind == "csv":
        with open(plain, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "parquet":
        Dataset.from_list(rows).to_parquet(plain)
    else:
        Dataset.from_list(rows).save_to_disk(path.parent / "saved")
        plain.write_bytes(next((path.parent / "saved").glob("*.arrow")).read_bytes())
    content = plain.read_bytes()
    plain.unlink()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def scores_of(scorer, rows, tmp_path, **options):
    score_file(scorer, jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl", overwrite=True, **options)
    return read(tmp_path / "out.jsonl")


def near(scores):
    return pytest.approx(scores, abs=1e-5)


KINDS = [f"{kind}{gz}" for kind in ("json", "jsonl", "csv", "parquet", "arrow") for gz in ("", ".gz")]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_scores_and_goes_on(orm, kind, tmp_path):
    source, out = write(tmp_path / f"rows.{kind}", PAIRS), tmp_path / "out.jsonl"
    score_file(orm, source, out, window=2)
    whole = out.read_bytes()
    expected = orm.score([row["prompt"] for row in PAIRS], [[row["chosen"], row["rejected"]] for row in PAIRS])
    found = read(out)
    assert [{key: row[key] for key in PAIRS[0]} for row in found] == PAIRS
    assert [row["scores"] for row in found] == [near(scores) for scores in expected]
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    assert score_file(orm, source, out, window=2).before == 2 and out.read_bytes() == whole


def test_a_folder_is_read_in_the_order_of_its_names(orm, tmp_path):
    (tmp_path / "rows").mkdir()
    write(tmp_path / "rows" / "b.csv", PAIRS[2:])
    write(tmp_path / "rows" / "a.csv", PAIRS[:2])
    score_file(orm, tmp_path / "rows", tmp_path / "out.jsonl")
    assert [row["chosen"] for row in read(tmp_path / "out.jsonl")] == [row["chosen"] for row in PAIRS]
    with pytest.raises(ValueError, match=r"out\.jsonl' would be one of the inputs"):
        find_progress(tmp_path / "rows", tmp_path / "rows" / "out.jsonl")


def test_lists_messages_and_scored_completions(orm, tmp_path):
    chat, texts = conversations(1)[0], ["sat", "ran off", "the red one"]
    rows = [
        {"instruction": "the cat ", "completions": [{"response": text, "fine-grained_score": 1.0} for text in texts]},
        {"prompt": "the cat ", "response": "sat", "helpfulness": 3, "correctness": 2, "coherence": 4, "complexity": 1,
         "verbosity": 1},
        {"question": "the cat ", "chosen": "sat", "rejected": "ran"},
    ]  # fmt: skip
    asked = [{"role": "user", "content": "the cat "}]
    for row in rows:
        (found,) = scores_of(orm, [row], tmp_path)
        assert {key: found[key] for key in row} == row
    assert scores_of(orm, rows[:1], tmp_path)[0]["scores"] == near(orm.score(asked, texts))
    assert scores_of(orm, rows[1:2], tmp_path)[0]["score"] == near(orm.score(asked, "sat"))
    assert scores_of(orm, rows[2:], tmp_path)[0]["scores"] == near(orm.score(asked, ["sat", "ran"]))
    whole = {"chosen": [*chat["prompt"], *chat["chosen"]], "rejected": [*chat["prompt"], *chat["rejected"]]}
    expected = orm.score(chat["prompt"], [chat["chosen"], chat["rejected"]])
    assert scores_of(orm, [whole], tmp_path)[0]["scores"] == near(expected)


def test_steps_outcomes_and_trees(prm, tmp_path):
    nodes = [("a cat", -1), ("sat", 0), ("ran", 0), ("off", 2), ("a dog", -1)]
    tree = {"prompt": "the", "nodes": [{"text": text, "label": 1, "parent": parent} for text, parent in nodes]}
    (found,) = scores_of(prm, [tree], tmp_path)
    paths = [["a cat", "sat"], ["a cat", "ran", "off"], ["a dog"]]
    (first, second, third) = prm.score_steps("the", paths)
    assert found["scores"] == near([*first, *second[1:], *third])
    assert found["score"] == near([min(first), min(second), min(third)])
    for row in (
        {"problem": "the", "steps": paths[1], "label": 1},  # ProcessBench's
        {"prompt": "the", "completions": paths[1], "outcome": True},
        {"prompt": "the", "completions": paths[1], "labels": [True, False, True]},
    ):
        (found,) = scores_of(prm, [row], tmp_path)
        assert found["scores"] == near(second) and found["score"] == near(min(second))


def test_an_adapter_may_give_several_rows(orm, prm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("two.py").write_text(
        "def pairs(row):\n    return [{'prompt': row['p'], 'chosen': row['a'], 'rejected': b} for b in row['bs']]\n"
        "def solved(row):\n    return [{'prompt': row['p'], 'completions': s, 'outcome': True} for s in row['s']]\n"
    )
    rows = [{"p": "the cat ", "a": "sat", "bs": bs} for bs in (["ran", "off"], ["ran"], [])]
    found = scores_of(orm, rows, tmp_path, adapter="two.py:pairs")
    sat, ran, off = orm.score("the cat ", ["sat", "ran", "off"])
    assert found[0]["scores"] == [near([sat, ran]), near([sat, off])] and found[1]["scores"] == near([sat, ran])
    assert found[2] == {**rows[2], "score": None, "error": "the adapter gives no row for it"}  # no fault of the row
    rows = [{"p": "the", "s": [["a cat"], ["a dog", "ran"]]}]
    (found,) = scores_of(prm, rows, tmp_path, adapter="two.py:solved")
    expected = prm.score_steps("the", rows[0]["s"])
    assert found["scores"] == [near(one) for one in expected] and found["score"] == near([min(one) for one in expected])


def test_columns_of_other_names_and_columns_to_ignore(orm, tmp_path):
    rows = [{"q": "the cat ", "good": "sat", "bad": "ran"}]
    mapping = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    (found,) = scores_of(orm, rows, tmp_path, column_mapping=mapping)
    expected = near(orm.score("the cat ", ["sat", "ran"]))
    assert found == {**rows[0], "scores": expected}
    for row in ({"chosen": "sat", "rejected": "ran"}, {"completions": ["sat", "ran"]}):
        row = {"prompt": "the cat ", **row, "history": "And what did the dog do?"}
        with pytest.raises(ValueError, match=r"line 1: column 'history' looks like a part of the prompt"):
            scores_of(orm, [row], tmp_path)
        (found,) = scores_of(orm, [row], tmp_path, ignore_columns=["history"])
        assert found == {**row, "scores": expected}


BAD = {1: None, 3: ""}


def bad_pairs():
    return [{**row, "rejected": BAD.get(number, row["rejected"])} for number, row in enumerate(PAIRS)]


def test_refused_rows_get_a_line_that_says_so(orm, tmp_path):
    source, out = jsonl(tmp_path / "in.jsonl", bad_pairs()), tmp_path / "out.jsonl"
    with open(source, "a") as lines:
        lines.write('\n{"prompt": \n')
    with pytest.raises(ValueError, match=r"in\.jsonl', line 2: column 'rejected'.*--on-bad-row drop"):
        score_file(orm, source, out)
    assert len(read(out)) == 1
    outcome = score_file(orm, source, out, on_bad_row="drop", overwrite=True)
    found = read(out)
    assert [{key: row.get(key) for key in PAIRS[0]} for row in found[:5]] == bad_pairs()
    assert [number for number, row in enumerate(found) if "score" in row] == [1, 3, 5]
    for number in (1, 3):
        assert found[number]["score"] is None and "column 'rejected'" in found[number]["error"]
    assert (found[5]["line"], found[5]["row"], found[5]["score"]) == (7, 5, None) and "no JSON" in found[5]["error"]
    good = [row["scores"] for row in found if "scores" in row]
    assert good == [near(scores) for scores in orm.score(
        [row["prompt"] for row in (PAIRS[0], PAIRS[2], PAIRS[4])],
        [[row["chosen"], row["rejected"]] for row in (PAIRS[0], PAIRS[2], PAIRS[4])],
    )]  # fmt: skip
    assert (outcome.scored, outcome.rejected, outcome.report.rows) == (3, 0, 6)
    assert sorted(row for rows in outcome.report.dropped.values() for row in rows) == [1, 3, 5]
    assert not rejects_of(out).exists()


@pytest.mark.parametrize("cut", range(0, 12))
def test_a_run_with_refused_rows_goes_on_to_the_same_bytes(orm, cut, tmp_path):
    rows = [row for _ in range(3) for row in bad_pairs()][: 12 - cut % 2]
    source, out = jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    whole = score_file(orm, source, tmp_path / "whole.jsonl", window=3, on_bad_row="drop")
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:cut]) + (lines[cut][:7] if cut < len(lines) else b""))
    again = score_file(orm, source, out, window=3, on_bad_row="drop")
    assert out.read_bytes() == b"".join(lines)
    assert again.before + again.scored + sum(map(len, again.report.dropped.values())) >= len(rows)
    assert again.report.dropped == whole.report.dropped


def test_a_row_with_an_error_of_its_own_keeps_it(orm, tmp_path):
    rows = [{**row, "error": "theirs"} for row in bad_pairs()[:2]]
    found = scores_of(orm, rows, tmp_path, on_bad_row="drop")
    assert found[1]["error"] == "theirs" and "rejected" in found[1]["score_error"] and found[1]["score"] is None
    assert score_file(orm, tmp_path / "rows.jsonl", tmp_path / "out.jsonl", on_bad_row="drop").before == 2


def test_every_row_refused_is_an_error(orm, tmp_path):
    rows = [{**row, "rejected": None} for row in PAIRS]
    with pytest.raises(ValueError, match=r"every row was refused\. The first, row 0: column 'rejected'"):
        scores_of(orm, rows, tmp_path, on_bad_row="drop")
    with pytest.raises(ValueError, match=r"on_bad_row='skip', skip_bad=False: expected one of 'error', 'drop'"):
        scores_of(orm, rows, tmp_path, on_bad_row="skip")
    with pytest.raises(ValueError, match=r"on_bad_row='drop', skip_bad=True"):
        scores_of(orm, rows, tmp_path, on_bad_row="drop", skip_bad=True)


def test_rows_of_files_without_lines_and_of_several_files_are_named(orm, tmp_path):
    rows = [{**row, "rejected": "" if number == 3 else row["rejected"]} for number, row in enumerate(PAIRS)]
    source, out = write(tmp_path / "rows.parquet", rows), tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match=r"rows\.parquet', row 3: column 'rejected'"):
        score_file(orm, source, out)
    score_file(orm, source, out, skip_bad=True, overwrite=True)
    assert [(one["row"], "line" in one) for one in read(rejects_of(out))] == [(3, False)]
    (tmp_path / "several").mkdir()
    for name in "ab":
        jsonl(tmp_path / "several" / f"{name}.jsonl", rows)
    with pytest.raises(ValueError, match=r"several/a\.jsonl', line 4: column 'rejected'"):
        score_file(orm, tmp_path / "several", out, overwrite=True)
    outcome = score_file(orm, tmp_path / "several", out, overwrite=True, on_bad_row="drop", window=2)
    assert re.search(r"column 'rejected'.*: 2 \(row 3 of a\.jsonl, row 3 of b\.jsonl\)", str(outcome.report))
    whole = out.read_bytes()
    out.write_bytes(whole[: len(whole) // 2])
    score_file(orm, tmp_path / "several", out, on_bad_row="drop", window=2)
    assert out.read_bytes() == whole
    outcome = score_file(orm, tmp_path / "several", out, skip_bad=True, overwrite=True)
    assert [(one["file"], one["line"], one["row"]) for one in read(rejects_of(out))] == [
        *(("a.jsonl", 4, 3), ("b.jsonl", 4, 3))
    ]


def test_a_broken_file_is_told_before_anything_is_written(orm, tmp_path):
    rows = text_pairs(3)
    for name, text in (
        ("rows.json", json.dumps(rows)[:-1] + ",]"),
        ("rows.csv", "prompt,chosen,rejected\na,b,c\na,b\n"),
        ("rows.jsonl.gz", gzip.compress(json.dumps(rows[0]).encode())[:-12]),
    ):
        source = tmp_path / name
        source.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match=rf"{re.escape(name)}', line \d: "):
            score_file(orm, source, tmp_path / "out.jsonl")
        assert not (tmp_path / "out.jsonl").exists()


def test_solutions_keep_their_scores_whatever_the_file(prm, tmp_path):
    rows = solutions(4)
    one = scores_of(prm, rows, tmp_path)
    score_file(prm, write(tmp_path / "rows.parquet.gz", rows), tmp_path / "two.jsonl")
    assert [row["scores"] for row in read(tmp_path / "two.jsonl")] == [near(row["scores"]) for row in one]


def test_rejects_of_an_earlier_version_are_known(orm, tmp_path):
    source, out = jsonl(tmp_path / "in.jsonl", bad_pairs()), tmp_path / "out.jsonl"
    score_file(orm, source, out, skip_bad=True)
    whole, rejects = out.read_bytes(), read(rejects_of(out))
    rejects_of(out).write_text("".join(json.dumps({"line": one["line"], "error": "x"}) + "\n" for one in rejects))
    assert score_file(orm, source, out, skip_bad=True).before == 3 and out.read_bytes() == whole


def test_check_reads_them_too(orm, tmp_path):
    asked = [{"prompt": row["prompt"], "completions": [row["chosen"], row["rejected"]]} for row in PAIRS]
    for kind in KINDS:
        assert rows_of_file(write(tmp_path / f"rows.{kind}", PAIRS)) == asked
    with pytest.raises(ValueError, match=r"in\.csv', line 4: column 'rejected'"):
        rows_of_file(write(tmp_path / "in.csv", [PAIRS[0], {**PAIRS[1], "rejected": ""}]))


def test_a_bad_first_row_does_not_make_another_format_of_the_others(orm, tmp_path):
    hh = [{key: f"\n\nHuman: {n}?\n\nAssistant: {key}" for key in ("chosen", "rejected")} for n in range(4)]
    found = scores_of(orm, [{"chosen": None, "rejected": "no"}, *hh], tmp_path, on_bad_row="drop")
    expected = scores_of(orm, hh, tmp_path)
    assert found[0]["score"] is None and [row["scores"] for row in found[1:]] == [
        near(row["scores"]) for row in expected
    ]
