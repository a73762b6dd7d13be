"""What `inspect_rows` says against counts by hand, the tokenizer itself and the collators' own batches."""

import random

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from hf_rewardplug import PRMConfig, RewardConfig
from hf_rewardplug.cli.wording import example_text, lines
from hf_rewardplug.data.collator import PreferenceCollator, StepCollator
from hf_rewardplug.data.encoding import Encoder
from hf_rewardplug.data.files import load_split
from hf_rewardplug.inspection import MAX_LENGTH, OVERLONG_OF, inspect_rows, load_tokenizer
from hf_rewardplug.inspection.tokens import Merges, Spread, TokenFigures, unique_tokens_of

PAIRS = [
    {"prompt": "2+2? ", "chosen": "4", "rejected": "5"},
    {"prompt": "2+2? ", "chosen": "4", "rejected": "4"},
    {"prompt": "2+2? ", "chosen": "4", "rejected": None},
    {"prompt": "3+3? ", "chosen": "6, I am quite sure of that", "rejected": "7"},
]


@pytest.fixture(scope="module")
def qwen(assets):
    return AutoTokenizer.from_pretrained(assets / "tokenizers" / "qwen2_5")


def text_of(found, tokenizer=None) -> str:
    return "\n".join(lines(found, tokenizer))


def test_the_defaults_are_the_trainers(tmp_path):
    for config_class, form in ((RewardConfig, "pairs"), (PRMConfig, "steps")):
        config = config_class(str(tmp_path), bf16=False)
        assert (config.max_length, config.overlong) == (MAX_LENGTH, OVERLONG_OF[form])


def test_without_a_tokenizer_rows_are_counted_and_bad_ones_told():
    found = inspect_rows(Dataset.from_list(PAIRS), name="pairs")
    assert (found.adapter, found.form, found.rows, found.report.rows, found.report.examples) == (
        *("preference", "pairs"),
        *(4, 4, 2),
    )
    assert found.report.dropped == {"chosen and rejected are identical": [1]}
    assert list(found.refusals.values()) == [[2]] and "column 'rejected'" in next(iter(found.refusals))
    assert found.tokens is None
    assert [(part.title, part.tokens) for part in found.example] == [
        ("prompt", ["2+2? "]),
        ("chosen", ["4"]),
        ("rejected", ["5"]),
    ]
    text = text_of(found)
    assert (
        "kept        2 pairs of 4 rows" in text
        and "row 2: column 'rejected'" in text
        and "identical: 1 (row 1)" in text
    )


def test_token_figures_are_those_of_the_tokenizer(qwen):
    rows = [PAIRS[0], PAIRS[3]]
    found = inspect_rows(Dataset.from_list(rows), qwen)
    ids = [[qwen(row["prompt"] + row[key])["input_ids"] for key in ("chosen", "rejected")] for row in rows]
    lengths = sorted(len(one) + 1 for row in ids for one in row)  # and EOS
    assert found.tokens.sequences == Spread(p50=lengths[1], p90=lengths[3], p99=lengths[3], max=lengths[3])
    assert found.tokens.tokens == sum(lengths)
    assert found.tokens.batch_padded == 4 * lengths[3]
    assert found.counts["longer_wins"] == 1.5  # "4" and "5" are as long as each other
    assert found.example[1].scored == len(found.example[1].tokens) - 1
    assert found.example[1].tokens[-1] == qwen.eos_token


def test_sharing_and_padding_are_those_of_the_collators(qwen, read_rows):
    rows = read_rows("pandalm/test.jsonl", 64)
    found = inspect_rows(Dataset.from_list(rows), qwen).tokens
    encoder = Encoder(tokenizer=qwen, max_length=1024)
    encoded = [encoder.pair({key: row[key] for key in ("prompt", "chosen", "rejected")}) for row in rows]
    order = list(range(64))
    random.Random(0).shuffle(order)
    padded = unique = 0
    for start in range(0, 64, 8):
        batch = [encoded[index] for index in order[start : start + 8]]
        padded += PreferenceCollator(0)(batch)["input_ids"].numel()
        unique += PreferenceCollator(0, prefix_sharing=True)(batch)["input_ids"].numel()
    assert (found.batch_padded, found.batch_unique) == (padded, unique)
    whole = PreferenceCollator(0, prefix_sharing=True)(encoded)
    assert found.unique == whole["input_ids"].numel() and found.tokens == whole["prefix_tree"]["num_tokens"]


def test_trees_of_steps(assets, read_rows):
    name = str(assets / "prm800k_val" / "raw_tree_examples.jsonl")
    tokenizer, options = load_tokenizer(str(assets / "tokenizers" / "gemma2"))
    found = inspect_rows(load_split(name, "train"), tokenizer, max_length=None, **options)
    assert (found.adapter, found.form, found.report.examples, found.counts["trees"]) == ("prm800k", "steps", 6, 6)
    ratings = [
        completion["rating"]
        for row in read_rows("prm800k_val/raw_tree_examples.jsonl")
        for step in row["label"]["steps"]
        for completion in step["completions"] or ()
    ]
    rated = [rating for rating in ratings if rating is not None]
    assert (found.counts["labels"], found.counts["wrong"]) == (len(rated), rated.count(-1))
    assert found.tokens.tokens > 5 * found.tokens.unique
    assert "trees of steps" in text_of(found, tokenizer) and "after step" in example_text(found.example, colour=False)


