"""Columns that a format does not read: no part of a prompt is left out in silence.

In: an adapter and rows of a data set. Out: the columns that nobody reads, or a `ValueError` with the remedies.

    column                                              becomes
    the adapter reads it                                -
    `ignored` of the adapter, ignore_columns            -
    holds nothing in the rows that are looked at        watched: a later row with a part of a prompt in it is refused
    looks like a part of a prompt, and its text is      ValueError; reported where it is another name of what TRL's
    not in what the adapter reads                       `prompt` holds, which is read (`input`, `question`)
    an id, a source, a score by its name                -
    anything else                                       reported once, by name

A part of a prompt is known by its value (messages, tools, images, sound), by its name (`names.py`), or, where rows have
no prompt at all, by being text. Once a data set, not once a row: the rows of `looked_at` stand for the others.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ...checks import RowError
from ..adapters import Adapter, rename_columns
from ..canonical import Row
from ..formats.csv_cells import is_written_list
from .names import ANSWER, CONTEXT, FREE, MAYBE, MEDIA, PROMPT, TOPIC, kind_of_name
from .reading import KnownTexts
from .refusal import refusal
from .values import (
    has_content,
    is_id,
    is_media,
    is_messages,
    is_name,
    is_of_assistant,
    is_sentence,
    is_tools,
    parsed,
    texts_of,
)

_FIRST, _SPREAD = 16, 48  # rows that are looked at: the first ones, and so many over all
OURS = "rewardplug_"  # columns of this package: where a row stands in its file


@dataclass(frozen=True)
class Unread:
    """Columns of a data set that nobody reads.

    Attributes:
        names: those with content in the rows looked at.
        beside_prompt: those of them that may say what is asked, but `prompt` is read.
        watched: those without. `refuse_prompts` looks at them in every row, and at those that are not `met` yet.
        met: all columns of the rows looked at; None where no row was looked at, and none is to be.
        ignored: what the user said may be ignored.
        of_parts: of a mixture, the same in words for each part.
    """

    names: tuple[str, ...] = ()
    beside_prompt: tuple[str, ...] = ()
    watched: tuple[str, ...] = ()
    met: tuple[str, ...] | None = None
    ignored: tuple[str, ...] = ()
    of_parts: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is something that the user may not know."""
        return bool(self.names or self.of_parts)

    def __str__(self) -> str:
        """
        >>> print(Unread(names=("id", "votes"), ignored=("system",)))
        columns that are not read: id, votes; ignored as asked: system
        """
        parts = ["columns that are not read: " + ", ".join(self.names)] if self.names else []
        if self.beside_prompt:
            parts.append(f"the prompt is `prompt` alone, without {', '.join(self.beside_prompt)}")
        parts += ["ignored as asked: " + ", ".join(self.ignored)] if self.ignored else []
        return "; ".join([*parts, *self.of_parts])


