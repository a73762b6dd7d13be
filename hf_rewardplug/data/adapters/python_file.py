"""An adapter that stands in a Python file of the user's: "my_format.py:my_format".

In: the file's path and a name in it. Out: the file as a module, in which `registry.py` looks for the name: a function
(raw row -> canonical row or rows), or what it was registered as. The file is run; it may import what stands beside it.
"""

import importlib.util
import re
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from ..fingerprint import file_state

_PLACE = re.compile(r"(?P<path>.+\.py):(?P<name>[^/\\]+)")


def is_place(name: object) -> bool:
    """Whether it names a file and what is in it.

    >>> is_place("formats/mine.py:votes"), is_place("bradley_terry.llama3.icr"), is_place("mine.py")
    (True, False, False)
    """
    return isinstance(name, str) and _PLACE.fullmatch(name) is not None


def module_of(place: str) -> tuple[ModuleType, str]:
    """The file of `place` as a module, and the name in it.

    Raises:
        ValueError: there is no such file, or it cannot be run.
    """
    parts = _PLACE.fullmatch(place)
    path = Path(parts["path"]).expanduser()
    if not path.is_file():
        raise ValueError(f"adapter '{place}': there is no file '{path}'. Give its path from here, or a whole one.")
    return _run(path.resolve(), file_state(path)), parts["name"]


def functions_of(module: ModuleType) -> list[str]:
    """The names of what a file itself defines."""
    return [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]


@lru_cache(maxsize=64)
def _run(path: Path, state: tuple) -> ModuleType:
    """The module, run once as long as its file does not change.

    It does not stay in `sys.modules`, so that `datasets` takes its functions for what they are: a changed adapter is
    another one to its cache, and the processes of `map` need not import it.
    """
    name = f"rewardplug_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it while they are made
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's code can fail in any way
        line = next((f", line {where.tb_lineno}" for where in _traceback(error) if _is_of(where, path)), "")
        if isinstance(error, SyntaxError) and error.lineno:
            line = f", line {error.lineno}"
        raise ValueError(f"'{path}'{line} cannot be run: {type(error).__name__}: {error}") from error
    finally:
        sys.modules.pop(name, None)
        sys.path.remove(str(path.parent))
    return module


def _traceback(error: BaseException) -> list:
    """The innermost frame first."""
    frames, place = [], error.__traceback__
    while place is not None:
        frames.insert(0, place)
        place = place.tb_next
    return frames


def _is_of(frame: object, path: Path) -> bool:
    return frame.tb_frame.f_code.co_filename == str(path)
