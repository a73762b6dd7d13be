"""Kinds of rows: what the trainers' losses make of canonical rows, and what is worth telling of them.

    kind     canonical rows                      trainer          losses of
    pairs    preference, ranked (every pair)     RewardTrainer    pairs, ranked lists; of ranked rows completions too
    scored   scored, ranked (each completion)    RewardTrainer    completions
    steps    stepwise, step_tree, outcome        PRMTrainer       steps

In: canonical rows, an encoder or none. Out: examples, as `RowPipeline` takes them, with `counts`, `sequences` (their
tokens) and `prompt` (how many of these are the prompt's); and which losses take all rows that were kept.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from typing import Any, ClassVar

from ..checks import DropRow, RowError
from ..data.adapters import Adapter, rename_columns
from ..data.canonical import PAIR_NUMBERS, UNLABELLED, Row
from ..data.encoding import Encoder
from ..data.expansion import row_type, to_outcomes, to_pairs, to_scored, to_steps
from ..data.prefix_tree import common_prefix_length, leaf_paths
from ..figure_names import longer_wins
from ..train.losses import LOSSES
from .tokens import Merges

Part = tuple[str, Any]
"""a title, and token ids; without an encoder text or messages"""


class Kind:
    """Reads the rows of a data set.

    Attributes:
        counts: of rows that can be used: "lists" (ranked) and other types, "ties"; the rest is `Inspection.counts`.
        scores: {attribute or "score": every score}, of ranked rows too.
        merges: of step rows with an encoder.
    """

    name: ClassVar[str]
    types: ClassVar[tuple[str, ...]]
    hints: ClassVar[tuple[str, ...]] = ()
    """columns of formats that give such rows"""
    overlong: ClassVar[str] = "drop"
    """what becomes of long rows by default: that of `RewardConfig`, of steps that of `PRMConfig`"""

    def __init__(self, encoder: Encoder | None):
        self.encoder, self.counts, self.merges = encoder, Counter(), None
        self.scores: dict[str, list[float]] = {}

    def expand(self, row: Row) -> list[Row]:
        """A canonical row -> validated rows that `encode` takes."""
        raise NotImplementedError

    def encode(self, row: Row) -> Row:
        """-> the encoded row with its canonical one, `counts`, and with an encoder `sequences` and `prompt`."""
        return {"canonical": row, "cut": 0, "cut_labels": 0, **self._encoded(row)}

    def losses(self, counts: Counter) -> list[str]:
        """What takes every row that was kept; `counts`: of the kept examples."""
        raise NotImplementedError

    def parts(self, example: Row) -> list[Part]:
        """The example in parts, of which all but the first end in a scored token."""
        raise NotImplementedError

    def _encoded(self, row: Row) -> Row:
        raise NotImplementedError

    def _count_list(self, row: Row) -> None:
        self.counts["lists"] += 1
        self.counts[f"lists of {len(row['scores'])}"] += 1
        self.scores.setdefault("score", []).extend(map(float, row["scores"]))

    def _taking(self, rows: set[str], columns: set[str] = frozenset(), *, hard: bool = True) -> list[str]:
        """The losses that take rows of all these types, their optional columns and labels (`hard`: 0 and 1)."""
        shares = all(0 <= score <= 1 for scores in self.scores.values() for score in scores)
        fit = {"any", *["hard"] * hard, *["shares"] * shares}
        return [
            loss.name
            for loss in LOSSES.values()
            if rows <= {*loss.rows} and columns <= {*loss.columns, "weight"} and loss.labels in fit
        ]


class Pairs(Kind):
    """A ranked list gives every pair; a tie is counted, and left out as all losses but one do."""

    name = "pairs"
    types = ("preference", "ranked")

    def expand(self, row: Row) -> list[Row]:
        pairs = to_pairs(row, ties=True)
        self.counts["ties"] += sum(pair["tie"] for pair in pairs)
        if row_type(row) == "ranked":
            self._count_list(row)
        else:
            self.counts["preference"] += 1
        kept = [pair for pair in pairs if not pair["tie"]]
        return [{key: value for key, value in pair.items() if key != "tie"} for pair in kept]

    def losses(self, counts: Counter) -> list[str]:
        if not counts["pairs"]:
            return self._taking({"preference"}, {"tie"}) if self.counts["ties"] else []
        columns = {column for column in PAIR_NUMBERS if counts[column]}
        return self._taking({"preference" if self.counts["preference"] else "ranked"}, columns)

    def _encoded(self, row: Row) -> Row:
        counts = {"pairs": 1, **{key: int(key in row) for key in PAIR_NUMBERS}}
        if self.encoder is None:
            if row["chosen"] == row["rejected"]:
                raise DropRow("chosen and rejected are identical")
            return {"counts": counts}
        encoded = self.encoder.pair(row)
        chosen, rejected = sequences = [array("i", encoded[key]) for key in ("chosen_ids", "rejected_ids")]
        counts["longer_wins"] = float(longer_wins(len(chosen), len(rejected)))
        return {**encoded, "counts": counts, "sequences": sequences, "prompt": common_prefix_length(chosen, rejected)}

    def parts(self, example: Row) -> list[Part]:
        row, prefix = example["canonical"], example.get("prompt")
        if self.encoder is None:
            return [(key, row[key]) for key in ("prompt", "chosen", "rejected") if key in row]
        parts = [("both begin with", example["chosen_ids"][:prefix])]
        return parts + [(key, example[f"{key}_ids"][prefix:]) for key in ("chosen", "rejected")]


class Scored(Kind):
    """A completion with its score, or with the scores of all attributes that the first row has."""

    name = "scored"
    types = ("scored", "ranked")
    hints = ("completion", "response")

    def __init__(self, encoder: Encoder | None):
        super().__init__(encoder)
        self.attributes: list[str] | None = None
        self._first = True

    def expand(self, row: Row) -> list[Row]:
        ranked = row_type(row) == "ranked"
        if not ranked and self._first and isinstance(row.get("attributes"), dict) and "score" not in row:
            self.attributes = list(row["attributes"])
        found = to_scored(row, attributes=self.attributes)
        self._first = self._first and ranked
        self.counts["lists"] += ranked
        return found

    def losses(self, counts: Counter) -> list[str]:
        return [] if self.attributes is not None and self.counts["lists"] else self._taking({"scored"})

    def _encoded(self, row: Row) -> Row:
        encoded = {} if self.encoder is None else self.encoder.scored(row)
        for name, score in self._named(row):
            if not math.isnan(score):
                self.scores.setdefault(name, []).append(score)
        encoded["counts"] = {"completions": 1, "weight": int("weight" in row)}
        if self.encoder is not None:
            encoded |= {"sequences": [array("i", encoded["input_ids"])], "prompt": self._prompt(row, encoded)}
        return encoded

    def _named(self, row: Row) -> Iterable[tuple[str, float]]:
        return zip(self.attributes or ["score"], row["scores"], strict=True)

    def _prompt(self, row: Row, encoded: Row) -> int:
        """Tokens that the row has in common with the same row, its answer empty."""
        if not row["prompt"]:
            return 0
        answer = row["completion"]
        empty = "" if isinstance(answer, str) else [{"role": answer[0]["role"], "content": ""}]
        whole = self.encoder.completion(row) if encoded["cut"] else encoded["input_ids"]
        with suppress(RowError):  # a template may refuse an empty answer
            alone = self.encoder.completion({**row, "completion": empty})
            return max(0, common_prefix_length(alone, whole) - encoded["cut"])
        return 0

    def parts(self, example: Row) -> list[Part]:
        row, prefix = example["canonical"], example.get("prompt")
        rated = ", ".join(f"{name} {'not rated' if math.isnan(x) else f'{x:g}'}" for name, x in self._named(row))
        if self.encoder is None:
            return [("prompt", row["prompt"]), (f"completion, {rated}", row["completion"])]
        return [("prompt", example["input_ids"][:prefix]), (f"completion, {rated}", example["input_ids"][prefix:])]


class Steps(Kind):
    """The steps of a solution, with a label each or with the solution's outcome alone, or of a tree."""

    name = "steps"
    types = ("stepwise", "step_tree", "outcome")
    hints = ("labels", "label", "nodes", "outcome")
    overlong = "truncate"

    def __init__(self, encoder: Encoder | None):
        super().__init__(encoder)
        if encoder is not None:
            _ = encoder.separator_ids  # a separator that cannot be used is no row's fault
            self.merges = Merges()

    def expand(self, row: Row) -> list[Row]:
        return to_outcomes(row) if row_type(row) == "outcome" else to_steps(row)

    def losses(self, counts: Counter) -> list[str]:
        rows = {row for row, key in (("outcome", "outcomes"), ("step_tree", "trees")) if counts[key]}
        return self._taking(rows or {"stepwise"}, hard=not counts["soft"])

    def _encoded(self, row: Row) -> Row:
        labels, encoded = row["labels"], {}
        if self.encoder is None and all(label == UNLABELLED for label in labels):
            raise DropRow("no labelled step")
        if self.encoder is not None:
            self.merges.add(self.encoder, row)
            encoded = self.encoder.steps({"parents": list(range(-1, len(labels) - 1)), **row})
            labels = encoded["labels"]
            encoded |= {"sequences": _paths(encoded), "prompt": encoded["node_lengths"][0]}
        if "steps_labelled" in row:
            bad = int(row["labels"][0] < 0.5)
            return {**encoded, "counts": {"solutions": 1, "outcomes": 1, "bad_outcomes": bad}}
        soft = sum(label not in (0, 1, UNLABELLED) for label in row["labels"])
        labels = [label for label in labels if label != UNLABELLED]
        counts = {"labels": len(labels), "wrong": sum(label < 0.5 for label in labels), "soft": soft}
        return {**encoded, "counts": {"solutions": 1, "trees": int("parents" in row), **counts}}

    def parts(self, example: Row) -> list[Part]:
        row = example["canonical"]
        titles = ["prompt", *(_step_title(row, index) for index in range(len(row["completions"])))]
        if self.encoder is None:
            return list(zip(titles, [row["prompt"], *row["completions"]], strict=True))
        pieces = _pieces(example)
        return list(zip(titles[: len(pieces)], pieces, strict=True))


