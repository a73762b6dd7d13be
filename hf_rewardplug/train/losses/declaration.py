"""What a loss says of itself, beside its formula: everything else that depends on a loss is read from here.

In: the declarations of the modules of this folder. Out: `LOSSES`, in the order in which people see them, and `OPTIONS`.
The configs take their choices, defaults, ranges and help from them, the objectives their formula and columns, and
`inspect` which losses take the rows at hand.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...checks import is_number
from ...data.canonical import Row


@dataclass(frozen=True)
class Option:
    """An option of a config that some losses read; beside the others it must keep its default.

    Attributes:
        help: what `--help` says of it, without the losses and the full stop.
        holds: whether a number is in its range, which `expected` says in words. None: no number
            (`option_checks.py` has the checks).
    """

    name: str
    default: Any
    help: str
    holds: Callable[[float], bool] | None = None
    expected: str = ""

    def takes(self, value: Any) -> bool:
        """Whether the value is in the option's range; the default always is."""
        if self.holds is None or value is self.default:
            return True
        return is_number(value) and self.holds(value)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A declared loss.

    Attributes:
        name: the config's `loss_type`.
        formula: items and their targets -> losses (items,).
        form: what an item is: "pairs", "lists", "completions" or "steps" (of a process reward model).
        rows: types of canonical rows that it takes (`data/canonical.py`).
        expand: canonical row -> validated rows of its form (`data/expansion.py`).
        columns: {column that a row of it may have: argument of the formula}; `weight` goes with every loss of
            completions and is no business of the formula.
        options: {argument of the formula: option}.
        read_beside: further options, which the objective reads.
        labels: "any", "hard" (0 and 1) or "shares" (in [0, 1]).
    """

    name: str
    formula: Callable
    form: str
    rows: tuple[str, ...]
    expand: Callable[..., list[Row]]
    columns: dict[str, str] = field(default_factory=dict)
    options: dict[str, Option] = field(default_factory=dict)
    read_beside: tuple[Option, ...] = ()
    labels: str = "any"

    @property
    def every_option(self) -> tuple[Option, ...]:
        return (*self.options.values(), *self.read_beside)


LOSSES: dict[str, Loss] = {}


def declared(name: str, **attributes: Any) -> Callable[[Callable], Callable]:
    """Decorator: the function is the formula of the loss `name`. `attributes`: see `Loss`."""

    def declare(formula: Callable) -> Callable:
        LOSSES[name] = Loss(name=name, formula=formula, **attributes)
        return formula

    return declare
