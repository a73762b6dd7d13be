"""Metrics as sums and counts, so that they are the same number for every batch size and rank count.

    N pairs, S labelled steps

Training keeps `Running` sums on the device and reads them at the logging interval; evaluation keeps every item once
(`unique_items`) and computes its figures at the end, from numpy arrays.
"""

import time
from collections.abc import Iterable

import numpy as np
import torch
from transformers.trainer_utils import EvalPrediction


class Running:
    """Sums, minima and maxima of a logging interval, on the device.

    >>> running = Running()
    >>> running.add(sums={"accuracy": torch.tensor(3.0)}, minima={"min_reward": torch.tensor(-1.0)}, count=4)
    >>> running.read(gather=lambda vector: vector[None])
    {'accuracy': 0.75, 'min_reward': -1.0}
    """

    def __init__(self):
        self._values: dict[str, torch.Tensor] = {}
        self._kinds: dict[str, str] = {}

    def add(self, *, sums: dict, count: int, minima: dict | None = None, maxima: dict | None = None) -> None:
        """Add a batch of `count` items (0 too: every rank must hold the same keys); values are 0-dim tensors."""
        device = next(iter(sums.values())).device
        self._merge("count", {"count": torch.full((), float(count), device=device)}, torch.add)
        for kind, values, merge in (
            ("sum", sums, torch.add),
            ("min", minima, torch.minimum),
            ("max", maxima, torch.maximum),
        ):
            self._merge(kind, values or {}, merge)

    def _merge(self, kind: str, values: dict, merge) -> None:
        for key, value in values.items():
            value = precise(value.detach())
            self._values[key] = merge(self._values[key], value) if key in self._values else value
            self._kinds[key] = kind

    def read(self, gather) -> dict[str, float]:
        """The figures over all ranks, and start anew. `gather`: (K,) -> (ranks, K), called on every rank or none."""
        if not self._values:
            return {}
        table = gather(torch.stack(list(self._values.values()))).double().cpu()
        figures, count = {}, 1.0
        for (key, kind), column in zip(self._kinds.items(), table.unbind(1), strict=True):
            if kind == "count":
                count = column.sum().item()
            elif kind == "sum":
                figures[key] = column.sum().item() / max(count, 1.0)
            else:
                figures[key] = (column.min() if kind == "min" else column.max()).item()
        self._values, self._kinds = {}, {}
        return figures


def precise(values: torch.Tensor) -> torch.Tensor:
    """fp64, where the device has it: the spread of rewards around 1,000 is lost among their squares in fp32."""
    return values.float() if values.device.type in ("mps", "xpu") else values.double()


class TokenCounter:
    """Tokens trained on by this rank: all of them, as TRL counts, and the unique ones, which are computed.

    >>> counter = TokenCounter()
    >>> counter.add({"prefix_tree": {"num_tokens": 8, "num_unique_tokens": 6}})
    >>> figures = counter.read(gather=list)
    >>> figures["num_tokens"], figures["num_unique_tokens"], round(figures["sharing_ratio"], 2)
    (8, 6, 1.33)
    """

    def __init__(self):
        self.tokens: torch.Tensor | int = 0
        self.unique: torch.Tensor | int = 0
        self._last = (0, 0, time.perf_counter())

    def add(self, inputs: dict) -> None:
        """Count a batch, packed or padded."""
        if (tree := inputs.get("prefix_tree")) is not None:
            tokens, unique = tree["num_tokens"], tree["num_unique_tokens"]
        else:
            mask = inputs.get("attention_mask")
            tokens = unique = inputs["input_ids"].numel() if mask is None else mask.sum()
        self.tokens, self.unique = self.tokens + tokens, self.unique + unique

    def restore(self, record: dict, *, here: bool) -> None:
        """Go on from a checkpoint's counts over all ranks; one rank (`here`) holds them from now on."""
        counts = [record.get(key, 0) for key in ("num_tokens", "num_unique_tokens")]
        self.tokens, self.unique = counts if here else (0, 0)
        self._last = (*counts, time.perf_counter())

    def start(self) -> None:
        """Begin an interval now."""
        self._last = (*self._last[:2], time.perf_counter())

    def pause(self, seconds: float) -> None:
        """Leave `seconds` out of the interval's time: an evaluation's."""
        self._last = (*self._last[:2], self._last[2] + seconds)

    def read(self, gather) -> dict[str, float]:
        """Both counts over all ranks, and since the last reading their ratio and tokens (all of them) a second.

        `gather`: [counts of this rank] -> [counts of all ranks], called on every rank.
        """
        (tokens, unique), now = gather([self.tokens, self.unique]), time.perf_counter()
        tokens_before, unique_before, then = self._last
        self._last = (tokens, unique, now)
        return {
            "num_tokens": tokens,
            "num_unique_tokens": unique,
            "sharing_ratio": (tokens - tokens_before) / max(unique - unique_before, 1),
            "tokens_per_second": (tokens - tokens_before) / (now - then),
        }


def first_seen(ids: np.ndarray) -> np.ndarray:
    """Mask of the first occurrence of each id, shape of `ids`.

    Uneven batches make accelerate repeat rows, so that each rank has something to do; a metric counts them once.

    >>> first_seen(np.array([3, 1, 3])).tolist()
    [True, True, False]
    """
    mask = np.zeros(len(ids), dtype=bool)
    mask[np.unique(ids, return_index=True)[1]] = True
    return mask


