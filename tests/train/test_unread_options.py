"""No option is passed over in silence: it is read, refused, or said to have no effect."""

import json
from dataclasses import fields

import pytest
import torch
from datasets import Dataset
from rows import quick, solutions, text_pairs
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    LlamaConfig,
)

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer
from hf_rewardplug.runs.arguments import RecipeArguments
from hf_rewardplug.train.losses import LOSSES, LOSSES_OF_OPTION, OPTIONS
from hf_rewardplug.train.models import disable_dropout

VALUES = {
    "label_smoothing": 0.1,
    "center_rewards_coefficient": 0.01,
    "tie_threshold": 0.5,
    "huber_delta": 2.0,
    "attributes": ["a"],
    "attribute_weights": [1.0],
    "class_weights": [2.0, 1.0],
    "train_on_last_step_only": True,
    "pqm_margin": 1.0,
}
NEEDS = {"attribute_weights": {"attributes": ["a"]}}
CONFIG_OF = {name: PRMConfig if loss.form == "steps" else RewardConfig for name, loss in LOSSES.items()}
CASES = [
    (name, config_class, loss_type)
    for loss_type, config_class in CONFIG_OF.items()
    for name in VALUES
    if name in {field.name for field in fields(config_class)}
]


@pytest.fixture(scope="module")
def model_path(assets):
    return str(assets / "stories260K")


@pytest.mark.parametrize("loss_type", LOSSES)
def test_every_declared_option_is_one_of_the_config_with_the_same_default(loss_type):
    defaults = {field.name: field.default for field in fields(CONFIG_OF[loss_type])}
    declared = {option.name: option.default for option in LOSSES[loss_type].every_option}
    assert declared.items() <= defaults.items() and declared.keys() <= VALUES.keys() == OPTIONS.keys()


@pytest.mark.parametrize(("name", "config_class", "loss_type"), CASES)
def test_an_option_beside_a_loss_that_does_not_read_it(name, config_class, loss_type, tmp_path):
    options = {"loss_type": loss_type, **NEEDS.get(name, {}), name: VALUES[name]}
    if loss_type in LOSSES_OF_OPTION[name]:
        assert getattr(config_class(**quick(tmp_path, **options)), name) == VALUES[name]
        return
    with pytest.raises(ValueError, match=f"does not go with loss_type='{loss_type}'.*{LOSSES_OF_OPTION[name][0]}"):
        config_class(**quick(tmp_path, **options))


