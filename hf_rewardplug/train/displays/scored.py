"""Scored completions: the reward beside the score, of each attribute."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ...figure_names import score_baselines
from .base import Display, shortened


class Scored(Display):
    """A completion with a score, or one an attribute; under "bce" an outcome, and the reward's sigmoid is shown."""

    def __init__(self, trainer, output):
        super().__init__(trainer, output)
        self.names = self.objective.attributes or ["score"]
        self.outcomes = self.objective.outcomes
        self.axis = "predicted probability" if self.outcomes else "reward"
        rewards = torch.from_numpy(output.predictions)
        self.shown = (rewards.sigmoid() if self.outcomes else rewards).numpy()

    def rows(self) -> Iterator[tuple[dict, np.ndarray]]:
        return zip(self.trainer.eval_dataset, self.shown, strict=False)

    def summary(self) -> tuple[str, dict[str, float]]:
        scores_NA = self.output.label_ids
        baselines = score_baselines(scores_NA)
        for name, scores_N in zip(self.objective.attributes or (), scores_NA.T, strict=False):
            of_attribute = score_baselines(scores_N)
            baselines |= {f"{name}_{key}": value for key, value in of_attribute.items()}
        return f"{len(scores_NA)} completions", baselines

    def example(self, row: dict, prediction: np.ndarray) -> Iterator[str]:
        yield f"  {shortened(self.text(row['input_ids']), 100)}"
        for name, value, score in zip(self.names, prediction, row["scores"], strict=True):
            score = "not rated" if math.isnan(score) else f"{score:.4g}"
            yield f"    {value:{'8.3f' if self.outcomes else '+8.3f'}}  {name} {score}"

    def items(self, row: dict, prediction: np.ndarray) -> Iterator[dict[str, Any]]:
        scores = [None if math.isnan(score) else score for score in row["scores"]]
        yield {
            "text": self.text(row["input_ids"]),
            "probabilities" if self.outcomes else "rewards": dict(zip(self.names, prediction.tolist(), strict=True)),
            "scores": dict(zip(self.names, scores, strict=True)),
        }

    def groups(self) -> dict[str, np.ndarray]:
        scores = self.output.label_ids
        return {"good outcomes": self.shown[scores >= 0.5], "bad outcomes": self.shown[scores < 0.5]}

    def draw(self, axes) -> None:
        """Rewards against scores; good outcomes against bad ones."""
        if self.outcomes:
            return super().draw(axes)
        for index, name in enumerate(self.names):
            axes.plot(self.output.label_ids[:, index], self.shown[:, index], ".", alpha=0.6, label=name)
        known = self.output.label_ids[~np.isnan(self.output.label_ids)]
        axes.plot([known.min(), known.max()], [known.min(), known.max()], "--", color="grey", label="as scored")
        axes.set(xlabel="score", ylabel="reward", title="Held-out scores")
        axes.legend()
