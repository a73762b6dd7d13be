"""Pairs: the reward of the chosen completion beside that of the rejected one."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...data.prefix_tree import common_prefix_length
from ...figure_names import pair_baselines
from .base import Display, shortened


class Pairs(Display):
    """A chosen and a rejected completion. A tie, or a chosen one as probable as not, has no better one."""

    def summary(self) -> tuple[str, dict[str, float]]:
        lengths, tied = [], 0
        for row, _ in self.rows():
            if (sides := _sides(row)) is None:
                tied += 1
            else:
                lengths.append([len(row[f"{side}_ids"]) for side in sides])
        count = f"{len(lengths) + tied} pairs" + (f", {tied} of them ties" if tied else "")
        return count, pair_baselines(lengths)

    def example(self, row: dict, prediction: np.ndarray) -> Iterator[str]:
        prefix = common_prefix_length(row["chosen_ids"], row["rejected_ids"])
        probability = row.get("chosen_probability")
        told = (
            " [a tie]" if row.get("tie") else "" if probability is None else f" [chosen is better: {probability:.2f}]"
        )
        yield f"  {shortened(self.text(row['chosen_ids'][:prefix]), 96)}{told}"
        for name, reward in zip(("chosen", "rejected"), prediction, strict=True):
            yield f"    {reward:+8.3f}  {name:<9} ...{shortened(self.text(row[f'{name}_ids'][prefix:]), 76)}"

    def items(self, row: dict, prediction: np.ndarray) -> Iterator[dict[str, Any]]:
        if (sides := _sides(row)) is not None:
            rewards = dict(zip(("chosen", "rejected"), prediction, strict=True))
            yield self.pair([row[f"{side}_ids"] for side in sides], [rewards[side] for side in sides])

    def pair(self, ids: list[list[int]], rewards: list[float]) -> dict[str, Any]:
        """The item of two completions, the better one first."""
        prefix = min(common_prefix_length(*ids), *(len(one) - 1 for one in ids))
        return {
            "prompt": self.text(ids[0][:prefix]),
            "completions": [self.text(one[prefix:]) for one in ids],
            "scores": [float(reward) for reward in rewards],
            "lengths": [len(one) - prefix for one in ids],
        }

    def groups(self) -> dict[str, np.ndarray]:
        better, worse, tied = [], [], []
        for row, (chosen, rejected) in self.rows():
            sides = _sides(row)
            if sides is None:
                tied += [chosen, rejected]
            else:
                first, second = (chosen, rejected) if sides[0] == "chosen" else (rejected, chosen)
                better.append(first)
                worse.append(second)
        return {"chosen": np.array(better), "rejected": np.array(worse), "tied": np.array(tied)}


def _sides(row: dict) -> tuple[str, str] | None:
    """Of an encoded pair the better side and the worse one; None of a tie.

    >>> _sides({}), _sides({"chosen_probability": 0.2}), _sides({"tie": True})
    (('chosen', 'rejected'), ('rejected', 'chosen'), None)
    """
    probability = row.get("chosen_probability")
    probability = 1.0 if probability is None else probability
    if row.get("tie") or probability == 0.5:
        return None
    return ("chosen", "rejected") if probability > 0.5 else ("rejected", "chosen")
