"""A score is that of the text alone, whatever is scored beside it or before; one that is too long is named."""

import copy
import random

import pytest
import torch
from families import HEADS, length_ropes
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from hf_rewardplug import RewardScorer
from hf_rewardplug.score.check import check_model

LIMIT = 24
ROPE = length_ropes(LIMIT)
LENGTHS = (1, LIMIT, 3, 2 * LIMIT, LIMIT - 9, 3 * LIMIT, 2 * LIMIT, 2)
PROMPTS = ["the cat " * (count // 4) for count in LENGTHS]
ANSWERS = [["sat " * (count // 2), "ran " * count, "ran " * (count // 3 + 1)] for count in LENGTHS]


@pytest.fixture(scope="module")
def tokenizer(assets):
    return AutoTokenizer.from_pretrained(str(assets / "stories260K"))


def fresh(name: str, kind: str = "orm"):
    """A model that has seen no text, the same at every call."""
    auto_class, labels = HEADS[kind]
    config = AutoConfig.for_model(
        "llama",
        **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "vocab_size": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        max_position_embeddings=LIMIT,
        num_labels=labels,
        rope_parameters=ROPE[name],
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    return auto_class.from_config(config).eval()


@torch.no_grad()
def alone(name: str, tokenizer) -> list[list[float]]:
    """transformers alone: a new model for each text."""
    return [
        [fresh(name)(torch.tensor([[*tokenizer(prompt + answer)["input_ids"], 2]])).logits.item() for answer in answers]
        for prompt, answers in zip(PROMPTS, ANSWERS, strict=True)
    ]


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("name", ROPE)
def test_neighbours_do_not_count(name, packs, tokenizer):
    """All at once in one batch and in small ones, in another order, and one by one behind the long ones."""
    expected = [pytest.approx(of_prompt, abs=5e-5) for of_prompt in alone(name, tokenizer)]
    for budget in (100_000, 60):
        scorer = RewardScorer(fresh(name), tokenizer, prefix_sharing=packs, max_tokens_per_batch=budget)
        assert scorer.prefix_sharing == packs
        assert scorer.score(PROMPTS, ANSWERS) == expected
        order = random.Random(budget).sample(range(len(PROMPTS)), len(PROMPTS))
        found = scorer.score([PROMPTS[index] for index in order], [ANSWERS[index] for index in order])
        assert found == [expected[index] for index in order]
        found = [scorer.score([PROMPTS[index]], [ANSWERS[index]])[0] for index in order]
        assert found == [expected[index] for index in order]
        rows = [{"prompt": prompt, "completions": answers} for prompt, answers in zip(PROMPTS, ANSWERS, strict=True)]
        assert list(scorer.score_rows(rows, window=3)) == expected


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("name", ROPE)
def test_steps(name, packs, tokenizer):
    """Solutions that begin alike, of which some are beyond the limit: each step has its own solution's frequencies."""
    solutions = [[" sat"], [" sat", " on the mat" * 3], [" sat", " on the mat" * 9, " and"], [" sat", " ran"]]
    whole = RewardScorer(fresh(name, "prm"), tokenizer, prefix_sharing=packs).score_steps(["the cat"], [solutions])[0]
    for solution, found in zip(solutions, whole, strict=True):
        ids, ends = [1, *tokenizer("the cat", add_special_tokens=False)["input_ids"]], []
        for step in solution:
            for text in (step, "\n"):
                ids += tokenizer(text, add_special_tokens=False)["input_ids"]
            ends.append(len(ids) - 1)
        with torch.no_grad():
            logits = fresh(name, "prm")(torch.tensor([ids])).logits[0, ends]
        assert found == pytest.approx(logits.softmax(-1)[:, 1].tolist(), abs=5e-5)
    assert len({round(of_solution[0], 4) for of_solution in whole}) > 1  # the same step, and yet


def test_copies(tokenizer):
    """A model that has a scorer already, a copy of it, and a copy of the scorer keep the texts of a batch apart."""
    expected = [pytest.approx(of_prompt, abs=5e-5) for of_prompt in alone("dynamic", tokenizer)]
    scorer = RewardScorer(fresh("dynamic"), tokenizer)
    scorer.score(PROMPTS, ANSWERS)
    assert RewardScorer(scorer.model, tokenizer).score(PROMPTS, ANSWERS) == expected
    assert (
        RewardScorer(copy.deepcopy(scorer.model), tokenizer, prefix_sharing=False).score(PROMPTS, ANSWERS) == expected
    )
    assert copy.deepcopy(scorer).score(PROMPTS, ANSWERS) == expected
    hooks = [len(module._forward_hooks) for module in scorer.model.modules() if hasattr(module, "rope_type")]
    assert hooks == [1]


@pytest.mark.parametrize("name", ROPE)
def test_the_check_scores_one_text_at_a_time(name, tokenizer, tmp_path):
    """Plain transformers would take the longest text's frequencies for the others, too."""
    fresh(name).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    rows = [{"prompt": prompt, "completions": answers} for prompt, answers in zip(PROMPTS, ANSWERS, strict=True)]
    found = {finding.check: finding for finding in check_model(str(tmp_path), rows=rows)}
    assert found["scores in fp32"].ok, found["scores in fp32"].found


def test_the_check_names_a_text_that_is_too_long(tokenizer, tmp_path):
    ids = {"vocab_size": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_labels": 1}
    config = AutoConfig.for_model("gpt2", n_positions=LIMIT, n_embd=16, n_layer=1, n_head=2, **ids)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"row 1: \d+ tokens are more than the model's {LIMIT} positions"):
        check_model(str(tmp_path), rows=[{"prompt": "a", "completion": text} for text in ("b", "the cat " * LIMIT)])
