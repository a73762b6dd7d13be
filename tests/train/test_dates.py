"""A template that writes the date: the first day of a run stays, for scores, plain transformers and a resumed run."""

import datetime
import json
from pathlib import Path

import pytest
import torch
import transformers.utils.chat_template_utils as chat_template_utils
import trl
from datasets import Dataset
from peft import LoraConfig
from rows import conversations, quick, solutions, text_pairs
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardScorer, RewardTrainer
from hf_rewardplug.data.template_dates import freeze_date, frozen_date, writes_date
from hf_rewardplug.demo import save_demo_model
from hf_rewardplug.score.check import check_model

TURNS = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
ALWAYS = "{{ 'Today ' + strftime_now('%d %b %Y') + '\n' }}" + TURNS
ARGUMENT = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}"
    "{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}"
    "{{ 'Today ' + date_string + '\n' }}" + TURNS
)
"""as Llama 3.2's: an argument, or the day"""
IN_A_MACRO = "{% macro head() %}{{ strftime_now('%Y-%m-%d') }}{% endmacro %}{{ head() }}" + TURNS
"""as gpt-oss's"""
WITH_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ strftime_now('%A, %-d %B %y') }}{% endif %}" + TURNS
WITH_TOOLS = "{% if tools %}{{ strftime_now('%j') }}{% endif %}" + TURNS
TEMPLATES = [ALWAYS, ARGUMENT, IN_A_MACRO, WITH_SYSTEM, WITH_TOOLS]


