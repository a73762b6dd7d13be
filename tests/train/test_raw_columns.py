"""Trainers read what their user gave: TRL's own rows as TRL does, no column with a part of the prompt in silence,
transforms applied, images refused."""

import json
import logging

import pytest
import trl
from datasets import Dataset
from PIL import Image
from rows import conversations, quick, solutions, text_pairs
from transformers import AutoTokenizer

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer
from hf_rewardplug.runs.mixture import read_entries

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"


@pytest.fixture(scope="module")
def model_path(assets):
    return str(assets / "stories260K")


@pytest.fixture
def make(model_path, tmp_path):
    """A trainer of these rows, without a step."""

    def trainer(rows, kind="orm", trainer_class=None, config_class=None, eval_rows=None, **options):
        ours = {"orm": (RewardTrainer, RewardConfig), "prm": (PRMTrainer, PRMConfig)}[kind]
        tokenizer = AutoTokenizer.from_pretrained(model_path)
        tokenizer.chat_template = TEMPLATE
        return (trainer_class or ours[0])(
            model_path,
            (config_class or ours[1])(**quick(tmp_path, **options)),
            train_dataset=Dataset.from_list(rows) if isinstance(rows, list) else rows,
            eval_dataset=Dataset.from_list(eval_rows) if isinstance(eval_rows, list) else eval_rows,
            processing_class=tokenizer,
        )

    return trainer


def tokens(trainer, number=0):
    row = trainer.train_dataset.with_format(None)[number]
    return {key: row[key] for key in ("chosen_ids", "rejected_ids")}


def text(trainer, number=0):
    return trainer.processing_class.decode(tokens(trainer, number)["chosen_ids"])


@pytest.mark.parametrize("make_rows", [text_pairs, conversations])
@pytest.mark.parametrize(
    "beside",
    [
        {"input": "geo quiz"},
        {"question": "geo quiz", "system": ""},
        {"instruction": "geo quiz", "input": "capitals", "history": []},
        {"completion": " Paris", "label": True, "score": 0.5, "source": "quiz", "id": 3},
        {"messages": None, "tools": None, "images": None, "context": ""},
    ],
)
def test_trls_own_rows_with_further_columns_give_trls_own_tokens(make, make_rows, beside):
    rows = make_rows(4)  # TRL itself fails on conversations beside some of these columns
    theirs, ours = make(rows, "orm", trl.RewardTrainer, trl.RewardConfig), make([{**row, **beside} for row in rows])
    for number in range(4):
        assert tokens(ours, number) == tokens(theirs, number)
    found = ours.preparation_reports["train"].unread.beside_prompt
    assert set(found) == {name for name in ("input", "question", "instruction") if beside.get(name)}


def test_orca_and_alpaca_train_with_their_question(make):
    answers = {"chosen": "Paris", "rejected": "Lyon"}
    orca = make([{"system": "Be brief.", "question": "Capital of France?", **answers}] * 2)
    assert text(orca) == "<s> system: Be brief.\nuser: Capital of France?\nassistant: Paris\n"
    alpaca = make([{"instruction": "Translate: Good morning", "input": "", **answers}] * 2)
    assert text(alpaca) == "<s> user: Translate: Good morning\nassistant: Paris\n"
    system = make([{**row, "system": "Be brief."} for row in conversations(2)])
    assert text(system).startswith("<s> system: Be brief.\nuser: ")


@pytest.mark.parametrize("as_stream", [False, True])
@pytest.mark.parametrize(("kind", "rows"), [("orm", text_pairs(3)), ("orm", conversations(3)), ("prm", solutions(3))])
def test_a_part_of_the_prompt_that_is_not_read_stops_before_any_work(make, kind, rows, as_stream):
    dataset = Dataset.from_list([{**row, "context": "Paris is on the Seine."} for row in rows])
    dataset = dataset.to_iterable_dataset() if as_stream else dataset
    with pytest.raises(ValueError, match=r"^train data set: column 'context' looks like a part of the prompt") as error:
        make(dataset, kind)
    assert "ignore_columns=['context'] (--ignore-columns context)" in str(error.value)
    trainer = make(dataset, kind, ignore_columns=["context"])
    plain = make(rows, kind)
    assert trainer.preparation_reports["train"].unread.ignored == ("context",)
    if not as_stream:
        columns = [name for name in plain.train_dataset.column_names if name.endswith("_ids") or name == "labels"]
        assert [trainer.train_dataset[key][:] for key in columns] == [plain.train_dataset[key][:] for key in columns]
        assert "context" not in trainer.train_dataset.column_names


def test_images_are_refused_until_they_are_trained(make):
    rows = [{**row, "images": [Image.new("RGB", (8, 8))]} for row in conversations(3)]
    with pytest.raises(
        ValueError, match=r"^train data set: column 'images': images, sound and video are not trained on"
    ):
        make(rows)
    assert tokens(make(rows, ignore_columns=["images"])) == tokens(make(conversations(3)))


