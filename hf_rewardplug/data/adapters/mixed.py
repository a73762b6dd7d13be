"""A mixture's rows (`hf_rewardplug.data.mixing`) -> the canonical rows that they carry as JSON.

In: `canonical`, what the adapter of a part gave for one raw row, and `subset`, the part's name. Out: those rows again.
"""

import json

from ...checks import DropRow, RowError, shown
from .fields import Row, text
from .registry import register_adapter


@register_adapter("mixed", columns=("canonical", "subset"), optional=("source_row",))
def mixed(row: Row) -> list[Row]:
    """Rows of data sets of different formats in one column; no row where the part's adapter gave none (a tie).

    >>> mixed({"canonical": '[{"prompt": "2+2?", "chosen": "4", "rejected": "5"}]', "subset": "sums"})
    [{'prompt': '2+2?', 'chosen': '4', 'rejected': '5'}]
    >>> mixed({"canonical": '{"empty": "there are no steps"}', "subset": "sums"})
    Traceback (most recent call last):
    hf_rewardplug.checks.DropRow: there are no steps
    >>> mixed({"canonical": '{"refused": "column \\'chosen\\': is None"}', "subset": "sums"})
    Traceback (most recent call last):
    hf_rewardplug.checks.RowError: column 'chosen': is None
    """
    written = text(row, "canonical")
    try:
        rows = json.loads(written)
    except json.JSONDecodeError as error:
        raise RowError(f"is not JSON: {error}; found {shown(written)}", "canonical") from None
    if isinstance(rows, dict) and "empty" in rows:
        raise DropRow(rows["empty"])
    if isinstance(rows, dict) and "refused" in rows:
        raise RowError(rows["refused"])
    if not isinstance(rows, list):
        raise RowError(f"expected a JSON list of canonical rows, found {shown(written)}", "canonical")
    return rows
