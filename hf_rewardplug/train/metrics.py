"""Metrics as sums and counts, so that they are the same number for every batch size and rank count.

Training keeps `Running` sums on the device and reads them at the logging interval; evaluation keeps every item once
(`unique_items`) and computes its figures at the end, from numpy arrays (`hf_rewardplug/figures.py`).
"""

import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from transformers.trainer_utils import EvalPrediction

from ..data.canonical import EXAMPLE_ID, SUBSET


class Running:
    """Sums, minima and maxima of a logging interval, on the device.

    >>> running = Running()
    >>> running.add(sums={"accuracy": torch.tensor(3.0)}, minima={"min_reward": torch.tensor(-1.0)}, count=4)
    >>> running.read(gather=lambda vector: vector[None])
    {'accuracy': 0.75, 'min_reward': -1.0}
    """

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        """Forget what was added."""
        self._values: dict[str, torch.Tensor] = {}
        self._statistics: dict[str, str] = {}

    def add(
        self, *, sums: dict, count: int | torch.Tensor, minima: dict | None = None, maxima: dict | None = None
    ) -> None:
        """Add a batch of `count` items (0 too: every rank must hold the same keys); values are 0-dim tensors."""
        if not torch.is_tensor(count):
            count = torch.full((), float(count), device=next(iter(sums.values())).device)
        self._merge("count", {"count": count}, torch.add)
        for statistic, values, merge in (
            ("sum", sums, torch.add),
            ("min", minima, torch.minimum),
            ("max", maxima, torch.maximum),
        ):
            self._merge(statistic, values or {}, merge)

    def _merge(self, statistic: str, values: dict, merge) -> None:
        for key, value in values.items():
            value = precise(value.detach())
            self._values[key] = merge(self._values[key], value) if key in self._values else value
            self._statistics[key] = statistic

    def read(self, gather) -> dict[str, float]:
        """The figures over all ranks, and start anew. `gather`: (K,) -> (ranks, K), called on every rank or none."""
        if not self._values:
            return {}
        table = gather(torch.stack(list(self._values.values()))).double().cpu()
        figures, count = {}, 1.0
        for (key, statistic), column in zip(self._statistics.items(), table.unbind(1), strict=True):
            if statistic == "count":
                count = column.sum().item()
            elif statistic == "sum":
                figures[key] = column.sum().item() / max(count, 1.0)
            else:
                figures[key] = (column.min() if statistic == "min" else column.max()).item()
        self.clear()
        return figures


class FirstNotFinite:
    """The first step with a loss or a gradient of NaN or infinity, kept on the device until a log reads it.

    >>> first = FirstNotFinite()
    >>> first.add(1, torch.tensor(0.5), ids=torch.tensor([4, 2]))
    >>> first.add(2, torch.tensor(torch.nan), ids=torch.tensor([7]))
    >>> first.read(gather=lambda vector: vector[None]), first.ids(2)
    (2, [7])
    """

    _NEVER = 1 << 62

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        """Forget what was added."""
        self._first: torch.Tensor | None = None
        self._batches: deque = deque(maxlen=1000)  # a run may never log

    def add(self, step: int, value: torch.Tensor, ids: torch.Tensor | None = None) -> None:
        """Look at a 0-dim tensor of `step`; `ids` of the batch's rows are kept as they are."""
        bad = ~value.detach().isfinite()
        first = torch.full((), self._NEVER, dtype=torch.int64, device=bad.device).masked_fill_(bad, step)
        self._first = first if self._first is None else torch.minimum(self._first, first)
        if ids is not None:
            self._batches.append((step, bad, ids))

    def read(self, gather) -> int | None:
        """The step, of all ranks', or None. `gather`: (1,) -> (ranks, 1), called on every rank or none."""
        if self._first is None:
            return None
        step = int(gather(self._first[None]).min())
        return None if step == self._NEVER else step

    def ids(self, step: int) -> list[int]:
        """Rows of this rank's bad batches of `step`; of all its batches where the gradient alone was bad."""
        of_step = [(bool(bad), ids.tolist()) for at, bad, ids in self._batches if at == step]
        bad = [ids for is_bad, ids in of_step if is_bad] or [ids for _, ids in of_step]
        return [row for ids in bad for row in ids]


