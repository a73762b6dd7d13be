"""PITFALLS 37 to 40, from training to scoring: each promise, and the same check failing with its mend undone."""

import datetime

import pytest
import torch
import transformers.utils.chat_template_utils as chat_template_utils
from small import TURNS, text_pairs
from small import turn as message
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from undo import fails_at_trl, fails_without

import hf_rewardplug
from hf_rewardplug import RewardScorer
from hf_rewardplug.data import encoding
from hf_rewardplug.score import rendering as score_rendering
from hf_rewardplug.score import scorer as score_scorer
from hf_rewardplug.train import rendering as train_rendering
from hf_rewardplug.train import tokenizer as trainer_tokenizer

TOOLS = [{"type": "function", "function": {"name": "add"}}]
WITH_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}" + TURNS
DATED = "{{ strftime_now('%d %b %Y') + '\n' }}" + TURNS
CLOSED = "{% for m in messages %}{{ m.role + ': ' + m.content + '</s>' }}{% endfor %}"


def talks(count: int, seed: int = 0) -> list[dict]:
    return [
        {
            "prompt": [message("user", row["prompt"])],
            "chosen": [message("assistant", row["chosen"])],
            "rejected": [message("assistant", row["rejected"])],
        }
        for row in text_pairs(count, seed)
    ]


def tokenizer_of(model_path: str, template: str, **special):
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    tokenizer.chat_template = template
    for name, token in special.items():
        setattr(tokenizer, name, token)
    return tokenizer


def plain_rewards(folder, rows: list[dict], **arguments) -> list[float]:
    """transformers alone: the saved template, a padded batch."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole = [row["prompt"] + row["chosen"] for row in rows]
    batch = tokenizer.apply_chat_template(whole, padding=True, return_tensors="pt", return_dict=True, **arguments)
    with torch.no_grad():
        return model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].tolist()


def test_pitfall_37_the_scorer_renders_the_tools_that_trl_hands_it(orm, model_path, tmp_path):
    """TRL's GRPO hands a data set's columns to reward functions; without them another prompt is scored."""
    rows = talks(4)
    orm(rows, processing_class=tokenizer_of(model_path, WITH_TOOLS)).save_model()

    def holds():
        prompts, completions = [row["prompt"] for row in rows], [row["chosen"] for row in rows]
        found = RewardScorer.from_pretrained(str(tmp_path))(
            prompts=prompts, completions=completions, completion_ids=[[1]] * 4, tools=[TOOLS] * 4
        )
        assert found == pytest.approx(plain_rewards(tmp_path, rows, tools=TOOLS), abs=1e-5)

    fails_without(holds, (score_scorer, "TEMPLATE_ARGUMENTS", ()))


def test_pitfall_38_strings_are_the_turns_that_training_rendered(orm, model_path, tmp_path):
    """A model of conversations scored strings as text: near-random figures, without a word."""
    rows, strings = talks(4), text_pairs(4)
    orm(rows, processing_class=tokenizer_of(model_path, TURNS)).save_model()

    def holds():
        scorer = RewardScorer.from_pretrained(str(tmp_path))
        found = scorer.score([row["prompt"] for row in strings], [row["chosen"] for row in strings])
        assert found == pytest.approx(plain_rewards(tmp_path, rows), abs=1e-5)

    def as_it_comes(self, prompt, completion, *, as_text=False):
        return prompt, completion

    fails_without(holds, (score_rendering.TrainedForm, "completions", as_it_comes))


def test_pitfall_39_a_score_does_not_depend_on_the_day(orm, model_path, tmp_path, monkeypatch):
    """Templates that call `strftime_now` gave the same text another reward tomorrow, in plain transformers too."""
    rows = talks(4)

    def on(*day: int) -> None:
        class Day(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.datetime(*day)

        monkeypatch.setattr(chat_template_utils, "datetime", Day)

    def holds(of=hf_rewardplug):
        on(2027, 6, 9)
        trainer = orm(rows, of=of, processing_class=tokenizer_of(model_path, DATED))
        trainer.save_model()
        before = plain_rewards(tmp_path, rows)
        on(2031, 12, 24)
        assert plain_rewards(tmp_path, rows) == pytest.approx(before, abs=1e-5)

    fails_without(holds, (train_rendering, "freeze_date", lambda tokenizer, day: None))
    fails_at_trl(holds)


def test_pitfall_40_the_pad_token_is_not_the_templates_last_token(orm, model_path, tmp_path):
    """Plain transformers skip it and score the token before, which training and a last-token server do not."""
    rows = talks(4)

    def holds(of=hf_rewardplug):
        special = {"eos_token": "<s>", "pad_token": "</s>"}
        trainer = orm(rows, of=of, processing_class=tokenizer_of(model_path, CLOSED, **special))
        trainer.save_model()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
        for row, pooled in zip(rows, plain_rewards(tmp_path, rows), strict=True):
            ids = tokenizer.apply_chat_template(row["prompt"] + row["chosen"], return_dict=True)["input_ids"]
            with torch.no_grad():
                last = model.score(model.model(torch.tensor([ids])).last_hidden_state[:, -1]).item()
            assert pooled == pytest.approx(last, abs=1e-5)

    def own(tokenizer, size):
        return tokenizer.pad_token

    unchecked = (encoding.Encoder, "_ended", lambda self, ids, column: ids)
    fails_without(holds, (trainer_tokenizer, "choose_pad_token", own), unchecked)
    fails_at_trl(holds)
