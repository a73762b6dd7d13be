"""PITFALLS 1 to 13, silently wrong training: each promise, and the same check failing with its mend undone."""

import functools

import numpy as np
import pytest
import torch
import trl
from peft import LoraConfig, PeftModel, get_peft_model
from rows import solutions
from small import pair_loss, pair_rewards, plain, reward, step_losses, step_truth, text_pairs
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from undo import fails_at_trl, fails_without, mean_of_the_batch

import hf_rewardplug
from hf_rewardplug import PRMConfig, PRMTrainer
from hf_rewardplug.data import canonical, encoding
from hf_rewardplug.model import head
from hf_rewardplug.train import tokenizer as trainer_tokenizer
from hf_rewardplug.train.base_trainer import ScoreTrainer
from hf_rewardplug.train.objectives import StepObjective

MEAN_OF_MEANS = (ScoreTrainer, "compute_loss", mean_of_the_batch), (ScoreTrainer, "loss_is_scaled_for_ga", True)


def as_trl_1_13(self, encoder, *, tokenized, name):
    """`StepObjective.encode` with the row function of TRL 1.13: cuts in mid-step, takes every row."""
    limits = (
        encoder.max_length,
        encoder.max_completion_length,
        self.option("train_on_last_step_only"),
        name != "train",
    )

    def encode(row):
        ids = PRMTrainer.tokenize_row(row, encoder.tokenizer, encoder.step_separator, *limits)
        return {**ids, "cut": 0, "cut_labels": 0}

    return encode


OLD_ENCODING = (StepObjective, "encode", as_trl_1_13)


def labelled(row) -> list[float]:
    return [label for label in row["labels"] if label != -100]


