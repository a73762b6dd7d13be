"""PRMTrainer: what TRL 1.13's crashed on works (PITFALLS 25), and its losses are the definition's."""

import functools

import pytest
import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig, PeftModel
from rows import conversations, quick, solutions
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    TrainingArguments,
)

from hf_rewardplug import PRMConfig, PRMTrainer, compute_accuracy


@pytest.fixture(scope="module")
def model_path(assets):
    return str(assets / "stories260K")


def trainer_for(model_path, folder, rows=None, *, options=None, **arguments) -> PRMTrainer:
    rows = solutions(8) if rows is None else rows
    train = Dataset.from_list(rows) if isinstance(rows, list) else rows
    args = PRMConfig(**quick(folder, **(options or {})))
    return PRMTrainer(arguments.pop("model", model_path), args, train_dataset=train, **arguments)


def definition(trainer, rows) -> float:
    """Cross-entropy over all labelled steps, one row at a time through the plain model."""
    tokenizer, losses = trainer.processing_class, []
    plain = functools.partial(tokenizer.encode, add_special_tokens=False)
    for row in rows:
        ids, ends = [tokenizer.bos_token_id, *plain(row["prompt"])], []
        for step in row["completions"]:
            ids += plain(step) + plain("\n")
            ends.append(len(ids) - 1)
        with torch.no_grad():
            logits = trainer.model(torch.tensor([ids])).logits[0, ends]
        labels = torch.tensor([float(label) for label in row["labels"]])
        if logits.shape[-1] == 1:
            losses.append(torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels, reduction="none"))
        else:
            targets = torch.stack([1 - labels, labels], 1)
            losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
    return torch.cat(losses).mean().item()


@pytest.mark.parametrize("num_labels", [1, 2])
@pytest.mark.parametrize("label", [lambda g: g.random() < 0.5, lambda g: g.randint(0, 1), lambda g: g.random()])
def test_bool_int_and_soft_labels_with_one_head_or_two(num_labels, label, model_path, tmp_path):
    rows = solutions(7, label=label)
    trainer = trainer_for(
        model_path, tmp_path, rows, options={"num_labels": num_labels}, eval_dataset=Dataset.from_list(rows)
    )
    assert trainer.model.config.num_labels == num_labels
    assert trainer.evaluate()["eval_loss"] == pytest.approx(definition(trainer, rows), abs=1e-5)
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert trainer.training_step(trainer.model, batch).item() == pytest.approx(definition(trainer, rows), abs=1e-5)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(definition(trainer, rows), abs=1e-5)


def test_eval_set_may_be_a_dict_and_evaluate_takes_raw_rows(model_path, tmp_path):
    held = DatasetDict(a=Dataset.from_list(solutions(3, 1)), train=Dataset.from_list(solutions(4, 2)))
    trainer = trainer_for(model_path, tmp_path, options={"train_on_last_step_only": True}, eval_dataset=held)
    figures = trainer.evaluate()
    assert {"eval_a_loss", "eval_train_accuracy", "eval_a_f1_wrong"} <= set(figures)
    # the option is about training rows alone, whatever an eval set is called
    assert figures["eval_train_loss"] == pytest.approx(definition(trainer, solutions(4, 2)), abs=1e-5)
    assert all(sum(label != -100 for label in row["labels"]) == 1 for row in trainer.train_dataset)
    assert trainer.evaluate(Dataset.from_list(solutions(3, 1)))["eval_loss"] == pytest.approx(figures["eval_a_loss"])


