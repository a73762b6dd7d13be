"""Checkpoints that the trainers saved after three steps on stories260K, one of each kind a test process."""

import atexit
import functools
import shutil
import tempfile

from datasets import Dataset
from peft import LoraConfig
from rows import quick, solutions, text_pairs
from transformers import AutoTokenizer

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"


@functools.cache
def checkpoint(kind: str, base: str) -> str:
    """The folder of an "orm", a "prm", a "lora" or a "bf16" one. Copy it before you change it."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    steps = kind == "prm"
    trainer_class, config_class = (PRMTrainer, PRMConfig) if steps else (RewardTrainer, RewardConfig)
    options = {"model_init_kwargs": {"dtype": "bfloat16"}} if kind == "bf16" else {}
    rows = Dataset.from_list(solutions(10) if steps else text_pairs(12))
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    trainer = trainer_class(
        base,
        config_class(**quick(folder, learning_rate=1e-2, **options)),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=2, target_modules="all-linear") if kind == "lora" else None,
    )
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    return folder
