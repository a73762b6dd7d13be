"""Mixtures against `interleave_datasets` on plain indices, and the part's own adapters; what cannot be mixed."""

import itertools
import json
import logging
import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, Features, IterableDataset, List, Value, interleave_datasets

from hf_rewardplug.checks import DropRow
from hf_rewardplug.data.adapters import detect_adapter, get_adapter, register_adapter, registry
from hf_rewardplug.data.files import load_split
from hf_rewardplug.data.mixing import STOPPING_STRATEGIES, mixed, mixed_and_held_out
from hf_rewardplug.data.mixture_rows import Part, canonical_rows
from hf_rewardplug.data.pipeline import RowPipeline, choose_adapter
from hf_rewardplug.data.prepare import prepare_dataset

MESSAGES = [{"role": "user", "content": "2+2?"}]
FORMATS = {
    "hh_rlhf": {"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5"},
    "preference": {"prompt": MESSAGES, "chosen": "Four: ½ of 8", "rejected": "5", "margin": 0.1},
    "bradley_terry.chat_template": {"system": "Be brief.", "input": "2+2?", "chosen": "4", "rejected": "5"},
    "ranked": {"prompt": "2+2?", "completions": ["4", "5", "6"], "scores": [1.0, 1 / 3, -1e-9]},
    "finegrained_rlhf": {
        "prompt": "2+2?",
        "completions": ["4", "5", "four"],
        "preference_pairs": [[0, 1], [1, 2]],
        "preference": [1, 2],
    },
    "stepwise_supervised": {"prompt": "2+2+2?", "completions": ["4", "7"], "labels": [1.0, 0.25]},
    "processbench": {"problem": "2+2?", "steps": ["2+2=5", "5"], "label": 0},
    "step_tree": {
        "prompt": "2+2?",
        "nodes": [{"text": "4", "label": 1, "parent": -1}, {"text": "5", "label": 0, "parent": -1}],
    },
    "prm800k": {
        "question": {"problem": "2+2?"},
        "label": {
            "steps": [
                {
                    "completions": [{"text": "4", "rating": 1}, {"text": "5", "rating": None}],
                    "human_completion": None,
                    "chosen_completion": 0,
                }
            ]
        },
    },
}


def pairs(count, name="q"):
    return [{"prompt": f"{name} {number}", "chosen": "yes", "rejected": "no"} for number in range(count)]


def conversations(count, name="q"):
    return [
        {"prompt": [{"role": "user", "content": row["prompt"]}], "chosen": row["chosen"], "rejected": row["rejected"]}
        for row in pairs(count, name)
    ]


def part(rows, subset, *, stream=False, **options):
    dataset = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    return Part(dataset=dataset.to_iterable_dataset() if stream else dataset, subset=subset, **options)


def indices(sizes, *, stream, **options):
    """What `datasets` makes of data sets that hold nothing but where their rows come from."""
    plain = [
        Dataset.from_list([{"subset": name, "source_row": row} for row in range(size)]) for name, size in sizes.items()
    ]
    plain = [one.to_iterable_dataset() for one in plain] if stream else plain
    return order(interleave_datasets(plain, **options))


def order(dataset):
    return [(row["subset"], row["source_row"]) for row in dataset]


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry.ADAPTERS, "things", dict(registry.ADAPTERS.things))


SIZES = {"hh": 30, "sums": 11, "steps": 7}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strategy", STOPPING_STRATEGIES)
def test_weighted_parts_come_as_interleave_datasets_orders_them(strategy, stream):
    parts = [
        part([FORMATS["hh_rlhf"]] * 30, "hh", stream=stream, weight=6),
        part(conversations(11), "sums", stream=stream, weight=3),
        part([FORMATS["stepwise_supervised"]] * 7, "steps", stream=stream, weight=1),
    ]
    options = {"probabilities": [0.6, 0.3, 0.1], "stopping_strategy": strategy, "stream": stream}
    for seed in (0, 1):
        mixture = mixed(parts, seed=seed, stopping_strategy=strategy)
        assert order(mixture) == indices(SIZES, seed=seed, **options)
        assert isinstance(mixture, IterableDataset if stream else Dataset)
    assert order(mixture) != indices(SIZES, seed=0, **options)
    if strategy == "all_exhausted_without_replacement":
        assert len(set(order(mixture))) == len(order(mixture)) == sum(SIZES.values())
    if strategy == "first_exhausted":
        assert order(mixed(parts, seed=1)) == order(mixture)


