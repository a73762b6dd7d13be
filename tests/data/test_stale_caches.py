"""Caches of `datasets` forget what is out of date: other content of a file, other text of the code that encodes."""

import gzip
import importlib
import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Value, disable_progress_bars

import hf_rewardplug
from hf_rewardplug.data.adapters import get_adapter
from hf_rewardplug.data.adapters import registry as adapter_registry
from hf_rewardplug.data.files import load_split
from hf_rewardplug.data.mixture_rows import Part, canonical_rows
from hf_rewardplug.data.pipeline import RowPipeline
from hf_rewardplug.data.prepare import prepare_dataset
from hf_rewardplug.data.raw import plain_rows

disable_progress_bars()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(adapter_registry.ADAPTERS, "things", dict(adapter_registry.ADAPTERS.things))
    monkeypatch.syspath_prepend(tmp_path)


def write_rows(path, words):
    rows = [{"prompt": "?", "chosen": word, "rejected": "x"} for word in words]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if ".json" in path.suffixes:  # one document
        text = json.dumps(rows, indent=1)
    if path.suffix in (".parquet", ".arrow"):
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(path), "wb") as file:
            if path.suffix == ".parquet":
                pq.write_table(table, file)
            else:
                with pa.ipc.new_stream(file, table.schema) as stream:
                    stream.write_table(table)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    elif path.suffix == ".csv":
        path.write_text("prompt,chosen,rejected\n" + "".join(f'?,"{word}",x\n' for word in words))
    else:
        path.write_text(text)


KINDS = ["a.jsonl", "a.jsonl.gz", "a.csv", "a.json", "a.json.gz", "a.parquet", "a.arrow"]


@pytest.mark.parametrize("name", KINDS)
def test_a_file_with_other_content_and_the_same_time_is_read_anew(name, tmp_path):
    for word in ("old", "NEW"):  # of the same size, too
        write_rows(tmp_path / name, [word] * 2)
        os.utime(tmp_path / name, (1e9, 1e9))
        assert load_split(str(tmp_path / name), "train")["chosen"] == [word] * 2
        assert load_split(str(tmp_path), "train", data_files=name)["chosen"] == [word] * 2
        reader = {"jsonl": "json"}.get(name.split(".")[1], name.split(".")[1])
        assert load_split(reader, "train", data_files=str(tmp_path / name))["chosen"] == [word] * 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_file_of_a_known_state_is_read_once(name, tmp_path, monkeypatch):
    """Behind the first time the table and the check of its lines come from the cache."""
    write_rows(tmp_path / name, ["old"] * 2000)
    load_split(str(tmp_path / name), "train")
    opened, plain = [], open
    monkeypatch.setattr(
        "builtins.open", lambda file, *more, **how: opened.append(str(file)) or plain(file, *more, **how)
    )
    assert load_split(str(tmp_path / name), "train").num_rows == 2000
    assert str(tmp_path / name) not in opened


def test_dates_with_the_same_time_are_read_anew(tmp_path):
    for day in ("2024-01-31", "2025-01-31"):
        write_rows(tmp_path / "a.jsonl", [day])
        os.utime(tmp_path / "a.jsonl", (1e9, 1e9))
        assert load_split(str(tmp_path / "a.jsonl"), "train")["chosen"] == [day]


NAMES = [
    "x[1]",
    "star*",
    "q?",
    "a{b,c}",
    "50%20",
    "a#b",
    "~b",
    "**",
    "!n",
    "__x",
    "ä ö",
    "a::b",
    "zip:::x",
    "$HOME",
    ".x",
    "L" * 240,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_no_patterns(name, tmp_path, monkeypatch):
    for other in ("x1", "starry", "qa", "ab", "50 ", "a", Path.home().name):
        write_rows(tmp_path / f"{other}.jsonl", ["other"])
    for kind in KINDS:
        write_rows(tmp_path / kind.replace("a.", f"{name}.", 1), [name])
        assert load_split(str(tmp_path / kind.replace("a.", f"{name}.", 1)), "train")["chosen"] == [name]
    monkeypatch.chdir(tmp_path)
    file, more = f"{name}.jsonl", {"train": "a.jsonl", "test": [f"{name}.jsonl"]}
    assert load_split("json", "train", data_files=file)["chosen"] == [name]
    assert [row["chosen"] for row in load_split("json", "test", data_files=more, streaming=True)] == [name]
    (tmp_path / name).mkdir()
    write_rows(tmp_path / name / "a.jsonl.gz", [name])
    assert load_split(str(tmp_path / name), "train")["chosen"] == [name]
    assert [row["chosen"] for row in load_split(str(tmp_path / name), "train", streaming=True)] == [name]


def test_a_reader_of_datasets_takes_patterns_still(tmp_path):
    for word in ("a1", "a2", "b"):
        write_rows(tmp_path / f"{word}.jsonl", [word])
    assert load_split("json", "train", data_files=str(tmp_path / "a*.jsonl"))["chosen"] == ["a1", "a2"]


@pytest.mark.parametrize("name", ["x[1]", "a::b", "$HOME", "rows.gz"])
def test_names_of_saved_folders_are_no_patterns(name, tmp_path):
    """`save_to_disk` itself does not write to such a name; people rename."""
    rows = Dataset.from_dict({"chosen": ["four"]})
    DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "rows")
    (tmp_path / "rows").rename(tmp_path / name)
    assert load_split(str(tmp_path / name), "test")["chosen"] == ["four"]


