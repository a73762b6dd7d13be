"""PITFALLS 19 to 25, data and tokens: each promise, and the same check failing with its mend undone."""

import functools

import jinja2
import pytest
import transformers
from datasets import Dataset, Features, List, Value
from rows import solutions
from small import TURNS, quick, text_pairs, turn
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, DataCollatorForTokenClassification
from trl.trainer.utils import disable_dropout_in_model
from undo import FAILURE, fails_at_trl, fails_without

import hf_rewardplug
from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer
from hf_rewardplug.data import tokenizing
from hf_rewardplug.data.chat_templates import GEMMA
from hf_rewardplug.data.encoding import Encoder

PRIME, SEVEN, EIGHT = turn("user", "Name a prime."), turn("assistant", "7"), turn("assistant", "8")


def rendered(tokenizer, messages: list[dict]) -> list[int]:
    """What transformers makes of a conversation."""
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]


def test_pitfall_19_text_that_has_a_bos_gets_no_second_one(orm, tokenizer):
    """TRL tokenizes text that a chat template rendered with a second BOS in front.

    Here: the ids are those of the conversation.
    """
    tokenizer.chat_template = TURNS.replace("{% endfor %}", "{% endfor %}{{ eos_token }}")
    talks = {"chosen": [PRIME, SEVEN], "rejected": [PRIME, EIGHT]}
    row = {key: tokenizer.apply_chat_template(talk, tokenize=False) for key, talk in talks.items()}
    assert row["chosen"].startswith("<s>")

    def holds(of):
        encoded = orm([row], of=of, processing_class=tokenizer).train_dataset[0]
        assert [encoded[f"{key}_ids"] for key in talks] == [rendered(tokenizer, talk) for talk in talks.values()]

    fails_at_trl(holds)


def test_pitfall_20_eos_stands_once_or_not_at_all(orm, model_path, tokenizer):
    """An EOS was put behind a closed turn, twice where the tokenizer adds its own; TRL crashes with `eos_token=None`.

    Here: a conversation is what the template renders, text ends with one EOS, and a tokenizer without one gets none.
    """
    tokenizer.chat_template = TURNS
    talk = {"prompt": [PRIME], "chosen": [SEVEN], "rejected": [EIGHT]}
    text = {"prompt": "Name a prime. ", "chosen": "7", "rejected": "8"}
    text_ids = tokenizer("Name a prime. 7", add_special_tokens=True)["input_ids"]
    assert text_ids[0] == tokenizer.bos_token_id and text_ids[-1] != tokenizer.eos_token_id

    def chosen_ids(row, tokenizer, of=hf_rewardplug):
        return orm([row], of=of, processing_class=tokenizer).train_dataset[0]["chosen_ids"]

    def conversation():
        assert chosen_ids(talk, tokenizer) == rendered(tokenizer, [PRIME, SEVEN])

    def behind_a_closed_turn(self, messages, row, plain=Encoder._conversation_ids, **kwargs):
        return [*plain(self, messages, row, **kwargs), self.tokenizer.eos_token_id]

    def without_eos(of):
        bare = AutoTokenizer.from_pretrained(model_path)
        bare.eos_token = None
        assert chosen_ids(text, bare, of) == text_ids

    def with_its_own_eos(of):
        own = AutoTokenizer.from_pretrained(model_path)
        template = {"single": "<s> $A </s>", "special_tokens": [("<s>", 1), ("</s>", 2)]}
        own.backend_tokenizer.post_processor = TemplateProcessing(**template)
        assert own(f"{text['prompt']}7")["input_ids"] == [*text_ids, 2]
        assert chosen_ids(text, own, of) == [*text_ids, 2]

    fails_without(conversation, (Encoder, "_conversation_ids", behind_a_closed_turn))
    fails_at_trl(without_eos, raises=TypeError)
    fails_at_trl(with_its_own_eos)
    assert chosen_ids({**text, "chosen": "7</s>"}, tokenizer) == chosen_ids(text, tokenizer) == [*text_ids, 2]


