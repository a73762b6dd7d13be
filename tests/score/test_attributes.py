"""A model with an output an attribute, from training to scores: by name, an object, LoRA, merged; transformers too."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from rows import quick
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_rewardplug import RewardConfig, RewardScorer, RewardTrainer, merge_adapter
from hf_rewardplug.score.check import check_model

NAMES, WEIGHTS = ["kind", "brief", "right"], [0.5, -0.25, 2.0]
ROWS = [
    {
        "prompt": f"the {animal}",
        "completion": f" sat on {number} trees",
        "attributes": {"kind": number, "brief": 1.5, "right": None if number == 2 else 3},
    }
    for animal in ("cat", "dog")
    for number in range(4)
]


@pytest.fixture(scope="module")
def base(assets) -> str:
    return str(assets / "stories260K")


def trained(base, folder, **given):
    args = RewardConfig(
        **quick(folder, loss_type="mse", attributes=NAMES, attribute_weights=WEIGHTS, learning_rate=1e-2)
    )
    data = Dataset.from_list(ROWS)
    model = given.pop("model", base)
    trainer = RewardTrainer(model, args, train_dataset=data, eval_dataset=data, **given)
    first = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < first
    trainer.save_model()
    return trainer


def plain_outputs(model, folder) -> np.ndarray:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [row["prompt"] + row["completion"] + tokenizer.eos_token for row in ROWS]
    with torch.no_grad():
        return np.array([model(**tokenizer(text, return_tensors="pt")).logits[0].tolist() for text in texts])


def scores(folder) -> tuple[np.ndarray, np.ndarray]:
    scorer = RewardScorer.from_pretrained(str(folder))
    prompts, completions = ([row[key] for row in ROWS] for key in ("prompt", "completion"))
    by_attribute = scorer.score_attributes(prompts, completions)
    assert [list(one) for one in by_attribute] == [NAMES] * len(ROWS)
    nested = scorer.score_attributes(prompts[:1], [completions[:2]])
    assert nested[0][0] == pytest.approx(by_attribute[0], abs=1e-5)
    return np.array([list(one.values()) for one in by_attribute]), np.array(scorer.score(prompts, completions))


def test_train_score_and_transformers_agree(base, tmp_path):
    trainer = trained(base, tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert (model.config.num_labels, model.config.problem_type) == (3, "regression")
    assert model.config.id2label == dict(enumerate(NAMES))
    outputs, total = scores(tmp_path)
    np.testing.assert_allclose(outputs, plain_outputs(model, tmp_path), atol=1e-5)
    np.testing.assert_allclose(total, outputs @ WEIGHTS, atol=1e-5)
    np.testing.assert_allclose(outputs, trainer.predict(Dataset.from_list(ROWS)).predictions, atol=1e-5)
    assert all(finding.ok is not False for finding in check_model(str(tmp_path)))
    calibration = model.config.rewardplug["calibration"]
    assert (calibration["mean"], calibration["std"]) == pytest.approx((total.mean(), total.std()), abs=1e-4)


def test_a_model_and_an_adapter(base, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    trained(base, tmp_path / "lora", model=model, peft_config=LoraConfig(r=2, target_modules="all-linear"))
    assert all(finding.ok is not False for finding in check_model(str(tmp_path / "lora")))
    merge_adapter(str(tmp_path / "lora"), str(tmp_path / "merged"))
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    expected = plain_outputs(merged, tmp_path / "merged")
    for folder in ("lora", "merged"):
        outputs, total = scores(tmp_path / folder)
        np.testing.assert_allclose(outputs, expected, atol=1e-5)
        np.testing.assert_allclose(total, expected @ WEIGHTS, atol=1e-5)


def test_a_model_without_attributes_says_so(base):
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    scorer = RewardScorer(model, AutoTokenizer.from_pretrained(base))
    with pytest.raises(ValueError, match="was not trained on attributes"):
        scorer.score_attributes(["the cat"], ["sat"])
