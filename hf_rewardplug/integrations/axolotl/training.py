"""An axolotl config trained without axolotl: what `rewardplug train` and `python -m hf_rewardplug.train` run.

In: a YAML file. Out: a trained model in its `output_dir`, `eval_results.json` and a table where rows are held out.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import AutoTokenizer, BitsAndBytesConfig, EarlyStoppingCallback, PreTrainedTokenizerBase
from transformers.integrations import get_available_reporting_integrations
from transformers.utils import is_torch_bf16_gpu_available

from ... import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer
from ...data.chat_templates import set_chat_template
from ...data.yaml_file import read_yaml
from ...runs.launchers import deepspeed_on_cpu, on_cpu_under_launcher
from ...runs.training import run
from ...train.checkpoint_files import AUTO
from .config import Settings, translate
from .data import train_and_held_out

_CLASSES = {"orm": (RewardTrainer, RewardConfig), "prm": (PRMTrainer, PRMConfig)}


def train_file(path: str | Path, *, say: Callable[[str], Any] = print) -> dict[str, float]:
    """Train what the config says, after naming each key that is not taken.

    Returns:
        The figures of the held-out rows; {} without such rows.

    Raises:
        ValueError: the file or a value in it cannot be used.
    """
    settings = translate(read_yaml(path), bf16_here=is_torch_bf16_gpu_available())
    if int(os.environ.get("RANK", 0)) == 0:
        for key, why in settings.ignored.items():
            say(f"not taken  {key}: {why}")
    return run(make_trainer(settings))


def make_trainer(settings: Settings):
    """The trainer of a run, its data loaded and encoded.

    Raises:
        ValueError: DeepSpeed or FSDP without a launcher, or whatever the config and the trainer refuse.
    """
    for tracker in settings.config["report_to"]:
        if tracker not in get_available_reporting_integrations():
            raise ValueError(f"The tracker {tracker} is not installed. Install it, or take its keys out.")
    os.environ.update(settings.environment)
    trainer_class, config_class = _CLASSES[settings.task]
    args = config_class(**_arguments(settings))
    with args.main_process_first(desc="loading data"):
        train, held_out = train_and_held_out(
            settings.entries,
            test_entries=settings.test_entries,
            val_set_size=settings.val_set_size,
            seed=args.seed,
            ordered=settings.ordered,
            on_bad_row=args.on_bad_row,
        )
    return trainer_class(
        model=settings.model,
        args=args,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=_tokenizer(settings),
        callbacks=None if settings.patience is None else [EarlyStoppingCallback(settings.patience)],
        peft_config=None if settings.peft is None else LoraConfig(**settings.peft),
        quantization_config=None if settings.quantization is None else BitsAndBytesConfig(**settings.quantization),
    )


def _arguments(settings: Settings) -> dict[str, Any]:
    arguments = dict(settings.config)
    for key in ("deepspeed", "fsdp"):
        if key in arguments and "LOCAL_RANK" not in os.environ:
            raise ValueError(f"`{key}` needs a launcher: accelerate launch -m hf_rewardplug.train CONFIG.")
    if on_cpu_under_launcher():  # ranks find each other over gloo, or each trains by itself
        if "fsdp" in arguments:
            raise ValueError("`fsdp_config` shards a model over GPUs. Take it out: ranks on CPUs have whole ones.")
        arguments |= {"accelerator_config": deepspeed_on_cpu()} if "deepspeed" in arguments else {"use_cpu": True}
    if settings.auto_resume:
        arguments.setdefault("resume_from_checkpoint", AUTO)
    return arguments


def _tokenizer(settings: Settings) -> PreTrainedTokenizerBase | None:
    """The tokenizer; None where the trainer can load the model's own as it is."""
    if not (settings.tokenizer or settings.special_tokens or settings.template):
        return None
    source = settings.tokenizer or settings.model
    trust = settings.config.get("trust_remote_code", False)
    revision = None if settings.tokenizer else settings.config["model_init_kwargs"].get("revision")
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust, revision=revision)
    for name, token in settings.special_tokens.items():
        if name not in ("pad_token", "eos_token", "bos_token", "unk_token") or token not in tokenizer.get_vocab():
            raise ValueError(
                f"`special_tokens.{name}: {token}`: expected pad_token, eos_token, bos_token or unk_token, and a token "
                "of the vocabulary. Add tokens to the model and its tokenizer first."
            )
        setattr(tokenizer, name, token)
    if settings.template is not None:
        _set_template(tokenizer, *settings.template)
    return tokenizer


def _set_template(tokenizer: PreTrainedTokenizerBase, how: str, what: str) -> None:
    if how == "own" and what not in (tokenizer.chat_template or ""):
        raise ValueError(
            f"`chat_template`: the tokenizer of '{tokenizer.name_or_path}' has no template of its family, with {what}. "
            "Take gemma, chatml or llama3, or give the template: `chat_template: jinja` with `chat_template_jinja`."
        )
    if how == "fallback" and tokenizer.chat_template is None:
        set_chat_template(tokenizer, what)
    if how == "file" and not Path(what).is_file():
        raise ValueError(f"`chat_template_jinja`: there is no file '{what}', and it is no template (with braces).")
    if how in ("text", "file"):
        tokenizer.chat_template = what if how == "text" else Path(what).read_text(encoding="utf-8")
