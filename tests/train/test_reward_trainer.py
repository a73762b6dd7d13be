"""RewardTrainer against TRL's own, on a real pretrained model of 260 thousand parameters."""

import inspect
import json

import pytest
import torch
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from rows import conversations, quick, solutions, text_pairs
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaModel
from trl.trainer.reward_trainer import DataCollatorForPreference

from hf_rewardplug import RewardConfig, RewardTrainer


@pytest.fixture(scope="module")
def model_path(assets):
    return str(assets / "stories260K")


def logged(trainer, key: str) -> list[float]:
    return [log[key] for log in trainer.state.log_history if "loss" in log]


def both(model_path, folder, rows, held_out, own=None, **options):
    """TRL's trainer and ours after the same run."""
    trainers = []
    for trainer_class, config_class in ((trl.RewardTrainer, trl.RewardConfig), (RewardTrainer, RewardConfig)):
        if trainer_class is RewardTrainer:
            options |= own or {}
        args = config_class(**quick(folder, max_steps=10, per_device_train_batch_size=4, **options))
        tokenizer = AutoTokenizer.from_pretrained(model_path)
        if "role" in str(rows[0]):
            tokenizer.chat_template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        trainer = trainer_class(
            model_path,
            args,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(held_out),
            processing_class=tokenizer,
        )
        trainer.train()
        trainers.append(trainer)
    return trainers


@pytest.mark.parametrize("prefix_sharing", [True, False])
@pytest.mark.parametrize("kind", ["text", "conversational", "margin"])
def test_ten_steps_follow_trl(kind, prefix_sharing, model_path, tmp_path):
    make = conversations if kind == "conversational" else text_pairs
    rows, held_out = make(40, 0), make(6, 1)
    options = {"center_rewards_coefficient": 0.01}
    if kind == "margin":
        rows, held_out = ([{**row, "margin": 0.5} for row in some] for some in (rows, held_out))
        options = {"gradient_checkpointing": False}
    theirs, ours = both(model_path, tmp_path, rows, held_out, {"prefix_sharing": prefix_sharing}, **options)
    for key in ("loss", "grad_norm", "learning_rate", "accuracy", "margin", "mean_reward", "num_tokens"):
        assert logged(ours, key) == pytest.approx(logged(theirs, key), abs=2e-4), key
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        # Adam makes steps of a size out of a gradient's rounding, so single weights near 0 may part; the norm may not
        assert (a - b).norm() <= 1e-4 * a.norm()
        if not prefix_sharing:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    expected, figures = (
        theirs.evaluate(),
        ours.evaluate(),
    )  # two batches of three: TRL's averages are right
    for key in ("eval_loss", "eval_accuracy", "eval_margin", "eval_mean_reward", "eval_num_tokens"):
        assert figures[key] == pytest.approx(expected[key], abs=2e-4), key


def test_accumulated_micro_batches_follow_trl(model_path, tmp_path):
    theirs, ours = both(model_path, tmp_path, text_pairs(64), text_pairs(3, 1), gradient_accumulation_steps=2)
    assert logged(ours, "loss") == pytest.approx(logged(theirs, "loss"), abs=2e-4)


def test_a_batch_right_after_construction_has_its_mean_loss(model_path, tmp_path):
    args = RewardConfig(**quick(tmp_path, gradient_accumulation_steps=4))
    trainer = RewardTrainer(model_path, args, train_dataset=Dataset.from_list(text_pairs(5)))
    rows = list(trainer.train_dataset)
    loss = trainer.training_step(trainer.model, trainer.data_collator(rows))
    plain = AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=1)
    plain.load_state_dict(trainer.model.state_dict())
    losses = []
    for row in rows:
        chosen, rejected = (plain(torch.tensor([row[key]])).logits for key in ("chosen_ids", "rejected_ids"))
        losses.append(-torch.nn.functional.logsigmoid(chosen - rejected))
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-5)


