"""Which queries of a packed row see which keys: the layout that the attention layers get.

    T packed tokens
    spans      (first query, end of queries, first key, end of keys); where both are equal the span is causal, a branch
               and itself; the others are full: branches, and the part of an earlier branch that they continue

In: spans and position ids from the collator. Out: the same tree as each kernel wants it.
"""

from collections.abc import Iterable

import torch

Span = tuple[int, int, int, int]


class TreeLayout:
    """The layout of a packed row. It is made once a forward and shared by all layers.

    This is no dataclass: FSDP builds a dataclass anew for each layer, and the cache would be lost.

    Args:
        spans: see above; any object that can be iterated over repeatedly.
        position_ids_T: positions in the sequences, which sliding windows count.
        longest: tokens of the longest sequence; a window that wide changes nothing.
        index: `tree_index` of the spans, where the collator made it.
    """

    def __init__(self, spans: Iterable[Span], position_ids_T: torch.Tensor, longest: int, index: dict | None = None):
        self.spans, self.position_ids_T, self.longest, self.index = spans, position_ids_T, longest, index
        self.cache: dict = {}

    def on(self, device: torch.device) -> dict:
        """`tree_index`, with `position_ids`, on the device of a layer, where a model is spread over several."""
        if device not in self.cache:
            if self.index is None:
                self.index = tree_index(self.spans, len(self.position_ids_T))
            index = {**self.index, "position_ids": self.position_ids_T}
            self.cache[device] = {
                key: value.to(device, non_blocking=True) if torch.is_tensor(value) else value
                for key, value in index.items()
            }
        return self.cache[device]

    def mask_TT(self, window: int | None) -> torch.Tensor:
        """Which query (row) sees which key (column)."""
        index_T = torch.arange(len(self.position_ids_T), device=self.position_ids_T.device)
        end_T = self.on(self.position_ids_T.device)["subtree_end"]
        mask_TT = (index_T <= index_T[:, None]) & (index_T[:, None] < end_T)
        if window is not None:
            mask_TT &= self.position_ids_T[:, None] - self.position_ids_T < window
        return mask_TT


def tree_index(spans: Iterable[Span], length: int) -> dict[str, torch.Tensor | int | None]:
    """The tree as the CUDA kernels want it; the trainers have it made in the data loader's workers.

    Returns:
        key_index, cu_seq_q, cu_seq_k, max_q, max_k: for each branch its queries, and its ancestors' keys, then its own;
            `key_index` is None where no branch has ancestors, since all keys then stand in order
        subtree_end: (T,), end of the tokens that see each token: q sees k where k <= q < subtree_end[k]

    >>> index = tree_index([(0, 4, 0, 4), (4, 6, 4, 6), (4, 6, 0, 2)], 6)
    >>> index["key_index"].tolist(), index["cu_seq_q"].tolist(), index["cu_seq_k"].tolist()
    ([0, 1, 2, 3, 0, 1, 4, 5], [0, 4, 6], [0, 4, 8])
    >>> index["subtree_end"].tolist()
    [6, 6, 4, 4, 6, 6]
    """
    keys, lengths, counts = [], [], []
    for start, stop, ancestors in branches(spans):
        ranges = [*ancestors, (start, stop)]
        keys += [torch.arange(first, end) for first, end in ranges]
        lengths.append(stop - start)
        counts.append(sum(end - first for first, end in ranges))
    end_T = torch.zeros(length, dtype=torch.long)
    for _, stop, first_key, end_of_keys in spans:
        end_T[first_key:end_of_keys].clamp_(min=stop)
    return {
        "key_index": None if counts == lengths else torch.cat(keys),
        "cu_seq_q": torch.tensor([0, *lengths]).cumsum(0).int(),
        "cu_seq_k": torch.tensor([0, *counts]).cumsum(0).int(),
        "max_q": max(lengths),
        "max_k": max(counts),
        "subtree_end": end_T,
    }


def full_spans(spans: Iterable[Span]) -> list[Span]:
    """The spans whose keys are an earlier branch, from which their queries branch off."""
    return [span for span in spans if span[:2] != span[2:]]


def branches(spans: Iterable[Span]) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """(start, end, [key ranges of its ancestors, outermost first]) of each branch.

    >>> branches([(0, 4, 0, 4), (4, 6, 4, 6), (4, 6, 0, 2)])
    [(0, 4, []), (4, 6, [(0, 2)])]
    """
    causal = sorted(span for span in spans if span[:2] == span[2:])
    waiting = sorted(full_spans(spans), key=lambda span: (-span[0], span[1], -span[2]))
    # `around`: the full spans that the branch lies in.
    with_ancestors, around = [], []
    for start, stop, *_ in causal:
        while around and around[-1][1] <= start:
            around.pop()
        while waiting and waiting[-1][0] == start:
            around.append(waiting.pop())
        with_ancestors.append((start, stop, [span[2:] for span in around]))
    return with_ancestors
