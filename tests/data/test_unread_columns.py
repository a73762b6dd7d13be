"""No column with a part of the prompt is left unread in silence: which format is found, what is refused and told."""

import copy
import doctest
import importlib

import pytest
from datasets import Audio, Dataset, Features, Image, IterableDataset, Value
from public_rows import PAIR_FORMATS
from public_step_rows import STEP_FORMATS
from public_vote_rows import VOTE_FORMATS
from test_adapters import FORMATS

from hf_rewardplug.checks import RowError
from hf_rewardplug.data.adapters import adapter_names, detect_adapter, get_adapter, register_adapter, registry
from hf_rewardplug.data.adapters.recorded import RecordedRow, columns_read
from hf_rewardplug.data.adapters.turns import assistant, user
from hf_rewardplug.data.columns import looked_at, unread_columns
from hf_rewardplug.data.mixing import Part, mixed
from hf_rewardplug.data.raw import opened, plain_rows
from hf_rewardplug.inspection import inspect_rows

S = {"role": "system", "content": "Be brief."}
Q, A, B = user("Capital of France?"), assistant("Paris"), assistant("Lyon")
TEXT = {"prompt": "Capital of France?", "chosen": " Paris", "rejected": " Lyon"}
ANSWERS = {"chosen": "Paris", "rejected": "Lyon"}
TALK = {"prompt": [Q], "chosen": [A], "rejected": [B]}
WHOLE = {"chosen": [Q, A], "rejected": [Q, B]}
STEPS = {"prompt": "2+2+2?", "completions": ["2+2=4", "4+2=6"], "labels": [True, True]}
RATED = {"prompt": "2+2?", "completion": "4", "score": 1.0}
LISTED = {"prompt": "2+2?", "completions": ["4", "5"], "scores": [1.0, 0.0]}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
PICTURE = {"bytes": b"png", "path": None}


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What a test registers is gone after it; entry points of the installed packages stay out."""
    monkeypatch.setattr(registry.ADAPTERS, "things", dict(registry.ADAPTERS.things))
    monkeypatch.setattr(registry.ADAPTERS, "loaded", True)


def unread(row, adapter=None, **options):
    found = get_adapter(adapter) if adapter else detect_adapter(list(row), row)
    return unread_columns(found, [row], **options)


# ---- which format --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"system": "Be brief.", "question": "Capital of France?", **ANSWERS}, "orca_pairs"),
        ({"instruction": "Translate: Good morning", "input": "", **ANSWERS}, "alpaca"),
        ({"instruction": "Translate", "input": "Good morning", "system": "Be brief.", **ANSWERS}, "alpaca"),
        ({"input": "Capital of France?", "system": "Be brief.", **ANSWERS}, "bradley_terry.chat_template"),
        *(
            ({**TRL, **beside}, name)
            for TRL, name in ((TEXT, "preference"), (TALK, "preference"), (STEPS, "stepwise_supervised"))
            for beside in (
                {"input": "geo quiz"},
                {"question": "geo quiz"},
                {"instruction": "geo quiz", "input": "", "system": None},
                {"system": "Be brief.", "question": "geo quiz", "input": "a", "instruction": "b", "history": []},
                {"label": 1, "completion": "a"},
                {"conversations": []},
                {"response": "2<extra_0>"},
            )
        ),
        ({"prompt": "2+2?", "completion": "4", "label": True, "score": 3.0, "messages": [Q]}, "unpaired_preference"),
        ({"input": "Capital of France?", **WHOLE}, "preference"),
        ({"question": "Capital of France?", **WHOLE}, "preference"),
        ({"prompt": None, "input": "Capital of France?", **ANSWERS}, "bradley_terry.chat_template"),
    ],
)
def test_the_format_that_reads_most_and_trls_own_before_all(row, name):
    assert detect_adapter(list(row), row).name == name


def test_a_format_that_cannot_read_the_row_stands_behind_one_that_can():
    def reads_text(row):
        return {"chosen": row["chosen"].strip(), "rejected": row["rejected"].strip()}

    register_adapter("texts", columns=["chosen", "rejected"])(reads_text)
    assert detect_adapter(list(ANSWERS), ANSWERS).name == "texts"
    assert detect_adapter(list(WHOLE), WHOLE).name == "preference"
    assert detect_adapter(["chosen", "rejected"], {"chosen": None, "rejected": "a"}).name == "texts"  # a bad row


def test_an_adapter_that_reads_more_without_saying_so_is_found_by_what_it_reads():
    def quiz(row):
        return {"prompt": row["question"] + row.get("clue", ""), "chosen": row["chosen"], "rejected": row["rejected"]}

    row = {"question": "Capital of France?", "clue": " P...", "system": "Be brief.", **ANSWERS}
    register_adapter("quiz", columns=["question", "chosen", "rejected"])(quiz)
    assert detect_adapter(list(row), row).name == "quiz"
    with pytest.raises(ValueError, match=r"^column 'system' looks like a part .* the format 'quiz' does not read it"):
        unread(row)
    register_adapter("quiz", columns=["question", "chosen", "rejected"], ignored=["system"])(quiz)
    assert unread(row).names == ()


def test_an_adapter_that_fails_is_not_blamed_for_what_it_did_not_come_to_read():
    def fails(row):
        raise ZeroDivisionError

    register_adapter("fails")(fails)
    assert unread({**TEXT, "context": "Paris is on the Seine."}, "fails").names == ()


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({**TEXT, "context": "Paris is on the Seine."}, ["context"]),
        ({**TEXT, "system_prompt": "Be brief."}, ["system_prompt"]),
        ({**TEXT, "systemPrompt": "Be brief."}, ["systemPrompt"]),
        *(
            ({**TEXT, name: "Be brief."}, [name])
            for name in ("sys_prompt", "sys", "preprompt", "userPreprompt", "demonstration", "few_shots", "memory")
        ),
        ({**TEXT, "retrieved": ["Paris is on the Seine."]}, ["retrieved"]),
        ({**TEXT, "search_results": ["Paris is on the Seine."]}, ["search_results"]),
        *(({**WHOLE, name: ["A) Paris", "B) Nice"]}, [name]) for name in ("options", "choices", "examples")),
        ({**TEXT, "document": "Paris."}, ["document"]),
        ({**TEXT, "history": [["Hi", "Hello"]]}, ["history"]),
        ({**TEXT, "messages": [S, Q]}, ["messages"]),
        ({**TEXT, "remarks": [S, Q, A]}, ["remarks"]),
        ({**TEXT, "talk": '[{"role": "user", "content": "Hi"}]'}, ["talk"]),
        ({**TEXT, "talk": [{"from": "human", "value": "Hi"}]}, ["talk"]),
        ({**TALK, "context": "Paris is on the Seine.", "passage": "It is."}, ["context", "passage"]),
        ({**TALK, "functions": TOOLS}, ["functions"]),
        ({**TALK, "api": TOOLS}, ["api"]),
        ({**WHOLE, "question": "Capital of Spain?"}, ["question"]),
        ({**WHOLE, "context": "Paris is on the Seine."}, ["context"]),
        ({**ANSWERS, "query": "Capital?"}, ["query"]),
        ({**ANSWERS, "Frage": "Hauptstadt von Frankreich?"}, ["Frage"]),
        ({**ANSWERS, "問題": "フランスの首都は?"}, ["問題"]),
        ({**ANSWERS, "task": "Name the capital of France."}, ["task"]),
        ({"question": "a", "chosen": "a", "rejected": "b", "tools_used": TOOLS[:1]}, ["tools_used"]),
        ({**ANSWERS, "source": "Paris has been the capital of France since the year 987."}, ["source"]),
        ({"input": "Capital?", "context": "Paris is on the Seine.", **ANSWERS}, ["context"]),
        ({"question": "Capital?", "document": "Paris is on the Seine.", **ANSWERS}, ["document"]),
        ({"instruction": "Translate.", "input": "Paris", "document": "It is.", **ANSWERS}, ["document"]),
        ({**STEPS, "context": "Sums."}, ["context"]),
        ({**RATED, "conversation": [S, Q]}, ["conversation"]),
        ({**LISTED, "persona": "You are brief."}, ["persona"]),
        ({"problem": "2+2?", "steps": ["4"], "label": -1, "context": "Sums."}, ["context"]),
    ],
)
@pytest.mark.parametrize("through_arrow", [False, True])
def test_a_part_of_the_prompt_that_is_not_read_is_an_error(row, columns, through_arrow):
    row = Dataset.from_list([row])[0] if through_arrow else row
    with pytest.raises(ValueError) as error:
        unread(row)
    message, listed = str(error.value), ", ".join(map(repr, columns))
    assert message.startswith(f"column{'s' * (len(columns) > 1)} {listed} look")
    assert f"ignore_columns={columns} (--ignore-columns {','.join(columns)})" in message
    assert "column_mapping={" in message
    assert unread({name: value for name, value in row.items() if name not in columns}).names == ()


def test_the_error_names_formats_that_read_it_and_the_column_to_map_to():
    row = {"system": "Be brief.", "input": "Capital of France?", **ANSWERS}
    with pytest.raises(ValueError, match=r"adapter='bradley_terry.chat_template'.*column_mapping={'prompt': 'input'}"):
        unread(row, "preference")
    with pytest.raises(ValueError, match=r"column_mapping={'system': 'system_text'}"):
        unread({"system_text": "Be brief.", **TALK})
    with pytest.raises(ValueError, match=r"column_mapping={'tools': 'my_tools'}"):
        unread({"my_tools": TOOLS, **TALK})


@pytest.mark.parametrize(
    ("beside", "column"),
    [
        ({"images": [PICTURE]}, "images"),
        ({"image": PICTURE}, "image"),
        ({"image": "cat.png"}, "image"),
        ({"image_url": "https://cat.png"}, "image_url"),
        ({"audio": {"array": [0.0], "sampling_rate": 16000}}, "audio"),
        ({"audio": {"bytes": None, "path": "a.wav"}}, "audio"),
        ({"videos": ["a.mp4"]}, "videos"),
        ({"first": PICTURE}, "first"),
    ],
)
@pytest.mark.parametrize("row", [TEXT, TALK, WHOLE, STEPS, RATED, LISTED], ids=lambda row: next(iter(row)))
def test_images_and_sound_are_refused_until_they_are_trained(row, beside, column):
    with pytest.raises(ValueError, match=f"^column '{column}': images, sound and video are not trained on.*ignore_col"):
        unread({**row, **beside})


def test_images_that_datasets_would_decode_are_refused_undecoded():
    stored = {"bytes": Value("binary"), "path": Value("string")}
    kinds = Features({"image": stored, "sound": stored, **dict.fromkeys(TEXT, Value("string"))})
    rows = [{"image": None, "sound": None, **TEXT}, {"image": None, "sound": {"bytes": b"RIFF", "path": None}, **TEXT}]
    dataset = Dataset.from_list(rows, features=kinds).cast_column("sound", Audio()).cast_column("image", Image())
    with pytest.raises(ValueError, match=r"^column 'sound': images, sound and video"):
        opened(dataset)
    assert opened(dataset.select([0])).unread.names == ()
    assert opened(dataset, ignore_columns=["sound"]).rows.column_names == ["image", "prompt", "chosen", "rejected"]


# ---- what is not refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({**TEXT, "id": 3, "source": "quiz", "model": "m", "language": "en", "score_chosen": 4.0, "subset": "a"}, ()),
        (
            {**TEXT, "prompt_id": "a9f0", "question_type": "open question", "conversation_hash": "ab", "num_turns": 2},
            (),
        ),
        (
            {**TEXT, "rationale": "Paris is the capital.", "votes": 3, "annotations": ["a b"]},
            ("rationale", "annotations"),
        ),
        ({**TEXT, "remark": "asked by hand", "length_ratio": 1.5}, ("remark", "length_ratio")),
        ({**TEXT, "context": None, "history": [], "messages": [], "system": " ", "images": None, "document": ""}, ()),
        ({**TEXT, "question": "Capital of  France?"}, ("question",)),
        ({**WHOLE, "question": "Capital of France?"}, ("question",)),
        ({**WHOLE, "messages": [Q, A]}, ("messages",)),
        ({**WHOLE, "messages": [Q]}, ("messages",)),
        ({**WHOLE, "conversation": [{"input": "Capital of France?", "output": "Paris"}]}, ("conversation",)),
        ({**ANSWERS, "task": "geography", "topic": "cities"}, ()),
        ({**TALK, "original_prompt": "Capital of France?"}, ("original_prompt",)),
        ({**ANSWERS, "category": "open qa", "source": "my quiz"}, ()),
        ({**TALK, "response": [A], "reference_answer": "Paris it is"}, ("response", "reference_answer")),
        ({**TALK, "weight": 2.0, "margin": 1.0, "tools": TOOLS, "chat_template_kwargs": {"a": 1}}, ()),
        ({**TALK, "prompt_uuid": "e90a38f3-3135-4465-87af-3e6322e3d772"}, ()),
        ({**TALK, "promptid": "e90a"}, ()),
    ],
)
def test_the_rest_is_told_once_by_name(row, told):
    found = unread(row)
    assert found.names == told
    assert str(found) == ("columns that are not read: " + ", ".join(told) if told else "")


@pytest.mark.parametrize("name", ["choices", "options", "examples", "constraints", "guidelines", "prefix"])
def test_what_may_belong_to_the_question_is_told_beside_trls_prompt(name):
    found = unread({**TEXT, name: ["A) Paris", "B) Nice"]})
    assert (found.names, found.beside_prompt) == ((name,), (name,))


def test_another_wording_beside_trls_prompt_is_told_and_no_error():
    found = unread({**TEXT, "input": "geo quiz", "id": 3})
    assert (found.names, found.beside_prompt) == (("input",), ("input",))
    assert str(found) == "columns that are not read: input; the prompt is `prompt` alone, without input"


@pytest.mark.parametrize(("name", "row"), [case[:2] for case in FORMATS + PAIR_FORMATS + VOTE_FORMATS + STEP_FORMATS])
def test_every_public_format_is_read_with_nothing_to_tell(name, row):
    assert unread(row, name).names == ()


# ---- which rows are looked at --------------------------------------------------------------------------------------


def test_content_in_any_row_that_is_looked_at_counts():
    rows = [dict(TEXT, context=None) for _ in range(500)]
    numbers = [index for index, row in enumerate(rows) if any(row is one for one in looked_at(rows))]
    assert numbers[:16] == [*range(16)] and len(numbers) == 62 and numbers[-1] > 480
    rows[numbers[40]]["context"] = "Paris is on the Seine."
    with pytest.raises(ValueError, match=r"^column 'context' looks like a part of the prompt"):
        opened(Dataset.from_list(rows))


@pytest.mark.parametrize("as_stream", [False, True])
def test_content_in_any_other_row_is_a_bad_row(as_stream):
    rows = [dict(TEXT, context=None) for _ in range(500)]
    hidden = next(index for index, row in enumerate(rows) if index > 20 and not any(row is r for r in looked_at(rows)))
    rows[hidden]["context"] = "Paris is on the Seine."
    dataset = Dataset.from_list(rows)
    dataset = dataset.to_iterable_dataset() if as_stream else dataset
    assert opened(dataset).unread.watched == ("context",)
    (why, numbers), *rest = inspect_rows(dataset).refusals.items()
    assert (numbers, rest) == ([hidden], [])
    assert why.startswith("column 'context': holds a part of the prompt, unlike in the rows before")
    with pytest.raises(ValueError, match=f"row {hidden}: column 'context': holds a part of the prompt"):
        list(mixed([Part(dataset=dataset, subset="a")], seed=0))


def test_rows_of_a_stream_need_not_have_the_same_columns():
    later = {**TALK, "system": "Be brief.", "remark": "by hand", "context": "Paris is on the Seine."}

    def rows(**beside):
        yield from [TALK] * 40
        yield {**{name: later[name] for name in (*TALK, "system", "remark")}, **beside}

    for beside, numbers in (({}, []), ({"context": "Seine."}, [[40]]), ({"input": "geo quiz"}, [])):
        stream = IterableDataset.from_generator(rows, gen_kwargs=beside)
        assert list(inspect_rows(stream).refusals.values()) == numbers


def test_a_stream_is_known_by_its_first_rows():
    rows = Dataset.from_list(
        [{**TEXT, "context": None}, {**TEXT, "context": "Paris is on the Seine."}]
    ).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"^column 'context' looks like a part of the prompt"):
        opened(rows)
    assert opened(rows, ignore_columns=["context"]).unread.ignored == ("context",)


# ---- ignore_columns, column_mapping --------------------------------------------------------------------------------


def test_columns_to_ignore_are_gone_for_everybody():
    row = {"system": "Be brief.", **TEXT}
    found = opened(Dataset.from_list([row]), ignore_columns=["system"])
    assert found.adapter(found.first) == [TEXT]
    assert str(found.unread) == "ignored as asked: system" and not found.unread
    with pytest.raises(
        ValueError, match=r"ignore_columns names 'sytem', which is no column; found \['system', 'prompt'"
    ):
        opened(Dataset.from_list([row]), ignore_columns=["sytem"])


def test_a_column_that_a_mapping_puts_aside_is_not_read_either():
    row = {"question": "Capital?", "input": "Paris is on the Seine.", **ANSWERS}
    with pytest.raises(ValueError, match=r"^column 'input' looks like a part of the prompt"):
        opened(Dataset.from_list([row]), column_mapping={"input": "question"})
    with pytest.raises(ValueError, match=r"^column 'question' looks like a part of the prompt"):
        opened(Dataset.from_list([{"question": "Capital?", **ANSWERS}]), column_mapping={"foo": "question"})
    read = opened(Dataset.from_list([{"question": "Capital?", **ANSWERS}]), column_mapping={"input": "question"})
    assert (read.adapter.name, read.unread.names) == ("bradley_terry.chat_template", ())


def test_parts_of_a_mixture_are_looked_at_each():
    good, odd = Dataset.from_list([TALK]), Dataset.from_list([{**TEXT, "context": "Seine.", "remark": "by hand"}])
    with pytest.raises(ValueError, match=r"^part 'b': column 'context' looks like a part of the prompt"):
        mixed([Part(dataset=good, subset="a"), Part(dataset=odd, subset="b")], seed=0)
    parts = [Part(dataset=good, subset="a"), Part(dataset=odd, subset="b", ignore_columns=["context"])]
    rows = mixed(parts, seed=0)
    note = "columns that are not read: remark; ignored as asked: context"
    for dataset in (rows, rows.shuffle(seed=1).select([0]), mixed([*parts], seed=0)):
        assert str(opened(dataset).unread) == f"Of the part 'b': {note}"
    streams = [
        Part(dataset=one.dataset.to_iterable_dataset(), subset=one.subset, ignore_columns=one.ignore_columns)
        for one in parts
    ]
    assert str(opened(mixed(streams, seed=0)).unread) == f"Of the part 'b': {note}"


def test_inspect_tells_what_training_would():
    with pytest.raises(ValueError, match=r"^column 'context' looks like a part of the prompt"):
        inspect_rows(Dataset.from_list([{**TEXT, "context": "Paris is on the Seine."}]))
    found = inspect_rows(
        Dataset.from_list([{**TEXT, "context": "Seine.", "remark": "by hand"}]), ignore_columns=["context"]
    )
    assert found.columns == ["prompt", "chosen", "rejected", "context", "remark"]
    assert (found.report.unread.names, found.report.unread.ignored) == (("remark",), ("context",))


# ---- output formats ------------------------------------------------------------------------------------------------


def shout(batch):
    return {key: [text.upper() for text in values] for key, values in batch.items()}


def test_a_transform_is_applied_once_and_what_it_leaves_out_is_out():
    rows = Dataset.from_list([{**TEXT, "context": "Seine."}] * 3)
    only = rows.with_transform(lambda batch: shout({key: batch[key] for key in TEXT}))
    assert list(plain_rows(only)) == [{key: text.upper() for key, text in TEXT.items()}] * 3
    assert opened(only).unread.names == ()
    rows.set_transform(shout, columns=["chosen"], output_all_columns=True)
    assert list(plain_rows(rows)) == list(rows)
    rows.set_transform(shout, columns=["chosen", "rejected"])
    assert list(plain_rows(rows)) == list(rows) == [{"chosen": " PARIS", "rejected": " LYON"}] * 3
    calls = []
    plain = plain_rows(Dataset.from_list([TEXT]).with_transform(lambda batch: calls.append(1) or batch))
    count = len(calls)
    assert list(plain) == [TEXT] == list(plain_rows(plain)) and len(calls) == count


def test_a_transform_whose_rows_are_no_table_says_what_to_do():
    odd = Dataset.from_list([TEXT] * 2).with_transform(lambda batch: {"chosen": ["a", [1]]})
    with pytest.raises(ValueError, match=r"^The data set's transform gives rows that Arrow cannot store: .*`map`"):
        plain_rows(odd)


@pytest.mark.parametrize("kind", ["torch", "numpy", "pandas", "arrow", None])
def test_other_formats_are_harmless(kind):
    rows = Dataset.from_list([{**TEXT, "margin": 1.5, "ids": [1, 2]}] * 2)
    assert list(plain_rows(rows.with_format(kind))) == list(rows)
    shown = plain_rows(rows.with_format(kind, columns=["chosen", "rejected"]))
    assert shown.column_names == ["chosen", "rejected"]
    assert list(plain_rows(rows.to_iterable_dataset().with_format("torch"))) == list(rows)


# ---- system, several rejected --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({**TALK, "system": "Be brief."}, [S, Q]),
        ({**TALK, "prompt": [S, Q], "system": "Be brief."}, [S, Q]),
        ({**WHOLE, "system": "Be brief."}, [S, Q]),
        ({"prompt": "Capital of France?", "chosen": [A], "rejected": [B], "system": "Be brief."}, [S, Q]),
        ({"chosen": [A], "rejected": [B], "system": "Be brief."}, [S]),
        ({**TALK, "system": ""}, [Q]),
        ({**TALK, "system": None}, [Q]),
        ({**LISTED, "prompt": [Q], "system": "Be brief."}, [S, Q]),
        ({**RATED, "prompt": [Q], "system": "Be brief."}, [S, Q]),
        ({**STEPS, "prompt": [Q], "system": "Be brief."}, [S, Q]),
    ],
)
def test_system_is_the_first_turn(row, prompt):
    before = copy.deepcopy(row)
    (canonical,) = detect_adapter(list(row), row)(row)
    assert canonical["prompt"] == prompt
    assert row == before and unread(row).names == ()


@pytest.mark.parametrize("row", [TEXT, ANSWERS, LISTED, RATED, STEPS, {"prompt": "a", "nodes": []}], ids=str)
def test_system_beside_text_is_an_error(row):
    adapter = detect_adapter(list(row), row)
    with pytest.raises(RowError, match=r"^column 'system': the prompt is text, which has no system turn"):
        adapter({**row, "system": "Be brief."})
    assert adapter({**row, "system": " "}) == adapter(row)


def test_system_that_differs_from_the_conversations_own_is_an_error():
    with pytest.raises(
        RowError, match=r"^column 'system': differs from the conversation's own system turn, 'Be brief.'"
    ):
        get_adapter("preference")({**TALK, "prompt": [S, Q], "system": "Be long."})


@pytest.mark.parametrize(
    ("row", "canonical"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": ["b", "c"]}, {"prompt": "q", "completions": ["a", "b", "c"]}),
        ({"chosen": "a", "rejected": ["b"]}, {"completions": ["a", "b"]}),
        ({"prompt": [Q], "chosen": "Paris", "rejected": ["Lyon"]}, {"prompt": [Q], "completions": [[A], [B]]}),
        (
            {"prompt": [Q], "chosen": [A], "rejected": [[B], [A, Q, B]]},
            {"prompt": [Q], "completions": [[A], [B], [A, Q, B]]},
        ),
        ({"chosen": [Q, A], "rejected": [[Q, B], [Q, A, Q, B]]}, {"prompt": [Q], "completions": [[A], [B], [A, Q, B]]}),
        (
            {"prompt": "Capital of France?", "chosen": [Q, A], "rejected": [[Q, B]]},
            {"prompt": [Q], "completions": [[A], [B]]},
        ),
        (
            {"chosen": [Q, A], "rejected": [[Q, B]], "system": "Be brief."},
            {"prompt": [S, Q], "completions": [[A], [B]]},
        ),
    ],
)
def test_several_rejected_answers_are_a_ranked_list(row, canonical):
    scores = [1.0] + [0.0] * (len(canonical["completions"]) - 1)
    assert get_adapter("preference")({**row, "weight": 2, "margin": None}) == [
        {**canonical, "scores": scores, "weight": 2}
    ]


@pytest.mark.parametrize(
    "asked",
    [
        {"input": "Capital of France?", "system": "Be brief."},
        {"question": "Capital of France?", "system": "Be brief."},
        {"instruction": "Capital of France?", "input": "", "system": "Be brief."},
        {"messages": [S, Q, A]},
    ],
    ids=lambda row: next(iter(row)),
)
def test_other_formats_of_pairs_take_several_rejected_answers(asked):
    answers = {"chosen": "Paris", "rejected": ["Lyon", "Nice"]}
    row = {**asked, **({"rejected_response": answers["rejected"]} if "messages" in asked else answers), "weight": 2}
    adapter = detect_adapter(list(row), row)
    ranked = {"prompt": [S, Q], "completions": [[A], [B], [assistant("Nice")]], "scores": [1.0, 0.0, 0.0], "weight": 2}
    assert adapter(row) == [ranked]
    assert unread(row).names == ()
    with pytest.raises(RowError, match=r"^column 'margin': belongs to a pair"):
        adapter({**row, "margin": 1.0})
    column = "rejected_response" if "messages" in asked else "rejected"
    with pytest.raises(RowError, match=f"^column '{column}': expected text, found \\[1\\]"):
        adapter({**row, column: [1]})


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"chosen": ["a", "b"]}, "^column 'chosen': is a list, .*'completions', with 'scores'"),
        ({"chosen": ["a"], "rejected": "b"}, "^column 'chosen': is a list, "),
        ({"chosen": [[A]], "rejected": [[B]]}, "^column 'chosen': is a list, "),
        ({"rejected": ["b", None]}, "^column 'rejected': .*a list of several that are all text or all messages"),
        ({"rejected": ["b", ""]}, "^column 'rejected': .*none of them empty"),
        ({"rejected": ["b", [B]]}, "^column 'rejected': .*all text or all messages"),
        ({"rejected": ["b"], "margin": 1.0}, "^column 'margin': belongs to a pair, but 'rejected' holds a list"),
        ({"rejected": ["b"], "tie": True}, "^column 'tie': belongs to a pair"),
    ],
)
def test_other_lists_are_errors_that_name_their_column(changed, error):
    with pytest.raises(RowError, match=error):
        get_adapter("preference")({"prompt": "q", "chosen": "a", "rejected": ["b", "c"], **changed})


def test_hh_text_with_its_prompt_beside_it():
    beginning = "\n\nHuman: Name a prime.\n\nAssistant:"
    row = {"chosen": f"{beginning} 7", "rejected": f"{beginning} 8"}
    found = detect_adapter(["prompt", *row], {"prompt": beginning, **row})
    assert (found.name, found({"prompt": beginning, **row})) == ("hh_rlhf", found(row))
    with pytest.raises(RowError, match=r"^column 'prompt': expected what 'chosen' begins with, found 'Name a prime.'"):
        get_adapter("hh_rlhf")({"prompt": "Name a prime.", **row})


# ---- declarations --------------------------------------------------------------------------------------------------


BUILT_IN = [name for name in adapter_names() if get_adapter(name).function.__module__.startswith("hf_rewardplug.data.")]


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_an_adapter_reads_in_its_example_is_what_it_declares(name):
    """The declarations are held against the rows of the docstrings, which run with a row that remembers."""
    adapter, rows = get_adapter(name), []
    assert adapter.optional is not None
    alike = [get_adapter(other) for other in BUILT_IN if get_adapter(other).function is adapter.function]
    declared = {column for one in alike for column in (*(one.columns or ()), *one.optional)}

    def remembered(row, **options):
        rows.append(RecordedRow(row))
        return adapter.function(rows[-1], **options)

    module = importlib.import_module(adapter.function.__module__)
    globs = {**vars(module), adapter.function.__name__: remembered}
    (test,) = doctest.DocTestFinder(recurse=False).find(adapter.function, module=module, globs=globs)
    assert not doctest.DocTestRunner(verbose=False).run(test).failed
    assert rows
    for row in rows:
        assert row.read & row.keys() <= declared


def test_a_recorded_row_knows_every_way_to_read():
    row = {"a": 1, "b": 2}
    everything = (dict, lambda row: {**row}, lambda row: row | {}, lambda row: {} | row, lambda row: list(row.items()))
    everything += (lambda row: list(row.values()), dict.copy, lambda row: row.copy(), str, lambda row: row == {"a": 1})
    for function in everything:
        if function is not dict.copy:  # Python's own, past every method
            assert columns_read(function, row) == {"a", "b"}, function
    for function in (lambda row: row["a"], lambda row: row.get("a"), lambda row: row.pop("a"), "{a}".format_map):
        assert columns_read(function, row) == {"a"}
    for function in (list, len, lambda row: "a" in row, lambda row: row.keys(), lambda row: row["c"]):
        assert columns_read(function, row) == set()
