"""Things that are found by their names: formats of data, benchmarks, and what installed packages add to them.

In: a name and what it stands for, at import. Out: the thing, or an error that begins with the nearest name. There is
one policy: a name that is taken is an error, unless the same function is defined again (a notebook cell that runs
twice) or the caller overwrites it; a package that is broken stops nobody, and is named where its name is asked for.
"""

from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from operator import attrgetter
from typing import Any, Generic, TypeVar

from .checks import nearest

Thing = TypeVar("Thing")


class Registry(Mapping[str, Thing], Generic[Thing]):
    """{name: thing} in the order of registration.

    Args:
        what: what errors call a thing: "adapter".
        function: the attribute of a thing with the function that it was made of.
        remedy: the end of the error about a name that nobody knows.
        group: entry points of installed packages, which are loaded at the first look-up, once; None for none.
        register: name and function of an entry point -> registered.

    Attributes:
        things: those that are registered. broken: name of an entry point -> why it cannot be loaded.
    """

    def __init__(
        self,
        what: str,
        *,
        function: str,
        remedy: str,
        group: str | None = None,
        register: Callable[[str, Callable], Any] | None = None,
    ):
        self.what, self.remedy = what, remedy
        self.function_of = attrgetter(function)
        self.group, self.register = group, register
        self.things: dict[str, Thing] = {}
        self.broken: dict[str, str] = {}
        self.loaded = group is None

    def __getitem__(self, name: str) -> Thing:
        self._load()
        return self.things[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self.things)

    def __len__(self) -> int:
        self._load()
        return len(self.things)

    def add(self, name: str, thing: Thing, *, overwrite: bool = False) -> None:
        """Raises a `ValueError` where another function has the name, unless it is to be overwritten."""
        function = self.function_of(thing)
        if name in self.things and not overwrite:
            owner = self.function_of(self.things[name])
            if not _is_same(owner, function):
                raise ValueError(
                    f"{self.what} '{name}' is taken by {_origin(owner)}; {_origin(function)} cannot have it. "
                    "Choose another name, or pass overwrite=True"
                )
        self.things.pop(name, None)  # the last one registered comes last
        self.things[name] = thing

    def find(self, name: str) -> Thing:
        """
        Raises:
            ImportError: the package that brings the thing is broken. ValueError: nobody knows the name.
        """
        if name in self:
            return self.things[name]
        if name in self.broken:
            raise ImportError(self.broken[name])
        first = nearest(str(name).lower(), self.things)
        names = ", ".join([first, *(other for other in sorted(self.things) if other != first)])
        names = "; ".join([names, *self.broken.values()])  # a broken package may bring the name by decorator
        raise ValueError(f"unknown {self.what} '{name}'. Known, the nearest first: {names}. {self.remedy}")

    def _load(self) -> None:
        if self.loaded:
            return
        for entry_point in metadata.entry_points(group=self.group):
            try:
                function = entry_point.load()  # its module may register by decorator
                if not callable(function):
                    raise TypeError(f"it is {type(function).__name__}, not a function")
                if all(self.function_of(thing) is not function for thing in self.things.values()):
                    self.register(entry_point.name, function)
            except (Exception, SystemExit) as error:  # a third party's code can fail in any way
                self.broken[entry_point.name] = (
                    f"the {self.what} entry point '{entry_point.name}' ({entry_point.value}) cannot be loaded: "
                    f"{type(error).__name__}: {error}. Repair or uninstall the package that brings it"
                )
        self.loaded = True


def _is_same(one: Callable, other: Callable) -> bool:
    """Whether it is one function, or one that was defined again in the same place."""
    return one is other or (_place(one) == _place(other) and None not in _place(one) and "<" not in _place(one)[1])


def _place(function: Callable) -> tuple[str | None, str | None]:
    return getattr(function, "__module__", None), getattr(function, "__qualname__", None)


def _origin(function: Callable) -> str:
    module, name = _place(function)
    return f"{module or '?'}.{name or repr(function)}"
