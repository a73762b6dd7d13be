"""Prefix sharing in training: the padded twin's numbers, reasons for falling back, batches by tokens and prompts."""

import itertools
import json
import random

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from rows import quick, sentence, solutions, text_pairs
from transformers import (
    AutoTokenizer,
    DataCollatorForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    ProgressCallback,
)
from trl.trainer.reward_trainer import DataCollatorForPreference

from hf_rewardplug import PreferenceCollator, PRMConfig, PRMTrainer, RewardConfig, RewardTrainer


@pytest.fixture(scope="module")
def model_path(assets):
    return str(assets / "stories260K")


def step_trees(count: int, seed: int = 0) -> list[dict]:
    """Solutions with alternatives at each step."""
    g, rows = random.Random(seed), []
    for _ in range(count):
        nodes, parent = [], -1
        for _ in range(g.randint(1, 4)):
            first = len(nodes)
            for _ in range(g.randint(1, 3)):
                nodes.append({"text": sentence(g, 1, 5), "label": int(g.random() < 0.5), "parent": parent})
            parent = g.randrange(first, len(nodes))
        rows.append({"prompt": sentence(g, 2, 6), "nodes": nodes})
    return rows


KINDS = {
    "orm": (RewardTrainer, RewardConfig, text_pairs),
    "prm": (PRMTrainer, PRMConfig, solutions),
    "tree": (PRMTrainer, PRMConfig, step_trees),
}


def trained(kind: str, model, folder, count=12, trainer_options=None, **options):
    trainer_class, config_class, make = KINDS[kind]
    trainer = trainer_class(
        model,
        config_class(**quick(folder, **options), seed=3),
        train_dataset=Dataset.from_list(make(count)),
        eval_dataset=Dataset.from_list(make(5, 1)),
        **(trainer_options or {}),
    )
    trainer.train(resume_from_checkpoint=options.get("resume_from_checkpoint"))
    return trainer


def logged(trainer, *keys: str) -> list[float]:
    return [log[key] for log in trainer.state.log_history if "loss" in log for key in keys]


LORA = {"peft_config": LoraConfig(r=2, target_modules="all-linear")}


WAYS = {
    "plain": ({"gradient_checkpointing": False}, {}),
    "checkpointing": ({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}, {}),
    "reentrant": ({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}, {}),
    "padded length": ({"pad_to_multiple_of": 16, "gradient_accumulation_steps": 2}, {}),
    "lora": ({}, LORA),
    "worker": ({"dataloader_num_workers": 1}, {}),
}
EVERYDAY = {
    *itertools.product(["plain"], KINDS),
    *(("checkpointing", "orm"), ("reentrant", "tree"), ("padded length", "prm"), ("lora", "orm"), ("worker", "prm")),
}
"""each way with one kind; the other kinds are left to `make test-all`"""


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        pytest.param(*cell, marks=() if cell in EVERYDAY else pytest.mark.matrix)
        for cell in itertools.product(WAYS, KINDS)
    ],
)
def test_losses_and_figures_are_those_of_the_padded_twin(way, kind, model_path, tmp_path):
    options, trainer_options = WAYS[way]
    packed, padded = (
        trained(kind, model_path, tmp_path, trainer_options=trainer_options, prefix_sharing=sharing, **options)
        for sharing in (True, False)
    )
    assert packed.data_collator.prefix_sharing and not padded.data_collator.prefix_sharing
    keys = ("loss", "grad_norm", "accuracy", "num_tokens")
    assert logged(packed, *keys) == pytest.approx(logged(padded, *keys), rel=1e-4, abs=1e-6)
    assert logged(padded, "sharing_ratio") == [1.0] * 3
    assert min(logged(packed, "sharing_ratio")) > 1.0
    figures, expected = packed.evaluate(), padded.evaluate()
    for key in expected:
        if "runtime" not in key and "per_second" not in key:
            assert figures[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-5), key


def test_each_label_of_a_tree_counts_once(model_path, tmp_path):
    trainer = trained("tree", model_path, tmp_path, count=4)
    labels = sum(len(row["nodes"]) for row in step_trees(4))
    assert sum(label != -100 for row in trainer.train_dataset for label in row["labels"]) == labels
    for collator in (trainer.data_collator, type(trainer.data_collator)(trainer.data_collator.pad_token_id)):
        assert len(collator(list(trainer.train_dataset))["step_labels"]) == labels


# ---- falling back --------------------------------------------------------------------------------------------------