def test_pitfall_21_prompt_and_answer_are_tokenized_as_one_text(assets):
    """Encoded apart and put together they are other tokens than the text has (13 and 15, trl#1702).

    Here: one text, in training and scoring, whether the prompt is a column of its own or not.
    """
    qwen = AutoTokenizer.from_pretrained(assets / "tokenizers" / "qwen2_5")
    prompt, answers = "Done.", {"chosen": "\n\nNext", "rejected": "\n\nLast"}

    def holds():
        encoder = RewardTrainer.encoder(qwen, RewardConfig("out", use_cpu=True))
        split = encoder.pair({"prompt": prompt, **answers})
        assert split["chosen_ids"] == [17453, 382, 5847, 151645]  # Done | .\n\n | Next | <|im_end|>
        assert split == encoder.pair({key: prompt + answer for key, answer in answers.items()})
        assert encoder.completion({"prompt": prompt, "completion": answers["chosen"]}) == split["chosen_ids"]

    def apart(self, row, key):
        return [*self.tokenizer.encode(row.get("prompt", "")), *self._text_ids(row[key])]

    fails_without(holds, (Encoder, "_ids", apart))


def test_pitfall_22_a_system_turn_is_folded_where_the_template_refuses_it(orm, tokenizer):
    """Gemma's template raises on a system turn, and with it TRL's whole map.

    Here: it goes in front of the first user turn; what the template refuses otherwise is an error that names the row.
    """
    tokenizer.chat_template = GEMMA
    row = {"prompt": [turn("system", "Be brief."), PRIME], "chosen": [SEVEN], "rejected": [EIGHT]}
    folded = [turn("user", "Be brief.\n\nName a prime."), SEVEN]

    def holds(of=hf_rewardplug):
        trainer = orm([row], of=of, processing_class=tokenizer)
        assert trainer.train_dataset[0]["chosen_ids"] == rendered(tokenizer, folded)

    def names_the_row():
        with pytest.raises(ValueError, match=r"row 1: the chat template refuses the conversation \(user, user, assist"):
            orm([row, {**row, "prompt": [PRIME, PRIME]}], processing_class=tokenizer)

    fails_at_trl(holds, raises=jinja2.TemplateError)
    fails_without(holds, (tokenizing, "fold_system_turn", lambda messages: messages), raises=ValueError)
    names_the_row()


def test_pitfall_23_a_none_is_an_error_that_names_row_and_column(orm, tokenizer):
    """TRL fails on None without a row number, trains `content: None`, asks one row for the margin (trl#5539).

    Here: everything is checked beforehand, and the error names the row and the column.
    """
    tokenizer.chat_template = TURNS.replace("m.content", "(m.content or '')")
    rows = text_pairs(4)
    talks = [{"prompt": [turn("user", row["prompt"])], "chosen": [SEVEN], "rejected": [EIGHT]} for row in rows]
    broken = {
        "chosen": [*rows[:2], {**rows[2], "chosen": None}],
        "rejected": [*talks[:2], {**talks[2], "rejected": [turn("assistant", None)]}],
        "margin": [{**row, "margin": None if index == 2 else 0.5} for index, row in enumerate(rows)],
    }

    def holds(of, column):
        with pytest.raises(ValueError, match=rf"row 2: column '{column}'"):
            orm(broken[column], of=of, processing_class=tokenizer, max_steps=2).train()

    for column, upstream in (("chosen", AttributeError), ("rejected", FAILURE), ("margin", TypeError)):
        fails_at_trl(functools.partial(holds, column=column), raises=upstream)