def test_predict_takes_raw_rows_and_leaves_evaluate_alone(model_path, tmp_path):
    seen = {}

    def compute_metrics(prediction):
        seen.update(predictions=prediction.predictions, labels=prediction.label_ids)
        return {"mine": float((prediction.predictions[:, 0] > prediction.predictions[:, 1]).mean())}

    trainer = RewardTrainer(
        model_path,
        RewardConfig(**quick(tmp_path)),
        train_dataset=Dataset.from_list(text_pairs(4)),
        eval_dataset=Dataset.from_list(text_pairs(5, 1)),
        compute_metrics=compute_metrics,
    )
    before = trainer.evaluate()
    assert seen["predictions"].shape == (5, 2) and seen["labels"].tolist() == [0] * 5
    assert before["eval_mine"] == pytest.approx(before["eval_accuracy"])
    output = trainer.predict(Dataset.from_list(text_pairs(7, 2)))
    assert output.predictions.shape == (7, 2) and output.metrics["test_accuracy"] == output.metrics["test_mine"]
    after = trainer.evaluate()
    assert {k: v for k, v in after.items() if "second" not in k and "runtime" not in k} == {
        k: v for k, v in before.items() if "second" not in k and "runtime" not in k
    }


def test_a_checkpoint_is_a_plain_folder_that_scores_the_same(model_path, tmp_path):
    trainer = RewardTrainer(
        model_path,
        RewardConfig(**quick(tmp_path)),
        train_dataset=Dataset.from_list(text_pairs(8)),
        eval_dataset=Dataset.from_list(text_pairs(4, 1)),
    )
    trainer.train()
    trainer.save_model()
    predictions = trainer.predict(trainer.eval_dataset).predictions
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.problem_type == "regression" and model.config.pad_token_id == tokenizer.pad_token_id
    rows = text_pairs(4, 1)
    texts = [row["prompt"] + row[key] + tokenizer.eos_token for row in rows for key in ("chosen", "rejected")]
    with torch.no_grad():
        plain = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.view(4, 2)
    torch.testing.assert_close(plain, torch.from_numpy(predictions), rtol=0, atol=1e-5)
    assert json.loads((tmp_path / "config.json").read_text())["rewardplug"]["kind"] == "orm"


def test_a_resumed_run_ends_where_the_whole_one_ends(model_path, tmp_path):
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    data = {"train_dataset": Dataset.from_list(text_pairs(20))}
    whole = RewardTrainer(model_path, RewardConfig(**quick(tmp_path, **options)), **data)
    whole.train()
    resumed = RewardTrainer(model_path, RewardConfig(**quick(tmp_path, **options)), **data)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_lora_of_any_task_type_trains_and_saves_the_head(model_path, tmp_path):
    trainer = RewardTrainer(
        model_path,
        RewardConfig(**quick(tmp_path)),
        train_dataset=Dataset.from_list(text_pairs(8)),
        peft_config=LoraConfig(target_modules="all-linear", r=2),
    )
    assert isinstance(trainer.model, PeftModel)
    head = trainer.model.base_model.model.score.modules_to_save["default"].weight
    before = head.detach().clone()
    trainer.train()
    assert not torch.equal(head, before)
    trainer.save_model()
    base = AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=1)
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert torch.equal(loaded.base_model.model.score.modules_to_save["default"].weight, head)


def test_a_bf16_model_trains_with_an_fp32_head(model_path, tmp_path):
    args = RewardConfig(**quick(tmp_path, model_init_kwargs={"dtype": "bfloat16"}, max_steps=1))
    trainer = RewardTrainer(model_path, args, train_dataset=Dataset.from_list(text_pairs(4)))
    assert trainer.model.score.weight.dtype == torch.float32
    trainer.train()
    assert trainer.model.model.embed_tokens.weight.dtype == torch.bfloat16


def test_pad_equal_to_eos_is_mended_and_told(model_path, tmp_path, caplog):
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    tokenizer.pad_token = tokenizer.eos_token
    trainer = RewardTrainer(
        model_path,
        RewardConfig(**quick(tmp_path)),
        train_dataset=Dataset.from_list(text_pairs(4)),
        processing_class=tokenizer,
    )
    assert tokenizer.pad_token_id != tokenizer.eos_token_id == trainer.model.config.eos_token_id
    assert trainer.model.config.pad_token_id == tokenizer.pad_token_id
    assert "also ends sequences" in caplog.text


def test_streams_train_and_evaluate(model_path, tmp_path):
    trainer = RewardTrainer(
        model_path,
        RewardConfig(**quick(tmp_path)),
        train_dataset=Dataset.from_list(text_pairs(12)).to_iterable_dataset(),
        eval_dataset={"held": Dataset.from_list(text_pairs(5, 1)).to_iterable_dataset()},
    )
    trainer.train()
    mapped = trainer.evaluate(Dataset.from_list(text_pairs(5, 1)))
    streamed = trainer.evaluate()
    assert streamed["eval_held_loss"] == pytest.approx(mapped["eval_loss"], abs=1e-6)