def test_the_shares_are_the_weights():
    mixture = mixed([part(pairs(3000), "a", weight=3), part(conversations(3000), "b", weight=1)], seed=0)
    counts = Counter(mixture["subset"])
    share, spread = counts["a"] / len(mixture), (0.75 * 0.25 / len(mixture)) ** 0.5
    assert counts["a"] == 3000  # the first part that is through
    assert abs(share - 0.75) < 4 * spread


@pytest.mark.parametrize("stream", [False, True])
def test_without_weights_every_row_comes_once_and_parts_take_turns(stream):
    rows = {"a": pairs(3), "b": conversations(1), "c": pairs(2)}
    parts = [part(rows[name], name, stream=stream) for name in rows]
    assert order(mixed(parts, seed=0)) == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("c", 1), ("a", 2)]


def test_a_shuffled_part_gives_a_random_sample():
    parts = [part(pairs(40), "a", weight=1), part(pairs(10), "b", weight=1)]
    plain = [
        Dataset.from_list([{"subset": name, "source_row": row} for row in range(size)]).shuffle(seed=5)
        for name, size in (("a", 40), ("b", 10))
    ]
    expected = interleave_datasets(plain, probabilities=[0.5, 0.5], seed=5)
    assert order(mixed(parts, seed=5, shuffle=True)) == order(expected)


@pytest.mark.parametrize("stream", [False, True])
def test_the_mixture_holds_what_the_parts_own_adapters_give(stream):
    """Floats to the last bit, whatever the Arrow type; each row found again by its source_row."""
    parts = [part([row, row], name, stream=stream) for name, row in FORMATS.items()]
    mixture = list(mixed(parts, seed=0))
    assert len(mixture) == 2 * len(FORMATS)
    adapter = choose_adapter(mixture[0], None, None)
    assert adapter.name == "mixed"
    for row in mixture:
        raw = Dataset.from_list([FORMATS[row["subset"]]])[0]  # as Arrow gives it back
        own = detect_adapter(list(raw), raw)
        assert own.name == row["subset"]
        assert adapter(row) == own(raw)


def test_adapters_and_mappings_are_the_parts_own():
    raw = {"query": "2+2?", "subset": "theirs", "canonical": "x", "chosen": "4", "rejected": "5"}
    mixture = mixed(
        [
            part([raw], "a", column_mapping={"input": "query"}),
            part([{**raw, "system": None}], "b", column_mapping={"input": "query"}, adapter="bradley_terry.llama3.icr"),
        ],
        seed=0,
    )
    read = get_adapter("mixed")
    assert [row["subset"] for row in mixture] == ["a", "b"]
    assert read(mixture[0])[0]["prompt"] == MESSAGES
    assert read(mixture[1])[0]["prompt"].startswith("<|start_header_id|>user<|end_header_id|>\n\n2+2?")
    assert mixture.column_names == ["canonical", "subset", "source_row"]


def test_a_mixture_may_be_a_part():
    inner = mixed([part(pairs(2), "a"), part([FORMATS["hh_rlhf"]], "hh")], seed=0)
    outer = mixed([part(inner, "old"), part(conversations(1), "new")], seed=0)
    read = get_adapter("mixed")
    assert [read(row) for row in outer if row["subset"] == "old"] == [read(row) for row in inner]


def test_broken_unicode_reaches_the_trainer_as_it_is(own_registry):
    row = {"chosen": "\ud800", "rejected": "½"}
    register_adapter("broken")(lambda raw: row)
    (found,) = mixed([part([{"a": 1}], "x", adapter="broken")], seed=0)
    assert get_adapter("mixed")(found) == [row]


def prepared(dataset):
    pipeline = RowPipeline(
        name="train",
        columns=Features(chosen_ids=List(Value("int64"))),
        encode=lambda row: {"chosen_ids": [len(row["chosen"])], "cut": 0, "cut_labels": 0},
        expand=lambda row: [row],
        adapter=get_adapter("mixed"),
    )
    return prepare_dataset(dataset, pipeline)


