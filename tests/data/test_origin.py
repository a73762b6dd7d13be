"""Row numbers are those of the user's file, whatever stands between it and the trainer."""

import json
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, Features, List, Value, concatenate_datasets

from hf_rewardplug.checks import DropRow
from hf_rewardplug.data.adapters import get_adapter
from hf_rewardplug.data.files import at_most, load_split
from hf_rewardplug.data.held_out import hold_out
from hf_rewardplug.data.mixing import Part, mixed, mixed_and_held_out
from hf_rewardplug.data.origin import Origin
from hf_rewardplug.data.pipeline import RowPipeline
from hf_rewardplug.data.prepare import prepare_dataset

SAME, BAD = 7, 11  # row 7 has nothing to learn from, row 11 cannot be used


def write(folder: Path, count: int = 20, name: str = "rows", blank: bool = False) -> Path:
    rows = [{"prompt": f"{name} {number}", "chosen": "yes", "rejected": "no"} for number in range(count)]
    rows[SAME]["chosen"] = "same"
    rows[BAD]["chosen"] = "bad"
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / f"{name}.jsonl").write_text(("\n" if blank else "") + "".join(lines))
    return folder / f"{name}.jsonl"


def pipeline(on_bad_row="drop", adapter="preference"):
    def encode(row):
        if row["chosen"] == "same":
            raise DropRow("the same")
        return {"chosen_ids": [1], "cut": 0, "cut_labels": 0}

    return RowPipeline(
        name="train",
        columns=Features(chosen_ids=List(Value("int64"))),
        encode=encode,
        expand=lambda row: [row] if row["chosen"] != "bad" else 1 / 0,
        adapter=get_adapter(adapter),
        on_bad_row=on_bad_row,
    )


ZERO = "ZeroDivisionError: division by zero"


def dropped(dataset):
    return prepare_dataset(dataset, pipeline())[1].dropped


SELECTIONS = {
    "as it is": lambda rows: rows,
    "shuffled": lambda rows: rows.shuffle(seed=3),
    "selected": lambda rows: rows.select([15, BAD, 3, SAME]),
    "a slice": lambda rows: rows.select(range(5, 15)),
    "a slice of a slice, shuffled": lambda rows: rows.skip(3).take(12).shuffle(seed=0).select(range(12)),
    "filtered": lambda rows: rows.filter(lambda row: row["prompt"] != "rows 0"),
    "sorted": lambda rows: rows.sort("prompt", reverse=True),
    "split": lambda rows: concatenate_datasets([*rows.train_test_split(0.5, seed=1).values()]),
    "split in order": lambda rows: rows.train_test_split(14, shuffle=False)["test"],
    "sharded": lambda rows: concatenate_datasets([rows.shard(2, 1), rows.shard(2, 0)]),
    "mapped": lambda rows: rows.map(lambda row: {"more": 1}).shuffle(seed=2),
}


@pytest.mark.parametrize("how", SELECTIONS)
@pytest.mark.parametrize("loader", ["ours", "theirs"])
def test_numbers_behind_what_datasets_does(how, loader, tmp_path):
    path = write(tmp_path)
    rows = load_split(str(path), "train")
    if loader == "theirs":
        rows = datasets.load_dataset("json", data_files=str(path), split="train")
    assert dropped(SELECTIONS[how](rows)) == {"the same": [SAME], ZERO: [BAD]}


@pytest.mark.parametrize("split", ["train[5:]", "train[6:12]", "train[-14:]", "train[:10%]+train[30%:60%]"])
def test_numbers_behind_a_part_of_a_split(split, tmp_path):
    path = write(tmp_path)
    for rows in (load_split(str(path), split), datasets.load_dataset("json", data_files=str(path), split=split)):
        assert dropped(rows) == {"the same": [SAME], ZERO: [BAD]}


def test_numbers_behind_a_hold_out(tmp_path):
    train, held_out = hold_out(load_split(str(write(tmp_path, 200)), "train"), 0.3, seed=0)
    found = [prepare_dataset(at_most(side, 150), pipeline())[1].dropped for side in (train, held_out)]
    assert {reason: rows for one in found for reason, rows in one.items()} == {"the same": [SAME], ZERO: [BAD]}


def test_an_error_has_the_line(tmp_path):
    rows = load_split(str(write(tmp_path, blank=True)), "train").shuffle(seed=1)
    with pytest.raises(ValueError, match=rf"adapter 'preference', row {BAD} \(line {BAD + 2} of rows\.jsonl\): Zero"):
        prepare_dataset(rows, pipeline("error"))
    with pytest.raises(ValueError, match=rf"row {BAD} \(line {BAD + 2} of rows\.jsonl\): Zero"):
        prepare_dataset(rows, pipeline("error"), num_proc=2)


def test_several_files_have_names(tmp_path):
    for name in ("a", "b"):
        write(tmp_path, name=name)
    rows = load_split(str(tmp_path), "train").shuffle(seed=0)
    report = prepare_dataset(rows, pipeline())[1]
    assert {reason: sorted(numbers) for reason, numbers in report.dropped.items()} == {
        **{"the same": [SAME, 20 + SAME], ZERO: [BAD, 20 + BAD]},
    }
    assert f"refused, {ZERO}: 2 (row {BAD} of a.jsonl, row {BAD} of b.jsonl)" in str(report)
    rows = load_split(str(tmp_path), "train[20:]")
    with pytest.raises(ValueError, match=rf"row {BAD} of b\.jsonl \(line {BAD + 1} of b\.jsonl\): Zero"):
        prepare_dataset(rows, pipeline("error"))