def test_without_args_the_defaults_are_trl_s(model_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = RewardTrainer(model_path, train_dataset=Dataset.from_list(text_pairs(4)))
    assert type(trainer.args) is RewardConfig and trainer.args.output_dir == "stories260K-Reward"
    assert trainer.model.model_tags == trainer._tag_names == ["trl", "reward-trainer"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"train_dataset": None}, ValueError, "`train_dataset` is required"),
        ({"train_dataset": text_pairs(3)}, TypeError, "`Dataset` or `IterableDataset`"),
        ({"args": trl.RewardConfig(**quick("out"))}, TypeError, "from hf_rewardplug import RewardConfig"),
        ({"eval_dataset": Dataset.from_list([{"a": 1}])}, ValueError, "'a'"),
        ({"train_dataset": Dataset.from_list(solutions(2))}, ValueError, "PRMTrainer"),
    ],
)
def test_wrong_arguments_say_what_to_do(change, error, message, model_path, tmp_path):
    arguments = {"args": RewardConfig(**quick(tmp_path)), "train_dataset": Dataset.from_list(text_pairs(3)), **change}
    with pytest.raises(error, match=message):
        RewardTrainer(model_path, **arguments)


def test_a_model_with_two_labels_is_refused_in_trl_s_words(model_path, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=2)
    with pytest.raises(ValueError, match="reward models require `num_labels=1`"):
        RewardTrainer(model, RewardConfig(**quick(tmp_path)), train_dataset=Dataset.from_list(text_pairs(3)))


def test_rows_left_out_are_reported_with_their_numbers(model_path, tmp_path, caplog):
    rows = text_pairs(6)
    rows[2]["rejected"] = rows[2]["chosen"]
    rows[4]["chosen"] = "cat " * 200
    args = RewardConfig(**quick(tmp_path, max_length=100))
    trainer = RewardTrainer(model_path, args, train_dataset=Dataset.from_list(rows))
    report = trainer.preparation_reports["train"]
    assert report.dropped == {"chosen and rejected are identical": [2], "longer than max_length=100": [4]}
    assert len(trainer.train_dataset) == report.examples == 4 and "row 2" in caplog.text


def test_a_stream_with_nothing_left_names_max_length(model_path, tmp_path):
    stream = Dataset.from_list(text_pairs(6)).to_iterable_dataset()
    trainer = RewardTrainer(model_path, RewardConfig(**quick(tmp_path, max_length=2)), train_dataset=stream)
    with pytest.raises(ValueError, match="`max_length`"):
        trainer.train()


def test_a_raw_column_called_example_id_is_no_sign_of_preparation(model_path, tmp_path):
    rows = Dataset.from_list([{**row, "rewardplug_id": 7} for row in text_pairs(4)])
    trainer = RewardTrainer(model_path, RewardConfig(**quick(tmp_path)), train_dataset=rows, eval_dataset=rows)
    assert trainer.train_dataset["rewardplug_id"][:] == [0, 1, 2, 3]
    assert len(trainer.predict(rows).predictions) == 4


def test_columns_of_trl_before_1_0_are_read_with_a_warning(model_path, tmp_path):
    columns = {"chosen_input_ids": [[4, 5, 6], [8]], "rejected_input_ids": [[4, 7], [9]]}
    with pytest.warns(FutureWarning, match="chosen_input_ids"):
        trainer = RewardTrainer(model_path, RewardConfig(**quick(tmp_path)), train_dataset=Dataset.from_dict(columns))
    assert trainer.train_dataset["chosen_ids"][:] == [[4, 5, 6], [8]]


