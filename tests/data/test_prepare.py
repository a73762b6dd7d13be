"""Raw data sets to encoded ones: order, numbers, reports, and errors that say where; streams alike."""

import logging

import pytest
from datasets import Dataset, Features, IterableDataset, Value
from datasets.distributed import split_dataset_by_node

from hf_rewardplug.data.adapters import Adapter, get_adapter
from hf_rewardplug.data.canonical import SUBSET
from hf_rewardplug.data.encoding import Encoder
from hf_rewardplug.data.expansion import to_pairs, to_steps
from hf_rewardplug.data.pipeline import RowPipeline, choose_adapter
from hf_rewardplug.data.prepare import PreparationReport, prepare_dataset
from hf_rewardplug.train.objectives import PairObjective, StepObjective


class Letters:
    """A tokenizer of one token a character; ^ begins a sequence, $ ends it. (A real one takes seconds to hash.)"""

    bos_token_id, eos_token_id, eos_token = ord("^"), ord("$"), "$"

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [ord(letter) for letter in ("^" + text if add_special_tokens else text)]}

    def encode(self, text, add_special_tokens=True):
        return self(text, add_special_tokens)["input_ids"]


def letters(ids):
    return "".join(map(chr, ids))


def say(number, **changed):
    """^Say 1. 1$ and ^Say 1. x$: 10 tokens each."""
    return {"prompt": f"Say {number}.", "chosen": f" {number}", "rejected": " x", **changed}


@pytest.fixture
def pairs():
    def pipeline(adapter="preference", tokenized=False, **options):
        encoder = Encoder(
            tokenizer=Letters(), **{k: options.pop(k) for k in ("max_length", "overlong") if k in options}
        )
        return RowPipeline(
            name="train",
            columns=PairObjective(loss_type="bradley_terry").columns,
            encode=encoder.tokenized_pair if tokenized else encoder.pair,
            expand=to_pairs,
            adapter=None if tokenized else get_adapter(adapter) if isinstance(adapter, str) else adapter,
            **options,
        )

    return pipeline


@pytest.fixture
def steps():
    def pipeline(adapter="stepwise_supervised", last=False, tokenized=False, **options):
        encoder = Encoder(tokenizer=Letters(), **options)
        encode = encoder.tokenized_steps if tokenized else encoder.last_step if last else encoder.steps
        return RowPipeline(
            name="train",
            columns=StepObjective(loss_type="cross_entropy").columns,
            encode=encode,
            expand=to_steps,
            adapter=None if tokenized else adapter if isinstance(adapter, Adapter) else get_adapter(adapter),
        )

    return pipeline


trees = Adapter("trees", lambda row: row)
"""rows that are canonical already"""


def stream_of(rows, shards=1):
    return Dataset.from_list(rows).to_iterable_dataset(num_shards=shards)


def chosen(dataset):
    return [row["chosen"] for row in dataset]


# ---- data sets -----------------------------------------------------------------------------------------------------


def test_rows_keep_their_order_and_get_numbers(pairs):
    encoded, report = prepare_dataset(Dataset.from_list([say(3), say(1), say(2)]), pairs())
    assert encoded.column_names == ["prompt", "chosen", "rejected", "chosen_ids", "rejected_ids", "rewardplug_id"]
    assert [letters(encoded[key][1]) for key in ("chosen_ids", "rejected_ids")] == ["^Say 1. 1$", "^Say 1. x$"]
    assert chosen(encoded) == [" 3", " 1", " 2"]
    assert encoded["rewardplug_id"][:] == [0, 1, 2]
    assert report == PreparationReport("train", rows=3, examples=3)
    assert not report
    assert str(report) == "train: 3 rows gave 3 examples."


def test_columns_are_kept_or_not(pairs):
    rows = Dataset.from_list([say(1, source="me", row=5, example_id=9)])
    kept, _ = prepare_dataset(rows, pairs())
    assert set(kept.column_names) == {*say(1), "source", "example_id", "chosen_ids", "rejected_ids", "rewardplug_id"}
    assert kept[0]["rewardplug_id"] == 0
    bare, _ = prepare_dataset(rows, pairs(), keep_columns=False)
    assert set(bare.column_names) == {"chosen_ids", "rejected_ids", "rewardplug_id"}


