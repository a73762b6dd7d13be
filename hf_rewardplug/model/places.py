"""Where a model's files are: in a folder, or on the hub.

In: what somebody calls a model. Out: the path of a file of it; or an error that says what stands there instead.
"""

import re
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, cached_file


def find_file(name: str, file: str, hub: dict) -> Path | None:
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
    try:
        found = cached_file(name, file, **quiet, **hub)
    except OSError:  # no such repository: `check_place` says so
        return None
    return None if found is None else Path(found)


def check_place(name: str, hub: dict) -> None:
    """There is a model or an adapter called `name`.

    Raises:
        ValueError: there is none; of a run's folder with the newest of its checkpoints.
    """
    if any(find_file(name, file, hub) for file in (CONFIG_NAME, ADAPTER_CONFIG_NAME)):
        return
    if Path(name).is_dir():
        newest = newest_checkpoint(Path(name))
        if newest is not None:
            raise ValueError(f"'{name}' holds checkpoints and no model of its own. The newest is '{newest}'; give it.")
        raise ValueError(
            f"'{name}' has neither a {CONFIG_NAME} nor an {ADAPTER_CONFIG_NAME}; expected a model's folder."
        )
    try:
        cached_file(name, CONFIG_NAME, **hub)
    except OSError as error:
        words = str(error).strip().splitlines()[0]
        raise ValueError(
            f"There is no folder '{name}' here (in '{Path.cwd()}'). Nor does the hub give a model of that name: {words}"
        ) from error


def newest_checkpoint(folder: Path) -> Path | None:
    """The `checkpoint-<step>` of the last step in `folder`."""
    return max((path for path in folder.iterdir() if step_of(path) is not None), key=step_of, default=None)


def step_of(folder: Path) -> int | None:
    """The step of a checkpoint's folder, by its name."""
    found = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", folder.name)
    return int(found[1]) if found else None
