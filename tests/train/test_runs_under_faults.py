"""Runs that diverge, are interrupted, damaged or changed: they stop with a word, or go on as if nothing had been."""

import json
import os
import shutil
import signal

import pytest
import torch
from datasets import Dataset
from rows import quick, solutions, text_pairs
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer
from hf_rewardplug.train.best_metric import evaluation_names
from hf_rewardplug.train.checkpoint_files import AUTO, RECORD, whole_checkpoint, why_not_whole


def trainer_of(assets, folder, rows=None, callbacks=None, eval_dataset=None, peft_config=None, **options):
    rows = text_pairs(20) if rows is None else rows
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-4, **options}
    return RewardTrainer(
        str(assets / "stories260K"),
        RewardConfig(**quick(folder, **options)),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=eval_dataset,
        callbacks=callbacks,
        peft_config=peft_config,
    )


def figures_of(trainer) -> set[str]:
    return {name.removeprefix("eval_") for name in trainer.evaluate() if name != "epoch"}


def weights_of(trainer) -> dict:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def equal(one: dict, other: dict) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


# ---- NaN ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logging_steps", [1, 3, 100])
def test_nan_stops_the_run(logging_steps, assets, tmp_path):
    # rows 4 and 5 are the third batch, and their weights add up to more than fp32 holds
    rows = [{**row, "weight": 3e38 if index in (4, 5) else 1.0} for index, row in enumerate(text_pairs(20))]
    options = {"logging_steps": logging_steps, "train_sampling_strategy": "sequential"}
    trainer = trainer_of(assets, tmp_path, rows, **options)
    with pytest.raises(ValueError, match=r"^Step 3: .* rows 4, 5 of the .* checkpoint is '.*checkpoint-2'"):
        trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2"]


def test_nan_is_seen_at_the_end_where_nothing_logs(assets, tmp_path):
    rows = [{**row, "weight": 3e38} for row in text_pairs(4)]
    options = {"logging_strategy": "no", "save_strategy": "no", "max_steps": 2, "logging_nan_inf_filter": True}
    with pytest.raises(ValueError, match=r"^Step 1: .*there is no whole checkpoint"):
        trainer_of(assets, tmp_path, rows, **options).train()


def test_a_gradient_of_nan_names_its_own_step(assets, tmp_path):
    trainer = trainer_of(assets, tmp_path, train_sampling_strategy="sequential", save_strategy="no")

    class Spoil(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 1:
                model.score.weight.register_hook(lambda gradient: gradient * torch.nan)

    trainer.add_callback(Spoil())
    with pytest.raises(ValueError, match=r"^Step 2: .* rows 2, 3 of"):
        trainer.train()


def test_weights_that_are_not_finite_are_not_saved(assets, tmp_path):
    trainer = trainer_of(assets, tmp_path)
    with torch.no_grad():
        trainer.model.score.weight[0, 3] = torch.nan
    with pytest.raises(ValueError, match=r"\(the first is 'score.weight'\) and are not saved"):
        trainer.save_model(str(tmp_path / "out"))
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("value", [1e300, -4e38])
def test_what_overflows_fp32_is_refused_in_its_row(value, assets, tmp_path):
    rows = [{**row, "margin": 1.0} for row in text_pairs(4)]
    rows[2]["margin"] = value
    with pytest.raises(ValueError, match=r"row 2: column 'margin': is beyond 3.403e\+38"):
        trainer_of(assets, tmp_path, rows)


# ---- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_type", ["bradley_terry", "rao_kupper", "plackett_luce", "all_pairs"])
def test_the_names_of_figures_are_those_of_an_evaluation(loss_type, assets, tmp_path):
    rows = Dataset.from_list([{**row, "subset": "a b"} for row in text_pairs(6)])
    sets = {"one": rows, "two": rows.remove_columns("subset")}
    trainer = trainer_of(assets, tmp_path, eval_dataset=sets, loss_type=loss_type)
    figures = figures_of(trainer)
    assert figures <= {*evaluation_names(trainer)}
    assert {"one_loss", "two_accuracy", "one_subset_a b_accuracy"} <= figures


@pytest.mark.parametrize("loss_type", ["cross_entropy", "pqm", "min_form"])
def test_the_names_of_figures_of_steps(loss_type, assets, tmp_path):
    rows = Dataset.from_list(solutions(8))
    args = PRMConfig(**quick(tmp_path, loss_type=loss_type))
    trainer = PRMTrainer(str(assets / "stories260K"), args, train_dataset=rows, eval_dataset=rows)
    assert figures_of(trainer) <= {*evaluation_names(trainer)}


@pytest.mark.parametrize("loss_type", ["mse", "bce"])
def test_the_names_of_figures_of_scores(loss_type, assets, tmp_path):
    rows = [
        {"prompt": "the ", "completion": row["chosen"], "a": i % 2, "b": 1 - i % 2}
        for i, row in enumerate(text_pairs(6))
    ]
    rows = [
        {"prompt": row["prompt"], "completion": row["completion"], "attributes": {"a": row["a"], "b": row["b"]}}
        for row in rows
    ]
    args = RewardConfig(**quick(tmp_path, loss_type=loss_type, attributes=["a", "b"]))
    trainer = RewardTrainer(
        str(assets / "stories260K"), args, train_dataset=Dataset.from_list(rows), eval_dataset=Dataset.from_list(rows)
    )
    figures = figures_of(trainer)
    assert figures <= {*evaluation_names(trainer)} and any(name.startswith("b_") for name in figures)


BEST = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}