def test_the_report_counts_what_was_left_out(pairs):
    long = say(4, prompt="Say four, and take your time with it.")
    rows = [say(0), say(1, rejected=" 1"), long, say(3, rejected=" 3"), say(5)]
    encoded, report = prepare_dataset(Dataset.from_list(rows), pairs(max_length=10))
    assert chosen(encoded) == [" 0", " 5"]
    assert encoded["rewardplug_id"][:] == [0, 1]
    identical, overlong = "chosen and rejected are identical", "longer than max_length=10"
    assert report == PreparationReport("train", rows=5, examples=2, dropped={identical: [1, 3], overlong: [2]})
    assert str(report).splitlines()[1:] == [
        "  left out, chosen and rejected are identical: 2 (rows 1, 3)",
        "  left out, longer than max_length=10: 1 (row 2)",
    ]


def test_the_report_counts_what_was_cut(pairs, steps):
    encoded, report = prepare_dataset(Dataset.from_list([say(0), say(1)] * 6), pairs(max_length=9, overlong="truncate"))
    assert letters(encoded["chosen_ids"][1]) == "^ay 1. 1$"
    assert (report.cut_rows, report.cut_tokens, report.cut_labels) == (list(range(12)), 24, 0)
    assert str(report).endswith("cut to fit, 24 tokens lost: 12 (rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...)")

    row = {"prompt": "p", "completions": ["a", "b", "c"], "labels": [1.0, 0.5, 0.0]}  # ^pa|b|c|
    encoded, report = prepare_dataset(Dataset.from_list([row]), steps(max_length=7, overlong="truncate"))
    assert letters(encoded[0]["input_ids"]) == "^pa\nb\n"
    assert [label for label in encoded[0]["labels"] if label != -100] == [1.0, 0.5]
    assert (report.cut_rows, report.cut_tokens, report.cut_labels) == ([0], 2, 1)
    assert str(report).endswith("cut to fit, 2 tokens and 1 labelled steps lost: 1 (row 0)")


def test_nothing_left_names_max_length_and_says_why(pairs):
    with pytest.raises(
        ValueError, match=r"(?s)No example is left of the train .* 3 rows.*`max_length`.*max_length=9: 3"
    ):
        prepare_dataset(Dataset.from_list([say(0), say(1), say(2)]), pairs(max_length=9))
    with pytest.raises(ValueError, match="The train data set has no rows"):
        prepare_dataset(Dataset.from_list([say(0)]).select([]), pairs())


def test_two_processes_give_the_same(pairs):
    rows = Dataset.from_list([say(i % 10, rejected=" 7") for i in range(30)])
    alone, report = prepare_dataset(rows, pairs())
    shared, shared_report = prepare_dataset(rows, pairs(), num_proc=2)
    assert shared.to_list() == alone.to_list()
    assert shared_report == report
    assert report.dropped == {"chosen and rejected are identical": [7, 17, 27]}
    with pytest.raises(ValueError, match="row 29: column 'chosen'"):
        prepare_dataset(Dataset.from_list([*rows.to_list()[:29], say(1, chosen=None)]), pairs(), num_proc=2)


def test_row_numbers_are_those_of_the_data_set_that_was_given(pairs):
    rows = Dataset.from_list([say(1), say(2, rejected=" 2"), say(3)]).select([2, 0, 1])
    encoded, report = prepare_dataset(rows, pairs())
    assert chosen(encoded) == [" 3", " 1"]
    assert report.dropped == {"chosen and rejected are identical": [2]}


# ---- one row, several examples -------------------------------------------------------------------------------------


def test_ranked_rows_give_all_their_pairs(pairs):
    rows = [
        {"prompt": "Q", "completions": [" a", " b", " c"], "scores": [1, 3, 2]},
        {"prompt": "R", "completions": [" a", " b", " c"], "scores": [2, 2, 2]},
        {"prompt": "S", "completions": [" a", " a", " c"], "scores": [3, 2, 1]},
    ]
    encoded, report = prepare_dataset(Dataset.from_list(rows), pairs("ranked"))
    assert [(letters(row["chosen_ids"]), letters(row["rejected_ids"])) for row in encoded] == [
        ("^Q b$", "^Q a$"),
        ("^Q c$", "^Q a$"),
        ("^Q b$", "^Q c$"),
        ("^S a$", "^S c$"),
        ("^S a$", "^S c$"),
    ]
    assert encoded["rewardplug_id"][:] == [0, 1, 2, 3, 4]
    assert encoded["scores"][3] == [3, 2, 1]
    assert (report.rows, report.examples) == (3, 5)
    assert report.dropped == {"the adapter gives no row for it": [1], "chosen and rejected are identical": [2]}


