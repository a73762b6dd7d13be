"""The `datasets:` of an axolotl config, loaded from files of every kind that it may name, and held-out rows."""

import csv
import gzip
import json
import os
from collections import Counter

import pytest
from datasets import Dataset, DatasetDict

from hf_rewardplug.data.entries import load_entry
from hf_rewardplug.integrations.axolotl.data import format_options, read_entries, train_and_held_out

ROWS = [{"input": f"q{n}", "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(10)]


def entry(**given):
    return read_entries([given])[0][0]


def split(entries, test_entries, val_set_size):
    return train_and_held_out(entries, test_entries=test_entries, val_set_size=val_set_size, seed=0)


def write(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "folder", "files", "saved", "saved splits"])
def test_files(kind, tmp_path):
    dataset, given = Dataset.from_list(ROWS), {"path": str(tmp_path / "rows")}
    if kind in ("jsonl", "folder", "files"):
        (tmp_path / "rows").mkdir()
        file = write(tmp_path / "rows" / "rows.jsonl")
        given = {"jsonl": {"path": file, "ds_type": "json"}, "files": {**given, "data_files": [file]}}.get(kind, given)
    elif kind == "csv":
        with open(tmp_path / "rows.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
        given = {"path": str(tmp_path / "rows.csv"), "ds_type": "csv"}
    elif kind == "parquet":
        dataset.to_parquet(tmp_path / "rows.parquet")
        given = {"path": str(tmp_path / "rows.parquet"), "split": "train[:4]"}
    else:
        (DatasetDict(validation=dataset) if kind == "saved splits" else dataset).save_to_disk(tmp_path / "rows")
        given |= {"split": "validation"} if kind == "saved splits" else {}
    assert load_entry(entry(**given)).to_list() == (ROWS[:4] if kind == "parquet" else ROWS)
    if kind == "saved splits":
        with pytest.raises(ValueError, match="has no split 'train'; it has validation"):
            load_entry(entry(path=given["path"]))
    if kind == "saved":
        assert load_entry(entry(**given, split="train[2:5]")).to_list() == ROWS[2:5]
        with pytest.raises(ValueError, match="has no split 'nonsense'; it has train"):
            load_entry(entry(**given, split="nonsense"))


@pytest.mark.parametrize("kind", ["gzipped csv", "gzipped jsonl", "text without a suffix", "capitals"])
def test_files_whose_kind_their_name_tells_as_in_axolotl(kind, tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    path = tmp_path / {"gzipped csv": "rows.csv.gz", "gzipped jsonl": "rows.jsonl.gz", "capitals": "ROWS.CSV"}.get(
        kind, "rows"
    )
    if "csv" in path.name.lower():
        lines = "\n".join([",".join(ROWS[0]), *(",".join(row.values()) for row in ROWS)])
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    assert load_entry(entry(path=str(path))).to_list() == ROWS


@pytest.mark.parametrize("kind", ["file", "folder", "data_files", "ds_type"])
def test_csv_files_are_read_by_one_reader(kind, tmp_path):
    """pandas makes numbers of answers and nothing of "NA"."""
    rows = [{"input": "1+1?", "chosen": "2", "rejected": "3"}, {"input": "Na?", "chosen": "4", "rejected": "5"}]
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(b"input,chosen,rejected\n1+1?,2,3\nNa?,4,5\n"))
    given = {"file": {"path": str(path)}, "ds_type": {"path": str(path), "ds_type": "csv"}}.get(
        kind, {"path": str(tmp_path), **({"data_files": [str(path)]} if kind == "data_files" else {})}
    )
    assert load_entry(entry(**given)).to_list() == rows
    path.write_bytes(gzip.compress(b"input,chosen,rejected\n1+1?,2\n"))
    with pytest.raises(ValueError, match=r"rows\.csv\.gz', line 2: 2 cells, but the header has 3"):
        load_entry(entry(**given))


def test_a_folder_of_splits_as_the_hub_keeps_it(tmp_path):
    """A split that is ignored trains on the test rows."""
    (tmp_path / "rows" / "data").mkdir(parents=True)
    (tmp_path / "rows" / "README.md").write_text("# rows")
    for name, rows in (("train", ROWS[:6]), ("test", ROWS[6:])):
        Dataset.from_list(rows).to_parquet(tmp_path / "rows" / "data" / f"{name}-00000.parquet")
    one = [{"path": str(tmp_path / "rows")}]
    train, held_out = split(read_entries(one)[0], read_entries(one, where="test_datasets")[0], 0)
    assert train.to_list() == ROWS[:6] and held_out.to_list() == ROWS[6:]


@pytest.mark.parametrize("name", ["x[1]", "star*", "a::b", "$HOME"])
def test_names_are_no_patterns(name, tmp_path, monkeypatch):
    """Where `datasets` reads: a folder of splits, a kind that the name does not tell, files for a reader."""
    monkeypatch.chdir(tmp_path)
    for folder in ("x1", "starry", name):
        for part in ("train", "test"):
            (tmp_path / folder).mkdir(exist_ok=True)
            write(tmp_path / folder / f"{part}.jsonl", [{"word": f"{part} of {folder}"}])
        write(tmp_path / f"{folder}.jsonl", [{"word": folder}])
    for word in ("old", "NEW"):
        write(tmp_path / name / "test.jsonl", [{"word": word}])
        os.utime(tmp_path / name / "test.jsonl", (1e9, 1e9))
        assert load_entry(entry(path=name, split="test"))["word"] == [word]
    file = f"{name}.jsonl"
    for given in ({"path": file, "ds_type": "text"}, {"path": ".", "data_files": file, "ds_type": "text"}):
        assert load_entry(entry(**given))["text"] == [json.dumps({"word": name})]
    assert load_entry(entry(path="json", data_files=[file]))["word"] == [name]
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved").rename(tmp_path / f"{name} saved")
    assert load_entry(entry(path=f"{name} saved")).to_list() == ROWS


def test_rows_in_their_order(tmp_path):
    entries = [entry(path=write(tmp_path / "a.jsonl"))]
    train, held_out = train_and_held_out(entries, test_entries=[], val_set_size=0.3, seed=0, ordered=True)
    for one in (train, held_out):
        assert one.to_list() == sorted(one.to_list(), key=ROWS.index)
    assert sorted([*train, *held_out], key=str) == ROWS and len(held_out) == 3
    with pytest.raises(ValueError, match="keeps the order of one file"):
        train_and_held_out(entries * 2, test_entries=[], val_set_size=0, seed=0, ordered=True)


@pytest.mark.parametrize("size", [10, 100, -1])
def test_too_much_is_held_out(size, tmp_path):
    with pytest.raises(ValueError, match=f"`val_set_size: {size}`; expected a share below 1, or fewer than the 10"):
        split([entry(path=write(tmp_path / "a.jsonl"))], [], size)


def test_shards(tmp_path):
    file, found = write(tmp_path / "a.jsonl"), []
    for index in range(3):
        found += split([entry(path=file, shards=3, shards_idx=index)], [], 0)[0].to_list()
    assert sorted(found, key=str) == ROWS


def test_columns_of_other_names():
    one = entry(path="p", type="preference", field_chosen="good", column_mapping={"prompt": "q", "rejected": "bad"})
    assert one.column_mapping == {"chosen": "good", "prompt": "q", "rejected": "bad"}
    assert format_options([one], test_entries=[]) == {"adapter": "preference", "column_mapping": one.column_mapping}


def test_held_out_rows(tmp_path):
    entries = [entry(path=write(tmp_path / "a.jsonl"))]
    for size, count in ((0.2, 2), (3, 3)):
        train, held_out = split(entries, [], size)
        assert len(held_out) == count and sorted([*train, *held_out], key=str) == ROWS
    assert split(entries, [], 0)[1] is None
    tests = [entry(path=write(tmp_path / "b.jsonl", ROWS[:2]))]
    train, held_out = split(entries, tests, 0)
    assert len(train) == 10 and held_out.to_list() == ROWS[:2]
    with pytest.raises(ValueError, match="take one of them"):
        split(entries, tests, 0.1)
    one_prompt = entry(path=write(tmp_path / "c.jsonl", [ROWS[0]] * 4))
    for unsplit in ([one_prompt], [one_prompt, one_prompt]):
        with pytest.raises(ValueError, match=r"rows of their own \(test_datasets\)"):
            split(unsplit, [], 0.5)
    with pytest.raises(ValueError, match="has another `type` or other columns"):
        format_options(entries, test_entries=[entry(path="x", type="preference")])


def test_several_entries_are_a_mixture(tmp_path):
    other = [{"q": f"other {n}", "good": "a", "bad": "b"} for n in range(30)]
    mapping = {"input": "q", "chosen": "good", "rejected": "bad"}
    given = [
        {"path": write(tmp_path / "a.jsonl"), "type": "bradley_terry.chat_template"},
        {"path": write(tmp_path / "b.jsonl", other), "type": "bradley_terry.chat_template", "column_mapping": mapping},
    ]
    entries = read_entries(given)[0]
    assert format_options(entries, test_entries=[]) == {}
    train, held_out = split(entries, [], 0.2)
    assert Counter(train["subset"]) + Counter(held_out["subset"]) == {"a": 10, "b": 30}
    assert Counter(held_out["subset"]) == {"a": 2, "b": 6}
    prompts = {json.loads(text)[0]["prompt"][0]["content"] for text in train["canonical"]}
    assert {"q3", "other 7"} & prompts and len(prompts) == 32
    weighed = read_entries([{**one, "weight": weight} for one, weight in zip(given, (1, 3), strict=True)])[0]
    train, held_out = split(weighed, entries, 0)
    assert Counter(held_out["subset"]) == {"a": 10, "b": 30}  # each once
    assert Counter(train["subset"])["b"] > Counter(train["subset"])["a"]
    halves = [{**given[1], "split": part} for part in ("train[:10]", "train[10:]")]
    assert Counter(split(read_entries(halves)[0], [], 0)[0]["subset"]) == {"b": 10, "b-2": 20}
    alone = [entry(path=given[0]["path"], subset="orca")]
    assert set(split(alone, [], 0)[0]["subset"]) == {"orca"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"path": "nowhere/at-all"}, "'nowhere/at-all' is neither a file or folder here nor a data set of the hub"),
        ({"path": "nowhere/at-all", "revision": "r"}, "'nowhere/at-all' is neither a file or folder here nor"),
        ({"split": "validation"}, "a.jsonl' has no split 'validation'; it has train"),
        ({"data_files": "b.jsonl"}, "data_files='b.jsonl' does not go with '.*a.jsonl'"),
        ({"path": "json", "data_files": "zz*.jsonl"}, "'json', split 'train', cannot be loaded: "),
    ],
)
def test_what_is_not_there(given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_entry(entry(**{"path": write(tmp_path / "a.jsonl"), **given}))


def test_columns_to_ignore_belong_to_an_entry(tmp_path):
    one = entry(path="p", type="preference", ignore_columns=["context"])
    assert format_options([one], test_entries=[])["ignore_columns"] == ["context"]
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c", "context": "Paris is on the Seine."}]
    parts = [
        entry(path=write(tmp_path / "a.jsonl", rows * 2), ignore_columns=["context"]),
        entry(path=write(tmp_path / "b.jsonl", [{key: rows[0][key] for key in ("prompt", "chosen", "rejected")}] * 2)),
    ]
    train, _ = train_and_held_out(parts, test_entries=[], val_set_size=0, seed=0)
    assert len(train) == 4
    with pytest.raises(ValueError, match=r"`datasets.0..ignore_columns` is 'context'; expected a list"):
        entry(path="p", ignore_columns="context")
