"""How many tokens a row may have, and what becomes of a row with more.

In: the options `max_length`, `max_completion_length` and `overlong`, and the model's own limits. Out: the part of the
encoder that completions and steps share (`encoding.py`). A row that is too long raises `DropRow` or `OverlongRow`, or
loses the left of its prompt.
"""

import math
from dataclasses import dataclass

from ..checks import DropRow, OverlongRow, check_choice, check_whole
from .tokenizing import TokenSource

OVERLONG = ("drop", "truncate", "error")


@dataclass(frozen=True, kw_only=True)
class LengthLimits(TokenSource):
    """A source of token ids, with limits to their number.

    Args:
        tokenizer: a `PreTrainedTokenizerBase`.
        max_length: longest sequence in tokens, prompt included; None for no limit.
        overlong: what becomes of longer rows. "drop": they are left out and counted. "truncate": completions lose the
            left of their prompt (BOS stays, and all completions of a row lose the same), and a step row loses its last
            steps, as whole steps. "error": `RowError`.
        step_separator: text that ends each step; its tokens are appended to the step's, so they never merge with it.
        step_token: a single token of the vocabulary to stand for the separator instead.
        max_completion_length: longest sequence of steps in tokens, separators included; None for no limit.
        vocab_size: rows of the model's embedding; a token id beyond them is a `RowError`. None: unknown.
        positions: how many positions the model has; `max_length` is lowered to it. None: no bound.
        pad_token_id: the id that transformers' pooling skips; a completion that ends in it is a `RowError`. None: any
            token may end one.
    """

    max_length: int | None = None
    overlong: str = "drop"
    max_completion_length: int | None = None
    vocab_size: int | None = None
    positions: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self):
        check_choice("overlong", self.overlong, OVERLONG)
        for name in ("max_length", "max_completion_length", "vocab_size"):
            check_whole(name, getattr(self, name))
        if self.positions is not None and self.positions < (self.max_length or math.inf):
            object.__setattr__(self, "max_length", self.positions)

    def bos_length(self, ids: list[int]) -> int:
        """1 where the ids begin with the BOS, else 0."""
        return int(ids[:1] == [self.tokenizer.bos_token_id])

    def without_left(self, ids: list[int], excess: int) -> list[int]:
        """The ids without the `excess` first ones; the BOS stays."""
        start = self.bos_length(ids)
        return ids[:start] + ids[start + excess :]

    def refuse_overlong(self, length: int, limit: str) -> None:
        """Raise for "drop" and "error"; return for "truncate"."""
        allowed = getattr(self, limit)
        remedy = f"{limit}={allowed}. Raise {limit}, or set"
        if limit == "max_length" and allowed == self.positions:  # which nobody can raise
            remedy = f"the model's {allowed} positions. Set"
        if self.overlong == "error":
            raise OverlongRow(f"{length} tokens are more than {remedy} overlong='drop' or 'truncate'")
        if self.overlong == "drop":
            raise DropRow(f"longer than {limit}={allowed}")

    def check_positions(self, length: int) -> None:
        """A row that is tokenized already is never cut, so one that is too long cannot be used."""
        if self.positions is not None and length > self.positions:
            why = f"longer than the model's {self.positions} positions, and tokenized rows are not cut"
            raise OverlongRow(why) if self.overlong == "error" else DropRow(why)
