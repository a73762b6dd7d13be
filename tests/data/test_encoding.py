"""The encoder against TRL's own tokens, literal ids of real tokenizers, and cuts that one can check by eye."""

from types import SimpleNamespace

import pytest
import trl
from datasets import Dataset
from transformers import AutoTokenizer

from hf_rewardplug.checks import DropRow, RowError
from hf_rewardplug.data.adapters import get_adapter
from hf_rewardplug.data.canonical import checked_pair, checked_steps
from hf_rewardplug.data.chat_templates import set_chat_template
from hf_rewardplug.data.encoding import Encoder
from hf_rewardplug.data.expansion import to_outcomes, to_pairs
from hf_rewardplug.data.tokenizing import fold_system_turn, reserved_tokens
from hf_rewardplug.train.prm_trainer import PRMTrainer

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Name a prime."}
SEVEN = {"role": "assistant", "content": "7"}
EIGHT = {"role": "assistant", "content": "8"}
TALK = {"prompt": [USER], "chosen": [SEVEN], "rejected": [EIGHT]}
TEXT = {"prompt": "Name a prime.", "chosen": " 7", "rejected": " 8"}
PENS = {
    "prompt": "A pen costs 3 coins. What do 4 pens cost?",
    "completions": ["4 pens cost 4 x 3 coins.", "The answer is 12."],
    "labels": [1, 0],
}


@pytest.fixture(scope="module")
def tokenizers(assets):
    """Gemma 2 (with the named template, it carries none), Qwen2.5 and Llama 3.1 (each with its own)."""
    loaded = {name: AutoTokenizer.from_pretrained(assets / "tokenizers" / name) for name in FAMILIES}
    set_chat_template(loaded["gemma2"], "gemma")
    return loaded


FAMILIES = ("gemma2", "qwen2_5", "llama3_1")
family = pytest.mark.parametrize("family", FAMILIES)


class Letters:
    """A tokenizer of one token a character; ^ begins a sequence, $ ends it."""

    bos_token_id, eos_token_id, eos_token = ord("^"), ord("$"), "$"

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [ord(letter) for letter in ("^" + text if add_special_tokens else text)]}

    def encode(self, text, add_special_tokens=True):
        return self(text, add_special_tokens)["input_ids"]


def letters(ids):
    return "".join(map(chr, ids))


# ---- text pairs ----------------------------------------------------------------------------------------------------

TEXT_IDS = {  # [BOS] Name _a _prime . _ 7 EOS
    "gemma2": [2, 1232, 476, 9280, 235265, 235248, 235324, 1],
    "qwen2_5": [675, 264, 10250, 13, 220, 22, 151645],
    "llama3_1": [128000, 678, 264, 10461, 13, 220, 22, 128009],
}


@family
def test_text_ids(tokenizers, family):
    encoder = Encoder(tokenizer=tokenizers[family])
    explicit = encoder.pair(TEXT)
    assert explicit["chosen_ids"] == TEXT_IDS[family]
    assert explicit["rejected_ids"][:-2] == TEXT_IDS[family][:-2]
    assert explicit == encoder.pair({"chosen": "Name a prime. 7", "rejected": "Name a prime. 8"})
    assert (explicit["cut"], explicit["cut_labels"]) == (0, 0)
    assert encoder.completion({"prompt": "Name a prime.", "completion": " 7"}) == TEXT_IDS[family]


@family
def test_bos_and_eos_stand_once_where_the_text_has_them_already(tokenizers, family):
    tokenizer = tokenizers[family]
    row = {**TEXT, "prompt": (tokenizer.bos_token or "") + TEXT["prompt"], "chosen": " 7" + tokenizer.eos_token}
    assert Encoder(tokenizer=tokenizer).pair(row)["chosen_ids"] == TEXT_IDS[family]


def test_eos_stands_once_where_the_tokenizer_appends_it(assets):
    tokenizer = AutoTokenizer.from_pretrained(assets / "tokenizers" / "llama3_1", add_eos_token=True)
    assert tokenizer("7")["input_ids"][-1] == 128009
    assert Encoder(tokenizer=tokenizer).completion({"completion": "7"})[-2:] == [22, 128009]


