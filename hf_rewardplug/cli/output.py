"""What commands print: tables of plain text, colours where a terminal shows them, and quiet libraries.

In: rows of cells. Out: text on stdout.
"""

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator

import typer

from ..texts import clean, one_line


def echo(text: object, *, err: bool = False) -> None:
    """Print a text of the data or of an error: a terminal obeys no control character in it."""
    typer.echo(clean(str(text)), err=err)


def quiet(*, reports: bool = True) -> None:
    """Keep progress bars of loading, and what others say to developers, off the screen.

    Args:
        reports: let transformers tell of weights that are missing; `check` looks at them itself.
    """
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    if not reports:
        transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("bitsandbytes", "hf_rewardplug.model.head"):  # the latter: "the head is frozen", where nothing trains
        logging.getLogger(name).setLevel(logging.ERROR)


def console():
    """Writes to stdout; without colours where it is no terminal or NO_COLOR is set."""
    from rich.console import Console

    return Console(highlight=False, markup=False, soft_wrap=True, file=sys.stdout)


def figure_rows(figures: dict[str, float]) -> Iterator[tuple[str, str, str]]:
    """Name, figure, and how many examples it is of.

    >>> list(figure_rows({"accuracy": 0.5, "accuracy/Chat": 1.0, "n": 4, "n/Chat": 2}))
    [('accuracy', '0.5000', '4'), ('accuracy/Chat', '1.0000', '2')]
    """
    for name, value in figures.items():
        figure, slash, subset = name.partition("/")
        if figure != "n":
            count = _count(figures, figure, slash + subset)
            yield name, f"{value:,}" if isinstance(value, int) else f"{value:.4f}", f"{count:,}" if count else ""


def _count(figures: dict[str, float], figure: str, end: str) -> float:
    """How many examples a figure is of; 0 where it is none of examples, or that is not known."""
    if figure.startswith("n_") or figure in ("threshold", "left out", "refused", "samples"):
        return 0
    count, wrong = figures.get(f"n{end}", 0), figures.get(f"n_wrong{end}", 0)
    return {"accuracy_wrong": wrong, "accuracy_right": count - wrong}.get(figure, count)


def print_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    rows = [head, *(tuple(map(one_line, row)) for row in rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        echo("  ".join(cells).rstrip())