def test_pitfall_24_a_repeated_prompt_stands_once(orm, tokenizer):
    """TRL crashes on a text prompt beside whole conversations, and doubles the user turn of a list prompt in silence.

    Here: what the prompt and both answers have in common stands once.
    """
    tokenizer.chat_template = TURNS
    whole = {"chosen": [PRIME, SEVEN], "rejected": [PRIME, EIGHT]}

    def holds(of, prompt):
        encoded = orm([{"prompt": prompt, **whole}], of=of, processing_class=tokenizer).train_dataset[0]
        assert [encoded[f"{key}_ids"] for key in whole] == [rendered(tokenizer, talk) for talk in whole.values()]

    either = (TypeError, AttributeError)  # TRL asks one column what a row is; Python's hash seed decides which
    fails_at_trl(functools.partial(holds, prompt="Name a prime."), raises=either)
    fails_at_trl(functools.partial(holds, prompt=[PRIME]))


class OldPRMTrainer(transformers.Trainer):
    """What TRL 1.13's PRMTrainer did with its arguments: one `map` over both sets, the model's own loss."""

    def __init__(self, model, args=None, train_dataset=None, eval_dataset=None, processing_class=None):
        if args.disable_dropout:
            disable_dropout_in_model(model)
        limits = {key: getattr(args, key) for key in ("step_separator", "max_length", "max_completion_length")}

        def encoded(dataset, is_eval):
            return dataset.map(
                PRMTrainer.tokenize_row,
                fn_kwargs={
                    **limits,
                    "tokenizer": processing_class,
                    "train_on_last_step_only": args.train_on_last_step_only,
                    "is_eval": is_eval,
                },
                num_proc=args.dataset_num_proc,
                remove_columns=dataset.column_names,
                features=Features(labels=List(Value("int64")), input_ids=List(Value("int64"))),
            )

        if "input_ids" not in train_dataset.column_names:
            train_dataset = encoded(train_dataset, False)
            eval_dataset = None if eval_dataset is None else encoded(eval_dataset, True)
        collator = DataCollatorForTokenClassification(processing_class)
        super().__init__(model, args, collator, train_dataset, eval_dataset, processing_class)


def test_pitfall_25_what_crashed_the_old_prm_trainer_works(model_path, tokenizer, tmp_path, monkeypatch):
    """TRL 1.13's PRMTrainer crashed on each of these seven, and only on these: without them it trains.

    Here: each trains and evaluates.
    """
    monkeypatch.chdir(tmp_path)
    tokenizer.chat_template = TURNS
    rows = solutions(6)
    raw = Dataset.from_list(rows)
    tokenized = Dataset.from_list(
        [PRMTrainer.tokenize_row(row, tokenizer, "\n", None, None, False, False) for row in rows]
    )
    talks = Dataset.from_list([{**row, "prompt": [turn("user", row["prompt"])]} for row in rows])

    def run(trainer_class, num_labels=2, **change):
        model = transformers.AutoModelForTokenClassification.from_pretrained(model_path, num_labels=num_labels)
        args = PRMConfig(**quick(tmp_path, gradient_checkpointing=False))
        given = {"model": model, "args": args, "train_dataset": raw, "eval_dataset": raw, **change}
        trainer = trainer_class(**given, processing_class=tokenizer)
        if trainer.args.max_steps == 1:  # without args the defaults would train three epochs
            trainer.train()
        figures = trainer.evaluate()
        assert all(value < 10 for key, value in figures.items() if key.endswith("_loss")) and "loss" in str(figures)

    run(OldPRMTrainer)
    streams = {"train_dataset": raw.to_iterable_dataset(), "eval_dataset": raw.to_iterable_dataset()}
    cases = [
        ({"eval_dataset": {"a": raw, "b": raw}}, AttributeError),
        (streams, TypeError),
        ({"args": None}, AttributeError),
        ({"model": model_path}, AttributeError),
        ({"train_dataset": talks, "eval_dataset": talks}, ValueError),
        ({"num_labels": 1}, IndexError),
        ({"train_dataset": tokenized}, ValueError),  # beside raw rows to evaluate
    ]
    for change, upstream in cases:
        run(PRMTrainer, **change)
        with pytest.raises(upstream):
            run(OldPRMTrainer, **change)