def test_no_eos_where_the_tokenizer_has_none(assets):
    tokenizer = AutoTokenizer.from_pretrained(assets / "tokenizers" / "llama3_1")
    tokenizer.eos_token = None
    assert Encoder(tokenizer=tokenizer).pair(TEXT)["chosen_ids"] == TEXT_IDS["llama3_1"][:-1]


def test_prompt_and_answer_are_tokenized_jointly(tokenizers):
    ids = Encoder(tokenizer=tokenizers["qwen2_5"]).completion({"prompt": "Done.", "completion": "\n\nNext"})
    assert ids == [17453, 382, 5847, 151645]  # Done | .\n\n | Next; apart it would be Done | . | \n\n | Next


def test_pairs_that_are_the_same_are_dropped(tokenizers):
    encoder = Encoder(tokenizer=tokenizers["qwen2_5"])
    for rejected in (" 7", " 7<|im_end|>"):  # the second differs only in the EOS that the first gets
        with pytest.raises(DropRow, match="chosen and rejected are identical"):
            encoder.pair({**TEXT, "rejected": rejected})
    with pytest.raises(DropRow, match="identical"):
        encoder.pair({**TALK, "rejected": [SEVEN]})


def test_the_margin_stays(tokenizers):
    encoder = Encoder(tokenizer=tokenizers["qwen2_5"])
    assert encoder.pair({**TEXT, "margin": 0.5})["margin"] == 0.5
    assert "margin" not in encoder.pair(TEXT)


# ---- conversational pairs ------------------------------------------------------------------------------------------

QWENS_OWN_SYSTEM_TURN = [  # You are Qwen, created by Alibaba Cloud. You are a helpful assistant.
    *[151644, 8948, 198, 2610, 525, 1207, 16948, 11, 3465, 553, 54364, 14817, 13],
    *[1446, 525, 264, 10950, 17847, 13, 151645, 198],
]
BE_BRIEF = [151644, 8948, 198, 3430, 9814, 13, 151645, 198]  # Qwen's system turn: Be brief.
PRIME_SEVEN = {  # test_chat_templates.py spells the tokens out
    "gemma2": [2, 106, 1645, 108, 1232, 476, 9280, 235265, 107, 108, 106, 2516, 108, 235324, 107, 108],
    "qwen2_5": [151644, 872, 198, 675, 264, 10250, 13, 151645, 198, 151644, 77091, 198, 22, 151645, 198],
    "llama3_1": [128000, 128006, 882, 128007, 271, 678, 264, 10461, 13, 128009, 128006, 78191, 128007, 271, 22, 128009],
}
TALK_IDS = {**PRIME_SEVEN, "qwen2_5": [*QWENS_OWN_SYSTEM_TURN, *PRIME_SEVEN["qwen2_5"]]}


@family
def test_conversation_ids(tokenizers, family):
    """One BOS, no EOS behind the closed turn."""
    encoder = Encoder(tokenizer=tokenizers[family])
    explicit = encoder.pair(checked_pair(TALK))
    assert explicit["chosen_ids"] == TALK_IDS[family]
    assert explicit == encoder.pair(checked_pair({"chosen": [USER, SEVEN], "rejected": [USER, EIGHT]}))
    assert encoder.completion({"prompt": [USER], "completion": [SEVEN]}) == TALK_IDS[family]


def test_a_system_turn_is_folded_into_the_first_user_turn_where_the_template_refuses_it(tokenizers):
    row = {**TALK, "prompt": [SYSTEM, USER]}
    gemma = Encoder(tokenizer=tokenizers["gemma2"]).pair(row)["chosen_ids"]
    # <bos> <start_of_turn> user \n Be _brief . \n\n Name _a _prime . <end_of_turn> ...
    assert gemma == [2, 106, 1645, 108, 2448, 9091, 235265, 109, *PRIME_SEVEN["gemma2"][4:]]
    assert tokenizers["gemma2"].chat_template  # what is saved still refuses the turn
    qwen = Encoder(tokenizer=tokenizers["qwen2_5"]).pair(row)["chosen_ids"]
    assert qwen == [*BE_BRIEF, *PRIME_SEVEN["qwen2_5"]]


