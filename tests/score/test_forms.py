"""Strings are scored in the form of the rows that the model was trained on: text, or the turns of a conversation."""

import json
import logging

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from rows import conversations, quick, solutions, text_pairs
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardScorer, RewardTrainer, merge_adapter
from hf_rewardplug.cli import app
from hf_rewardplug.demo import save_demo_model
from hf_rewardplug.score.benchmarks import evaluate
from hf_rewardplug.score.callback import BenchmarkCallback
from hf_rewardplug.score.check import check_model

NOTICE = "was trained on conversations, so strings are rendered"
TRAINERS = {"orm": (RewardTrainer, RewardConfig), "prm": (PRMTrainer, PRMConfig)}


def talks_about(rows: list[dict]) -> list[dict]:
    """Step rows with their prompt as a user's turn."""
    return [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return str(save_demo_model(tmp_path_factory.mktemp("base"), style="qwen"))


def trained(kind, base, folder, rows, *, peft_config=None, callbacks=None, held_out=None, **options):
    trainer_class, config_class = TRAINERS[kind]
    tokenizer = AutoTokenizer.from_pretrained(base)
    trainer = trainer_class(
        base,
        config_class(**quick(folder, chat_template="chatml", learning_rate=1e-2, **options)),
        train_dataset=Dataset.from_list(rows) if isinstance(rows, list) else rows,
        eval_dataset=None if held_out is None else Dataset.from_list(held_out),
        processing_class=tokenizer,
        peft_config=peft_config,
        callbacks=callbacks,
    )
    trainer.train()
    trainer.save_model()
    return trainer


@pytest.fixture(scope="module")
def talker(base, tmp_path_factory):
    """An ORM of conversations: its folder, and the rewards of the chosen answers that its trainer predicts."""
    folder = tmp_path_factory.mktemp("talker")
    trainer = trained("orm", base, folder, conversations(8))
    return str(folder), trainer.predict(Dataset.from_list(conversations(5, 1))).predictions[:, 0].tolist()


@pytest.fixture(scope="module")
def writer(base, tmp_path_factory) -> str:
    """An ORM of text."""
    folder = tmp_path_factory.mktemp("writer")
    trained("orm", base, folder, text_pairs(8))
    return str(folder)


STRINGS = text_pairs(5, 1)
PROMPTS, ANSWERS = [row["prompt"] for row in STRINGS], [row["chosen"] for row in STRINGS]


def plain(folder: str, texts: list[str]) -> list[float]:
    """transformers alone, text by text with the EOS behind it."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return [model(**tokenizer(text + tokenizer.eos_token, return_tensors="pt")).logits.item() for text in texts]


def test_strings_are_the_turns_of_training_however_they_come(talker, caplog):
    folder, expected = talker
    scorer = RewardScorer.from_pretrained(folder)
    assert scorer.score(PROMPTS, ANSWERS) == pytest.approx(expected, abs=1e-5)
    assert scorer.score(PROMPTS, [[answer] for answer in ANSWERS]) == [[pytest.approx(e, abs=1e-5)] for e in expected]
    assert scorer.score(PROMPTS[0], ANSWERS[0]) == pytest.approx(expected[0], abs=1e-5)
    assert scorer(prompts=PROMPTS, completions=ANSWERS, completion_ids=[[1]] * 5) == pytest.approx(expected, abs=1e-5)
    rows = [{"prompt": prompt, "completion": answer} for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    assert list(scorer.score_rows(rows)) == pytest.approx(expected, abs=1e-5)
    assert caplog.text.count(NOTICE) == 1


def test_text_stays_text_where_it_is_asked_for(talker, caplog):
    folder, expected = talker
    of_text = plain(folder, [prompt + answer for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)])
    assert of_text != pytest.approx(expected, abs=1e-2)
    scorer = RewardScorer.from_pretrained(folder)
    assert scorer.score(PROMPTS, ANSWERS, as_text=True) == pytest.approx(of_text, abs=1e-5)
    rows = [{"prompt": prompt, "completion": answer} for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    assert list(scorer.score_rows(rows, as_text=True)) == pytest.approx(of_text, abs=1e-5)
    of_texts = RewardScorer.from_pretrained(folder, as_text=True)
    assert of_texts(PROMPTS, ANSWERS) == pytest.approx(of_text, abs=1e-5)
    assert NOTICE not in caplog.text
    assert of_texts.score(PROMPTS, ANSWERS, as_text=False) == pytest.approx(expected, abs=1e-5)


def test_a_checkpoint_that_says_nothing_keeps_text(talker, caplog, tmp_path):
    folder, _ = talker
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    del model.config.rewardplug["rows"]
    scorer = RewardScorer(model, AutoTokenizer.from_pretrained(folder))
    of_text = plain(folder, [prompt + answer for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)])
    assert scorer.score(PROMPTS, ANSWERS) == pytest.approx(of_text, abs=1e-5)
    assert caplog.text == ""


def test_a_model_of_text_says_that_it_has_seen_no_conversation(writer, caplog):
    scorer = RewardScorer.from_pretrained(writer)
    of_text = plain(writer, [prompt + answer for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)])
    assert scorer.score(PROMPTS, ANSWERS) == pytest.approx(of_text, abs=1e-5) and caplog.text == ""
    rows = conversations(5, 1)
    for _ in range(2):
        scorer.score([row["prompt"] for row in rows], [row["chosen"] for row in rows])
    assert caplog.text.count("the model was trained on text, and has never seen a conversation") == 1


def test_a_model_of_both_keeps_what_it_is_given(base, tmp_path, caplog):
    """A format whose rows are text or turns, as one data set may mix them."""
    from hf_rewardplug import register_adapter

    @register_adapter("text_or_turns", overwrite=True)
    def text_or_turns(row):
        return json.loads(row["json"])

    rows = [{"json": json.dumps(row)} for row in text_pairs(4) + conversations(3)]
    trainer = trained("orm", base, tmp_path, rows, adapter="text_or_turns")
    assert "train: 4 examples are text and 3 are conversations" in caplog.text
    assert trainer.model.config.rewardplug["rows"] == "both"
    caplog.clear()
    scorer, talks = RewardScorer.from_pretrained(str(tmp_path)), conversations(5, 1)
    of_text = plain(str(tmp_path), [prompt + answer for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)])
    expected = trainer.predict(Dataset.from_list([{"json": json.dumps(row)} for row in talks])).predictions[:, 0]
    assert scorer.score(PROMPTS, ANSWERS) == pytest.approx(of_text, abs=1e-5)
    found = scorer.score([row["prompt"] for row in talks], [row["chosen"] for row in talks])
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    assert "'both'" not in caplog.text and NOTICE not in caplog.text


def test_the_prompts_of_a_process_reward_model(base, tmp_path, caplog):
    steps, talks = solutions(5, 1), talks_about(solutions(5, 1))
    trainer = trained("prm", base, tmp_path, talks_about(solutions(8)))
    predictions = torch.from_numpy(trainer.predict(Dataset.from_list(talks)).predictions).softmax(-1)[..., 1]
    expected = [of[: len(row["completions"])].tolist() for of, row in zip(predictions, steps, strict=True)]
    scorer = RewardScorer.from_pretrained(str(tmp_path))
    prompts, completions = [row["prompt"] for row in steps], [row["completions"] for row in steps]
    for of_row, values in zip(scorer.score_steps(prompts, completions), expected, strict=True):
        assert of_row == pytest.approx(values, abs=1e-5)
    assert caplog.text.count(NOTICE) == 1
    joined = ["\n".join(of_row) for of_row in completions]
    assert scorer.score(prompts, joined) == pytest.approx([min(values) for values in expected], abs=1e-5)
    as_text = scorer.score_steps(prompts, completions, as_text=True)
    assert as_text[0] != pytest.approx(expected[0], abs=1e-4)


def test_an_adapter_and_what_is_merged_of_it(base, tmp_path):
    trainer = trained(
        "orm", base, tmp_path / "a", conversations(6), peft_config=LoraConfig(r=2, target_modules=["q_proj"])
    )
    expected = trainer.predict(Dataset.from_list(conversations(5, 1))).predictions[:, 0].tolist()
    merge_adapter(str(tmp_path / "a"), str(tmp_path / "b"))
    for folder in ("a", "b"):
        scorer = RewardScorer.from_pretrained(str(tmp_path / folder))
        assert scorer.score(PROMPTS, ANSWERS) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_is_known_as_far_as_it_was_read(base, tmp_path, workers):
    """The first row is text; the data loader's worker reads the others, in a process of its own."""
    from hf_rewardplug import register_adapter

    @register_adapter("text_or_turns", overwrite=True)
    def text_or_turns(row):
        return json.loads(row["json"])

    rows = Dataset.from_list([{"json": json.dumps(row)} for row in text_pairs(1) + conversations(7)])
    options = {"adapter": "text_or_turns", "dataloader_num_workers": workers, "max_steps": 2}
    trainer = trained("orm", base, tmp_path, rows.to_iterable_dataset(), **options)
    assert trainer.model.config.rewardplug["rows"] == "both"
    assert json.loads((tmp_path / "config.json").read_text())["rewardplug"]["rows"] == "both"


@pytest.mark.parametrize("make", [text_pairs, conversations])
def test_a_stream_is_known_before_the_first_step(base, tmp_path, make):
    stream = IterableDataset.from_generator(lambda: iter(make(6)))
    trainer = trained("orm", base, tmp_path, stream, max_steps=1)
    assert trainer.model.config.rewardplug["rows"] == ("turns" if make is conversations else "text")


def test_tokens_are_of_no_known_form(base, tmp_path):
    rows = [{"chosen_ids": [5, 6, 7], "rejected_ids": [5, 6, 8]}] * 4
    trainer = trained("orm", base, tmp_path, rows)
    assert "rows" not in trainer.model.config.rewardplug


def test_what_is_rendered_already_stays_as_it_is(talker, caplog):
    folder, _ = talker
    scorer, tokenizer = RewardScorer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in PROMPTS
    ]
    expected = plain(folder, [prompt + answer for prompt, answer in zip(prompts, ANSWERS, strict=True)])
    assert scorer.score(prompts, ANSWERS) == pytest.approx(expected, abs=1e-5)
    whole = [prompt + answer for prompt, answer in zip(prompts, ANSWERS, strict=True)]
    assert scorer.score([""] * 5, whole) == pytest.approx(expected, abs=1e-5)
    assert caplog.text.count("<|im_start|> are taken for rendered conversations") == 1 and NOTICE not in caplog.text


