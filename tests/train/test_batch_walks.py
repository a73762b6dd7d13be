"""What walks a batch on its way to the model finds a handful of objects in it, however many spans its tree has.

accelerate, transformers' Trainer, torch's pin_memory, DDP and FSDP look at everything in a batch at every step. Their
Python calls are counted: a batch of many spans must cost as many as a batch of one.
"""

import pickle
import pickletools
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import send_to_device
from torch.distributed.utils import _to_kwargs
from torch.nn.parallel.scatter_gather import scatter_kwargs
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory
from transformers import Trainer

from hf_rewardplug.data.collator import PreferenceCollator
from hf_rewardplug.data.spans import Spans
from hf_rewardplug.model.layout import TreeLayout, tree_index

CPU = torch.device("cpu")


def pairs(count: int) -> list[dict]:
    """They share a first token, so that every sequence is a branch."""
    return [{"chosen_ids": [1, 2 + 2 * n, 3], "rejected_ids": [1, 3 + 2 * n, 4]} for n in range(count)]


def batch_of(count: int) -> dict:
    return PreferenceCollator(pad_token_id=0, prefix_sharing=True, tree_index=tree_index)(pairs(count))


def prepared(batch: dict) -> dict:
    trainer = Trainer.__new__(Trainer)
    trainer.args, trainer.is_deepspeed_enabled = SimpleNamespace(device=CPU), False
    return trainer._prepare_input(batch)


def scattered(batch: dict):
    """What `nn.DataParallel`'s modules do; its own operation cuts CUDA tensors alone, so there are none."""
    without_tensors = {key: value for key, value in batch["prefix_tree"].items() if key != "index"}
    return scatter_kwargs((), {"prefix_tree": without_tensors}, [0])


WALKERS = {
    "accelerate": lambda batch: send_to_device(batch, CPU),
    "Trainer": prepared,
    "pin_memory": lambda batch: pin_memory(batch, "cpu"),
    "DDP": lambda batch: _to_kwargs((), batch, CPU, False),
    "DataParallel": scattered,
    "FSDP2": lambda batch: tree_map(lambda leaf: leaf, batch),
}


def calls(walk, batch: dict) -> int:
    """Python functions and generators that `walk` enters."""
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        walk(batch)
    finally:
        sys.setprofile(None)
    return count


@pytest.fixture
def nothing_to_pin(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *args: tensor)


@pytest.mark.parametrize("walker", WALKERS)
def test_no_span_is_visited(walker, nothing_to_pin):
    few, many, walk = batch_of(1), batch_of(100), WALKERS[walker]
    assert len(few["prefix_tree"]["spans"]) == 2 + 1 and len(many["prefix_tree"]["spans"]) == 200 + 1
    walk(few)  # imports
    assert calls(walk, many) == calls(walk, few)
    many["prefix_tree"]["spans"] = list(many["prefix_tree"]["spans"])
    assert calls(walk, many) > calls(walk, few) + 200, "the walker looks into lists"


@pytest.mark.parametrize("walker", ["accelerate", "Trainer", "pin_memory", "DDP"])
def test_what_arrives_is_what_was_sent(walker, nothing_to_pin):
    """With None in the index too, of a batch that shares nothing."""
    rows = [{"chosen_ids": [1, 2], "rejected_ids": [3]}]
    batch = PreferenceCollator(pad_token_id=0, prefix_sharing=True, tree_index=tree_index)(rows)
    arrived = WALKERS[walker](batch)
    tree = (arrived[1][0] if walker == "DDP" else arrived)["prefix_tree"]
    assert tree["spans"] == [(0, 2, 0, 2), (2, 3, 2, 3)]
    assert tree["index"]["key_index"] is None and tree["index"]["cu_seq_q"].tolist() == [0, 2, 3]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_loader_gives_the_spans_of_the_collator(workers):
    collator = PreferenceCollator(pad_token_id=0, prefix_sharing=True)
    rows = pairs(6)
    loader = DataLoader(rows, batch_size=3, collate_fn=collator, num_workers=workers)
    expected = [list(collator(rows[start : start + 3])["prefix_tree"]["spans"]) for start in (0, 3)]
    assert [batch["prefix_tree"]["spans"] for batch in loader] == expected


def test_spans_compare_and_repeat_like_a_list():
    numbers = [(0, 4, 0, 4), (4, 6, 4, 6), (4, 6, 0, 2)]
    spans = Spans(numbers)
    assert list(spans) == list(spans) == numbers and len(spans) == 3 and all(type(n) is int for n in [*spans][1])
    assert spans == numbers and numbers == spans and spans == Spans(numbers)
    assert spans != numbers[:2] and spans != Spans(numbers[1:]) and spans != 3 and not Spans([])
    assert repr(spans) == "Spans([(0, 4, 0, 4), (4, 6, 4, 6), (4, 6, 0, 2)])"
    assert pickle.loads(pickle.dumps(spans)) == numbers


def test_spans_are_pickled_in_one_piece():
    """Not number by number: the process that trains unpickles what a worker sends."""
    pickled = [pickle.dumps(Spans([(n, n + 1, n, n + 1) for n in range(count)])) for count in (2, 1000)]
    operations = [[opcode.name for opcode, *_ in pickletools.genops(data)] for data in pickled]
    assert len(operations[0]) == len(operations[1])


def test_a_layout_takes_them():
    spans = [(0, 4, 0, 4), (4, 6, 4, 6), (4, 6, 0, 2)]
    positions = torch.tensor([0, 1, 2, 3, 2, 3])
    masks = [TreeLayout(given, positions, 4).mask_TT(None) for given in (spans, Spans(spans))]
    assert torch.equal(*masks)