def looked_at(rows: Iterable[Row]) -> list[Row]:
    """Rows that stand for all: the first ones and others at even distances; of a stream the first ones.

    >>> len(looked_at([{"prompt": number} for number in range(1000)])), len(looked_at(iter([{}, {}])))
    (63, 2)
    """
    if not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
        first: list[Row] = []
        with suppress(Exception):  # a broken row further on is reported when it is read
            first.extend(islice(rows, _FIRST))
        return first
    count = len(rows)
    numbers = {*range(min(_FIRST, count)), *(number * count // _SPREAD for number in range(_SPREAD if count else 0))}
    return [rows[number] for number in sorted(numbers)]


def check_ignored(ignore_columns: Iterable[str] | None, columns: Iterable[str]) -> tuple[str, ...]:
    """The columns to ignore, if all of them are there.

    >>> check_ignored(["sytem"], ["system", "prompt"])
    Traceback (most recent call last):
    ValueError: ignore_columns names 'sytem', which is no column; found ['system', 'prompt'].
    """
    columns, names = list(columns), tuple(ignore_columns or ())
    if unknown := [name for name in names if name not in columns]:
        raise ValueError(f"ignore_columns names {unknown[0]!r}, which is no column; found {columns}.")
    return names


def unread_columns(
    adapter: Adapter,
    rows: Sequence[Row],
    *,
    column_mapping: Mapping[str, str] | None = None,
    beside: Iterable[str] = (),
    ignored: tuple[str, ...] = (),
) -> Unread:
    """What `adapter` leaves unread of `rows`, which stand for the data set.

    Args:
        rows: raw, without the columns to ignore.
        beside: columns that are read by others than the adapter.
        ignored: the columns to ignore, for the report.

    Raises:
        ValueError: columns look like parts of a prompt, and the adapter would leave them out; or it reads messages that
            are written as text.
    """
    mapping = dict(column_mapping or {})
    renamed = [rename_columns(row, mapping) for row in rows]
    readings = [_known(adapter, row) for row in renamed]
    read = {mapping.get(name, name) for row in renamed for name in adapter.reads(row)} | {*beside, *adapter.ignored}
    names = {name: None for row in rows for name in row if name not in read and not name.startswith(OURS)}
    parts: dict[str, set[str | None]] = {name: set() for name in names}
    # a row that cannot be read says nothing of the columns, unless they may be why none can
    judges_unreadable = adapter.optional is not None and not any(readings)
    for raw, row, known in zip(rows, renamed, readings, strict=True):
        if known and known.replaces(row.get("prompt")):
            parts.setdefault(mapping.get("prompt", "prompt"), set()).add(None)
        if known or judges_unreadable:
            for name in filter(lambda name: has_content(raw.get(name)), names):
                parts[name].add(part_of_prompt(name, raw[name], known))
    if refused := {name: part for part in ("prompt", "media") for name in names if part in parts[name]}:
        raise ValueError(refusal(adapter, refused, renamed[0]))
    _refuse_written_messages([row for known in readings if known for row in known.rows])
    return Unread(
        names=tuple(name for name in parts if parts[name] and not _is_label(name, rows)),
        beside_prompt=tuple(name for name in names if "beside" in parts[name]),
        watched=tuple(name for name in names if not parts[name]),
        met=tuple(dict.fromkeys(name for row in rows for name in row)),  # in order: `datasets` hashes it
        ignored=ignored,
    )


def _is_label(name: str, rows: Sequence[Row]) -> bool:
    """Whether a column is an id, a source, a topic or the like by its name, and no text of more than a few words."""
    return kind_of_name(name) in (FREE, TOPIC) and all(
        is_name(text) for row in rows for text in texts_of(row.get(name))
    )


def beside_tokens(columns: Iterable[str], read: Iterable[str]) -> Unread:
    """Columns that nobody reads of rows that are tokenized already: reported, since the tokens may hold them.

    >>> print(beside_tokens(["chosen_ids", "rejected_ids", "id", "context"], ["chosen_ids", "rejected_ids", "margin"]))
    columns that are not read: context
    """
    read = {*read}
    return Unread(tuple(name for name in columns if name not in read and kind_of_name(name) != FREE))


def refuse_prompts(adapter: Adapter, raw: Row, unread: Unread, canonical: list[Row]) -> None:
    """A `RowError` where a column holds a part of a prompt that the adapter does not read, unlike in the rows that were
    looked at: it held nothing there, or there was none (rows of a stream need not have the same columns).

    Args:
        canonical: what the adapter gave for the row.
    """
    new = [name for name in raw if name not in unread.met] if unread.met is not None else []
    for name in (*unread.watched, *new):
        if not has_content(raw.get(name)) or name in adapter.ignored or (name in new and name in adapter.reads(raw)):
            continue
        if part_of_prompt(name, raw[name], KnownTexts(canonical, _filled(adapter, raw))) in ("prompt", "media"):
            raise RowError(
                f"holds a part of the prompt, unlike in the rows before, and the format '{adapter.name}' does not read "
                f"it. Name another format, rename the column, or leave it out with ignore_columns=['{name}']",
                name,
            )


def part_of_prompt(name: str, value: Any, known: KnownTexts | None) -> str | None:
    """What a column that nobody reads would take away.

    Args:
        known: what the row's reading has; None where the row cannot be read.

    Returns:
        "prompt"; "beside" where it may be another wording of what TRL's `prompt` holds; "media"; None where it is no
        part of a prompt.

    >>> known = KnownTexts([{"prompt": "2+2?", "chosen": "4", "rejected": "5"}], {"prompt"})
    >>> [part_of_prompt(name, "Be brief.", known) for name in ("system", "input", "source", "rationale", "remark")]
    ['prompt', 'beside', None, None, None]
    >>> part_of_prompt("question", "2+2?", known), part_of_prompt("remark", [{"bytes": b"png", "path": None}], known)
    (None, 'media')
    """
    value, role = parsed(value), kind_of_name(name)
    texts = list(texts_of(value))
    if is_media(value) or (role == MEDIA and (texts or isinstance(value, bytes | list))):
        return "media"
    messages = is_messages(value) and not (role == ANSWER and is_of_assistant(value))
    if is_tools(value):
        return "prompt"
    if not texts or not (messages or _is_prompt(role, texts, known)):
        return None
    if known is not None and known.holds(texts, answers=isinstance(value, list)):
        return None
    return "beside" if role in (PROMPT, MAYBE) and not messages and known is not None and known.is_trl else "prompt"


def media_columns(columns: Mapping[str, Any]) -> list[str]:
    """Names of columns that hold images, sound or video, by their names.

    >>> media_columns({"images": [None, ["a.png"]], "audio": None, "prompts": ["Hi"]})
    ['images']
    """
    return [name for name, value in columns.items() if kind_of_name(name) == MEDIA and has_content(value)]


def _is_prompt(role: str, texts: list[str], known: KnownTexts | None) -> bool:
    """Whether text of a column of this role is a part of a prompt."""
    if role in (PROMPT, CONTEXT):
        return not all(map(is_id, texts))
    sentences = any(map(is_sentence, texts))
    if role in (ANSWER, MAYBE) or known is None or known.has_prompt:
        return role == MAYBE and sentences
    return sentences and not (role == FREE and all(map(is_name, texts)))  # the rows have no prompt: this may be it


def _refuse_written_messages(rows: Sequence[Row]) -> None:
    """Messages that a csv file or `json.dumps` made text of would be trained as that text."""
    for name in ("prompt", "chosen", "rejected", "completion"):
        texts = [row[name] for row in rows if row.get(name)]
        if texts and all(isinstance(text, str) and is_written_list(text, messages_alone=True) for text in texts):
            raise ValueError(
                f"column {name!r} holds messages that are written as text, and would be read as that text. Make lists "
                f"of them: dataset.map(lambda row: {{{name!r}: json.loads(row[{name!r}])}}), or ast.literal_eval where "
                "Python wrote them."
            )


def _known(adapter: Adapter, row: Row) -> KnownTexts | None:
    try:
        return KnownTexts(adapter(row), _filled(adapter, row))
    except Exception:  # a bad row, or a third party's adapter: reported where all rows are read
        return None


def _filled(adapter: Adapter, row: Row) -> set[str]:
    """Columns with content that the adapter reads."""
    return {name for name in adapter.reads(row) if has_content(row[name])}
