"""What `inspect_rows` says of each kind of rows: counts by hand, and losses as the trainers' objectives take rows."""

import json

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from hf_rewardplug import PRMConfig, RewardConfig
from hf_rewardplug.checks import RowError
from hf_rewardplug.cli.wording import example_text, lines
from hf_rewardplug.data.adapters import detect_adapter
from hf_rewardplug.data.mixing import Part, mixed
from hf_rewardplug.inspection import inspect_rows
from hf_rewardplug.train.losses import REWARD_LOSSES, STEP_LOSSES
from hf_rewardplug.train.objectives import StepObjective, reward_objective

RATINGS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
HELPSTEER = [{"prompt": "2+2?", "response": word, **dict.fromkeys(RATINGS, 4), "verbosity": 1} for word in ("4", "IV")]


def pair(**columns) -> dict:
    return {"prompt": "2+2? ", "chosen": "4", "rejected": "five", **columns}


def ranked(*scores: float) -> dict:
    return {"prompt": "2+2? ", "completions": [f"4 {n}" for n in range(len(scores))], "scores": list(scores)}


def completion(**columns) -> dict:
    return {"prompt": "2+2? ", "completion": "4", **columns}


def solution(*labels: float) -> dict:
    return {"prompt": "2+2?", "completions": [f"step {n}" for n in range(len(labels))], "labels": list(labels)}


def outcome(value: float) -> dict:
    return {"prompt": "2+2?", "completions": ["one", "two"], "outcome": value}


TREE = {"prompt": "2+2?", "nodes": [{"text": text, "label": 1, "parent": -1} for text in ("one", "two")]}

DATA = {
    "pairs": ("pairs", [pair(), pair()]),
    "pairs with margins": ("pairs", [pair(margin=1.0), pair(margin=0.5)]),
    "soft pairs": ("pairs", [pair(chosen_probability=0.4, weight=2.0), pair(chosen_probability=1.0, weight=0.5)]),
    "pairs and ties": ("pairs", [pair(tie=False), pair(tie=True)]),
    "ties": ("pairs", [pair(tie=True), pair(tie=True)]),
    "lists": ("pairs", [ranked(1, 3, 1), ranked(0, 2)]),
    "lists of shares": ("pairs", [ranked(0.25, 1.0), ranked(0, 1, 0.5)]),
    "lists and pairs": ("pairs", [ranked(1, 0), pair()]),
    "scores": ("completions", [completion(score=4.5), completion(score=-1)]),
    "outcomes of completions": ("completions", [completion(label=True), completion(label=False)]),
    "lists and scores": ("completions", [ranked(0.25, 1.0), completion(score=0.5)]),
    "attributes": ("completions", [completion(attributes={"kind": 2.0, "brief": None})]),
    "helpsteer": ("completions", HELPSTEER),
    "attributes and lists": ("completions", [completion(attributes={"kind": 1.0}), ranked(1, 0)]),
    "lists and attributes": ("completions", [ranked(1, 0), completion(attributes={"kind": 1.0})]),
    "steps": ("steps", [solution(1, 0), solution(1, -100, 1)]),
    "soft steps": ("steps", [solution(1, 0.25)]),
    "trees": ("steps", [TREE]),
    "outcomes": ("steps", [outcome(True), outcome(False), outcome(True)]),
    "soft outcomes": ("steps", [outcome(0.25)]),
    "steps and outcomes": ("steps", [solution(1, 0), outcome(True)]),
    "steps and trees": ("steps", [solution(1, 0), TREE]),
    "trees and outcomes": ("steps", [TREE, outcome(True)]),
}


def as_dataset(rows: list[dict]) -> Dataset:
    """Rows of one format as they are, of several as a mixture."""
    if len({tuple(row) for row in rows}) == 1:
        return Dataset.from_list(rows)
    return mixed([Part(dataset=Dataset.from_list([row]), subset=str(n)) for n, row in enumerate(rows)], seed=0)


def taken_by(loss: str, rows: list[dict], attributes: list[str] | None, folder) -> bool:
    """Whether a trainer's objective takes all of these raw rows, and has something left of them."""
    if loss in STEP_LOSSES:
        objective = StepObjective.from_config(PRMConfig(str(folder), loss_type=loss, bf16=False))
    else:
        of_scores = attributes if loss in ("mse", "huber", "bce") else None
        objective = reward_objective(RewardConfig(str(folder), loss_type=loss, attributes=of_scores, bf16=False))
    try:
        return bool([one for row in rows for found in detect_adapter(row, row)(row) for one in objective.expand(found)])
    except RowError:
        return False


@pytest.mark.parametrize("case", DATA)
def test_the_kind_and_its_losses_are_those_that_train_on_it(case, tmp_path):
    form, rows = DATA[case]
    found = inspect_rows(as_dataset(rows))
    assert found.form == form
    assert list(found.refusals.values()) == ([[1]] if case == "attributes and lists" else [])
    rows = rows[:1] if found.refusals else rows
    expected = [loss for loss in (*REWARD_LOSSES, *STEP_LOSSES) if taken_by(loss, rows, found.attributes, tmp_path)]
    assert sorted(found.losses) == sorted(expected)
    text = "\n".join(lines(found))
    told = ", ".join(found.losses) or "none takes all of these rows"
    assert f"  loss_type   {told}" in text and {"steps": "PRMTrainer"}.get(form, "RewardTrainer") in text
    usual = {"bradley_terry", "cross_entropy"} & {*found.losses}
    assert ("the default takes no such rows" in text) == (bool(found.losses) and not usual)


