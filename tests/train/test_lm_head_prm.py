"""A causal LM as process reward model: its losses and scores are those of the whole vocabulary's logits, everywhere."""

import re
from pathlib import Path

import lm_head_run
import pytest
import test_launchers as launchers
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from rows import quick
from safetensors import safe_open
from test_model_card import evaluated
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForTokenClassification,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardScorer, RewardTrainer, merge_adapter
from hf_rewardplug.demo import demo_rows, save_demo_model
from hf_rewardplug.model.label_tokens import LabelTokenHead
from hf_rewardplug.score.check import check_model

ROWS, HELD_OUT = demo_rows("qwen", train=16, test=12)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    """A tiny Qwen2 whose tokenizer has a token for each character."""
    return str(save_demo_model(tmp_path_factory.mktemp("demo"), style="qwen"))


@pytest.fixture(scope="module")
def tied(base, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tied")
    torch.manual_seed(0)
    config = Qwen2Config.from_pretrained(base, tie_word_embeddings=True)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return str(folder)


def trainer_for(model, folder, *, rows=ROWS[:12], options=None, **arguments) -> PRMTrainer:
    args = PRMConfig(**quick(folder, **{"good_token": "+", "bad_token": "-", **(options or {})}))
    held_out = Dataset.from_list(HELD_OUT)
    return PRMTrainer(model, args, train_dataset=Dataset.from_list(rows), eval_dataset=held_out, **arguments)


def of_whole_vocabulary(model, tokenizer, rows: list[dict]) -> list[torch.Tensor]:
    """Of each row its steps' logits for "-" and "+" (steps, 2), a row at a time through transformers' own forward."""
    columns, logits = tokenizer.convert_tokens_to_ids(["-", "+"]), []
    for row in rows:
        ids, ends = tokenizer.encode(row["prompt"]), []
        for step in row["completions"]:
            ids += tokenizer.encode(step) + tokenizer.encode("\n")
            ends.append(len(ids) - 1)
        logits.append(model(input_ids=torch.tensor([ids])).logits[0, ends][:, columns])
    return logits


def probabilities(model, tokenizer) -> list[float]:
    """That each step of the held-out rows is right."""
    with torch.no_grad():
        return torch.cat(of_whole_vocabulary(model.eval(), tokenizer, HELD_OUT)).softmax(-1)[:, 1].tolist()


def predicted(trainer) -> list[float]:
    """The same by the trainer's own evaluation."""
    output = trainer.predict(trainer.eval_dataset)
    return torch.from_numpy(output.predictions[output.label_ids != -100]).softmax(-1)[:, 1].tolist()


def scored(name: str) -> list[float]:
    """The same by the scorer."""
    prompts, steps = ([row[key] for row in HELD_OUT] for key in ("prompt", "completions"))
    return [score for of_row in RewardScorer.from_pretrained(name).score_steps(prompts, steps) for score in of_row]


def tensors(folder: str) -> set[str]:
    with safe_open(Path(folder, "model.safetensors"), "pt") as weights:
        return set(weights.keys())


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharing", [False, True])
def test_losses_and_gradients_are_those_of_the_whole_vocabulary(sharing, base, tmp_path):
    soft = [{**row, "labels": [0.25 + label / 2 for label in row["labels"]]} for row in ROWS[:4]]
    rows = [*ROWS[4:8], *soft]
    trainer = trainer_for(base, tmp_path, rows=rows, options={"prefix_sharing": sharing})
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert ("prefix_tree" in batch) == sharing
    loss = trainer.training_step(trainer.model, batch)
    plain, labels = AutoModelForCausalLM.from_pretrained(base), torch.tensor([x for row in rows for x in row["labels"]])
    logits = torch.cat(of_whole_vocabulary(plain, trainer.processing_class, rows))
    expected = torch.nn.functional.cross_entropy(logits, torch.stack([1 - labels.float(), labels.float()], 1))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    expected.backward()
    for (name, a), b in zip(plain.named_parameters(), trainer.model.parameters(), strict=True):
        assert (a.grad - b.grad).norm() <= 1e-4 * a.grad.norm() + 1e-7, name


def test_it_learns_and_stays_a_causal_lm(base, tmp_path, monkeypatch):
    learning = {"max_steps": 40, "per_device_train_batch_size": 16, "learning_rate": 5e-3, "logging_steps": 10}
    trainer = trainer_for(base, tmp_path / "out", rows=ROWS[:16], options=learning)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < 0.5 * losses[0], losses
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.create_model_card(model_name="tiny")
    folder, tokenizer = str(tmp_path / "out"), trainer.processing_class
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert plain.config.architectures == ["Qwen2ForCausalLM"] and plain.config.problem_type is None
    assert plain.config.rewardplug["good_token"] == "+" and plain.config.rewardplug["bad_token"] == "-"
    assert tensors(folder) == tensors(base)
    assert plain.generate(torch.tensor([[5, 6]]), max_new_tokens=3, do_sample=False).shape == (1, 5)
    expected = probabilities(plain, tokenizer)
    assert predicted(trainer) == pytest.approx(expected, abs=1e-5)
    assert scored(folder) == pytest.approx(expected, abs=1e-5)
    labels = [label for row in HELD_OUT for label in row["labels"]]
    right = sum((p >= 0.5) == label for p, label in zip(expected, labels, strict=True))
    assert metrics["eval_accuracy"] == pytest.approx(right / len(labels))
    findings = {finding.check: finding for finding in check_model(folder)}
    assert all(finding.ok is not False for finding in findings.values()), findings
    assert findings["scores in fp32"].ok and "'+' (id 13) is right" in findings["label tokens"].found
    card = ModelCard.load(str(Path(folder, "README.md")))
    monkeypatch.chdir(Path(folder).parent)  # the card names the folder alone
    assert "prompt_logprobs" in card.text and "['-', '+']" in card.text
    by_scorer, _, by_hand = re.findall(r"```python\n(.*?)\n```", card.text, re.DOTALL)
    assert evaluated(by_hand)[1].item() == pytest.approx(evaluated(by_scorer)[0][0], abs=1e-4)


def test_a_checkpoint_is_resumed_from(base, tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = trainer_for(base, tmp_path, options=options)
    whole.train()
    resumed = trainer_for(base, tmp_path, options=options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_pad_token_of_its_own_and_model_init(base, tmp_path):
    """The embedding and the LM head grow by its row."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token, tokenizer.unk_token = tokenizer.eos_token, None

    def model_init():
        return AutoModelForCausalLM.from_pretrained(base)

    trainer = trainer_for(None, tmp_path, model_init=model_init, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert plain.config.pad_token_id == plain.config.vocab_size - 1 == plain.lm_head.out_features - 1
    expected = probabilities(plain, tokenizer)
    assert predicted(trainer) == pytest.approx(expected, abs=1e-5)
    assert scored(str(tmp_path)) == pytest.approx(expected, abs=1e-5)


# ---- LoRA ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [None, ["lm_head"]])
@pytest.mark.parametrize("kind", ["untied", "tied", "ready-made"])
def test_an_adapter_there_and_back(kind, head, base, tied, tmp_path):
    name, config = tied if kind == "tied" else base, LoraConfig(r=4, target_modules="all-linear", modules_to_save=head)
    model, arguments = name, {"peft_config": config}
    if kind == "ready-made":
        model, arguments = get_peft_model(AutoModelForCausalLM.from_pretrained(name), config), {}
    options = {"gradient_checkpointing": kind == "tied", "learning_rate": 1e-2}
    trainer = trainer_for(
        model, tmp_path / "lora", options=options, processing_class=AutoTokenizer.from_pretrained(name), **arguments
    )
    before = {name: value.clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    trainer.train()
    changed = [name for name, value in before.items() if not torch.equal(trainer.model.get_parameter(name), value)]
    assert any("lora_B" in name for name in changed) and any("lm_head" in name for name in changed) == bool(head)
    assert not any("score" in name for name in before)
    trainer.save_model()
    adapter, tokenizer = str(tmp_path / "lora"), trainer.processing_class
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(name), adapter)
    assert loaded.active_peft_config.task_type == "CAUSAL_LM"
    expected = probabilities(loaded, tokenizer)
    assert predicted(trainer) == pytest.approx(expected, abs=1e-5)
    assert scored(adapter) == pytest.approx(expected, abs=1e-5)
    merge_adapter(adapter, str(tmp_path / "merged"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert probabilities(merged, tokenizer) == pytest.approx(expected, abs=1e-5)
    assert scored(str(tmp_path / "merged")) == pytest.approx(expected, abs=1e-5)
    assert all(finding.ok is not False for finding in check_model(adapter))


def test_qlora(base, tmp_path):
    """transformers leaves an LM head whole."""
    pytest.importorskip("bitsandbytes")
    quantized = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)}
    trainer = trainer_for(base, tmp_path, peft_config=LoraConfig(r=2, target_modules=["q_proj"]), **quantized)
    inner = trainer.model.get_base_model()
    assert type(inner.model.layers[0].mlp.up_proj).__name__ == "Linear4bit" and type(inner.lm_head) is LabelTokenHead
    trainer.train()
    trainer.save_model()
    plain = AutoModelForCausalLM.from_pretrained(base, **quantized)
    expected = probabilities(PeftModel.from_pretrained(plain, tmp_path), trainer.processing_class)
    assert predicted(trainer) == pytest.approx(expected, abs=1e-5)


# ---- several ranks ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "tuning", "launched"), launchers.cells({"zero3-full"}, ("ddp", "zero2", "zero3"), launchers.TUNINGS)
)
def test_two_ranks_are_one_process(launcher, tuning, launched, assets, tmp_path):
    alone, ranks, model = tmp_path / "alone", tmp_path / "ranks", assets / "stories260K"
    lm_head_run.launched_run.run(**launchers.four_steps(assets, "lm", tuning, alone), batch_size=4)
    runs = [launchers.four_steps(assets, "lm", tuning, ranks)]
    launchers.launch(launcher, runs, tmp_path, launched=launched, script=lm_head_run)
    expected, found = (launchers.result(*of, steps=4) for of in ((alone, "plain"), (ranks, launcher)))
    for log, expected_log in zip(found["logs"], expected["logs"], strict=True):
        for key in ("loss", "grad_norm", "accuracy", "num_tokens"):
            assert log[key] == pytest.approx(expected_log[key], rel=2e-5), (key, log["step"])

    def saved(folder):
        plain = AutoModelForCausalLM.from_pretrained(folder if tuning == "full" else model)
        return (plain if tuning == "full" else PeftModel.from_pretrained(plain, folder)).eval()

    finals = [saved(folder / "final").state_dict() for folder in (ranks, alone)]
    torch.testing.assert_close(*finals, rtol=1e-4, atol=1e-5)
    plain, columns = (
        saved(ranks / "checkpoint-2"),
        AutoTokenizer.from_pretrained(model).convert_tokens_to_ids(["-", "+"]),
    )
    for row in found["scored_rows"]:
        with torch.no_grad():
            logits = plain(torch.tensor([row["ids"]])).logits[0, row["positions"]][:, columns]
        torch.testing.assert_close(logits, torch.tensor(row["scores"]), rtol=1e-5, atol=1e-5)


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_the_wrong_model(base, tmp_path):
    causal = AutoModelForCausalLM.from_pretrained(base)
    classifier = AutoModelForTokenClassification.from_pretrained(base, num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(base)
    with pytest.raises(
        ValueError, match=r"is a Qwen2ForCausalLM; expected .*ForTokenClassification.* or set `good_token`"
    ):
        trainer_for(causal, tmp_path, options={"good_token": None, "bad_token": None}, processing_class=tokenizer)
    with pytest.raises(ValueError, match=r"expected a model ForCausalLM.*`good_token` and `bad_token` ask for it"):
        trainer_for(classifier, tmp_path, processing_class=tokenizer)
    with pytest.raises(ValueError, match=r"expected a model ForSequenceClassification.*, or give its name\.$"):
        RewardTrainer(causal, RewardConfig(**quick(tmp_path)), train_dataset=Dataset.from_list(ROWS[:2]))
    classifier.save_pretrained(tmp_path / "classifier")
    tokenizer.save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match=r"classifier' is Qwen2ForTokenClassification, which has no LM head"):
        trainer_for(str(tmp_path / "classifier"), tmp_path)


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"good_token": "very good"}, {}, r"good_token='very good' is not a single token"),
        ({}, {"peft_config": LoraConfig(target_modules=["q_proj", "lm_head"])}, r"The LM head 'lm_head' is a peft\."),
        ({}, {"data_collator": DataCollatorForTokenClassification(None)}, r"are read at score positions alone\. Leave"),
    ],
)
def test_what_cannot_be_read(options, arguments, message, base, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer_for(base, tmp_path, options=options, **arguments)


def test_a_frozen_adapter(base, tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj"])
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path)
    frozen = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path)
    with pytest.raises(ValueError, match=r"The adapter is frozen, so nothing would train"):
        trainer_for(frozen, tmp_path, processing_class=AutoTokenizer.from_pretrained(base))
