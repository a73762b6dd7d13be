"""on_bad_row: rows that an adapter, the checks or a chat template refuses stop a run, or are counted and named."""

import json

import pytest
import yaml
from datasets import Dataset
from rows import conversations, quick, solutions, text_pairs
from transformers import AutoTokenizer

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer, register_adapter
from hf_rewardplug.data.adapters import registry
from hf_rewardplug.data.files import load_split
from hf_rewardplug.data.mixing import Part, mixed
from hf_rewardplug.inspection import inspect_rows
from hf_rewardplug.integrations.axolotl.config import translate

ALTERNATING = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
)
REFUSED = "the chat template refuses the conversation: roles must alternate"


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry.ADAPTERS, "things", dict(registry.ADAPTERS.things))


@pytest.fixture
def tokenizer(assets):
    loaded = AutoTokenizer.from_pretrained(assets / "stories260K")
    loaded.chat_template = ALTERNATING
    return loaded


def talk(count, bad):
    """Conversations, of which some have two turns of the user one after another."""
    rows = conversations(count)
    for number in bad:
        rows[number]["prompt"] = [{"role": "user", "content": "Hi"}, *rows[number]["prompt"]]
    return rows


def file_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def orm(assets, tokenizer, folder, train, held_out=None, **options):
    args = RewardConfig(**quick(folder, **options))
    return RewardTrainer(
        str(assets / "stories260K"), args, train_dataset=train, eval_dataset=held_out, processing_class=tokenizer
    )


def test_a_row_that_the_template_refuses_stops_training_or_is_left_out(assets, tokenizer, tmp_path, caplog):
    train = load_split(file_of(tmp_path / "train.jsonl", talk(12, [3, 9])), "train")
    with pytest.raises(ValueError, match=r"train data set, .*, row 3 \(line 4 of train\.jsonl\): .*template refuses"):
        orm(assets, tokenizer, tmp_path / "out", train)
    held_out = Dataset.from_list(talk(4, [1]))
    trainer = orm(assets, tokenizer, tmp_path / "out", train, held_out, on_bad_row="drop", max_steps=1)
    reports = trainer.preparation_reports
    assert reports["train"].dropped == {REFUSED: [3, 9]} and reports["train"].refused == [REFUSED]
    assert (reports["train"].rows, reports["train"].examples, len(trainer.train_dataset)) == (12, 10, 10)
    assert reports["eval"].dropped == {REFUSED: [1]}
    assert f"refused, {REFUSED}: 2 (rows 3, 9)" in caplog.text
    trainer.train()
    trainer.evaluate()
    trainer.create_model_card()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "train: 12 rows gave 10 examples." in card and f"refused, {REFUSED}: 2 (rows 3, 9)" in card
    assert f"refused, {REFUSED}: 1 (row 1)" in card


def test_streams_leave_them_out_too_and_the_card_has_them(assets, tokenizer, tmp_path):
    file = file_of(tmp_path / "train.jsonl", talk(12, [0, 7]))  # the first one tells a stream its columns
    train = load_split(file, "train", streaming=True, numbered=True)
    trainer = orm(assets, tokenizer, tmp_path / "out", train, on_bad_row="drop", max_steps=8)
    trainer.train()
    trainer.create_model_card()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "train: a stream" in card and f"refused, {REFUSED}: 2 (rows 0, 7)" in card


@pytest.mark.parametrize("stream", [False, True])
def test_every_row_refused_is_an_error_with_the_first_reason(assets, tokenizer, tmp_path, stream):
    file = file_of(tmp_path / "train.jsonl", talk(5, range(5)))
    train = load_split(file, "train", streaming=stream, numbered=stream)
    what = rf"train: every row was refused\. The first, row 0: {REFUSED}"
    with pytest.raises(ValueError, match=what):
        orm(assets, tokenizer, tmp_path / "out", train, on_bad_row="drop")


def test_most_rows_refused_is_told(assets, tokenizer, tmp_path, caplog):
    train = Dataset.from_list(talk(5, [0, 1, 3]))
    orm(assets, tokenizer, tmp_path / "out", train, on_bad_row="drop")
    assert "3 of 5 rows were refused. Is it the right format?" in caplog.text


