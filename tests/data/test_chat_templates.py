"""The three named templates, against what the families' instruct models render, as text and as token ids."""

import pytest
from transformers import AutoTokenizer

from hf_rewardplug.data.chat_templates import CHAT_TEMPLATES, set_chat_template

FOLDER = {"gemma": "gemma2", "chatml": "qwen2_5", "llama3": "llama3_1"}
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Name a prime."}
SEVEN = {"role": "assistant", "content": "7"}


@pytest.fixture(scope="module")
def load(assets):
    loaded = {}

    def tokenizer(name):
        """The family's real tokenizer with the named template, and the template that it came with."""
        if name not in loaded:
            tokenizer = AutoTokenizer.from_pretrained(assets / "tokenizers" / FOLDER[name])
            own = tokenizer.chat_template
            set_chat_template(tokenizer, name)
            loaded[name] = tokenizer, own
        return loaded[name]

    return tokenizer


RENDERED = {
    "gemma": "<bos><start_of_turn>user\nName a prime.<end_of_turn>\n<start_of_turn>model\n7<end_of_turn>\n",
    "chatml": "<|im_start|>user\nName a prime.<|im_end|>\n<|im_start|>assistant\n7<|im_end|>\n",
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nName a prime.<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n7<|eot_id|>",
}
IDS = {  # one token a word, mark or line break: <bos> <start_of_turn> user \n Name _a _prime . <end_of_turn> \n ...
    "gemma": [2, 106, 1645, 108, 1232, 476, 9280, 235265, 107, 108, 106, 2516, 108, 235324, 107, 108],
    "chatml": [151644, 872, 198, 675, 264, 10250, 13, 151645, 198, 151644, 77091, 198, 22, 151645, 198],
    "llama3": [128000, 128006, 882, 128007, 271, 678, 264, 10461, 13, 128009, 128006, 78191, 128007, 271, 22, 128009],
}
GENERATION_PROMPT = {
    "gemma": "<start_of_turn>model\n",
    "chatml": "<|im_start|>assistant\n",
    "llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n",
}


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_a_conversation_is_rendered_as_the_family_renders_it(load, name):
    tokenizer, _ = load(name)
    assert tokenizer.apply_chat_template([USER, SEVEN], tokenize=False) == RENDERED[name]
    assert tokenizer.apply_chat_template([USER, SEVEN])["input_ids"] == IDS[name]


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_the_generation_prompt_is_where_the_answer_begins(load, name):
    tokenizer, _ = load(name)
    rendered = tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    assert rendered.endswith(GENERATION_PROMPT[name])
    assert RENDERED[name].startswith(rendered)


def test_system_turns(load):
    chatml, llama3, gemma = (load(name)[0] for name in ("chatml", "llama3", "gemma"))
    assert chatml.apply_chat_template([SYSTEM, USER], tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nName a prime.<|im_end|>\n"
    )
    assert llama3.apply_chat_template([SYSTEM, USER], tokenize=False) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nName a prime.<|eot_id|>"
    )
    with pytest.raises(Exception, match="takes no system role"):
        gemma.apply_chat_template([SYSTEM, USER], tokenize=False)


@pytest.mark.parametrize("roles", ["user user", "assistant user", "user assistant assistant"])
def test_gemma_refuses_roles_that_do_not_alternate(load, roles):
    with pytest.raises(Exception, match="roles must alternate"):
        load("gemma")[0].apply_chat_template([{"role": role, "content": "x"} for role in roles.split()], tokenize=False)


@pytest.mark.parametrize(
    ("name", "kept"),
    [("gemma", "model\n7<end_of_turn>"), ("chatml", "assistant\n 7 \n<|im_end|>"), ("llama3", "\n\n7<|eot_id|>")],
)
def test_white_space_around_a_turn(load, name, kept):
    """Gemma and Llama 3 trim it, ChatML does not."""
    rendered = load(name)[0].apply_chat_template([USER, {"role": "assistant", "content": " 7 \n"}], tokenize=False)
    assert kept in rendered


@pytest.mark.parametrize("name", ["chatml", "llama3"])
@pytest.mark.parametrize("generation", [False, True])
def test_the_same_as_the_template_that_the_tokenizer_came_with(load, name, generation):
    """With a system turn; Qwen's own adds one where there is none."""
    tokenizer, own = load(name)
    messages = [SYSTEM, USER, SEVEN, {"role": "user", "content": "One more, please.\nAnd a reason."}]
    options = {"tokenize": False, "add_generation_prompt": generation}
    assert tokenizer.apply_chat_template(messages, **options) == tokenizer.apply_chat_template(
        messages, chat_template=own, **options
    )


def test_an_unknown_name_lists_the_known_ones(load):
    with pytest.raises(ValueError, match=r"'alpaca'.*chatml, gemma, llama3.*chat_template_path"):
        set_chat_template(load("chatml")[0], "alpaca")


@pytest.mark.parametrize(("family", "name"), [("chatml", "gemma"), ("llama3", "chatml"), ("gemma", "llama3")])
def test_a_template_without_its_markers_is_refused_and_nothing_changes(load, family, name):
    tokenizer, _ = load(family)
    before = tokenizer.chat_template
    with pytest.raises(ValueError, match=r"marks turns by <.*family"):
        set_chat_template(tokenizer, name)
    assert tokenizer.chat_template == before
