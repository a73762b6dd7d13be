"""Tools and arguments of the chat template: a run's own are saved, and every way to score takes them."""

import json

import pytest
import torch
from datasets import Dataset
from rows import conversations, quick, solutions
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardScorer, RewardTrainer
from hf_rewardplug.demo import save_demo_model
from hf_rewardplug.score.benchmarks import evaluate
from hf_rewardplug.score.check import check_model

TEMPLATE = (
    "{% if mood is defined %}{{ mood + '\n' }}{% endif %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
ROWS = conversations(3, 1)
PROMPTS, ANSWERS = [row["prompt"] for row in ROWS], [row["chosen"] for row in ROWS]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    folder = save_demo_model(tmp_path_factory.mktemp("base"), style="qwen")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


def saved(base, folder, rows=None, kind=RewardTrainer, **options):
    config = PRMConfig if kind is PRMTrainer else RewardConfig
    rows = Dataset.from_list(rows or conversations(6))
    trainer = kind(base, config(**quick(folder, learning_rate=1e-2, **options)), train_dataset=rows)
    trainer.train()
    trainer.save_model()
    return trainer


def plain(folder: str, rows=ROWS, **arguments) -> list[float]:
    """transformers alone, conversation by conversation."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, options = AutoTokenizer.from_pretrained(folder), {"return_tensors": "pt", "return_dict": True}
    with torch.no_grad():
        return [
            model(**tokenizer.apply_chat_template(row["prompt"] + row["chosen"], **options, **arguments)).logits.item()
            for row in rows
        ]


@pytest.fixture(scope="module")
def calm(base, tmp_path_factory) -> str:
    """An ORM whose conversations were all rendered with mood="calm"."""
    folder = tmp_path_factory.mktemp("calm")
    saved(base, folder, chat_template_kwargs={"mood": "calm"})
    return str(folder)


@pytest.mark.parametrize("given", [{"mood": "calm"}, '{"mood": "calm"}'])
def test_a_run_s_arguments_are_rendered_and_saved(base, tmp_path, given):
    trainer = saved(base, tmp_path, chat_template_kwargs=given)
    tokenizer, row = AutoTokenizer.from_pretrained(base), conversations(1)[0]
    expected = tokenizer.apply_chat_template(row["prompt"] + row["chosen"], mood="calm", return_dict=True)["input_ids"]
    assert trainer.train_dataset[0]["chosen_ids"] == expected
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rewardplug"]["chat_template_kwargs"] == {"mood": "calm"}
    found = trainer.predict(Dataset.from_list(ROWS)).predictions[:, 0].tolist()
    assert found == pytest.approx(plain(str(tmp_path), mood="calm"), abs=1e-5)


def test_a_scorer_renders_with_them_unless_it_is_told_otherwise(calm):
    calmly, wildly = plain(calm, mood="calm"), plain(calm, mood="wild")
    assert calmly != pytest.approx(wildly, abs=1e-3)
    scorer = RewardScorer.from_pretrained(calm)
    assert scorer.score(PROMPTS, ANSWERS) == pytest.approx(calmly, abs=1e-5)
    assert scorer(PROMPTS, ANSWERS) == pytest.approx(calmly, abs=1e-5)
    found = scorer.score(PROMPTS, ANSWERS, chat_template_kwargs={"mood": "wild"})
    assert found == pytest.approx(wildly, abs=1e-5)
    found = scorer.score(PROMPTS, ANSWERS, chat_template_kwargs=[{"mood": "wild"}, None, {"mood": None}])
    assert found == pytest.approx([wildly[0], *calmly[1:]], abs=1e-5)
    found = RewardScorer.from_pretrained(calm, chat_template_kwargs={"mood": "wild"})
    assert found.score(PROMPTS, ANSWERS) == pytest.approx(wildly, abs=1e-5)
    rows = [{"prompt": p, "completion": a} for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    rows[1]["chat_template_kwargs"] = {"mood": "wild"}
    assert list(scorer.score_rows(rows)) == pytest.approx([calmly[0], wildly[1], calmly[2]], abs=1e-5)
    found = {one.check: one for one in check_model(calm)}
    assert found["scores in fp32"].ok and 'chat_template_kwargs={"mood": "calm"}' in found["chat template"].found


def test_a_row_s_own_arguments_win_and_arrow_s_none_does_not(base, tmp_path):
    """Arrow gives every row each key that any row has."""
    rows = conversations(3)
    rows[0]["chat_template_kwargs"], rows[1]["chat_template_kwargs"] = {"mood": "wild"}, {"other": "x"}
    trainer = saved(base, tmp_path, rows, chat_template_kwargs={"mood": "calm"})
    tokenizer = AutoTokenizer.from_pretrained(base)
    for row, mood, ids in zip(rows, ("wild", "calm", "calm"), trainer.train_dataset["chosen_ids"], strict=True):
        expected = tokenizer.apply_chat_template(row["prompt"] + row["chosen"], mood=mood, return_dict=True)
        assert ids == expected["input_ids"]
    assert trainer.model.config.rewardplug["chat_template_kwargs"] == {"mood": "calm"}


def test_what_all_rows_say_themselves_is_remembered_too(base, tmp_path):
    rows = [{**row, "chat_template_kwargs": {"mood": "calm"}} for row in conversations(6)]
    saved(base, tmp_path, rows)
    found = RewardScorer.from_pretrained(str(tmp_path)).score(PROMPTS, ANSWERS)
    assert found == pytest.approx(plain(str(tmp_path), mood="calm"), abs=1e-5)


def test_tools_in_every_call(calm):
    expected = plain(calm, mood="calm", tools=TOOLS)
    assert expected != pytest.approx(plain(calm, mood="calm"), abs=1e-3)
    scorer = RewardScorer.from_pretrained(calm)
    for tools in (TOOLS, [TOOLS] * 3, json.dumps(TOOLS), [json.dumps(TOOLS)] * 3):
        assert scorer.score(PROMPTS, ANSWERS, tools=tools) == pytest.approx(expected, abs=1e-5)
        assert scorer(prompts=PROMPTS, completions=ANSWERS, tools=tools) == pytest.approx(expected, abs=1e-5)
    assert scorer.score(PROMPTS[0], ANSWERS[0], tools=TOOLS) == pytest.approx(expected[0], abs=1e-5)
    rows = [{"prompt": p, "completion": a, "tools": TOOLS} for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    assert list(scorer.score_rows(rows)) == pytest.approx(expected, abs=1e-5)
    some = scorer(prompts=PROMPTS, completions=ANSWERS, tools=[TOOLS, None, []], chat_template_kwargs=[None] * 3)
    assert some == pytest.approx([expected[0], *plain(calm, mood="calm")[1:]], abs=1e-5)
    with pytest.raises(ValueError, match="2 tools for 3 prompts"):
        scorer.score(PROMPTS, ANSWERS, tools=[TOOLS, TOOLS])
    with pytest.raises(ValueError, match=r"completions\[1\]: column 'tools': is not JSON"):
        scorer.score(PROMPTS, ANSWERS, tools=[None, "{", None])


WRONG = [TOOLS[0], json.dumps(TOOLS[0]), [None, *TOOLS], [TOOLS], "[1]", ["add"], 3, {"add": TOOLS[0]}]


@pytest.mark.parametrize("tools", WRONG)
def test_tools_that_are_no_list_of_dicts(tools, calm, base, tmp_path):
    """As training refuses them; of several rows, a mapping each is no list of tools for all."""
    scorer, rows = RewardScorer.from_pretrained(calm), [{**row, "tools": tools} for row in conversations(3, 1)]
    said = r"column 'tools': (expected a list of tools|is not JSON)"
    with pytest.raises(ValueError, match=f"row 0.*{said}"):
        RewardTrainer(base, RewardConfig(**quick(tmp_path)), train_dataset=Dataset.from_list(rows))
    asked = [{"prompt": p, "completion": a, "tools": tools} for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    for part in (asked, asked[:1]):
        with pytest.raises(ValueError, match=f"row 0: {said}"):
            list(scorer.score_rows(part))
    with pytest.raises(ValueError, match=rf"completions\[0\]: {said}"):
        scorer(prompts=PROMPTS, completions=ANSWERS, tools=[tools] * 3)
    if not isinstance(tools, list):
        with pytest.raises(ValueError, match=rf"completions\[0\]: {said}"):
            scorer.score(PROMPTS[0], ANSWERS[0], tools=tools)


def test_a_benchmark_of_rows_with_tools(calm):
    """The accuracy of pairs is that of their scores, each with its own tools."""
    rows = [{**row, "tools": TOOLS} if index % 2 else row for index, row in enumerate(conversations(6, 1))]
    scorer = RewardScorer.from_pretrained(calm)
    expected = [
        plain(
            calm, [{**row, "chosen": row[side]} for side in ("chosen", "rejected")], mood="calm", tools=row.get("tools")
        )
        for row in rows
    ]
    result = evaluate(scorer, rows)
    for item, scores in zip(result.items, expected, strict=True):
        assert item["scores"] == pytest.approx(scores, abs=1e-5)
    bad = [rows[0], {**rows[1], "tools": "{"}, rows[2]]
    with pytest.raises(ValueError, match=r"row 1: column 'tools': is not JSON"):
        evaluate(scorer, bad)


def test_steps_and_attributes_take_them(base, tmp_path):
    steps = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in solutions(6)]
    saved(base, tmp_path / "prm", steps, kind=PRMTrainer, chat_template_kwargs={"mood": "calm"})
    scorer = RewardScorer.from_pretrained(str(tmp_path / "prm"))
    prompts, completions = [row["prompt"] for row in steps], [row["completions"] for row in steps]
    more = {"tools": TOOLS, "chat_template_kwargs": {"mood": "wild"}}
    rows = [{"prompt": p, "steps": c, **more} for p, c in zip(prompts, completions, strict=True)]
    expected, found = list(scorer.score_rows(rows)), scorer.score_steps(prompts, completions, **more)
    assert [len(one) for one in found] == [len(one) for one in completions]
    without = scorer.score_steps(prompts, completions)
    for of_row, as_row, bare in zip(found, expected, without, strict=True):
        assert of_row == pytest.approx(as_row, abs=1e-6)
        assert of_row != pytest.approx(bare, abs=1e-4)
    rated = [
        {"prompt": row["prompt"], "completion": row["chosen"], "attributes": {"kind": 1.0, "brief": i}}
        for i, row in enumerate(conversations(6))
    ]
    saved(base, tmp_path / "orm", rated, loss_type="mse", attributes=["kind", "brief"])
    scorer = RewardScorer.from_pretrained(str(tmp_path / "orm"))
    (of_kind,) = scorer.score_attributes(PROMPTS[:1], ANSWERS[:1], **more)
    expected = scorer.score(PROMPTS[:1], ANSWERS[:1], **more)
    assert (of_kind["kind"] + of_kind["brief"]) / 2 == pytest.approx(expected[0], abs=1e-5)
    assert expected != pytest.approx(scorer.score(PROMPTS[:1], ANSWERS[:1]), abs=1e-4)


@pytest.mark.parametrize(
    ("given", "error"),
    [("mood", "TypeError"), ({"tokenize": False}, "tokenize, which the encoder sets"), ([1], "TypeError")],
)
def test_arguments_that_cannot_be(given, error, tmp_path):
    with pytest.raises((TypeError, ValueError)) as raised:
        RewardConfig(**quick(tmp_path, chat_template_kwargs=given))
    assert error in f"{raised.type.__name__}: {raised.value}" and "chat_template_kwargs" in str(raised.value)
