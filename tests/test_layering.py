"""The arrows of the house: data -> model -> train -> runs -> integrations; score uses data and model, inspection data,
model and train's objectives; nobody but train and runs knows TRL, nobody but cli and `train.__main__` knows
integrations."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "hf_rewardplug"

FORBIDDEN = {  # room -> what no module of it may import
    "data": {
        *("trl", "peft", "accelerate", "hf_rewardplug.model", "hf_rewardplug.train", "hf_rewardplug.score"),
        *("hf_rewardplug.integrations", "hf_rewardplug.inspection", "hf_rewardplug.runs"),
    },
    "data/adapters": {"torch", "transformers", "datasets"},
    "model": {
        *("trl", "datasets", "hf_rewardplug.data", "hf_rewardplug.train", "hf_rewardplug.score"),
        *("hf_rewardplug.integrations", "hf_rewardplug.runs"),
    },
    "train": {
        *("hf_rewardplug.score", "hf_rewardplug.integrations", "hf_rewardplug.inspection"),
        "hf_rewardplug.runs",
    },
    "runs": {"hf_rewardplug.score", "hf_rewardplug.integrations", "hf_rewardplug.inspection", "hf_rewardplug.cli"},
    "score": {
        *("trl", "hf_rewardplug.train", "hf_rewardplug.integrations", "hf_rewardplug.inspection"),
        "hf_rewardplug.runs",
    },
    "inspection": {
        *("trl", "hf_rewardplug.score", "hf_rewardplug.integrations", "hf_rewardplug.cli"),
        "hf_rewardplug.runs",
    },
    "integrations": {"trl", "hf_rewardplug.score", "hf_rewardplug.cli"},
}

DOORS = {"train/__main__.py"}
"""modules that stand in a room for the command line, and are held to no room's rule"""


def imported(path: Path) -> set[str]:
    """Absolute names of all modules that `path` imports, inside functions too."""
    package = ["hf_rewardplug", *path.relative_to(PACKAGE).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def breaches(room: str) -> list[str]:
    return [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in sorted((PACKAGE / room).rglob("*.py"))
        if path.relative_to(PACKAGE).as_posix() not in DOORS
        for name in sorted(imported(path))
        for barred in FORBIDDEN[room]
        if name == barred or name.startswith(f"{barred}.")
    ]


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_arrow_points_back(room):
    assert breaches(room) == []


def test_torch_enters_the_data_room_at_the_collator():
    users = {path.name for path in (PACKAGE / "data").rglob("*.py") if {"torch"} & imported(path)}
    assert users == {"collator.py"}


def test_figures_know_nothing_of_the_package():
    for name in ("figures.py", "figure_names.py"):
        assert not any(module.startswith("hf_rewardplug") for module in imported(PACKAGE / name)), name


def test_two_modules_know_axolotl_itself():
    users = {path.name for path in PACKAGE.rglob("*.py") if any(n.split(".")[0] == "axolotl" for n in imported(path))}
    assert users == {"plugin.py", "trainers.py"}


def test_the_test_sees_relative_imports():
    names = imported(PACKAGE / "train" / "setup.py")
    assert {"hf_rewardplug.data.step_nodes", "hf_rewardplug.model.head", "trl.chat_template_utils"} <= names
