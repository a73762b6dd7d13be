"""Canonical rows to token ids and score positions: one encoder for training, scoring and serving.

In: a validated preference or step row (`canonical.py`). Out: token id lists; an ORM is scored at the last token of each
sequence, a PRM at the last token of each step's separator (where `labels` is not -100).

    text             prompt + completion + EOS once (BOS as the tokenizer adds it, never twice)
    conversational   exactly what the chat template renders, nothing appended
    steps            [BOS] prompt | step separator | step separator | ...
                                               ^ label           ^ label

Text pairs are joined before they are tokenized and steps are tokenized one by one, both as TRL does, so the tokens are
TRL's own. The policy for long rows is `overlong`: "drop", "truncate" or "error".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

from .canonical import UNLABELLED, Row, RowError, finite
from .prefix_tree import common_prefix_length, path_lengths
from .token_checks import check_ids, given_ids, given_labels, given_tree

OVERLONG = ("drop", "truncate", "error")


def check_whole(name: str, value: Any, *, least: int = 1) -> None:
    """`value` is None or a whole number of `least` or more.

    >>> check_whole("max_length", "512")
    Traceback (most recent call last):
    TypeError: max_length='512' is no whole number; expected a positive number or None.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r} is no whole number; expected a positive number or None.")
    if value < least:
        why = "leaves no token" if least else "is negative"
        raise ValueError(f"{name}={value} {why}; expected a positive number or None.")


