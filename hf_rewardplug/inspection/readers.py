"""Readers of rows: one for each form of items, which says what is worth knowing about them.

    form           canonical rows                      trainer
    pairs          preference, ranked (every pair)     RewardTrainer
    completions    scored, ranked (each completion)    RewardTrainer
    steps          stepwise, step_tree, outcome        PRMTrainer

In: canonical rows, and an encoder or none. Out: examples as `RowPipeline` takes them, with counts for `Inspection`; and
the losses that take all of the rows, as their objectives say themselves.
"""

import math
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, ClassVar

from ..checks import DropRow, RowError
from ..data.adapters import Adapter, rename_columns
from ..data.canonical import UNLABELLED, Row
from ..data.encoding import Encoder
from ..data.expansion import row_type, to_outcomes, to_pairs, to_scored, to_steps
from ..data.prefix_tree import common_prefix_length
from ..data.step_nodes import chain_parents, pieces_of
from ..figure_names import longer_wins
from ..train.losses import LOSSES
from ..train.losses.scores import ATTRIBUTES
from ..train.objectives import OBJECTIVE_OF_FORM
from .tokens import Merges

Part = tuple[str, Any]
"""a title, and token ids; without an encoder text or messages"""


class Fits:
    """Which losses train on all rows that were seen: a loss takes a row if its objective expands it."""

    def __init__(self):
        self._groups: dict[tuple, list[str]] = {}
        for loss in LOSSES.values():  # losses that expand rows alike and read the same columns take the same rows
            self._groups.setdefault((loss.expand, *loss.columns), []).append(loss.name)
        self._trained: set[tuple] = set()

    def ask(self, row: Row, attributes: list[str] | None) -> None:
        """Ask the objectives of all losses that took every row before; `attributes` are those of scored completions."""
        for group, (loss, *_) in list(self._groups.items()):
            objective = OBJECTIVE_OF_FORM[LOSSES[loss].form](loss_type=loss, options={ATTRIBUTES.name: attributes})
            try:
                if objective.expand(row):
                    self._trained.add(group)
            except DropRow:
                continue
            except RowError:
                del self._groups[group]

    @property
    def losses(self) -> list[str]:
        """The losses that took every row and found something to train on, in the order of their declarations."""
        names = {name for group in self._trained & self._groups.keys() for name in self._groups[group]}
        return [name for name in LOSSES if name in names]


class Reader:
    """Reads the rows of a data set.

    Attributes:
        form: what an item is (`Loss.form`).
        hints: columns of formats that give rows of this form.
        overlong: what becomes of long rows by default, as in the trainer's config.
        counts: "ties" and the "lists" of rows that can be used, whether or not an example is made of them.
        scores: {attribute or "score": every score}, of ranked rows too.
        attributes: names of the scores that a completion has; None where it has one.
        merges: of step rows with an encoder.
        fits: which losses take the rows.
    """

    form: ClassVar[str]
    hints: ClassVar[tuple[str, ...]] = ()
    overlong: ClassVar[str] = "drop"

    def __init__(self, encoder: Encoder | None):
        self.encoder, self.fits, self.counts = encoder, Fits(), Counter()
        self.scores: dict[str, list[float]] = {}
        self.attributes: list[str] | None = None
        self.merges: Merges | None = None

    @classmethod
    def takes(cls, row_types: Iterable[str]) -> bool:
        """Whether rows of these types can all give items of this form."""
        return set(row_types) <= {name for loss in LOSSES.values() if loss.form == cls.form for name in loss.rows}

    def expand(self, row: Row) -> list[Row]:
        """A canonical row -> validated rows that `encode` takes. A row that is refused says nothing about losses."""
        rows = self._expanded(row)
        self.fits.ask(row, self.attributes)
        return rows

    def encode(self, row: Row) -> Row:
        """The encoded row with its canonical one and its `counts`; with an encoder also the length of its `prompt`."""
        encoded = self._encoded(row)
        example = {"canonical": row, "cut": 0, "cut_labels": 0, **encoded, "counts": self._counts(row, encoded)}
        return example if self.encoder is None else {**example, "prompt": self._prompt(row, encoded)}

    def parts(self, example: Row) -> list[Part]:
        """The example in parts; all but the first end in a scored token."""
        raise NotImplementedError

    def _expanded(self, row: Row) -> list[Row]:
        raise NotImplementedError

    def _encoded(self, row: Row) -> Row:
        """By the encoder; without one nothing, or the encoder's `DropRow` for a row with nothing to learn from."""
        raise NotImplementedError

    def _counts(self, row: Row, encoded: Row) -> dict[str, float]:
        return {}

    def _prompt(self, row: Row, encoded: Row) -> int:
        """How many tokens at the beginning belong to the prompt."""
        raise NotImplementedError


class PairReader(Reader):
    """A ranked list gives every pair; a tie is counted, and left out as all losses but one do."""

    form = "pairs"

    def _expanded(self, row: Row) -> list[Row]:
        pairs = to_pairs(row, ties=True)
        if row_type(row) == "ranked":
            self.counts.update(["lists", f"lists of {len(row['scores'])}"])
            self.scores.setdefault("score", []).extend(map(float, row["scores"]))
        ties = [pair.pop("tie") for pair in pairs]
        self.counts["ties"] += sum(ties)
        return [pair for pair, tie in zip(pairs, ties, strict=True) if not tie]

    def _encoded(self, row: Row) -> Row:
        if self.encoder is not None:
            return self.encoder.pair(row)
        if row["chosen"] == row["rejected"]:
            raise DropRow("chosen and rejected are identical")
        return {}

    def _counts(self, row: Row, encoded: Row) -> dict[str, float]:
        if self.encoder is None:
            return {}
        return {"longer_wins": float(longer_wins(len(encoded["chosen_ids"]), len(encoded["rejected_ids"])))}

    def _prompt(self, row: Row, encoded: Row) -> int:
        return common_prefix_length(encoded["chosen_ids"], encoded["rejected_ids"])

    def parts(self, example: Row) -> list[Part]:
        row, prefix = example["canonical"], example.get("prompt")
        if self.encoder is None:
            return [(key, row[key]) for key in ("prompt", "chosen", "rejected") if key in row]
        answers = [(key, example[f"{key}_ids"][prefix:]) for key in ("chosen", "rejected")]
        return [("both begin with", example["chosen_ids"][:prefix]), *answers]