def test_an_unknown_column_to_ignore(make):
    with pytest.raises(ValueError, match=r"^train data set: ignore_columns names 'contxt', .* found \['prompt'"):
        make(text_pairs(2), ignore_columns=["contxt"])
    with pytest.raises(TypeError, match="ignore_columns='context' is no list of columns"):
        make(text_pairs(2), ignore_columns="context")
    rows = [{**row, "context": "Paris is on the Seine."} for row in text_pairs(2)]
    trainer = make(rows, eval_rows=text_pairs(2), ignore_columns=["context"])  # the eval rows need not have it
    assert trainer.preparation_reports["eval"].unread.ignored == ()
    with pytest.raises(ValueError, match=r"^eval data set: column 'context' looks like a part"):
        make(text_pairs(2), eval_rows=rows)


def test_what_is_not_read_is_told_once_and_stands_in_the_model_card(make, caplog, tmp_path):
    with caplog.at_level(logging.WARNING, logger="hf_rewardplug"):
        trainer = make([{**row, "remark": "by hand", "id": 3} for row in text_pairs(4)])
    told = [record.getMessage() for record in caplog.records if "not read" in record.getMessage()]
    assert told == ["train: 4 rows gave 4 examples.\n  columns that are not read: remark"]
    trainer.create_model_card(model_name="tiny")
    assert "\n  columns that are not read: remark\n" in (tmp_path / "README.md").read_text()


def shout(batch):
    return {key: [one.upper() if isinstance(one, str) else one for one in values] for key, values in batch.items()}


def test_what_stands_beside_tokens_is_told(make):
    rows = [{"chosen_ids": [1, 5], "rejected_ids": [1, 6], "margin": 1.0, "id": 3, "context": "Paris.", "a": 1}] * 2
    report = make(rows).preparation_reports["train"]
    assert str(report).splitlines()[1:] == ["  columns that are not read: context, a"]
    rows = [{"input_ids": [1, 5], "labels": [-100, 1], "node_lengths": None, "node_parents": None}] * 2
    assert not make(rows, "prm").preparation_reports["train"]
    assert "context" not in str(
        make(
            [{"chosen_ids": [1, 5], "rejected_ids": [1, 6], "context": "a"}] * 2, ignore_columns=["context"]
        ).preparation_reports["train"]
    )


def test_a_transform_is_applied_once(make):
    """TRL's two maps apply it twice: to the rows, and to its own EOS behind them."""
    rows = text_pairs(3)
    ours = make(Dataset.from_list(rows).with_transform(shout), eval_rows=Dataset.from_list(rows).with_transform(shout))
    truth = make([{key: value.upper() for key, value in row.items()} for row in rows])
    for number in range(3):
        assert tokens(ours, number) == tokens(truth, number)
    assert ours.eval_dataset["chosen_ids"][:] == ours.train_dataset["chosen_ids"][:]


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_formats_of_tensors_change_nothing(make, kind):
    rows = Dataset.from_list([{**row, "margin": 1.0} for row in text_pairs(3)])
    assert tokens(make(rows.with_format(kind))) == tokens(make(rows))


def test_several_rejected_answers_are_every_pair_and_one_list(make):
    rows = [{"prompt": "q", "chosen": " a", "rejected": [" b", " c"]}] * 2
    pairs = make(rows)
    assert len(pairs.train_dataset) == 4
    decode = pairs.processing_class.decode
    assert [decode(ids) for ids in pairs.train_dataset["rejected_ids"][:2]] == ["<s> q b</s>", "<s> q c</s>"]
    lists = make(rows, loss_type="plackett_luce")
    assert [decode(ids) for ids in lists.train_dataset[0]["completion_ids"]] == [
        "<s> q a</s>",
        "<s> q b</s>",
        "<s> q c</s>",
    ]
    assert lists.train_dataset[0]["scores"] == [1.0, 0.0, 0.0]


def test_a_role_that_the_template_leaves_out_is_in_the_report(make):
    rows = conversations(3)
    rows[1]["prompt"] = [{"role": "developer", "content": "Be brief.", "reasoning": "Why?"}, *rows[1]["prompt"]]
    report = make([{**row, "chosen": row["chosen"]} for row in rows]).preparation_reports["train"]
    assert report.unrendered == {"'reasoning' of 'developer' turns": [1]}


def test_entries_of_a_mixture_take_it():
    (entry,) = read_entries([json.dumps({"path": "a.jsonl", "ignore_columns": ["context"]})], "datasets")
    assert entry.ignore_columns == ["context"]
    with pytest.raises(ValueError, match="ignore_columns='context'; expected list"):
        read_entries([{"path": "a.jsonl", "ignore_columns": "context"}], "datasets")