def test_fold_system_turn():
    folded = {"role": "user", "content": "Be brief.\n\nName a prime."}
    assert fold_system_turn([SYSTEM, USER, SEVEN]) == [folded, SEVEN]
    assert fold_system_turn([SYSTEM, SEVEN]) == [{"role": "user", "content": "Be brief."}, SEVEN]
    assert fold_system_turn([SYSTEM]) == [{"role": "user", "content": "Be brief."}]
    assert fold_system_turn([USER, SEVEN]) == [USER, SEVEN]
    assert fold_system_turn([]) == []
    assert USER["content"] == "Name a prime."


def test_a_conversation_that_the_template_refuses_names_its_roles(tokenizers):
    with pytest.raises(RowError, match=r"refuses the conversation \(user, user, assistant\).*alternate"):
        Encoder(tokenizer=tokenizers["gemma2"]).pair({**TALK, "prompt": [USER, USER]})


def test_a_conversation_without_a_template_names_the_options(tokenizers, monkeypatch):
    monkeypatch.setattr(tokenizers["gemma2"], "chat_template", None)
    with pytest.raises(RowError, match=r"`chat_template` to 'gemma', 'chatml' or 'llama3', or `chat_template_path`"):
        Encoder(tokenizer=tokenizers["gemma2"]).pair(TALK)


def test_tools_and_template_arguments_reach_the_template(tokenizers, monkeypatch):
    qwen = tokenizers["qwen2_5"]
    tool = {"type": "function", "function": {"name": "is_prime", "parameters": {}}}
    row = checked_pair({**TALK, "tools": [tool]})
    assert "is_prime" in qwen.decode(Encoder(tokenizer=qwen).pair(row)["chosen_ids"])
    monkeypatch.setattr(qwen, "chat_template", "{{ mood }}{% for m in messages %}{{ m.content }}{% endfor %}")
    row = checked_pair({**TALK, "chat_template_kwargs": {"mood": "happy "}})
    assert qwen.decode(Encoder(tokenizer=qwen).pair(row)["chosen_ids"]) == "happy Name a prime.7"


# ---- TRL's own pairs -----------------------------------------------------------------------------------------------


def trl_pairs(tokenizer, rows, max_length=None):
    args = SimpleNamespace(max_length=max_length, dataset_num_proc=None)
    stream = Dataset.from_list(rows).to_iterable_dataset()  # a `Dataset` would take seconds to hash the tokenizer
    encoded = trl.RewardTrainer._prepare_dataset(None, stream, tokenizer, args, "train")
    return [(row["chosen_ids"], row["rejected_ids"]) for row in encoded]


def our_pairs(tokenizer, rows, **options):
    encoder, pairs = Encoder(tokenizer=tokenizer, **options), []
    for raw in rows:
        for row in get_adapter("preference")(raw):
            try:
                encoded = encoder.pair(*to_pairs(row))
            except DropRow as drop:
                assert "max_length" in drop.reason
            else:
                pairs.append((encoded["chosen_ids"], encoded["rejected_ids"]))
    return pairs


def as_text(row):
    prompt = "\n\n".join(turn["content"] for turn in row["prompt"]) + "\n\n"
    return {"prompt": prompt, "chosen": row["chosen"][0]["content"], "rejected": row["rejected"][0]["content"]}


def joined(row):
    return {key: row["prompt"] + row[key] for key in ("chosen", "rejected")}


@family
@pytest.mark.parametrize("change", [as_text, lambda row: joined(as_text(row))], ids=["prompt", "no prompt"])
def test_text_pairs_are_trls(tokenizers, read_rows, family, change):
    rows = [change(row) for row in read_rows("llmbar/test.jsonl", 40)]
    assert our_pairs(tokenizers[family], rows) == trl_pairs(tokenizers[family], rows)


@pytest.mark.parametrize("family", ["qwen2_5", "llama3_1"])  # Gemma's template raises on some prompts of this data set
@pytest.mark.parametrize("change", [lambda row: row, joined], ids=["prompt", "no prompt"])
def test_conversational_pairs_are_trls(tokenizers, read_rows, family, change):
    rows = [change(row) for row in read_rows("hh_harmless/train.jsonl", 40)]
    same = our_pairs(tokenizers[family], rows) == trl_pairs(tokenizers[family], rows)
    assert same  # no text of this data set in the output of a failure


def test_gemmas_conversational_pairs_are_trls(tokenizers, read_rows):
    rows = read_rows("pandalm/test.jsonl", 40)
    assert our_pairs(tokenizers["gemma2"], rows) == trl_pairs(tokenizers["gemma2"], rows)


