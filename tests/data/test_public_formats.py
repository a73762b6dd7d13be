"""Every public format: its published columns -> its literal canonical rows; found from those columns, none unread."""

import copy
import doctest
import importlib
import math

import pytest
from datasets import Dataset
from public_rows import ORCA_ARGILLA, PAIR_FORMATS, A, B, Q
from public_step_rows import STEP_FORMATS, turns
from public_vote_rows import ARENA, ARENA_55K, MT_BENCH, PKU, VOTE_FORMATS
from test_adapters import BY_NAME_ONLY as OLDER_BY_NAME_ONLY
from test_adapters import FORMATS as OLDER_FORMATS

from hf_rewardplug.checks import DropRow, RowError
from hf_rewardplug.data.adapters import adapter_names, detect_adapter, get_adapter
from hf_rewardplug.data.expansion import to_lists, to_pairs, to_scored, to_steps

MODULES = (
    *("prompts", "pairs", "llamafactory", "distilabel", "votes", "comparisons", "step_conversations", "step_sets"),
    "stepwise",
)
NEW_FORMATS = PAIR_FORMATS + VOTE_FORMATS + STEP_FORMATS
BY_NAME_ONLY = {**OLDER_BY_NAME_ONLY, "pku_saferlhf.safer": "pku_saferlhf"}
CASES = [pytest.param(*case, id=f"{case[0]}-{index}") for index, case in enumerate(NEW_FORMATS)]


@pytest.mark.parametrize(("name", "raw", "canonical"), CASES)
def test_a_published_row_gives_these_rows_and_stays_as_it_was(name, raw, canonical):
    before = copy.deepcopy(raw)
    assert get_adapter(name)(raw) == canonical
    assert raw == before


@pytest.mark.parametrize(("name", "raw", "canonical"), CASES)
def test_a_row_that_went_through_arrow_gives_the_same(name, raw, canonical):
    row = Dataset.from_list([raw])[0]
    assert get_adapter(name)(row) == canonical
    assert detect_adapter(list(row), row).name == BY_NAME_ONLY.get(name, name)


@pytest.mark.parametrize(("name", "raw"), [case[:2] for case in OLDER_FORMATS + NEW_FORMATS])
def test_every_literal_row_is_detected_as_its_own_format(name, raw):
    assert detect_adapter(list(raw), raw).name == BY_NAME_ONLY.get(name, name)


@pytest.mark.parametrize(("name", "raw", "canonical"), CASES)
def test_every_published_column_is_read_or_known_to_be_without_content(name, raw, canonical):
    adapter = get_adapter(name)
    assert set(raw) <= {*(adapter.columns or ()), *adapter.optional, *adapter.ignored}
    assert not set(adapter.columns or ()) & {*adapter.optional, *adapter.ignored}
    read = {column: value for column, value in raw.items() if column not in adapter.ignored}
    assert adapter(read) == canonical


@pytest.mark.parametrize(("name", "raw", "canonical"), CASES)
def test_the_rows_pass_what_a_loss_checks(name, raw, canonical):
    for row in canonical:
        if "chosen" in row:
            assert len(to_pairs({**row, "tie": False})) == 1
        elif "scores" in row:
            assert len(to_lists(row)) == 1
        elif "completion" in row:
            assert len(to_scored(row)) == 1
        else:
            assert to_steps(row)


def test_every_format_of_these_modules_has_a_literal_row():
    modules = {f"hf_rewardplug.data.adapters.{module}" for module in MODULES} - {"hf_rewardplug.data.adapters.stepwise"}
    ours = {name for name in adapter_names() if get_adapter(name).function.__module__ in modules}
    names = {name for name, _, _ in NEW_FORMATS}
    assert ours <= names
    assert names - ours == {
        *("prm800k", "ultrafeedback_binarized", "ultrafeedback_binarized.argilla", "distilabel.pairs")  # `preference`
    }


@pytest.mark.parametrize("module", MODULES)
def test_doctests(module):
    result = doctest.testmod(importlib.import_module(f"hf_rewardplug.data.adapters.{module}"))
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize(("name", "raw", "canonical"), CASES)
def test_the_docstring_says_text_or_turns_and_where_the_columns_were_read(name, raw, canonical):
    function = get_adapter(name).function
    if function.__module__.rpartition(".")[2] in ("preference", "stepwise"):
        return
    assert "Columns" in function.__doc__
    for row in canonical:
        assert f"Gives {'turns' if isinstance(row['prompt'], list) else 'text'}." in function.__doc__.partition("\n")[0]