def test_template_arguments_and_tools_of_a_row_reach_the_template(model_path, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    turns = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.chat_template = "{{ mood }}{% if tools %}{{ tools[0].function.name }}{% endif %}" + turns
    tool = {"type": "function", "function": {"name": "look", "description": "d", "parameters": {}}}
    extra = {"chat_template_kwargs": {"mood": "happy"}, "tools": json.dumps([tool])}
    trainer = RewardTrainer(
        model_path,
        RewardConfig(**quick(tmp_path)),
        train_dataset=Dataset.from_list([{**row, **extra} for row in conversations(3)]),
        processing_class=tokenizer,
    )
    assert all(tokenizer.decode(ids).startswith("happylook") for ids in trainer.train_dataset["chosen_ids"])
    trainer.save_model()
    assert (tmp_path / "chat_template.jinja").read_text() == tokenizer.chat_template


def test_a_loss_of_the_user_s_own_accumulates_as_in_trl(model_path, tmp_path):
    def by_hand(base):
        class Hinge(base):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                plain = {key: inputs[key] for key in ("input_ids", "attention_mask")}
                chosen, rejected = model(**plain).logits.squeeze(-1).chunk(2)
                loss = torch.relu(1 - chosen + rejected).mean()
                return (loss, {"loss": loss}) if return_outputs else loss

        return Hinge

    losses = []
    for trainer_class, config_class in ((trl.RewardTrainer, trl.RewardConfig), (RewardTrainer, RewardConfig)):
        args = config_class(**quick(tmp_path, gradient_accumulation_steps=2))
        rows, held_out = Dataset.from_list(text_pairs(12)), Dataset.from_list(text_pairs(4, 1))
        trainer = by_hand(trainer_class)(model_path, args, train_dataset=rows, eval_dataset=held_out)
        trainer.train()
        losses.append([(log["loss"], log["grad_norm"]) for log in trainer.state.log_history if "loss" in log])
        assert trainer.evaluate()["eval_loss"] > 0
    assert losses[1] == [pytest.approx(step, rel=1e-4) for step in losses[0]]


WITHOUT_PREFIX_TUNING = pytest.mark.xfail(
    "cache" in inspect.signature(LlamaModel.forward).parameters,
    reason="PEFT 0.21.2 looks for `past_key_values`, which transformers 5.24 calls `cache`",
    raises=ValueError,
    strict=True,
)


@pytest.mark.parametrize(
    "config_class",
    [PromptTuningConfig, PromptEncoderConfig, pytest.param(PrefixTuningConfig, marks=WITHOUT_PREFIX_TUNING)],
)
def test_virtual_tokens_do_not_move_the_scored_token(config_class, model_path, tmp_path):
    trainer = RewardTrainer(
        model_path,
        RewardConfig(**quick(tmp_path, gradient_checkpointing=False)),
        train_dataset=Dataset.from_list(text_pairs(4)),
        peft_config=config_class(task_type="SEQ_CLS", num_virtual_tokens=4),
    )
    rows = trainer.train_dataset
    predictions = torch.from_numpy(trainer.predict(rows).predictions)
    with torch.no_grad():
        for row, scores in zip(rows, predictions, strict=True):
            ids = [torch.tensor([row[key]]) for key in ("chosen_ids", "rejected_ids")]
            plain = [trainer.model(input_ids=x, attention_mask=torch.ones_like(x)).logits.view(()) for x in ids]
            torch.testing.assert_close(scores, torch.stack(plain), rtol=0, atol=1e-5)


@pytest.mark.parametrize("extra", [{"trainable_token_indices": [5, 6]}, {"target_modules": ["q_proj", "embed_tokens"]}])
def test_adapters_on_the_embedding(extra, model_path, tmp_path):
    config = LoraConfig(**{"r": 2, "target_modules": ["q_proj"], **extra})
    args = RewardConfig(**quick(tmp_path))
    RewardTrainer(model_path, args, train_dataset=Dataset.from_list(text_pairs(4)), peft_config=config).train()


def test_an_adapter_s_folder_has_the_config_and_trl_s_collator_takes_our_streams(model_path, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    trainer = RewardTrainer(
        model_path,
        RewardConfig(**quick(tmp_path)),
        data_collator=DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id),
        train_dataset=Dataset.from_list(text_pairs(6)).to_iterable_dataset(),
        peft_config=LoraConfig(target_modules=["q_proj"], r=2),
    )
    trainer.train()
    trainer.save_model()
    saved = json.loads((tmp_path / "reward_config.json").read_text())
    assert saved["rewardplug"]["kind"] == "orm" and saved["problem_type"] == "regression"


def test_the_pad_token_argument_and_liger_without_a_gpu(model_path, tmp_path, caplog):
    with pytest.warns(FutureWarning, match="pad_token"):
        args = RewardConfig(**quick(tmp_path, use_liger_kernel=True, pad_token="<unk>"))
    trainer = RewardTrainer(model_path, args, train_dataset=Dataset.from_list(text_pairs(4)))
    assert (
        trainer.data_collator.pad_token_id == trainer.model.config.pad_token_id == trainer.processing_class.pad_token_id
    )
    if not torch.cuda.is_available():
        assert "do not run on 'cpu'" in caplog.text and not trainer.args.use_liger_kernel
        trainer.train()