class CompletionReader(Reader):
    """A completion with its score, or with the scores of all attributes that the first row has."""

    form = "completions"
    hints = ("completion", "response")

    def __init__(self, encoder: Encoder | None):
        super().__init__(encoder)
        self._first = True  # whether no row with scores of its own was read yet
        self._list: Row | None = None

    def _expanded(self, row: Row) -> list[Row]:
        ranked = row_type(row) == "ranked"
        if not ranked and self._first and isinstance(row.get("attributes"), dict) and "score" not in row:
            self.attributes = list(row["attributes"])
        rows = to_scored(row, attributes=self.attributes)
        if ranked:
            self._list = row
        elif self._first and self._list is not None:  # the lists before it were read without attributes
            self.fits.ask(self._list, self.attributes)
        self._first = self._first and ranked
        return rows

    def _encoded(self, row: Row) -> Row:
        return {} if self.encoder is None else self.encoder.scored(row)

    def _counts(self, row: Row, encoded: Row) -> dict[str, float]:
        for name, score in self._ratings(row):
            if not math.isnan(score):
                self.scores.setdefault(name, []).append(score)
        return {}

    def _ratings(self, row: Row) -> Iterable[tuple[str, float]]:
        return zip(self.attributes or ["score"], row["scores"], strict=True)

    def _prompt(self, row: Row, encoded: Row) -> int:
        """Tokens that the row has in common with the same row whose answer is empty."""
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
        ratings = [f"{name} {'not rated' if math.isnan(x) else f'{x:g}'}" for name, x in self._ratings(row)]
        title = f"completion, {', '.join(ratings)}"
        if self.encoder is None:
            return [("prompt", row["prompt"]), (title, row["completion"])]
        return [("prompt", example["input_ids"][:prefix]), (title, example["input_ids"][prefix:])]


class StepReader(Reader):
    """The steps of a solution, with a label each or with the solution's outcome alone, or of a tree."""

    form = "steps"
    hints = ("labels", "label", "nodes", "outcome")
    overlong = "truncate"

    def __init__(self, encoder: Encoder | None):
        super().__init__(encoder)
        if encoder is not None:
            _ = encoder.separator_ids  # a separator that cannot be used is an error here, and not the fault of a row
            self.merges = Merges()

    def _expanded(self, row: Row) -> list[Row]:
        return to_outcomes(row) if row_type(row) == "outcome" else to_steps(row)

    def _encoded(self, row: Row) -> Row:
        if self.encoder is not None:
            self.merges.add(self.encoder, row)
            return self.encoder.steps(row)
        if all(label == UNLABELLED for label in row["labels"]):
            raise DropRow("no labelled step")
        return {}

    def _counts(self, row: Row, encoded: Row) -> dict[str, float]:
        if "steps_labelled" in row:  # every step of such a row has the label of the solution
            return {"outcomes": 1, "bad_outcomes": row["labels"][0] < 0.5}
        labels = [label for label in encoded.get("labels", row["labels"]) if label != UNLABELLED]
        soft = [label for label in row["labels"] if label not in (0, 1, UNLABELLED)]
        wrong = sum(label < 0.5 for label in labels)
        return {"trees": "parents" in row, "labels": len(labels), "wrong": wrong, "soft": len(soft)}

    def _prompt(self, row: Row, encoded: Row) -> int:
        return encoded["node_lengths"][0]

    def parts(self, example: Row) -> list[Part]:
        row = example["canonical"]
        titles = ["prompt", *(_step_title(row, index) for index in range(len(row["completions"])))]
        if self.encoder is None:
            return list(zip(titles, [row["prompt"], *row["completions"]], strict=True))
        (pieces,) = pieces_of(example)  # fewer than the titles where the row is cut
        return [(title, tokens) for title, (tokens, _) in zip(titles, pieces, strict=False)]


READERS = (PairReader, CompletionReader, StepReader)


def reader_of(rows: Iterable[Row], adapter: Adapter, column_mapping: dict | None) -> type[Reader]:
    """The reader that takes all of `rows`, as far as the adapter can read them; where none does, that of the first."""
    types = []
    for row in rows:
        with suppress(Exception):  # a bad row, or any fault of a third party's adapter: it is named when rows are read
            types += map(row_type, adapter(rename_columns(row, column_mapping) if column_mapping else row))
    columns = set(adapter.columns or ())
    if not types:
        return next((reader for reader in READERS if columns & set(reader.hints)), PairReader)
    takers = [reader for reader in READERS if reader.takes(types)]
    return takers[0] if takers else next(reader for reader in READERS if reader.takes(types[:1]))


def _step_title(row: Row, index: int) -> str:
    label = row["labels"][index]
    words = {1: "right", 0: "wrong", UNLABELLED: "unlabelled"}.get(label, f"label {label}")
    if "steps_labelled" in row:  # the label is the outcome
        words = f"of a {words} solution" if label in (0, 1) else f"of a solution with outcome {label:g}"
    previous = index - 1
    parent = row.get("parents", chain_parents(index + 1))[index]
    return f"step {index + 1}, {words}" + ("" if parent == previous else f", after step {parent + 1}")