def precise(values: torch.Tensor) -> torch.Tensor:
    """`values` in fp64, where the device has it: in fp32 the squares of rewards around 1,000 lose their spread."""
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
        self.of_whole_steps = self.tokens, self.unique
        self._last = (0, 0, time.perf_counter())
        self.mark()

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
        self.tokens, self.unique = self.of_whole_steps = tuple(counts) if here else (0, 0)
        self._last = (*counts, time.perf_counter())

    def mark(self) -> None:
        """Remember the counts for `start`."""
        self._marked = self.tokens, self.unique, self._last[:2]

    def start(self) -> None:
        """Begin an interval now, at the counts that were marked: `auto_find_batch_size` starts a run again."""
        self.tokens, self.unique, last = self._marked
        self.end_step()
        self._last = (*last, time.perf_counter())

    def end_step(self) -> None:
        """Remember the counts for a checkpoint that is saved in the middle of a step (on SIGTERM)."""
        self.of_whole_steps = self.tokens, self.unique

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


def concatenated(batches: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Batches of named arrays as one; those of lists (N, K) with NaN up to the longest.

    >>> concatenated([{"a": np.array([[1.0]])}, {"a": np.array([[2.0, 3.0]])}])["a"].tolist()
    [[1.0, nan], [2.0, 3.0]]
    """
    batches = list(batches)
    return {key: _stacked([batch[key] for batch in batches]) for key in batches[0]} if batches else {}


def _stacked(arrays: list[np.ndarray]) -> np.ndarray:
    if arrays[0].ndim == 2 and len({array.shape[1] for array in arrays}) > 1:
        width = max(array.shape[1] for array in arrays)
        arrays = [np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=np.nan) for array in arrays]
    return np.concatenate(arrays)


def unique_items(batches: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The items of all batches of all ranks as arrays, without those of repeated examples."""
    offset = 0
    for batch in batches:
        rows = int(batch["rows"].max()) + 1 if batch.get("rows") is not None and len(batch["rows"]) else 0
        count = len(batch[EXAMPLE_ID]) if EXAMPLE_ID in batch else rows or len(batch["loss"])
        batch["rows"] = batch.get("rows", np.arange(count)) + offset
        batch.setdefault(EXAMPLE_ID, -1 - offset - np.arange(count))
        offset += count
    items = concatenated(batches)
    keep = first_seen(items.pop(EXAMPLE_ID))[items["rows"]]
    if SUBSET in items:
        items[SUBSET] = items[SUBSET][items["rows"]]
    return {key: value[keep] for key, value in items.items()}


def mean_loss(losses: np.ndarray, weights: np.ndarray) -> float:
    """The sum of losses that hold their weights already, by the sum of the weights.

    >>> mean_loss(np.array([0.5, 2.0]), np.array([1.0, 2.0]))  # 0.5 once and 1.0 twice
    0.8333333333333334
    """
    total = float(weights.sum())
    return float(losses.sum() / total) if total else 0.0


def as_array(values: torch.Tensor | list[str]) -> np.ndarray:
    """`values` on the host. Floats become fp32, because numpy does not know bf16."""
    if not torch.is_tensor(values):
        return np.array(values)
    return values.float().cpu().numpy() if values.is_floating_point() else values.cpu().numpy()


def compute_accuracy(eval_pred: EvalPrediction) -> dict[str, float]:
    """Accuracy of steps or of pairs; takes what TRL's function of this name took.

    Steps: predictions (N, steps, labels), labels (N, steps) with -100 where there is none. Pairs: predictions (N, 2),
    labels (N,), the column of the better one (-100: none is); equal rewards are left out with a warning.

    >>> compute_accuracy((np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 0])))
    {'accuracy': 0.5}
    """
    predictions, labels = eval_pred
    if predictions.ndim == 3:
        labelled = labels != -100
        right = predictions[..., 0] > 0 if predictions.shape[-1] == 1 else predictions.argmax(-1)
        return {"accuracy": float((right == (labels >= 0.5))[labelled].mean())}
    predictions, labels = predictions[labels != -100], labels[labels != -100]
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
