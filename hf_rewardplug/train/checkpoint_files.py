"""The files of a checkpoint: whether a folder is whole, and which is the newest whole one of a run.

In: a checkpoint's folder, or `output_dir` with several. Out: the folder to resume from, or why a folder is none.

transformers writes `trainer_state.json` last, and resumes from the newest folder whether it is there or not. Here that
file also lists all others with their sizes and checksums, and is written when they are on the disk, so that a folder
cut short by a kill, a copy or a power cut gives itself away.
"""

import json
import logging
import math
import os
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import ADAPTER_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from ..model.places import step_of
from ..model.weights import why_not_readable

logger = logging.getLogger(__name__)

RECORD = "rewardplug"
"""key of `TrainerState.stateful_callbacks` with {"files": {name: bytes}, "checksums": {name: CRC-32}, "num_tokens",
"num_unique_tokens", "run": `run_settings`}"""

AUTO = "auto"
"""`resume_from_checkpoint` of `train`: the newest whole checkpoint, or a new run where there is none"""

_UNLISTED = ("README.md", TRAINER_STATE_NAME, "checkpoint-is-incomplete.txt")  # transformers' mark, which goes again


def file_sizes(folder: Path) -> dict[str, int]:
    """{name: bytes} of all files below `folder`, but for the model card, which people edit."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in _UNLISTED)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def checksums(folder: Path, names: Iterable[str], *, flush: bool = False) -> dict[str, int]:
    """{name: CRC-32} of files in `folder`; with `flush` they are on the disk afterwards."""

    def checksum(name: str) -> int:
        total = 0
        with open(folder / name, "rb") as file:
            while block := file.read(1 << 22):
                total = zlib.crc32(block, total)
            if flush:
                os.fsync(file.fileno())
        return total

    names = list(names)
    with ThreadPoolExecutor(8) as pool:  # zlib computes beside Python
        return dict(zip(names, pool.map(checksum, names), strict=True))


def flush_to_disk(path: Path) -> None:
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    except OSError:  # a system that flushes no folders
        pass


def read_state(folder: Path) -> dict:
    """A checkpoint's `trainer_state.json`, as transformers can load it.

    Raises:
        ValueError: it cannot. OSError: there is none.
    """
    state = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    if not isinstance(state, dict):
        raise ValueError(f"{TRAINER_STATE_NAME} is no object")
    try:
        TrainerState(**state)
    except (TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error
    step, epoch, callbacks = state.get("global_step"), state.get("epoch") or 0.0, state.get("stateful_callbacks") or {}
    record = callbacks.get(RECORD, {}) if isinstance(callbacks, dict) else None
    right = isinstance(step, int) and step_of(folder) in (None, step) and isinstance(state.get("log_history"), list)
    right = right and isinstance(epoch, int | float) and math.isfinite(epoch) and isinstance(record, dict)
    counts = [record.get(name, 0) for name in ("num_tokens", "num_unique_tokens")] if right else []
    if not right or not all(isinstance(count, int) for count in counts):
        raise ValueError("its values are not those of a run")
    if not all(isinstance(record.get(name, {}), dict) for name in ("files", "checksums", "run")):
        raise ValueError("its record is not this package's")
    return state


def read_record(folder: Path) -> dict:
    """What this package wrote into the checkpoint's `trainer_state.json`; {} of somebody else's."""
    return (read_state(folder).get("stateful_callbacks") or {}).get(RECORD, {})


def why_not_whole(folder: Path) -> str | None:
    """Why a run cannot be resumed from `folder`, or None. Somebody else's checkpoint is read as far as it tells."""
    if not folder.is_dir():
        return "there is no such folder"
    try:
        record = read_record(folder)
    except FileNotFoundError:
        return f"{TRAINER_STATE_NAME}, which is written last, is missing"
    except ValueError:
        return f"{TRAINER_STATE_NAME} is cut off or damaged"
    sizes = file_sizes(folder)
    for name, size in record.get("files", {}).items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != size and not _is_json(folder / name):  # which people edit
            return f"{name} has {sizes[name]} of {size} bytes"
    if missing := _missing_state(folder):
        return (
            f"{' and '.join(missing)} {'are' if missing[1:] else 'is'} missing (`save_only_model=True` saves none of "
            "them), so the optimizer, the learning rate or the random numbers would start anew. To train on from its "
            f"weights alone, give model='{folder}'"
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and any(
        (folder / name).is_file() for name in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME, ADAPTER_WEIGHTS_NAME)
    ):
        return "its weights are a pickle, which can run code when it is read; safetensors alone are"
    if reason := next((reason for path in weights if (reason := why_not_readable(path))), None):
        return reason
    saved = record.get("checksums", {})
    now = checksums(folder, (name for name in saved if name in sizes))
    damaged = [name for name in now if now[name] != saved[name] and not _is_json(folder / name)]
    return f"{damaged[0]} has another content than was saved (its checksum says so)" if damaged else None


def _missing_state(folder: Path) -> list[str]:
    """What transformers would not restore, and say nothing: it looks for each file and goes on without."""
    files = {"rng_state": "rng_state.pth"}  # or `rng_state_<rank>.pth`
    if not any(folder.glob("global_step*")):  # DeepSpeed's own folder, with the optimizer and mostly the schedule
        files = {"optimizer": "optimizer.pt", "scheduler": "scheduler.pt", **files}  # FSDP: optimizer.bin, optimizer_0/
    return [name for part, name in files.items() if not any(folder.glob(f"*{part}*"))]


def _is_json(path: Path) -> bool:
    try:
        return path.suffix == ".json" and json.loads(path.read_text(encoding="utf-8")) is not None
    except ValueError:
        return False


def checkpoints_of(output_dir: str) -> list[Path]:
    """Those of a run, the newest first."""
    folders = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    return sorted((path for path in folders if step_of(path) is not None), key=step_of, reverse=True)


def whole_checkpoint(asked: str | bool, output_dir: str) -> tuple[Path | None, dict]:
    """The folder to resume from, and its record: the one `asked` for, or (True) the newest whole one in `output_dir`.
    `AUTO` is content with none, and gets (None, {}).

    Raises:
        ValueError: it is not whole, or there is none.
    """
    if asked is not True and asked != AUTO:
        if reason := why_not_whole(Path(asked)):
            raise ValueError(
                f"resume_from_checkpoint='{asked}' cannot be resumed from: {reason}. Give another checkpoint, or True "
                "for the newest whole one in `output_dir`."
            )
        return Path(asked), read_record(Path(asked))
    folders, reasons = checkpoints_of(output_dir), {}
    for folder in folders:
        reasons[folder.name] = why_not_whole(folder)
        if reasons[folder.name] is None:
            return folder, read_record(folder)
        logger.warning("'%s' is not a whole checkpoint and is passed over: %s.", folder, reasons[folder.name])
    if asked == AUTO:
        return None, {}
    none = "has no checkpoint"
    if reasons:
        newest, reason = next(iter(reasons.items()))
        none = f"has no whole one among its {len(folders)} checkpoints. Of the newest, {newest}, {reason}"
    raise ValueError(
        f"resume_from_checkpoint=True, but output_dir='{output_dir}' {none}. Leave it out to start from the beginning."
    )
