"""Between two logs a training step must not wait for the device: no tensor's value is read, nothing is copied back.

On the CPU the reads are counted, whoever makes them; on a GPU CUDA itself reports them.
"""

import traceback
from collections import Counter

import pytest
import torch
from datasets import Dataset
from rows import quick, solutions, text_pairs
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer

READS = ("item", "tolist", "cpu", "numpy", "nonzero")
TRAINERS = {"orm": (RewardTrainer, RewardConfig, text_pairs), "prm": (PRMTrainer, PRMConfig, solutions)}


class Reads(TorchDispatchMode, TrainerCallback):
    """Counts what reads tensors from the end of the first step to the end of the last, by the line that does."""

    def __init__(self):
        super().__init__()
        self.found, self.patch = Counter(), None

    def note(self, what: str) -> None:
        stack = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
        caller = next(frame for frame in reversed(stack) if frame.filename != __file__)
        self.found[f"{what}: {'/'.join(caller.filename.split('/')[-2:])}, {caller.name}: {caller.line}"] += 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:  # item, bool, int, float
            self.note("a value")
        return function(*args, **(kwargs or {}))

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.patch = pytest.MonkeyPatch()
            for name in READS:
                self.patch.setattr(torch.Tensor, name, self.counted(name, getattr(torch.Tensor, name)))
            self.__enter__()
        elif state.global_step == state.max_steps:
            self.__exit__(None, None, None)
            self.patch.undo()

    def counted(self, name, plain):
        def read(tensor, *args, **kwargs):
            self.note(name)
            return plain(tensor, *args, **kwargs)

        return read


@pytest.mark.parametrize("sharing", [True, False])
@pytest.mark.parametrize("kind", TRAINERS)
def test_a_step_reads_nothing(kind, sharing, assets, tmp_path):
    trainer_class, config_class, make_rows = TRAINERS[kind]
    reads = Reads()
    options = {"max_steps": 4, "logging_steps": 100, "gradient_accumulation_steps": 2, "prefix_sharing": sharing}
    trainer = trainer_class(
        str(assets / "stories260K"),
        config_class(**quick(tmp_path, **options, dataloader_num_workers=1)),
        train_dataset=Dataset.from_list(make_rows(40)),
        callbacks=[reads],
    )
    trainer.train()
    assert trainer.state.global_step == 4 and reads.patch is not None
    own = {read for read in reads.found if "transformers/masking_utils.py" not in read}
    assert own == set()  # transformers looks into the mask of a padded batch
    assert sharing is False or not reads.found