def test_drop_leaves_out_what_trl_leaves_out(tokenizers, read_rows):
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in read_rows("llmbar/test.jsonl", 60)]
    ours = our_pairs(tokenizers["qwen2_5"], rows, max_length=120)
    assert 0 < len(ours) < 60
    assert ours == trl_pairs(tokenizers["qwen2_5"], rows, max_length=120)


# ---- long pairs ----------------------------------------------------------------------------------------------------

LONG = {"prompt": "abcdef", "chosen": "gh", "rejected": "i"}  # ^abcdefgh$ (10 tokens) and ^abcdefi$ (9)


def tokenized(chosen_ids, rejected_ids):
    return {"chosen_ids": chosen_ids, "rejected_ids": rejected_ids}


@pytest.mark.parametrize(
    ("max_length", "chosen", "rejected", "cut"),
    [
        (None, "^abcdefgh$", "^abcdefi$", 0),
        (10, "^abcdefgh$", "^abcdefi$", 0),
        (9, "^bcdefgh$", "^bcdefi$", 2),
        (5, "^fgh$", "^fi$", 10),
        (4, "^gh$", "^i$", 12),
    ],
)
def test_truncate_takes_the_left_of_the_prompt_alike_from_both(max_length, chosen, rejected, cut):
    encoded = Encoder(tokenizer=Letters(), max_length=max_length, overlong="truncate").tokenized_pair(
        tokenized(*(Letters().encode(LONG["prompt"] + LONG[key] + "$") for key in ("chosen", "rejected")))
    )
    assert (letters(encoded["chosen_ids"]), letters(encoded["rejected_ids"])) == (chosen, rejected)
    assert encoded["cut"] == cut


def test_completions_of_a_list_lose_the_same_of_their_prompt():
    row = {"prompt": "abcde", "completions": ["f", "ghi", "gj"], "scores": [1.0, 2.0, 3.0], "weight": 2.0}
    encoded = Encoder(tokenizer=Letters(), max_length=7, overlong="truncate").ranked(row)
    assert [letters(ids) for ids in encoded["completion_ids"]] == ["^def$", "^deghi$", "^degj$"]
    assert (encoded["scores"], encoded["weight"], encoded["cut"]) == ([1.0, 2.0, 3.0], 2.0, 9)
    with pytest.raises(DropRow, match="longer than max_length=4 even without the prompt"):
        Encoder(tokenizer=Letters(), max_length=4, overlong="truncate").ranked(row)
    with pytest.raises(DropRow, match="all completions are identical"):
        Encoder(tokenizer=Letters()).ranked({**row, "completions": ["f", "f", "f"]})


def test_a_scored_completion_loses_the_left_of_its_prompt():
    row = {"prompt": "abcde", "completion": "fgh", "scores": [1.0]}
    encoded = Encoder(tokenizer=Letters(), max_length=7, overlong="truncate").scored(row)
    assert (letters(encoded["input_ids"]), encoded["scores"], encoded["cut"]) == ("^defgh$", [1.0], 3)
    with pytest.raises(DropRow, match="longer than max_length=4 even without the prompt"):
        Encoder(tokenizer=Letters(), max_length=4, overlong="truncate").scored(row)
    with pytest.raises(DropRow, match=r"^longer than max_length=9$"):
        Encoder(tokenizer=Letters(), max_length=9).scored(row)


def test_an_outcome_that_may_come_from_behind_the_cut_is_left_out():
    encoder = Encoder(tokenizer=Letters(), max_length=6, overlong="truncate")
    right, wrong = (to_outcomes({"prompt": "p", "completions": ["a", "b", "c"], "outcome": y})[0] for y in (1, 0))
    assert [label for label in encoder.steps(right)["labels"] if label != -100] == [1.0, 1.0]
    with pytest.raises(DropRow, match=r"^cut, and what its outcome comes from may lie behind the cut$"):
        encoder.steps(wrong)


