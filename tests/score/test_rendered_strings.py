"""Strings that a chat template rendered already are scored as they are, whatever the template marks turns by."""

import pytest

from hf_rewardplug.data.encoding import Encoder
from hf_rewardplug.demo import demo_tokenizer
from hf_rewardplug.model.description import Description
from hf_rewardplug.score.rendering import TrainedForm

TEMPLATES = {
    "zephyr": "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    "alpaca": "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}{% elif m.role == 'user' %}"
    "{{ '### Instruction:\n' + m.content + '\n\n' }}{% else %}{{ '### Response:\n' + m.content + eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}",
    "vicuna": "{{ bos_token }}{% if messages[0].role != 'system' %}A chat. {% endif %}{% for m in messages %}"
    "{{ ('' if m.role == 'system' else m.role | upper + ': ') + m.content }}"
    "{{ eos_token if m.role == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}",
}
TALK = [{"role": "user", "content": "What is 2 + 2?"}]
SYSTEM = {"role": "system", "content": "Be brief."}
ANSWER = [{"role": "assistant", "content": "4"}]


@pytest.fixture(params=TEMPLATES)
def tokenizer(request):
    tokenizer = demo_tokenizer("gemma")
    tokenizer.chat_template = TEMPLATES[request.param]
    return tokenizer


def form_of(tokenizer):
    return TrainedForm("reward", tokenizer, Description(rows="turns"), {})


@pytest.mark.parametrize("talk", [TALK, [SYSTEM, *TALK]], ids=["user", "system"])
def test_rendered_strings_have_the_tokens_of_their_messages(tokenizer, talk, caplog):
    rendered = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    if not rendered.startswith(("<", "###", "A chat")):
        pytest.skip("this template marks no system turn, so nobody can tell it from text")
    prompt, completion = form_of(tokenizer).completions(rendered, "4")
    encoder = Encoder(tokenizer=tokenizer)
    ids = encoder.completion({"prompt": prompt, "completion": completion})
    expected = encoder.completion({"prompt": talk, "completion": ANSWER})
    assert ids == expected[: len(ids)] and len(expected) - len(ids) <= 1  # Zephyr's line feed behind the EOS
    assert "are taken for rendered conversations" in caplog.text
    assert form_of(tokenizer).steps(rendered, ["4"]) == (rendered, ["4"])


def test_without_its_bos_too(tokenizer):
    rendered = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    rendered = rendered.removeprefix(tokenizer.bos_token)
    assert form_of(tokenizer).completions(rendered, "4") == (rendered, "4")


def test_other_strings_are_turns(tokenizer):
    assert form_of(tokenizer).completions("What is 2 + 2?", "4") == (TALK, ANSWER)


def test_a_model_of_text_is_told_how_a_benchmark_asks_in_text(caplog):
    tokenizer = demo_tokenizer("gemma")
    form = TrainedForm("reward", tokenizer, Description(rows="text"), {})
    prompt, completion = form.completions(TALK, ANSWER)
    with pytest.raises(ValueError, match=r"no chat template.*--option chat=false"):
        Encoder(tokenizer=tokenizer).completion({"prompt": prompt, "completion": completion})
    assert "has never seen a conversation" in caplog.text and "--option chat=false" in caplog.text