class OwnLoss(RewardTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        assert inputs["input_ids"].shape[0] == 4 and "attention_mask" in inputs  # two pairs, as TRL gives them
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


def foreign_model():
    torch.manual_seed(0)
    return GPT2ForSequenceClassification(
        GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=512, num_labels=1, pad_token_id=0)
    )


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("family", "'gpt2' is not among the tested families"),
        ("attention", "attn_implementation='eager' was asked for"),
        ("collator", "the data collator is yours"),
        ("loss", "OwnLoss has a `compute_loss` of its own"),
        ("dropout", "attention_dropout=0.1"),
    ],
)
def test_what_cannot_share_is_padded_and_says_so_once(case, reason, model_path, tmp_path, caplog):
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    options = {
        "attention": {"model_init_kwargs": {"attn_implementation": "eager"}},
        "dropout": {"model_init_kwargs": {"attention_dropout": 0.1}, "disable_dropout": False},
    }.get(case, {})
    collator = DataCollatorForPreference(pad_token_id=tokenizer.unk_token_id) if case == "collator" else None
    losses = []
    for sharing in (True, False):
        caplog.clear()
        trainer = (OwnLoss if case == "loss" else RewardTrainer)(
            foreign_model() if case == "family" else model_path,
            RewardConfig(**quick(tmp_path, prefix_sharing=sharing, **options)),
            data_collator=collator,
            train_dataset=Dataset.from_list(text_pairs(6)),
            processing_class=tokenizer,
        )
        said = [record.message for record in caplog.records if "prefixes are not shared" in record.message]
        assert len(said) == sharing
        assert not sharing or reason in said[0]
        assert not getattr(trainer.data_collator, "prefix_sharing", False)
        trainer.train()
        losses.append(logged(trainer, "loss", "grad_norm"))
    if case != "dropout":
        assert losses[0] == losses[1]


def test_a_collator_that_shares_needs_a_model_that_can(tmp_path, model_path):
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    data = {"train_dataset": Dataset.from_list(text_pairs(6)), "processing_class": tokenizer}
    collator = PreferenceCollator(tokenizer.unk_token_id, prefix_sharing=True)
    with pytest.raises(ValueError, match="the model cannot take it: 'gpt2' is not among"):
        RewardTrainer(foreign_model(), RewardConfig(**quick(tmp_path)), data_collator=collator, **data)
    trainer = RewardTrainer(model_path, RewardConfig(**quick(tmp_path)), data_collator=collator, **data)
    trainer.train()
    assert min(logged(trainer, "sharing_ratio")) > 1.0


# ---- what the logs say -----------------------------------------------------------------------------------------------


def test_the_logs_count_tokens_and_unique_tokens(model_path, tmp_path):
    trainer = trained("orm", model_path, tmp_path, train_sampling_strategy="sequential", logging_steps=2, max_steps=4)
    rows, tokens, unique = list(trainer.train_dataset), [0], [0]
    for start in (0, 2, 4, 6):
        sequences = [tuple(row[key]) for row in rows[start : start + 2] for key in ("chosen_ids", "rejected_ids")]
        tokens.append(tokens[-1] + sum(map(len, sequences)))
        unique.append(unique[-1] + len({sequence[:n] for sequence in sequences for n in range(1, len(sequence) + 1)}))
    assert logged(trainer, "num_tokens") == tokens[2::2]
    assert logged(trainer, "num_unique_tokens") == unique[2::2]
    expected = [tokens[2] / unique[2], (tokens[4] - tokens[2]) / (unique[4] - unique[2])]
    assert logged(trainer, "sharing_ratio") == pytest.approx(expected)
    assert min(logged(trainer, "tokens_per_second")) > 0


def test_the_progress_bar_shows_them(model_path, tmp_path, capsys):
    trainer = trained("orm", model_path, tmp_path, disable_tqdm=False)
    bars = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, ProgressCallback)]
    assert len(bars) == 1
    shown = capsys.readouterr().err
    assert "tokens/s" in shown and "sharing x1." in shown


# ---- batches by tokens and by prompts ------------------------------------------------------------------------------


def shared_prompts(count: int) -> list[dict]:
    """Rows of three prompts, scattered."""
    g = random.Random(0)
    prompts = [sentence(g, 8, 9) + "\n" for _ in range(3)]
    return [
        {"prompt": prompts[i % 3], "chosen": sentence(g, 1, 9), "rejected": sentence(g, 1, 9)} for i in range(count)
    ]


def test_batches_by_tokens_keep_the_budget_and_every_row(model_path, tmp_path):
    trainer = RewardTrainer(
        model_path,
        RewardConfig(**quick(tmp_path, max_tokens_per_batch=150)),
        train_dataset=Dataset.from_list(text_pairs(40)),
    )
    batches = list(trainer.get_train_dataloader())
    assert max(batch["prefix_tree"]["num_unique_tokens"] for batch in batches) <= 150
    seen = [index for batch in batches for index in batch["rewardplug_id"].tolist()]
    assert sorted(seen) == list(range(40))
    assert len(batches) < 40 / 2  # more than two pairs fit


