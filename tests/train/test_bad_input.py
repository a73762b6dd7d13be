"""Bad input as a user brings it: one clear error (what, where, remedy) before any step, and nothing is written over.

A case is (id, attempt, pattern of the message[, exception: ValueError if not said]). `orm(...)` and `prm(...)` build a
trainer on a real model and train it; what is a function among their arguments is called with the case's `Place`.
"""

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import FunctionType

import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from rows import conversations, quick, solutions, text_pairs
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from hf_rewardplug import Encoder, PRMConfig, PRMTrainer, RewardConfig, RewardTrainer, register_adapter
from hf_rewardplug.data.adapters import registry
from hf_rewardplug.data.files import load_split
from hf_rewardplug.data.held_out import hold_out
from hf_rewardplug.runs.arguments import parse_recipe
from hf_rewardplug.runs.splits import load_splits

NAN, INF = float("nan"), float("inf")


@dataclass
class Place:
    """Where a case runs: the real model, a folder for its files, and `out`, which holds an earlier run."""

    model: Path
    folder: Path
    trainers: list = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def file(self, name: str, content: str | bytes = b"") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def copy(self, without: str | None = None) -> Path:
        """A writable copy of the model's folder, without the files whose names begin so."""
        for file in self.model.iterdir():
            if without is None or not file.name.startswith(without):
                self.file(f"model/{file.name}", file.read_bytes())
        return self.folder / "model"

    def tokenizer(self, template: str | None = None, folder: str | None = None, **settings):
        tokenizer = AutoTokenizer.from_pretrained(self.model if folder is None else self.model.parent / folder)
        tokenizer.chat_template = template
        for name, value in settings.items():
            setattr(tokenizer, name, value)
        return tokenizer


def made(value, place: Place):
    if isinstance(value, dict):
        return {key: made(one, place) for key, one in value.items()}
    return value(place) if isinstance(value, FunctionType) else value


def rows_of(rows):
    yield from rows


def stream(rows) -> IterableDataset:
    """Rows as they are: Arrow never sees them."""
    return IterableDataset.from_generator(rows_of, gen_kwargs={"rows": tuple(rows)})


def trains(trainer_class, config_class, good: Callable, rows, options: dict, resume=None, **arguments):
    def attempt(place: Place) -> None:
        given = {"model": str(place.model), "train_dataset": good(4) if rows is None else rows, **arguments}
        given = {key: made(value, place) for key, value in given.items()}
        if isinstance(given["train_dataset"], list):
            given["train_dataset"] = Dataset.from_list(given["train_dataset"])
        whole = {"per_device_train_batch_size": 32, "max_steps": 1, **made(options, place)}
        given.setdefault("args", config_class(**quick(place.out, **whole)))
        trainer = trainer_class(**given)
        place.trainers.append(trainer)
        trainer.train(resume_from_checkpoint=made(resume, place))

    return attempt


def orm(rows=None, *, options=(), **arguments):
    return trains(RewardTrainer, RewardConfig, text_pairs, rows, dict(options), **arguments)


def prm(rows=None, *, options=(), **arguments):
    return trains(PRMTrainer, PRMConfig, solutions, rows, dict(options), **arguments)


def adapted(name: str, row: dict, **change):
    """A trainer on four rows of a format, the third one changed."""
    steps = name in ("stepwise_supervised", "math_shepherd", "processbench", "qwen_prm", "prm800k", "step_tree")
    rows, template = stream(third(row, **change)), lambda place: place.tokenizer(PLAIN)
    return (prm if steps else orm)(rows, options={"adapter": name}, processing_class=template)


def third(row: dict, **change) -> list[dict]:
    rows = [dict(row) for _ in range(4)]
    rows[2] = {key: value for key, value in {**row, **change}.items() if value is not GONE}
    return rows


GONE = object()
PAIR = {"prompt": "Name a prime.\n", "chosen": "7", "rejected": "8"}
TALK = conversations(1)[0]
STEPS = {"prompt": "p", "completions": ["one", "two"], "labels": [1, 0]}
TREE = {"prompt": "p", "nodes": [{"text": "one", "label": 1, "parent": -1}, {"text": "two", "label": 0, "parent": 0}]}
USER, SAYS = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def at(column: str, adapter: str = "preference", row: int = 2, name: str = "train") -> str:
    """What each error about a row begins with."""
    return f"^{re.escape(f'{name} data set')}, adapter '{re.escape(adapter)}', row {row}: column '{column}': "


def failing(rows: list[dict], at_row: int):
    for number, row in enumerate(rows):
        if number == at_row:
            raise OSError("the disk is gone")
        yield row


def failing_stream(place: Place) -> IterableDataset:
    return IterableDataset.from_generator(failing, gen_kwargs={"rows": tuple(text_pairs(40)), "at_row": 20})


def third_party(function):
    """A trainer whose rows an adapter of a third party reads."""

    def attempt(place: Place) -> None:
        register_adapter("theirs")(function)
        try:
            orm(options={"adapter": "theirs"})(place)
        finally:
            registry.ADAPTERS.things.pop("theirs")

    return attempt


def predicts(rows):
    def attempt(place: Place) -> None:
        data = {"train_dataset": Dataset.from_list(text_pairs(2))}
        RewardTrainer(str(place.model), RewardConfig(**quick(place.out)), **data).predict(rows)

    return attempt


def truncated(place: Place) -> str:
    folder = place.copy()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    return str(folder)


def pickled(place: Place) -> str:
    folder = place.copy(without="model.safetensors")
    place.file("model/pytorch_model.bin", b"\x80\x02not safe")
    return str(folder)


def reshaped(place: Place) -> str:
    folder = place.copy()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 128}))
    return str(folder)


def loaded(auto_class, **kwargs):
    return lambda place: auto_class.from_pretrained(place.model, **kwargs)


def encoder(**options):
    return lambda place: Encoder(tokenizer=place.tokenizer(), **options)