def told(rows: list[dict]) -> list[str]:
    return [" ".join(line.split()) for line in lines(inspect_rows(as_dataset(rows)))]


def test_lists_ties_weights_and_soft_labels_are_told():
    text = told([ranked(1, 3, 1), ranked(0, 2)])
    assert (
        "kept 3 pairs" in text
        and "ties 1 more pairs, which rao_kupper alone trains on; other losses leave them out" in text
    )
    assert "lists 2 ranked lists of 2 to 3 completions, scored from 0 to 3, mean 1.4:" in text
    text = told(DATA["soft pairs"][1])
    assert "soft chosen_probability in 2 pairs" in text and "weight in 2 pairs: from 0.5 to 2, mean 1.25" in text
    text = told(DATA["pairs and ties"][1])
    assert "kept 1 pairs of 2 rows" in text and "left out, the adapter gives no row for it: 1 (row 1)" in text
    assert any(line.startswith("ties 1 more pairs") for line in text)


def test_a_column_that_only_some_have_is_refused_as_in_training():
    rows = [pair(weight=1.0), pair(weight=None), pair(weight=2.0)]
    found = inspect_rows(Dataset.from_list(rows))
    assert found.refusals == {"'weight' is missing in 1 of 3 pairs; all or none have one.": []}


def test_scores_and_outcomes_are_told():
    rated = [
        completion(attributes={"kind": 2.0, "brief": None}),
        completion(attributes={"kind": 3.0, "brief": 1.0}),
        completion(attributes={"kind": None, "brief": None}),
        completion(attributes={"kind": "good", "brief": 1.0}),
    ]
    found = inspect_rows(as_dataset(rated[:3]))
    assert (found.attributes, found.scores) == (["kind", "brief"], {"kind": [2.0, 3.0], "brief": [1.0]})
    assert found.report.dropped == {"no attribute is rated": [2]}
    text = told(rated[:3])
    assert "scores kind: 2, from 2 to 3, mean 2.5" in text and "brief: 1, all 1" in text
    assert "attributes kind, brief (to be set, all or some of them)" in text
    (why,) = inspect_rows(as_dataset(rated[3:])).refusals
    assert "found 'good'" in why
    text = told([solution(1, 0.25), *DATA["outcomes"][1]])
    assert "outcomes 3 solutions without labels of their steps, 33.3 % wrong" in text
    assert "labels 2, 1 of them soft, 50.0 % wrong" in text and "kept 4 solutions" in text


def test_a_mixture_tells_its_parts_and_where_a_bad_row_came_from():
    bad = {"canonical": json.dumps([pair(weight=-1)]), "subset": "sums", "source_row": 7}
    rows = [{"canonical": json.dumps([pair()]), "subset": name, "source_row": n} for n, name in enumerate("aab")]
    found = inspect_rows(Dataset.from_list([*rows, bad, {**bad, "source_row": 9}]))
    assert found.adapter == "mixed" and found.subsets == {"a": 2, "b": 1, "sums": 2}
    assert list(found.refusals.values()) == [[3, 4]]  # one reason
    assert "  subsets     a 2, sums 2, b 1" in list(lines(found))


def test_tokens_of_scored_completions_and_of_outcomes(assets):
    tokenizer = AutoTokenizer.from_pretrained(assets / "tokenizers" / "qwen2_5")
    found = inspect_rows(Dataset.from_list([completion(score=4.5), completion(score=1.0)]), tokenizer)
    prompt, whole = (tokenizer(text)["input_ids"] for text in ("2+2? ", "2+2? 4"))
    assert found.tokens.tokens == 2 * (len(whole) + 1) and found.tokens.prompts.max == len(prompt)
    assert [part.title for part in found.example] == ["prompt", "completion, score 4.5"]
    assert example_text(found.example, colour=False).plain.endswith("4|[[<|im_end|>]]")
    found = inspect_rows(Dataset.from_list(HELPSTEER), tokenizer)
    assert "".join(found.example[1].tokens).startswith("4<|im_end|>")
    assert "".join(found.example[0].tokens).endswith("<|im_start|>assistant\n")
    cut = inspect_rows(
        Dataset.from_list([completion(prompt="one two three four", score=1.0)]),
        tokenizer,
        max_length=4,
        overlong="truncate",
    )
    assert cut.report.cut_rows == [0] and cut.tokens.sequences.max == 4 and cut.tokens.prompts.max == 2
    found = inspect_rows(Dataset.from_list([outcome(0.0), outcome(0.25)]), tokenizer)
    assert [part.title for part in found.example] == [
        "prompt",
        "step 1, of a wrong solution",
        "step 2, of a wrong solution",
    ]
    assert found.merges.solutions == 2 and found.options["overlong"] == "truncate"