def tree_row(*nodes):
    return {"prompt": "p", "nodes": [dict(zip(("text", "label", "parent"), one, strict=True)) for one in nodes]}


def test_a_tree_is_one_example(steps):
    row = tree_row(("a", 1, -1), ("b", 0, 0), ("cc", 1, 0), ("d", 0, 2), ("e", 1, 2))
    encoded, report = prepare_dataset(Dataset.from_list([row]), steps(trees), keep_columns=False)
    (tree,) = encoded
    assert letters(tree["input_ids"]) == "^pa\nb\ncc\nd\ne\n"
    assert [label for label in tree["labels"] if label != -100] == [1, 0, 1, 0, 1]
    assert tree["node_lengths"] == [2, 2, 2, 3, 2, 2] and tree["node_parents"] == [-1, 0, 1, 1, 3, 3]
    assert report.examples == 1


@pytest.mark.parametrize(
    ("options", "kept", "lost"),
    [
        ({"max_length": 7}, "^pa\nb\ncc\n", 2),  # d and e end at 9
        ({"max_length": 6}, "^pa\nb\n", 3),
        ({"max_length": 3}, "^a\n", 4),  # not one step fits: the prompt gives way
        ({"max_completion_length": 5}, "^pa\nb\ncc\n", 2),
    ],
)
def test_a_tree_is_cut_where_its_paths_are_too_long(steps, options, kept, lost):
    row = tree_row(("a", 1, -1), ("b", 0, 0), ("cc", 1, 0), ("d", 0, 2), ("e", 1, 2))
    pipeline = steps(trees, overlong="truncate", **options)
    encoded, report = prepare_dataset(Dataset.from_list([row]), pipeline, keep_columns=False)
    assert letters(encoded[0]["input_ids"]) == kept
    assert report.cut_labels == lost
    with pytest.raises(ValueError, match="No example is left"):
        prepare_dataset(Dataset.from_list([row]), steps(trees, overlong="drop", **options))


def test_the_last_steps_of_a_tree_are_its_leaves(steps):
    row = tree_row(("a", 1, -1), ("b", 0, 0), ("c", 1, 0), ("d", 0, 2))
    encoded, _ = prepare_dataset(Dataset.from_list([row]), steps(trees, last=True), keep_columns=False)
    assert [label for label in encoded[0]["labels"] if label != -100] == [0, 0]


CHAIN = {"prompt": "p", "completions": ["a", "b", "c"], "labels": [1, -100, 0]}


@pytest.mark.parametrize("as_stream", [False, True], ids=["data set", "stream"])
@pytest.mark.parametrize("tree_at", [0, 1, 9])
def test_solutions_and_trees_stand_in_any_order(steps, tree_at, as_stream):
    """A solution is a tree with one branch, so no row decides the form of those that follow it."""
    tree = tree_row(("a", 1, -1), ("b", 0, -1))
    adapter = Adapter("any", lambda row: tree if row["n"] == tree_at else CHAIN)
    rows = Dataset.from_list([{"n": number} for number in range(10)])
    encoded = prepare_dataset(rows.to_iterable_dataset() if as_stream else rows, steps(adapter), keep_columns=False)[0]
    nodes = [(row["node_lengths"], row["node_parents"]) for row in encoded]
    assert nodes.pop(tree_at) == ([2, 2, 2], [-1, 0, 0])
    assert nodes == [([2, 2, 2, 2], [-1, 0, 1, 2])] * 9


@pytest.mark.parametrize(
    ("labels", "lengths"),
    [
        ([-100, -100, 1, -100, 0], [0, 3, 2]),
        ([1, -100, 0.5, -100, -100], [0, 1, 2, 2]),  # tokens without a label at the end
    ],
)
def test_of_rows_that_somebody_else_tokenized_nobody_knows_the_prompt(steps, labels, lengths):
    rows = Dataset.from_list([{"input_ids": [5, 6, 7, 8, 9], "labels": labels}])
    (row,) = prepare_dataset(rows, steps(tokenized=True), keep_columns=False)[0]
    assert row["labels"] == labels
    assert (row["node_lengths"], row["node_parents"]) == (lengths, list(range(-1, len(lengths) - 1)))


