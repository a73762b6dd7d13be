"""Options of transformers and TRL beside packed rows: the same as in padded ones, or batches are padded, or refused.

docs/training_arguments.md lists them all; a new one upstream fails here until somebody has looked at it.
"""

import os
import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
import trl
from accelerate import ParallelismConfig
from datasets import Dataset
from packaging.version import Version
from peft import LoraConfig
from rows import quick, text_pairs
from test_prefix_sharing import logged, trained
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, TrainingArguments

from hf_rewardplug import PreferenceCollator, RewardConfig, RewardTrainer
from hf_rewardplug.train.packing import active_noise, check_parallelism, unused_options

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training_arguments.md"


@pytest.fixture(scope="module")
def model_path(assets):
    return str(assets / "stories260K")


def of_pairs(model, folder, count=5, package=None, trainer_options=None, **options):
    """A trainer on `count` pairs, which it evaluates too."""
    config, trainer = (
        (RewardConfig, RewardTrainer) if package is None else (package.RewardConfig, package.RewardTrainer)
    )
    rows = Dataset.from_list(text_pairs(count))
    options = {"train_sampling_strategy": "sequential", **options}
    data = {"train_dataset": rows, "eval_dataset": rows}
    return trainer(model, config(**quick(folder, **options)), **data, **(trainer_options or {}))


# ---- every option -------------------------------------------------------------------------------------------------


def test_the_page_lists_every_option_once():
    named = [name for line in PAGE.read_text().splitlines() for name in options_of(line)]
    assert sorted(named) == sorted({*named}), "an option stands in two groups"
    upstream = {one.name for config in (TrainingArguments, trl.RewardConfig) for one in fields(config)}
    assert upstream - {*named} == set(), "new upstream: look at what they mean in packed rows, and list them"
    if Version(transformers.__version__) >= Version("5.23"):  # an older one has fewer
        assert {*named} - upstream == set(), "gone upstream"


def options_of(line: str) -> list[str]:
    """The options that a line of the page lists: those of a table's first column, or of an item."""
    cells = re.match(r"\|([^|]*)\||- (.*)", line)
    return re.findall(r"`(\w+)`", (cells[1] or cells[2]) if cells else "")


# ---- batches are padded -------------------------------------------------------------------------------------------

DROPOUT = {"trainer_options": {"peft_config": LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.3)}}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"neftune_noise_alpha": 5.0}, "`neftune_noise_alpha=5.0` scales the noise by the length of a padded row"),
        ({"include_for_metrics": ["inputs"]}, "gives `compute_metrics` the padded rows"),
        ({"torch_compile_backend": "eager"}, "`torch_compile` would compile again"),
        ({"dynamo": "eager"}, "`torch_compile` would compile again"),
        (
            {**DROPOUT, "disable_dropout": False},
            "dropout=0.3 in `layers.0.self_attn.q_proj.lora_dropout.default` draws",
        ),
        (DROPOUT, None),
        ({"neftune_noise_alpha": 0.0}, None),
        ({"include_for_metrics": ["loss"]}, None),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_of_sequences_get_padded_batches(options, reason, model_path, tmp_path, caplog, monkeypatch):
    options = dict(options)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", options.pop("dynamo", "no"))
    trainer = of_pairs(model_path, tmp_path, **options)
    said = [record.message for record in caplog.records if "prefixes are not shared" in record.message]
    assert trainer.data_collator.prefix_sharing == (reason is None) and len(said) == (reason is not None)
    assert reason is None or reason in said[0]