def test_an_unknown_best_metric_is_an_error_before_the_first_step(assets, tmp_path):
    rows = Dataset.from_list(text_pairs(6))
    trainer = trainer_of(assets, tmp_path, eval_dataset=rows, metric_for_best_model="acuracy", **BEST)
    with pytest.raises(ValueError, match="is no figure of the evaluation; do you mean 'accuracy'"):
        trainer.train()
    trainer = trainer_of(assets, tmp_path, eval_dataset={"one": rows}, **BEST)  # "loss", as transformers sets it
    with pytest.raises(ValueError, match="do you mean 'one_loss'"):
        trainer.train()
    assert trainer.state.global_step == 0
    trainer = trainer_of(assets, tmp_path, eval_dataset=rows, metric_for_best_model="mine", **BEST)
    trainer.compute_metrics = lambda predictions: {"mine": 1.0}
    assert trainer.train().global_step == 6


@pytest.mark.parametrize("options", [{"max_steps": 0}, {"max_steps": -1, "num_train_epochs": 0}, {"max_steps": -2}])
def test_a_run_of_no_step_is_an_error(options, assets, tmp_path):
    with pytest.raises(ValueError, match=r"(max_steps|num_train_epochs)=-?[0-9.]+; expected"):
        trainer_of(assets, tmp_path, **options).train()


# ---- resuming ----------------------------------------------------------------------------------------------------


