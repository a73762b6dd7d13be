"""README.md and the pages of docs/ against the package: names, defaults, paths, commands and blocks of Python."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from hf_rewardplug import PRMConfig, RewardConfig
from hf_rewardplug.cli import app
from hf_rewardplug.model.attention import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = ["README.md", "recipes/README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_python_import_what_there_is_and_call_it_by_its_arguments(page):
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        names = {}
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("hf_rewardplug"):
                module = importlib.import_module(node.module)
                names |= {one.name: getattr(module, one.name) for one in node.names}
        names |= {"RewardConfig": RewardConfig, "PRMConfig": PRMConfig}
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                known = inspect.signature(names[node.func.id]).parameters
                assert {one.arg for one in node.keywords if one.arg} <= known.keys(), ast.unparse(node)


def test_files_and_commands_that_are_named_exist():
    for name in re.findall(r"(?:python|--config|--config_file|--deepspeed) ((?:recipes|benchmarks)/\S+?\.\w+)", README):
        assert (ROOT / name).is_file(), name
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {*re.findall(r"^rewardplug (\w+)", README, re.MULTILINE)} <= commands
    package = README.partition("## The package")[2]
    for room, text in re.findall(r"^  (\w+)/ +(.*(?:\n {6,}.*)*)", package, re.MULTILINE):
        for name in re.findall(r"\b(\w+(?:\.py|/))", text):
            assert list((ROOT / "hf_rewardplug" / room).rglob(name.rstrip("/"))), f"{room}: {name}"


def test_the_table_of_options_has_their_defaults():
    rows = re.findall(r"^\| (`.*?`) \| (\w+) \| (.*?) \|", README.partition("## Options beyond TRL's")[2], re.MULTILINE)
    assert len(rows) > 10
    shown = {"detected": None, "none": None, "on": True, "off": False, "2": 2}
    for names, kind, default in rows:
        for config in {"both": (RewardConfig, PRMConfig), "PRM": (PRMConfig,), "ORM": (RewardConfig,)}[kind]:
            fields = config.__dataclass_fields__
            for name in re.findall(r"`(\w+)`", names):
                assert name in fields, name
                quoted = re.findall(r"`(\w+)`", default)
                expected = quoted[config is PRMConfig and len(quoted) > 1] if quoted else shown[default]
                assert fields[name].default == expected, (config.__name__, name)


def test_the_tested_families_are_those_that_share_prefixes():
    sentence = re.search(r"among the tested families \((.*?)\)", README, re.DOTALL)[1]
    assert {*re.findall(r"`(\w+)`", sentence)} == {*FAMILIES}


def test_versions_are_pyproject_s():
    project = (ROOT / "pyproject.toml").read_text()
    versions = re.findall(r"\b(torch|transformers|trl) >= ([\d.]+\d)", README)
    assert [name for name, _ in versions] == ["torch", "transformers", "trl"]
    for name, least in versions:
        assert re.search(rf'"{name}>={re.escape(least)}[",]', project), name


def test_fifty_pitfalls_have_tests():
    numbers = re.findall(
        r"def test_pitfall_(\d+)", "".join(p.read_text() for p in (ROOT / "tests/pitfalls").glob("*.py"))
    )
    assert f"{len({*numbers})} known ways" in README and {*map(int, numbers)} == {*range(1, 51)}