class DropRow(Exception):
    """The row is left out, counted and reported. `reason` is what the report says."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def fold_system_turn(messages: list[dict]) -> list[dict]:
    r"""Move a leading system turn into the first user turn, for templates that refuse the role (Gemma's).

    >>> fold_system_turn([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    [{'role': 'user', 'content': 'Be brief.\n\nHi'}]
    """
    if not messages or messages[0]["role"] != "system":
        return messages
    system, rest = messages[0]["content"], messages[1:]
    if rest and rest[0]["role"] == "user":
        return [{**rest[0], "content": f"{system}\n\n{rest[0]['content']}"}, *rest[1:]]
    return [{"role": "user", "content": system}, *rest]


def step_token_ids(tokenizer: Any, completions: list[str], separator_ids: list[int]) -> list[list[int]]:
    """Token ids of each step with its separator behind it, each step tokenized by itself."""
    return [tokenizer(step, add_special_tokens=False)["input_ids"] + separator_ids for step in completions]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Token ids for rows, by one tokenizer and one set of options.

    Args:
        tokenizer: a `PreTrainedTokenizerBase`.
        max_length: longest sequence in tokens, prompt included; None for no limit.
        overlong: what becomes of longer rows. "drop": left out and counted. "truncate": a pair loses the left of its
            prompt (BOS kept, both sequences alike), a step row its last steps, whole. "error": `RowError`.
        step_separator: text behind each step; its tokens are appended to the step's, so they never merge with it.
        step_token: a single token of the vocabulary to stand for the separator instead.
        max_completion_length: longest sequence of steps in tokens, separators included; None for no limit.
        vocab_size: rows of the model's embedding; a token id beyond them is a `RowError`. None: unknown.
    """

    tokenizer: Any
    max_length: int | None = None
    overlong: str = "drop"
    step_separator: str = "\n"
    step_token: str | None = None
    max_completion_length: int | None = None
    vocab_size: int | None = None

    def __post_init__(self):
        if self.overlong not in OVERLONG:
            raise ValueError(f"overlong={self.overlong!r} is not one of {', '.join(map(repr, OVERLONG))}.")
        for name in ("max_length", "max_completion_length", "vocab_size"):
            check_whole(name, getattr(self, name))

    @cached_property
    def separator_ids(self) -> list[int]:
        """Token ids behind each step; the last of them is scored."""
        if self.step_token is None:
            ids = self.tokenizer.encode(self.step_separator, add_special_tokens=False)
            if not ids:
                raise ValueError(f"step_separator={self.step_separator!r} gives no token with this tokenizer.")
            return ids
        index = self.tokenizer.get_vocab().get(self.step_token)
        joint_ids = self.tokenizer.encode(f".{self.step_token}\n{self.step_token}", add_special_tokens=False)
        if index is None or joint_ids.count(index) != 2:
            why = "is not a single token of this tokenizer" if index is None else "merges with the text around it"
            raise ValueError(
                f"step_token={self.step_token!r} {why}. Take a reserved one of its vocabulary "
                f"({', '.join(reserved_tokens(self.tokenizer)[:3]) or 'it has none'}), or add one to the tokenizer and "
                "resize the model's embeddings."
            )
        return [index]

    @cached_property
    def _folds_system(self) -> bool:
        """Whether the template refuses a system turn."""
        probe = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
        try:
            self.tokenizer.apply_chat_template(probe, tokenize=False)
        except Exception:  # a template raises whatever its author chose
            return True
        return False

    # ---- pairs and completions -----------------------------------------------------------------------------------

    def pair(self, row: Row) -> Row:
        """A preference row -> `chosen_ids`, `rejected_ids` (scored at their last token), `margin` if the row has one.

        Raises:
            RowError: the template refuses the messages, or the row is too long and `overlong="error"`.
            DropRow: the row is too long, or both sequences are the same.
        """
        ids = [check_ids(self._ids(row, key), key, self.vocab_size) for key in ("chosen", "rejected")]
        encoded = self.fitted_pair(*ids)
        if "margin" in row:
            encoded["margin"] = row["margin"]
        return encoded

    def tokenized_pair(self, row: Row) -> Row:
        """`pair` for a row that holds `chosen_ids` and `rejected_ids` already."""
        ids = [given_ids(row, key, self.vocab_size) for key in ("chosen_ids", "rejected_ids")]
        encoded = self.fitted_pair(*ids)
        return encoded if row.get("margin") is None else {**encoded, "margin": finite(row["margin"], "margin")}

    def completion(self, row: Row, key: str = "completion") -> list[int]:
        """The ids of `row["prompt"]` followed by `row[key]`, as a pair of the same row would have them, uncut."""
        return self._ids(row, key)

    def fitted_pair(self, chosen_ids: list[int], rejected_ids: list[int]) -> Row:
        """Apply `max_length` and `overlong` to a tokenized pair. `cut`: the tokens taken away."""
        excess = max(len(chosen_ids), len(rejected_ids)) - (self.max_length or float("inf"))
        cut = 0
        if excess > 0:
            self._refuse_overlong(self.max_length + excess, "max_length")
            shared = common_prefix_length(chosen_ids, rejected_ids)
            shared = min(shared, len(chosen_ids) - 1, len(rejected_ids) - 1)
            start = int(bool(chosen_ids) and chosen_ids[0] == self.tokenizer.bos_token_id)
            if shared - start < excess:
                raise DropRow(f"longer than max_length={self.max_length} even without the prompt")
            cut = len(chosen_ids) + len(rejected_ids)
            chosen_ids = chosen_ids[:start] + chosen_ids[start + excess :]
            rejected_ids = rejected_ids[:start] + rejected_ids[start + excess :]
            cut -= len(chosen_ids) + len(rejected_ids)
        if chosen_ids == rejected_ids:
            raise DropRow("chosen and rejected are identical")
        return {"chosen_ids": chosen_ids, "rejected_ids": rejected_ids, "cut": cut, "cut_labels": 0}

    def _ids(self, row: Row, key: str) -> list[int]:
        if isinstance(row[key], str):
            return self._text_ids(row.get("prompt", "") + row[key])
        return self._conversation_ids([*row.get("prompt", []), *row[key]], row)

    def _text_ids(self, text: str) -> list[int]:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if eos is not None and not text.rstrip().endswith(self.tokenizer.eos_token):
            text += self.tokenizer.eos_token
        ids = self.tokenizer(text=text)["input_ids"]
        if bos is not None and ids[:2] == [bos, bos]:  # the text was rendered before, with its BOS
            ids = ids[1:]
        if eos is not None and ids[-2:] == [eos, eos]:  # this tokenizer appends its own
            ids = ids[:-1]
        return ids

    def _conversation_ids(self, messages: list[dict], row: Row, **kwargs) -> list[int]:
        if not self.tokenizer.chat_template:
            raise RowError(
                "the row is a conversation, but the tokenizer has no chat template. Set `chat_template` to 'gemma', "
                "'chatml' or 'llama3', or `chat_template_path`; text rows (adapter='preference') need none"
            )
        if messages[0]["role"] == "system" and self._folds_system:
            messages = fold_system_turn(messages)
        kwargs |= {"tools": row.get("tools"), **row.get("chat_template_kwargs", {})}
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **kwargs)["input_ids"]
        except Exception as error:
            roles = ", ".join(message["role"] for message in messages)
            raise RowError(f"the chat template refuses the conversation ({roles}): {error}") from error

    # ---- steps ---------------------------------------------------------------------------------------------------

    def steps(self, row: Row, *, last_step_only: bool = False) -> Row:
        """A step row -> `input_ids` and `labels` (floats, -100 everywhere but on each labelled step's last token).

        A tree of steps (a row with `parents`) gives the tokens of the prompt and then of each step, and `node_lengths`
        and `node_parents`, which say where they belong: node 0 is the prompt, its parent -1.

        Raises:
            RowError: the template refuses the prompt, or the row is too long and `overlong="error"`.
            DropRow: no labelled step is left.
        """
        prompt_ids = self._prompt_ids(row)
        steps = step_token_ids(self.tokenizer, row["completions"], self.separator_ids)
        labels, parents = row["labels"], row.get("parents") or range(-1, len(steps) - 1)
        if last_step_only:
            inner = set(parents)
            labels = [UNLABELLED if index in inner else label for index, label in enumerate(labels)]
        length = len(prompt_ids) + sum(map(len, steps))
        prompt_ids, kept = self._fitted_steps(prompt_ids, [len(step) for step in steps], parents)
        lost_labels = sum(label != UNLABELLED for label in labels) - sum(labels[i] != UNLABELLED for i in kept)
        if all(labels[index] == UNLABELLED for index in kept):
            raise DropRow("no labelled step" if len(kept) == len(steps) else "no labelled step left after the cut")
        token_labels = [UNLABELLED] * len(prompt_ids)
        for index in kept:
            token_labels += [UNLABELLED] * (len(steps[index]) - 1) + [labels[index]]
        input_ids = prompt_ids + [token for index in kept for token in steps[index]]
        encoded = {
            "input_ids": check_ids(input_ids, "completions", self.vocab_size),
            "labels": [float(label) for label in token_labels],
            "cut": length - len(input_ids),
            "cut_labels": lost_labels,
        }
        if "parents" in row:
            node_of = {-1: 0, **{index: node for node, index in enumerate(kept, 1)}}
            encoded["node_lengths"] = [len(prompt_ids), *(len(steps[index]) for index in kept)]
            encoded["node_parents"] = [-1, *(node_of[parents[index]] for index in kept)]
        return encoded

    def last_step(self, row: Row) -> Row:
        """`steps` with the label of the last step alone; of a tree, of each branch's last step."""
        return self.steps(row, last_step_only=True)

    def tokenized_steps(self, row: Row) -> Row:
        """`steps` for a row that holds `input_ids` and a label a token already; taken as it is, never cut."""
        input_ids = given_ids(row, "input_ids", self.vocab_size)
        labels = given_labels(row, len(input_ids))
        if all(label == UNLABELLED for label in labels):
            raise DropRow("no labelled step")
        return {"input_ids": input_ids, "labels": labels, "cut": 0, "cut_labels": 0, **given_tree(row, labels)}

    def _prompt_ids(self, row: Row) -> list[int]:
        if not isinstance(row["prompt"], str):
            return self._conversation_ids(row["prompt"], row, add_generation_prompt=True)
        ids, bos = self.tokenizer(row["prompt"], add_special_tokens=False)["input_ids"], self.tokenizer.bos_token_id
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]

    def _fitted_steps(self, prompt_ids: list[int], lengths: list[int], parents: Sequence[int]):
        """The prompt's ids and which steps stay. The prompt loses its left only where not one step would fit."""
        ends = path_lengths(lengths, parents)
        limit = max(ends) if self.max_completion_length is None else self.max_completion_length
        if max(ends) > limit:
            self._refuse_overlong(max(ends), "max_completion_length")
        kept = [index for index, end in enumerate(ends) if end <= limit]
        longest = len(prompt_ids) + max((ends[index] for index in kept), default=0)
        if self.max_length is None or longest <= self.max_length:
            return prompt_ids, kept
        self._refuse_overlong(longest, "max_length")
        if not kept:
            return prompt_ids, kept
        shortest = min(ends[index] for index in kept)  # a first step
        room = max(self.max_length - len(prompt_ids), shortest)
        excess = len(prompt_ids) + shortest - self.max_length
        if excess > 0:
            start = int(prompt_ids[:1] == [self.tokenizer.bos_token_id])
            if len(prompt_ids) - start < excess:
                raise DropRow(f"the first step is longer than max_length={self.max_length} even without the prompt")
            prompt_ids = prompt_ids[:start] + prompt_ids[start + excess :]
        return prompt_ids, [index for index in kept if ends[index] <= room]

    def _refuse_overlong(self, length: int, limit: str) -> None:
        """Raise for "drop" and "error"; return for "truncate"."""
        allowed = getattr(self, limit)
        if self.overlong == "error":
            raise RowError(
                f"{length} tokens are more than {limit}={allowed}. Raise {limit}, or set overlong='drop' or 'truncate'"
            )
        if self.overlong == "drop":
            raise DropRow(f"longer than {limit}={allowed}")


def reserved_tokens(tokenizer: Any) -> list[str]:
    """Tokens of the vocabulary that its makers left for other people's use, lowest id first."""
    marks = ("reserved_special_token", "<unused", "extra_", "_pad_", "reserved_")
    found = [(index, token) for token, index in tokenizer.get_vocab().items() if any(mark in token for mark in marks)]
    return [token for _, token in sorted(found) if token.startswith("<")]
