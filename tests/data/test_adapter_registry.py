"""The registry: ambiguous columns, names, column_mapping, entry points; and what the modules promise."""

import ast
import doctest
import importlib
import sys
from importlib import metadata
from pathlib import Path

import pytest

from hf_rewardplug.data import adapters
from hf_rewardplug.data.adapters import (
    adapter_names,
    detect_adapter,
    get_adapter,
    register_adapter,
    registry,
    rename_columns,
    rename_names,
)

MODULES = ("", ".fields", ".preference", ".ranked", ".registry", ".stepwise", ".turns")


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What a test registers is gone after it; entry points of the installed packages stay out."""
    monkeypatch.setattr(registry.ADAPTERS, "things", dict(registry.ADAPTERS.things))
    monkeypatch.setattr(registry.ADAPTERS, "loaded", True)


def as_pair(row):
    return {"chosen": row["good"], "rejected": row["bad"]}


def test_more_columns_win_then_a_look_at_the_row_then_the_last_registered():
    row = {"good": "a", "bad": "b", "why": "c"}
    register_adapter("two", columns=["good", "bad"])(lambda row: [])
    assert detect_adapter(row, row).name == "two"
    register_adapter("last", columns=["good", "bad"])(lambda row: [])
    assert detect_adapter(row, row).name == "last"
    register_adapter("looks", columns=["good", "bad"], matches=lambda row: row["good"] == "a")(lambda row: [])
    register_adapter("newest", columns=["good", "bad"])(lambda row: [])
    assert detect_adapter(row, row).name == "looks"
    assert detect_adapter(row, {**row, "good": "x"}).name == "newest"
    register_adapter("three", columns=["why", "good", "bad"])(lambda row: [])
    assert detect_adapter(row, row).name == "three"


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}, "hh_rlhf"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "c"}, "preference"),
        ({"input": "a", "chosen": "b", "rejected": "c"}, "bradley_terry.chat_template"),
        ({"prompt": "a", "completions": ["b"], "labels": [1], "scores": [1]}, "stepwise_supervised"),
        (
            {"prompt": "a", "completions": ["b"], "preference_pairs": [], "preference": [], "labels": []},
            "finegrained_rlhf",
        ),
    ],
)
def test_ambiguous_columns(row, name):
    assert detect_adapter(list(row), row).name == name


def test_nothing_fits():
    with pytest.raises(ValueError) as error:
        detect_adapter(["question", "label"], {"question": "a", "label": 1})
    message = str(error.value)
    assert message.startswith("no known format fits the columns ['question', 'label']")
    assert "\n  preference: chosen, rejected\n" in message
    assert "\n  prm800k: question, label (the columns fit, the first row does not)\n" in message
    assert "By name only: bradley_terry.llama3.icr, pku_saferlhf.safer, skywork\n" in message
    assert "column_mapping" in message


def test_an_unknown_name_is_answered_by_the_nearest():
    with pytest.raises(ValueError, match=r"unknown adapter 'HH-RLHF'\. Known, the nearest first: hh_rlhf, alpaca"):
        get_adapter("HH-RLHF")
    assert adapter_names() == sorted(adapter_names())


def test_a_taken_name():
    assert register_adapter("votes")(as_pair) is as_pair
    register_adapter("votes", columns=["good", "bad"])(as_pair)
    assert get_adapter("votes").columns == ("good", "bad")
    with pytest.raises(ValueError, match=r"adapter 'votes' is taken by .*as_pair; .*test_.* cannot have it.*overwrite"):
        register_adapter("votes")(test_nothing_fits)
    register_adapter("votes", overwrite=True)(test_nothing_fits)
    assert get_adapter("votes").function is test_nothing_fits


def test_a_notebook_cell_that_runs_twice_replaces_its_function():
    cell = "def votes(row):\n    return []\n"
    first, second = {"__name__": "__main__"}, {"__name__": "__main__"}
    exec(cell, first), exec(cell, second)
    register_adapter("votes")(first["votes"])
    register_adapter("votes")(second["votes"])
    assert get_adapter("votes").function is second["votes"]


def test_an_adapter_returns_a_list_whatever_its_function_returns():
    register_adapter("votes")(as_pair)
    assert get_adapter("votes")({"good": "a", "bad": "b"}) == [{"chosen": "a", "rejected": "b"}]
    register_adapter("nothing")(lambda row: None)
    with pytest.raises(TypeError, match="adapter 'nothing' returned NoneType; expected a"):
        get_adapter("nothing")({})


def test_column_mapping():
    row = {"question": "a", "chosen": "b", "rejected": "c", "input": "old"}
    assert rename_columns(row, {"input": "question"}) == {"chosen": "b", "rejected": "c", "input": "a"}
    swapped = rename_columns(row, {"chosen": "rejected", "rejected": "chosen"})
    assert swapped == {"question": "a", "input": "old", "chosen": "c", "rejected": "b"}
    assert rename_columns(row, None) == row
    names = rename_names(list(row), {"input": "question"})
    assert names == list(rename_columns(row, {"input": "question"}))
    assert detect_adapter(names, rename_columns(row, {"input": "question"})).name == "bradley_terry.chat_template"
    with pytest.raises(ValueError, match=r"'prompt' from column 'query', .* found \['question', 'chosen'"):
        rename_columns(row, {"prompt": "query"})


@pytest.fixture
def plugin(monkeypatch, tmp_path):
    """Installs a module `rewardplug_fake` with this source behind one entry point; counts the look-ups."""

    def install(source, value="rewardplug_fake:votes"):
        (tmp_path / "rewardplug_fake.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "rewardplug_fake", raising=False)
        looked_up = []

        def entry_points(*, group):
            looked_up.append(group)
            return [metadata.EntryPoint("fake", value, group)]

        monkeypatch.setattr(metadata, "entry_points", entry_points)
        monkeypatch.setattr(registry.ADAPTERS, "loaded", False)
        monkeypatch.setattr(registry.ADAPTERS, "broken", {})
        return looked_up

    yield install
    sys.modules.pop("rewardplug_fake", None)


PLAIN = "def votes(row):\n    return {'chosen': row['good'], 'rejected': row['bad']}\n"
DECORATED = (
    "from hf_rewardplug.data.adapters import register_adapter\n"
    "@register_adapter('fake.votes', columns=['good', 'bad'])\n" + PLAIN
)


def test_an_entry_point_is_loaded_once_and_is_found_by_name(plugin):
    looked_up = plugin(PLAIN)
    assert get_adapter("fake")({"good": "a", "bad": "b"}) == [{"chosen": "a", "rejected": "b"}]
    assert get_adapter("fake").columns is None
    assert "fake" in adapter_names()
    assert looked_up == ["hf_rewardplug.adapters"]


def test_an_entry_point_that_registers_itself_keeps_its_name_and_columns(plugin):
    plugin(DECORATED)
    assert detect_adapter(["good", "bad"], {"good": "a", "bad": "b"}).name == "fake.votes"
    assert "fake" not in adapter_names()


@pytest.mark.parametrize(
    ("source", "value", "why"),
    [
        ("import no_such_module", "rewardplug_fake:votes", "ModuleNotFoundError"),
        ("1/0", "rewardplug_fake:votes", "ZeroDivisionError"),
        ("votes = 3", "rewardplug_fake:votes", "TypeError: it is int, not a function"),
        (PLAIN, "rewardplug_fake:other", "AttributeError"),
    ],
)
def test_an_entry_point_that_fails_is_named_when_asked_for_and_stops_no_other_adapter(plugin, source, value, why):
    plugin(source, value)
    message = rf"entry point 'fake' \({value}\) cannot be loaded: {why}"
    for _ in range(2):  # it does not become silent the second time
        assert get_adapter("preference").name == "preference"
        assert detect_adapter(["chosen", "rejected"], {"chosen": "a", "rejected": "b"}).name == "preference"
        assert "preference" in adapter_names() and "fake" not in adapter_names()
        with pytest.raises(ImportError, match=message):
            get_adapter("fake")
        with pytest.raises(ValueError, match=f"(?s)unknown adapter 'fake.votes'.*{message}"):
            get_adapter("fake.votes")
        with pytest.raises(ValueError, match=f"(?s)no known format fits.*{message}"):
            detect_adapter(["good", "bad"], {"good": "a", "bad": "b"})


@pytest.mark.parametrize("module", MODULES)
def test_doctests(module):
    result = doctest.testmod(importlib.import_module(f"hf_rewardplug.data.adapters{module}"))
    assert result.attempted
    assert not result.failed


def test_every_adapter_shows_a_raw_row_and_its_result():
    for name in adapter_names():
        function = get_adapter(name).function
        if function.__module__.startswith("hf_rewardplug.data.adapters."):
            assert f"{function.__name__}({{" in function.__doc__.split(">>>", 1)[1], name


def test_adapters_import_nothing_but_the_standard_library_and_each_other():
    for path in Path(adapters.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert all(alias.name.split(".")[0] in sys.stdlib_module_names for alias in node.names), path
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.split(".")[0] in sys.stdlib_module_names, path