def test_a_pair_that_is_too_long_without_its_prompt_is_dropped():
    ids = ([1, 5, 6, 7, 8], [1, 5, 9])
    encoder = Encoder(tokenizer=SimpleNamespace(bos_token_id=1), max_length=3, overlong="truncate")
    with pytest.raises(DropRow, match="longer than max_length=3 even without the prompt"):
        encoder.tokenized_pair(tokenized(*ids))
    encoder = Encoder(tokenizer=SimpleNamespace(bos_token_id=None), max_length=3, overlong="truncate")
    assert encoder.tokenized_pair(tokenized(*ids))["chosen_ids"] == [6, 7, 8]  # no BOS to keep
    with pytest.raises(DropRow, match="even without the prompt"):
        encoder.tokenized_pair(tokenized([5], [5, 6, 7, 8]))  # one token to share: nothing would be left of the first


def test_drop_and_error_name_the_limit():
    ids = ([1, 5, 6], [1, 7])
    tokenizer = SimpleNamespace(bos_token_id=1)
    with pytest.raises(DropRow, match=r"^longer than max_length=2$"):
        Encoder(tokenizer=tokenizer, max_length=2).tokenized_pair(tokenized(*ids))
    with pytest.raises(RowError, match=r"3 tokens are more than max_length=2\. Raise max_length, or set overlong"):
        Encoder(tokenizer=tokenizer, max_length=2, overlong="error").tokenized_pair(tokenized(*ids))
    fitting = Encoder(tokenizer=tokenizer, max_length=3, overlong="error").tokenized_pair(tokenized(*ids))
    assert fitting["chosen_ids"] == [1, 5, 6]
    with pytest.raises(ValueError, match="overlong='cut' is not one of 'drop', 'truncate', 'error'"):
        Encoder(tokenizer=tokenizer, overlong="cut")


def test_real_pairs_keep_their_ends_under_truncation(tokenizers, read_rows):
    limit, rows = 80, read_rows("hh_harmless/train.jsonl", 60)
    whole = Encoder(tokenizer=tokenizers["llama3_1"])
    fitting = Encoder(tokenizer=tokenizers["llama3_1"], max_length=limit, overlong="truncate")
    cut = 0
    for row in rows:
        full = whole.pair(checked_pair(row))
        try:
            short = fitting.pair(checked_pair(row))
        except DropRow:
            continue
        lost = {len(full[key]) - len(short[key]) for key in ("chosen_ids", "rejected_ids")}
        assert lost == {max(0, max(len(full["chosen_ids"]), len(full["rejected_ids"])) - limit)}
        for key in ("chosen_ids", "rejected_ids"):
            assert short[key] == full[key][:1] + full[key][1 + max(lost) :]
        assert short["cut"] == 2 * max(lost)
        cut += bool(short["cut"])
    assert cut > 10


# ---- steps ---------------------------------------------------------------------------------------------------------

PENS_PROMPT = {  # [BOS] A _pen _costs _ 3 _coins . _What _do _ 4 _pens _cost ?
    "gemma2": [2, 235280, 3008, 6331, 235248, 235304, 22799, 235265, 2439, 749, 235248, 235310, 9729, 2458, 235336],
    "qwen2_5": [32, 5750, 7049, 220, 18, 18762, 13, 3555, 653, 220, 19, 22601, 2783, 30],
    "llama3_1": [128000, 32, 5869, 7194, 220, 18, 19289, 13, 3639, 656, 220, 19, 23423, 2853, 30],
}
PENS_STEPS = {  # 4 _pens _cost _ 4 _x _ 3 _coins . | The _answer _is _ 12 . (12 is two tokens but for Llama)
    "gemma2": (
        [235310, 9729, 2458, 235248, 235310, 1141, 235248, 235304, 22799, 235265],
        [651, 3448, 603, 235248, 235274, 235284, 235265],
    ),
    "qwen2_5": ([19, 22601, 2783, 220, 19, 856, 220, 18, 18762, 13], [785, 4226, 374, 220, 16, 17, 13]),
    "llama3_1": ([19, 23423, 2853, 220, 19, 865, 220, 18, 19289, 13], [791, 4320, 374, 220, 717, 13]),
}
LINE_BREAK = {"gemma2": (108, 109), "qwen2_5": (198, 271), "llama3_1": (198, 271)}  # one, two


