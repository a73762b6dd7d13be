"""The model card's part that TRL's template does not have: the held-out figures, the data, and three ways to use it.

In: a trainer that has evaluated. Out: Markdown in place of the template's quick start, whose pipeline knows no prompts.
"""

import json
import re
from pathlib import Path

import torch
from accelerate.utils import is_peft_model

from ..model.attention import unwrapped
from ..model.description import Description
from ..model.head_layers import beyond_plain
from ..model.kinds import kind_of
from ..texts import markdown_name, one_line

_QUICK_START = re.compile(r"^## Quick start$.*?(?=^## )", re.MULTILINE | re.DOTALL)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
_ON_THE_HUB = rf"\[(?!None\]){_HUB_ID.pattern}\]\(https://huggingface\.co/{_HUB_ID.pattern}\)(?:\.$| on the \[)"
_LOCAL_MODEL = re.compile(rf"(?<=fine-tuned version of )(?!{_ON_THE_HUB})\[.*\]\(.*\)(?=\.$| on the \[)", re.MULTILINE)
_LOCAL_BASE = re.compile(rf"^base_model: (?!{_HUB_ID.pattern}$).*\n", re.MULTILINE)

_SCORE = {
    "orm": """from hf_rewardplug import RewardScorer

scorer = RewardScorer.from_pretrained("{name}")
scorer.score([{prompt}], [{answers}])  # a reward each; more is better""",
    "attributes": """from hf_rewardplug import RewardScorer

scorer = RewardScorer.from_pretrained("{name}")
scorer.score_attributes([{prompt}], [{answers}])  # {attributes}
scorer.score([{prompt}], [{answers}])  # their sum with the weights {weights}""",
    "prm": """from hf_rewardplug import RewardScorer

scorer = RewardScorer.from_pretrained("{name}")
scorer.score_steps([{prompt}], [["2 + 2 is 1 + 3.", "So 5."]])  # the probability that each step is right""",
}
_SCORE["lm"] = _SCORE["prm"]
_PLAIN = {
    "orm": """from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("{name}"{dtype})
tokenizer = AutoTokenizer.from_pretrained("{name}")
{messages}model(**{inputs}).logits  # the raw reward""",
    "attributes": """import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("{name}"{dtype})
tokenizer = AutoTokenizer.from_pretrained("{name}")
{messages}outputs = model(**{inputs}).logits  # {attributes}
outputs @ torch.tensor({weights})  # the score""",
    "prm": """import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

model = AutoModelForTokenClassification.from_pretrained("{name}"{dtype})
tokenizer = AutoTokenizer.from_pretrained("{name}")
ids = {ids}
for text in ("2 + 2 is 1 + 3.", {separator!r}):  # a step and its separator, which must not merge
    ids += tokenizer(text, add_special_tokens=False).input_ids
model(input_ids=torch.tensor([ids])).logits[0, -1]{probability}""",
    "lm": """import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
ids = {ids}
for text in ("2 + 2 is 1 + 3.", {separator!r}):  # a step and its separator, which must not merge
    ids += tokenizer(text, add_special_tokens=False).input_ids
labels = tokenizer.convert_tokens_to_ids({labels})  # wrong, right
model(input_ids=torch.tensor([ids])).logits[0, -1, labels].softmax(-1)""",
}
_USER, _ASSISTANT = {"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}
_SERVE = {
    "orm": """vLLM, as its documentation has it (`problem_type="regression"` in the config keeps the reward raw):

```
vllm serve {name} --runner pooling --convert classify
curl localhost:8000/classify -H 'Content-Type: application/json' \\
    -d '{request}'
```""",
    "attributes": """vLLM (`--convert classify`) returns the outputs (by its documentation, not run here);
their weighted sum is the client's to make.""",
    "prm": """vLLM does not serve this model: the heads of its classifiers have no bias, this one has.""",
    "lm": """vLLM serves it as the causal LM that it is (`vllm serve {name}`; by its documentation, not run here). Give
it the token ids up to a step's separator and then each of the tokens {labels} in turn: `prompt_logprobs` has the log
probability of that last token, and the softmax of the two gives those of wrong and right. Nothing but their difference
was trained, so other tokens may be likelier than both.""",
}


def with_usage(card: str, trainer) -> str:
    """TRL's card with this package's sections in place of its quick start."""
    name = trainer.hub_model_id or trainer.args.hub_model_id or _own_name(trainer.args.output_dir)
    description = Description.of(trainer.model.config)
    model_kind = kind_of(type(unwrapped(trainer.model)).__name__, description)
    labels, weights = [description.bad_token, description.good_token], description.attribute_weights
    adapter = is_peft_model(trainer.model)
    plain = name + "-merged" * adapter
    probability = ".sigmoid()  # right" if trainer.model.config.num_labels == 1 else ".softmax(-1)  # wrong, right"
    names = {
        "name": plain,
        "separator": description.step_end,
        "probability": probability,
        "labels": labels,
        "weights": weights,
    }
    names |= {"attributes": ", ".join(map(one_line, trainer.args.attributes)) if weights else ""}
    names |= {"dtype": "" if trainer.model.dtype == torch.float32 else ', dtype="float32"'}  # or the head is rounded
    names |= _turns(plain, description) if description.rows == "turns" else _text(plain, trainer.processing_class)
    alone = not (adapter and trainer.model.active_peft_config.is_prompt_learning)  # which cannot be merged
    beyond = beyond_plain(trainer.model, model_kind)
    sections = [
        f"## Use it\n\n```python\n{_SCORE[model_kind.name].format(**{**names, 'name': name})}\n```",
        "As a reward of TRL, the rows' prompts and the policy's completions:\n\n"
        "```python\ntrainer = GRPOTrainer(policy, reward_funcs=scorer, train_dataset=prompts)\n```",
        *_looks(description),
        *(_without_us(model_kind.name, names, name if adapter else None) if alone and not beyond else ()),
        *([f"Neither transformers alone nor servers load it: the head {beyond}."] if beyond else ()),
        *_figures(trainer),
        *_data(trainer),
    ]
    text = "\n\n".join(sections) + "\n\n"
    card = _LOCAL_MODEL.sub("a local model", _LOCAL_BASE.sub("", card))
    return _QUICK_START.sub(lambda _: text, card, count=1)


def _own_name(folder: str) -> str:
    """A folder as the card calls it: as somebody wrote it, but nobody learns where the home of the writer is.

    >>> _own_name("runs/orm"), _own_name("/home/me/runs/orm")
    ('runs/orm', 'orm')
    """
    return folder if not Path(folder).is_absolute() and ".." not in Path(folder).parts else Path(folder).resolve().name


def fit_names(model_name: str | None, dataset_name: str | None) -> tuple[str | None, str | None]:
    """Names for TRL's template, which puts them into a heading and links: the data set's where it is one of the hub.

    >>> fit_names("# <b>orm</b>", "/home/me/pairs.jsonl"), fit_names("orm", "trl-lib/math_shepherd")
    (('b orm b', None), ('orm', 'trl-lib/math_shepherd'))
    """
    if model_name is not None:
        model_name = " ".join(re.findall(r"[\w.-]+", model_name))
    return model_name, dataset_name if dataset_name and _HUB_ID.fullmatch(dataset_name) else None


def _text(name: str, tokenizer) -> dict[str, str]:
    """The example as text, for a model whose rows were text."""
    whole, bare = (tokenizer("a", add_special_tokens=added).input_ids for added in (True, False))
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    eos = "" if whole[-1] == tokenizer.eos_token_id else tokenizer.eos_token or ""  # some tokenizers put it themselves
    ids = 'tokenizer("What is 2 + 2?").input_ids'
    if whole != bos + bare:
        ids = 'tokenizer("What is 2 + 2?", add_special_tokens=False).input_ids'
        ids = f"[tokenizer.bos_token_id, *{ids}]" if bos else ids
    return {
        "prompt": '"What is 2 + 2?"',
        "answers": '[" 4", " 5"]',
        "messages": "",
        "inputs": f'tokenizer("What is 2 + 2? 4"{" + tokenizer.eos_token" * bool(eos)}, return_tensors="pt")',
        "ids": ids,
        "request": json.dumps({"model": name, "input": f"What is 2 + 2? 4{eos}"}),
    }


def _turns(name: str, description: Description) -> dict[str, str]:
    """The example as turns, for a model whose rows were conversations."""
    kwargs = description.chat_template_kwargs
    more = f", **{kwargs!r}" if kwargs else ""
    prompt = json.dumps([_USER])
    request = {"model": name, "messages": [_USER, _ASSISTANT]} | ({"chat_template_kwargs": kwargs} if kwargs else {})
    return {
        "prompt": prompt,
        "answers": '["4", "5"]',
        "messages": f"messages = {json.dumps([_USER, _ASSISTANT])}\n",
        "inputs": f'tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt"{more})',
        "ids": "tokenizer.apply_chat_template(\n"
        f"    {prompt}, add_generation_prompt=True, return_dict=True{more}\n)['input_ids']",
        "request": json.dumps(request).replace("'", "\\u0027"),  # which would end the shell's text
    }


def _looks(description: Description) -> list[str]:
    """What the rows looked like, so that nobody scores in another form."""
    rows, day, kwargs = description.rows, description.date, description.chat_template_kwargs
    words = {
        "turns": "It was trained on conversations, as the chat template renders them. `RewardScorer` renders strings "
        "as a user's turn and an assistant's (`as_text=True` does not).",
        "text": "It was trained on text, and has seen no conversation as a chat template renders it.",
        "both": "It was trained on text and on conversations, and scores both as they are handed over.",
    }
    sentences = [words[rows]] if rows else []
    if kwargs and rows != "text":
        sentences.append(f"The chat template got {markdown_name(str(kwargs))}, and gets it from `RewardScorer` too.")
    if day and rows != "text":
        sentences.append(f"Where the chat template asks for the date of the day, it is {day} on every day.")
    return [" ".join(sentences)] if sentences else []


def _without_us(form: str, names: dict, adapter: str | None) -> list[str]:
    """transformers alone, and a server."""
    merged = f", after `hf_rewardplug.merge_adapter({adapter!r}, {names['name']!r})`" if adapter else ""
    return [
        f"transformers alone{merged}:\n\n```python\n{_PLAIN[form].format(**names)}\n```",
        _SERVE[form].format(**names),
    ]


def _figures(trainer) -> list[str]:
    """A table of each eval set's last figures."""
    rows = [
        f"| {markdown_name(prefix)} | {markdown_name(key)} | {value:.4g} |"
        for prefix, figures in trainer.evaluated.items()
        for key, value in figures.items()
        if key != "num_tokens"
    ]
    return ["## Held-out figures\n\n| set | figure | value |\n|---|---|---|\n" + "\n".join(rows)] if rows else []


def _data(trainer) -> list[str]:
    """How many rows were seen, and which were left out or cut and why."""
    reports = [str(report) for report in trainer.preparation_reports.values() if report.rows or report.seen is not None]
    text = "\n".join(reports)
    fence = "`" * max([3, *(1 + len(run) for run in re.findall("`+", text))])  # no text of the data ends it
    return [f"## Data\n\n{fence}\n{text}\n{fence}"] if reports else []