def test_last_step_only_reports_rows_without_a_last_label(steps):
    rows = [{"prompt": "p", "completions": ["a", "b"], "labels": labels} for labels in ([1, 0], [1, -100])]
    encoded, report = prepare_dataset(Dataset.from_list(rows), steps(last=True))
    assert encoded["labels"][:] == [[-100.0, -100.0, -100.0, -100.0, -100.0, 0.0]]
    assert report.dropped == {"no labelled step": [1]}


@pytest.mark.parametrize("name", ["eval", "eval (train)", "test"])
def test_last_step_only_is_for_training_rows(name):
    encoder = Encoder(tokenizer=Letters())
    objective = StepObjective(loss_type="cross_entropy", options={"train_on_last_step_only": True})
    assert objective.encode(encoder, tokenized=False, name="train") == encoder.last_step
    assert objective.encode(encoder, tokenized=False, name=name) == encoder.steps


def test_soft_labels_stay_floats(steps):
    rows = [{"prompt": "p", "completions": ["a", "b"], "labels": [0.9, 0.25]}]
    encoded, _ = prepare_dataset(Dataset.from_list(rows), steps())
    assert encoded[0]["labels"] == [-100.0, -100.0, -100.0, 0.9, -100.0, 0.25]


# ---- errors --------------------------------------------------------------------------------------------------------

BAD_PAIRS = [
    (say(1, chosen=None), "chosen"),
    (say(1, rejected=""), "rejected"),
]
BAD_STEPS = [
    ({"completions": ["a", None], "labels": [1, 0]}, "completions"),
    ({"completions": None, "labels": [1, 0]}, "completions"),
    ({"completions": ["a", "b"], "labels": [1]}, "labels"),
    ({"completions": ["a", "b"], "labels": [1, None]}, "labels"),
    ({"completions": ["a", "b"], "labels": [1, -1]}, "labels"),
]
either = pytest.mark.parametrize("as_stream", [False, True], ids=["data set", "stream"])


def read(dataset, pipeline, as_stream):
    if as_stream:
        dataset = dataset.to_iterable_dataset()
    encoded, _ = prepare_dataset(dataset, pipeline)  # a stream's rows are read below
    return list(encoded)


@either
@pytest.mark.parametrize(("row", "column"), BAD_PAIRS)
def test_a_bad_pair_is_named_by_row_and_column(pairs, row, column, as_stream):
    with pytest.raises(ValueError, match=f"train data set, adapter 'preference', row 2: column '{column}': "):
        read(Dataset.from_list([say(1), say(2), row]), pairs(), as_stream)


@either
@pytest.mark.parametrize(("row", "column"), BAD_STEPS)
def test_a_bad_step_row_is_named_by_row_and_column(steps, row, column, as_stream):
    good = {"prompt": "p", "completions": ["a", "b"], "labels": [1, 0]}
    with pytest.raises(ValueError, match=f"train data set, adapter 'stepwise_supervised', row 1: column '{column}': "):
        read(Dataset.from_list([good, {"prompt": "p", **row}]), steps(), as_stream)


@either
@pytest.mark.parametrize(
    ("steps_of_row", "reason"),
    [([], "column 'completions': there are no steps"), (["a", " "], "column 'completions': a step is empty")],
)
def test_a_row_with_nothing_in_a_step_is_left_out_and_reported(steps, steps_of_row, reason, as_stream, caplog):
    good = {"prompt": "p", "completions": ["a", "b"], "labels": [1, 0]}
    rows = Dataset.from_list([good, {"prompt": "p", "completions": steps_of_row, "labels": [1] * len(steps_of_row)}])
    encoded, report = prepare_dataset(rows.to_iterable_dataset() if as_stream else rows, steps())
    assert len(list(encoded)) == 1
    if as_stream:
        assert f"row 1: {reason}" in caplog.text
    else:
        assert report.dropped == {reason: [1]}