KINDS = (Pairs, Scored, Steps)


def kind_of(rows: Iterable[Row], adapter: Adapter, column_mapping: dict | None) -> type[Kind]:
    """The kind that takes all of `rows`, as far as the adapter can read them; where none does, that of the first."""
    types = []
    for row in rows:
        with suppress(Exception):  # a bad row, or a third party's adapter: told where all rows are read
            types += map(row_type, adapter(rename_columns(row, column_mapping) if column_mapping else row))
    columns = set(adapter.columns or ())
    if not types:
        return next((kind for kind in KINDS if columns & set(kind.hints)), Pairs)
    return next(kind for some in (types, types[:1]) for kind in KINDS if set(some) <= set(kind.types))


def _pieces(encoded: Row) -> list[list[int]]:
    """The tokens of each node of a tree of steps."""
    pieces, start = [], 0
    for length in encoded["node_lengths"]:
        pieces.append(encoded["input_ids"][start : start + length])
        start += length
    return pieces


def _paths(encoded: Row) -> list[array]:
    """The tokens of each path of a tree of steps, from the beginning to a leaf."""
    pieces = _pieces(encoded)
    return [
        array("i", chain.from_iterable(pieces[node] for node in path)) for path in leaf_paths(encoded["node_parents"])
    ]


def _step_title(row: Row, index: int) -> str:
    label = row["labels"][index]
    words = {1: "right", 0: "wrong", UNLABELLED: "unlabelled"}.get(label, f"label {label}")
    if "steps_labelled" in row:  # of an outcome
        words = f"of a {words} solution" if label in (0, 1) else f"of a solution with outcome {label:g}"
    parent = row["parents"][index] if "parents" in row else index - 1
    return f"step {index + 1}, {words}" + ("" if parent == index - 1 else f", after step {parent + 1}")
