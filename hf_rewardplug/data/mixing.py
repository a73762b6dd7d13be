"""Several data sets of any formats to one, interleaved by weights, each row with the name of the set it came from.

In: `Part`s, all of them `Dataset`s or all of them streams. Out: one data set of the same kind with the columns

    canonical    JSON list of the canonical rows that the part's own adapter gave for one raw row; pairs, ranked lists,
                 steps and trees have no Arrow schema in common
    subset       the part's name, by which evaluation shows its figures
    source_row   number of the raw row within its part: of the part's file, where it was read from one

which the adapter `mixed` reads again, so that trainers and scoring take it like any other data set. Everything drawn is
drawn from `seed`: two processes with the same parts give the same rows in the same order.
"""

import json
import math
from collections.abc import Sequence

import datasets
from datasets import Dataset, IterableDataset
from packaging.version import Version

from ..checks import check_choice, is_number
from .files import at_most
from .held_out import hold_out_prompts, prompt_of
from .mixture_rows import Part, canonical_rows

STOPPING_STRATEGIES = ("first_exhausted", "all_exhausted", "all_exhausted_without_replacement")
_EACH_ONCE = STOPPING_STRATEGIES[2]


def mixed(
    parts: Sequence[Part],
    *,
    seed: int,
    stopping_strategy: str | None = None,
    shuffle: bool = False,
    num_proc: int | None = None,
    on_bad_row: str = "error",
) -> Dataset | IterableDataset:
    """One data set from `parts`.

    With weights the rows are those of `datasets.interleave_datasets` with the weights as probabilities: each row comes
    from a part drawn by weight, and a part's rows come in their order. Without weights every row comes once, and the
    parts take turns until the last one is through.

    Args:
        seed: of the draws.
        stopping_strategy: with weights, when to stop. "first_exhausted" (when None): with the last row of the part that
            is through first; rows of the others may be left. "all_exhausted": when every part is through; the others
            begin again meanwhile, so rows come twice or more (with a small weight the mixture gets very long).
            "all_exhausted_without_replacement": every row once; the shares are the weights' until a part is through.
        shuffle: shuffle each part by `seed` first, so that a part that is not drawn whole gives a random sample
            and not its beginning; `Dataset`s alone.
        num_proc: processes that read the rows of a `Dataset`.
        on_bad_row: what becomes of a row that its adapter cannot read: "error", or "drop": it is handed on with what is
            wrong with it, and the trainer with the same option leaves it out and reports it.

    Raises:
        ValueError: parts that do not go together (no part, weights for some, a name twice, streams and data sets), or a
            row that its adapter cannot read (with the part, the adapter and the row number); or all rows of a part.
        TypeError: a part's `dataset` is no data set.
    """
    rows = _checked_rows(parts, stopping_strategy, num_proc, on_bad_row)
    if shuffle and isinstance(rows[0], Dataset):
        rows = [of_part.shuffle(seed=seed) for of_part in rows]
    return _interleaved(rows, [part.weight for part in parts], seed, stopping_strategy)


def mixed_and_held_out(
    parts: Sequence[Part],
    *,
    seed: int,
    test_size: float,
    max_eval_rows: int | None = None,
    stopping_strategy: str | None = None,
    num_proc: int | None = None,
    own_rows: str = "eval_datasets",
    on_bad_row: str = "error",
) -> tuple[Dataset, Dataset] | tuple[IterableDataset, IterableDataset]:
    """`mixed`, and held-out rows of every part, each once.

    Of a `Dataset` the rows of `test_size` of the prompts are held out; a prompt is on one side in all parts, be it text
    here and messages there. Of a stream its first rows are held out: `max_eval_rows` (1000 when None), in equal shares.

    Args:
        max_eval_rows: held-out rows at most, in equal shares of the parts; train rows do not get more by it.
        own_rows: what messages call the option for held-out rows of one's own.

    Raises:
        ValueError, TypeError: as `mixed`; and a part that cannot be split.
    """
    rows = _checked_rows(parts, stopping_strategy, num_proc, on_bad_row)
    most = equal_share(max_eval_rows, len(parts))
    if isinstance(rows[0], IterableDataset):
        most = most or equal_share(1000, len(parts))
        train, held_out = [of_part.skip(most) for of_part in rows], rows
    else:
        names = [part.subset for part in parts]
        prompts = [_prompts(place, part_rows) for place, part_rows in enumerate(rows)]
        options = {"share": test_size, "seed": seed, "own_rows": own_rows}
        sides = hold_out_prompts(dict(zip(names, rows, strict=True)), prompts, **options)
        train, held_out = zip(*sides, strict=True)
    train = _interleaved(train, [part.weight for part in parts], seed, stopping_strategy)
    return train, _interleaved([at_most(of_part, most) for of_part in held_out])