def test_what_the_checks_and_an_adapter_refuse(assets, tokenizer, tmp_path):
    rows = text_pairs(6)
    rows[2]["chosen"], rows[4]["rejected"] = None, None
    trainer = orm(assets, tokenizer, tmp_path / "a", Dataset.from_list(rows), on_bad_row="drop")
    assert sorted(row for of in trainer.preparation_reports["train"].dropped.values() for row in of) == [2, 4]

    @register_adapter("votes", columns=["votes"])
    def votes(row):
        return {"prompt": "p ", "chosen": "a" * (6 // row["votes"]), "rejected": "b"}

    train = Dataset.from_list([{"votes": number} for number in (1, 0, 2, 0)])
    trainer = orm(assets, tokenizer, tmp_path / "b", train, on_bad_row="drop")
    assert list(trainer.preparation_reports["train"].dropped.values()) == [[1, 3]]


def test_steps(assets, tmp_path):
    rows = solutions(6)
    rows[1]["labels"], rows[5]["labels"] = [2.0] * len(rows[1]["completions"]), [0.5]
    rows[5]["completions"] = ["a", "b"]
    args = PRMConfig(**quick(tmp_path, on_bad_row="drop"))
    trainer = PRMTrainer(str(assets / "stories260K"), args, train_dataset=Dataset.from_list(rows))
    assert sorted(row for of in trainer.preparation_reports["train"].dropped.values() for row in of) == [1, 5]


def parts(tmp_path, bad=(2,)):
    texts = text_pairs(6)
    for number in bad:
        texts[number]["chosen"] = None
    files = {"texts": file_of(tmp_path / "texts.jsonl", texts), "talk": file_of(tmp_path / "talk.jsonl", talk(6, [4]))}
    return [Part(dataset=load_split(file, "train"), subset=name) for name, file in files.items()]


def test_a_mixture_names_them_by_their_parts(assets, tokenizer, tmp_path, caplog):
    with pytest.raises(ValueError, match=r"part 'texts', adapter 'preference', row 2 \(line 3 of texts\.jsonl\): colu"):
        mixed(parts(tmp_path), seed=0)
    mixture = mixed(parts(tmp_path), seed=0, on_bad_row="drop")
    with pytest.raises(ValueError, match=r"row 4 \(row 2 of 'texts'\): adapter 'preference': column 'chosen'"):
        orm(assets, tokenizer, tmp_path / "out", mixture)
    trainer = orm(assets, tokenizer, tmp_path / "out", mixture, on_bad_row="drop")
    report = trainer.preparation_reports["train"]
    assert report.examples == 10 and sorted(report.places.values()) == ["row 2 of 'texts'", "row 4 of 'talk'"]
    assert f"refused, {REFUSED}: 1 (row 4 of 'talk')" in caplog.text


def test_a_part_of_a_wrong_format_does_not_hide_behind_the_others(assets, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"part 'texts': every row was refused\. The first: .*column 'chosen'"):
        mixed(parts(tmp_path, bad=range(6)), seed=0, on_bad_row="drop")
    rows = [Part(dataset=Dataset.from_list(talk(3, range(3))), subset="bad"), *parts(tmp_path)]
    mixture = mixed(rows, seed=0, on_bad_row="drop")
    with pytest.raises(ValueError, match=rf"every row of part 'bad' was refused, the first for this: {REFUSED}"):
        orm(assets, tokenizer, tmp_path / "out", mixture, on_bad_row="drop")


def test_inspect_tells_what_training_would_do(assets, tokenizer, tmp_path):
    rows = load_split(file_of(tmp_path / "rows.jsonl", talk(9, [5, 6])), "train[4:]")
    stops = inspect_rows(rows, tokenizer)
    assert [*stops.refusals.values()] == [[5, 6]] and stops.report.dropped == {}
    drops = inspect_rows(rows, tokenizer, on_bad_row="drop")
    assert drops.refusals == {} and drops.report.dropped == {REFUSED: [5, 6]} and drops.report.examples == 3


@pytest.mark.parametrize("value", ["skip", None, True])
def test_another_word_is_an_error(value, tmp_path):
    for config in (RewardConfig, PRMConfig):
        with pytest.raises(ValueError, match=r"on_bad_row=.* is not one of 'error', 'drop'"):
            config(**quick(tmp_path, on_bad_row=value))


def test_an_axolotl_config_may_say_it():
    given = yaml.safe_load("base_model: m\nreward_model: true\non_bad_row: drop\ndatasets: [{path: a.csv}]\n")
    assert translate(given).config["on_bad_row"] == "drop"


def test_rows_that_are_too_long_are_no_bad_rows(assets, tokenizer, tmp_path):
    rows = Dataset.from_list([*text_pairs(3), {"prompt": "the cat " * 50, "chosen": "sat", "rejected": "ran"}])
    with pytest.raises(ValueError, match=r"row 3: .* tokens are more than max_length=64"):
        orm(assets, tokenizer, tmp_path, rows, on_bad_row="drop", overlong="error", max_length=64)


HH = [
    {"chosen": f"\n\nHuman: {n}?\n\nAssistant: yes", "rejected": f"\n\nHuman: {n}?\n\nAssistant: no"} for n in range(5)
]


def test_a_bad_first_row_does_not_make_another_format_of_the_data(assets, tokenizer, tmp_path):
    """By its first row alone the data set would be plain text, and every other row would train as such."""
    rows = [{"chosen": None, "rejected": "no"}, *HH[1:]]
    trainer = orm(assets, tokenizer, tmp_path, Dataset.from_list(rows), on_bad_row="drop")
    assert trainer.preparation_reports["train"].refused != [] and len(trainer.train_dataset) == 4
    expected = orm(assets, tokenizer, tmp_path, Dataset.from_list(HH[1:]))
    assert trainer.train_dataset["chosen_ids"][:] == expected.train_dataset["chosen_ids"][:]
    assert inspect_rows(Dataset.from_list(rows)).adapter == "hh_rlhf"
    stream = Dataset.from_list(rows).to_iterable_dataset()
    assert inspect_rows(stream, on_bad_row="drop").adapter == "hh_rlhf"