def test_pitfall_01_accumulation_steps_do_not_scale_prm_gradients(prm):
    """The old PRMTrainer summed the micro-batches' means (transformers#47688): 4 of them, 4 times the gradient.

    Here: the gradient of the mean over all labelled steps of the optimizer step, for every split.
    """
    rows = solutions(8)

    def holds():
        for batch, accumulation in ((8, 1), (2, 4), (1, 8)):
            trainer = prm(rows, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
            expected = step_truth(plain(trainer), trainer.processing_class, rows)
            trainer.train()
            found = tuple(trainer.state.log_history[0][key] for key in ("loss", "grad_norm"))
            assert found == pytest.approx(expected, rel=1e-4), f"{batch}x{accumulation}"

    fails_without(holds, *MEAN_OF_MEANS, match="2x4")


@pytest.mark.slow
def test_pitfall_02_processes_do_not_scale_prm_gradients(two_ranks):
    """The old PRMTrainer's loss and gradient were multiplied by the ranks (0.699 on one, 1.397 on two).

    Here: two ranks with four rows each take the step of the eight rows.
    """
    expected = step_truth(two_ranks["prm"], two_ranks["tokenizer"], two_ranks["steps"])
    assert two_ranks["mended"]["gradient"] == pytest.approx(expected, rel=1e-4)
    loss, norm = two_ranks["undone"]["gradient"]
    assert loss / expected[0] == pytest.approx(2, abs=0.3) and norm / expected[1] == pytest.approx(2, abs=0.6)


def test_pitfall_03_a_pad_token_that_ends_sequences_does_not_move_the_scored_token(orm, model_path, tmp_path):
    """With pad == eos transformers pools the token before the EOS (transformers#35352, trl#2758); TRL takes it so.

    Here: another pad token, saved too, so that plain transformers scores a padded batch's EOS as training did.
    """
    rows = text_pairs(5)

    def holds(of=hf_rewardplug):
        tokenizer = AutoTokenizer.from_pretrained(model_path)
        tokenizer.pad_token = tokenizer.eos_token
        orm(rows, of=of, processing_class=tokenizer).save_model()
        served, tokenizer = (
            auto_class.from_pretrained(tmp_path) for auto_class in (AutoModelForSequenceClassification, AutoTokenizer)
        )
        texts = [row["prompt"] + row["chosen"] + tokenizer.eos_token for row in rows]
        with torch.no_grad():
            pooled = served(**tokenizer(texts, padding=True, return_tensors="pt")).logits[:, 0].tolist()
        assert pooled == pytest.approx([reward(served, tokenizer(text)["input_ids"]) for text in texts], abs=1e-5)

    fails_without(holds, (trainer_tokenizer, "choose_pad_token", lambda tokenizer, size: tokenizer.eos_token))
    fails_at_trl(holds)


def test_pitfall_04_step_separators_do_not_merge(assets):
    r"""In a joint text ".\n\n" is one token, so steps end elsewhere in scoring than in training (ProcessBench#12).

    Here: one encoder, whose separators are tokens of their own, and an option for a reserved token that cannot merge.
    """
    qwen = AutoTokenizer.from_pretrained(assets / "tokenizers" / "qwen2_5")
    row = {"prompt": "2+2-1?", "completions": ["2+2=4.", "4-1=3."], "labels": [1, 1]}
    joint_text = row["prompt"] + "".join(f"{step}\n\n" for step in row["completions"])
    assert qwen.encode(joint_text).count(271) == 0 and qwen.encode(joint_text).count(382) == 2  # "\n\n" and ".\n\n"

    def joint(tokenizer, completions, separator_ids):
        return [tokenizer(step + tokenizer.decode(separator_ids))["input_ids"] for step in completions]

    def holds():
        encoded = PRMTrainer.encoder(qwen, PRMConfig("out", use_cpu=True, step_separator="\n\n")).steps(row)
        scored = [token for token, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label != -100]
        assert scored == [271, 271]

    fails_without(holds, (encoding, "step_token_ids", joint))
    reserved = PRMTrainer.encoder(qwen, PRMConfig("out", use_cpu=True, step_token="<|fim_pad|>")).steps(row)
    assert reserved["input_ids"] == qwen.encode(joint_text.replace("\n\n", "<|fim_pad|>"))


def test_pitfall_05_soft_labels_are_trained_as_they_are(prm, read_rows):
    """The old PRMTrainer cut labels to int (0.9 -> 0), and PRM800K's -1 crashed its loss.

    Here: cross-entropy with the float; PRM800K's ratings are mapped, and a -1 elsewhere is an error that says so.
    """
    rows = solutions(6, label=lambda g: round(g.random(), 2))
    rated = read_rows("prm800k_val/raw_tree_examples.jsonl", 1)
    completions = [c for step in rated[0]["label"]["steps"] for c in step["completions"] or []]
    ratings = [c["rating"] for c in completions if c["rating"] is not None]

    def holds():
        trainer = prm(rows, rows)
        expected = step_losses(plain(trainer), trainer.processing_class, rows).mean().item()
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)

    def refuses():
        with pytest.raises(ValueError, match=r"row 1: column 'labels': label 0 is -1.0; .* Map other ratings"):
            prm([*rows[:1], {**rows[1], "labels": [-1] * len(rows[1]["labels"])}])

    cut_to_int = (canonical, "_label", lambda label, index, column: int(label))
    fails_without(holds, cut_to_int)
    fails_without(refuses, cut_to_int)
    found = [label for row in prm(rated, max_length=None).train_dataset for label in labelled(row)]
    assert sorted(found) == sorted({-1: 0.0, 0: 1.0, 1: 1.0}[rating] for rating in ratings)


def test_pitfall_06_truncation_cuts_between_steps_and_counts_the_labels(prm):
    """The old PRMTrainer cut in the middle of a step, whose label was gone without a word.

    Here: every sequence ends with a labelled step, and the report counts the labels that were cut.
    """
    rows = solutions(12, 3)
    given = sum(len(row["labels"]) for row in rows)

    def holds():
        trainer = prm(rows, max_length=20)
        kept = [labelled(row) for row in trainer.train_dataset]
        assert all(row["labels"][-1] != -100 for row in trainer.train_dataset)
        assert any(kept) and 0 < trainer.preparation_reports["train"].cut_labels == given - sum(map(len, kept))
        assert max(len(row["input_ids"]) for row in trainer.train_dataset) <= 20

    fails_without(holds, OLD_ENCODING)


