"""Rows to train on and held-out rows of the same data sets: no prompt is on both sides.

In: data sets, and the prompt of each of their rows as the format that reads them gives it. Out: two sides of each data
set. Recipes, mixtures and axolotl's configs all hold rows out here.
"""

import json
import random
from collections.abc import Iterable, Sequence

from datasets import Dataset

from ..checks import check_share
from .adapters import Adapter, rename_columns
from .canonical import Row, hash63
from .pipeline import adapter_of, numbered_row
from .raw import plain_rows


def hold_out(
    dataset: Dataset,
    share: float,
    seed: int,
    *,
    shuffle: bool = True,
    own_rows: str = "eval_dataset_name",
    adapter: str | None = None,
    column_mapping: dict[str, str] | None = None,
    ignore_columns: Iterable[str] | None = None,
) -> tuple[Dataset, Dataset]:
    """Rows to train on, and the rows of `share` of the prompts.

    Args:
        shuffle: False leaves both sides in the order of the rows.
        own_rows: what messages call the option for held-out rows of one's own.
        adapter, column_mapping, ignore_columns: the format of the rows, as in the trainers' configs.

    Raises:
        ValueError: `share` is not between 0 and 1, or there is one prompt only.
    """
    prompts = prompts_of(dataset, adapter, column_mapping, ignore_columns)
    ((train, held_out),) = hold_out_prompts(
        {"": dataset}, [prompts], share=share, seed=seed, shuffle=shuffle, own_rows=own_rows
    )
    return train, held_out


def hold_out_prompts(
    rows: dict[str, Dataset],
    prompts: Sequence[Sequence[str]],
    *,
    share: float,
    seed: int,
    own_rows: str,
    shuffle: bool = True,
) -> list[tuple[Dataset, Dataset]]:
    """Each data set's rows on two sides: a prompt that one data set holds out is held out in all.

    Every data set holds out its prompts of least hash, so that data sets with the same prompts hold out the same ones.

    Args:
        rows: data sets by the names that messages call them. prompts: the prompt of each of their rows.
    """
    check_share("test_size", share, f"For held-out rows of your own: {own_rows}.")
    held: set[str] = set()
    for name, of_rows in zip(rows, prompts, strict=True):
        different = sorted(set(of_rows), key=lambda prompt: (hash63(ascii((seed, prompt))), prompt))
        if len(different) < 2:
            part = f"part '{name}' has " if name else ""
            raise ValueError(
                f"{part}{len(of_rows)} rows with {len(different)} different prompts{', which' if name else ''} cannot "
                f"be split by prompt. Give held-out rows of their own ({own_rows})."
            )
        held.update(different[: _held_count(share, len(different))])
    sides = []
    for (name, dataset), of_rows in zip(rows.items(), prompts, strict=True):
        order = list(range(len(of_rows)))
        if shuffle:
            random.Random(seed).shuffle(order)
        train = [row for row in order if of_rows[row] not in held]
        if not train:
            raise ValueError(
                f"part '{name}' has no rows left to train on: other parts hold out its prompts. Give held-out rows of "
                f"their own ({own_rows})."
            )
        sides.append((dataset.select(train), dataset.select([row for row in order if of_rows[row] in held])))
    return sides


def _held_count(share: float, prompts: int) -> int:
    """How many of two or more prompts are held out: one at least, and one at least stays.

    >>> _held_count(0.05, 100), _held_count(0.05, 2), _held_count(0.95, 2)
    (5, 1, 1)
    """
    return min(max(1, round(share * prompts)), prompts - 1)


def prompts_of(
    dataset: Dataset,
    adapter: str | None,
    column_mapping: dict[str, str] | None,
    ignore_columns: Iterable[str] | None = None,
) -> list[str]:
    """The prompt of each row as its format reads it, whatever its columns are called; else the row's number.

    Faults of the rows are not judged here: the trainer reads the same rows and says what is wrong with them.

    >>> asked = [f"\\n\\nHuman: {ask}\\n\\nAssistant: " for ask in ("Hi", "Hi", "2+2?")]
    >>> rows = Dataset.from_dict({"chosen": [ask + "a" for ask in asked], "rejected": [ask + "b" for ask in asked]})
    >>> prompts_of(rows, None, None)
    ['Hi', 'Hi', '2+2?']
    """
    rows = plain_rows(dataset)
    rows = rows.remove_columns([name for name in ignore_columns or () if name in rows.column_names])
    try:
        reader = adapter_of(rows, adapter, column_mapping)
    except (ValueError, TypeError):
        return [f"0 {number}" for number in range(len(rows))]
    return [prompt_of(_read(reader, row, column_mapping), f"0 {number}") for number, row in enumerate(rows)]


def _read(reader: Adapter, row: Row, column_mapping: dict[str, str] | None) -> list[Row]:
    try:
        return reader(rename_columns(numbered_row(row, 0)[0], column_mapping))
    except Exception:  # a third party's adapter can fail in any way
        return []


def prompt_of(canonical: object, otherwise: str) -> str:
    """The prompt of a raw row by its canonical rows, the same for text and messages; `otherwise` where it has none.

    >>> prompt_of([{"prompt": [{"role": "user", "content": "2+2?"}], "nodes": []}], "0 7"), prompt_of([], "0 7")
    ('2+2?', '0 7')
    """
    prompt = canonical[0].get("prompt") if isinstance(canonical, list) and canonical else None
    if isinstance(prompt, list):
        contents = [message.get("content") if isinstance(message, dict) else message for message in prompt]
        prompt = "\n".join(content if isinstance(content, str) else json.dumps(content) for content in contents)
    return (isinstance(prompt, str) and prompt.strip()) or otherwise