def test_the_loss_is_a_mean_over_the_step_however_rows_are_packed(model_path, tmp_path):
    """With a learning rate of 0 each pair has one loss; a step's is their mean, not a mean of batch means."""
    trainer = trained(
        "orm", model_path, tmp_path, max_tokens_per_batch=90, gradient_accumulation_steps=2, learning_rate=0.0
    )
    rewards = torch.from_numpy(trainer.predict(trainer.train_dataset).predictions)
    losses = -torch.nn.functional.logsigmoid(rewards[:, 0] - rewards[:, 1])
    batches = [batch["rewardplug_id"] for batch in trainer.get_train_dataloader()]
    sizes = [len(batch) for batch in batches]
    assert len(set(sizes)) > 1, "batches of one size prove nothing"
    for step, found in enumerate(logged(trainer, "loss")):
        assert found == pytest.approx(losses[torch.cat(batches[2 * step : 2 * step + 2])].mean().item(), abs=1e-5)


@pytest.mark.parametrize("by", [{"max_tokens_per_batch": 90}, {"group_by_prefix": True}])
def test_a_resumed_run_goes_on_with_the_same_batches(by, model_path, tmp_path):
    options = {**by, "max_steps": -1, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 7}
    whole = trained("orm", model_path, tmp_path, count=20, **options)
    assert whole.state.epoch == 3.0 and 7 < whole.state.max_steps
    checkpoint = str(tmp_path / "checkpoint-7")
    steps_an_epoch = whole.state.max_steps // 3
    assert 7 % steps_an_epoch, "the checkpoint must lie within an epoch"
    resumed = trained("orm", model_path, tmp_path, count=20, resume_from_checkpoint=checkpoint, **options)
    assert logged(resumed, "loss") == logged(whole, "loss")
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_group_by_prefix_brings_prompts_together(model_path, tmp_path):
    rows = shared_prompts(12)
    ratios = {}
    for grouped in (False, True):
        trainer = RewardTrainer(
            model_path,
            RewardConfig(**quick(tmp_path, group_by_prefix=grouped, per_device_train_batch_size=4)),
            train_dataset=Dataset.from_list(rows),
        )
        batches = list(trainer.get_train_dataloader())
        assert sorted(index for batch in batches for index in batch["rewardplug_id"].tolist()) == list(range(12))
        prompts = [{index % 3 for index in batch["rewardplug_id"].tolist()} for batch in batches]
        ratios[grouped] = sum(map(len, prompts))
        if grouped:
            assert prompts == [{prompt} for (prompt,) in prompts] and len(batches) == 3
    assert ratios[True] < ratios[False]


def test_both_together_fill_the_budget_with_unique_tokens(model_path, tmp_path):
    rows, counts = shared_prompts(24), {}
    for grouped in (False, True):
        trainer = RewardTrainer(
            model_path,
            RewardConfig(**quick(tmp_path, group_by_prefix=grouped, max_tokens_per_batch=160)),
            train_dataset=Dataset.from_list(rows),
        )
        batches = list(trainer.get_train_dataloader())
        assert max(batch["prefix_tree"]["num_unique_tokens"] for batch in batches) <= 160
        counts[grouped] = len(batches)
    assert counts[True] < counts[False]


@pytest.mark.parametrize("option", [{"max_tokens_per_batch": 90}, {"group_by_prefix": True}])
def test_a_stream_cannot_be_planned(option, model_path, tmp_path):
    trainer = RewardTrainer(
        model_path,
        RewardConfig(**quick(tmp_path, **option)),
        train_dataset=Dataset.from_list(text_pairs(8)).to_iterable_dataset(),
    )
    with pytest.raises(ValueError, match=f"`{next(iter(option))}` must see all rows beforehand"):
        trainer.train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens_per_batch": 90, "prefix_sharing": False}, "counts the unique tokens of packed batches"),
        ({"group_by_prefix": True, "accelerator_config": {"split_batches": True}}, "`split_batches=True` cannot go"),
    ],
)
def test_options_that_cannot_go_together(options, message, model_path, tmp_path):
    with pytest.raises(ValueError, match=message):
        trained("orm", model_path, tmp_path, **options)


def test_rows_prepared_without_their_prompts_cannot_be_grouped(model_path, tmp_path):
    prepared = trained("orm", model_path, tmp_path).train_dataset
    args = RewardConfig(**quick(tmp_path, group_by_prefix=True))
    with pytest.raises(ValueError, match="was prepared without it"):
        RewardTrainer(model_path, args, train_dataset=prepared).train()