def test_pitfall_07_rows_without_a_label_give_no_nan(prm):
    """A micro-batch in which all is ignored had a NaN loss, which transformers' NaN filter logged as 0.0.

    Here: such rows are left out and counted, and a loss is divided by one at least.
    """
    rows = solutions(4, label=lambda g: g.randint(0, 1))
    for index in (1, 3):
        rows[index]["labels"] = [-100] * len(rows[index]["labels"])

    def holds():
        trainer = prm(rows, per_device_train_batch_size=1, max_steps=-1, num_train_epochs=1)
        expected = step_losses(plain(trainer), trainer.processing_class, rows[:1]).mean().item()
        trainer.train()
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        assert losses[0] == pytest.approx(expected, abs=1e-5) and min(losses) > 0.1
        assert trainer.preparation_reports["train"].dropped == {"no labelled step": [1, 3]}

    fails_without(holds, OLD_ENCODING, *MEAN_OF_MEANS)
    trainer = prm(rows)
    batch = trainer.data_collator(
        [{**trainer.train_dataset[0], "labels": [-100] * len(trainer.train_dataset[0]["labels"])}]
    )

    def divides_by_one_at_least():
        assert trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(0)).item() == 0

    fails_without(divides_by_one_at_least, *MEAN_OF_MEANS)


def test_pitfall_08_lora_of_any_task_type_keeps_the_head(orm, model_path, tmp_path):
    """LoRA without a task type freezes the head and does not save it (16.56 for 0.074); `all-linear` wraps it in LoRA.

    Here: the head trains, is saved and is loaded again, for a `peft_config` and for a `PeftModel` made by hand.
    """
    rows = text_pairs(4)

    def base():
        return AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=1)  # with a new random head

    def holds(of, targets, ready_made):
        config = LoraConfig(target_modules=targets, r=2)
        given = {"model": get_peft_model(base(), config)} if ready_made else {"peft_config": config}
        folder = tmp_path / f"{of.__name__}-{targets}-{ready_made}"
        trainer = orm(rows, of=of, folder=folder, max_steps=2, **given)

        def scores(model):
            ids = [trainer.processing_class(row["prompt"])["input_ids"] for row in rows]
            with torch.no_grad():
                return [model.eval()(input_ids=torch.tensor([x])).logits.item() for x in ids]

        def heads():
            return torch.cat(
                [p.detach().flatten() for name, p in trainer.model.named_parameters() if ".score." in name]
            )

        before = heads()
        trainer.train()
        trainer.save_model()
        assert (heads() != before).float().mean() > 0.4  # PEFT keeps the first one beside the one that trains
        assert scores(PeftModel.from_pretrained(base(), folder)) == pytest.approx(scores(trainer.model), abs=1e-5)

    for ready_made in (False, True):
        for targets in (["q_proj"], "all-linear"):
            fails_at_trl(functools.partial(holds, targets=targets, ready_made=ready_made))


def test_pitfall_09_the_head_of_a_bf16_model_moves(orm):
    """TRL trains the head in the body's bf16, where most of its weights ignore a learning rate of 1e-5.

    Here: the head is fp32, and every weight moves.
    """

    def holds(of=hf_rewardplug):
        options = {"model_init_kwargs": {"dtype": "bfloat16"}, "learning_rate": 1e-5, "max_steps": 4}
        trainer = orm(text_pairs(8), of=of, **options)
        before = trainer.model.score.weight.detach().clone()
        trainer.train()
        assert (trainer.model.score.weight == before).float().mean() < 0.02

    fails_without(holds, (head, "_to_fp32", lambda module: None))
    fails_at_trl(holds)