def splits(name, content=None, split="train", **options):
    """`load_split` of a file with this content (or of a path that is not there)."""

    def attempt(place: Place) -> None:
        if content is not None:
            place.file(name, content)
        list(load_split(str(place.folder / name), split, **options))

    return attempt


def recipe(*words):
    def attempt(place: Place) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["recipe", *words, "--output_dir", str(place.out), "--use_cpu", "true"])
            arguments, args, model_args = parse_recipe(RewardConfig, {}, demo="gemma", deepspeed=place.folder)
            load_splits(arguments, args, model_args, demo="gemma")

    return attempt


def folder_of(*names):
    def attempt(place: Place) -> None:
        (place.folder / "data").mkdir()
        for name in names:
            place.file(f"data/{name}", '{"chosen": "a", "rejected": "b"}\n')
        load_split(str(place.folder / "data"), "train")

    return attempt


def halves(share, rows=4):
    return lambda place: hold_out(Dataset.from_list(text_pairs(rows)), share, seed=0)


def checkpoint(**change):
    """A real checkpoint of two steps with some files changed (None: taken away)."""

    def make(place: Place) -> str:
        options = quick(place.folder / "before", max_steps=1, save_strategy="steps", save_steps=1)
        RewardTrainer(str(place.model), RewardConfig(**options), train_dataset=Dataset.from_list(text_pairs(4))).train()
        folder = place.folder / "before" / "checkpoint-1"
        for name, content in change.items():
            path = next(folder.glob(f"{name}.*"))
            path.unlink() if content is None else path.write_bytes(content)
        return str(folder)

    return make


