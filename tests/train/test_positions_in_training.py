"""Positions in training: rows longer than a table of positions, and texts with rotary frequencies of their own."""

import copy
import itertools

import pytest
import torch
from datasets import Dataset
from families import length_ropes
from rows import quick, solutions, text_pairs
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer

MOST = 32
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
IDS = {"vocab_size": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_labels": 1}
TABLES = {
    "gpt2": AutoConfig.for_model("gpt2", n_positions=MOST, n_embd=16, n_layer=1, n_head=2, **IDS),
    "roberta": AutoConfig.for_model("roberta", max_position_embeddings=MOST + 1, **SIZES, **IDS),
}


@pytest.fixture(scope="module")
def tokenizer(assets):
    return AutoTokenizer.from_pretrained(str(assets / "stories260K"))


def a_pair(tokenizer, tokens: int) -> dict:
    """A pair whose longer text has so many tokens."""
    row = {"prompt": "the cat", "chosen": " sat", "rejected": " ran"}
    rest = tokens - len(tokenizer(row["prompt"] + row["chosen"])["input_ids"]) - 1
    row["prompt"] += " the" * rest
    assert len(tokenizer(row["prompt"] + row["chosen"])["input_ids"]) + 1 == tokens
    return row


def reward_trainer(model, rows, tokenizer, folder, **options):
    args = RewardConfig(**quick(folder, max_steps=-1, num_train_epochs=1, prefix_sharing=False, **options))
    return RewardTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=copy.copy(tokenizer))


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("name", TABLES)
def test_longer_rows_are_left_out_with_one_notice(name, by_name, tokenizer, tmp_path, caplog):
    """One row fits and one has a token too many: TRL fails at it in the middle of training."""
    model = AutoModelForSequenceClassification.from_config(copy.deepcopy(TABLES[name]))
    if by_name:
        model.save_pretrained(tmp_path / "model")
        model = str(tmp_path / "model")
    rows = [*text_pairs(3), a_pair(tokenizer, MOST), a_pair(tokenizer, MOST + 1)]
    trainer = reward_trainer(model, rows, tokenizer, tmp_path)
    trainer.train()
    assert len(trainer.train_dataset) == 4 and trainer.state.global_step == 2
    assert [*trainer.preparation_reports["train"].dropped.values()] == [[4]]
    notices = [record for record in caplog.records if "has positions for no more" in record.getMessage()]
    assert [record.getMessage() for record in notices] == [
        f"`max_length=1024` becomes {MOST}: the model has positions for no more."
    ]
    raw = Dataset.from_list([*text_pairs(2, 1), a_pair(tokenizer, MOST + 9)])
    assert trainer.evaluate(raw)["eval_loss"] > 0 and len(trainer.predict(raw).predictions) == 2


@pytest.mark.parametrize("max_length", [MOST - 1, MOST, None])
def test_a_limit_that_is_low_enough_needs_no_notice(max_length, tokenizer, tmp_path, caplog):
    model = AutoModelForSequenceClassification.from_config(copy.deepcopy(TABLES["gpt2"]))
    rows = [*text_pairs(3), a_pair(tokenizer, MOST)]
    trainer = reward_trainer(model, rows, tokenizer, tmp_path, max_length=max_length)
    assert len(trainer.train_dataset) == 4 - (max_length == MOST - 1)
    assert ("has positions" in caplog.text) == (max_length is None)


def test_truncate_cuts_and_error_stops(tokenizer, tmp_path):
    model = AutoModelForSequenceClassification.from_config(copy.deepcopy(TABLES["roberta"]))
    rows = [*text_pairs(3), a_pair(tokenizer, 2 * MOST)]
    trainer = reward_trainer(model, rows, tokenizer, tmp_path, overlong="truncate")
    trainer.train()
    assert len(trainer.train_dataset) == 4 and len(trainer.train_dataset[3]["chosen_ids"]) == MOST
    with pytest.raises(
        ValueError, match=rf"row 3: {2 * MOST} tokens are more than the model's {MOST} positions\. Set ov"
    ):
        reward_trainer(model, rows, tokenizer, tmp_path, overlong="error")


def test_steps_are_cut_between_steps(tokenizer, tmp_path):
    config = copy.deepcopy(TABLES["gpt2"])
    config.num_labels = 2
    model = AutoModelForTokenClassification.from_config(config)
    rows = [*solutions(3), {"prompt": "the", "completions": [" cat"] * MOST, "labels": [True] * MOST}]
    args = PRMConfig(**quick(tmp_path, max_steps=-1, num_train_epochs=1, max_length=None, prefix_sharing=False))
    trainer = PRMTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    assert MOST - 8 < len(trainer.train_dataset[3]["input_ids"]) <= MOST


