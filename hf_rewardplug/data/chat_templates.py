"""Chat templates by name, for base models whose tokenizer carries none.

In: a tokenizer and a name. Out: the same tokenizer with the template set, or a `ValueError` where the tokenizer has
not the template's markers as single tokens (they would be cut into text, and no pretrained weight would know them).

Each renders what the family's instruct models render. Gemma's refuses a system turn, as the original does: the encoder
folds it into the first user turn, in the messages, so that the saved template stays what it was.
"""

from typing import Any

GEMMA = (
    "{{ bos_token }}"
    "{%- if messages[0]['role'] == 'system' %}{{ raise_exception('This template takes no system role.') }}{% endif -%}"
    "{%- for message in messages -%}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('The roles must alternate: user, assistant, user, assistant, ...') }}"
    "{%- endif -%}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{{- message['content'] | trim }}{{ '<end_of_turn>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif -%}"
)

CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif -%}"
)

LLAMA3 = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim }}{{ '<|eot_id|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif -%}"
)

CHAT_TEMPLATES = {"gemma": GEMMA, "chatml": CHATML, "llama3": LLAMA3}
"""name -> Jinja source"""

_MARKERS = {
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}


def set_chat_template(tokenizer: Any, name: str) -> None:
    """Set the template `name` ("gemma", "chatml" or "llama3") on `tokenizer`.

    Raises:
        ValueError: the name is unknown, or the tokenizer lacks the template's markers.
    """
    if name not in CHAT_TEMPLATES:
        raise ValueError(
            f"Unknown chat template '{name}'. Known: {', '.join(sorted(CHAT_TEMPLATES))}. For a Jinja file or another "
            "model's template use `chat_template_path`."
        )
    vocabulary = tokenizer.get_vocab()
    if missing := [marker for marker in _MARKERS[name] if marker not in vocabulary]:
        raise ValueError(
            f"The chat template '{name}' marks turns by {', '.join(missing)}, which this tokenizer does not have as "
            f"tokens. Choose a template of the model's own family, or add the tokens and resize the embeddings first."
        )
    tokenizer.chat_template = CHAT_TEMPLATES[name]