@pytest.mark.parametrize(
    ("config_class", "options", "match"),
    [
        (RewardConfig, {"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1.*Set `label_smoothing` instead"),
        (PRMConfig, {"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1.*Give soft labels instead"),
        (
            PRMConfig,
            {"step_token": "<s>", "step_separator": "\n\n"},
            "step_token='<s>' stands behind each step instead",
        ),
    ],
)
def test_two_options_for_the_same_thing(config_class, options, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        config_class(**quick(tmp_path, **options))


@pytest.mark.parametrize(
    "options",
    [
        {"dataset_name": "x"},
        {"dataset_config": "x"},
        {"dataset_streaming": True},
        {"dataset_train_split": "x"},
        {"eval_dataset_name": "x"},
        {"max_train_rows": 5},
        {"test_size": 0.5},
        {"datasets": ["x"]},
    ],
)
def test_the_demo_takes_no_data(options):
    with pytest.raises(ValueError, match=f"`demo` generates its rows. Leave `{next(iter(options))}` out"):
        RecipeArguments(demo=True, **options)


@pytest.mark.parametrize("config_class", [RewardConfig, PRMConfig])
@pytest.mark.parametrize(
    ("metric", "greater"),
    [
        *(("loss", False), ("eval_ece", False), ("ece", False), ("eval_brier", False), ("eval_helpful_mse", False)),
        *(("eval_held_out_mae", False), ("eval_ties", False), ("eval_calibration_error", False)),
        *(("eval_accuracy", True), ("eval_best_accuracy", True), ("eval_auroc", True), ("eval_margin", True)),
        *(("eval_pearson", True), ("eval_properties", True), ("eval_f1_wrong", True)),
    ],
)
def test_the_best_of_an_error_is_the_smallest(config_class, metric, greater, tmp_path):
    assert config_class(**quick(tmp_path, metric_for_best_model=metric)).greater_is_better is greater
    given = config_class(**quick(tmp_path, metric_for_best_model=metric, greater_is_better=not greater))
    assert given.greater_is_better is not greater


TINY = {"vocab_size": 64, "pad_token_id": 0, "num_labels": 1, "max_position_embeddings": 32}
BODY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
DROPOUTS = {
    "llama": {**BODY, "attention_dropout": 0.5},
    "qwen2": {**BODY, "num_key_value_heads": 2, "attention_dropout": 0.5},
    "starcoder2": {**BODY, "attention_dropout": 0.5, "residual_dropout": 0.5, "embedding_dropout": 0.5},
    "gpt_neox": {**BODY, "rotary_pct": 1.0, "attention_dropout": 0.5, "hidden_dropout": 0.5},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
    "opt": {
        **{
            "hidden_size": 16,
            "ffn_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "word_embed_proj_dim": 16,
        },
        **{"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5},
    },
    "bert": {**BODY, "hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5, "classifier_dropout": 0.5},
}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", DROPOUTS)
def test_no_dropout_is_left(kind, attention):
    config = AutoConfig.for_model(kind, **TINY, **DROPOUTS[kind], attn_implementation=attention)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).train()
    ids = torch.randint(1, 60, (3, 12))
    drawn = [model(ids).logits for _ in range(2)]
    assert not torch.allclose(*drawn, atol=1e-4)
    disable_dropout(model)
    for _ in range(3):
        torch.testing.assert_close(model(ids).logits, model.eval()(ids).logits, atol=1e-5, rtol=1e-4)
        model.train()


@pytest.mark.parametrize(("disable", "rate"), [(True, 0.0), (False, 0.25)])
@pytest.mark.parametrize("kind", ["orm", "prm"])
def test_both_trainers_reach_the_attention(kind, disable, rate, model_path, tmp_path):
    trainer_class, config_class, rows = {
        "orm": (RewardTrainer, RewardConfig, text_pairs),
        "prm": (PRMTrainer, PRMConfig, solutions),
    }[kind]
    options = {"disable_dropout": disable, "model_init_kwargs": {"attention_dropout": 0.25}}
    trainer = trainer_class(
        model_path, config_class(**quick(tmp_path, **options)), train_dataset=Dataset.from_list(rows(4))
    )
    assert {layer.self_attn.attention_dropout for layer in trainer.model.model.layers} == {rate}
    assert trainer.model.config.attention_dropout == rate
    assert trainer.data_collator.prefix_sharing is disable


def test_a_model_that_is_loaded_takes_no_loading_options(model_path, tmp_path, caplog):
    model = AutoModelForTokenClassification.from_pretrained(model_path, num_labels=2)
    tokenizer, rows = AutoTokenizer.from_pretrained(model_path), Dataset.from_list(solutions(4))
    args = PRMConfig(**quick(tmp_path, model_init_kwargs={"dtype": "float32"}))
    PRMTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
    assert "`model_init_kwargs` has no effect: the model is loaded already." in caplog.messages
    with pytest.raises(ValueError, match="num_labels=1, but the model has 2 labels"):
        PRMTrainer(model, PRMConfig(**quick(tmp_path, num_labels=1)), train_dataset=rows, processing_class=tokenizer)


@pytest.mark.parametrize("tokenized", [True, False])
@pytest.mark.parametrize("column", ["margin", "weight", "chosen_probability", "tie"])
def test_a_column_without_a_value_is_no_column(column, tokenized, model_path, tmp_path, caplog):
    rows = (
        [{"chosen_ids": [5, 6], "rejected_ids": [5, 7 + index]} for index in range(4)] if tokenized else text_pairs(4)
    )
    args, tokenizer = RewardConfig(**quick(tmp_path)), AutoTokenizer.from_pretrained(model_path)
    for train in (rows, [{**row, column: None} for row in rows]):
        trainer = RewardTrainer(model_path, args, train_dataset=Dataset.from_list(train), processing_class=tokenizer)
        assert column not in trainer.train_dataset.column_names
    said = f"The column '{column}' is None in every row of the train data set and is left out."
    assert caplog.messages.count(said) == 1


def test_tokenized_rows_need_no_adapter(model_path, tmp_path, caplog):
    rows = Dataset.from_list([{"chosen_ids": [5, 6], "rejected_ids": [5, 7], "kind": "a"}])
    options = {"adapter": "preference", "ignore_columns": ["kind"], "column_mapping": {"subset": "kind"}}
    RewardTrainer(model_path, RewardConfig(**quick(tmp_path, **options)), train_dataset=rows)
    said = [message for message in caplog.messages if "its rows are tokenized" in message]
    assert [message.split()[0] for message in said] == ["`adapter`", "`ignore_columns`"]


def test_a_margin_without_a_value_in_a_tokenized_stream(model_path, tmp_path):
    rows = Dataset.from_list([{"chosen_ids": [5, 6], "rejected_ids": [5, 7], "margin": None}]).to_iterable_dataset()
    with pytest.raises(ValueError, match="column 'margin': is None; every row needs a margin"):
        RewardTrainer(model_path, RewardConfig(**quick(tmp_path)), train_dataset=rows).train()


# ---- a tokenizer of another model ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beside", "rows", "match"),
    [
        ({"model_type": "mistral", "vocab_size": 512}, 512, "is a mistral, and the model is a llama"),
        ({"model_type": "llama", "vocab_size": 540}, 512, "has a vocabulary of 540, and the model's embedding has 512"),
        ({"model_type": "llama", "vocab_size": 512}, 700, "knows 512 tokens, and the model's embedding has 700 rows"),
        (None, 700, "knows 512 tokens, and the model's embedding has 700 rows"),
        ({"model_type": "llama", "vocab_size": 512}, 512, None),
        ({"model_type": "llama", "vocab_size": 512}, 516, None),
        ({"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 512}}, 512, None),
        (None, 512, None),
        (None, 576, None),
    ],
)
def test_a_tokenizer_of_another_model_is_warned_of(beside, rows, match, model_path, tmp_path, caplog):
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    tokenizer.save_pretrained(tmp_path / "theirs")
    if beside is not None:
        (tmp_path / "theirs" / "config.json").write_text(json.dumps(beside))
    tokenizer.name_or_path = str(tmp_path / "theirs")
    sizes = {**BODY, **TINY, "vocab_size": rows, "num_key_value_heads": 2, "max_position_embeddings": 512}
    model = AutoModelForSequenceClassification.from_config(LlamaConfig(**sizes))
    RewardTrainer(
        model,
        RewardConfig(**quick(tmp_path)),
        train_dataset=Dataset.from_list(text_pairs(4)),
        processing_class=tokenizer,
    )
    said = [message for message in caplog.messages if "another model's" in message]
    assert len(said) == (match is not None) and (match is None or match in said[0])
