"""How the rows of a data set looked when they were encoded: text or turns, and with which arguments of the template.

In: canonical rows on their way through the encoder. Out: what a checkpoint remembers of them, so that its scorer
renders prompts and completions as training did.

    {"prompt": "2+2?", "chosen": "4", ...}                                text     prompt, completion, EOS
    {"prompt": [{"role": "user", ...}], "chosen": [{"role": ...}], ...}   turns    what the chat template renders
"""

import json
from collections import Counter
from collections.abc import Iterable
from multiprocessing.sharedctypes import RawArray
from typing import Any

from .canonical import Row

TEXT, TURNS = "text", "turns"
FORMS = (TEXT, TURNS)

ROW_LOOK = "rewardplug_look"
"""The column that says how each row looked. It is removed when it has been counted."""


def form_of(row: Row) -> str:
    """Whether a canonical row is text or turns; of steps, which are always text, whether their prompt is.

    >>> form_of({"prompt": "2+2?", "chosen": "4", "rejected": "5"})
    'text'
    >>> form_of({"prompt": [{"role": "user", "content": "2+2?"}], "completions": ["4"], "labels": [1]})
    'turns'
    """
    if any(name in row for name in ("labels", "outcome", "nodes")):
        answer = row.get("prompt")
    elif "completions" in row:
        answer = next(iter(row["completions"]), "")
    else:
        answer = row["chosen"] if "chosen" in row else row.get("completion")
    return TURNS if isinstance(answer, list) else TEXT


def look_of(row: Row, chat_template_kwargs: dict[str, Any]) -> str:
    """The row's form and the arguments that its template is rendered with, as the column `ROW_LOOK` holds them.

    >>> look_of({"prompt": [{"role": "user", "content": "2+2?"}], "labels": [1]}, {"mood": "calm"})
    '["turns", {"mood": "calm"}]'
    """
    form = form_of(row)
    arguments = {**chat_template_kwargs, **(row.get("chat_template_kwargs") or {})}
    return json.dumps([form, arguments if form == TURNS else {}], sort_keys=True, default=str)


class RowLooks:
    """What the encoded rows of a data set looked like, as far as they were read.

    The counts lie in memory that the data loader's workers share, since they are the ones that read a stream.

    >>> looks = RowLooks()
    >>> looks.read(['["turns", {"mood": "calm"}]', '["turns", {"mood": "calm"}]'])
    >>> looks.rows, looks.chat_template_kwargs
    ('turns', {'mood': 'calm'})
    >>> looks.add('["text", {}]')
    >>> looks.rows, looks.count("turns")
    ('both', 2)
    """

    def __init__(self) -> None:
        self._counts = RawArray("q", len(FORMS))
        self.chat_template_kwargs: dict[str, Any] | None = None
        """what all conversations were rendered with; None where they differ, or nobody knows"""

    def __deepcopy__(self, memo: dict) -> "RowLooks":
        return self  # a copied stream counts where its original does

    def add(self, look: str, count: int = 1) -> None:
        """Count a value of the column `ROW_LOOK`."""
        form, _ = json.loads(look)
        self._counts[FORMS.index(form)] += count

    def read(self, column: Iterable[str]) -> None:
        """Count all values of the column, and remember the arguments of conversations."""
        looks = Counter(column)
        for look, count in looks.items():
            self.add(look, count)
        arguments = [options for form, options in map(json.loads, looks) if form == TURNS]
        self.chat_template_kwargs = arguments[0] if len(arguments) == 1 else None

    def count(self, form: str) -> int:
        return self._counts[FORMS.index(form)]

    @property
    def rows(self) -> str | None:
        """ "text", "turns" or "both"; None where no row has been read."""
        seen = [form for form in FORMS if self.count(form)]
        return "both" if len(seen) == 2 else next(iter(seen), None)
