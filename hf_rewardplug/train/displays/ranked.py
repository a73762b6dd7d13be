"""Ranked lists: the rewards of K completions of one prompt beside their scores."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np

from ...data.prefix_tree import common_prefix_length
from ...figure_names import list_baselines
from .base import shortened
from .pairs import Pairs


class Ranked(Pairs):
    """Ranked completions of one prompt; an item is a pair of them with different scores."""

    def summary(self) -> tuple[str, dict[str, float]]:
        lengths, scores = [], []
        for row, _ in self.rows():
            lengths += [[len(row["completion_ids"][side]) for side in sides] for sides in _ranks(row["scores"])]
            scores.append(row["scores"])
        return f"{len(lengths)} pairs of {len(scores)} lists", list_baselines(lengths, scores)

    def example(self, row: dict, prediction: np.ndarray) -> Iterator[str]:
        ids, scores = row["completion_ids"], row["scores"]
        prefix = min(common_prefix_length(ids[0], one) for one in ids)
        yield f"  {shortened(self.text(ids[0][:prefix]), 96)}"
        for index in sorted(range(len(ids)), key=lambda index: -scores[index]):
            text = shortened(self.text(ids[index][prefix:]), 70)
            yield f"    {prediction[index]:+8.3f}  score {scores[index]:<8.4g} ...{text}"

    def items(self, row: dict, prediction: np.ndarray) -> Iterator[dict[str, Any]]:
        for sides in _ranks(row["scores"]):
            yield self.pair([row["completion_ids"][side] for side in sides], [prediction[side] for side in sides])

    def groups(self) -> dict[str, np.ndarray]:
        best, others = [], []
        for row, rewards in self.rows():
            for score, reward in zip(row["scores"], rewards, strict=False):  # padded to the longest list
                (best if score == max(row["scores"]) else others).append(reward)
        return {"best of its list": np.array(best), "others": np.array(others)}


def _ranks(scores: list[float]) -> list[tuple[int, int]]:
    """Indices (better, worse) of every two different scores.

    >>> _ranks([1.0, 3.0, 1.0])
    [(1, 0), (1, 2)]
    """
    pairs = combinations(range(len(scores)), 2)
    return [(a, b) if scores[a] > scores[b] else (b, a) for a, b in pairs if scores[a] != scores[b]]