def test_streaming_conversational_and_named(model_path, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    rows = [{**row, "prompt": talk["prompt"]} for row, talk in zip(solutions(9), conversations(9), strict=True)]
    stream = Dataset.from_list(rows).to_iterable_dataset()
    trainer = trainer_for(model_path, tmp_path, stream, processing_class=tokenizer, eval_dataset=stream)
    trainer.train()
    first = next(iter(trainer.train_dataset))
    assert tokenizer.decode(first["input_ids"]).startswith(rows[0]["prompt"][0]["content"].strip())
    assert tokenizer.decode(first["input_ids"]).count(">") == 1
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1


def test_tokenized_train_and_raw_eval(model_path, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    rows = solutions(6)
    tokenized = [PRMTrainer.tokenize_row(row, tokenizer, "\n", None, None, False, False) for row in rows]
    raw = trainer_for(model_path, tmp_path, rows)
    trainer = trainer_for(model_path, tmp_path, tokenized, eval_dataset=Dataset.from_list(rows))
    for column in ("input_ids", "labels", "rewardplug_id"):
        assert trainer.train_dataset[column][:] == raw.train_dataset[column][:]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(definition(trainer, rows), abs=1e-5)


def test_trees_count_each_label_once(model_path, tmp_path, read_rows):
    raw = read_rows("prm800k_val/raw_tree_examples.jsonl", 1)
    rated = [
        c["rating"] for step in raw[0]["label"]["steps"] for c in step["completions"] or [] if c["rating"] is not None
    ]
    trainer = trainer_for(model_path, tmp_path, raw, options={"max_length": None})
    labels = [label for row in trainer.train_dataset for label in row["labels"] if label != -100]
    assert sorted(labels) == sorted(float(rating >= 0) for rating in rated)


def test_somebody_else_s_collator(model_path, tmp_path):
    rows = solutions(6)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    trainer = trainer_for(
        model_path,
        tmp_path,
        [PRMTrainer.tokenize_row(row, tokenizer, "\n", None, None, False, False) for row in rows],
        data_collator=DataCollatorForTokenClassification(tokenizer),
        eval_dataset=Dataset.from_list(rows),
    )
    trainer.train()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(definition(trainer, rows), abs=1e-5)


def test_predictions_are_steps_and_compute_metrics_gets_them(model_path, tmp_path):
    rows = solutions(5, 3)
    trainer = trainer_for(model_path, tmp_path, eval_dataset=Dataset.from_list(rows), compute_metrics=compute_accuracy)
    output = trainer.predict(Dataset.from_list(rows))
    most = max(len(row["labels"]) for row in rows)
    assert output.predictions.shape == (5, most, 2) and output.label_ids.shape == (5, most)
    for row, labels in zip(rows, output.label_ids.tolist(), strict=True):
        assert labels == [int(x) for x in row["labels"]] + [-100] * (most - len(row["labels"]))
    assert output.metrics["test_accuracy"] == compute_accuracy((output.predictions, output.label_ids))["accuracy"]


def test_lora_model_init_and_saving(model_path, tmp_path):
    lora = trainer_for(model_path, tmp_path, peft_config=LoraConfig(target_modules="all-linear", r=2))
    head = lora.model.base_model.model.score.modules_to_save["default"].weight
    before = head.detach().clone()
    lora.train()
    assert not torch.equal(head, before)
    lora.save_model()
    base = AutoModelForTokenClassification.from_pretrained(model_path, num_labels=2)
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert torch.equal(loaded.base_model.model.score.modules_to_save["default"].weight, head)

    def model_init():
        return AutoModelForTokenClassification.from_pretrained(model_path, num_labels=2)

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    trainer = trainer_for(model_path, tmp_path, model=None, model_init=model_init, processing_class=tokenizer)
    trainer.train()
    assert trainer.model.dropout.p == 0 and trainer.model.score.weight.dtype == torch.float32


def test_checkpoints_are_plain_folders_with_a_card(model_path, tmp_path):
    rows = solutions(4, 1)
    trainer = trainer_for(model_path, tmp_path, options={"save_strategy": "steps", "save_steps": 3})
    trainer.train()
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "checkpoint-3").eval()
    assert loaded.config.rewardplug["step_separator"] == "\n" and loaded.config.num_labels == 2
    trained, trainer.model = definition(trainer, rows), loaded
    assert definition(trainer, rows) == pytest.approx(trained, abs=1e-5)
    assert "PRM" in (tmp_path / "README.md").read_text()
    assert trainer._tag_names == ["trl", "prm"]


def test_without_args(model_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = PRMTrainer(model_path, train_dataset=Dataset.from_list(solutions(3)))
    assert type(trainer.args) is PRMConfig and trainer.args.output_dir == "stories260K-PRM"
    assert trainer.model.model_tags == ["trl", "prm"]


def test_defaults_of_trl_1_13_are_kept():
    args = PRMConfig("out", use_cpu=True)
    kept = (args.learning_rate, args.max_length, args.max_completion_length, args.disable_dropout)
    assert kept == (1e-5, 1024, None, True)
    assert (args.step_separator, args.train_on_last_step_only, args.dataset_num_proc) == ("\n", False, None)
    assert (args.logging_steps, args.gradient_checkpointing, args.bf16) == (10, True, True)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"train_dataset": None}, ValueError, "`train_dataset` is required"),
        ({"model": None}, ValueError, "`model` or `model_init` is required"),
        ({"args": TrainingArguments("out", use_cpu=True)}, TypeError, "from hf_rewardplug import PRMConfig"),
        ({"peft_config": {"r": 2}}, TypeError, "peft.LoraConfig"),
        ({"train_dataset": Dataset.from_list([{"chosen": "a", "rejected": "b"}])}, ValueError, "RewardTrainer"),
    ],
)
def test_wrong_arguments_say_what_to_do(change, error, message, model_path, tmp_path):
    arguments = {
        "model": model_path,
        "args": PRMConfig(**quick(tmp_path)),
        "train_dataset": Dataset.from_list(solutions(3)),
        **change,
    }
    with pytest.raises(error, match=message):
        PRMTrainer(**arguments)


def test_three_labels_are_refused(model_path, tmp_path):
    model = AutoModelForTokenClassification.from_pretrained(model_path, num_labels=3)
    with pytest.raises(ValueError, match="num_labels=3"):
        trainer_for(model_path, tmp_path, model=model)
    with pytest.raises(ValueError, match="num_labels=3"):
        PRMConfig("out", num_labels=3, use_cpu=True)
