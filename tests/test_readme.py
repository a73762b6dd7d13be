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
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", "recipes/README.md", *(f"docs/{page.name}" for page in DOCS)]


def page(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", page(name)):
        if "://" in target:
            continue
        linked, _, anchor = target.partition("#")
        file = (ROOT / name).parent / linked if linked else ROOT / name
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target


@pytest.mark.parametrize("name", [name for name in PAGES if name != "CONTRIBUTING.md"])  # which shows bad examples
def test_blocks_of_python_import_what_there_is_and_call_it_by_its_arguments(name):
    for block in re.findall(r"```python\n(.*?)```", page(name), re.DOTALL):
        names = {}
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("hf_rewardplug"):
                module = importlib.import_module(node.module)
                names |= {alias.name: getattr(module, alias.name) for alias in node.names}
        names |= {"RewardConfig": RewardConfig, "PRMConfig": PRMConfig}
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                known = inspect.signature(names[node.func.id]).parameters
                assert {keyword.arg for keyword in node.keywords if keyword.arg} <= known.keys(), ast.unparse(node)


def test_files_and_commands_that_are_named_exist():
    text = README + page("docs/scoring.md")
    for name in re.findall(r"(?:python|--config|--config_file|--deepspeed) ((?:recipes|benchmarks)/\S+?\.\w+)", text):
        assert (ROOT / name).is_file(), name
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {*re.findall(r"^rewardplug (\w+)", text, re.MULTILINE)} <= commands


def test_the_map_of_the_house_names_what_there_is():
    house = page("CONTRIBUTING.md").partition("## The house")[2].partition("## Where")[0]
    rooms = re.findall(r"^  (\w+)/ +(.*(?:\n {6,}.*)*)", house, re.MULTILINE)
    packages = {room.name for room in (ROOT / "hf_rewardplug").iterdir() if (room / "__init__.py").exists()}
    assert {room for room, _ in rooms} == packages
    for room, text in rooms:
        for name in re.findall(r"\b(\w+(?:\.py|/))", text):
            assert list((ROOT / "hf_rewardplug" / room).rglob(name.rstrip("/"))), f"{room}: {name}"
    for name in re.findall(r"^  (\w+\.py)|  (\w+\.py)  ", house, re.MULTILINE):
        assert (ROOT / "hf_rewardplug" / "".join(name)).exists(), name


def test_the_table_of_changes_names_what_there_is():
    table = page("CONTRIBUTING.md").partition("## Where does my change go?")[2].partition("## Tests")[0]
    for name in re.findall(r"`((?:data|model|train|score|integrations|tests|docs)/[\w./]*|\w+\.py)`", table):
        assert (ROOT / name).exists() or (ROOT / "hf_rewardplug" / name).exists(), name


def test_the_table_of_options_has_their_defaults():
    rows = re.findall(r"^\| (`.*?`) \| (\w+) \| (.*?) \|", page("docs/options.md"), re.MULTILINE)
    assert len(rows) > 10
    shown = {"detected": None, "none": None, "on": True, "off": False, "2": 2}
    for names, trainer, default in rows:
        for config in {"both": (RewardConfig, PRMConfig), "PRM": (PRMConfig,), "ORM": (RewardConfig,)}[trainer]:
            fields = config.__dataclass_fields__
            for name in re.findall(r"`(\w+)`", names):
                assert name in fields, name
                quoted = re.findall(r"`(\w+)`", default)
                expected = quoted[config is PRMConfig and len(quoted) > 1] if quoted else shown[default]
                assert fields[name].default == expected, (config.__name__, name)


def test_the_tested_families_are_those_that_share_prefixes():
    sentence = re.search(r"among the tested families \((.*?)\)", page("docs/prefix_sharing.md"), re.DOTALL)[1]
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
    assert f"{len({*numbers})} known ways" in page("docs/runs.md") and {*map(int, numbers)} == {*range(1, 51)}