def pair_figures(losses_N: np.ndarray, chosen_N: np.ndarray, rejected_N: np.ndarray) -> dict[str, float]:
    """Loss, accuracy (a tie counts as wrong, as in TRL), ties, margin, calibration error and the rewards' spread.

    >>> figures = pair_figures(np.array([0.1, 0.9]), np.array([1.0, 0.0]), np.array([0.0, 0.0]))
    >>> figures["accuracy"], figures["ties"], figures["margin"], figures["mean_reward"]
    (0.5, 0.5, 0.5, 0.25)
    """
    rewards = np.concatenate([chosen_N, rejected_N])
    return {
        "loss": float(losses_N.mean()),
        "accuracy": float((chosen_N > rejected_N).mean()),
        "ties": float((chosen_N == rejected_N).mean()),
        "margin": float((chosen_N - rejected_N).mean()),
        "ece": expected_calibration_error(chosen_N - rejected_N),
        "min_reward": float(rewards.min()),
        "mean_reward": float(rewards.mean()),
        "max_reward": float(rewards.max()),
        "std_reward": float(rewards.std()),
    }


def expected_calibration_error(margins_N: np.ndarray) -> float:
    """How far `sigmoid(margin)` is from the share of pairs that it promises, in [0, 1].

    Guo et al. 2017 (arXiv:1706.04599, eq. 3), 15 bins of equal width. A pair is seen from both sides, "chosen wins" and
    "rejected wins", so that a tie is a fair coin.

    >>> expected_calibration_error(np.array([0.0, 0.0])), round(expected_calibration_error(np.array([2.0, 2.0])), 3)
    (0.0, 0.119)
    """
    from torchmetrics.functional.classification import binary_calibration_error  # takes seconds to import

    if not np.isfinite(margins_N).all():
        return float("nan")
    margins = torch.from_numpy(np.concatenate([margins_N, -margins_N]))
    wins = torch.arange(len(margins)) < len(margins_N)
    return binary_calibration_error(margins.double().sigmoid(), wins.long(), n_bins=15).item()


def step_figures(
    losses_S: np.ndarray, probabilities_S: np.ndarray, labels_S: np.ndarray, back_S: np.ndarray
) -> dict[str, float]:
    """Figures of steps at the threshold 0.5 (a soft label counts by it too), and the AUROC where there are both kinds.

    `first_wrong_accuracy`: share of solutions (of a tree: paths to a leaf) whose first wrong step, or that there is
    none, is found; as ProcessBench counts a solution (arXiv:2412.06559, section 4). `back_S`: see `StepCollator`.

    >>> probabilities, labels = np.array([0.9, 0.2, 0.1, 0.6]), np.array([1.0, 0.0, 1.0, 0.0])
    >>> figures = step_figures(np.zeros(4), probabilities, labels, back_S=np.array([0, 1, 1, 0]))
    >>> figures["accuracy"], figures["f1_wrong"], figures["wrong_rate"], figures["auroc"]
    (0.5, 0.5, 0.5, 0.5)
    >>> figures["first_wrong_accuracy"]  # found in the first solution of three steps, missed in the second of one
    0.5
    """
    found_wrong, is_wrong = probabilities_S < 0.5, labels_S < 0.5
    hits = (found_wrong & is_wrong).sum()
    figures = {
        "loss": float(losses_S.mean()),
        "accuracy": float((found_wrong == is_wrong).mean()),
        "f1_wrong": float(2 * hits / max(found_wrong.sum() + is_wrong.sum(), 1)),
        "wrong_rate": float(is_wrong.mean()),
        "first_wrong_accuracy": _first_wrong_accuracy(found_wrong, is_wrong, back_S),
    }
    if 0 < is_wrong.sum() < len(is_wrong):
        from torchmetrics.functional.classification import binary_auroc  # takes seconds to import

        right = torch.from_numpy(~is_wrong).long()
        figures["auroc"] = binary_auroc(torch.from_numpy(probabilities_S).double(), right).item()
    return figures


def _first_wrong_accuracy(found_wrong_S: np.ndarray, is_wrong_S: np.ndarray, back_S: np.ndarray) -> float:
    firsts, leaf = np.full((len(back_S), 2), -1), np.ones(len(back_S), dtype=bool)
    wrong = np.stack([found_wrong_S, is_wrong_S], axis=1)
    for step, back in enumerate(back_S):
        firsts[step] = np.where(wrong[step], step, -1)
        if back:
            before, leaf[step - back] = firsts[step - back], False
            firsts[step] = np.where(before >= 0, before, firsts[step])
    return float((firsts[:, 0] == firsts[:, 1])[leaf].mean())


def concatenated(batches: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Batches of named arrays as one; [{"a": [1]}, {"a": [2]}] -> {"a": [1, 2]}."""
    batches = list(batches)
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]} if batches else {}


def compute_accuracy(eval_pred: EvalPrediction) -> dict[str, float]:
    """Accuracy of steps or of pairs; takes what TRL's function of this name took.

    Steps: predictions (N, steps, labels), labels (N, steps) with -100 where there is none. Pairs: predictions (N, 2),
    labels (N,), the column of the better one; ties are left out with a warning.

    >>> compute_accuracy((np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 0])))
    {'accuracy': 0.5}
    """
    predictions, labels = eval_pred
    if predictions.ndim == 3:
        labelled = labels != -100
        right = predictions[..., 0] > 0 if predictions.shape[-1] == 1 else predictions.argmax(-1)
        return {"accuracy": float((right == (labels >= 0.5))[labelled].mean())}
    ties = predictions[:, 0] == predictions[:, 1]
    if ties.any():
        from accelerate import PartialState
        from accelerate.logging import get_logger

        PartialState()  # accelerate's logger needs a state, which nobody has made outside a Trainer
        get_logger(__name__).warning(
            f"There are {ties.sum()} out of {len(ties)} instances where the predictions for both options are equal. "
            "These instances are ignored in the accuracy computation."
        )
    return {"accuracy": float((predictions[~ties].argmax(1) == labels[~ties]).mean())}
