"""A scorer without a model: `scorer_of(function of (prompt text, completion text))`, or `scorer_of({text: score})`."""

import pytest


def text_of(part) -> str:
    return part if isinstance(part, str) else "".join(message["content"] for message in part)


class FakeScorer:
    """The interface of `RewardScorer`, for best-of-N: one float a completion, nested as they are; calls are kept."""

    def __init__(self, score):
        self.one = score if callable(score) else lambda prompt, completion: score[completion]
        self.calls = []

    def score(self, prompts, completions):
        self.calls.append((prompts, completions))
        return [
            [self.one(text_of(prompt), text_of(completion)) for completion in several]
            for prompt, several in zip(prompts, completions, strict=True)
        ]


@pytest.fixture
def scorer_of():
    return FakeScorer
