"""Rows of every public format that somebody edited or mixed up: examples, or the package's own error."""

import pyarrow as pa
import pytest
from datasets import Features
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import rows_like
from public_rows import PAIR_FORMATS
from public_step_rows import STEP_FORMATS
from public_vote_rows import VOTE_FORMATS
from test_adapters import FORMATS
from tiny_checkpoints import TEMPLATE
from transformers import AutoTokenizer

from hf_rewardplug.checks import RowError
from hf_rewardplug.data.adapters import get_adapter
from hf_rewardplug.data.canonical import PROMPT_KEY, SUBSET
from hf_rewardplug.data.columns import unread_columns
from hf_rewardplug.data.encoding import Encoder
from hf_rewardplug.data.pipeline import BOOKKEEPING, RowPipeline, adapter_of
from hf_rewardplug.data.unrendered import Unrendered
from hf_rewardplug.train.losses import LOSSES
from hf_rewardplug.train.objectives import PairObjective, RankedObjective, ScoredObjective, StepObjective

OBJECTIVES = [
    *(PairObjective(loss_type=name) for name in ("bradley_terry", "rao_kupper")),
    *(StepObjective(loss_type=name) for name, loss in LOSSES.items() if loss.form == "steps"),
    RankedObjective(loss_type="plackett_luce"),
    ScoredObjective(loss_type="mse"),
    ScoredObjective(loss_type="bce", options={"attributes": ["helpfulness", "verbosity"]}),
]
ADDED = [
    *({"tools": value} for value in ([{"type": "function", "function": {"name": "f"}}], "[]", None)),
    *({"chat_template_kwargs": value} for value in ({"a": True}, '{"b": 1}')),
    *({"margin": 1.0}, {"weight": 2}, {"chosen_probability": 0.5}, {"tie": False}, {"system": "Be brief."}),
    *({"subset": "x"}, {"subset": ["a", "b"]}, {"context": "c"}, {"history": [["a", "b"]]}, {"images": []}, {}),
]
TOKENIZED = [
    (("chosen_ids", "rejected_ids"), {"chosen_ids": [1, 4, 5], "rejected_ids": [1, 4, 6], "margin": 1.0}),
    (("input_ids", "labels"), {"input_ids": [1, 4, 5, 6], "labels": [-100, 1, -100, 0.5]}),
    (("input_ids", "labels"), {"input_ids": [1, 4, 5], "labels": [-100, 1, 0], "node_lengths": [1, 1, 1]}),
    (("input_ids", "scores"), {"input_ids": [1, 4, 5], "scores": [0.5]}),
    (("completion_ids", "scores"), {"completion_ids": [[1, 4], [1, 5]], "scores": [0.5, 1]}),
]


@pytest.fixture(scope="module")
def encoder(assets):
    tokenizer = AutoTokenizer.from_pretrained(assets / "stories260K")
    tokenizer.chat_template = TEMPLATE
    return Encoder(tokenizer=tokenizer, max_length=64)


@st.composite
def raw_rows(draw):
    """The name of a format and a row that was once in it."""
    name, raw, _ = draw(st.sampled_from([*FORMATS, *PAIR_FORMATS, *VOTE_FORMATS, *STEP_FORMATS]))
    return name, draw(rows_like([{**raw, **draw(st.sampled_from(ADDED))}]))


def ends_well(pipeline, row):
    """Examples that a table can hold, or the package's own words, in one line."""
    try:
        examples = pipeline.examples(row, 7)
    except RowError as error:
        assert isinstance(error.__cause__, RowError), repr(error.__cause__)
        assert "\n" not in str(error), str(error)
        return
    features = Features({**pipeline.columns, **BOOKKEEPING})
    pa.Table.from_pylist([features.encode_example(example) for example in examples], schema=features.arrow_schema)


def pipeline_of(objective, encode, adapter, **options):
    columns = Features({**objective.columns, PROMPT_KEY: BOOKKEEPING["row"], SUBSET: BOOKKEEPING["place"]})
    return RowPipeline(
        name="train", columns=columns, encode=encode, expand=objective.expand, adapter=adapter, **options
    )


def matrix(everyday: int, all_of_them: int):
    return pytest.mark.parametrize("examples", [everyday, pytest.param(all_of_them, marks=pytest.mark.matrix)])


def options(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])


@matrix(300, 20_000)
def test_a_mutated_row_gives_examples_or_a_reason(examples, encoder):
    @options(examples)
    @given(named=raw_rows(), objective=st.sampled_from(OBJECTIVES), by_name=st.booleans())
    def check(named, objective, by_name):
        name, row = named
        try:
            adapter = adapter_of([row], name if by_name else None, None)
            unread_columns(adapter, [row])
        except ValueError as error:
            assert str(error), repr(error)
            adapter = get_adapter(name)
        encode = objective.encode(encoder, tokenized=False, name="train")
        ends_well(pipeline_of(objective, encode, adapter, unrendered=Unrendered(encoder)), row)

    check()


@matrix(100, 5000)
def test_a_mutated_row_of_tokens_gives_an_example_or_a_reason(examples, encoder):
    @options(examples)
    @given(data=st.data())
    def check(data):
        columns, raw = data.draw(st.sampled_from(TOKENIZED))
        objective = data.draw(st.sampled_from([one for one in OBJECTIVES if one.tokenized_columns == columns]))
        encode = objective.encode(encoder, tokenized=True, name="train")
        ends_well(pipeline_of(objective, encode, None), data.draw(rows_like([raw])))

    check()