def test_marked_text_is_read_as_the_adapters_read_it(talker):
    """HH-RLHF's marks, as its rows have them and as a prompt for a policy ends with them."""
    scorer = RewardScorer.from_pretrained(talker[0])
    talk = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    talk += [{"role": "user", "content": "and then"}]
    answer = [{"role": "assistant", "content": "it ran"}]
    expected = scorer.score([talk], [answer])
    marked = "\n\nHuman: the cat\n\nAssistant: sat\n\nHuman: and then\n\nAssistant:"
    assert scorer.score([marked], [" it ran"]) == pytest.approx(expected, abs=1e-6)
    assert scorer.score([""], [marked + " it ran"]) == pytest.approx(expected, abs=1e-6)


def test_a_benchmark_of_strings(talker, base, tmp_path):
    """Figures of string pairs, from a checkpoint and during training, are those of the same pairs as turns."""
    rows, held_out = text_pairs(12, 1), conversations(12, 1)
    folder = tmp_path / "out"
    callback = BenchmarkCallback({"strings": rows})
    trainer = trained("orm", base, folder, conversations(8), held_out=held_out, callbacks=[callback])
    metrics = trainer.evaluate()
    found = evaluate(RewardScorer.from_pretrained(str(folder)), rows).figures
    assert metrics["eval_strings_accuracy"] == found["accuracy"] == pytest.approx(metrics["eval_accuracy"])
    assert metrics["eval_strings_margin"] == pytest.approx(metrics["eval_margin"], abs=1e-5)


