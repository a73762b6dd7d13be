"""Trainers on the tiny real model, and one pair of gloo ranks for the tests that need two."""

import json
from pathlib import Path

import pytest
import torch
import two_ranks as two_ranks_runs
from datasets import Dataset
from ranks import run_forked
from rows import solutions
from small import quick, text_pairs
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

import hf_rewardplug


def as_dataset(rows):
    return Dataset.from_list(rows) if isinstance(rows, list) else rows


@pytest.fixture(scope="session")
def model_path(assets) -> str:
    return str(assets / "stories260K")


@pytest.fixture
def tokenizer(model_path):
    return AutoTokenizer.from_pretrained(model_path)


@pytest.fixture
def orm(model_path, tmp_path):
    """`orm(rows, held_out, of=trl, ...)`: the `RewardTrainer` of a package; options go to its config."""

    def make(rows, held_out=None, *, of=hf_rewardplug, model=model_path, folder=tmp_path, **arguments):
        given = {
            key: arguments.pop(key) for key in ("processing_class", "peft_config", "compute_metrics") & arguments.keys()
        }
        args = of.RewardConfig(**quick(folder, **arguments))
        return of.RewardTrainer(model, args, train_dataset=as_dataset(rows), eval_dataset=as_dataset(held_out), **given)

    return make


@pytest.fixture
def prm(model_path, tmp_path):
    """`prm(rows, held_out, ...)`: a `PRMTrainer`; options go to its config."""

    def make(rows, held_out=None, *, model=model_path, **arguments):
        given = {key: arguments.pop(key) for key in ("processing_class", "compute_metrics") & arguments.keys()}
        args = hf_rewardplug.PRMConfig(**quick(tmp_path, **arguments))
        train, held_out = as_dataset(rows), as_dataset(held_out)
        return hf_rewardplug.PRMTrainer(model, args, train_dataset=train, eval_dataset=held_out, **given)

    return make


@pytest.fixture(scope="session")
def two_ranks(model_path, tmp_path_factory) -> dict:
    """What two gloo ranks found, "mended" and "undone", and the models and rows for the truth."""
    folder, models = tmp_path_factory.mktemp("two_ranks"), {}
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    for kind, auto_class in (("orm", AutoModelForSequenceClassification), ("prm", AutoModelForTokenClassification)):
        models[kind] = auto_class.from_pretrained(model_path, num_labels=1 if kind == "orm" else 2).eval()
        for saved in (models[kind], tokenizer):
            saved.save_pretrained(folder / kind)
    data = {"pairs": text_pairs(7), "steps": solutions(8), "held_out": solutions(7, 1)}
    (folder / "rows.json").write_text(json.dumps(data))
    found = {name: ranks[0] for name, ranks in run_two_ranks("figures", folder).items()}
    assert [found[name]["ranks"] for name in ("mended", "undone")] == [2, 2]
    return {**found, **models, **data, "tokenizer": tokenizer}


@pytest.fixture
def zero_3_ranks(tmp_path) -> dict:
    """[ranks, index] on each of two ranks that `torchrun` started with a ZeRO-3 config, "mended" and "undone"."""
    pytest.importorskip("deepspeed")
    if torch.cuda.is_available():
        pytest.skip("DeepSpeed would take the GPU")
    return run_two_ranks("zero_3", tmp_path)


def run_two_ranks(what: str, folder: Path) -> dict:
    names = {True: "mended", False: "undone"}
    for mended, name in names.items():
        run_forked(two_ranks_runs.run, what, folder, mended, ranks=2, log=folder / f"{name}.log")
    return {
        name: [json.loads((folder / f"{name}-{index}.json").read_text()) for index in range(2)]
        for name in names.values()
    }
