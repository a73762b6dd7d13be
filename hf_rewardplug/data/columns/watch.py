"""Unread columns of rows that come one by one, each with columns of its own.

In: an adapter and a raw row, again and again. Out: nothing, or the error of `unread_columns`; other columns that are
not read are logged once.
"""

import logging
from collections.abc import Mapping
from typing import Any

from ..adapters import Adapter
from . import unread_columns
from .values import has_content

logger = logging.getLogger(__name__)


class RowWatch:
    """
    >>> from hf_rewardplug.data.adapters import get_adapter
    >>> watch, row = RowWatch(), {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
    >>> pairs = get_adapter("preference")
    >>> watch(pairs, row), watch(pairs, {**row, "context": None})
    (None, None)
    >>> watch(pairs, {**row, "context": "Sums."})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: column 'context' looks like a part of the prompt, but the format 'preference' does not read it, ...
    """

    def __init__(self, column_mapping: Mapping[str, str] | None = None):
        self._mapping = column_mapping
        self._settled: dict[Adapter, set[str]] = {}  # columns that are read, or had content before

    def __call__(self, adapter: Adapter, raw: Mapping[str, Any]) -> None:
        """
        Args:
            raw: the row before `column_mapping`, without the columns to ignore.

        Raises:
            ValueError: a column looks like a part of the prompt, and the adapter does not read it.
        """
        settled = self._settled.setdefault(adapter, set())
        new = [name for name in raw if name not in settled]
        if not new or not any(has_content(raw[name]) for name in new):
            return
        unread = unread_columns(adapter, [dict(raw)], column_mapping=self._mapping)
        if new_names := [name for name in unread.names if name in new]:
            logger.warning("%s: columns that are not read: %s", adapter.name, ", ".join(new_names))
        settled.update(name for name in raw if has_content(raw[name]) and name not in unread.watched)
