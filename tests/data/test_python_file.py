"""An adapter from a Python file: wherever an adapter is named, with the file's own columns, errors and neighbours."""

import json
import os
from pathlib import Path

import pytest
from datasets import Dataset, Features, List, Value

from hf_rewardplug.data.adapters import get_adapter, registry
from hf_rewardplug.data.files import load_split
from hf_rewardplug.data.mixing import Part, mixed
from hf_rewardplug.data.pipeline import RowPipeline
from hf_rewardplug.data.prepare import prepare_dataset

PLAIN = """
from neighbour import MARK
def votes(row):
    return {"prompt": row["q"], "chosen": row["up"] + MARK, "rejected": row["down"]}
"""
REGISTERED = """
from dataclasses import dataclass
from hf_rewardplug import register_adapter

@dataclass
class Kept:
    mark: str = "!"

@register_adapter("shop", columns=["q", "up", "down"])
def votes(row):
    return {"prompt": row["q"], "chosen": row["up"] + Kept().mark, "rejected": row["down"]}
"""
ROW = {"q": "2+2?", "up": "4", "down": "5"}


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry.ADAPTERS, "things", dict(registry.ADAPTERS.things))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("neighbour.py").write_text("MARK = '.'\n")
    Path("plain.py").write_text(PLAIN)
    Path("registered.py").write_text(REGISTERED)
    return tmp_path


def test_a_function_of_a_file_is_an_adapter(folder):
    expected = {"prompt": "2+2?", "chosen": "4.", "rejected": "5"}
    for name in ("plain.py:votes", f"{folder}/plain.py:votes", "./plain.py:votes"):
        assert get_adapter(name)(ROW) == [expected]
    assert get_adapter("plain.py:votes").columns is None


@pytest.mark.parametrize("name", ["votes", "shop"])
def test_what_the_file_registers_keeps_its_columns(folder, name):
    adapter = get_adapter(f"registered.py:{name}")
    assert (adapter.name, adapter.columns) == ("shop", ("q", "up", "down"))
    assert adapter(ROW)[0]["chosen"] == "4!"


def test_a_changed_file_is_read_again(folder):
    assert get_adapter("plain.py:votes")(ROW)[0]["chosen"] == "4."
    Path("plain.py").write_text(PLAIN.replace("MARK", "'?'").replace("from neighbour import '?'", ""))
    os.utime("plain.py", ns=(1, 1))
    assert get_adapter("plain.py:votes")(ROW)[0]["chosen"] == "4?"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.py:votes", None, "adapter 'none.py:votes': there is no file 'none.py'"),
        ("plain.py:voted", PLAIN, r"'plain\.py:voted': the file has no function 'voted'. Its functions: votes"),
        ("plain.py:preference", PLAIN, r"the file has no function 'preference'"),
        ("bad.py:f", "def f(row)\n    return row\n", r"bad\.py', line 1 cannot be run: SyntaxError"),
        ("bad.py:f", "import json\n\nx = json.loads('{')\n", r"bad\.py', line 3 cannot be run: JSONDecodeError"),
        ("bad.py:f", "f = 3\n", r"the file has no function 'f'"),
    ],
)
def test_what_is_wrong_with_it_is_told(folder, name, text, message):
    if text is not None:
        Path(name.partition(":")[0]).write_text(text)
    with pytest.raises(ValueError, match=message):
        get_adapter(name)


def lengths(name, num_proc=None):
    pipeline = RowPipeline(
        name="train",
        columns=Features(chosen_ids=List(Value("int64"))),
        encode=lambda row: {"chosen_ids": [ord(letter) for letter in row["chosen"]], "cut": 0, "cut_labels": 0},
        expand=lambda row: [row],
        adapter=get_adapter(name),
    )
    Path("rows.jsonl").write_text("".join(json.dumps(ROW) + "\n" for _ in range(4)))
    encoded, _ = prepare_dataset(load_split("rows.jsonl", "train"), pipeline, num_proc=num_proc)
    return ["".join(map(chr, ids)) for ids in encoded["chosen_ids"]]


def test_processes_read_with_it_and_the_cache_knows_its_text(folder):
    """`datasets` takes a function that can be imported by its name alone: a changed one would find the old rows."""
    assert lengths("plain.py:votes") == lengths("plain.py:votes", num_proc=2) == ["4."] * 4
    Path("plain.py").write_text(PLAIN.replace("+ MARK", "+ MARK + MARK"))
    os.utime("plain.py", ns=(2, 2))
    assert lengths("plain.py:votes") == ["4.."] * 4


def test_a_part_of_a_mixture_may_name_it(folder):
    part = Part(dataset=Dataset.from_list([ROW]), subset="shop", adapter="plain.py:votes")
    (row,) = mixed([part], seed=0)
    assert json.loads(row["canonical"]) == [{"prompt": "2+2?", "chosen": "4.", "rejected": "5"}]
