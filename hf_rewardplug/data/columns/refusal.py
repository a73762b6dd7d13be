"""The error for columns that look like parts of a prompt and are not read.

In: the adapter, the columns, a row. Out: the error's text, with the remedies that fit this row.
"""

from collections.abc import Mapping

from ...checks import listed
from ..adapters import Adapter, fitting_adapters
from ..canonical import Row

_MOST = 4  # formats that are named


def refusal(adapter: Adapter, refused: Mapping[str, str], row: Row) -> str:
    """The error's text.

    Args:
        refused: {column: "prompt" or "media"}.
        row: with its columns renamed.
    """
    names, media = list(refused), [name for name, part in refused.items() if part == "media"]
    ignore = f"ignore_columns={names} (--ignore-columns {','.join(names)})"
    if media:
        what = f"column {listed(media)}" if len(media) == 1 else f"columns {listed(media)}"
        return (
            f"{what}: images, sound and video are not trained on or scored. Leave such rows out, or take their text "
            f"alone with {ignore}."
        )
    what = "looks like a part" if len(names) == 1 else "look like parts"
    them = "it" if len(names) == 1 else "them"
    formats = ", ".join(f"adapter='{name}'" for name in _formats(names, row)) or "or register one"
    return (
        f"column{'' if len(names) == 1 else 's'} {listed(names)} {what} of the prompt, but the format "
        f"'{adapter.name}' does not read {them}, and the model would never see {them}. Name a format that does "
        f"({formats}), rename columns to what the format reads ({_mapping(adapter, names, row)}), or leave {them} out "
        f"on purpose: {ignore}."
    )


def _formats(names: list[str], row: Row) -> list[str]:
    """Formats that can read the row and the refused columns, the last registered first."""
    fitting = [other for other in fitting_adapters(row) if other.reads(row).issuperset(names)]
    return [other.name for other in fitting if not other.fails(row)][::-1][:_MOST]


def _mapping(adapter: Adapter, names: list[str], row: Row) -> str:
    """A mapping of the first column to one that the adapter reads and the row lacks."""
    missing = {*(adapter.columns or ()), *(adapter.optional or ())} - row.keys()
    alike = [name for name in ("system", "tools", "history") if name in names[0].lower()]
    asked = () if {"system", "tools"} & {*alike} else ("prompt", "input")
    expected = next((name for name in (*alike, *asked) if name in missing), None)
    return f"column_mapping={{{expected!r}: {names[0]!r}}}" if expected else "column_mapping={expected name: yours}"