def test_what_gives_no_row_is_left_out_and_reported(own_registry):
    @register_adapter("votes", columns=["votes"])
    def votes(row):
        if row["votes"] < 0:
            raise DropRow("nobody voted")
        return [{"prompt": "p", "chosen": "a" * 7, "rejected": "b"}] * row["votes"]

    parts = [part([{"votes": 0}, {"votes": 2}, {"votes": -1}], "votes"), part(pairs(2), "pairs")]
    encoded, report = prepared(mixed(parts, seed=0))
    assert report.dropped == {"the adapter gives no row for it": [0], "nobody voted": [4]}
    assert (report.rows, report.examples) == (5, 4)
    assert encoded["chosen_ids"][:] == [[3], [7], [7], [3]]
    streamed = mixed([part(one.dataset, one.subset, stream=True) for one in parts], seed=0)
    assert [row["chosen_ids"] for row in prepared(streamed)[0]] == encoded["chosen_ids"][:]


def test_processes_workers_and_the_cache_change_nothing(tmp_path, caplog):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in pairs(300)))
    parts = [Part(dataset=load_split(str(file), "train"), subset=name, weight=1) for name in "ab"]
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        mixture, again = mixed(parts, seed=0), canonical_rows(parts[0])
    assert not caplog.records
    assert mixture[:] == mixed(parts, seed=0, num_proc=2)[:]
    assert again.cache_files == canonical_rows(parts[0]).cache_files != []
    assert again._fingerprint == canonical_rows(parts[0])._fingerprint


SCRIPT = """
import sys
from hf_rewardplug.data.files import load_split
from hf_rewardplug.data.mixing import Part, mixed, mixed_and_held_out
parts = [Part(dataset=load_split(name, "train"), subset=name[-7], weight=w) for name, w in zip(sys.argv[1:], (1, 2))]
mixture = mixed(parts, seed=3)
sides = mixed_and_held_out(parts, seed=3, test_size=0.2)
print(mixture._fingerprint, [[(row["subset"], row["source_row"]) for row in one] for one in (mixture, *sides)])
"""