# ---- solutions and trees in one data set -----------------------------------------------------------------------------


def tokenized_solutions(count: int) -> list[dict]:
    """Without a word about nodes, as TRL's old trainer made them."""
    rows = [{"input_ids": [5, 6, 7 + index, 8], "labels": [-100, 1, -100, index % 2]} for index in range(count)]
    return [{**row, "node_lengths": None, "node_parents": None} for row in rows]


TREE = {
    "input_ids": [5, 6, 7, 8, 9],
    "labels": [-100, -100, 1, -100, 0],
    "node_lengths": [2, 1, 2],
    "node_parents": [-1, 0, 0],
}
MIXED = Dataset.from_list([*tokenized_solutions(9), TREE, *tokenized_solutions(2)])


@pytest.mark.parametrize("sharing", [True, False])
def test_a_stream_of_solutions_may_hold_a_tree(sharing, model_path, tmp_path):
    """Its tenth row is one; the losses are those of the same rows as a data set, in the same order."""
    options = {"train_sampling_strategy": "sequential", "prefix_sharing": sharing, "max_steps": 6}
    losses = []
    for data in (MIXED, MIXED.to_iterable_dataset()):
        trainer = PRMTrainer(model_path, PRMConfig(**quick(tmp_path, **options)), train_dataset=data)
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert len(losses[0]) == 6 and losses[1] == losses[0]


@pytest.mark.parametrize("as_stream", [False, True], ids=["data set", "stream"])
@pytest.mark.parametrize("where", ["train", "eval", "prepared"])
def test_trees_need_a_collator_that_knows_them(where, as_stream, model_path, tmp_path):
    """A tree is found wherever it stands; of a stream, when it is read."""
    tokenizer = AutoTokenizer.from_pretrained(model_path)

    def trainer_for(train, held_out=None, **arguments):
        args = PRMConfig(**quick(tmp_path, max_steps=1))
        return PRMTrainer(model_path, args, train_dataset=train, eval_dataset=held_out, **arguments)

    trees, solutions = MIXED, Dataset.from_list(tokenized_solutions(4))
    if where == "prepared":
        trees = trainer_for(trees).train_dataset
    trees = trees.to_iterable_dataset() if as_stream else trees
    both = (solutions, trees) if where == "eval" else (trees, None)
    name = "eval" if where == "eval" else "train"
    with pytest.raises(ValueError, match=f"The {name} data set has trees of steps, whose alternatives must not see"):
        trainer = trainer_for(*both, data_collator=DataCollatorForTokenClassification(tokenizer))
        list(trainer.eval_dataset if where == "eval" else trainer.train_dataset)


def test_solutions_reach_somebody_else_s_collator_without_nodes(model_path, tmp_path):
    """Raw, tokenized, prepared, and in streams."""
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    prepared = trained("prm", model_path, tmp_path, count=4).train_dataset
    for rows in (Dataset.from_list(solutions(4)), Dataset.from_list(tokenized_solutions(4)), prepared):
        for data in (rows, rows.to_iterable_dataset()):
            trainer = PRMTrainer(
                model_path,
                PRMConfig(**quick(tmp_path, max_steps=2)),
                data_collator=DataCollatorForTokenClassification(tokenizer),
                train_dataset=data,
                eval_dataset=data,
            )
            assert "node_lengths" not in next(iter(trainer.train_dataset))
            trainer.train()
            assert trainer.evaluate()["eval_loss"] > 0


@pytest.mark.parametrize("loss_type", ["pqm", "min_form"])
def test_losses_of_solutions_take_no_trees(loss_type, model_path, tmp_path):
    args = PRMConfig(**quick(tmp_path, loss_type=loss_type))
    with pytest.raises(ValueError, match=f"row 9: .*loss_type='{loss_type}' takes no trees of steps"):
        PRMTrainer(model_path, args, train_dataset=MIXED)
    prepared = PRMTrainer(model_path, PRMConfig(**quick(tmp_path)), train_dataset=MIXED).train_dataset
    with pytest.raises(ValueError, match=f"prepared for another loss than loss_type='{loss_type}'"):
        PRMTrainer(model_path, args, train_dataset=prepared)


def test_the_budget_is_a_positive_number(tmp_path):
    with pytest.raises(ValueError, match="max_tokens_per_batch=0"):
        RewardConfig(**quick(tmp_path, max_tokens_per_batch=0))


def test_options_reach_the_saved_arguments(tmp_path):
    config = PRMConfig(**quick(tmp_path, max_tokens_per_batch=64, group_by_prefix=True))
    assert json.loads(config.to_json_string())["max_tokens_per_batch"] == 64
    assert config.prefix_sharing
