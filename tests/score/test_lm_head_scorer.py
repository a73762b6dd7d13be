"""Scores by the label tokens of somebody else's causal LM, against the logits of its whole vocabulary."""

import json
import pickle
import shutil

import pytest
import torch
from datasets import Dataset
from rows import quick, solutions
from test_cli import run
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

from hf_rewardplug import PRMConfig, PRMTrainer, RewardScorer
from hf_rewardplug.score.check import check_model

LABELS = {"good_token": "+", "bad_token": "-"}
PROMPTS = ["the cat sat on", "a big red dog"]
STEPS = [[["the mat", "and then ran"], ["the tree"]], [["ran", "and sat", "under a tree"]]]


@pytest.fixture(scope="module")
def base(assets) -> str:
    return str(assets / "stories260K")


def by_hand(name: str, separator: str, *, columns=("-", "+"), prompts=PROMPTS, steps=STEPS) -> list:
    """transformers alone, a solution at a time."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)
    scores = []
    for prompt, of_prompt in zip(prompts, steps, strict=True):
        scores.append([])
        for solution in of_prompt:
            ids, ends = [tokenizer.bos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)], []
            for text in solution:
                ids += tokenizer.encode(text, add_special_tokens=False)
                ids += tokenizer.encode(separator, add_special_tokens=False)
                ends.append(len(ids) - 1)
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, ends][:, tokenizer.convert_tokens_to_ids(list(columns))]
            scores[-1].append(logits.softmax(-1)[:, 1].tolist())
    return scores


def flat(scores) -> list[float]:
    return [score for one in scores for score in flat(one)] if isinstance(scores, list) else [scores]


@pytest.mark.parametrize("prefix_sharing", [False, True])
def test_a_model_without_a_description(prefix_sharing, base):
    scorer = RewardScorer.from_pretrained(base, step_separator=" #", prefix_sharing=prefix_sharing, **LABELS)
    assert scorer.kind == "prm"
    found, expected = scorer.score_steps(PROMPTS, STEPS), by_hand(base, " #")
    assert flat(found) == pytest.approx(flat(expected), abs=1e-5)
    assert [[len(solution) for solution in of_prompt] for of_prompt in found] == [[2, 1], [3]]
    assert flat(found) != pytest.approx(flat(by_hand(base, "\n")), abs=1e-3), "the separator counts"
    lowest = [[min(solution) for solution in of_prompt] for of_prompt in expected]
    assert flat(scorer.score_steps(PROMPTS, STEPS, "min")) == pytest.approx(flat(lowest), abs=1e-5)
    swapped = RewardScorer.from_pretrained(base, step_separator=" #", good_token="-", bad_token="+")
    assert flat(swapped.score_steps(PROMPTS, STEPS)) == pytest.approx([1 - score for score in flat(expected)], abs=1e-5)


def test_what_a_policy_writes_is_cut_at_another_separator(base):
    """`separator` cuts, `step_separator` is put behind each step; the first is the second where it is left out."""
    expected = flat(by_hand(base, " #", prompts=PROMPTS[:1], steps=[[["the mat", "and then"]]]))
    given = {"step_separator": " #", "aggregate": "prod", **LABELS}
    policy = RewardScorer.from_pretrained(base, separator="\n\n", **given)
    product = pytest.approx(expected[0] * expected[1], abs=1e-5)
    assert policy.score(PROMPTS[0], "the mat\n\nand then") == product
    assert RewardScorer.from_pretrained(base, **given).score(PROMPTS[0], "the mat #and then #") == product


def test_a_model_object_a_pickle_and_a_description(base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    expected = flat(by_hand(base, "\n", columns=("▁a", "▁the")))
    model = AutoModelForCausalLM.from_pretrained(base)
    scorer = RewardScorer(model, tokenizer, good_token="the", bad_token="a")
    assert flat(scorer.score_steps(PROMPTS, STEPS)) == pytest.approx(expected, abs=1e-5)
    copied = pickle.loads(pickle.dumps(scorer))
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert flat(copied.score_steps(PROMPTS, STEPS)) == pytest.approx(expected, abs=1e-5)
    described = AutoModelForCausalLM.from_pretrained(base)
    described.config.rewardplug = {"kind": "prm", "good_token": "▁the", "bad_token": "▁a", "step_token": "#"}
    assert flat(RewardScorer(described, tokenizer, step_separator="\n").score_steps(PROMPTS, STEPS)) == pytest.approx(
        expected, abs=1e-5
    )


def test_refusals(base, tmp_path):
    with pytest.raises(ValueError, match=r"stories260K' is LlamaForCausalLM; expected .*`good_token` and `bad_token`"):
        RewardScorer.from_pretrained(base, good_token="+")
    with pytest.raises(ValueError, match=r"bad_token='not a token' is not a single token"):
        RewardScorer.from_pretrained(base, good_token="+", bad_token="not a token")
    with pytest.raises(ValueError, match=r"step_separator='' gives no token"):
        RewardScorer.from_pretrained(base, step_separator="", **LABELS).score_steps(PROMPTS, STEPS)
    classifier = AutoModelForTokenClassification.from_pretrained(base, num_labels=2)
    with pytest.raises(
        ValueError, match=r"a LlamaForTokenClassification, but `good_token` and `bad_token` are a causal"
    ):
        RewardScorer(classifier, AutoTokenizer.from_pretrained(base), **LABELS)
    model = AutoModelForCausalLM.from_pretrained(base)
    state = {key: value for key, value in model.state_dict().items() if "layers.0." not in key}
    model.save_pretrained(tmp_path, state_dict=state)
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no weights for .*model\.layers\.0\."):
        RewardScorer.from_pretrained(str(tmp_path), **LABELS)


# ---- commands -----------------------------------------------------------------------------------------------------


def test_score_and_evaluate_take_label_tokens(base, tmp_path):
    rows = [{"prompt": PROMPTS[0], "steps": steps} for steps in STEPS[0]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--step-separator", r" #\n", "--good-token", "+", "--bad-token", "-", "--device", "cpu")
    run("score", base, tmp_path / "rows.jsonl", "-o", tmp_path / "scores.jsonl", *options)
    found = [json.loads(line)["scores"] for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert flat(found) == pytest.approx(flat(by_hand(base, " #\n", prompts=PROMPTS[:1], steps=STEPS[:1])), abs=1e-5)
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in solutions(12)))
    given = ("--data", tmp_path / "steps.jsonl", *options)
    assert "accuracy_right" in run("evaluate", base, "process_bench.stepwise", *given).output
    refused = run("score", base, tmp_path / "rows.jsonl", "-o", tmp_path / "x", status=1)
    assert "its config does not name them" in refused.output


def test_check_of_a_trained_one(base, tmp_path):
    rows, folder = Dataset.from_list(solutions(8)), tmp_path / "out"
    trainer = PRMTrainer(base, PRMConfig(**quick(folder, **LABELS)), train_dataset=rows, eval_dataset=rows)
    trainer.train()
    trainer.save_model()
    checked = run("check", folder).output
    assert "label tokens" in checked and "all checks passed" in checked
    broken = shutil.copytree(folder, tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    config["rewardplug"]["good_token"] = "not there"
    (broken / "config.json").write_text(json.dumps(config))
    last = check_model(str(broken))[-1]
    assert last.check == "label tokens" and last.ok is False and "'not there' is not a single token" in last.found
