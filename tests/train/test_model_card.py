"""The model card: it loads as one, its code runs as it stands, and its figures are the evaluation's."""

import json
import re

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import LoraConfig
from rows import quick, solutions, text_pairs
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer, merge_adapter
from hf_rewardplug.demo import save_demo_model


def rated(count: int, seed: int = 0) -> list[dict]:
    return [
        {"prompt": row["prompt"], "completion": row["chosen"], "attributes": {"kind": i, "brief": 2 - i % 3}}
        for i, row in enumerate(text_pairs(count, seed))
    ]


def by_attribute(**options):
    return RewardConfig(loss_type="mse", attributes=["kind", "brief"], attribute_weights=[2.0, -1.0], **options)


@pytest.fixture(autouse=True)
def beside_the_model(tmp_path, monkeypatch):
    """The card names the model's folder without where it lies."""
    monkeypatch.chdir(tmp_path)


TRAINERS = {
    "orm": (RewardTrainer, RewardConfig, text_pairs),
    "attributes": (RewardTrainer, by_attribute, rated),
    "prm": (PRMTrainer, PRMConfig, solutions),
}


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("kind", TRAINERS)
def test_the_card_of_a_saved_model(kind, adapter, assets, tmp_path):
    trainer_class, config_class, make_rows = TRAINERS[kind]
    trainer = trainer_class(
        str(assets / "stories260K"),
        config_class(**quick(tmp_path / "out")),
        train_dataset=Dataset.from_list(make_rows(6)),
        eval_dataset=Dataset.from_list(make_rows(4, 1)),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"]) if adapter else None,
    )
    trainer.train()
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.create_model_card(model_name="tiny")
    card = ModelCard.load(str(tmp_path / "out" / "README.md"))
    assert "Quick start" not in card.text and "[None]" not in card.text and "vLLM" in card.text
    assert f"| eval | loss | {metrics['eval_loss']:.4g} |" in card.text
    assert "train: 6 rows gave 6 examples." in card.text
    if adapter:
        assert "merge_adapter('out', 'out-merged')" in card.text
        merge_adapter(str(tmp_path / "out"), f"{tmp_path / 'out'}-merged")
    scored, _, plain = re.findall(r"```python\n(.*?)\n```", card.text, re.DOTALL)
    found = [evaluated(code) for code in (scored, plain)]
    if kind == "attributes":
        assert found[1].item() == pytest.approx(found[0][0][0], abs=1e-4)
    elif kind == "orm":
        assert found[1].item() == pytest.approx(found[0][0][0], abs=1e-4)
        given = json.loads(re.search(r"-d '(.*)'", card.text)[1])["input"]
        served = evaluated(plain.replace('"What is 2 + 2? 4" + tokenizer.eos_token', repr(given)))
        assert served.item() == pytest.approx(found[1].item(), abs=1e-6)
        assert [len(of_prompt) for of_prompt in found[0]] == [2] and found[1].shape == (1, 1)
    else:
        assert [len(of_prompt) for of_prompt in found[0]] == [2]
        assert found[1][1].item() == pytest.approx(found[0][0][0], abs=1e-4)


def test_the_card_puts_a_bos_where_the_tokenizer_does_not(tmp_path):
    save_demo_model(tmp_path / "base", style="qwen")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.bos_token = "<|im_start|>"
    args = PRMConfig(**quick(tmp_path / "out"))
    rows = Dataset.from_list(solutions(6))
    trainer = PRMTrainer(str(tmp_path / "base"), args, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(model_name="tiny")
    scored, _, plain = re.findall(
        r"```python\n(.*?)\n```", ModelCard.load(tmp_path / "out" / "README.md").text, re.DOTALL
    )
    assert "bos_token_id" in plain
    assert evaluated(plain)[1].item() == pytest.approx(evaluated(scored)[0][0], abs=1e-4)


ARGUED = (
    "{% if mood is defined %}{{ mood + '\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def of_turns(kind: str, count: int) -> list[dict]:
    rows = TRAINERS[kind][2](count)
    for row in rows:
        row["prompt"] = [{"role": "user", "content": row["prompt"]}]
        for name in {"chosen", "rejected", "completion"} & {*row}:
            row[name] = [{"role": "assistant", "content": row[name]}]
    return rows


@pytest.mark.parametrize("kwargs", [None, {"mood": "it's calm"}])
@pytest.mark.parametrize("kind", [*TRAINERS, "lm"])
def test_the_card_of_a_model_of_conversations_shows_turns(kind, kwargs, tmp_path):
    """Every example is in the form of the model: its own score, plain transformers' and the server's request agree."""
    save_demo_model(tmp_path / "base", style="qwen")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.chat_template = ARGUED
    trainer_class, config_class, _ = TRAINERS["prm" if kind == "lm" else kind]
    labels = {"good_token": "1", "bad_token": "0"} if kind == "lm" else {}
    trainer = trainer_class(
        str(tmp_path / "base"),
        config_class(**quick(tmp_path / "out", chat_template_kwargs=kwargs, **labels)),
        train_dataset=Dataset.from_list(of_turns("prm" if kind == "lm" else kind, 6)),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(model_name="tiny")
    card = ModelCard.load(str(tmp_path / "out" / "README.md"))
    assert "It was trained on conversations" in card.text
    scored, _, plain = re.findall(r"```python\n(.*?)\n```", card.text, re.DOTALL)
    assert '{"role": "user", "content": "What is 2 + 2?"}' in scored and "apply_chat_template" in plain
    of_scorer, of_plain = evaluated(scored), evaluated(plain)
    if kind in ("prm", "lm"):
        assert of_plain[1].item() == pytest.approx(of_scorer[0][0], abs=1e-4)
        return
    assert of_plain.item() == pytest.approx(of_scorer[0][0], abs=1e-4)
    if kind == "orm":
        request = json.loads(re.search(r"-d '(.*)'", card.text)[1])
        assert request.get("chat_template_kwargs") == kwargs
        saved = AutoTokenizer.from_pretrained(tmp_path / "out")
        text = saved.apply_chat_template(request["messages"], tokenize=False, **(kwargs or {}))
        ids = {"input_ids": saved(text, add_special_tokens=False, return_tensors="pt").input_ids}
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
        assert model(**ids).logits.item() == pytest.approx(of_plain.item(), abs=1e-6)


def evaluated(code: str):
    """Run the lines, and give the value of the last one."""
    *lines, last = code.splitlines()
    names: dict = {}
    exec("\n".join(lines), names)
    return eval(last, names)