def tokenized(length: int) -> dict:
    return {"input_ids": [5] * length, "labels": [-100.0] * (length - 1) + [1.0]}


TREE = {
    "input_ids": [5] * (2 * MOST),
    "labels": ([-100.0] * (MOST - 1) + [1.0]) * 2,
    "node_lengths": [0, MOST, MOST],
    "node_parents": [-1, 0, 0],
}
"""two branches, each as long as the model can take"""


def test_tokenized_and_prepared_rows(tokenizer, tmp_path):
    """They are never cut: one that is too long is left out, or an error. Of a tree the longest path counts."""
    config = copy.deepcopy(TABLES["gpt2"])
    config.num_labels = 2
    model = AutoModelForTokenClassification.from_config(config)

    def trainer(rows, **options):
        args = PRMConfig(**quick(tmp_path, max_steps=1, prefix_sharing=False, **options))
        data = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
        return PRMTrainer(model, args, train_dataset=data, processing_class=tokenizer)

    assert len(trainer([tokenized(MOST), tokenized(MOST + 1)]).train_dataset) == 1
    assert len(trainer([TREE]).train_dataset) == 1
    with pytest.raises(ValueError, match=f"row 1: longer than the model's {MOST} positions"):
        trainer([tokenized(MOST), tokenized(MOST + 1)], overlong="error")
    prepared = trainer([TREE, {**tokenized(MOST), "node_lengths": [], "node_parents": []}]).train_dataset
    assert len(trainer(prepared).train_dataset) == 2
    longer = prepared.map(lambda row: {"input_ids": [5, *row["input_ids"]], "labels": [-100.0, *row["labels"]]})
    with pytest.raises(ValueError, match=f"row 0: {MOST + 1} tokens are more than the model's {MOST} positions"):
        trainer(longer.select([1]).remove_columns(["node_lengths", "node_parents"]))


# ---- rotary frequencies of a text's own length -----------------------------------------------------------------------

LIMIT = 16
ROPE = length_ropes(LIMIT)
SPLITS = {
    "padded": {"prefix_sharing": False},
    "packed": {},
    "four batches": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "by tokens": {"max_tokens_per_batch": 60, "gradient_accumulation_steps": 99},
    "by prompts": {"group_by_prefix": True},
}


def rotary(name: str):
    config = AutoConfig.for_model(
        "llama",
        **{**SIZES, "num_attention_heads": 2, "num_key_value_heads": 1},
        **IDS,
        max_position_embeddings=LIMIT,
        rope_parameters=ROPE[name],
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.fixture(scope="module")
def rows(tokenizer) -> list[dict]:
    """Pairs below the limit, beyond it, and across it."""
    across = [{"prompt": "a cat", "chosen": " sat", "rejected": " and" * words} for words in (LIMIT, 3 * LIMIT)]
    return [*text_pairs(5), a_pair(tokenizer, LIMIT + 4), *across]


@pytest.fixture(scope="module")
def truth(rows, tokenizer) -> dict[str, tuple[float, float]]:
    """Loss and norm of its gradient, each text by itself in a model of transformers that has seen no other."""
    texts = [row["prompt"] + row[key] for row in rows for key in ("chosen", "rejected")]
    ids = [torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]) for text in texts]
    found = {}
    for name in ROPE:
        models = [rotary(name) for _ in texts]
        rewards = torch.cat([model(one).logits for model, one in zip(models, ids, strict=True)]).view(-1, 2)
        loss = -torch.nn.functional.logsigmoid(rewards[:, 0] - rewards[:, 1]).mean()
        loss.backward()
        weights = [[one.grad for one in model.parameters()] for model in models]
        gradients = [sum(same) for same in zip(*weights, strict=True)]
        found[name] = loss.item(), torch.stack([one.norm() for one in gradients]).norm().item()
    return found


@pytest.mark.parametrize("name, split", [*itertools.product(ROPE, SPLITS)])
def test_a_step_is_that_of_each_text_alone(name, split, rows, truth, tokenizer, tmp_path):
    options = {"per_device_train_batch_size": 8, "max_steps": 1, "learning_rate": 0.0, "max_grad_norm": 1e9}
    args = RewardConfig(**quick(tmp_path, **{**options, **SPLITS[split]}))
    data = Dataset.from_list(rows)
    trainer = RewardTrainer(
        rotary(name), args, train_dataset=data, eval_dataset=data, processing_class=copy.copy(tokenizer)
    )
    trainer.train()
    log, (loss, norm) = trainer.state.log_history[0], truth[name]
    assert log["loss"] == pytest.approx(loss, abs=2e-5) and log["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, abs=2e-5)
