"""The lowest version of each dependency that pyproject.toml allows, as pip's constraints.

python tests/versions/lowest.py torch > lowest.txt     # of all but torch, whose builds differ by index

A range without a lower bound is left out.
"""

import re
import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def lowest(path: Path = PROJECT, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    """{name: lowest version} of the dependencies and of all extras."""
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    names = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    found = (re.match(r"([\w.-]+)(?:\[[^\]]*\])?>=([\w.]+)", one) for one in names)
    return {one[1]: one[2] for one in found if one and one[1] not in leave_out}


if __name__ == "__main__":
    for name, version in lowest(leave_out=tuple(sys.argv[1:])).items():
        print(f"{name}=={version}")
