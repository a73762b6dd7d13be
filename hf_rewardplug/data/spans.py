"""The spans of a packed row, as one object that nothing looks into on its way to the model.

In: (first query, end of queries, first key, end of keys) of each span. Out: the same, for whoever iterates over it.
"""

from array import array
from collections.abc import Iterable, Iterator
from itertools import chain

from .prefix_tree import Span


class Spans:
    """Spans in one buffer of numbers, which compares and iterates like a list of tuples.

    accelerate, the Trainer, DDP and pin_memory walk lists, tuples, dicts and dataclasses at every step, and a batch of
    32 trees has thousands of numbers. The buffer is also what the data loader's workers send, in one piece.

    >>> list(Spans([(0, 4, 0, 4), (4, 6, 4, 6)]))
    [(0, 4, 0, 4), (4, 6, 4, 6)]
    """

    __slots__ = ("_numbers",)

    def __init__(self, spans: Iterable[Span]):
        self._numbers = array("q", chain.from_iterable(spans))

    def __iter__(self) -> Iterator[Span]:
        numbers = iter(self._numbers)
        return zip(numbers, numbers, numbers, numbers, strict=True)

    def __len__(self) -> int:
        return len(self._numbers) // 4

    def __eq__(self, other) -> bool:
        return list(self) == list(other) if isinstance(other, Spans | list) else NotImplemented

    def __repr__(self) -> str:
        return f"Spans({list(self)})"