ULTRA = {"instruction": "p", "completions": [{"response": "a", "score": 1.0}, {"response": "b", "score": 2.0}]}
HELP2 = {"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 1}
HELP3 = {"context": [USER], "response1": "a", "response2": "b", "overall_preference": 1}
FINE = {"prompt": "p", "completions": ["a", "b"], "preference_pairs": [[0, 1]], "preference": [1]}
NECTAR = {"prompt": "\n\nHuman: p", "answers": [{"answer": "a", "rank": 1.0}, {"answer": "b", "rank": 2.0}]}
RANKED = {"prompt": "p", "completions": ["a", "b"], "scores": [1.0, 0.0]}
TERRY = {"input": "p", "chosen": "a", "rejected": "b"}
HH = {"chosen": "\n\nHuman: p\n\nAssistant: a", "rejected": "\n\nHuman: p\n\nAssistant: b"}
SHEPHERD = {"input": "Why? Step 1: a ки", "label": "Why? Step 1: a +"}
BENCH = {"problem": "p", "steps": ["a", "b"], "label": 0}
QWEN = {"prompt": "p", "response": "a<extra_0>b<extra_0>", "labels": ["+", "-"]}
PRM800K = {
    "question": {"problem": "p"},
    "label": {"steps": [{"completions": [{"text": "a", "rating": 1}], "chosen_completion": 0}]},
}

# fmt: off
CONFIGS = [
    ("overlong unknown", orm(options={"overlong": "cut"}), "overlong='cut' is not one of 'drop', 'trunc"),
    ("overlong None", prm(options={"overlong": None}), "overlong=None is not one of 'drop', 'truncate'"),
    ("max_length 0", orm(options={"max_length": 0}), "max_length=0 .*expected a positive"),
    ("max_length as text", orm(options={"max_length": "512"}), "max_length='512' .*expected a positive", TypeError),
    ("max_length True", prm(options={"max_length": True}), "max_length=True .*expected a positive", TypeError),
    ("max_length 5.5", prm(options={"max_length": 5.5}), "max_length=5.5 .*expected a positive", TypeError),
    ("max_completion_length -3", prm(options={"max_completion_length": -3}), "max_completion_length=-3 .*expected"),
    ("token budget -1", orm(options={"max_tokens_per_batch": -1}), "max_tokens_per_batch=-1 .*expected"),
    ("token budget as text", orm(options={"max_tokens_per_batch": "many"}),
     "max_tokens_per_batch='many' .*expected", TypeError),
    ("prefix_sharing as text", orm(options={"prefix_sharing": "no"}), "prefix_sharing='no' .*True or False", TypeError),
    ("group_by_prefix None", prm(options={"group_by_prefix": None}), "group_by_prefix=None .*True or False", TypeError),
    ("mapping as text", orm(options={"column_mapping": "input=prompt"}),
     "column_mapping='input=prompt' .*JSON such as"),
    ("mapping as a list", orm(options={"column_mapping": ["prompt"]}),
     r"column_mapping=\['prompt'\] .*'\{\"input\"", TypeError),
    ("mapping of a number", prm(options={"column_mapping": {"prompt": 0}}),
     r"column_mapping=\{'prompt': 0\} .*'\{\"", TypeError),
    ("mapping to a missing column", orm(options={"column_mapping": {"prompt": "question"}}),
     "^train data set: column_mapping reads 'prompt' from column 'question', which is not there; found"),
    ("mapping to a missing column, named adapter", orm(options={"column_mapping": {"prompt": "question"},
     "adapter": "preference"}),
     "^train data set.*column_mapping reads 'prompt' from column 'question', which is not there; found"),
    ("unknown adapter", orm(options={"adapter": "ultrafedback"}),
     "unknown adapter 'ultrafedback'. .*nearest first: ultrafeedback"),
    ("adapter as a list", prm(options={"adapter": ["prm800k"]}), r"adapter=\['prm800k'\] .*expected text", TypeError),
    ("unknown template", orm(options={"chat_template": "gema"}),
     "Unknown chat template 'gema'. Known: chatml, gemma, llama3.*`chat_template_path`"),
    ("template as a number", prm(options={"chat_template": 3}), "chat_template=3 .*expected text", TypeError),
    ("template without its markers", orm(options={"chat_template": "gemma"}),
     "'gemma' marks turns by <start_of_turn>, <end_of_turn>, which this tokenizer does not have.*Choose a template"),
    ("two templates", prm(options={"chat_template": "gemma", "chat_template_path": "a/model"}),
     "Both `chat_template` and `chat_template_path` are set; give one"),
    ("a template file that is not there", orm(options={"chat_template_path": "no_such.jinja"}),
     "chat_template_path='no_such.jinja' .*is not there"),
    ("a template file that is not Jinja", prm([{**STEPS, "prompt": [USER]}],
     options={"chat_template_path": lambda p: str(p.file("t.jinja", "{% for m in messages %}"))}),
     "row 0: the chat template refuses .*Unexpected end of template"),
    ("separator without a token", prm(options={"step_separator": ""}),
     "step_separator='' leaves no token .*text such as"),
    ("separator None", prm(options={"step_separator": None}), "step_separator=None .*expected text", TypeError),
    ("step token unknown", prm(options={"step_token": "<step>"}), "^step_token='<step>' is not a single"),
    ("step token that merges", prm(options={"step_token": "."}), "^step_token='.' .*Take a reserved"),
    ("num_labels 3", prm(options={"num_labels": 3}), "num_labels=3: a process reward model has 1 or 2"),
    ("num_labels as text", prm(options={"num_labels": "2"}), "num_labels='2': a process reward model has"),
    ("num_labels True", prm(options={"num_labels": True}), "num_labels=True: a process reward model has"),
    ("output_dir is a file", orm(options={"output_dir": lambda p: str(p.file("a_file", b"mine"))}),
     "output_dir='.*a_file' is a file; .*folder"),
    ("dataset_num_proc -1", prm(options={"dataset_num_proc": -1}), "dataset_num_proc=-1 .*expected a positive"),
    ("dataset_num_proc as text", orm(options={"dataset_num_proc": "four"}),
     "dataset_num_proc='four' .*expected a positive", TypeError),
    ("pad to a negative multiple", prm(options={"pad_to_multiple_of": -8}),
     "pad_to_multiple_of=-8 .*expected a positive"),
    ("eos token unknown, ORM", orm(options={"eos_token": "<stop>"}),
     "eos_token.*'<stop>'.* is not (found )?in the .*vocabulary"),
    ("eos token unknown, PRM", prm(options={"eos_token": "<stop>"}),
     "eos_token.*'<stop>'.* is not (found )?in the .*vocabulary"),
    ("model_init_kwargs as text", prm(options={"model_init_kwargs": "fp32"}),
     "model_init_kwargs='fp32' .*expected a dict", TypeError),
    ("dtype unknown", orm(options={"model_init_kwargs": {"dtype": "fp32"}}), "`dtype` .*'float32'"),
    ("a budget for a stream", orm(stream(text_pairs(4)), options={"max_tokens_per_batch": 64}),
     "`max_tokens_per_batch` must see all rows beforehand, but the train data set is a stream"),
    ("a budget for padded batches", prm(options={"max_tokens_per_batch": 64, "prefix_sharing": False}),
     "`max_tokens_per_batch` counts the unique tokens.*Set `per_device_train_batch_size` instead"),
    ("a stream without max_steps", orm(stream(text_pairs(4)), options={"max_steps": -1}), "max_steps"),
]

ARGUMENTS = [
    ("args of another class", orm(args={"output_dir": "out"}),
     "`args` is a builtins.dict; expected hf_rewardplug.RewardConfig", TypeError),
    ("the other trainer's config", prm(args=lambda p: RewardConfig(**quick(p.out))),
     "RewardConfig; expected hf_rewardplug.PRMConfig", TypeError),
    ("the tokenizer's name", orm(processing_class=lambda p: str(p.model)),
     "`processing_class` is a str; expected a tokenizer.*AutoTokenizer.from_pretrained", TypeError),
    ("peft_config as a dict", orm(peft_config={"r": 2}),
     "`peft_config` must be a .*peft.LoraConfig.*got dict", TypeError),
    ("a model's path as a Path", orm(model=lambda p: p.model), "`model` is a PosixPath; expected .* as str", TypeError),
    ("no model, ORM", orm(model=None), "`model` or `model_init` is required"),
    ("no model, PRM", prm(model=None), "`model` or `model_init` is required"),
    ("no train rows", prm(train_dataset=None), "`train_dataset` is required"),
    ("a list of rows", orm(train_dataset=lambda p: tuple(text_pairs(4))), "`Dataset` or `IterableDataset`", TypeError),
    ("all splits as train rows", prm(train_dataset=lambda p: DatasetDict(train=Dataset.from_list(solutions(4)))),
     r"train data set must be a `Dataset` .*got `DatasetDict`.*\['train'\]", TypeError),
    ("all splits as train rows, ORM", orm(train_dataset=lambda p: DatasetDict(train=Dataset.from_list(text_pairs(4)))),
     r"train.* must be a `Dataset` .*got `DatasetDict`.*\['train'\]", TypeError),
    ("a list of eval rows", orm(eval_dataset=text_pairs(2)),
     r"eval data set must be a `Dataset`.*got `list`.*Dataset.from_list\(rows\)", TypeError),
    ("one of two eval sets is a path", prm(eval_dataset={"a": Dataset.from_list(solutions(2)), "b": "held.jsonl"}),
     r"eval \(b\) data set must be a `Dataset`.*got `str`", TypeError),
]

MODELS = [
    ("two labels, ORM", orm(model=loaded(AutoModelForSequenceClassification, num_labels=2)),
     "`num_labels=2`, but reward models require `num_labels=1`"),
    ("three labels, PRM", prm(model=loaded(AutoModelForTokenClassification, num_labels=3)),
     r"`num_labels=3`, but process reward models have 1 or 2. Load it with `AutoModelForTokenClassification"),
    ("a causal LM, ORM", orm(model=loaded(AutoModelForCausalLM)),
     "LlamaForCausalLM.*AutoModelForSequenceClassification"),
    ("a causal LM with one label, ORM", orm(model=loaded(AutoModelForCausalLM, num_labels=1)),
     "LlamaForCausalLM.*AutoModelForSequenceClassification"),
    ("a causal LM, PRM", prm(model=loaded(AutoModelForCausalLM)), "LlamaForCausalLM.*AutoModelForTokenClassification"),
    ("a sequence classifier, PRM", prm(model=loaded(AutoModelForSequenceClassification, num_labels=2)),
     "LlamaForSequenceClassification.*AutoModelForTokenClassification"),
    ("a token classifier, ORM", orm(model=loaded(AutoModelForTokenClassification, num_labels=1)),
     "LlamaForTokenClassification.*AutoModelForSequenceClassification"),
    ("no such path, ORM", orm(model="/no/such/model"), "'/no/such/model' is no folder; expected"),
    ("no such path, PRM", prm(model="/no/such/model"), "'/no/such/model' is no folder; expected"),
    ("a folder without config", orm(model=lambda p: str(p.copy(without="config.json"))),
     "/model. .*config.json"),
    ("a folder without a tokenizer", prm(model=lambda p: str(p.copy(without="tokenizer"))),
     "/model' has no tokenizer that can be loaded.*`processing_class`"),
    ("truncated weights, ORM", orm(model=truncated), "/model' cannot be loaded: model.safetensors is cut off.* again"),
    ("truncated weights, PRM", prm(model=truncated), "/model' cannot be loaded: model.safetensors is cut off.* again"),
    ("weights as a pickle alone", orm(model=pickled), "/model' holds .*pickle .pytorch_model.bin.*Convert it to"),
    ("weights of another shape", prm(model=reshaped), "/model.*shape"),
    ("a tokenizer of another model, ORM", orm(processing_class=lambda p: p.tokenizer(folder="tokenizers/qwen2_5")),
     "tokenizer knows 151643 tokens, but the model's embedding has 512 rows.*Leave `processing_class` out"),
    ("a tokenizer of another model, PRM", prm(processing_class=lambda p: p.tokenizer(folder="tokenizers/qwen2_5")),
     "tokenizer knows 151643 tokens, but the model's embedding has 512 rows.*Leave `processing_class` out"),
]

PAIRS = [
    ("0 rows", orm(Dataset.from_list([])), "The train data set has no rows"),
    ("0 rows of a stream", orm(stream([])), "The train data set has no rows"),
    ("0 rows of one eval set", orm(eval_dataset={"a": Dataset.from_list(text_pairs(2)), "b": Dataset.from_list([])}),
     r"The (eval \()?b\)? data set has no rows"),
    ("unknown columns", orm([{"q": "a", "a": "b"}]),
     r"^train data set: no known format fits the columns \['q', 'a'\].*Rename with column_mapping"),
    ("unknown columns of an eval set", orm(eval_dataset=Dataset.from_list([{"q": "a", "a": "b"}])),
     r"^eval data set: no known format fits the columns \['q', 'a'\].*Rename with column_mapping"),
    ("steps for the ORM", orm(solutions(2)), "row 0: a stepwise row cannot train .*Use PRMTrainer"),
    ("None chosen", orm(third(PAIR, chosen=None)), at("chosen") + "expected .*found None"),
    ("a row of nothing but None", orm(third(PAIR, prompt=None, chosen=None, rejected=None)),
     at("chosen") + "expected .*found None"),
    ("a column of numbers", orm([{**PAIR, "chosen": 7}] * 2), at("chosen", row=0) + "expected .*found 7"),
    ("one number among texts", orm(stream(third(PAIR, rejected=7))), at("rejected") + "expected .*found 7"),
    ("empty text", orm(third(PAIR, chosen="")), at("chosen") + "is empty text"),
    ("a missing column", orm(stream(third(PAIR, rejected=GONE))), at("rejected") + "expected text .*found None"),
    ("lone surrogates", orm(stream(third(PAIR, chosen="a \ud83d b"))), at("chosen") + "broken unicode at character 2"),
    ("lone surrogates in a role", orm(stream(third(TALK, chosen=[{"role": "\ud83d", "content": "a"}])),
     processing_class=lambda p: p.tokenizer(PLAIN)),
     at("chosen") + "broken unicode at character 0"),
    ("NaN margin", orm(third({**PAIR, "margin": 1.0}, margin=NAN)),
     at("margin") + "expected a finite number, found nan"),
    ("infinite margin", orm(stream(third({**PAIR, "margin": 1.0}, margin=-INF))),
     at("margin") + "expected a finite number, found -inf"),
    ("margins as text", orm([{**PAIR, "margin": "1.0"}] * 3),
     at("margin", row=0) + "expected a finite number, found '1.0'"),
    ("margin in some rows", orm(third({**PAIR, "margin": 1.0}, margin=None)),
     at("margin") + "is None; every row needs a margin"),
    ("margin in some rows of a stream", orm(stream(third(PAIR, margin=1.0))),
     at("margin", row=0) + "is None; every row needs a margin where the column exists"),
    ("margin in later rows of a stream", orm(stream([PAIR] * 16 + [{**PAIR, "margin": 1.0}])),
     "train data set: 'margin' is there in row 16, unlike in the rows before. Give every row one, or none"),
    ("all pairs identical", orm([{**PAIR, "chosen": "8"}] * 3),
     r"No example is left of the train data set's 3 rows. Name another.*chosen and rejected are identical: 3 \(rows"),
    ("rows that make no whole batch", orm([PAIR] * 3, options={"dataloader_drop_last": True,
     "per_device_train_batch_size": 8}), "dataloader_drop_last=True leaves nothing of the train data set: its 3 rows"),
    ("offloading without an accelerator", orm([PAIR] * 3, options={"activation_offloading": True}),
     "activation_offloading=True .* this run is on the CPU. Leave it out"),
    ("one giant row", orm([{**PAIR, "chosen": "cat " * 20_000}], options={"max_length": 64}),
     r"No example is left of the train data set's 1 rows. A larger `max_length`.*longer than max_length=64: 1"),
    ("one giant row of a stream", orm(stream([{**PAIR, "chosen": "cat " * 20_000}]), options={"max_length": 64}),
     "The train stream gave no example.*`max_length`"),
    ("one giant row, overlong='error'", orm(third(PAIR, chosen="cat " * 2000), options={"overlong": "error",
     "max_length": 64}),
     r"train .*row 2: \d+ tokens are more than max_length=64. Raise max_length, or set overlong='drop'"),
    ("text and messages in a row", orm(stream(third(PAIR, chosen=[SAYS]))),
     at("rejected") + "expected a list of messages .*found '8'"),
    ("prompt of another type", orm(stream(third(PAIR, prompt={"text": "Hi"}))),
     at("prompt") + "message 0 is {'text': 'Hi'}; expected {'role': ..., 'content': ...}"),
    ("prompt of another type in chosen", orm(stream(third({**TALK, "prompt": "Hi"}, chosen=[USER, SAYS])),
     processing_class=lambda p: p.tokenizer(PLAIN)),
     at("rejected") + "begins with role 'assistant', 'chosen' with 'user'; expected two answers, or two whole"),
    ("conversations without a template", orm(conversations(3)),
     "row 0: the row is a conversation, but the tokenizer has no chat template. Set `chat_template` to 'gemma'"),
    ("a role that the template refuses", orm(third(TALK, chosen=[{**SAYS, "role": "user"}]),
     processing_class=lambda p: p.tokenizer(ALTERNATING)),
     r"row 2: the chat template refuses the conversation \(user, user\): roles must alternate"),
    ("a message without content", orm(stream(third(TALK, chosen=[{"role": "assistant"}])),
     processing_class=lambda p: p.tokenizer(PLAIN)),
     at("chosen") + r"message 0 \(assistant\) has no content"),
    ("content as a number", orm(stream(third(TALK, chosen=[{**SAYS, "content": 7}])),
     processing_class=lambda p: p.tokenizer(PLAIN)),
     at("chosen") + "message 0 has content 7; expected text"),
    ("content with an image", orm(stream(third(TALK, prompt=[{"role": "user", "content": [{"type": "image",
     "image": "a.png"}]}])), processing_class=lambda p: p.tokenizer(PLAIN)),
     at("prompt") + r"message 0 \(user\) holds 'image', but .* text alone"),
    ("a message without a role", orm(stream(third(TALK, rejected=[{"content": "a"}])),
     processing_class=lambda p: p.tokenizer(PLAIN)),
     at("rejected") + "message 0 is .*expected {'role': ..., 'content': ...}"),
    ("an empty conversation", orm(stream(third(TALK, chosen=[])), processing_class=lambda p: p.tokenizer(PLAIN)),
     at("chosen") + "expected a list of messages that is not empty"),
    ("tools that are no JSON", orm(third({**TALK, "tools": "[]"}, tools="[look"),
     processing_class=lambda p: p.tokenizer(PLAIN)),
     at("tools") + "is not JSON"),
    ("a bad row of an eval stream", orm(eval_dataset={"held": stream([{**PAIR, "chosen": None}])},
     options={"eval_on_start": True, "eval_strategy": "steps"}),
     r"held\)? data set, adapter 'preference', row 0: column 'chosen': expected"),
    ("a bad row of an eval set", orm(eval_dataset=Dataset.from_list(third(PAIR, chosen=None))),
     at("chosen", name="eval") + "expected"),
    ("a bad row 20 of a stream", orm(stream([*[PAIR] * 20, {**PAIR, "chosen": 3}])), at("chosen", row=20)),
    ("a stream that fails at row 20", orm(failing_stream), "the disk is gone", OSError),
    ("empty token lists", orm([{"chosen_ids": [4, 5], "rejected_ids": [4]}, {"chosen_ids": [], "rejected_ids": [6]}]),
     "tokenized data, row 1: column 'chosen_ids': expected a list of token ids that is not empty"),
    ("token ids as text", orm([{"chosen_ids": "4 5", "rejected_ids": "4 6"}]),
     "tokenized data, row 0: column 'chosen_ids': expected a list of token ids"),
    ("a template that writes nothing of an answer", orm(third({"chosen": [SAYS], "rejected": [USER]}, chosen=[{**SAYS,
     "content": ""}]), processing_class=lambda p: p.tokenizer("{% for m in messages %}{{m.content}}{% endfor %}")),
     at("chosen") + "gives no token: the text or the chat template is empty"),
    ("an unknown role", orm(third(TALK, prompt=[{**USER, "role": "narrator"}]),
     processing_class=lambda p: p.tokenizer(ALTERNATING)),
     r"row 2: the chat template refuses the conversation \(narrator, assistant\): roles must alternate"),
    ("rows to predict as a list", predicts(text_pairs(2)), "test data set must be a `Dataset`.*got `list`", TypeError),
    ("a bad row to predict", predicts(Dataset.from_list(third(PAIR, rejected=""))),
     at("rejected", name="test") + "is empty text"),
    ("a negative token id", orm([{"chosen_ids": [4, -5], "rejected_ids": [4]}]),
     "tokenized data, row 0: column 'chosen_ids': token id -5 is negative"),
    ("a token id beyond the vocabulary", orm([{"chosen_ids": [4, 5], "rejected_ids": [4]}, {"chosen_ids": [4, 5000],
     "rejected_ids": [4]}]),
     "row 1: column 'chosen_ids': token id 5000 is outside the model's vocabulary of 512. Take the model's own"),
    ("NaN margin of tokenized rows", orm([{"chosen_ids": [4, 5], "rejected_ids": [4], "margin": NAN}]),
     "tokenized data, row 0: column 'margin': expected a finite number, found nan"),
]

STEP_ROWS = [
    ("pairs for the PRM", prm(text_pairs(2)), "row 0: a preference row cannot train .*Use RewardTrainer"),
    ("a label of 2", prm(third(STEPS, labels=[1, 2])), at("labels", "stepwise_supervised") + "label 1 is 2"),
    ("a label of -1", prm(third(STEPS, labels=[-1, 0])), at("labels", "stepwise_supervised") + "label 0 is -1"),
    ("labels as text", prm([{**STEPS, "labels": ["yes", "no"]}]),
     at("labels", "stepwise_supervised", 0) + "label 0 is 'yes'; expected a bool, 0, 1.*Map other ratings"),
    ("a label None", prm(third(STEPS, labels=[1, None])),
     at("labels", "stepwise_supervised") + "label 1 is None; expected a bool"),
    ("a label NaN", prm(third({**STEPS, "labels": [1.0, 0.0]}, labels=[NAN, 0.0])),
     at("labels", "stepwise_supervised") + "label 0 is nan; expected a bool"),
    ("labels None", prm(third(STEPS, labels=None)),
     at("labels", "stepwise_supervised") + "expected a list, found None"),
    ("too few labels", prm(third(STEPS, labels=[1])), at("labels", "stepwise_supervised") + "1 labels for 2 steps"),
    ("nested labels", prm([{**STEPS, "labels": [[1], [0]]}]),
     at("labels", "stepwise_supervised", 0) + r"label 0 is \[1\]; expected a bool"),
    ("empty steps only", prm([{**STEPS, "completions": ["", " "]}] * 2),
     r"No example is left of the train data set's 2 rows.*a step is empty: 2 \(rows 0, 1\)"),
    ("no steps at all", prm(stream([{**STEPS, "completions": [], "labels": []}] * 2)),
     "The train stream gave no example"),
    ("nothing labelled", prm([{**STEPS, "labels": [-100, -100]}]),
     r"No example is left of the train data set's 1 rows.*no labelled step: 1 \(row 0\)"),
    ("a step that is a number", prm(stream(third(STEPS, completions=["a", 3]))),
     at("completions", "stepwise_supervised") + "step 1 is 3; expected text"),
    ("steps as messages", prm([{**STEPS, "completions": [SAYS, SAYS]}]),
     at("completions", "stepwise_supervised", 0) + "step 0 is {.*; expected text"),
    ("lone surrogates in a step", prm(stream(third(STEPS, completions=["a", "\udc00"]))),
     at("completions", "stepwise_supervised") + "broken unicode at character 0"),
    ("no prompt", prm(stream(third(STEPS, prompt=GONE))),
     at("prompt", "stepwise_supervised") + "expected text or a list of messages, found None"),
    ("one giant row of steps", prm([{**STEPS, "completions": ["cat " * 9000, "b"]}], options={"max_length": 64}),
     r"No example is left of the train data set's 1 rows. .*the first step is longer than max_length=64"),
    ("a bad eval row", prm(eval_dataset={"held": Dataset.from_list(third(STEPS, labels=[3, 0]))}),
     at("labels", "stepwise_supervised", name=r"eval (held)") + "label 0 is 3"),
    ("a bad row 20 of a step stream", prm(stream([*[STEPS] * 20, {**STEPS, "labels": [0]}])),
     at("labels", "stepwise_supervised", 20) + "1 labels for 2 steps"),
    ("labels of tokens too few", prm([{"input_ids": [4, 5, 6], "labels": [-100, 1]}]),
     "tokenized data, row 0: column 'labels': 2 labels for 3 tokens"),
    ("labels of tokens out of range", prm([{"input_ids": [4, 5, 6], "labels": [-100, 1, 7]}]),
     "tokenized data, row 0: column 'labels': label 2 is 7; expected -100 or a number in"),
    ("labels of tokens as text", prm([{"input_ids": [4, 5], "labels": ["-100", "1"]}]),
     "tokenized data, row 0: column 'labels': label 0 is '-100'; expected -100 or a number in"),
    ("a token id beyond the vocabulary, PRM", prm([{"input_ids": [4, 9999], "labels": [-100, 1]}]),
     "row 0: column 'input_ids': token id 9999 is outside the model's vocabulary of 512. Take the model's own"),
    ("labels of tokens too few in an eval set", prm(eval_dataset=Dataset.from_list([{"input_ids": [4, 5, 6],
     "labels": [1]}])),
     "^eval data set, tokenized data, row 0: column 'labels': 1 labels for 3 tokens"),
    ("a tokenized tree with broken lengths", prm([{"input_ids": [4, 5], "labels": [-100, 1], "node_lengths": [1, 5],
     "node_parents": [-1, 0]}]),
     "tokenized data, row 0: column 'node_lengths': the nodes' lengths must add up to the tokens"),
    ("a tokenized tree with a None parent", prm([{"input_ids": [4, 5], "labels": [-100, 1], "node_lengths": [1, 1],
     "node_parents": [-1, None]}]),
     "tokenized data, row 0: column 'node_lengths': .*`node_parents` must name an earlier node"),
]

ADAPTERS = [
    ("skywork", adapted("skywork", TALK, chosen=None), at("chosen", "skywork") + "expected a list of"),
    ("HH", adapted("hh_rlhf", HH, chosen="Human: p"), at("chosen", "hh_rlhf") + "expected text that begins"),
    ("Bradley-Terry", adapted("bradley_terry.chat_template", TERRY, system=3),
     at("system", "bradley_terry.chat_template") + "expected text, found 3"),
    ("Llama 3 icr", adapted("bradley_terry.llama3.icr", TERRY, input=GONE),
     at("input", "bradley_terry.llama3.icr") + "expected text, found None"),
    ("HelpSteer2", adapted("helpsteer2", HELP2, preference_strength="2"),
     at("preference_strength", "helpsteer2") + "expected a finite number, found '2'"),
    ("HelpSteer3", adapted("helpsteer3", HELP3, context="Hi"),
     at("context", "helpsteer3") + "expected a list of messages"),
    ("FineGrainedRLHF", adapted("finegrained_rlhf", FINE, preference_pairs=[[0, 7]]),
     at("preference_pairs", "finegrained_rlhf") + "expected pairs of indices below 2"),
    ("UltraFeedback", adapted("ultrafeedback", ULTRA, completions=[{"response": "a", "score": "good"}]),
     at("completions.score", "ultrafeedback") + "expected a finite number, found 'good'"),
    ("Nectar", adapted("nectar", NECTAR, answers=[{"answer": "a"}]), at("answers.rank", "nectar") + "is missing"),
    ("ranked", adapted("ranked", RANKED, scores=[NAN, 1]), at("scores", "ranked") + "expected a finite"),
    ("ranked, too few scores", adapted("ranked", RANKED, scores=[1.0]),
     at("scores", "ranked") + "1 scores for 2 completions"),
    ("Math-Shepherd", adapted("math_shepherd", SHEPHERD, label="Why? Step 1: a ?"),
     at("label", "math_shepherd") + r"expected '\+' or '-' at character 15, found '\?'"),
    ("ProcessBench", adapted("processbench", BENCH, label=5),
     at("label", "processbench") + "the first wrong step is 5, outside the 2 steps"),
    ("Qwen", adapted("qwen_prm", QWEN, labels=["+"]),
     at("labels", "qwen_prm") + "1 labels for 2 steps divided by <extra_0>"),
    ("PRM800K", adapted("prm800k", PRM800K, label={"steps": [{"completions": [{"text": "a", "rating": 5}]}]}),
     at("label.steps", "prm800k") + r"rating 5 has no label; labels are given for \[-1, 0, 1, None\]"),
    ("PRM800K, completions as text", adapted("prm800k", PRM800K, label={"steps": [{"completions": "a"}]}),
     at("label.steps", "prm800k") + "expected a list of completions, found 'a'"),
    ("PRM800K, completions as a number", adapted("prm800k", PRM800K, label={"steps": [{"completions": 7}]}),
     at("label.steps", "prm800k") + "expected a list of completions, found 7"),
    ("a tree with a later parent", adapted("step_tree", TREE, nodes=[{"text": "a", "label": 1, "parent": 1}]),
     at("nodes", "step_tree") + r"node 0 has parent 1; expected -1 \(the prompt\) or an earlier node"),
    ("a tree with a parent as text", adapted("step_tree", TREE, nodes=[{"text": "a", "label": 1, "parent": "root"}]),
     at("nodes", "step_tree") + "node 0 has parent 'root'; expected -1"),
    ("a tree without a label", adapted("step_tree", TREE, nodes=[{"text": "a", "parent": -1}]),
     at("nodes", "step_tree") + "label 0 is None; expected a bool"),
    ("an adapter that returns a number", third_party(lambda row: 3),
     "train data set, adapter 'theirs', row 0: .*returned int; expected a row"),
    ("an adapter that returns a list of numbers", third_party(lambda row: [3]),
     "train data set, adapter 'theirs', row 0: .*returned a list with int; expected a row"),
    ("an adapter that fails", third_party(lambda row: 1 / 0),
     "train data set, adapter 'theirs', row 0: ZeroDivisionError: division by zero"),
]

SCRIPTS = [
    ("Encoder, overlong", encoder(overlong="cut"), "overlong='cut' is not one of 'drop'"),
    ("Encoder, max_length 0", encoder(max_length=0), "max_length=0 .*expected a positive"),
    ("Encoder, max_length as text", encoder(max_length="9"), "max_length='9' .*expected a positive", TypeError),
    ("no such file", splits("pairs.jsonl"), "pairs.jsonl' is neither a file or folder here nor"),
    ("no such folder", lambda p: load_split("./no/such/folder", "train"), "'./no/such/folder' is neither a file or"),
    ("a data set of the hub that is not there", lambda p: load_split("nobody/nothing", "train"),
     "'nobody/nothing' is neither"),
    ("an empty folder", folder_of(), "/data' holds nothing; expected .json, .jsonl, .csv, .*files"),
    ("a mixed folder", folder_of("a.jsonl", "b.parquet"),
     "/data' holds a.jsonl, b.parquet; expected .json, .jsonl, .csv, .parquet, .arrow files of one kind"),
    ("a folder of another kind", folder_of("a.txt"), "/data' holds .*a.txt.*expected .json, .jsonl, .csv, .parquet"),
    ("a file of another kind", splits("a.txt", "hello"), "a.txt' holds a.txt; expected .json, .jsonl, .csv, .parquet"),
    ("an empty file", splits("a.jsonl", ""), "a.jsonl' is empty"),
    ("a broken line", splits("a.jsonl", '{"chosen": "a"}\n{"chosen": "b"\n{"chosen": "c"}\n'),
     "a.jsonl', line 2: no JSON: Expecting ',' delimiter.*one JSON object a line"),
    ("a broken line of a stream", splits("a.jsonl", '{"chosen": "a"}\n{"chosen": "b"\n{"chosen": "c"}\n',
     streaming=True),
     "a.jsonl', line 2: "),
    ("a broken array", splits("a.json", '[{"chosen": "a"}, {"chosen"'), "a.json', line 1: no JSON: Exp"),
    ("a line that is no object", splits("a.jsonl", '{"chosen": "a"}\n[1]\n'),
     "a.jsonl', line 2: found list; .*Expected one JSON object a line"),
    ("another encoding than UTF-8", splits("a.jsonl", b'{"chosen": "a"}\n{"chosen": "\xe9t\xe9"}\n'),
     "a.jsonl', line 2: .*decode byte 0xe9.*UTF-8"),
    ("a cell too few", splits("a.csv", "prompt,chosen\na\n"), "a.csv', line 2: 1 cells, but the header has 2 "),
    ("a list in a cell", splits("a.csv", 'scores\n"[1, 2]"\n'), "a.csv', line 2: column 'scores' holds a list .*jsonl"),
    ("half a gzip file", splits("a.jsonl.gz", gzip.compress(b'{"chosen": "a"}')[:-9]), "gz', line 1: no more can"),
    ("a broken parquet file", splits("a.parquet", b"PAR1 and no more"), "a.parquet' is no whole parquet file: "),
    ("nothing to hold out", halves(0.0), "test_size=0.0 .*between 0 and 1"),
    ("everything held out", halves(1.0), "test_size=1.0 .*between 0 and 1"),
    ("test_size as text", halves("half"), "test_size='half' .*between 0 and 1"),
    ("one prompt to split", halves(0.5, rows=1), "1 rows with 1 different prompts cannot be split.*eval_dataset_name"),
    ("no data set", recipe(), "dataset_name.*--demo"),
    ("an unknown flag", recipe("--overlng", "drop"), "--overlng"),
]

CHECKPOINTS = [  # checkpoints
    ("no such checkpoint", orm(resume=lambda p: str(p.folder / "none")), "/none' .*no such folder. Give another"),
    ("resume from a file", orm(resume=lambda p: str(p.file("weights"))), "/weights' .*no such folder. Give another"),
    ("resume True without one", prm(resume=True, options={"output_dir": lambda p: str(p.folder / "new")}),
     "resume_from_checkpoint=True, but output_dir='.*/new' has no checkpoint. Leave it out"),
    ("a checkpoint without weights", orm(resume=checkpoint(model=None)),
     "checkpoint-1' cannot be resumed from: model.safetensors.* Give another"),
    ("a checkpoint with half its weights", orm(resume=checkpoint(model=b"half")),
     "checkpoint-1' cannot be resumed from: model.safetensors.* Give another"),
    ("a checkpoint without its state", orm(resume=checkpoint(trainer_state=None)),
     "checkpoint-1' cannot be resumed from: trainer_state.json.* Give another"),
    ("a checkpoint with half its state", orm(resume=checkpoint(trainer_state=b'{"global')),
     "checkpoint-1' cannot be resumed from: trainer_state.json.* Give another"),
    ("a checkpoint with half its optimizer", orm(resume=checkpoint(optimizer=b"half")),
     "checkpoint-1' cannot be resumed from: optimizer.pt.* Give another"),
]
# fmt: on

CASES = list(chain(CONFIGS, ARGUMENTS, MODELS, PAIRS, STEP_ROWS, ADAPTERS, SCRIPTS, CHECKPOINTS))
assert len(CASES) == len({name for name, *_ in CASES}) >= 70


@pytest.fixture
def place(assets, tmp_path):
    place = Place(assets / "stories260K", tmp_path)
    place.file("out/model.safetensors", b"an earlier model")
    place.file("out/checkpoint-1/trainer_state.json", b"{}")
    place.file("out/notes.txt", b"mine")
    return place


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, *case in CASES])
def test_bad_input_is_one_clear_error_before_any_step(case, place):
    attempt, pattern, kind = (*case, ValueError)[:3]
    before = contents(place.out)
    with pytest.raises(kind) as raised:
        attempt(place)
    error = raised.value
    assert type(error).__module__.startswith(("builtins", "hf_rewardplug.")), type(error)
    assert type(error) not in (KeyError, IndexError, AttributeError, UnicodeEncodeError, UnicodeDecodeError)
    assert error.__context__ is None or error.__suppress_context__
    assert re.search(pattern, str(error), re.DOTALL), str(error)
    assert contents(place.out) == before
    assert all(trainer.state.global_step == 0 for trainer in place.trainers)