def test_two_processes_draw_the_same_rows(tmp_path):
    names = []
    for name, rows in (("a", pairs(40)), ("b", conversations(30))):
        names.append(str(tmp_path / f"{name}.jsonl"))
        Path(names[-1]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    outputs = []
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        command = [sys.executable, "-c", SCRIPT, *names]
        outputs.append(subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout)
    assert outputs[0] == outputs[1]
    parts = [Part(dataset=load_split(names[place], "train"), subset="ab"[place], weight=place + 1) for place in (0, 1)]
    assert str(order(mixed(parts, seed=3))) in outputs[0]


def questions(rows):
    """The prompt's own text, by the test's own reading."""
    found = [json.loads(row["canonical"])[0]["prompt"] for row in rows]
    return {prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in found}


def test_no_prompt_is_on_both_sides_whatever_the_part():
    """The parts share prompts, as text and as messages; one has several rows a prompt."""
    parts = [
        part(pairs(100), "text", weight=1),
        part(conversations(100), "messages", weight=1),
        part(pairs(20, "own") * 3, "own", weight=1),
    ]
    how = {"seed": 0, "stopping_strategy": "all_exhausted_without_replacement"}
    options = {**how, "test_size": 0.2}
    train, held_out = mixed_and_held_out(parts, **options)
    assert not questions(train) & questions(held_out)
    assert sorted(order(train) + order(held_out)) == sorted(order(mixed(parts, **how)))
    assert Counter(held_out["subset"]) == {"text": 20, "messages": 20, "own": 12}
    assert order(mixed_and_held_out(parts, **options)[1]) == order(held_out)
    assert questions(mixed_and_held_out(parts, **{**options, "seed": 1})[1]) != questions(held_out)
    _, fewer = mixed_and_held_out(parts, max_eval_rows=10, **options)
    assert Counter(fewer["subset"]) == {"text": 3, "messages": 3, "own": 3}


def test_rows_without_a_prompt_are_split_one_by_one():
    rows = [{"chosen": f"yes {number}", "rejected": "no"} for number in range(10)]
    sides = mixed_and_held_out([part(rows, "a"), part(pairs(10), "b")], seed=0, test_size=0.3)
    assert [Counter(side["subset"]) for side in sides] == [{"a": 7, "b": 7}, {"a": 3, "b": 3}]


def test_of_a_stream_the_first_rows_are_held_out():
    parts = [part(pairs(6), "a", stream=True, weight=1), part(conversations(9), "b", stream=True, weight=1)]
    train, held_out = mixed_and_held_out(parts, seed=0, test_size=0.5, max_eval_rows=4)
    assert order(held_out) == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert order(train)[0][1] == 2 and {row for _, row in order(train)} & {0, 1} == set()
    everything = mixed_and_held_out(parts, seed=0, test_size=0.5)
    assert len(order(everything[1])) == 15 and order(everything[0]) == []


def test_a_stream_whose_columns_nobody_told():
    def rows():
        yield from pairs(3)

    streams = [Part(dataset=IterableDataset.from_generator(rows), subset=name) for name in "ab"]
    assert order(mixed(streams, seed=0)) == [(name, row) for row, name in itertools.product(range(3), "ab")]


GOOD = pairs(3)
BAD = [*pairs(2), {"prompt": 3, "chosen": 4, "rejected": "no"}]


def two(**options):
    return [part(GOOD, "a", **options), part(GOOD, "b", **options)]


CASES = [
    ([], "A mixture needs one part at least"),
    ([part(GOOD, "a"), part(GOOD, "a")], "Two parts are called 'a'. Give each a `subset` name"),
    ([part(GOOD, "a", weight=1), part(GOOD, "b")], "parts 'b' have no `weight`, the other parts have"),
    (two(weight=0), "part 'a': weight=0; expected a number above 0"),
    (two(weight=-1.0), "part 'a': weight=-1.0; expected"),
    (two(weight=float("nan")), "part 'a': weight=nan; expected"),
    (two(weight=float("inf")), "part 'a': weight=inf; expected"),
    (two(weight="2"), "part 'a': weight='2'; expected"),
    (two(weight=True), "part 'a': weight=True; expected"),
    ([part(GOOD, "a", stream=True), part(GOOD, "b")], "parts 'a' are streams, parts 'b' are not. Stream all or none"),
    ([part(GOOD, "a"), part(GOOD, "b", column_mapping={"subset": "prompt"})], "part 'b': .*cannot map 'subset'"),
    ([part(GOOD, "a"), part([{"x": 1}], "b")], r"part 'b': no known format fits the columns \['x'\]"),
    ([part(GOOD, "a"), part(GOOD, "b", adapter="skywrk")], "part 'b': unknown adapter 'skywrk'. Known, .*: skywork"),
    (two(column_mapping={"input": "q"}), "part 'a': column_mapping reads 'input' from column 'q'"),
    ([part(GOOD, "a"), part(Dataset.from_list([]), "b")], "part 'b' has no rows"),
]


@pytest.mark.parametrize(("parts", "message"), CASES, ids=[message for _, message in CASES])
def test_what_cannot_be_mixed(parts, message):
    for mix in (mixed, lambda parts, seed: mixed_and_held_out(parts, seed=seed, test_size=0.5)):
        with pytest.raises(ValueError, match=message):
            mix(parts, seed=0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_row_is_named_with_its_part(stream, own_registry):
    @register_adapter("votes", columns=["votes"])
    def votes(row):
        return {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 1 / row["votes"]}

    parts = [part(GOOD, "a", stream=stream), part([{"votes": 1}, {"votes": 0}], "shop", stream=stream)]
    with pytest.raises(ValueError, match=r"part 'shop', adapter 'votes', row 1: ZeroDivisionError: division by zero\."):
        list(mixed(parts, seed=0))
    rows = [{"input": "a", "chosen": "b", "rejected": "c"}, {"input": None, "chosen": "b", "rejected": "c"}]
    parts = [part(GOOD, "a", stream=stream), part(rows, "axolotl", stream=stream)]
    with pytest.raises(ValueError, match=r"part 'axolotl', adapter 'bradley_terry.*', row 1: column 'input': exp"):
        list(mixed(parts, seed=0))


def test_options_that_do_not_go_together():
    with pytest.raises(ValueError, match="stopping_strategy='all' is not one of 'first_exhausted', 'all_exhausted'"):
        mixed(two(weight=1), seed=0, stopping_strategy="all")
    with pytest.raises(ValueError, match="'all_exhausted' needs a `weight` for each part"):
        mixed(two(), seed=0, stopping_strategy="all_exhausted")
    with pytest.raises(TypeError, match=r"part 'a' is a `DatasetDict`, expected.*Give one of its splits, \['test'\]"):
        mixed([Part(dataset=datasets.DatasetDict(test=Dataset.from_list(GOOD)), subset="a")], seed=0)
    with pytest.raises(TypeError, match=r"part 'a' is a `list`, expected a `Dataset` or an `IterableDataset`\.$"):
        mixed([Part(dataset=GOOD, subset="a")], seed=0)


def test_old_versions_of_datasets_would_leave_rows_out_in_silence(monkeypatch):
    monkeypatch.setattr(datasets, "__version__", "4.1.1")
    assert len(mixed(two(), seed=0)) == 6
    for options, strategy in (({}, None), ({"weight": 1}, "all_exhausted_without_replacement")):
        with pytest.raises(ValueError, match=r"once needs datasets >= 4\.2, found 4\.1\.1"):
            mixed(two(stream=True, **options), seed=0, stopping_strategy=strategy)
    assert order(mixed(two(stream=True, weight=1), seed=0))


def test_parts_that_cannot_be_split():
    with pytest.raises(ValueError, match="part 'b' has 3 rows with 1 different prompts, which cannot be split"):
        mixed_and_held_out([part(GOOD, "a"), part(GOOD[:1] * 3, "b")], seed=0, test_size=0.5)
    with pytest.raises(ValueError, match=r"test_size=1\.5 is not between 0 and 1.*own: eval_datasets"):
        mixed_and_held_out(two(), seed=0, test_size=1.5)
    _, held_out = mixed_and_held_out([part(pairs(10), "a"), part(pairs(10, "b"), "b")], seed=0, test_size=0.9)
    shared = [{"prompt": prompt, "chosen": "a", "rejected": "b"} for prompt in sorted(questions(held_out))[:2]]
    with pytest.raises(ValueError, match="part 'c' has no rows left to train on: other parts hold out its prompts"):
        mixed_and_held_out([part(pairs(10), "a"), part(pairs(10, "b"), "b"), part(shared, "c")], seed=0, test_size=0.9)


@pytest.mark.parametrize(
    ("canonical", "message"),
    [
        ("[", "column 'canonical': is not JSON"),
        ("3", "column 'canonical': expected a JSON list of canonical rows, found '3'"),
        (3, "column 'canonical': expected text, found 3"),
        ("[3]", "adapter 'mixed' returned a list with int"),
    ],
)
def test_a_canonical_column_of_somebody_else(canonical, message):
    with pytest.raises((ValueError, TypeError), match=message):
        get_adapter("mixed")({"canonical": canonical, "subset": "x"})


def test_files_of_a_folder_and_slices(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs(3, name)))
    assert load_split(str(tmp_path), "train", data_files="b.jsonl")["prompt"][:] == ["b 0", "b 1", "b 2"]
    assert len(load_split(str(tmp_path), "train", data_files=["b.jsonl", "a.jsonl"])) == 6
    assert load_split(str(tmp_path / "a.jsonl"), "test[1:2]")["prompt"][:] == ["a 1"]
    with pytest.raises(ValueError, match=r"has no file c\.jsonl\. It holds a\.jsonl, b\.jsonl"):
        load_split(str(tmp_path), "train", data_files=["a.jsonl", "c.jsonl"])
    with pytest.raises(ValueError, match=r"data_files='b\.jsonl' does not go with '.*a\.jsonl'"):
        load_split(str(tmp_path / "a.jsonl"), "train", data_files="b.jsonl")
    with pytest.raises(ValueError, match=r"a\.jsonl' cannot be read: ValueError: .*train\[a:b\]"):
        load_split(str(tmp_path / "a.jsonl"), "train[a:b]")
