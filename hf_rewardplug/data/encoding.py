"""Canonical rows to token ids and score positions: one encoder for training, scoring and serving.

In: a validated row of pairs, lists, scored completions or steps (`expansion.py`). Out: token id lists; an ORM is scored
at the last token of each sequence, a PRM at the last token of each step's separator (where `labels` is not -100).

    text             prompt + completion + EOS once (BOS as the tokenizer adds it, never twice)
    conversational   exactly what the chat template renders, nothing appended
    steps            [BOS] prompt | step separator | step separator | ...
                                               ^ label           ^ label

Text pairs are joined before they are tokenized and steps are tokenized one by one, both as TRL does, so the tokens are
TRL's own. The policy for long rows is `overlong`: "drop", "truncate" or "error".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from ..checks import DropRow, RowError, shown
from .canonical import PAIR_EXTRAS, UNLABELLED, Row, checked_columns
from .length_limits import LengthLimits
from .prefix_tree import common_prefix_length, path_lengths
from .step_nodes import chain_parents
from .token_checks import check_ids, given_ids, given_labels, given_nodes, given_scores, plain_list
from .tokenizing import step_token_ids


@dataclass(frozen=True, kw_only=True)
class Encoder(LengthLimits):
    """Token ids for rows of every form, by one tokenizer and one set of options, which `LengthLimits` lists."""

    # ---- completions ---------------------------------------------------------------------------------------------

    def pair(self, row: Row) -> Row:
        """A preference row -> `chosen_ids`, `rejected_ids` (scored at their last token), and `PAIR_EXTRAS` if any.

        Raises:
            RowError: the template refuses the messages, or the row is too long and `overlong="error"`.
            DropRow: the row is too long, or both sequences are the same.
        """
        return self._pair([self.completion(row, key) for key in ("chosen", "rejected")], row)

    def tokenized_pair(self, row: Row) -> Row:
        """`pair` for a row that holds `chosen_ids` and `rejected_ids` already."""
        return self._pair([self._ids_of(row, key) for key in ("chosen_ids", "rejected_ids")], _beside(row))

    def ranked(self, row: Row) -> Row:
        """A ranked row -> `completion_ids` (K lists, each scored at its last token), `scores` (K), its `weight` if any.

        Raises:
            RowError, DropRow: as `pair`; identical are all completions.
        """
        rows = [{**row, "completions": answer} for answer in row["completions"]]
        return self._ranked([self.completion(row, "completions") for row in rows], row)

    def tokenized_ranked(self, row: Row) -> Row:
        """`ranked` for a row that holds `completion_ids` and `scores` already."""
        ids = plain_list(row.get("completion_ids"))
        if not isinstance(ids, list) or len(ids) < 2:
            raise RowError(f"expected two or more lists of token ids, found {shown(ids)}", column="completion_ids")
        scores = given_scores(row, len(ids))
        if len({*scores}) < 2:
            raise DropRow("all scores are the same")
        rows = [{"completion_ids": ids_of_answer} for ids_of_answer in ids]
        ids = [self._ids_of(row, "completion_ids") for row in rows]
        return self._ranked(ids, {**_beside(row), "scores": scores})

    def scored(self, row: Row) -> Row:
        """A scored row -> `input_ids` (scored at its last token), `scores` (one an attribute), its `weight` if any.

        Raises:
            RowError, DropRow: as `pair`.
        """
        input_ids = self.completion(row)
        prompt_length = common_prefix_length(self._alone(row), input_ids) if self._excess([input_ids]) > 0 else 0
        (input_ids,), cut = self._fitted([input_ids], prompt_length)
        return {"input_ids": input_ids, "scores": row["scores"], **cut, **_columns(row, "weight")}

    def tokenized_scored(self, row: Row, *, count: int) -> Row:
        """`scored` for a row that holds `input_ids` and `count` `scores` already. It is never cut."""
        scores = given_scores(row, count, unrated=True)
        if all(map(math.isnan, scores)):
            raise DropRow("no attribute is rated")
        input_ids = self._ids_of(row, "input_ids")
        self.check_positions(len(input_ids))
        return {"input_ids": input_ids, "scores": scores, **_cut(), **_columns(_beside(row), "weight")}

    def completion(self, row: Row, key: str = "completion") -> list[int]:
        """The ids of `row["prompt"]` followed by `row[key]`, as a pair of the same row would have them, uncut.

        Raises:
            RowError: the template refuses the messages, or an id is outside the vocabulary, or a pad token at the end.
        """
        return self._ended(check_ids(self._ids(row, key), key, self.vocab_size), key)

    def _ids_of(self, row: Row, column: str) -> list[int]:
        """The ids of a row that is tokenized already."""
        return self._ended(given_ids(row, column, self.vocab_size), column)

    def _ended(self, ids: list[int], column: str) -> list[int]:
        if ids[-1] == self.pad_token_id != self.tokenizer.eos_token_id:  # trainers never pad with the EOS
            raise RowError(
                f"ends in the pad token '{self.tokenizer.convert_ids_to_tokens(ids[-1])}', which plain transformers "
                "skips: it would score another token than is trained. Set another `pad_token`",
                column=column,
            )
        return ids

    def _pair(self, ids: list[list[int]], row: Row) -> Row:
        ids, cut = self._fitted(ids)
        if ids[0] == ids[1]:
            raise DropRow("chosen and rejected are identical")
        return {"chosen_ids": ids[0], "rejected_ids": ids[1], **cut, **_columns(row, *PAIR_EXTRAS)}

    def _ranked(self, ids: list[list[int]], row: Row) -> Row:
        ids, cut = self._fitted(ids)
        if all(ids_of_answer == ids[0] for ids_of_answer in ids):
            raise DropRow("all completions are identical")
        return {"completion_ids": ids, "scores": row["scores"], **cut, **_columns(row, "weight")}

    def _excess(self, sequences: list[list[int]]) -> int | float:
        """How many tokens the longest sequence has too many."""
        return max(map(len, sequences)) - (self.max_length or math.inf)

    def _fitted(self, sequences: list[list[int]], prompt_length: int | None = None) -> tuple[list[list[int]], Row]:
        """Apply `max_length` and `overlong` to a row's sequences.

        Args:
            prompt_length: tokens of the prompt; what the sequences begin with together when None.

        Returns:
            The sequences, and the columns that say how many tokens were taken away.
        """
        excess = self._excess(sequences)
        if excess <= 0:
            return sequences, _cut()
        self.refuse_overlong(self.max_length + excess, "max_length")
        first, *others = sequences
        if prompt_length is None:
            prompt_length = min(common_prefix_length(first, other) for other in others)
        prompt_length = min(prompt_length, *(len(sequence) - 1 for sequence in sequences))
        if prompt_length - self.bos_length(first) < excess:
            raise DropRow(f"longer than max_length={self.max_length} even without the prompt")
        return [self.without_left(sequence, excess) for sequence in sequences], _cut(excess * len(sequences))

    # ---- steps ---------------------------------------------------------------------------------------------------

    def steps(self, row: Row, *, last_step_only: bool = False) -> Row:
        """A step row -> `input_ids` and `labels` (floats, -100 everywhere but on each labelled step's last token).

        The ids are those of the prompt and then of each step; `node_lengths` and `node_parents` say where they belong
        (`step_nodes.py`). The steps of a row without `parents` follow one another.

        Raises:
            RowError: the template refuses the prompt, or the row is too long and `overlong="error"`.
            DropRow: no labelled step is left.
        """
        prompt_ids = self._prompt_ids(row)
        steps = step_token_ids(self.tokenizer, row["completions"], self.separator_ids)
        labels = row["labels"]
        parents = row.get("parents") or chain_parents(len(steps))
        if last_step_only:
            inner = set(parents)
            labels = [UNLABELLED if index in inner else label for index, label in enumerate(labels)]
        length = len(prompt_ids) + sum(map(len, steps))
        prompt_ids, kept = self._fitted_steps(prompt_ids, [len(step) for step in steps], parents)
        kept_steps, kept_labels = [steps[index] for index in kept], [labels[index] for index in kept]
        if len(kept) < len(steps) and row.get("steps_labelled") is False and min(labels) < 1:
            raise DropRow("cut, and what its outcome comes from may lie behind the cut")
        if not _labelled(kept_labels):
            raise DropRow("no labelled step" if len(kept) == len(steps) else "no labelled step left after the cut")
        token_labels = [float(UNLABELLED)] * len(prompt_ids)
        for step, label in zip(kept_steps, kept_labels, strict=True):
            token_labels += [float(UNLABELLED)] * (len(step) - 1) + [float(label)]
        input_ids = [*prompt_ids, *chain.from_iterable(kept_steps)]
        node_of = {-1: 0, **{index: node for node, index in enumerate(kept, 1)}}
        return {
            "input_ids": check_ids(input_ids, "completions", self.vocab_size),
            "labels": token_labels,
            "node_lengths": [len(prompt_ids), *map(len, kept_steps)],
            "node_parents": [-1, *(node_of[parents[index]] for index in kept)],
            **_cut(length - len(input_ids), _labelled(labels) - _labelled(kept_labels)),
            **_columns(row, "steps_labelled"),
        }

    def last_step(self, row: Row) -> Row:
        """`steps` with the label of the last step alone; of a tree, of each branch's last step."""
        return self.steps(row, last_step_only=True)

    def tokenized_steps(self, row: Row) -> Row:
        """`steps` for a row that holds `input_ids` and a label for each token already. It is never cut."""
        input_ids = given_ids(row, "input_ids", self.vocab_size)
        labels = given_labels(row, len(input_ids))
        if not _labelled(labels):
            raise DropRow("no labelled step")
        lengths, parents = given_nodes(row, labels)
        self.check_positions(max(path_lengths(lengths, parents)))
        return {"input_ids": input_ids, "labels": labels, "node_lengths": lengths, "node_parents": parents, **_cut()}

    def _fitted_steps(self, prompt_ids: list[int], lengths: list[int], parents: Sequence[int]):
        """The prompt's ids and which steps stay. The prompt loses its left only where not one step would fit."""
        ends = path_lengths(lengths, parents)
        limit = max(ends) if self.max_completion_length is None else self.max_completion_length
        if max(ends) > limit:
            self.refuse_overlong(max(ends), "max_completion_length")
        kept = [index for index, end in enumerate(ends) if end <= limit]
        longest = len(prompt_ids) + max((ends[index] for index in kept), default=0)
        if self.max_length is None or longest <= self.max_length:
            return prompt_ids, kept
        self.refuse_overlong(longest, "max_length")
        if not kept:
            return prompt_ids, kept
        shortest = min(ends[index] for index in kept)  # a first step
        room = max(self.max_length - len(prompt_ids), shortest)
        excess = len(prompt_ids) + shortest - self.max_length
        if excess > 0:
            if len(prompt_ids) - self.bos_length(prompt_ids) < excess:
                raise DropRow(f"the first step is longer than max_length={self.max_length} even without the prompt")
            prompt_ids = self.without_left(prompt_ids, excess)
        return prompt_ids, [index for index in kept if ends[index] <= room]


def _beside(row: Row) -> Row:
    """The other columns of a tokenized row, without the None that Arrow fills in where other rows have more columns."""
    return checked_columns({column: value for column, value in row.items() if value is not None or column == "margin"})


def _columns(row: Row, *columns: str) -> Row:
    return {column: row[column] for column in columns if column in row}


def _labelled(labels: Sequence[float]) -> int:
    """How many of the labels are labels of steps."""
    return sum(label != UNLABELLED for label in labels)


def _cut(tokens: int = 0, labels: int = 0) -> Row:
    """The columns that say what a row lost to fit."""
    return {"cut": tokens, "cut_labels": labels}