def test_a_collator_that_shares_does_not_go_with_them(model_path, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    given = {"data_collator": PreferenceCollator(0, prefix_sharing=True), "processing_class": tokenizer}
    with pytest.raises(ValueError, match=r"collator shares prefixes, but `neftune_noise_alpha=5.0` scales"):
        of_pairs(model_path, tmp_path, neftune_noise_alpha=5.0, trainer_options=given)


@pytest.mark.parametrize(
    ("kind", "option", "said"),
    [
        ("starcoder2", "residual_dropout", "residual_dropout=0.1"),
        ("mixtral", "router_jitter_noise", "router_jitter_noise=0.1"),
        ("phi", "resid_pdrop", "dropout=0.1 in `layers.0.resid_dropout`"),
        ("qwen2", "attention_dropout", None),  # the model's own reason
    ],
)
def test_whatever_a_body_draws_at_random_is_seen(kind, option, said):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for value, expected in ((0.0, None), (0.1, said)):
        config = AutoConfig.for_model(kind, **sizes, num_key_value_heads=2, vocab_size=32, **{option: value})
        assert active_noise(AutoModelForSequenceClassification.from_config(config)) == expected


def test_the_noise_is_trls(model_path, tmp_path):
    """The same seed draws the same noise: D numbers for each token of the padded batch."""
    losses = [
        logged(trainer, "loss")
        for trainer in (
            of_pairs(model_path, tmp_path, package=package, neftune_noise_alpha=15.0) for package in (None, trl)
        )
        if trainer.train()
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# ---- refused, or without effect -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["cp_size", "sp_size"])
def test_rows_in_pieces_are_refused(size):
    with pytest.raises(ValueError, match=f"{size}=2, which spreads a row over several devices"):
        check_parallelism(ParallelismConfig(**{size: 2}))
    for config in (None, ParallelismConfig(tp_size=2)):
        check_parallelism(config)


@pytest.mark.parametrize(
    "options",
    [{"average_tokens_across_devices": False}, {"label_names": ["labels"]}, {"use_cache": True}],
    ids=lambda value: next(iter(value)),
)
def test_what_has_no_effect_says_so(options, model_path, tmp_path, caplog):
    of_pairs(model_path, tmp_path, **options)
    assert f"`{next(iter(options))}={next(iter(options.values()))}` has no effect" in caplog.text


def test_defaults_say_nothing(tmp_path):
    assert unused_options(RewardConfig(**quick(tmp_path))) == []


# ---- the same as in padded batches --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def padded(model_path, tmp_path_factory):
    """Losses and figures of the padded twin, without any option."""
    trainer = trained("orm", model_path, tmp_path_factory.mktemp("padded"), prefix_sharing=False)
    return SimpleNamespace(losses=logged(trainer, "loss", "grad_norm", "accuracy"), figures=trainer.evaluate())


@pytest.mark.parametrize(
    "options",
    [
        {
            "accelerator_config": {"split_batches": True},
            "eval_accumulation_steps": 1,
            "logging_nan_inf_filter": True,
            "torch_empty_cache_steps": 1,
        },
        {
            "activation_checkpointing": True,
            "activation_checkpointing_kwargs": {"every_n_layers": 2},
            "eval_do_concat_batches": False,
            "skip_memory_metrics": False,
        },
        {
            "dataloader_num_workers": 2,
            "dataloader_persistent_workers": True,
            "dataloader_prefetch_factor": 1,
            "remove_unused_columns": False,
        },
        {"auto_find_batch_size": True, "debug": "underflow_overflow", "prediction_loss_only": True},
        {"accelerator_config": {"even_batches": False}, "eval_use_gather_object": True, "use_cache": True},
        {"full_determinism": True},
    ],
    ids=lambda options: "-".join(options),
)
def test_an_option_changes_nothing(options, padded, model_path, tmp_path, monkeypatch):
    if "activation_checkpointing" in options and Version(transformers.__version__) < Version("5.23"):
        pytest.skip("has another name before transformers 5.23")
    for name in SET_BY_FULL_DETERMINISM:
        monkeypatch.setenv(name, "")  # so that it is afterwards what it was
    try:
        trainer = trained("orm", model_path, tmp_path, **options)
    finally:
        torch.use_deterministic_algorithms(False)
    assert trainer.data_collator.prefix_sharing
    assert logged(trainer, "loss", "grad_norm", "accuracy") == pytest.approx(padded.losses, rel=1e-4, abs=1e-6)
    figures = trainer.evaluate()
    for key in ("eval_loss", "eval_accuracy", "eval_margin", "eval_mean_reward"):
        assert figures[key] == pytest.approx(padded.figures[key], rel=1e-4, abs=1e-5), key


SET_BY_FULL_DETERMINISM = (
    *("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC"),
    *("ASCEND_LAUNCH_BLOCKING", "HCCL_DETERMINISTIC"),
)


@pytest.fixture(scope="module")
def predictions(model_path, tmp_path_factory):
    """(5, 2): the rewards of `of_pairs`, from padded batches."""
    trainer = of_pairs(model_path, tmp_path_factory.mktemp("padded"), prefix_sharing=False)
    return trainer.predict(trainer.eval_dataset).predictions


def given_to_metrics(model_path, folder, **options) -> list:
    seen = []

    def compute_metrics(given, compute_result=True):
        seen.append(given)
        return {}

    of_pairs(model_path, folder, trainer_options={"compute_metrics": compute_metrics}, **options).evaluate()
    return seen


@pytest.mark.parametrize(
    "options",
    [{"eval_accumulation_steps": 1}, {"eval_do_concat_batches": False}, {"batch_eval_metrics": True}],
    ids=lambda options: "-".join(options),
)
def test_metrics_get_every_row_once(options, predictions, model_path, tmp_path):
    seen = given_to_metrics(model_path, tmp_path, include_for_metrics=["loss"], **options)
    parts = [np.asarray(part) for given in seen for part in as_list(given.predictions)]
    assert np.concatenate(parts) == pytest.approx(predictions, abs=1e-5)
    assert [len(given.predictions) for given in seen] == {
        "batch_eval_metrics": [3, 2],
        "eval_do_concat_batches": [2],
    }.get(next(iter(options)), [5])
    losses = -np.log(1 / (1 + np.exp(predictions[:, 1] - predictions[:, 0])))
    means = [losses[:3].mean()] * 3 + [losses[3:].mean()] * 2  # of a row's batch, as transformers gives them
    found = [np.asarray(part) for given in seen for part in as_list(given.losses)]
    assert np.concatenate(found) == pytest.approx(means, abs=1e-5)


def test_inputs_of_metrics_are_trls(model_path, tmp_path):
    shapes = [
        given_to_metrics(model_path, tmp_path, package=package, include_for_metrics=["inputs"])[0].inputs.shape
        for package in (None, trl)
    ]
    assert shapes[0] == shapes[1]


def as_list(values):
    return values if isinstance(values, list) else [values]


# ---- what counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["non_padding", "all"])
def test_tokens_seen_are_those_of_the_sequences(kind, model_path, tmp_path):
    """ "all" of a packed batch are those that are computed: what the two texts of a pair share stands there once."""
    trainer = of_pairs(model_path, tmp_path, count=2, include_num_input_tokens_seen=kind, max_steps=1)
    trainer.train()
    rows = [tuple(row[key]) for row in trainer.train_dataset for key in ("chosen_ids", "rejected_ids")]
    unique = {row[:length] for row in rows for length in range(1, len(row) + 1)}
    assert trainer.state.num_input_tokens_seen == (sum(map(len, rows)) if kind == "non_padding" else len(unique))


def test_a_run_that_starts_again_with_smaller_batches_counts_anew(model_path, tmp_path):
    """`auto_find_batch_size` takes 0.9 of the rows, here of the tokens, when memory is full; the run begins again."""
    trainer = of_pairs(
        model_path,
        tmp_path,
        count=20,
        auto_find_batch_size=True,
        max_tokens_per_batch=100,
        per_device_train_batch_size=10,
        max_steps=2,
        logging_steps=2,
    )
    step, budgets = trainer.training_step, []

    def full_at_the_second_step(model, inputs, num_items_in_batch=None):
        budgets.append(trainer._train_batch_size)
        if len(budgets) == 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return step(model, inputs, num_items_in_batch)

    trainer.training_step = full_at_the_second_step
    trainer.train()
    assert budgets == [10, 10, 9, 9]
    loader = trainer.get_train_dataloader()
    sizes = [batch["prefix_tree"]["num_unique_tokens"] for batch in loader]
    assert max(sizes) <= 90
    assert logged(trainer, "num_unique_tokens") == [sum(sizes[:2])]


def test_the_rows_of_a_step_are_those_of_its_batches(model_path, tmp_path):
    """transformers takes `per_device_train_batch_size` for them, and divides them by the time: samples a second."""
    options = {"max_tokens_per_batch": 100, "gradient_accumulation_steps": 2}
    trainer = of_pairs(model_path, tmp_path, count=20, **options)
    batches = len(trainer.get_train_dataloader())
    assert trainer.get_total_train_batch_size(trainer.args) == round(2 * 20 / batches) != 4


# ---- data loaders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [{}, {"max_tokens_per_batch": 90}], ids=["rows", "tokens"])
def test_the_data_loaders_options_reach_it(by, model_path, tmp_path):
    options = {
        "num_workers": 1,
        "prefetch_factor": 3,
        "persistent_workers": True,
        "multiprocessing_context": "forkserver",
        "in_order": False,
    }
    loader = of_pairs(
        model_path, tmp_path, **by, **{f"dataloader_{key}": value for key, value in options.items()}
    ).get_train_dataloader()
    found = {key: getattr(loader, key) for key in options}
    found["multiprocessing_context"] = found["multiprocessing_context"].get_start_method()
    assert found == options


@pytest.mark.parametrize(
    "by",
    [{"max_tokens_per_batch": 90}, {"group_by_prefix": True}, {"train_sampling_strategy": "group_by_length"}],
    ids=lambda options: next(iter(options)),
)
def test_no_incomplete_batch_is_there_to_be_dropped(by, model_path, tmp_path, caplog):
    trainer = of_pairs(model_path, tmp_path, dataloader_drop_last=True, **by)
    seen = [index for batch in trainer.get_train_dataloader() for index in batch["rewardplug_id"].tolist()]
    assert sorted({*seen}) == list(range(5))
    assert "`dataloader_drop_last=True` drops nothing" in caplog.text


def test_a_resumed_run_may_begin_with_the_first_rows(model_path, tmp_path):
    options = {"max_tokens_per_batch": 60, "max_steps": 3, "learning_rate": 0.0}
    options |= {"save_strategy": "steps", "save_steps": 2, "restore_callback_states_from_checkpoint": True}
    whole = of_pairs(model_path, tmp_path, count=12, **options)
    whole.train()
    checkpoint = os.path.join(tmp_path, "checkpoint-2")
    losses = []
    for skip in (False, True):
        resumed = of_pairs(model_path, tmp_path, count=12, ignore_data_skip=skip, **options)
        resumed.train(resume_from_checkpoint=checkpoint)
        losses.append(logged(resumed, "loss")[-1])
    expected = logged(whole, "loss")
    assert losses == pytest.approx([expected[2], expected[0]], abs=1e-6)
    assert abs(expected[2] - expected[0]) > 1e-4, "losses that are equal prove nothing"