def test_a_stream_raises_when_it_is_read_not_before(pairs):
    encoded, _ = prepare_dataset(stream_of([say(1), say(1, chosen=None)]), pairs())
    with pytest.raises(ValueError, match="row 1: column 'chosen'"):
        next(iter(encoded))


@either
def test_too_long_is_an_error_if_asked_for(pairs, as_stream):
    with pytest.raises(ValueError, match="row 1: 12 tokens are more than max_length=10"):
        read(Dataset.from_list([say(1), say(10)]), pairs(max_length=10, overlong="error"), as_stream)


@either
@pytest.mark.parametrize("tokenized", [False, True])
def test_a_margin_that_some_rows_lack_is_named_by_row(pairs, tokenized, as_stream):
    rows = [say(1, margin=0.5), say(2, margin=0.0), say(3, margin=None)]
    if tokenized:
        rows = [{"chosen_ids": [1], "rejected_ids": [2], "margin": row["margin"]} for row in rows]
    with pytest.raises(ValueError, match=r"^train data set.*\brow 2\b") as caught:
        read(Dataset.from_list(rows), pairs(tokenized=tokenized), as_stream)
    assert "'margin'" in str(caught.value)


@either
def test_margins_that_an_adapter_gives_to_some_rows_only_are_refused(pairs, as_stream):
    def some(row):
        return {**row, "margin": 1.0} if row["prompt"] == "Say 2." else row

    with pytest.raises(ValueError, match="'margin' is"):
        read(Dataset.from_list([say(1), say(2)]), pairs(Adapter("some", some)), as_stream)


@either
def test_margins_arrive(pairs, as_stream):
    rows = read(Dataset.from_list([say(1, margin=0.5), say(2, margin=0.0)]), pairs(), as_stream)
    assert [row["margin"] for row in rows] == [0.5, 0.0]


@either
def test_whatever_an_adapter_raises_names_the_row(pairs, as_stream):
    def shout(row):
        return {**row, "chosen": row["chosen"].upper()}

    with pytest.raises(ValueError, match="adapter 'shout', row 1: AttributeError: 'NoneType'") as caught:
        read(Dataset.from_list([say(1), say(2, chosen=None)]), pairs(Adapter("shout", shout)), as_stream)
    assert isinstance(caught.value.__cause__, AttributeError)


@either
def test_bad_tokenized_rows_are_named(pairs, steps, as_stream):
    rows = [{"chosen_ids": [1], "rejected_ids": [2]}, {"chosen_ids": [], "rejected_ids": [2]}]
    with pytest.raises(ValueError, match="train data set, tokenized data, row 1: column 'chosen_ids'"):
        read(Dataset.from_list(rows), pairs(tokenized=True), as_stream)
    rows = [{"input_ids": [1, 2], "labels": [-100, 1]}, {"input_ids": [1, 2], "labels": [-100, None]}]
    with pytest.raises(ValueError, match="train data set, tokenized data, row 1: column 'labels'"):
        read(Dataset.from_list(rows), steps(tokenized=True), as_stream)


# ---- formats and columns -------------------------------------------------------------------------------------------


@either
@pytest.mark.parametrize("form", ["torch", "numpy", "pandas"])
def test_a_data_set_with_a_format_gives_the_same(pairs, steps, form, as_stream):
    """Tensors are no lists; and a missing margin must not become a NaN."""
    plain = Dataset.from_list([say(1), say(2)])
    assert read(plain.with_format(form), pairs(), as_stream) == read(plain, pairs(), as_stream)
    plain = Dataset.from_list([{"input_ids": [1, 2], "labels": [-100, 1]}])
    assert read(plain.with_format(form), steps(tokenized=True), as_stream)[0]["labels"] == [-100.0, 1.0]


@either
def test_columns_are_renamed_for_the_adapter_only(pairs, as_stream):
    raw = {"question": "Say 1.", "chosen": " 1", "rejected": " x"}
    (row,) = read(Dataset.from_list([raw]), pairs(column_mapping={"prompt": "question"}), as_stream)
    assert letters(row["chosen_ids"]) == "^Say 1. 1$"
    assert row["question"] == "Say 1."


