"""Scores against plain transformers on the same ids, and against the trainer's own evaluation."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from rows import conversations, quick, solutions, text_pairs
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardScorer, RewardTrainer

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"


@pytest.fixture(scope="module")
def base(assets) -> str:
    return str(assets / "stories260K")


def trained(kind: str, base: str, folder, rows, **options):
    trainer_class, config_class = {"orm": (RewardTrainer, RewardConfig), "prm": (PRMTrainer, PRMConfig)}[kind]
    peft_config = options.pop("peft_config", None)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    trainer = trainer_class(
        base,
        config_class(**quick(folder, learning_rate=1e-2, **options)),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    return trainer


@pytest.fixture(scope="module")
def orm(base, tmp_path_factory):
    """A trained ORM's folder, its pairs, and the rewards that its trainer predicts, (N, 2)."""
    folder, rows = tmp_path_factory.mktemp("orm"), text_pairs(12)
    trainer = trained("orm", base, folder, rows)
    return str(folder), rows, trainer.predict(Dataset.from_list(rows)).predictions


@pytest.fixture(scope="module")
def prm(base, tmp_path_factory):
    folder, rows = tmp_path_factory.mktemp("prm"), solutions(10)
    trainer = trained("prm", base, folder, rows)
    return str(folder), rows, trainer.predict(Dataset.from_list(rows)).predictions


