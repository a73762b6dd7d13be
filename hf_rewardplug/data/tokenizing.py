"""Text, conversations and steps to token ids, by one tokenizer: how BOS, EOS, templates and separators are set.

In: a canonical row (`canonical.py`). Out: ids of a prompt with a completion, of a prompt that steps follow, of a
separator. The policies are those that `encoding.py` draws.
"""

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from ..checks import RowError
from .canonical import Row
from .messages import with_arguments_as_text


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
    """Token ids of each step, which is tokenized by itself, followed by the separator."""
    return [tokenizer(step, add_special_tokens=False)["input_ids"] + separator_ids for step in completions]


@dataclass(frozen=True, kw_only=True)
class TokenSource:
    """Text, conversations and steps as token ids, by one tokenizer. `Encoder` builds on it.

    Args:
        tokenizer: a `PreTrainedTokenizerBase`.
        step_separator: text that ends each step; its tokens are appended to the step's, so they never merge with it.
        step_token: a single token of the vocabulary to stand for the separator instead.
        chat_template_kwargs: arguments of the chat template; a row's own arguments override them.
    """

    tokenizer: Any
    step_separator: str = "\n"
    step_token: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def separator_ids(self) -> list[int]:
        """Token ids that end each step; the last of them is scored."""
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
        except Exception:  # a template may raise any exception
            return True
        return False

    def _ids(self, row: Row, key: str) -> list[int]:
        if isinstance(row[key], str):
            return self._text_ids(row.get("prompt", "") + row[key])
        return self._conversation_ids([*row.get("prompt", []), *row[key]], row)

    def _text_ids(self, text: str) -> list[int]:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if eos is not None and not text.endswith(self.tokenizer.eos_token):  # TRL's rule, which sees white space
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
                "'chatml' or 'llama3', or `chat_template_path`; text rows (adapter='preference'; of "
                "a benchmark chat=False, --option chat=false) need none"
            )
        try:
            return self.rendered(messages, row, tokenize=True, return_dict=True, **kwargs)["input_ids"]
        except Exception as error:
            roles = ", ".join(message["role"] for message in messages)
            fault = "the chat template refuses the conversation"
            raise RowError(f"{fault} ({roles}): {error}", general=f"{fault}: {error}") from error

    def rendered(self, messages: list[dict], row: Row, **options: Any) -> Any:
        """What `apply_chat_template` gives for the messages, with the tools and the template arguments of `row`.

        Args:
            options: arguments of `apply_chat_template`, such as `tokenize=False`.
        """
        if messages[0]["role"] == "system" and self._folds_system:
            messages = fold_system_turn(messages)
        options |= {"tools": row.get("tools"), **self.chat_template_kwargs, **row.get("chat_template_kwargs", {})}
        render = partial(self.tokenizer.apply_chat_template, **options)
        try:
            return render(messages)
        except Exception:  # some templates join a call's arguments to text, and fail where these are a dict
            if (as_text := with_arguments_as_text(messages)) == messages:
                raise
            return render(as_text)

    def _alone(self, row: Row) -> list[int]:
        """Ids of the prompt, which those of prompt and completion begin with but for what merges at the boundary."""
        if isinstance(row["completion"], str):
            return self._text_ids(row["prompt"])
        return self._conversation_ids(row["prompt"], row, add_generation_prompt=True) if row.get("prompt") else []

    def _prompt_ids(self, row: Row) -> list[int]:
        if not isinstance(row["prompt"], str):
            return self._conversation_ids(row["prompt"], row, add_generation_prompt=True)
        ids, bos = self.tokenizer(row["prompt"], add_special_tokens=False)["input_ids"], self.tokenizer.bos_token_id
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


def reserved_tokens(tokenizer: Any) -> list[str]:
    """Tokens of the vocabulary that its makers left for other people's use, lowest id first."""
    marks = ("reserved_special_token", "<unused", "extra_", "_pad_", "reserved_")
    vocabulary = tokenizer.get_vocab()
    reserved = [token for token in vocabulary if token.startswith("<") and any(mark in token for mark in marks)]
    return sorted(reserved, key=vocabulary.get)
