"""Where a model's files are: in a folder, or on the hub.

In: the name of a model, a folder or a hub id. Out: the path of one of its files, its config or its tokenizer; or an
error that says what the place holds instead.
"""

import re
from pathlib import Path
from typing import Any

from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, cached_file

HUB = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
"""arguments of `from_pretrained` that say where a name is to be found"""


def find_file(name: str, file: str, hub: dict) -> Path | None:
    """Where `file` of the model is, or None; a file of the hub is downloaded."""
    quiet = {
        "_raise_exceptions_for_gated_repo": False,
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    try:
        path = cached_file(name, file, **quiet, **hub)
    except OSError:  # no such repository: `check_place` says so
        return None
    return None if path is None else Path(path)


def is_adapter(name: str, hub: dict) -> bool:
    """Whether it is an adapter without a model beside it."""
    return bool(find_file(name, ADAPTER_CONFIG_NAME, hub)) and not find_file(name, CONFIG_NAME, hub)


def check_place(name: str, hub: dict) -> None:
    """There is a model or an adapter called `name`.

    Raises:
        ValueError: there is none; of a run's folder with the newest of its checkpoints.
    """
    if any(find_file(name, file, hub) for file in (CONFIG_NAME, ADAPTER_CONFIG_NAME)):
        return
    if Path(name).is_dir():
        newest = get_last_checkpoint(name)
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


def read(auto_class: Any, name: str, **options: Any) -> Any:
    """`auto_class.from_pretrained(name)`: a config or tokenizer, without code of the model's unless `options` ask.

    By itself transformers asks at the terminal whether to run code, and a strange file makes it raise anything. For a
    folder nothing is asked of the network.

    Raises:
        ValueError: it cannot be read.
    """
    # PEFT's configs take no such argument.
    code = {"trust_remote_code": False} if auto_class.__name__.startswith("Auto") else {}
    here = {"local_files_only": True} if Path(name).is_dir() else {}
    try:
        return auto_class.from_pretrained(name, **{**code, **here, **options})
    except Exception as error:  # tokenizers raise plain `Exception`s, and a strange config has every kind of error
        why = " ".join(str(error).split())[:600] or type(error).__name__
        part = "tokenizer" if "Tokenizer" in auto_class.__name__ else "config"
        raise ValueError(f"The {part} of '{name}' cannot be read: {why}. Copy it again, or save it there.") from error


def refuse_pickled_adapter(name: str, hub: dict) -> None:
    """The adapter `name` has its weights in safetensors.

    Raises:
        ValueError: it has its weights as a pickle, or has none.
    """
    if find_file(name, SAFETENSORS_WEIGHTS_NAME, hub) is not None:
        return
    if find_file(name, WEIGHTS_NAME, hub) is not None:
        raise ValueError(
            f"The adapter '{name}' holds its weights as a pickle ({WEIGHTS_NAME}), which can run code when it is read. "
            "Convert it to safetensors where you trust it: `PeftModel.from_pretrained` and `save_pretrained`."
        )
    raise ValueError(f"The adapter '{name}' has no {SAFETENSORS_WEIGHTS_NAME}. Copy it again, or save it again.")


def step_of(folder: Path) -> int | None:
    """The step of a checkpoint's folder, by its name."""
    match = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", folder.name)
    return int(match[1]) if match else None