@family
@pytest.mark.parametrize(("separator", "which"), [("\n", 0), ("\n\n", 1)])
def test_step_ids_are_those_that_trl_1_13_gave(tokenizers, family, separator, which):
    first, second = PENS_STEPS[family]
    separator_id = LINE_BREAK[family][which]
    encoded = Encoder(tokenizer=tokenizers[family], step_separator=separator).steps(PENS)
    assert encoded["input_ids"] == [*PENS_PROMPT[family], *first, separator_id, *second, separator_id]
    unlabelled = [-100.0] * len(PENS_PROMPT[family])
    assert encoded["labels"] == [*unlabelled, *[-100.0] * len(first), 1.0, *[-100.0] * len(second), 0.0]
    assert all(isinstance(label, float) for label in encoded["labels"])
    assert (encoded["cut"], encoded["cut_labels"]) == (0, 0)


@family
def test_real_steps_are_those_of_tokenize_row(tokenizers, read_rows, family):
    encoder = Encoder(tokenizer=tokenizers[family])
    for row in read_rows("prm800k_val/val.jsonl", 60):
        encoded, expected = (
            encoder.steps(checked_steps(row)),
            PRMTrainer.tokenize_row(row, tokenizers[family], "\n", None, None, False, False),
        )
        assert encoded["input_ids"] == expected["input_ids"]
        assert encoded["labels"] == expected["labels"]


def test_tokenize_row_cuts_in_mid_step_as_trl_1_13_did(tokenizers):
    def row(*options):
        return PRMTrainer.tokenize_row({**PENS, "labels": [True, False]}, tokenizers["qwen2_5"], "\n", *options)

    first, second = PENS_STEPS["qwen2_5"]
    steps = [*first, 198, *second, 198]
    assert row(20, None, False, False)["input_ids"] == [*PENS_PROMPT["qwen2_5"], *first[:6]]
    assert row(None, 12, False, False) == {
        "input_ids": [*PENS_PROMPT["qwen2_5"], *steps[:12]],
        "labels": [-100] * 24 + [1, -100],
    }
    assert row(None, None, True, False)["labels"] == [-100] * 32 + [0]  # the last step only
    assert row(None, None, True, True)["labels"] == [-100] * 24 + [1] + [-100] * 7 + [0]  # evaluation sees all


def test_a_pre_rendered_prompt_gets_no_second_bos(tokenizers):
    row = {**PENS, "prompt": "<bos>" + PENS["prompt"]}
    encoder = Encoder(tokenizer=tokenizers["gemma2"])
    assert encoder.steps(row) == encoder.steps(PENS)


def test_a_conversational_prompt_is_rendered_with_the_generation_prompt(tokenizers):
    row = {"prompt": [SYSTEM, USER], "completions": ["7", "8"], "labels": [1, 0]}
    qwen = Encoder(tokenizer=tokenizers["qwen2_5"]).steps(row)
    assert qwen["input_ids"] == [*BE_BRIEF, *PRIME_SEVEN["qwen2_5"][:12], 22, 198, 23, 198]
    assert qwen["labels"] == [-100.0] * 21 + [1.0, -100.0, 0.0]
    gemma = Encoder(tokenizer=tokenizers["gemma2"]).steps({**row, "prompt": [USER]})
    assert gemma["input_ids"] == [*PRIME_SEVEN["gemma2"][:13], 235324, 108, 235321, 108]


def test_separators_stay_tokens_of_their_own(tokenizers):
    """The joint text would merge them with the full stop before (PITFALLS 4)."""
    row = {"prompt": "?", "completions": ["Done."], "labels": [1]}
    assert tokenizers["qwen2_5"]("Done.\n\n")["input_ids"] == [17453, 382]
    assert Encoder(tokenizer=tokenizers["qwen2_5"], step_separator="\n\n").steps(row)["input_ids"][1:] == [
        17453,
        13,
        271,
    ]


def test_a_separator_of_several_tokens_is_scored_at_its_last():
    encoded = Encoder(tokenizer=Letters(), step_separator="##").steps(
        {"prompt": "a", "completions": ["b", "cd"], "labels": [0.5, -100]}
    )
    assert letters(encoded["input_ids"]) == "^ab##cd##"
    assert encoded["labels"] == [-100.0] * 4 + [0.5] + [-100.0] * 4


def test_a_separator_without_tokens_is_refused():
    with pytest.raises(ValueError, match="step_separator='' gives no token"):
        Encoder(tokenizer=Letters(), step_separator="").steps(PENS)


