"""docs/formats.md against the registry: every adapter, its columns, and whether it gives text or turns."""

import ast
import doctest
import re
from pathlib import Path

import pytest

from hf_rewardplug.data.adapters.registry import adapter_names, get_adapter
from hf_rewardplug.data.row_forms import form_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
BUILT_IN = [name for name in adapter_names() if get_adapter(name).function.__module__.startswith("hf_rewardplug.")]


def table() -> dict[str, tuple[str, str]]:
    """{adapter: (cell of its columns, cell of its form)}; a line may hold several adapters."""
    lines = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0].startswith("`"):
            lines |= {name: (cells[1], cells[4]) for name in re.findall(r"`([^`]+)`", cells[0])}
    return lines


def test_every_adapter_stands_there_once():
    assert sorted(table()) == sorted(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_its_form_is_what_its_example_gives(name):
    """The docstring's raw rows, as literals, through the adapter itself."""
    adapter, (_, written) = get_adapter(name), table()[name]
    if written.startswith("as the "):
        return  # text gives text and turns give turns
    forms = set()
    for example in doctest.DocTestParser().get_examples(adapter.function.__doc__ or ""):
        for node in ast.walk(ast.parse(example.source)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == adapter.function.__name__ and node.args:
                try:
                    raw = ast.literal_eval(node.args[0])
                except ValueError:
                    continue
                forms |= {form_of(row) for row in adapter(raw)}
    if forms:
        assert forms <= set(re.split(r"[;,] ", written)), name