def with_pickled_weights(place: Place) -> str:
    folder = place.copy(without="model.safetensors")
    torch.save(AutoModelForCausalLM.from_pretrained(place.model).state_dict(), folder / "pytorch_model.bin")
    return str(folder)


GOOD = [
    (
        "weights in a pickle, as asked for",
        orm(model=with_pickled_weights, options={"model_init_kwargs": {"use_safetensors": False}}),
    ),
    ("one file with other rows", orm(lambda p: load_split(str(p.file("a.jsonl", json.dumps(PAIR) + "\n\n")), "train"))),
    ("a tokenizer without a pad token", orm(processing_class=lambda p: p.tokenizer(pad_token=None))),
    ("a tokenizer without a pad token, PRM", prm(processing_class=lambda p: p.tokenizer(pad_token=None))),
    ("a tokenizer without eos", orm(processing_class=lambda p: p.tokenizer(eos_token=None))),
    ("a tokenizer without eos, PRM", prm(processing_class=lambda p: p.tokenizer(eos_token=None))),
    ("a tokenizer without bos", prm(processing_class=lambda p: p.tokenizer(bos_token=None))),
    ("whole labels as floats", prm([{**STEPS, "labels": [1.0, 0.0]}] * 2)),
    ("unlabelled steps", prm([{**STEPS, "labels": [-100, 1]}] * 2)),
    ("an empty prompt", prm([{**STEPS, "prompt": ""}] * 2)),
    ("whole margins", orm([{**PAIR, "margin": 1}] * 2)),
    ("a prompt None in some rows", orm(third(PAIR, prompt=None))),
    ("one row", orm([PAIR])),
    ("a subset by index", orm(lambda p: Dataset.from_list(text_pairs(9)).select([8, 0, 3]))),
    (
        "subsets as numbers",
        orm(
            eval_dataset=Dataset.from_list([{**PAIR, "subset": 1}, {**PAIR, "subset": 2}]),
            options={"eval_strategy": "steps", "eval_steps": 1},
        ),
    ),
    ("a column more", prm([{**STEPS, "source": None}] * 2)),
    ("torch format", orm(lambda p: Dataset.from_list([{**PAIR, "margin": 1.0}] * 2).with_format("torch"))),
    ("a row left out of a stream", orm(stream(third(PAIR, chosen="8")))),
    ("emoji and no-break spaces", orm([{**PAIR, "chosen": "\U0001f600\u00a0\x00"}] * 2)),
]


@pytest.mark.parametrize("attempt", [pytest.param(attempt, id=name) for name, attempt in GOOD])
def test_odd_but_good_input_trains_a_step(attempt, place):
    attempt(place)
    (trainer,) = place.trainers
    assert trainer.state.global_step == 1
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
