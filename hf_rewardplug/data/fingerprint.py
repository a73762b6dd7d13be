"""How a cache learns that it is out of date: a file has another state, or the code that made it has another text.

In: a file, or functions. Out: values that change with them. `datasets` knows a function of an importable module by its
name alone, and a file by its modification time, which copies and archives keep.
"""

import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache, partial
from hashlib import blake2b
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import hf_rewardplug

_OURS = hf_rewardplug.__name__
_STANDARD = sysconfig.get_paths()["stdlib"]


def file_state(path: str | Path) -> tuple[str, int, int, int]:
    """The whole path, the size in bytes, and when the file was written and last changed in any way, in ns: nobody can
    set the last one back.
    """
    state = Path(path).stat()
    return str(Path(path).resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns


def code_state(*functions: Callable) -> str:
    """A hash of this package's version and its data room, and of the modules in which `functions` stand and which they
    import: all of the user's own, of an installed package those of that package.
    """
    texts: dict[str, bytes] = {}
    for function in functions:
        _add_modules(_namespace(function), texts)
    content = (hf_rewardplug.__version__, _own_text(), sorted(texts.items()))
    return blake2b(repr(content).encode(), digest_size=16).hexdigest()


@cache
def _own_text() -> str:
    hashed = blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()


def _namespace(function: Any) -> dict[str, Any]:
    """The names that a function sees; of an object those of its class's module."""
    function = function.func if isinstance(function, partial) else inspect.unwrap(function)
    function = getattr(function, "__func__", function)
    if isinstance(function, FunctionType):
        return function.__globals__
    name = getattr(function, "__module__", None) or type(function).__module__
    return vars(sys.modules[name]) if name in sys.modules else {}


def _add_modules(namespace: dict[str, Any], texts: dict[str, bytes]) -> None:
    """{file: its text}. A script or a notebook is left out: `datasets` takes its functions for what they are."""
    name, file = namespace.get("__name__", ""), namespace.get("__file__")
    package = name.partition(".")[0]
    if package == _OURS or file in texts:
        return
    if file is not None and name != "__main__":
        if not Path(file).is_file():
            return
        texts[file] = Path(file).read_bytes()
    for module in _imported(list(namespace.values())):
        path = getattr(module, "__file__", None)
        if path is not None and (module.__name__.partition(".")[0] == package or not _is_installed(path)):
            if module.__name__ != "__main__":
                _add_modules(vars(module), texts)


def _imported(values: list[Any]) -> Iterator[ModuleType]:
    """The modules among values, and those that functions and classes among them come from."""
    for value in values:
        module = value if isinstance(value, ModuleType) else sys.modules.get(getattr(value, "__module__", None) or "")
        if isinstance(module, ModuleType):
            yield module


def _is_installed(file: str) -> bool:
    return file.startswith(_STANDARD) or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)
