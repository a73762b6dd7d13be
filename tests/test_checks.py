"""Errors keep their parts as fields, wherever they are sent; their tree is the one that the docstring draws."""

import importlib
import pickle
import re
from pathlib import Path

import pytest

import hf_rewardplug
from hf_rewardplug import checks
from hf_rewardplug.checks import DropRow, RowError

PACKAGE = Path(hf_rewardplug.__file__).parent
PARTS = ("reason", "column", "number", "row", "item", "where", "general")


def of_fields(error):
    return {part: getattr(error, part) for part in PARTS}


@pytest.mark.parametrize("kind", [RowError, DropRow])
def test_an_error_of_a_row_comes_through_a_pickle_with_its_fields(kind):
    """`datasets.map` sends it from its processes."""
    sent = kind("is None", "chosen", number=7, row="row 3 of b.jsonl", item=1, where="train data set", general="None")
    back = pickle.loads(pickle.dumps(sent))
    assert type(back) is kind and of_fields(back) == of_fields(sent)
    assert str(back) == "train data set, row 3 of b.jsonl: column 'chosen': is None."


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (RowError("is None", "chosen"), "column 'chosen': is None"),
        (RowError("there are no steps"), "there are no steps"),
        (KeyError("chosen"), "KeyError: 'chosen'"),
        (ValueError("nobody voted"), "ValueError: nobody voted"),
    ],
)
def test_any_error_becomes_one_of_a_row(error, what):
    found = RowError.of(error, number=2, where="eval data set")
    assert str(found) == f"eval data set, row 2: {what}." and found.what == found.general == what


def test_the_tree_of_errors_is_the_one_that_is_drawn():
    """Each error of the package is drawn behind the class that it is made from, and nothing else is drawn."""
    drawn, above = {}, {}
    for indent, name in re.findall(r"^    ((?:[│ ]   )*(?:[├└]── )?)(\w+)(?= |$)", checks.__doc__, re.MULTILINE):
        above[len(indent)] = name
        drawn[name] = above.get(len(indent) - 4)
    found = {"ValueError": None}
    for path in PACKAGE.rglob("*.py"):
        for name, base in re.findall(r"^class (\w+)\((\w*(?:Error|Exception|Row))\):", path.read_text(), re.MULTILINE):
            found[name] = base
    assert drawn == found


def test_what_stands_at_the_bottom_imports_no_room():
    for name in ("checks", "registry"):
        source = Path(importlib.import_module(f"hf_rewardplug.{name}").__file__).read_text(encoding="utf-8")
        assert not re.search(r"^(from|import) (\.(?!checks )|hf_rewardplug)", source, re.MULTILINE)