def test_shards_of_a_saved_data_set_are_one(tmp_path):
    load_split(str(write(tmp_path)), "train").save_to_disk(tmp_path / "saved", num_shards=3)
    for split in ("train", "train[4:]", "train[9:]"):
        found = dropped(load_split(str(tmp_path / "saved"), split))
        assert found == {**({"the same": [SAME]} if split != "train[9:]" else {}), ZERO: [BAD]}
    assert dropped(datasets.load_from_disk(tmp_path / "saved").shuffle(seed=0))[ZERO] == [BAD]


def test_rows_made_in_python_have_the_numbers_of_the_data_set_that_was_given(tmp_path):
    rows = Dataset.from_list([json.loads(line) for line in write(tmp_path).read_text().splitlines()])
    report = prepare_dataset(rows.select([0, BAD, SAME]), pipeline())[1]
    assert report.dropped == {"the same": [2], ZERO: [1]}
    assert f"refused, {ZERO}: 1 (row 1 (row {BAD} before it was selected))" in str(report)
    with pytest.raises(ValueError, match=rf"row 2 \(row {BAD} before it was selected\): Zero"):
        prepare_dataset(rows.select(range(9, 15)), pipeline("error"))
    both = concatenate_datasets([load_split(str(write(tmp_path)), "train"), rows.select(range(5))])
    assert Origin.of(both).number(22) == 22


STREAMS = [
    ("the stream", lambda rows: rows),
    ("behind skip and take", lambda rows: rows.skip(5).take(10)),
    ("shuffled", lambda rows: rows.shuffle(seed=1, buffer_size=8)),
]


@pytest.mark.parametrize(("name", "change"), STREAMS, ids=[name for name, _ in STREAMS])
def test_streams_of_files_number_their_rows(name, change, tmp_path, caplog):
    rows = change(load_split(str(write(tmp_path)), "train", streaming=True, numbered=True))
    encoded, report = prepare_dataset(rows, pipeline())
    assert {row["prompt"] for row in encoded} & {f"rows {SAME}", f"rows {BAD}"} == set()
    assert {*next(iter(encoded))} == {"prompt", "chosen", "rejected", "chosen_ids", "rewardplug_id"}
    assert f"is row {BAD}: {ZERO}" in caplog.text or f"is row {SAME}: the same" in caplog.text
    list(encoded)  # another epoch
    assert (report.dropped, report.seen.dropped) == ({}, {"the same": [SAME], ZERO: [BAD]})
    assert f"refused, {ZERO}: 1 (row {BAD})" in str(report)
    with pytest.raises(ValueError, match=rf"row {BAD}: Zero"):
        list(prepare_dataset(rows, pipeline("error"))[0])


def test_streams_of_several_files_name_them(tmp_path):
    for name in ("a", "b"):
        write(tmp_path, name=name)
    rows = load_split(str(tmp_path), "train", streaming=True, numbered=True)
    encoded, report = prepare_dataset(rows, pipeline())
    assert len(list(encoded)) == 36
    assert f"refused, {ZERO}: 2 (row {BAD} of a.jsonl, row {BAD} of b.jsonl)" in str(report)
    with pytest.raises(ValueError, match=rf"adapter 'preference', row {BAD} of a\.jsonl: Zero"):
        list(prepare_dataset(rows, pipeline("error"))[0])


@pytest.mark.parametrize("stream", [False, True])
def test_mixtures_name_the_part_and_its_row(stream, tmp_path):
    files = {name: str(write(tmp_path, name=name)) for name in ("a", "b")}
    loaded = {name: load_split(file, "train", streaming=stream, numbered=stream) for name, file in files.items()}
    parts = [Part(dataset=rows.skip(5), subset=name) for name, rows in loaded.items()]
    encoded, report = prepare_dataset(mixed(parts, seed=0), pipeline(adapter="mixed"))
    assert len(list(encoded)) == 26
    for what in ("left out, the same", f"refused, {ZERO}"):
        row = SAME if "same" in what else BAD
        assert f"{what}: 2 (row {row} of 'a', row {row} of 'b')" in str(report), str(report)
    with pytest.raises(ValueError, match=rf"row \d+ \(row {BAD} of '[ab]'\): Zero"):
        list(prepare_dataset(mixed(parts, seed=0), pipeline("error", adapter="mixed"))[0])


def test_held_out_rows_of_a_mixture_keep_their_numbers(tmp_path):
    parts = [Part(dataset=load_split(str(write(tmp_path, 60, name)), "train[4:]"), subset=name) for name in ("a", "b")]
    sides = mixed_and_held_out(parts, seed=0, test_size=0.4)
    reports = [str(prepare_dataset(side, pipeline(adapter="mixed"))[1]) for side in sides]
    for name in ("a", "b"):
        assert sum(f"row {BAD} of '{name}'" in report for report in reports) == 1
