"""Scoring and evaluation leave no part of a prompt unread in silence either."""

import json
import logging

import pytest
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_rewardplug import RewardScorer
from hf_rewardplug.score.benchmarks import evaluate
from hf_rewardplug.score.files import score_file
from hf_rewardplug.score.requests import Requests

PAIR = {"prompt": "Capital of France?", "chosen": " Paris", "rejected": " Lyon"}
PLAIN = {"prompt": "Capital of France?", "completion": " Paris"}
STEPS = {"prompt": "2+2+2?", "completions": ["2+2=4", "4+2=6"], "labels": [True, True]}
TALK = {"prompt": [{"role": "user", "content": "Capital of France?"}], "completions": [["Paris"], ["Lyon"]]}


class Longer:
    """Scores by length; a process reward model too."""

    def score(self, prompts, completions):
        return [[float(len(str(one))) for one in several] for several in completions]

    def score_steps(self, prompts, steps):
        return [[1.0] * len(one) for one in steps]


@pytest.mark.parametrize("row", [PAIR, PLAIN, {**PLAIN, "completions": ["a"]}, STEPS], ids=lambda row: list(row)[-1])
@pytest.mark.parametrize(
    "beside", [{"context": "Seine."}, {"images": ["a.png"]}, {"system_prompt": "Be brief."}], ids=str
)
def test_score_refuses_what_it_would_not_read(row, beside):
    (name,) = beside
    with pytest.raises(ValueError, match=f"^column '{name}'.*ignore_columns"):
        Requests(any_format=True)({**row, **beside})
    ignoring = Requests(any_format=True, ignore_columns=[name])
    assert ignoring({**row, **beside}) == Requests(any_format=True)(row)


@pytest.mark.parametrize("answers", [{"completion": "4"}, {"completions": ["4", "5"]}, {"steps": ["4"]}], ids=list)
def test_system_beside_plain_rows_is_the_first_turn(answers):
    question, system = {"role": "user", "content": "2+2?"}, {"role": "system", "content": "Be brief."}
    row = {"prompt": [question], **answers, "system": "Be brief."}
    assert Requests(any_format=True)(row) == {"prompt": [system, question], **answers}
    with pytest.raises(ValueError, match=r"^column 'system' looks like a part of the prompt"):
        Requests(any_format=True)({**row, "prompt": "2+2?"})


@pytest.mark.parametrize("row", [PAIR, PLAIN], ids=["pairs", "plain"])
def test_score_watches_the_rows_behind_the_first_one(row, caplog):
    requests = Requests(any_format=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            requests({**row, "context": None, "remark": "by hand"})
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == ["columns that are not read: remark"]
    for later in ({"context": "Seine."}, {"document": "Seine.", "note": "a note"}):
        with pytest.raises(ValueError, match=f"^column '{next(iter(later))}' looks like a part of the prompt"):
            requests({**row, **later})


def test_score_knows_the_columns_to_ignore_from_the_first_rows(tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in (PLAIN, {**PLAIN, "context": "Seine."})))
    with pytest.raises(ValueError, match=r"ignore_columns names 'contxt', which is no column; found \['prompt'"):
        score_file(None, source, tmp_path / "out.jsonl", ignore_columns=["contxt"])


@pytest.mark.parametrize(("name", "row"), [("preference", PAIR), ("steps", STEPS)])
def test_evaluate_refuses_and_tells(name, row, caplog):
    rows = [row] * 70 + [{**row, "context": "Seine.", "remark": "by hand"}]
    with pytest.raises(ValueError, match=r"^column 'context' looks like a part of the prompt"):
        evaluate(Longer(), name, data=rows)
    with caplog.at_level(logging.WARNING):
        result = evaluate(Longer(), name, data=rows, ignore_columns=["context"])
    assert result.unread == "columns that are not read: remark; ignored as asked: context"
    assert [record.getMessage() for record in caplog.records] == [f"{name}: {result.unread}"]
    with pytest.raises(ValueError, match="ignore_columns names 'contxt', which is no column"):
        evaluate(Longer(), name, data=rows, ignore_columns=["contxt"])


def test_evaluate_reads_what_a_transform_shows():
    rows = Dataset.from_list([PAIR] * 3).with_transform(
        lambda batch: {**batch, "chosen": ["Paris it is"] * len(batch["prompt"])}
    )
    (item, *_) = evaluate(Longer(), rows).items
    assert item["completions"][0] == "Paris it is"


@pytest.fixture(scope="module")
def scorer(assets):
    base = str(assets / "stories260K")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role != 'developer' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    return RewardScorer(model, tokenizer)


def test_the_scorer_tells_once_what_its_template_leaves_out(scorer, caplog):
    prompts = [[{"role": role, "content": "Name a prime."}] for role in ("developer", "user")]
    answer = [{"role": "assistant", "content": "7"}]
    with caplog.at_level(logging.WARNING, logger="hf_rewardplug.data"):
        for _ in range(2):
            scorer.score([[*prompts[0], *prompts[1]], prompts[1]], [answer, answer])
    assert [record.getMessage() for record in caplog.records] == [
        "The chat template does not render 'developer' turns, which the scores therefore do not see."
    ]


def test_rows_for_the_scorer_are_watched_too(scorer):
    row = {"prompt": "a", "completion": "b", "subset": "c", "id": 3}
    assert len(list(scorer.score_rows([row] * 3))) == 3
    with pytest.raises(ValueError, match=r"^row 1: column 'system' looks like a part of the prompt"):
        list(scorer.score_rows([row, {**row, "system": "Be brief."}]))


def test_a_reward_function_refuses_images_of_the_data_set(scorer):
    with pytest.raises(ValueError, match=r"^column 'images': images, sound and video are not scored"):
        scorer(prompts=["a", "b"], completions=["c", "d"], images=[None, ["cat.png"]])
    assert len(scorer(prompts=["a", "b"], completions=["c", "d"], images=[None, []], trainer_state=object())) == 2