def test_choose_adapter():
    assert choose_adapter(say(1), None, None).name == "preference"
    assert choose_adapter(say(1), "skywork", None).name == "skywork"
    first = {"q": "p", "completions": ["a"], "labels": [1]}
    assert choose_adapter(first, None, {"prompt": "q"}).name == "stepwise_supervised"
    with pytest.raises(ValueError, match="column 'nothing', which is not there"):
        choose_adapter(first, None, {"prompt": "nothing"})
    with pytest.raises(ValueError, match="no known format fits the columns"):
        choose_adapter({"text": "a"}, None, None)


# ---- streams -------------------------------------------------------------------------------------------------------


def without_ids(rows):
    return [{key: value for key, value in row.items() if key not in ("rewardplug_id", "margin")} for row in rows]


def test_a_stream_gives_the_rows_of_the_data_set(pairs):
    rows = Dataset.from_list([say(i % 10, rejected=" 7", source="me") for i in range(40)])
    encoded, _ = prepare_dataset(rows, pairs())
    stream, report = prepare_dataset(rows.to_iterable_dataset(), pairs())
    assert without_ids(stream) == without_ids(encoded)  # no bookkeeping columns either
    assert len(list(stream)) == 36
    assert report == PreparationReport("train")  # a stream's rows are not known yet


def test_a_stream_of_generated_rows_of_ranked_answers(pairs):
    def rows():
        for _ in range(20):
            yield {"prompt": "Q", "completions": [" a", " b", " c"], "scores": [1, 3, 2], "source": "me"}

    stream, _ = prepare_dataset(IterableDataset.from_generator(rows), pairs("ranked"))
    assert len(list(stream)) == 60
    assert {row["source"] for row in stream} == {"me"}


def test_a_stream_keeps_no_columns_for_the_prm(steps):
    rows = [{"prompt": "p", "completions": ["a"], "labels": [True]}]
    stream, _ = prepare_dataset(stream_of(rows), steps(), keep_columns=False)
    (row,) = stream
    assert row.pop("rewardplug_id") >= 0
    assert row == {
        "input_ids": [ord(letter) for letter in "^pa\n"],
        "labels": [-100.0, -100.0, -100.0, 1.0],
        "node_lengths": [2, 2],
        "node_parents": [-1, 0],
    }


def test_example_ids_of_a_stream_are_its_own_and_stay_the_same(pairs):
    """Evaluation counts each id once; shards that numbered from 0 each would hide one another's rows."""
    rows = [say(i) for i in range(24)]
    stream, _ = prepare_dataset(stream_of(rows, shards=4), pairs())
    ids = [row["rewardplug_id"] for row in stream]
    assert len(set(ids)) == 24
    assert ids == [row["rewardplug_id"] for row in stream]
    assert all(0 <= number < 2**63 for number in ids)
    ranks = [row["rewardplug_id"] for rank in (0, 1) for row in split_dataset_by_node(stream, rank, 2)]
    assert len(set(ranks)) == 24
    repeated, _ = prepare_dataset(stream_of([say(1)] * 5), pairs())
    assert len({row["rewardplug_id"] for row in repeated}) == 5  # rows that repeat in the data do count


def test_a_stream_tells_of_rows_left_out_and_cut(pairs, caplog):
    rows = [say(1), say(2, rejected=" 2"), *[say(3)] * 8, say(10), *[say(4, rejected=" 4")] * 9]
    with caplog.at_level(logging.WARNING):
        stream, _ = prepare_dataset(stream_of(rows), pairs(max_length=10, overlong="truncate"))
        assert caplog.messages == []
        assert len(list(stream)) == 10
    assert caplog.messages == [
        "train stream: 1 of 2 examples left out so far; the last one is row 1: chosen and rejected are identical.",
        "train stream: 1 of 11 examples cut to fit so far; the last one is row 10: 4 tokens lost.",
        "train stream: 10 of 20 examples left out so far; the last one is row 19: chosen and rejected are identical.",
    ]


def test_the_names_of_a_list_valued_subset_are_joined():
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "subset": ["math", "algebra"]}
    pipeline = RowPipeline(
        name="eval",
        columns=Features({SUBSET: Value("string")}),
        encode=lambda canonical: {"cut": 0, "cut_labels": 0},
        expand=lambda canonical: [canonical],
        adapter=get_adapter("preference"),
    )
    assert [example[SUBSET] for example in pipeline.examples(row, 0)] == ["math, algebra"]