@pytest.mark.parametrize(
    ("family", "token", "index"),
    [
        ("gemma2", "<unused0>", 7),
        ("qwen2_5", "<|fim_pad|>", 151662),
        ("llama3_1", "<|reserved_special_token_0|>", 128002),
    ],
)
def test_step_token(tokenizers, family, token, index):
    first, second = PENS_STEPS[family]
    encoded = Encoder(tokenizer=tokenizers[family], step_token=token).steps(PENS)
    assert encoded["input_ids"] == [*PENS_PROMPT[family], *first, index, *second, index]
    joint = PENS["prompt"] + "".join(step + token for step in PENS["completions"])
    assert tokenizers[family](joint)["input_ids"] == encoded["input_ids"]  # it cannot merge


@pytest.mark.parametrize(
    ("family", "token", "why"),
    [
        ("gemma2", "<extra_0>", r"is not a single token.*<unused0>, <unused1>"),
        ("qwen2_5", "<extra_0>", "is not a single token"),
        ("gemma2", "\n", r"merges with the text around it.*<unused0>"),
        ("llama3_1", ".", r"merges with the text around it.*<\|reserved_special_token_0\|>"),
    ],
)
def test_a_step_token_that_cannot_serve_is_refused(tokenizers, family, token, why):
    with pytest.raises(ValueError, match=why):
        Encoder(tokenizer=tokenizers[family], step_token=token).steps(PENS)


def test_reserved_tokens(tokenizers):
    assert reserved_tokens(tokenizers["gemma2"])[:2] == ["<unused0>", "<unused1>"]
    assert reserved_tokens(tokenizers["llama3_1"])[:2] == [f"<|reserved_special_token_{i}|>" for i in (0, 1)]
    assert reserved_tokens(tokenizers["qwen2_5"]) == []


def test_last_step_only(tokenizers):
    encoder = Encoder(tokenizer=tokenizers["qwen2_5"])
    last, every = encoder.last_step(PENS), encoder.steps(PENS)
    assert last["input_ids"] == every["input_ids"]
    assert [label for label in last["labels"] if label != -100] == [0.0]
    assert last["labels"][-1] == 0.0
    with pytest.raises(DropRow, match=r"^no labelled step$"):
        encoder.last_step({**PENS, "labels": [1, -100]})


# ---- long step rows ------------------------------------------------------------------------------------------------

THREE = {"prompt": "abc", "completions": ["de", "fgh", "i"], "labels": [1, 0.5, 0]}  # ^abc de| fgh| i| : 4 + 3 + 4 + 2


@pytest.mark.parametrize(
    ("max_length", "max_completion_length", "tokens", "cut", "cut_labels"),
    [
        (None, None, "^abcde|fgh|i|", 0, 0),
        (13, 9, "^abcde|fgh|i|", 0, 0),
        (12, None, "^abcde|fgh|", 2, 1),
        (11, None, "^abcde|fgh|", 2, 1),
        (10, None, "^abcde|", 6, 2),
        (7, None, "^abcde|", 6, 2),
        (6, None, "^bcde|", 7, 2),  # the prompt loses its left only where not one step would fit
        (4, None, "^de|", 9, 2),
        (None, 8, "^abcde|fgh|", 2, 1),
        (None, 3, "^abcde|", 6, 2),
        (9, 7, "^abcde|", 6, 2),
    ],
)
def test_truncate_cuts_at_step_boundaries(max_length, max_completion_length, tokens, cut, cut_labels):
    limits = {"max_length": max_length, "max_completion_length": max_completion_length}
    encoded = Encoder(tokenizer=Letters(), step_separator="|", overlong="truncate", **limits).steps(THREE)
    assert letters(encoded["input_ids"]) == tokens
    scored = [
        (chr(i), label) for i, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label != -100
    ]
    assert scored == [("|", 1.0), ("|", 0.5), ("|", 0.0)][: tokens.count("|")]
    assert (encoded["cut"], encoded["cut_labels"]) == (cut, cut_labels)


@pytest.mark.parametrize(
    ("changed", "limits", "reason"),
    [
        ({}, {"max_length": 3}, "the first step is longer than max_length=3 even without the prompt"),
        ({}, {"max_completion_length": 2}, "no labelled step left after the cut"),
        ({"labels": [-100, -100, 1]}, {"max_length": 12}, "no labelled step left after the cut"),
        ({"labels": [-100, -100, -100]}, {}, "no labelled step"),
    ],
)
def test_a_row_without_a_labelled_step_is_dropped(changed, limits, reason):
    encoder = Encoder(tokenizer=Letters(), step_separator="|", overlong="truncate", **limits)
    with pytest.raises(DropRow, match=f"^{reason}$"):
        encoder.steps({**THREE, **changed})


