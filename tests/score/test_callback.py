"""Benchmarks while a model trains, through transformers' own callback handler and a scorer without a model."""

import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from hf_rewardplug.score.callback import BenchmarkCallback

ROWS = [
    {"prompt": "p", "chosen": "longer", "rejected": "short"},
    {"prompt": "q", "chosen": "short", "rejected": "longer"},
]


class Fake:
    built = []

    def __init__(self, model, processing_class):
        Fake.built.append((model, processing_class))
        model.eval()

    def score(self, prompts, completions):
        return [[float(len(completion)) for completion in several] for several in completions]


@pytest.fixture
def trainer(monkeypatch, tmp_path):
    """`trainer(callback)`: what a Trainer has around its callbacks."""
    monkeypatch.setattr(Fake, "built", [])
    monkeypatch.setitem(sys.modules, "hf_rewardplug.score.scorer", SimpleNamespace(RewardScorer=Fake))
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout())

    def around(callback):
        handler = CallbackHandler([callback], model, "the tokenizer", None, None)
        arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
        return SimpleNamespace(
            handler=handler, model=model, args=arguments, state=TrainerState(epoch=0.5, global_step=7)
        )

    return around


def evaluated(trainer):
    metrics = {"eval_loss": 0.1}
    trainer.handler.on_evaluate(trainer.args, trainer.state, TrainerControl(), metrics)
    return metrics


def test_figures_go_into_the_metrics_and_the_history(trainer):
    trainer = trainer(BenchmarkCallback({"preference": ROWS, "mine": ROWS[:1]}))
    trainer.model.train()
    trainer.model[1].eval()  # a module that its owner keeps still
    metrics = evaluated(trainer)
    assert metrics["eval_loss"] == 0.1
    assert (metrics["eval_preference_accuracy"], metrics["eval_preference_n"]) == (0.5, 2)
    assert metrics["eval_mine_accuracy"] == 1.0
    assert metrics["eval_preference_accuracy/chosen longer"] == 1.0
    (logged,) = trainer.state.log_history
    assert (logged["eval_mine_accuracy"], logged["step"], logged["epoch"]) == (1.0, 7, 0.5)
    assert Fake.built == [(trainer.model, "the tokenizer")]
    assert [module.training for module in trainer.model.modules()] == [True, True, False]


def test_the_mode_comes_back_after_an_error(trainer, monkeypatch):
    trainer = trainer(BenchmarkCallback({"preference": ROWS}))
    monkeypatch.setattr(Fake, "score", lambda self, prompts, completions: [[float("nan")] * 2] * 2)
    trainer.model.train()
    with pytest.raises(ValueError, match="benchmark 'preference', example 0: the scores are"):
        evaluated(trainer)
    assert all(module.training for module in trainer.model.modules())


def test_within_training_once_a_step(trainer):
    trainer = trainer(BenchmarkCallback({"preference": ROWS}, max_rows=1))
    trainer.handler.on_train_begin(trainer.args, trainer.state, TrainerControl())
    for _ in range(2):  # two eval sets
        assert evaluated(trainer)["eval_preference_n"] == 1
    assert len(Fake.built) == len(trainer.state.log_history) == 1
    trainer.state.global_step = 8
    evaluated(trainer)
    assert len(Fake.built) == 2
    trainer.handler.on_train_end(trainer.args, trainer.state, TrainerControl())
    evaluated(trainer)  # of the best model, perhaps: the same step, other weights
    assert len(Fake.built) == 3


def test_faults_are_told_before_the_first_step(trainer):
    trainer = trainer(BenchmarkCallback({"rewardbensh": None}))
    with pytest.raises(ValueError, match=r"unknown benchmark 'rewardbensh'. Known, the nearest first: rewardbench"):
        trainer.handler.on_train_begin(trainer.args, trainer.state, TrainerControl())
    with pytest.raises(ValueError, match="options for"):
        BenchmarkCallback({"preference": ROWS}, options={"preferences": {}})


def test_options_reach_their_benchmark(trainer):
    rows = [{**ROWS[0], "topic": "x"}]
    trainer = trainer(BenchmarkCallback({"preference": rows}, options={"preference": {"subset": "topic"}}))
    assert evaluated(trainer)["eval_preference_n/x"] == 1