# ---- code ----------------------------------------------------------------------------------------------------------


def write_module(path, text):
    """Another text under the same name, as another process would see it."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    for name in [name for name, module in sys.modules.items() if name.partition(".")[0].startswith("mended")]:
        sys.modules.pop(name)
    importlib.invalidate_caches()


def as_text(row):
    return {"text": f"{row['chosen']}", "cut": 0, "cut_labels": 0}


def expanded(row):
    return [row]


def encoded(dataset, adapter):
    pipeline = RowPipeline(
        name="train",
        columns={"text": Value("string")},
        encode=as_text,
        expand=expanded,
        adapter=get_adapter(adapter),
    )
    return prepare_dataset(dataset, pipeline)[0]["text"][:]


def stored(tmp_path):
    rows = tmp_path / "rows.jsonl"
    if not rows.exists():
        rows.write_text(json.dumps({"good": "4", "bad": "5"}) + "\n")
    return load_split(str(rows), "train")


ADAPTER = """from hf_rewardplug import register_adapter
@register_adapter("mended", columns=["good", "bad"], overwrite=True)
def mended(row):
    return {"chosen": row[BETTER], "rejected": row["bad"]}
"""


@pytest.mark.parametrize("place", ["module", "beside", "package", "file"])
def test_a_mended_adapter_encodes_anew(place, tmp_path):
    """Its own text, a module that it imports, one of its package, one beside a Python file."""
    for better, answer in (("bad", "5"), ("good", "4")):
        value = f"BETTER = {better!r}\n"
        if place == "module":
            write_module(tmp_path / "mended_one.py", value + ADAPTER)
            importlib.import_module("mended_one")
        elif place == "package":
            write_module(tmp_path / "mended_two" / "__init__.py", "")
            write_module(tmp_path / "mended_two" / "words.py", f"def word():\n    return {better!r}\n")
            text = "from .words import word\n" + ADAPTER.replace("BETTER", "word()")
            write_module(tmp_path / "mended_two" / "formats.py", text)
            importlib.import_module("mended_two.formats")
        else:
            write_module(tmp_path / "mended_words.py", value)
            text = "import mended_words\n" + ADAPTER.replace("BETTER", "mended_words.BETTER")
            write_module(tmp_path / f"mended_{place}.py", f"# {better if place == 'file' else ''}\n" + text)
            if place == "beside":
                importlib.import_module("mended_beside")
        name = f"{tmp_path / 'mended_file.py'}:mended" if place == "file" else "mended"
        assert encoded(stored(tmp_path), name) == [answer]
        mixed = canonical_rows(Part(dataset=stored(tmp_path), subset="sums", adapter=name))
        assert json.loads(mixed[0]["canonical"])[0]["chosen"] == answer


def test_what_is_up_to_date_is_not_encoded_again(tmp_path):
    write_module(tmp_path / "mended_one.py", "BETTER = 'good'\n" + ADAPTER)
    importlib.import_module("mended_one")
    first = [encoded(stored(tmp_path), "mended") and sorted((tmp_path / "cache").rglob("*.arrow")) for _ in range(2)]
    assert first[0] == first[1]


def test_another_version_of_the_package_encodes_anew(tmp_path, monkeypatch):
    files = []
    write_module(tmp_path / "mended_one.py", "BETTER = 'good'\n" + ADAPTER)
    importlib.import_module("mended_one")
    for version in ("0.1.0", "0.2.0"):
        monkeypatch.setattr(hf_rewardplug, "__version__", version)
        encoded(stored(tmp_path), "mended")
        files.append({*(tmp_path / "cache").rglob("cache-*.arrow")})
    assert len(files[0]) == 1 and len(files[1] - files[0]) == 1


def test_a_mended_transform_is_applied_anew(tmp_path):
    rows = tmp_path / "rows.arrow"
    Dataset.from_dict({"chosen": ["four"]}).save_to_disk(str(rows))
    for call, answer in (("upper", "FOUR"), ("title", "Four")):
        text = f"def transform(batch):\n    return {{'chosen': [text.{call}() for text in batch['chosen']]}}\n"
        write_module(tmp_path / "mended_transform.py", text)
        transform = importlib.import_module("mended_transform").transform
        assert plain_rows(load_split(str(rows), "train").with_transform(transform))[0] == {"chosen": answer}
