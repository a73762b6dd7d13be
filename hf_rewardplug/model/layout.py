"""What the attention layers know of a packed row: which queries see which keys.

    T packed tokens
    spans      (first query, end of queries, first key, end of keys); where both are equal the span is causal, a branch
               and itself, the others are full: branches and what they branch from

In: spans and position ids from the collator. Out: the same tree as each kernel wants it.
"""

import torch

Span = tuple[int, int, int, int]


class TreeLayout:
    """What the attention layers know of a packed row; made once a forward, shared by all layers.

    No dataclass: FSDP builds those anew for each layer, and what is cached here would be lost.

    Args:
        spans: see above.
        position_ids_T: positions in the sequences, which sliding windows count.
        longest: tokens of the longest sequence; a window that wide changes nothing.
    """

    def __init__(self, spans: list[Span], position_ids_T: torch.Tensor, longest: int):
        self.spans, self.position_ids_T, self.longest = spans, position_ids_T, longest
        self.cache: dict = {}

    def positions(self, device: torch.device) -> torch.Tensor:
        """`position_ids_T` on the device of a layer, where a model is spread over several."""
        if ("positions", device) not in self.cache:
            self.cache["positions", device] = self.position_ids_T.to(device, non_blocking=True)
        return self.cache["positions", device]

    def varlen(self, device: torch.device):
        """(key_index, cu_seq_q, cu_seq_k, max_q, max_k): each branch's queries; its ancestors' keys, then its own."""
        if ("varlen", device) not in self.cache:
            keys, lengths, counts = [], [], []
            for start, stop, ancestors in branches(self.spans):
                ranges = [*ancestors, (start, stop)]
                keys += [torch.arange(*keys_of) for keys_of in ranges]
                lengths.append(stop - start)
                counts.append(sum(b - a for a, b in ranges))
            cumulated = [torch.tensor([0, *values]).cumsum(0).int() for values in (lengths, counts)]
            tensors = [tensor.to(device, non_blocking=True) for tensor in (torch.cat(keys), *cumulated)]
            self.cache["varlen", device] = (*tensors, max(lengths), max(counts))
        return self.cache["varlen", device]

    def subtree_end(self, device: torch.device) -> torch.Tensor:
        """Index behind the last token that sees each token: q sees k where k <= q < subtree_end[k]."""
        if ("end", device) not in self.cache:
            end_T = torch.empty(len(self.position_ids_T), dtype=torch.long)
            for start, stop, *_ in causal_spans(self.spans):
                end_T[start:stop] = stop
            for _, stop, k0, k1 in full_spans(self.spans):
                end_T[k0:k1].clamp_(min=stop)
            self.cache["end", device] = end_T.to(device, non_blocking=True)
        return self.cache["end", device]

    def mask_TT(self, window: int | None) -> torch.Tensor:
        """Which query (row) sees which key (column)."""
        index_T = torch.arange(len(self.position_ids_T), device=self.position_ids_T.device)
        mask_TT = (index_T <= index_T[:, None]) & (index_T[:, None] < self.subtree_end(self.position_ids_T.device))
        if window is not None:
            mask_TT &= self.position_ids_T[:, None] - self.position_ids_T < window
        return mask_TT


def causal_spans(spans):
    """The spans of the branches themselves, in order; they hold every token once."""
    return [span for span in spans if span[:2] == span[2:]]


def full_spans(spans):
    """The spans from branches to what they branch from."""
    return [span for span in spans if span[:2] != span[2:]]


def branches(spans) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """(start, end, [key ranges of its ancestors, outermost first]) of each branch.

    >>> branches([(0, 4, 0, 4), (4, 6, 4, 6), (4, 6, 0, 2)])
    [(0, 4, []), (4, 6, [(0, 2)])]
    """
    waiting = sorted(full_spans(spans), key=lambda span: (-span[0], span[1], -span[2]))
    found, open_spans = [], []
    for start, stop, *_ in sorted(causal_spans(spans)):
        while open_spans and open_spans[-1][1] <= start:
            open_spans.pop()
        while waiting and waiting[-1][0] == start:
            open_spans.append(waiting.pop())
        found.append((start, stop, [span[2:] for span in open_spans]))
    return found