def plain_reward(folder: str, text: str) -> float:
    """transformers alone, one sequence."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits.item()


@pytest.mark.parametrize(
    "options", [{}, {"prefix_sharing": False}, {"max_tokens_per_batch": 1}, {"max_tokens_per_batch": 64}]
)
def test_rewards_are_the_trainers(orm, options):
    folder, rows, expected = orm
    scorer = RewardScorer.from_pretrained(folder, **options)
    found = scorer.score([row["prompt"] for row in rows], [[row["chosen"], row["rejected"]] for row in rows])
    torch.testing.assert_close(torch.tensor(found), torch.from_numpy(expected), rtol=0, atol=1e-5)


def test_rewards_are_plain_transformers(orm):
    folder, rows, _ = orm
    scorer, eos = RewardScorer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder).eos_token
    found = scorer.score([row["prompt"] for row in rows], [row["chosen"] for row in rows])
    expected = [plain_reward(folder, row["prompt"] + row["chosen"] + eos) for row in rows]
    assert found == pytest.approx(expected, abs=1e-5)
    assert scorer.score(rows[0]["prompt"], rows[0]["chosen"]) == pytest.approx(expected[0], abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"prefix_sharing": False}, {"max_tokens_per_batch": 1}])
def test_probabilities_of_steps_are_the_trainers_and_plain_transformers(prm, options):
    folder, rows, predictions = prm
    scorer = RewardScorer.from_pretrained(folder, **options)
    found = scorer.score_steps([row["prompt"] for row in rows], [row["completions"] for row in rows])
    model = AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for row, of_row, logits in zip(rows, found, predictions, strict=True):
        expected = torch.from_numpy(logits).softmax(-1)[: len(of_row), 1].tolist()
        assert of_row == pytest.approx(expected, abs=1e-5) and len(of_row) == len(row["completions"])
        ids = [tokenizer.bos_token_id, *tokenizer.encode(row["prompt"], add_special_tokens=False)]
        ends = []
        for step in row["completions"]:
            ids += tokenizer.encode(step, add_special_tokens=False) + tokenizer.encode("\n", add_special_tokens=False)
            ends.append(len(ids) - 1)
        with torch.no_grad():
            plain = model(input_ids=torch.tensor([ids])).logits[0, ends].softmax(-1)[:, 1].tolist()
        assert of_row == pytest.approx(plain, abs=1e-5)


def test_a_prm_cuts_completions_at_its_separator(prm):
    folder, rows, _ = prm
    scorer = RewardScorer.from_pretrained(folder, aggregate="prod")
    prompts, steps = [row["prompt"] for row in rows], [row["completions"] for row in rows]
    expected = [torch.tensor(of_row).prod().item() for of_row in scorer.score_steps(prompts, steps)]
    assert scorer.score(prompts, ["\n".join(of_row) + "\n" for of_row in steps]) == pytest.approx(expected, abs=1e-6)
    assert scorer.score_steps(prompts, [[of_row] for of_row in steps], aggregate="prod") == [
        [pytest.approx(value, abs=1e-6)] for value in expected
    ]


def test_conversations(base, tmp_path):
    rows = conversations(6)
    trainer = trained("orm", base, tmp_path, rows)
    expected = trainer.predict(Dataset.from_list(rows)).predictions[:, 0].tolist()
    scorer = RewardScorer.from_pretrained(str(tmp_path))
    prompts, completions = [row["prompt"] for row in rows], [row["chosen"] for row in rows]
    assert scorer.score(prompts, completions) == pytest.approx(expected, abs=1e-5)
    assert scorer.score(prompts, [messages[0]["content"] for messages in completions]) == pytest.approx(
        expected, abs=1e-5
    )
    assert scorer.score([prompt[0]["content"] for prompt in prompts], completions) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["orm", "prm"])
def test_adapters(base, tmp_path, kind):
    rows = text_pairs(8) if kind == "orm" else solutions(8)
    peft_config = LoraConfig(r=2, target_modules="all-linear")
    trainer = trained(kind, base, tmp_path, rows, peft_config=peft_config)
    predictions = torch.from_numpy(trainer.predict(Dataset.from_list(rows)).predictions)
    scorer = RewardScorer.from_pretrained(str(tmp_path))
    prompts = [row["prompt"] for row in rows]
    if kind == "orm":
        found = scorer.score(prompts, [[row["chosen"], row["rejected"]] for row in rows])
        torch.testing.assert_close(torch.tensor(found), predictions, rtol=0, atol=1e-5)
    else:
        found = scorer.score_steps(prompts, [row["completions"] for row in rows])
        for of_row, logits in zip(found, predictions, strict=True):
            assert of_row == pytest.approx(logits.softmax(-1)[: len(of_row), 1].tolist(), abs=1e-5)


def test_normalised_rewards_of_the_eval_set_have_mean_0_and_spread_1(orm):
    folder, rows, _ = orm
    scorer = RewardScorer.from_pretrained(folder, normalize=True)
    found = scorer.score([row["prompt"] for row in rows], [[row["chosen"], row["rejected"]] for row in rows])
    rewards = torch.tensor(found).flatten()
    assert rewards.mean().item() == pytest.approx(0, abs=1e-4)
    assert rewards.std(unbiased=False).item() == pytest.approx(1, abs=1e-4)


def test_rows_one_by_one_in_order(orm, prm):
    folder, rows, expected = orm
    scorer = RewardScorer.from_pretrained(folder)
    mixed = [
        {"prompt": row["prompt"], "completion": row["chosen"]}
        if index % 2
        else {"prompt": row["prompt"], "completions": [row["chosen"], row["rejected"]]}
        for index, row in enumerate(rows)
    ]
    found = list(scorer.score_rows(iter(mixed), window=5))
    for index, scores in enumerate(found):
        assert scores == pytest.approx(float(expected[index, 0]) if index % 2 else expected[index].tolist(), abs=1e-5)
    folder, rows, _ = prm
    scorer = RewardScorer.from_pretrained(folder)
    steps = [{"prompt": row["prompt"], "steps": row["completions"]} for row in rows]
    assert [len(scores) for scores in scorer.score_rows(steps, window=3)] == [len(row["completions"]) for row in rows]


def test_errors_name_the_place(orm, prm):
    scorer = RewardScorer.from_pretrained(orm[0])
    with pytest.raises(ValueError, match="1 completions for 2 prompts"):
        scorer.score(["a", "b"], ["c"])
    with pytest.raises(ValueError, match=r"completions\[1\]\[0\]: column 'completion'"):
        scorer.score(["a", "b"], ["c", [None]])
    with pytest.raises(ValueError, match="row 1: found"):
        list(scorer.score_rows([{"prompt": "a", "completion": "b"}, {"prompt": "a"}]))
    with pytest.raises(ValueError, match="outcome reward model"):
        scorer.score_steps(["a"], [["b"]])
    with pytest.raises(ValueError, match="aggregate='max'"):
        RewardScorer.from_pretrained(prm[0], aggregate="max")
    with pytest.raises(ValueError, match="remembers no mean"):
        RewardScorer.from_pretrained(prm[0], normalize=True)


def test_a_model_without_a_head_is_refused(base, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("score.")}
    model.save_pretrained(tmp_path, state_dict=state)
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no weights for its head \(score.weight\)"):
        RewardScorer.from_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="expected a sequence classifier"):
        RewardScorer.from_pretrained(base)
