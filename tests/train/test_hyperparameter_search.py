"""`model_init` and `hyperparameter_search` of both trainers, by transformers' own loop over a small optuna."""

import importlib.machinery
import sys
import types

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from rows import quick, solutions, text_pairs
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer

KINDS = {
    "orm": (RewardTrainer, RewardConfig, text_pairs, AutoModelForSequenceClassification, 1),
    "prm": (PRMTrainer, PRMConfig, solutions, AutoModelForTokenClassification, 2),
}
SPACE = {
    "orm": [{"learning_rate": 1e-3, "label_smoothing": 0.0}, {"learning_rate": 1e-2, "label_smoothing": 0.2}],
    "prm": [{"learning_rate": 1e-3, "class_weights": None}, {"learning_rate": 1e-2, "class_weights": [4.0, 1.0]}],
}


@pytest.fixture(scope="module")
def model_path(assets):
    return str(assets / "stories260K")


@pytest.fixture
def optuna(monkeypatch):
    """What `run_hp_search_optuna` needs of the package, with a `FixedTrial` as its only sampler."""

    class BaseTrial:
        def __init__(self, number):
            self.number, self.params, self.value = number, {}, None

    class Study:
        def optimize(self, objective, n_trials, **kwargs):
            self.trials = [BaseTrial(number) for number in range(n_trials)]
            for trial in self.trials:
                trial.value = objective(trial)

        def _is_multi_objective(self):
            return False

        best_trial = property(lambda self: min(self.trials, key=lambda trial: trial.value))

    module = types.ModuleType("optuna")
    module.__spec__ = importlib.machinery.ModuleSpec("optuna", None)
    module.Trial = BaseTrial
    module.trial = types.SimpleNamespace(BaseTrial=BaseTrial)
    module.create_study = lambda **kwargs: Study()
    monkeypatch.setitem(sys.modules, "optuna", module)


def model_of(kind: str, model_path: str):
    *_, auto_class, labels = KINDS[kind]
    torch.manual_seed(7)
    return auto_class.from_pretrained(model_path, num_labels=labels)


def trainer_of(kind: str, model_path: str, folder, *, trainer_class=None, options=None, **arguments):
    of_kind, config_class, make, *_ = KINDS[kind]
    return (trainer_class or of_kind)(
        args=config_class(**quick(folder, max_steps=2, train_sampling_strategy="sequential", **(options or {}))),
        train_dataset=Dataset.from_list(make(6)),
        eval_dataset=Dataset.from_list(make(4, 1)),
        processing_class=AutoTokenizer.from_pretrained(model_path),
        **arguments,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_trial_is_a_run_of_its_own(kind, model_path, tmp_path, optuna):
    made, prepared, starts = [], [], []

    def model_init(trial):
        made.append(getattr(trial, "number", None))
        return model_of(kind, model_path)

    class Watched(KINDS[kind][0]):
        def _prepare_dataset(self, *args, **kwargs):
            prepared.append(args[-1])
            return super()._prepare_dataset(*args, **kwargs)

        def training_step(self, *args, **kwargs):
            if self.state.global_step == 0:
                starts.append((self.model.score.weight.detach().clone(), self.counters.tokens.tokens))
            return super().training_step(*args, **kwargs)

    def space(trial):
        trial.params = dict(SPACE[kind][trial.number])
        return trial.params

    trainer = trainer_of(kind, model_path, tmp_path, trainer_class=Watched, model_init=model_init)
    best = trainer.hyperparameter_search(hp_space=space, n_trials=2, backend="optuna")
    assert made == [None, 0, 1]  # the constructor's, and one for each trial
    assert [name.split()[0] for name in prepared] == ["train", "eval"]
    (first, no_tokens), (second, none_yet) = starts
    assert torch.equal(first, second) and first.dtype == torch.float32 and (no_tokens, none_yet) == (0, 0)
    alone = []
    for number, values in enumerate(SPACE[kind]):
        run = trainer_of(
            kind, model_path, tmp_path / str(number), options=dict(values), model=model_of(kind, model_path)
        )
        run.train()
        alone.append(run.evaluate()["eval_loss"])
    assert best.objective == pytest.approx(min(alone), rel=1e-5)
    assert alone[0] != pytest.approx(alone[1], rel=1e-4) and best.run_id == str(alone.index(min(alone)))


@pytest.mark.parametrize(
    ("kind", "values", "match"),
    [
        ("orm", {"max_length": 8}, "The search changes max_length, but the rows"),
        ("prm", {"loss_type": "pqm", "step_separator": "\n\n"}, "changes loss_type, step_separator, but"),
        ("orm", {"label_smoothing": 0.7}, r"label_smoothing=0.7; expected a number in \[0, 0.5\)"),
        ("orm", {"huber_delta": 2.0}, "huber_delta=2.0 does not go with loss_type='bradley_terry'"),
    ],
)
def test_a_search_cannot_change_what_was_read_before(kind, values, match, model_path, tmp_path, optuna):
    trainer = trainer_of(kind, model_path, tmp_path, model_init=lambda: model_of(kind, model_path))
    with pytest.raises(ValueError, match=match):
        trainer.hyperparameter_search(hp_space=lambda trial: values, n_trials=1, backend="optuna")


@pytest.mark.parametrize("kind", KINDS)
def test_model_init_trains_as_a_model_does(kind, model_path, tmp_path):
    losses = []
    for arguments in ({"model": model_of(kind, model_path)}, {"model_init": lambda: model_of(kind, model_path)}):
        trainer = trainer_of(kind, model_path, tmp_path, **arguments)
        first = trainer.model
        trainer.train()
        assert (trainer.model is first) == ("model" in arguments)
        assert trainer.model.score.weight.dtype == torch.float32 and trainer.data_collator.prefix_sharing
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
        trainer.save_model()
        saved = KINDS[kind][3].from_pretrained(trainer.args.output_dir)
        assert saved.config.rewardplug["kind"] == kind and torch.equal(saved.score.weight, trainer.model.score.weight)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_cannot_share_prefixes_gets_padded_batches(kind, model_path, tmp_path):
    """Of two models of one `model_init` the second may be another: packed rows would be misread in silence."""
    asked = iter(["sdpa", "eager"])

    def model_init():
        auto_class, labels = KINDS[kind][3:]
        return auto_class.from_pretrained(model_path, num_labels=labels, attn_implementation=next(asked))

    trainer = trainer_of(kind, model_path, tmp_path, model_init=model_init)
    assert trainer.data_collator.prefix_sharing
    trainer.train()
    assert not trainer.data_collator.prefix_sharing and trainer.model.config._attn_implementation == "eager"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "`model` or `model_init` is required"),
        ({"model": "x", "model_init": lambda: None}, "are both set"),
        ({"model_init": lambda: "x"}, "`model_init` returned a str; expected a model"),
        ({"model_init": lambda: None, "peft_config": LoraConfig()}, "let `model_init` return the PEFT model"),
        ({"model_init": lambda: None, "optimizers": (torch.optim.SGD([torch.zeros(1)]), None)}, "makes new ones"),
        ({"model_init": lambda: None, "options": {"chat_template_path": "org/name"}}, "must be a Jinja file"),
    ],
)
def test_what_does_not_go_with_model_init(kind, arguments, match, model_path, tmp_path):
    with pytest.raises((ValueError, TypeError), match=match):
        trainer_of(kind, model_path, tmp_path, **arguments)