def test_check_compares_in_the_models_form(talker, writer):
    rows = [{"prompt": prompt, "completion": answer} for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    found = {one.check: one for one in check_model(talker[0], rows=rows)}
    assert found["scores in fp32"].ok and "trained on conversations" in found["chat template"].found
    found = {one.check: one for one in check_model(talker[0])}
    assert found["scores in fp32"].ok and "(5 scores of 5 sequences)" in found["scores in fp32"].found
    found = {one.check: one for one in check_model(writer)}
    assert found["scores in fp32"].ok and "trained on text" in found["chat template"].found


def test_eval_rows_of_another_form_are_told(base, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trained("orm", base, tmp_path, conversations(6), held_out=text_pairs(4, 1))
    assert "eval: the examples are text, but those of the train data set are conversations" in caplog.text


def command(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result


def test_the_commands(talker, tmp_path, caplog):
    """score, evaluate and inspect of strings and of conversations."""
    folder, expected = talker
    rows = [{"prompt": prompt, "completion": answer} for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--device", "cpu", "-o")
    command("score", folder, tmp_path / "rows.jsonl", *options, tmp_path / "a.jsonl")
    scores = [json.loads(line)["score"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert scores == pytest.approx(expected, abs=1e-5) and caplog.text.count(NOTICE) == 1
    caplog.clear()
    command("score", folder, tmp_path / "rows.jsonl", "--as-text", *options, tmp_path / "b.jsonl")
    scores = [json.loads(line)["score"] for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert scores == pytest.approx(plain(folder, [row["prompt"] + row["completion"] for row in rows]), abs=1e-5)
    assert NOTICE not in caplog.text
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in text_pairs(12, 1)))
    command("evaluate", folder, tmp_path / "pairs.jsonl", *options, tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert figures == pytest.approx(evaluate(RewardScorer.from_pretrained(folder), conversations(12, 1)).figures)
    assert "form        text" in command("inspect", tmp_path / "pairs.jsonl").stdout
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in conversations(3)))
    assert "form        conversations" in command("inspect", tmp_path / "talks.jsonl", "--model", folder).stdout