def test_cut_and_dropped_steps_are_those_of_training(qwen, read_rows):
    rows = read_rows("prm800k_val/val.jsonl", 60)
    found = inspect_rows(Dataset.from_list(rows), qwen, max_length=200)
    encoder, cut, labels = Encoder(tokenizer=qwen, max_length=200, overlong="truncate"), [], 0
    batch = []
    for number, row in enumerate(rows):
        encoded = encoder.steps({key: row[key] for key in ("prompt", "completions", "labels")})
        cut += [number] * bool(encoded["cut"])
        labels += sum(label != -100 for label in encoded["labels"])
        batch.append(encoded)
    assert cut and found.report.cut_rows == cut and found.counts["labels"] == labels
    assert found.tokens.unique == StepCollator(0, prefix_sharing=True)(batch)["input_ids"].numel()
    assert inspect_rows(Dataset.from_list(rows), qwen, max_length=200, overlong="drop").report.dropped == {
        "longer than max_length=200": cut
    }


def test_separators_that_merge(qwen):
    assert qwen.tokenize(".\n") == [".Ċ"]  # "." and a new line are one token, a letter and a new line are two
    rows = [
        {"prompt": "p\n", "completions": ["One.", "Two"], "labels": [1, 0]},
        {"prompt": "p\n", "completions": ["One", "Two"], "labels": [1, 0]},
    ]
    found = inspect_rows(Dataset.from_list(rows), qwen)
    assert found.merges == Merges(
        solutions=2,
        differing=1,
        steps=4,
        merged=1,
        example=(["\n", "One", ".", "\n", "Two", "\n"], ["\n", "One", ".\n", "Two", "\n"]),
    )
    assert "is tokenized otherwise behind the step before it in 25.0 % of 4 steps" in text_of(found, qwen)
    reserved = inspect_rows(Dataset.from_list(rows), qwen, step_token="<|fim_pad|>")
    assert (reserved.merges.differing, reserved.merges.merged) == (0, 0)
    assert "merges nowhere" in text_of(reserved, qwen)
    assert reserved.example[1].tokens == ["One", ".", "<|fim_pad|>"] and reserved.example[1].scored == 2


def test_tokens_keep_the_space_before_them(assets):
    tokenizer = AutoTokenizer.from_pretrained(assets / "stories260K")  # SentencePiece: "▁T" decodes to "T"
    rows = [{"prompt": "It is so", "completions": ["Two is", "Two"], "labels": [1, 0]}]
    found = inspect_rows(Dataset.from_list(rows), tokenizer)
    trained, joint = found.merges.example
    assert trained != joint and " T" in trained and "T" in joint
    assert "".join(found.example[1].tokens) == " Two is \n"
    assert "".join(found.example[0].tokens).endswith(" It is so")


def test_the_example_shows_scores_in_plain_text_and_in_colour(qwen):
    rows = [{"prompt": "p", "completions": ["One.", "Two"], "labels": [1, 0]}]
    example = inspect_rows(Dataset.from_list(rows), qwen).example
    plain = example_text(example, colour=False)
    assert plain.plain.splitlines()[2:] == [
        "  step 1, right",
        r"    One|.|[[\n]]",
        "  step 2, wrong",
        r"    Two|[[\n]]",
    ]
    assert not plain.spans
    coloured = example_text(example, colour=True)
    scored = [coloured.plain[span.start : span.end] for span in coloured.spans if "green" in str(span.style)]
    assert scored == [r"\n", r"\n"] and "[[" not in coloured.plain


def test_max_rows_mapping_margin_and_named_adapters(qwen):
    rows = [{"q": "2+2?", "chosen": "4", "rejected": str(wrong), "margin": 1.0} for wrong in range(5, 9)]
    found = inspect_rows(
        Dataset.from_list(rows), qwen, column_mapping={"prompt": "q"}, max_rows=3, adapter="preference"
    )
    assert (found.rows, found.report.rows, found.counts["margin"], found.named) == (4, 3, 3, True)
    assert "the first 3 of 4 rows" in text_of(found) and "(by name)" in text_of(found)
    rows[1]["margin"] = None
    (why,) = inspect_rows(Dataset.from_list(rows), qwen, column_mapping={"prompt": "q"}).refusals
    assert "column 'margin': is None" in why


def test_a_model_says_its_separator_and_its_vocabulary(assets, tmp_path):
    tokenizer, options = load_tokenizer(str(assets / "stories260K"))
    assert options == {"vocab_size": 512} and len(tokenizer) == 512
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "reward_config.json").write_text('{"vocab_size": 513, "rewardplug": {"step_separator": "|"}}')
    assert load_tokenizer(str(tmp_path))[1] == {"vocab_size": 513, "step_separator": "|"}
    with pytest.raises(ValueError, match="has no tokenizer that can be loaded"):
        load_tokenizer(str(assets / "pandalm"))


def test_nothing_to_inspect():
    with pytest.raises(ValueError, match="has no rows"):
        inspect_rows(Dataset.from_list([]))
    with pytest.raises(ValueError, match="no known format fits"):
        inspect_rows(Dataset.from_list([{"a": 1}]))


def test_unique_tokens_are_the_distinct_prefixes():
    generator = random.Random(0)
    for _ in range(20):
        sequences = [[generator.randint(0, 1) for _ in range(generator.randint(1, 8))] for _ in range(12)]
        prefixes = {tuple(one[:end]) for one in sequences for end in range(1, len(one) + 1)}
        assert unique_tokens_of(sequences) == len(prefixes)
        assert TokenFigures.of([0], [sequences]).unique == len(prefixes)