def _prompts(place: int, rows: Dataset) -> list[str]:
    """The prompt of each row of a part; `place` tells rows without a prompt apart from those of other parts."""
    texts = enumerate(rows["canonical"])
    return [prompt_of(json.loads(text), f"{place} {number}") for number, text in texts]


def equal_share(rows: int | None, parts: int) -> int | None:
    """How many of `rows` rows each of `parts` parts may give: one at least.

    >>> equal_share(1000, 3), equal_share(2, 3), equal_share(None, 3)
    (333, 1, None)
    """
    return None if rows is None else max(1, rows // parts)


def _checked_rows(parts: Sequence[Part], stopping_strategy: str | None, num_proc: int | None, on_bad_row: str) -> list:
    """The rows of each part, if the parts go together."""
    if not parts:
        raise ValueError("A mixture needs one part at least.")
    for part in parts:
        if not isinstance(part.dataset, Dataset | IterableDataset):
            splits = f" Give one of its splits, {sorted(part.dataset)}." if isinstance(part.dataset, dict) else ""
            raise TypeError(
                f"part '{part.subset}' is a `{type(part.dataset).__name__}`, expected a `Dataset` or an "
                f"`IterableDataset`.{splits}"
            )
        if "subset" in (part.column_mapping or {}):
            raise ValueError(
                f"part '{part.subset}': a part has one name, so column_mapping cannot map 'subset'. Leave it out."
            )
    names = [part.subset for part in parts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Two parts are called '{twice[0]}'. Give each a `subset` name of its own.")
    streams = [part.subset for part in parts if isinstance(part.dataset, IterableDataset)]
    if streams and (rest := [name for name in names if name not in streams]):
        raise ValueError(
            f"{_listed(streams)} are streams, {_listed(rest)} are not. Stream all or none: "
            "`dataset.to_iterable_dataset()` makes a stream."
        )
    _check_weights(parts, stopping_strategy)
    each_once = parts[0].weight is None or stopping_strategy == _EACH_ONCE
    if streams and each_once and Version(datasets.__version__) < Version("4.2"):  # which stops with the first part
        raise ValueError(f"Every row of several streams once needs datasets >= 4.2, found {datasets.__version__}.")
    return [canonical_rows(part, num_proc=num_proc, on_bad_row=on_bad_row) for part in parts]


def _check_weights(parts: Sequence[Part], stopping_strategy: str | None) -> None:
    without = [part.subset for part in parts if part.weight is None]
    if without and len(without) < len(parts):
        raise ValueError(f"{_listed(without)} have no `weight`, the other parts have. Give all parts one, or none.")
    for part in () if without else parts:
        weight = part.weight
        if not (is_number(weight) and 0 < weight < math.inf):
            raise ValueError(
                f"part '{part.subset}': weight={weight!r}; expected a number above 0. Leave out a part without weight."
            )
    if stopping_strategy is not None:
        check_choice("stopping_strategy", stopping_strategy, STOPPING_STRATEGIES)
    if stopping_strategy is not None and without:
        raise ValueError(
            f"stopping_strategy={stopping_strategy!r} needs a `weight` for each part. Without, every row comes once."
        )


def _listed(names: list[str]) -> str:
    return "parts " + ", ".join(f"'{name}'" for name in names)


def _interleaved(rows: list, weights: Sequence[float | None] = (None,), seed: int = 0, strategy: str | None = None):
    """The rows drawn by weight, or each once and the parts in turns."""
    if weights[0] is None:
        return datasets.interleave_datasets(rows, stopping_strategy=_EACH_ONCE)
    shares = [weight / math.fsum(weights) for weight in weights]
    strategy = strategy or "first_exhausted"
    return datasets.interleave_datasets(rows, probabilities=shares, seed=seed, stopping_strategy=strategy)
