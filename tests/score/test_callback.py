"""Benchmarks while a model trains, through transformers' own callback handler and a scorer without a model, and in a
whole run with a tracker."""

import sys
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from rows import quick, text_pairs
from transformers import (
    AutoTokenizer,
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import CallbackHandler
from trl import RewardConfig as PlainConfig
from trl import RewardTrainer as PlainTrainer

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer
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


def test_figures_are_printed(trainer, capsys):
    evaluated(trainer(BenchmarkCallback({"preference": ROWS, "mine": ROWS[:1]})))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["preference,", "step", "7"] and ["mine,", "step", "7"] in lines
    assert ["accuracy", "0.5000"] in lines and ["accuracy/chosen", "longer", "1.0000"] in lines and ["n", "2"] in lines
    assert not any(line[0].startswith("n/") for line in lines)


def test_other_processes_print_nothing(trainer, capsys):
    trainer = trainer(BenchmarkCallback({"preference": ROWS}))
    trainer.state.is_world_process_zero = False
    evaluated(trainer)
    assert capsys.readouterr().out == ""


# ---- whole runs ------------------------------------------------------------------------------------------------------

PAIRS = [
    {"prompt": "Once", "chosen": " upon a time", "rejected": " in"},
    {"prompt": "A", "chosen": "b", "rejected": "c"},
]


class Tracker(TrainerCallback):
    """What W&B, Trackio and TensorBoard get: the logs of `on_log`, on the first process."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append({"at": state.global_step, **logs})

    def with_figure(self, name):
        return [log for log in self.logs if name in log]


def run(assets, folder, callbacks, *, classes=(RewardTrainer, RewardConfig), rows=None, added=(), **options):
    trainer_class, config_class = classes
    rows = Dataset.from_list(rows or text_pairs(6))
    trainer = trainer_class(
        str(assets / "stories260K"),
        config_class(**quick(folder, **options)),
        train_dataset=rows,
        eval_dataset={"one": rows, "two": rows} if options.get("do_eval") else rows,
        processing_class=AutoTokenizer.from_pretrained(assets / "stories260K"),
        callbacks=callbacks,
    )
    for callback in added:
        trainer.add_callback(callback)
    return trainer


@pytest.mark.parametrize("disable_tqdm", [True, False])
@pytest.mark.parametrize("place", ["constructor", "added"])
def test_trackers_and_the_best_model_get_the_figures(assets, tmp_path, capsys, place, disable_tqdm):
    """The figures of each evaluation once, as numbers, at its step; the best model is chosen by one of them."""
    tracker, callback = Tracker(), BenchmarkCallback({"mine": PAIRS})
    given = {"callbacks": [tracker, callback]} if place == "constructor" else {"callbacks": None}
    trainer = run(
        assets,
        tmp_path,
        **given,
        added=() if place == "constructor" else (tracker, callback),
        disable_tqdm=disable_tqdm,
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="mine_margin",
        greater_is_better=True,
    )
    trainer.train()
    logs = tracker.with_figure("eval_mine_accuracy")
    assert [log["at"] for log in logs] == [1, 2] and all("eval_loss" not in log for log in logs)
    assert all(isinstance(value, int | float) for log in logs for value in log.values())
    history = [log for log in trainer.state.log_history if "eval_mine_accuracy" in log]
    assert [(log["step"], log["eval_mine_margin"]) for log in history] == [
        (log["at"], log["eval_mine_margin"]) for log in logs
    ]
    assert trainer.state.best_metric == max(log["eval_mine_margin"] for log in logs)
    shown = capsys.readouterr().out
    assert shown.count("mine, step ") == 2 and f"{logs[0]['eval_mine_margin']:.4f}" in shown
    metrics = trainer.evaluate()  # of the best model
    assert metrics["eval_mine_margin"] == pytest.approx(trainer.state.best_metric, abs=1e-6)
    assert len(tracker.with_figure("eval_mine_accuracy")) == 3


def test_two_eval_sets_have_one_entry_a_step(assets, tmp_path):
    tracker = Tracker()
    trainer = run(
        assets,
        tmp_path,
        [tracker, BenchmarkCallback({"mine": PAIRS})],
        do_eval=True,
        max_steps=1,
        eval_strategy="steps",
        eval_steps=1,
    )
    trainer.train()
    assert len(tracker.with_figure("eval_mine_accuracy")) == 1
    assert len([log for log in trainer.state.log_history if "eval_mine_accuracy" in log]) == 1


def test_early_stopping_by_a_benchmark(assets, tmp_path):
    """A margin that has to rise by 1,000 does not: training ends at the second evaluation."""
    stopping = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=1000.0)
    trainer = run(
        assets,
        tmp_path,
        [BenchmarkCallback({"mine": PAIRS}), stopping],
        max_steps=5,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_mine_margin",
        greater_is_better=True,
    )
    trainer.train()
    assert trainer.state.global_step == 2


def test_a_process_reward_model(assets, tmp_path):
    tracker = Tracker()
    steps = [{"problem": "p", "steps": ["a", "b"], "label": label} for label in (-1, 1)]
    rows = [{"prompt": "p", "completions": ["a", "b"], "labels": [True, False]}] * 2
    callbacks = [tracker, BenchmarkCallback({"process_bench": steps})]
    trainer = run(assets, tmp_path, callbacks, classes=(PRMTrainer, PRMConfig), rows=rows, max_steps=1)
    trainer.train()
    metrics = trainer.evaluate()
    (log,) = tracker.with_figure("eval_process_bench_f1")
    assert log["eval_process_bench_f1"] == metrics["eval_process_bench_f1"]


@pytest.mark.parametrize("told", [True, False])
def test_a_trainer_of_trl(assets, tmp_path, told, monkeypatch):
    """It gives a callback no way to its log, so that it has to be given; metrics and history have them anyway."""
    monkeypatch.setattr(Fake, "built", [])
    monkeypatch.setitem(sys.modules, "hf_rewardplug.score.scorer", SimpleNamespace(RewardScorer=Fake))
    tracker = Tracker()
    trainer = run(assets, tmp_path, [tracker], classes=(PlainTrainer, PlainConfig))
    trainer.add_callback(BenchmarkCallback({"mine": PAIRS}, trainer=trainer if told else None))
    metrics = trainer.evaluate()
    assert metrics["eval_mine_accuracy"] == 0.5  # Fake likes what is longer; "b" and "c" are as long
    assert len(tracker.with_figure("eval_mine_accuracy")) == told
    assert len([log for log in trainer.state.log_history if "eval_mine_accuracy" in log]) == 1