def test_pitfall_10_the_rewards_of_a_bf16_model_are_told_apart(orm):
    """A bf16 product has few values (1005 distinct ones of 2000), and TRL counts ties as wrong.

    Here: the product is fp32, and the share of ties is an evaluation figure.
    """
    rows = text_pairs(30)

    def holds(of=hf_rewardplug):
        trainer = orm(rows, rows, of=of, model_init_kwargs={"dtype": "bfloat16"}, per_device_eval_batch_size=30)
        if of is not trl:
            expected = pair_rewards(plain(trainer), trainer.processing_class, rows)
            assert trainer.evaluate()["eval_ties"] == (expected[:, 0] == expected[:, 1]).float().mean().item()
        assert len(np.unique(trainer.predict(trainer.eval_dataset).predictions)) >= 59

    def in_the_body_s_dtype(self, hidden):
        return torch.nn.functional.linear(hidden, self.weight.to(hidden.dtype))

    fails_without(holds, (head.RewardHead, "forward", in_the_body_s_dtype))
    fails_at_trl(holds)


def test_pitfall_11_rows_over_max_length_are_counted_and_none_left_is_told(orm, caplog):
    """TRL drops long rows in silence (20 -> 5), and with none left a sampler fails.

    Here: the same rows are left out, named in the log; `overlong` can cut or refuse them; none left is a clear error.
    """
    rows = text_pairs(6)
    rows[1]["chosen"] = rows[4]["rejected"] = "cat " * 60

    def names_them(of):
        caplog.clear()
        assert len(orm(rows, of=of, max_length=50).train_dataset) == 4
        assert "longer than max_length=50: 2 (rows 1, 4)" in caplog.text

    def says_why_none_is_left(of):
        with pytest.raises(ValueError, match="max_length"):
            orm(rows, of=of, max_length=2, max_steps=-1).train()

    fails_at_trl(names_them)
    fails_at_trl(says_why_none_is_left)
    with pytest.raises(ValueError, match=r"row 1: .* tokens are more than max_length=50"):
        orm(rows, max_length=50, overlong="error")
    long_prompts = [{**row, "prompt": "dog " * 60 + row["prompt"]} for row in text_pairs(3)]
    cut = orm(long_prompts, max_length=50, overlong="truncate")
    assert cut.preparation_reports["train"].cut_rows == [0, 1, 2]
    assert [max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in cut.train_dataset] == [50] * 3


def test_pitfall_12_identical_answers_are_left_out(orm):
    """TRL trains a pair of equal answers, whose loss is ln 2 for ever.

    Here: left out and reported, also where they differ only in the EOS that is appended.
    """
    rows = text_pairs(5)
    rows[1]["rejected"] = rows[1]["chosen"]
    rows[3]["rejected"] = rows[3]["chosen"] + "</s>"

    def holds(of):
        trainer = orm(rows, rows, of=of)
        with torch.no_grad():
            trainer.model.score.weight *= 20  # losses far from ln 2
        rewards = pair_rewards(plain(trainer), trainer.processing_class, [rows[index] for index in (0, 2, 4)])
        assert trainer.evaluate()["eval_loss"] == pytest.approx(pair_loss(rewards), abs=1e-5)
        assert trainer.preparation_reports["eval"].dropped == {"chosen and rejected are identical": [1, 3]}

    fails_at_trl(holds)


def test_pitfall_13_empty_steps_do_not_shift_labels(prm, tokenizer):
    """An empty step had a label and no text: the old row function gave more labels than tokens, or a lone separator.

    Here: rows with an empty step or none are left out and named; every label stands behind a step of its own.
    """
    rows = solutions(4)
    rows[1] = {"prompt": "the cat", "completions": ["sat", "", "ran"], "labels": [True, False, True]}
    rows[2] = {"prompt": "the dog", "completions": [], "labels": []}
    old = PRMTrainer.tokenize_row(rows[1], tokenizer, "", None, None, False, False)
    assert len(old["labels"]) == len(old["input_ids"]) + 1
    separator = len(tokenizer.encode("\n", add_special_tokens=False))

    def holds():
        trainer = prm(rows)
        for row in trainer.train_dataset:
            ends = [index for index, label in enumerate(row["labels"]) if label != -100]
            assert len(row["labels"]) == len(row["input_ids"]) and all(np.diff([0, *ends]) > separator)
        dropped = trainer.preparation_reports["train"].dropped
        assert dropped == {
            "column 'completions': a step is empty": [1],
            "column 'completions': there are no steps": [2],
        }

    fails_without(holds, OLD_ENCODING, (StepObjective, "expand", lambda self, row: [row]))
