"""A row of any format that training reads -> what a scorer is asked.

In: a raw row. Out: rows of `RewardScorer.score_rows`, one for each canonical row that the format's adapter gives.

    plain rows                              as they are: {"prompt", "completion", "completions" or "steps"}
    pairs                                   "completions": the chosen one, the rejected one
    ranked lists, scored completions        "completions", "completion"
    steps, outcomes                         "steps"
    a tree of steps                         "steps": each path to a last step; `node_scores` undoes it
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..checks import DropRow, RowError
from ..data.adapters import Adapter, detect_adapter, get_adapter, rename_columns
from ..data.adapters.fields import with_system_turn
from ..data.canonical import checked_completion, checked_list, checked_pair, template_arguments
from ..data.columns import check_ignored
from ..data.columns.watch import RowWatch
from ..data.expansion import row_type, to_steps
from ..data.prefix_tree import leaf_paths
from .inputs import EXPECTED, KEYS, key_of

Row = dict[str, Any]


class Requests:
    """Raw rows -> what `RewardScorer.score_rows` takes. The format of pairs is told from the first of them.

    Args:
        column: name of the new column, which no row may have.
        adapter: name of the rows' format, or "my_format.py:my_format". When None, rows that are plain are taken as they
            are, and the others' format is found from their columns.
        column_mapping: {column that the format expects: column of the data}.
        ignore_columns: columns that are not to be read, though they look like parts of the prompt.
        any_format: False knows plain rows and pairs alone where no adapter is named.

    >>> Requests()({"prompt": "2+2?", "chosen": "4", "rejected": "5"})
    {'prompt': '2+2?', 'completions': ['4', '5']}
    """

    def __init__(
        self,
        column: str = "score",
        *,
        adapter: str | None = None,
        column_mapping: Mapping[str, str] | None = None,
        ignore_columns: Sequence[str] | None = None,
        any_format: bool = False,
    ) -> None:
        self.taken = (column, f"{column}s")
        self.named = None if adapter is None else get_adapter(adapter)
        self.mapping, self.ignored, self.any_format = column_mapping, tuple(ignore_columns or ()), any_format
        self.adapter: Adapter | None = self.named
        self._watch = RowWatch(column_mapping)
        self._columns: dict[str, None] = {}

    def __call__(self, row: Any) -> Row:
        """The only request of a row.

        Raises:
            RowError: the row has nothing to score, or more than one canonical row.
        """
        requests = self.all(row)
        if len(requests) != 1:
            raise RowError(f"adapter '{self.adapter.name}' gives {len(requests)} rows; expected one")
        return requests[0]

    def all(self, row: Any) -> list[Row]:
        """
        Raises:
            DropRow: the adapter gives nothing for it (a tie). RowError: the row cannot be used.
        """
        if not isinstance(row, dict):
            raise RowError(f"found {type(row).__name__}; expected a JSON object")
        if taken := [key for key in self.taken if key in row]:
            raise RowError("is there already; name the new one otherwise: --column (column=...)", column=taken[0])
        self._columns.update(dict.fromkeys(row))
        raw = {key: value for key, value in row.items() if key not in self.ignored}
        row = rename_columns(raw, self.mapping) if self.mapping else raw
        if self.named is None and (key := key_of(row)):
            if isinstance(row["prompt"], list):  # text has no system turn: the watch says so
                raw = {name: value for name, value in raw.items() if name != "system"}
                row = {**row, "prompt": with_system_turn(row, row["prompt"])}
            self._watch(PLAIN, raw)
            return [_plain(row, key)]
        adapter = self._adapter_of(row)
        self._watch(adapter, raw)
        rows = adapter(row)
        self.adapter = adapter  # a row that it cannot read does not say what the others are
        if requests := [asked(canonical) for canonical in rows]:
            return requests
        raise DropRow("the adapter gives no row for it")

    def check_ignored(self) -> None:
        """
        Raises:
            ValueError: a column to ignore was in none of the rows so far.
        """
        check_ignored(self.ignored, self._columns)

    def _adapter_of(self, row: Row) -> Adapter:
        if self.named is None and (self.adapter is None or not self.adapter.has_columns(row)):
            if not (self.any_format or {"chosen", "rejected"} <= row.keys()):
                raise RowError(f"found {sorted(row)}; {EXPECTED}, or 'chosen' and 'rejected'. Rename the columns")
            try:
                return detect_adapter(list(row), row)
            except ValueError as error:
                remedy = "Rename the columns, or name the format: --adapter (adapter=...)"
                raise RowError(f"found {sorted(row)}; {EXPECTED}, or a format of training. {remedy}") from error
        return self.adapter


PLAIN = Adapter(
    "plain rows",
    lambda row: {"prompt": row["prompt"], "completions": row[key_of(row)]},
    columns=("prompt",),
    optional=(*KEYS, "labels", "outcome", "scores", "parents", "tools", "chat_template_kwargs"),
)
"""what `RewardScorer.score_rows` reads of a row"""


def _plain(row: Row, key: str) -> Row:
    solution = key == "completions" and (row.get("labels") is not None or row.get("outcome") is not None)
    prompt = {"prompt": row["prompt"] or "", **template_arguments(row)}
    return {**prompt, "steps" if solution else key: row[key]}  # the key last: `lines.py` looks for it


def asked(canonical: Row) -> Row:
    """The request of a canonical row.

    >>> asked({"prompt": "Hi", "completions": ["a", "b"], "scores": [1, 2]})
    {'prompt': 'Hi', 'completions': ['a', 'b']}
    >>> nodes = [{"text": text, "label": 1, "parent": parent} for text, parent in (("a", -1), ("b", 0), ("c", 0))]
    >>> asked({"prompt": "p", "nodes": nodes})
    {'prompt': 'p', 'parents': [-1, 0, 0], 'steps': [['a', 'b'], ['a', 'c']]}
    """
    form = row_type(canonical)
    if form == "step_tree":
        (tree,) = to_steps(canonical, empty_steps=True)
        steps = [[tree["completions"][node] for node in path] for path in leaf_paths(tree["parents"])]
        return {"prompt": tree["prompt"], **template_arguments(canonical), "parents": tree["parents"], "steps": steps}
    if form in ("stepwise", "outcome"):
        prompt = {"prompt": canonical.get("prompt") or "", **template_arguments(canonical)}
        return {**prompt, "steps": canonical["completions"]}
    checked = {"preference": checked_pair, "ranked": checked_list, "scored": checked_completion}[form](canonical)
    prompt = {"prompt": checked.get("prompt", ""), **template_arguments(checked)}
    if form == "preference":
        return {**prompt, "completions": [checked["chosen"], checked["rejected"]]}
    key = "completions" if form == "ranked" else "completion"
    return {**prompt, key: checked[key]}


def node_scores(parents: Sequence[int], scores: Iterable[Sequence[float]]) -> list[float]:
    """Scores of a tree's paths -> one for each node, the first path's (`model/positions.py` says when others differ).

    >>> node_scores([-1, 0, 0], [[0.9, 0.2], [0.9, 0.4]])
    [0.9, 0.2, 0.4]
    """
    of_nodes = [0.0] * len(parents)
    for path, values in reversed([*zip(leaf_paths(parents), scores, strict=True)]):
        for node, value in zip(path, values, strict=True):
            of_nodes[node] = value
    return of_nodes
