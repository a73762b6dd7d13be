"""Recipes on mixtures, as a user's YAML file asks for them: data sets of different formats, streams, held-out rows."""

import json
import runpy
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, concatenate_datasets, interleave_datasets
from rows import conversations, solutions, text_pairs

from hf_rewardplug import RewardConfig
from hf_rewardplug.data.adapters import get_adapter
from hf_rewardplug.data.files import load_split
from hf_rewardplug.demo import save_demo_model
from hf_rewardplug.runs.arguments import parse_recipe
from hf_rewardplug.runs.splits import load_splits

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
NEVER = {"eval_strategy": "no", "eval_on_start": False, "bf16": False, "use_cpu": True, "disable_tqdm": True}
TREES = [
    {
        "prompt": row["prompt"],
        "nodes": [{"text": step, "label": 1, "parent": -1} for step in row["completions"]],
    }
    for row in solutions(8, seed=3)
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files of rows under their names, and the working directory."""
    monkeypatch.chdir(tmp_path)
    files = {
        "text": text_pairs(24),
        "chats": conversations(40, seed=1),
        "steps": solutions(20),
        "trees": TREES,
        "plain": solutions(6, seed=5),
    }
    for name, rows in files.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def given(monkeypatch, config: dict, *words: str) -> None:
    """A command line with `config` in a YAML file."""
    Path("config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(sys, "argv", ["recipe", "--config", "config.yaml", "--output_dir", "out", *words])


def splits(monkeypatch, config: dict, *words: str):
    given(monkeypatch, {**NEVER, **config}, *words)
    defaults = {"dataset_name": "nobody/nothing"}
    arguments, args, model_args = parse_recipe(RewardConfig, defaults, demo="gemma", deepspeed=Path("none"))
    return load_splits(arguments, args, model_args, demo="gemma")


def trained(monkeypatch, recipe: str, config: dict, *words: str) -> dict[str, float]:
    """The figures of a recipe that ran from its YAML file to its end."""
    short = {"max_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_length": 256}
    given(monkeypatch, {**NEVER, **short, "per_device_eval_batch_size": 8, **config}, *words)
    runpy.run_path(str(ROOT / "recipes" / f"{recipe}.py"), run_name="__main__")
    state = json.loads(Path("out/trainer_state.json").read_text())
    assert state["global_step"] == 2
    return json.loads(Path("out/eval_results.json").read_text())


def order(dataset):
    return [(row["subset"], row["source_row"]) for row in dataset]


TWO = [{"path": "text.jsonl", "weight": 1}, {"path": "chats.jsonl", "weight": 3, "subset": "talk"}]


@pytest.mark.slow
def test_an_orm_from_a_yaml_of_two_formats(assets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("plain.jinja").write_text(TEMPLATE)
    config = {
        "model_name_or_path": str(assets / "stories260K"),
        "chat_template_path": "plain.jinja",
        "datasets": [
            {"path": str(assets / "hh_harmless" / "raw.jsonl"), "subset": "hh", "weight": 3},
            {"path": str(assets / "finegrained_rlhf" / "dev.jsonl"), "weight": 1, "max_rows": 30},
        ],
        "stopping_strategy": "all_exhausted",
        "max_eval_rows": 12,
        "test_size": 0.1,
        "max_length": 512,
        "overlong": "truncate",
    }
    figures = trained(monkeypatch, "orm_gemma", config)
    items = [json.loads(line) for line in Path("out/eval_items.jsonl").read_text().splitlines()]
    found = Counter(item["subset"] for item in items)
    assert set(found) == {"hh", "dev"} and found["hh"] <= 6
    right = {"hh": 0, "dev": 0}
    for item in items:
        right[item["subset"]] += item["scores"][0] > item["scores"][1]
    for subset, count in found.items():
        assert figures[f"eval_subset_{subset}_accuracy"] == pytest.approx(right[subset] / count)
    assert figures["eval_accuracy"] == pytest.approx(sum(right.values()) / len(items))


@pytest.mark.slow
def test_a_prm_from_a_yaml_of_trees_and_solutions(folder, monkeypatch):
    config = {
        "model_name_or_path": str(save_demo_model(folder / "model", style="qwen")),
        "datasets": [{"path": "steps.jsonl"}, {"path": "trees.jsonl"}],
        "eval_datasets": [{"path": "plain.jsonl", "subset": "held"}, {"path": "trees.jsonl", "max_rows": 3}],
    }
    figures = trained(monkeypatch, "prm_qwen", config)
    assert {"eval_subset_held_accuracy", "eval_subset_trees_f1_wrong"} <= set(figures)
    labels = [label for row in solutions(6, seed=5) for label in row["labels"]]
    nodes = sum(len(row["nodes"]) for row in TREES[:3])
    assert figures["eval_wrong_rate"] == pytest.approx(labels.count(False) / (len(labels) + nodes))
    assert figures["eval_subset_trees_wrong_rate"] == 0


@pytest.mark.slow
def test_streams_of_trees_and_solutions(folder, monkeypatch):
    """Without weights the first part leads: the stream begins with solutions, and trees follow."""
    config = {
        "model_name_or_path": str(save_demo_model(folder / "model", style="qwen")),
        "datasets": [{"path": "steps.jsonl"}, {"path": "trees.jsonl"}],
        "dataset_streaming": True,
        "max_eval_rows": 4,
    }
    figures = trained(monkeypatch, "prm_qwen", config)
    held = [label for row in solutions(20)[:2] for label in row["labels"]]
    assert figures["eval_subset_steps_wrong_rate"] == pytest.approx(held.count(False) / len(held))


def test_weights_name_and_seed_arrive(folder, monkeypatch):
    """Against `datasets` itself on plain indices; the command line goes before the file."""
    config = {"datasets": TWO, "eval_datasets": ["plain.jsonl"], "max_train_rows": 15, "seed": 1}
    train, held_out = splits(monkeypatch, config, "--seed", "3", "--stopping_strategy", "all_exhausted")
    indices = [
        Dataset.from_list([{"subset": name, "source_row": row} for row in range(size)]).shuffle(seed=3)
        for name, size in (("text", 24), ("talk", 40))
    ]
    expected = interleave_datasets(indices, probabilities=[0.25, 0.75], seed=3, stopping_strategy="all_exhausted")
    assert order(train) == order(expected)[:15]
    assert order(held_out) == [("plain", row) for row in range(6)]


def test_each_part_is_split_before_it_is_mixed(folder, monkeypatch):
    train, held_out = splits(monkeypatch, {"datasets": [one["path"] for one in TWO], "test_size": 0.25})
    assert Counter(held_out["subset"]) == {"text": 6, "chats": 10}
    assert sorted(order(train) + order(held_out)) == sorted(
        [("text", n) for n in range(24)] + [("chats", n) for n in range(40)]
    )
    _, few = splits(monkeypatch, {"datasets": TWO, "test_size": 0.25, "max_eval_rows": 9})
    assert Counter(few["subset"]) == {"text": 4, "talk": 4}
    _, eval_parts = splits(
        monkeypatch, {"datasets": TWO, "eval_datasets": ["plain.jsonl", "text.jsonl"], "max_eval_rows": 9}
    )
    assert order(eval_parts)[:3] == [("plain", 0), ("text", 0), ("plain", 1)] and len(eval_parts) == 8


def test_streams_hold_out_the_first_rows_of_each(folder, monkeypatch):
    config = {"datasets": TWO, "dataset_streaming": True, "max_eval_rows": 4, "max_train_rows": 10}
    train, held_out = splits(monkeypatch, config)
    assert order(held_out) == [("text", 0), ("talk", 0), ("text", 1), ("talk", 1)]
    assert len(order(train)) == 10 and min(row for _, row in order(train)) == 2
    config = {"datasets": TWO, "eval_datasets": ["plain.jsonl"], "dataset_streaming": True, "max_eval_rows": 4}
    assert order(splits(monkeypatch, config)[1]) == [("plain", row) for row in range(4)]


def test_entries_on_the_command_line(folder, monkeypatch):
    words = ("--datasets", "text.jsonl", '{"path": "chats.jsonl", "max_rows": 3, "columns": ["chosen", "rejected"]}')
    train, _ = splits(monkeypatch, {"test_size": 0.5}, *words)
    talk = [get_adapter("mixed")(row)[0] for row in train if row["subset"] == "chats"]
    assert talk and all(set(row) == {"chosen", "rejected"} for row in talk)


def test_files_and_mappings_of_an_entry(folder, monkeypatch):
    Path("data").mkdir()
    for name in ("a", "b"):
        rows = [{"query": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in text_pairs(4)]
        Path(f"data/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = {"path": "data", "data_files": "b.jsonl", "column_mapping": {"input": "query"}, "split": "train[1:]"}
    train, _ = splits(monkeypatch, {"datasets": [entry], "eval_datasets": ["text.jsonl"]})
    read = [get_adapter("mixed")(row) for row in train]
    expected = [get_adapter("bradley_terry.chat_template")({**row, "input": row["prompt"]}) for row in text_pairs(4)]
    assert sorted(map(str, read)) == sorted(map(str, expected[1:]))
    assert set(train["subset"]) == {"data"}


def test_entries_are_named_after_their_data_and_numbered(folder, monkeypatch):
    halves = [{"path": "text.jsonl", "split": "train[:8]"}, {"path": "text.jsonl", "split": "train[8:]"}]
    train, _ = splits(monkeypatch, {"datasets": halves, "eval_datasets": ["plain.jsonl"]})
    assert Counter(train["subset"]) == {"text": 8, "text-2": 16}


def test_a_folder_of_splits_is_not_trained_on_as_a_whole(folder, monkeypatch):
    Path("both/deep").mkdir(parents=True)
    for name, rows in (("train-0.jsonl", text_pairs(5)), ("deep/test.jsonl", text_pairs(3, seed=9))):
        Path("both", name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for config in (
        {"dataset_name": "both", "eval_dataset_name": "both"},
        {"datasets": ["both"], "eval_datasets": ["both"]},
    ):
        assert [len(side) for side in splits(monkeypatch, config)] == [5, 3]
    assert [len(list(side)) for side in splits(monkeypatch, {**config, "dataset_streaming": True})] == [5, 3]
    entry = {"path": "both", "split": "test[:2]+train[1:]"}
    train, _ = splits(monkeypatch, {"datasets": [entry], "eval_datasets": ["plain.jsonl"]})
    kept = [*text_pairs(3, seed=9)[:2], *text_pairs(5)[1:]]
    assert sorted(map(str, train["canonical"])) == sorted(json.dumps([row]) for row in kept)
    with pytest.raises(ValueError, match="'both' has no split 'dev'; it has test, train"):
        splits(monkeypatch, {"dataset_name": "both", "dataset_train_split": "dev"})
    Path("both/more.jsonl").write_text(json.dumps(text_pairs(1)[0]))
    with pytest.raises(ValueError, match=r"files of the splits test, train, but the name of more\.jsonl says none"):
        splits(monkeypatch, {"datasets": ["both"]})


def test_shards_and_readers_of_an_entry(folder, monkeypatch):
    """What axolotl's entries may say, a recipe's may, too."""
    halves = [{"path": "text.jsonl", "shards": 2, "shards_idx": half} for half in (0, 1)]
    train, _ = splits(monkeypatch, {"datasets": halves, "eval_datasets": ["plain.jsonl"]})
    assert sorted(row for _, row in order(train)) == [*range(24)]
    Path("text.jsonl").rename("text.data")
    entry = {"path": "text.data", "ds_type": "json", "subset": "text"}
    train, _ = splits(monkeypatch, {"datasets": [entry], "eval_datasets": ["plain.jsonl"]})
    assert sorted(order(train)) == [("text", row) for row in range(24)]
    with pytest.raises(ValueError, match="`datasets`, entry 1: shards=2: a stream has none"):
        splits(monkeypatch, {"datasets": [{"path": "chats.jsonl", "shards": 2}], "dataset_streaming": True})


def test_one_data_set_is_what_it_was(folder, monkeypatch):
    train, held_out = splits(monkeypatch, {"dataset_name": "text.jsonl", "test_size": 0.25})
    both = concatenate_datasets([train, held_out])
    assert both.column_names == ["prompt", "chosen", "rejected"]
    assert sorted(both["prompt"]) == sorted(load_split("text.jsonl", "train")["prompt"])
    with pytest.raises(ValueError, match="'nobody/nothing' is neither a file"):
        splits(monkeypatch, {})


BAD = [
    ({"dataset_name": "a"}, "`dataset_name` belongs to one data set, `datasets` and"),
    ({"eval_dataset_name": "a"}, "`eval_dataset_name` belongs to one data set"),
    ({"dataset_config": "a"}, "`dataset_config` belongs to one data set"),
    ({"datasets": None, "eval_datasets": ["a"]}, "`eval_datasets` belongs to a mixture: give `datasets` too"),
    ({"datasets": None, "stopping_strategy": "all_exhausted"}, "`stopping_strategy` belongs to a mixture"),
    ({"demo": True}, "`demo` generates its rows"),
    ({"adapter": "hh_rlhf"}, "`adapter` is set beside `datasets`.*Set it in the entries"),
    ({"column_mapping": {"input": "a"}}, "`column_mapping` is set beside `datasets`"),
    ({"stopping_strategy": "never"}, "stopping_strategy='never' is not one of 'first_exhausted'"),
    ({"test_size": 0}, r"test_size=0(\.0)? is not between 0 and 1.*own: eval_datasets"),
    ({"eval_datasets": TWO}, "`eval_datasets` are evaluated whole.*Leave `weight` out"),
    ({"datasets": []}, r"`datasets` is \[\]; expected a list of entries"),
    ({"datasets": "text.jsonl"}, "`datasets` is 'text.jsonl'; expected a list of entries"),
    ({"datasets": {"path": "text.jsonl"}}, "`datasets` is {'path': 'text.jsonl'}; expected a list"),
    ({"datasets": [TWO[0], 3]}, "`datasets`, entry 2: found 3; expected a mapping"),
    ({"datasets": ['{"path": ']}, "`datasets`, entry 1: Expecting value"),
    ({"datasets": [{"subset": "a"}]}, "`datasets`, entry 1: `path` is missing"),
    ({"datasets": [{**TWO[0], "fraction": 0.5}]}, "`datasets`, entry 1: `fraction` is TRL's.*Take `weight`"),
    ({"datasets": [{**TWO[0], "wieght": 1}]}, "entry 1: 'wieght' is unknown; do you mean 'weight'. Known: path, name"),
    ({"datasets": [{**TWO[0], "weight": "2"}]}, "entry 1: weight='2'; expected int | float"),
    ({"datasets": [{**TWO[0], "weight": 0}]}, "part 'text': weight=0; expected a number above 0"),
    ({"datasets": [TWO[0], "chats.jsonl"]}, "parts 'chats' have no `weight`"),
    ({"datasets": [{**TWO[0], "max_rows": 0}]}, "entry 1: max_rows=0; expected 1 or more"),
    ({"datasets": [{**TWO[0], "max_rows": True}]}, "entry 1: max_rows=True; expected int"),
    ({"datasets": [{**TWO[0], "subset": ""}]}, "entry 1: subset=''; expected str"),
    ({"datasets": [{**TWO[0], "columns": "prompt"}]}, "entry 1: columns='prompt'; expected list"),
    ({"datasets": [{**TWO[0], "columns": ["promt"]}]}, r"entry 1: Column name \['promt'\] not in the dataset"),
    ({"datasets": [TWO[1], TWO[1]]}, "Two parts are called 'talk'"),
    ({"datasets": [TWO[0], {"path": "none.jsonl", "weight": 1}]}, "`datasets`, entry 2: 'none.jsonl' is neither"),
    ({"eval_datasets": [{"path": "none.jsonl"}]}, "`eval_datasets`, entry 1: 'none.jsonl' is neither"),
]


@pytest.mark.parametrize(("config", "message"), BAD, ids=[message for _, message in BAD])
def test_a_yaml_that_asks_for_what_cannot_be(folder, monkeypatch, config, message):
    with pytest.raises(ValueError, match=message):
        splits(monkeypatch, {"datasets": TWO, **config})