def test_pandas_nan_is_no_mistake_and_floats_are_indices():
    row = {"input": "1+1 =", "steps": ["1", "2"], "mistake_index": math.nan}
    assert get_adapter("bigbench_mistake")(row)[0]["labels"] == [True, True]
    assert get_adapter("bigbench_mistake")({**row, "mistake_index": 0.0})[0]["labels"] == [False, -100]


def test_only_answers_of_the_judged_turn_are_compared():
    row = {**MT_BENCH, "turn": 3}
    with pytest.raises(RowError, match="column 'conversation_a': turn 3 was judged, but there are 2 answers"):
        get_adapter("arena")(row)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        (
            "orca_pairs.argilla",
            {**ORCA_ARGILLA, "status": "?"},
            "column 'status': expected one of unchanged, swapped, tie",
        ),
        ("pku_saferlhf", {**PKU, "better_response_id": -1}, "column 'better_response_id': expected 0 or 1, found -1"),
        ("arena", {**ARENA, "winner": "model_c"}, "column 'winner': expected one of model_a, .*found 'model_c'"),
        ("arena.responses", {**ARENA_55K, "winner_tie": 1}, r"column 'winner_model_a': expected one 1 .*\[0, 1, 1\]"),
        ("arena.responses", {**ARENA_55K, "response_b": '["7"]'}, "column 'response_b': 1 answers for 2 turns"),
        ("alpaca", {"instruction": "", "chosen": "a", "rejected": "b"}, "column 'instruction': is empty, and so is"),
        (
            "alpaca.kto",
            {"instruction": "a", "output": "b", "kto_tag": "yes"},
            "column 'kto_tag': expected True or False",
        ),
        ("sharegpt.kto", {"conversations": [Q], "kto_tag": True}, "column 'conversations': expected a prompt and an"),
        ("ms_swift", {"messages": [Q], "rejected_response": "8"}, "column 'messages': expected an assistant turn"),
        ("distilabel", {"instruction": "a", "generations": ["b"], "ratings": []}, "column 'ratings': 0 ratings for 1"),
        (
            "oasst_pairs",
            {"prompt": "prompter: a\nassistant: b", "chosen": "c", "rejected": "d"},
            "column 'prompt': .*end",
        ),
        ("rlhflow_prm", {"conversations": turns("a", "+", "b")}, "column 'conversations': expected a user and an"),
        (
            "rlhflow_prm",
            {"conversations": turns("a", "good")},
            "column 'conversations': expected '\\+' or '-', found 'good'",
        ),
        ("genprm", {"conversations": turns("a", "<output>Maybe</output>")}, r"expected \\boxed\{Yes\}"),
        (
            "openrlhf_prm",
            {"input": "a ки b", "value": ["+", "-"]},
            "column 'value': 2 ratings, but 'input' has 1 of 'ки'",
        ),
        ("openr", {"question": "a", "process": "b", "label": ["+", "-"]}, "column 'label': 2 labels for 1 steps"),
        (
            "bigbench_mistake",
            {"input": "a", "steps": ["b"], "mistake_index": 1},
            "column 'mistake_index': .*step 1 of 1",
        ),
        (
            "versaprm",
            {"question": "a", "chain_of_thoughts": "[b", "labels": "[1]"},
            "column 'chain_of_thoughts': .*list",
        ),
    ],
)
def test_an_error_names_the_column_and_what_was_found(name, row, message):
    with pytest.raises(RowError, match=message):
        get_adapter(name)(row)


def test_without_any_rating_a_row_is_left_out():
    with pytest.raises(DropRow, match="no generation has a rating"):
        get_adapter("distilabel")({"instruction": "a", "generations": ["b"], "ratings": [None]})


def test_argillas_orca_pairs_give_strict_pairs_unless_they_tie():
    (strict,) = get_adapter("orca_pairs.argilla")(ORCA_ARGILLA)
    (tie,) = get_adapter("orca_pairs.argilla")({**ORCA_ARGILLA, "status": "tie"})
    assert (len(to_pairs(strict)), len(to_pairs(tie))) == (1, 0)


def test_the_two_readings_of_saferlhf_differ():
    assert get_adapter("pku_saferlhf")(PKU)[0]["chosen"] == [A]
    assert get_adapter("pku_saferlhf.safer")(PKU)[0]["chosen"] == [B]
