"""Real rows: every row of every asset passes the adapter detected for it. The assets are no part of the project."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from hf_rewardplug.data.adapters import detect_adapter, get_adapter

ASSETS = Path(os.environ.get("REWARDPLUG_ASSETS", Path(__file__).resolve().parents[3] / "shared" / "assets"))


def rows_of(path):
    if not (ASSETS / path).exists():
        pytest.skip(f"no {path} in {ASSETS}; set REWARDPLUG_ASSETS to the folder of the assets")
    return [json.loads(line) for line in (ASSETS / path).read_text().splitlines()]


# file, format, rows in, canonical rows out
FILES = [
    ("hh_harmless/train.jsonl", "preference", 1836, 1836),
    ("hh_harmless/raw.jsonl", "hh_rlhf", 158, 158),
    ("pandalm/test.jsonl", "preference", 836, 836),
    ("llmbar/test.jsonl", "preference", 419, 419),
    ("finegrained_rlhf/dev.jsonl", "finegrained_rlhf", 500, 3000),  # of which 384 are ties
    ("prm800k_val/val.jsonl", "stepwise_supervised", 1339, 1339),
    ("prm800k_val/raw_tree_examples.jsonl", "prm800k", 6, 6),
    ("processbench/gsm8k.jsonl", "stepwise_supervised", 400, 400),
    ("processbench/math.jsonl", "stepwise_supervised", 1000, 1000),
]


@pytest.mark.parametrize(("path", "name", "rows_in", "rows_out"), FILES)
def test_every_row_passes(path, name, rows_in, rows_out):
    rows = rows_of(path)
    adapter = detect_adapter(list(rows[0]), rows[0])
    canonical = [result for row in rows for result in adapter(row)]
    assert (adapter.name, len(rows), len(canonical)) == (name, rows_in, rows_out)
    for row in canonical:
        if "chosen" in row:
            assert row["prompt"][-1]["role"] == "user"
            assert {message["role"] for side in ("chosen", "rejected") for message in row[side][:1]} == {"assistant"}


def test_hh_text_keeps_every_word_of_the_conversations():
    for raw in rows_of("hh_harmless/raw.jsonl"):
        (row,) = get_adapter("hh_rlhf")(raw)
        for side in ("chosen", "rejected"):
            words = [word for message in row["prompt"] + row[side] for word in message["content"].split()]
            assert Counter(words) == Counter(raw[side].split()) - Counter(
                "Human:" if message["role"] == "user" else "Assistant:" for message in row["prompt"] + row[side]
            )


def test_every_rating_of_a_prm800k_tree_counts_once():
    rated_in_file = 0
    for raw in rows_of("prm800k_val/raw_tree_examples.jsonl"):
        steps = raw["label"]["steps"]
        rated = [entry["rating"] for step in steps for entry in step["completions"] if entry["rating"] is not None]
        written = [step for step in steps if step["human_completion"] is not None]
        (tree,) = get_adapter("prm800k")(raw)
        labels = [node["label"] for node in tree["nodes"] if node["label"] != -100]
        assert labels == [0 if rating == -1 else 1 for rating in rated]
        completions = sum(len(step["completions"]) for step in steps)
        assert len(tree["nodes"]) == completions + len(written)
        assert all(-1 <= node["parent"] < index for index, node in enumerate(tree["nodes"]))
        rated_in_file += len(rated)
    assert rated_in_file == 182


def test_processbench_rows_are_those_of_its_raw_form():
    """The assets stand cut at the first error; put together again, the raw form's adapter gives the same labels."""
    for part in ("gsm8k", "math"):
        for row in rows_of(f"processbench/{part}.jsonl"):
            steps = row["completions"] + row["steps_after_first_error"]
            raw = {"problem": row["prompt"], "steps": steps, "label": row["first_error"]}
            adapter = detect_adapter(list(raw), raw)
            unlabelled = [-100] * len(row["steps_after_first_error"])
            expected = {"prompt": row["prompt"], "completions": steps, "labels": row["labels"] + unlabelled}
            assert (adapter.name, adapter(raw)) == ("processbench", [expected])


def test_finegrained_rlhf_prefers_what_people_would_have_written():
    """The reading 1 = first, 2 = second fits: the answer nearer to the annotators' corrected one wins 2 times of 3."""

    def nearness(answer, corrected):
        ours, theirs = set(answer.lower().split()), set(corrected.lower().split())
        return len(ours & theirs) / len(ours | theirs)

    nearer_wins = Counter()
    for row in rows_of("finegrained_rlhf/dev.jsonl"):
        corrected = row["feedback_on_prediction_1"]["corrected-prediction"]
        if corrected:
            own = row["completions"][0]  # the corrected text was written over this one: its pairs prove nothing
            for pair in get_adapter("finegrained_rlhf")(row):
                if own not in (pair["chosen"], pair["rejected"]):
                    chosen, rejected = (
                        nearness(pair[side][0]["content"], corrected) for side in ("chosen", "rejected")
                    )
                    nearer_wins[chosen > rejected] += chosen != rejected
    assert nearer_wins[True] > 1.5 * nearer_wins[False]