def test_a_last_label_that_was_cut_is_no_label():
    encoder = Encoder(tokenizer=Letters(), step_separator="|", overlong="truncate", max_length=12)
    with pytest.raises(DropRow, match="no labelled step left after the cut"):
        encoder.last_step(THREE)


@pytest.mark.parametrize(("limit", "allowed", "length"), [("max_length", 12, 13), ("max_completion_length", 8, 9)])
def test_long_step_rows_are_dropped_or_refused_by_name(limit, allowed, length):
    with pytest.raises(DropRow, match=f"^longer than {limit}={allowed}$"):
        Encoder(tokenizer=Letters(), step_separator="|", **{limit: allowed}).steps(THREE)
    with pytest.raises(RowError, match=f"{length} tokens are more than {limit}={allowed}"):
        Encoder(tokenizer=Letters(), step_separator="|", overlong="error", **{limit: allowed}).steps(THREE)


# ---- tokenized rows ------------------------------------------------------------------------------------------------


def test_tokenized_rows_pass_as_they_are():
    encoder = Encoder(tokenizer=Letters(), max_length=3, overlong="error")
    pair = {"chosen_ids": [1, 2], "rejected_ids": [1, 3, 4]}
    assert encoder.tokenized_pair(pair) == {**pair, "cut": 0, "cut_labels": 0}
    assert encoder.tokenized_pair({**pair, "margin": 2})["margin"] == 2.0
    steps = {"input_ids": [1, 2, 3, 4], "labels": [-100, 1, 0.25, True]}
    assert encoder.tokenized_steps(steps)["input_ids"] == [1, 2, 3, 4]
    assert encoder.tokenized_steps(steps)["labels"] == [-100.0, 1.0, 0.25, 1.0]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"chosen_ids": None}, "chosen_ids"),
        ({"rejected_ids": []}, "rejected_ids"),
        ({"rejected_ids": [1, None]}, "rejected_ids"),
        ({"margin": float("nan")}, "margin"),
        ({"margin": "1"}, "margin"),
        ({"margin": None}, "margin"),
    ],
)
def test_a_bad_tokenized_pair_names_the_column(row, column):
    with pytest.raises(RowError, match=f"^column '{column}': "):
        Encoder(tokenizer=Letters()).tokenized_pair({"chosen_ids": [1], "rejected_ids": [2], **row})


@pytest.mark.parametrize("labels", [None, [], [1], [-100, None], [-100, 2], [-100, float("nan")]])
def test_bad_token_labels_name_the_column(labels):
    with pytest.raises(RowError, match=r"^column 'labels': "):
        Encoder(tokenizer=Letters()).tokenized_steps({"input_ids": [1, 2], "labels": labels})


def test_tokenized_rows_without_anything_to_learn_are_dropped():
    encoder = Encoder(tokenizer=Letters())
    with pytest.raises(DropRow, match="identical"):
        encoder.tokenized_pair({"chosen_ids": [1], "rejected_ids": [1]})
    with pytest.raises(DropRow, match="no labelled step"):
        encoder.tokenized_steps({"input_ids": [1], "labels": [-100]})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"node_lengths": [2, 1, 2]}, "lengths must add up"),
        ({"node_lengths": [3, 2, -1]}, "lengths must add up"),
        ({"node_parents": [-1, 0, 2]}, "an earlier node each"),
        ({"node_parents": [-1, 0]}, "an earlier node each"),
        ({"node_lengths": [2, 2], "node_parents": [-1, 0]}, "label at its last token"),
    ],
)
def test_a_tokenized_tree_is_checked(changed, message):
    encoder = Encoder(tokenizer=None)
    row = {
        "input_ids": [1, 2, 3, 4],
        "labels": [-100, -100, 1, 0],
        "node_lengths": [2, 1, 1],
        "node_parents": [-1, 0, 0],
    }
    assert encoder.tokenized_steps(row)["node_lengths"] == [2, 1, 1]
    with pytest.raises(RowError, match=message):
        encoder.tokenized_steps({**row, **changed})