class At(TrainerCallback):
    """Does something at the end of a step."""

    def __init__(self, step: int, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


class Killed(BaseException):
    pass


def kill():
    raise Killed


def test_a_checkpoint_of_sigterm_is_resumed_from(assets, tmp_path, monkeypatch):
    monkeypatch.setattr("threading.Timer.start", lambda timer: timer.function())  # transformers waits three seconds
    options = {"enable_jit_checkpoint": True, "save_steps": 100, "gradient_accumulation_steps": 2}
    whole = trainer_of(assets, tmp_path / "whole", **options)
    whole.train()

    class Term(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):  # in the middle of step 4
            if state.global_step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    cut = trainer_of(assets, tmp_path / "cut", callbacks=[Term()], **options)
    cut.train()
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-3"]
    resumed = trainer_of(assets, tmp_path / "cut", **options)
    resumed.train(resume_from_checkpoint=True)
    assert equal(weights_of(resumed), weights_of(whole))
    tokens = [one.state.log_history[-2]["num_tokens"] for one in (resumed, whole)]
    assert tokens[0] == tokens[1]


@pytest.fixture(scope="module")
def run(assets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trainer = trainer_of(assets, folder, max_steps=12, save_steps=6)  # of 10 steps an epoch
    trainer.train()
    return folder, weights_of(trainer)


@pytest.fixture
def output_dir(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    return tmp_path / "run"


def test_a_run_behind_its_last_step_trains_no_further(run, output_dir, assets):
    resumed = trainer_of(assets, output_dir, max_steps=12, save_steps=6)
    assert resumed.train(resume_from_checkpoint=True).global_step == 12
    assert equal(weights_of(resumed), run[1])
    with pytest.raises(ValueError, match=r"trained with 12 steps \(here max_steps=5\)"):
        trainer_of(assets, output_dir, max_steps=5).train(resume_from_checkpoint=True)


def test_early_stopping_goes_on_with_its_patience(assets, tmp_path):
    # a learning rate of 1e-12 changes no figure: the first evaluation is the best, and three more end the run at step 8
    options = {"max_steps": 20, "learning_rate": 1e-12, "eval_on_start": True, "metric_for_best_model": "loss", **BEST}

    def steps(folder, resume=None, *callbacks):
        rows = Dataset.from_list(text_pairs(4))
        callbacks = [EarlyStoppingCallback(3), *callbacks]
        trainer = trainer_of(assets, tmp_path / folder, callbacks=callbacks, eval_dataset=rows, **options)
        return trainer.train(resume_from_checkpoint=resume).global_step

    assert steps("whole") == 8
    for step, resume in ((3, None), (5, True)):
        with pytest.raises(Killed):
            steps("cut", resume, At(step, kill))
    assert steps("cut", True) == 8
    assert steps("cut", True) == 8  # killed behind the last save


@pytest.mark.parametrize("callbacks", [None, {}])
def test_a_checkpoint_without_states_of_callbacks_is_resumed_from(callbacks, output_dir, assets):
    path = output_dir / "checkpoint-12" / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stateful_callbacks": callbacks}))
    trainer = trainer_of(assets, output_dir, max_steps=13, save_steps=1)
    assert trainer.train(resume_from_checkpoint=True).global_step == 13
    assert why_not_whole(output_dir / "checkpoint-13") is None


def test_auto_starts_anew_where_nothing_is_whole(output_dir, assets):
    for folder in output_dir.glob("checkpoint-*"):
        (folder / "trainer_state.json").unlink()
    assert whole_checkpoint(AUTO, str(output_dir)) == (None, {})
    trainer = trainer_of(assets, output_dir, max_steps=1)
    assert trainer.train(resume_from_checkpoint=AUTO).global_step == 1


def changed(rows):
    return [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rows": changed(text_pairs(20))}, "train_dataset="),
        ({"rows": text_pairs(10)}, r"train_dataset='20 rows \(.*here '10 rows"),
        ({"per_device_train_batch_size": 4}, r"per_device_train_batch_size=2 \(here 4\)"),
        ({"gradient_accumulation_steps": 2}, r"gradient_accumulation_steps=1 \(here 2\)"),
        ({"loss_type": "hinge"}, r"loss_type='bradley_terry' \(here 'hinge'\)"),
        ({"label_smoothing": 0.1}, r"label_smoothing=0.0 \(here 0.1\)"),
        ({"seed": 99}, r"seed=42 \(here 99\)"),
        ({"max_tokens_per_batch": 64}, r"max_tokens_per_batch=None \(here 64\)"),
        ({"optim": "sgd"}, r"optim='adamw_\w+' \(here 'sgd'\)"),
    ],
)
def test_a_resume_with_other_options_is_refused_by_name(options, named, output_dir, assets):
    with pytest.raises(ValueError, match=named):
        trainer_of(assets, output_dir, **{"max_steps": 14, **options}).train(resume_from_checkpoint=True)


def test_a_resume_with_the_same_steps_or_new_data_on_purpose_goes_on(output_dir, assets, caplog):
    options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 13}
    assert trainer_of(assets, output_dir, **options).train(resume_from_checkpoint=True).global_step == 13
    assert "per_device_train_batch_size=2 (here 1)" in caplog.text
    options = {"rows": text_pairs(10), "ignore_data_skip": True, "max_steps": 13}
    assert trainer_of(assets, output_dir, **options).train(resume_from_checkpoint=True).global_step == 13
    assert "train_dataset=" in caplog.text


def test_damage_of_the_same_size_is_seen(output_dir):
    newest = output_dir / "checkpoint-12"
    for name in sorted(path.name for path in newest.iterdir() if path.name != "README.md"):
        content = (newest / name).read_bytes()
        (newest / name).write_bytes(content[:-20] + bytes(255 - byte for byte in content[-20:]))
        assert name in (why_not_whole(newest) or ""), name
        assert whole_checkpoint(True, str(output_dir))[0].name == "checkpoint-6"
        (newest / name).write_bytes(content)
    assert why_not_whole(newest) is None


@pytest.mark.parametrize(
    "change",
    [
        {"global_step": None},
        {"global_step": 10**6},
        {"bogus": 1},
        {"epoch": float("nan")},
        {"stateful_callbacks": [RECORD]},
        {"stateful_callbacks": {RECORD: "x"}},
        {"stateful_callbacks": {RECORD: {"files": ["x"]}}},
        {"stateful_callbacks": {RECORD: {"num_tokens": "x"}}},
    ],
)
def test_a_state_of_other_values_is_not_whole(change, output_dir):
    path = output_dir / "checkpoint-12" / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert why_not_whole(path.parent) == "trainer_state.json is cut off or damaged"