@pytest.fixture
def on(monkeypatch):
    """`on(2027, 6, 9)`: the day as transformers sees it."""

    def set_day(*day: int) -> None:
        class Day(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.datetime(*day)

        monkeypatch.setattr(chat_template_utils, "datetime", Day)

    return set_day


@pytest.fixture
def base(tmp_path) -> str:
    return str(save_demo_model(tmp_path / "base", style="qwen"))


def tokenizer_of(base: str, template: str):
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = template
    return tokenizer


def trainer_of(base, folder, template, rows=None, peft_config=None, kind=RewardTrainer, **options):
    config = PRMConfig if kind is PRMTrainer else RewardConfig
    return kind(
        base,
        config(**quick(folder, **options)),
        train_dataset=Dataset.from_list(rows or conversations(6)),
        processing_class=tokenizer_of(base, template),
        peft_config=peft_config,
    )


SYSTEM = {"role": "system", "content": "Be brief."}
TOOLS = [{"type": "function", "function": {"name": "add"}}]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_frozen_template_renders_the_day_on_every_day(template, base, on):
    """The truth is transformers' own rendering on that day."""
    tokenizer, talk = tokenizer_of(base, template), conversations(1)[0]["prompt"]
    cases = [(talk, {}), ([SYSTEM, *talk], {}), (talk, {"tools": TOOLS}), (talk, {"add_generation_prompt": True})]
    on(2027, 6, 9)
    expected = [tokenizer.apply_chat_template(messages, tokenize=False, **more) for messages, more in cases]
    assert writes_date(tokenizer) and frozen_date(tokenizer) is None
    freeze_date(tokenizer, datetime.date(2027, 6, 9))
    assert not writes_date(tokenizer) and frozen_date(tokenizer) == "2027-06-09"
    for day in [(2027, 6, 9), (2031, 12, 24, 18, 0)]:
        on(*day)
        assert [tokenizer.apply_chat_template(messages, tokenize=False, **more) for messages, more in cases] == expected


@pytest.mark.parametrize(
    "source",
    [
        "\n  {% if true %}x{% endif %}{{ strftime_now('%A %B %d %m %Y %H:%M:%S %j %p %y %a %b %U %% %-d %%d') }}",
        "  {{ strftime_now(format='%e %F') }}\n",
        "{{ strftime_now(day_format) }}",
        "{% set f = '%Y' %}{{ strftime_now( f ) + strftime_now('%H') + strftime_now(format = day_format) }}",
    ],
)
def test_every_directive_and_every_white_space(source, base, on):
    tokenizer = tokenizer_of(base, source)
    more = {"tokenize": False, "day_format": "%d/%m"}
    on(2027, 6, 9)
    expected = tokenizer.apply_chat_template([SYSTEM], **more)
    freeze_date(tokenizer, datetime.date(2027, 6, 9))
    on(2031, 12, 24)
    assert tokenizer.apply_chat_template([SYSTEM], **more) == expected


def test_trls_copies_of_the_families_templates(base, on):
    """Llama 3.2's, gpt-oss's and others, as TRL ships them: rendered on the day, and frozen."""
    folder = Path(trl.__file__).parent / "chat_templates"
    sources = [text for path in sorted(folder.glob("*.jinja")) if "strftime_now" in (text := path.read_text("utf-8"))]
    tokenizer, talk = tokenizer_of(base, None), conversations(1)[0]
    for source in sources:
        on(2027, 6, 9)
        tokenizer.chat_template = source
        expected = tokenizer.apply_chat_template(talk["prompt"] + talk["chosen"], tokenize=False)
        assert writes_date(tokenizer)
        freeze_date(tokenizer, datetime.date(2027, 6, 9))
        on(2031, 12, 24)
        assert tokenizer.apply_chat_template(talk["prompt"] + talk["chosen"], tokenize=False) == expected
        assert "2027" in expected and not writes_date(tokenizer)


def test_templates_by_name_are_frozen_each(base, on):
    tokenizer = tokenizer_of(base, None)
    tokenizer.chat_template = {"default": TURNS, "tool_use": ALWAYS}
    assert writes_date(tokenizer)
    freeze_date(tokenizer, datetime.date(2027, 6, 9))
    on(2031, 12, 24)
    assert "Today 09 Jun 2027" in tokenizer.apply_chat_template([SYSTEM], tools=TOOLS, tokenize=False)
    assert not writes_date(tokenizer)


def test_a_date_that_an_argument_gives_is_no_date_of_the_day(base):
    assert writes_date(tokenizer_of(base, ARGUMENT))
    assert not writes_date(tokenizer_of(base, ARGUMENT), date_string="1 May 2026")
    assert not writes_date(tokenizer_of(base, TURNS))


@pytest.mark.parametrize("template", [ALWAYS, ARGUMENT, IN_A_MACRO])
@pytest.mark.parametrize("adapter", [False, True])
def test_scores_are_those_of_the_day_of_training(template, adapter, base, on, tmp_path, caplog):
    on(2027, 6, 9)
    folder, rows = tmp_path / "out", conversations(4, 1)
    expected_text = tokenizer_of(base, template).apply_chat_template(rows[0]["prompt"], tokenize=False)
    lora = LoraConfig(r=2, target_modules=["q_proj"]) if adapter else None
    trainer = trainer_of(base, folder, template, peft_config=lora, learning_rate=1e-2)
    assert caplog.text.count("The chat template writes the date into the prompt") == 1 and "2027-06-09" in caplog.text
    trainer.train()
    trainer.save_model()
    expected = trainer.predict(Dataset.from_list(rows)).predictions[:, 0].tolist()
    config = json.loads((folder / ("reward_config.json" if adapter else "config.json")).read_text())
    assert config["rewardplug"]["date"] == "2027-06-09"
    on(2031, 12, 24)
    caplog.clear()
    scorer = RewardScorer.from_pretrained(str(folder))
    prompts, answers = [row["prompt"] for row in rows], [row["chosen"] for row in rows]
    assert scorer.score(prompts, answers) == pytest.approx(expected, abs=1e-5)
    assert "date" not in caplog.text
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.apply_chat_template(prompts[0], tokenize=False) == expected_text
    if not adapter:
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        batch = [
            tokenizer.apply_chat_template([*p, *a], return_tensors="pt", return_dict=True)
            for p, a in zip(prompts, answers, strict=True)
        ]
        with torch.no_grad():
            assert [model(**one).logits.item() for one in batch] == pytest.approx(expected, abs=1e-5)
    found = {one.check: one for one in check_model(str(folder))}
    assert found["scores in fp32"].ok and "the date in it is 2027-06-09" in found["chat template"].found
    # with the tokenizer that the model came from, as some scripts do
    base_tokenizer = tokenizer_of(base, template)
    base_tokenizer.pad_token = tokenizer.pad_token
    scorer = RewardScorer(scorer.model, base_tokenizer)
    assert scorer.score(prompts, answers) == pytest.approx(expected, abs=1e-5)


def ids(trainer) -> list:
    dataset = trainer.train_dataset
    return dataset["input_ids" if "input_ids" in dataset.column_names else "chosen_ids"][:]


@pytest.mark.parametrize("kind", [RewardTrainer, PRMTrainer])
@pytest.mark.parametrize("named", [False, True])
def test_a_run_that_is_resumed_on_another_day_has_the_same_tokens(kind, named, base, on, tmp_path, caplog):
    rows = conversations(6)
    if kind is PRMTrainer:
        rows = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in solutions(6)]
    options = {"rows": rows, "kind": kind, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    on(2027, 6, 9)
    first = trainer_of(base, tmp_path / "out", ALWAYS, **options)
    first.train()
    on(2031, 12, 24)
    checkpoint = str(tmp_path / "out" / "checkpoint-1")
    if named:
        options["resume_from_checkpoint"] = checkpoint
    folder = tmp_path / ("elsewhere" if named else "out")
    second = trainer_of(base, folder, ALWAYS, **{**options, "max_steps": 2})
    assert ids(second) == ids(first) and f"that of the checkpoint '{checkpoint}'" in caplog.text
    second.train(resume_from_checkpoint=checkpoint if named else True)
    assert second.state.global_step == 2
    third = trainer_of(base, tmp_path / "third", ALWAYS, **{**options, "resume_from_checkpoint": None})
    assert ids(third) != ids(first)
    with pytest.raises(ValueError, match=r"with the date 2027-06-09 in every prompt, and here .* with 2031-12-24"):
        third.train(resume_from_checkpoint=checkpoint)


def test_a_run_s_own_date(base, on, tmp_path, caplog):
    """An argument of the template: nothing is told, and scores are with it on any day."""
    on(2027, 6, 9)
    rows = conversations(4, 1)
    trainer = trainer_of(base, tmp_path / "out", ARGUMENT, chat_template_kwargs={"date_string": "01 May 2026"})
    assert "writes the date" not in caplog.text
    trainer.train()
    trainer.save_model()
    expected = trainer.predict(Dataset.from_list(rows)).predictions[:, 0].tolist()
    tokenizer = tokenizer_of(base, ARGUMENT)
    text = rows[0]["prompt"] + rows[0]["chosen"]
    assert trainer.train_dataset.column_names
    by_hand = tokenizer.apply_chat_template(text, date_string="01 May 2026", return_dict=True)["input_ids"]
    assert trainer.encoder(trainer.processing_class, trainer.args).completion({"completion": text}) == by_hand
    on(2031, 12, 24)
    scorer = RewardScorer.from_pretrained(str(tmp_path / "out"))
    prompts, answers = [row["prompt"] for row in rows], [row["chosen"] for row in rows]
    assert scorer.score(prompts, answers) == pytest.approx(expected, abs=1e-5)


def test_a_date_in_some_rows_alone_is_frozen_too(base, on, tmp_path):
    """No common conversation shows it: the rows' own argument asks for it."""
    template = "{% if dated %}{{ strftime_now('%d %b %Y') }}{% endif %}" + TURNS
    rows = [{**row, "chat_template_kwargs": {"dated": True}} for row in conversations(4)]
    on(2027, 6, 9)
    trainer = trainer_of(base, tmp_path / "out", template, rows=rows)
    trainer.train()
    trainer.save_model()
    expected = trainer.predict(Dataset.from_list(rows)).predictions[:, 0].tolist()
    on(2031, 12, 24)
    found = list(
        RewardScorer.from_pretrained(str(tmp_path / "out")).score_rows(
            {"prompt": row["prompt"], "completion": row["chosen"], "chat_template_kwargs": {"dated": True}}
            for row in rows
        )
    )
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_run_on_text_is_told_nothing_of_a_date(base, tmp_path, caplog):
    trainer_of(base, tmp_path / "out", ALWAYS, rows=text_pairs(6))
    assert "writes the date" not in caplog.text


def test_a_checkpoint_of_somebody_else_is_scored_with_one_date(base, on, caplog):
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    on(2027, 6, 9)
    scorer, talk = RewardScorer(model, tokenizer_of(base, ALWAYS)), conversations(1)[0]
    assert "writes the date" not in caplog.text  # text needs no template
    before = scorer.score([talk["prompt"]], [talk["chosen"]])
    assert caplog.text.count("This scorer renders with 2027-06-09") == 1
    by_hand = tokenizer_of(base, ALWAYS).apply_chat_template(talk["prompt"] + talk["chosen"], return_dict=True)
    assert scorer.encoder.completion({"completion": talk["prompt"] + talk["chosen"]}) == by_hand["input_ids"]
    on(2031, 12, 24)
    assert scorer.score([talk["prompt"]], [talk["chosen"]]) == before
