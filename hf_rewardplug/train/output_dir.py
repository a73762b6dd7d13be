"""The folder of a run: one run at a time, and nothing of an earlier one beside what this one saves.

In: a trainer with its `output_dir`. Out: a lock while it trains, and what an earlier run left goes when this one saves:

    the other kind of model    a full model's weights beside an adapter load as a third model
    files of its tokenizer     a chat template that this one does not have
    its figures                the report would show them as this run's
"""

import logging
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from accelerate.utils import is_peft_model

from ..data.fingerprint import file_state
from ..locks import HAS_LOCKS, is_still_at, lock_file
from ..model.loading import ADAPTER_MODEL_CONFIG
from .ranks import agreed

logger = logging.getLogger(__name__)

_MODEL = (
    *("config.json", "generation_config.json", "model*.safetensors*", "pytorch_model*.bin*"),
    *("adapter_config.json", "adapter_model*.safetensors", "adapter_model*.bin", ADAPTER_MODEL_CONFIG),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template.*", "additional_chat_templates/*.jinja"),
)
_FIGURES = ("trainer_state.json", "*_results.json", "eval_items.jsonl", "training.png", "benchmark_*.json")
_LOCK = ".rewardplug.lock"
_HELD: dict[Path, IO] = {}


class OutputTrainer:
    """Mixin in front of a `CheckpointTrainer`."""

    _figures_before: dict[Path, tuple] = {}
    """files of figures that were there when training began, and their states"""

    def train(self, resume_from_checkpoint: str | bool | None = None, trial=None, ignore_keys_for_eval=None):
        """transformers' lets two runs write into one folder, and keeps the figures of the one before."""
        if self._is_base(Path(self.args.output_dir)):
            raise ValueError(
                f"output_dir='{self.args.output_dir}' is the folder of the base model, which the adapter needs and "
                "must not lie beside. Give another output_dir."
            )
        with self.alone():
            self.evaluated.clear()
            self._figures_before = _states(Path(self.args.output_dir), _FIGURES)
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """`output_dir` belongs to this process meanwhile. The lock is the system's: it ends with the process.

        Raises:
            ValueError: another run is training there.
        """
        taken = agreed(self.args, _take, Path(self.args.output_dir).resolve())
        try:
            yield
        finally:
            if taken and self.args.process_index == 0:
                _give_back(Path(self.args.output_dir).resolve())

    def save_state(self) -> None:
        """transformers' leaves the figures of an earlier run beside."""
        super().save_state()
        self._remove_figures()

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        """transformers' leaves the files of another model beside; within it, so that they are not pushed to the hub."""
        folder, own = (Path(name).resolve() for name in (output_dir or self.args.output_dir, self.args.output_dir))
        cleans = self.args.should_save and (folder == own or own in folder.parents) and not self._is_base(folder)
        before = _states(folder, _MODEL) if cleans else {}
        super()._save(output_dir, state_dict)
        _remove(before, "another model")
        if folder == own:
            self._remove_figures()

    def _remove_figures(self) -> None:
        if self.args.should_save:
            _remove(self._figures_before, "an earlier run")
            self._figures_before = {}

    def _is_base(self, folder: Path) -> bool:
        """Whether the adapter's base model was loaded from `folder`."""
        if self.model is None or not is_peft_model(self.model):  # None: a search has freed the last trial's
            return False
        base = self.model.active_peft_config.base_model_name_or_path
        return bool(base) and Path(base).resolve() == folder.resolve()


def _take(folder: Path) -> bool:
    """Whether the lock had to be taken: this process may hold it already."""
    if not HAS_LOCKS or folder in _HELD:
        return False
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = open(folder / _LOCK, "a+", encoding="utf-8")
            lock_file(file)
        except BlockingIOError as error:
            file.seek(0)
            raise ValueError(
                f"output_dir='{folder}' is in use: {file.read() or 'another process'} is training there. Give this run "
                "another output_dir, or wait until the other one ends."
            ) from error
        except OSError as error:
            logger.warning("output_dir='%s' cannot be locked (%s): nothing keeps other runs out of it.", folder, error)
            return False
        if is_still_at(folder / _LOCK, file):
            break  # else its last holder has just removed it
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    _HELD[folder] = file
    return True


def _give_back(folder: Path) -> None:
    (folder / _LOCK).unlink(missing_ok=True)
    _HELD.pop(folder).close()


def _states(folder: Path, patterns: Iterable[str]) -> dict[Path, tuple]:
    return {path: file_state(path) for pattern in patterns for path in folder.glob(pattern) if path.is_file()}


def _remove(before: dict[Path, tuple], owner: str) -> None:
    """The files that nobody has written since."""
    left = [path for path, state in before.items() if path.is_file() and file_state(path) == state]
    for path in left:
        path.unlink()
    if left:
        names = ", ".join(sorted(path.name for path in left))
        logger.warning("Removed from '%s' what %s has left there: %s.", left[0].parent, owner, names)
