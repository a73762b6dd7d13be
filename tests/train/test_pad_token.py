"""The pad token ends no sequence, whatever ends it: training, the scorer and plain transformers score one token."""

import logging

import pytest
import torch
import transformers
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassFieldValidationError
from peft import LoraConfig
from rows import conversations, quick, text_pairs
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from hf_rewardplug import RewardConfig, RewardScorer, RewardTrainer, merge_adapter
from hf_rewardplug.demo import save_demo_model
from hf_rewardplug.model.loading import choose_pad_token
from hf_rewardplug.score.check import check_model

CHATML = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' + m['content'] + '<end_of_turn>' }}"
    "{% endfor %}"
)
ARGUED = CHATML + "{% if closed %}{{ '<|im_start|>' }}{% endif %}"
"""ends in another token where an argument says so"""

ENDINGS = {
    "qwen": (CHATML, "<|endoftext|>", "<|im_end|>"),
    "gemma": (GEMMA, "<eos>", "<end_of_turn>"),
}
"""style -> a template, the EOS, and the pad token that is the template's last token"""


def base(folder, style: str):
    """A tiny model, and a tokenizer that pads with the last token of its template."""
    save_demo_model(folder, style=style)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template, tokenizer.eos_token, tokenizer.pad_token = ENDINGS[style]
    return str(folder), tokenizer


def trained(model: str, tokenizer, folder, rows=None, peft_config=None, **options):
    rows = Dataset.from_list(rows or conversations(6))
    args = RewardConfig(**quick(folder, **options))
    trainer = RewardTrainer(model, args, train_dataset=rows, processing_class=tokenizer, peft_config=peft_config)
    trainer.train()
    trainer.save_model()
    return trainer


EAGER = {"attn_implementation": "eager"}
"""transformers 5.16 leaves Gemma 2's soft-cap out of `sdpa`"""


def agree(trainer, folder, plain=None, **kwargs) -> None:
    """The trainer's own scores, the scorer's, and those of plain transformers on a padded batch."""
    rows = conversations(5, seed=1)
    of_trainer = trainer.predict(Dataset.from_list(rows)).predictions[:, 0].tolist()
    scorer = RewardScorer.from_pretrained(str(folder))
    of_scorer = scorer.score([row["prompt"] for row in rows], [row["chosen"] for row in rows])
    plain = str(plain or folder)
    model = AutoModelForSequenceClassification.from_pretrained(plain, dtype=torch.float32, **EAGER).eval()
    tokenizer = AutoTokenizer.from_pretrained(plain)
    talks = [row["prompt"] + row["chosen"] for row in rows]
    batch = tokenizer.apply_chat_template(talks, padding=True, return_tensors="pt", return_dict=True, **kwargs)
    with torch.no_grad():
        of_transformers = model(**batch).logits[:, 0].tolist()
    assert of_scorer == pytest.approx(of_trainer, abs=1e-5)
    assert of_transformers == pytest.approx(of_trainer, abs=1e-5)


@pytest.mark.parametrize("style", ENDINGS)
def test_the_template_s_last_token_is_not_padded_with(style, tmp_path, caplog):
    model, tokenizer = base(tmp_path / "base", style)
    last = ENDINGS[style][2]
    trainer = trained(model, tokenizer, tmp_path / "out")
    assert f"'{last}' also ends sequences" in caplog.text
    assert trainer.model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.convert_tokens_to_ids(last)
    agree(trainer, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:`pad_token` is deprecated")  # by TRL, which still takes it
def test_the_option_pad_token_gives_way_too(tmp_path, caplog):
    model, tokenizer = base(tmp_path / "base", "qwen")
    tokenizer.pad_token = None
    trainer = trained(model, tokenizer, tmp_path / "out", pad_token="<|im_end|>")
    assert "'<|im_end|>' also ends sequences" in caplog.text
    agree(trainer, tmp_path / "out")


def test_a_template_from_a_file_is_looked_at(tmp_path):
    model, tokenizer = base(tmp_path / "base", "qwen")
    tokenizer.chat_template = None
    (tmp_path / "chatml.jinja").write_text(CHATML)
    trainer = trained(model, tokenizer, tmp_path / "out", chat_template_path=str(tmp_path / "chatml.jinja"))
    agree(trainer, tmp_path / "out")


def test_a_template_of_another_tokenizer_is_looked_at(tmp_path):
    model, tokenizer = base(tmp_path / "base", "qwen")
    tokenizer.save_pretrained(tmp_path / "source")
    tokenizer.chat_template = None
    options = {"chat_template_path": str(tmp_path / "source"), "prefix_sharing": False}
    trainer = trained(model, tokenizer, tmp_path / "out", **options)
    assert trainer.data_collator.pad_token_id == trainer.processing_class.pad_token_id
    agree(trainer, tmp_path / "out")


def test_arguments_of_the_template_may_change_what_ends_it(tmp_path):
    model, tokenizer = base(tmp_path / "base", "qwen")
    tokenizer.chat_template, tokenizer.pad_token = ARGUED, "<|im_start|>"
    trainer = trained(model, tokenizer, tmp_path / "out", chat_template_kwargs={"closed": True})
    agree(trainer, tmp_path / "out", closed=True)


def test_an_adapter_remembers_the_pad_token(tmp_path):
    model, tokenizer = base(tmp_path / "base", "qwen")
    trainer = trained(model, tokenizer, tmp_path / "out", peft_config=LoraConfig(r=2, target_modules=["q_proj"]))
    merge_adapter(str(tmp_path / "out"), str(tmp_path / "merged"))
    agree(trainer, tmp_path / "out", plain=tmp_path / "merged")


def test_a_row_that_ends_in_the_pad_token_is_an_error(tmp_path):
    """What the template renders for one row alone, or what somebody else has tokenized."""
    model, tokenizer = base(tmp_path / "base", "qwen")
    tokenizer.chat_template, tokenizer.pad_token = ARGUED, "<|im_start|>"
    rows = [{**row, "chat_template_kwargs": {"closed": True}} for row in conversations(2)]
    with pytest.raises(ValueError, match=r"row 0: column 'chosen': ends in the pad token '<\|im_start\|>'"):
        trained(model, tokenizer, tmp_path / "out", rows)
    ids = [{"chosen_ids": [5, 6, tokenizer.pad_token_id], "rejected_ids": [5, 7]}]
    with pytest.raises(ValueError, match=r"row 0: column 'chosen_ids': ends in the pad token"):
        trained(model, tokenizer, tmp_path / "out", ids)


def test_a_pad_token_that_ends_nothing_stays(tmp_path, caplog):
    model, tokenizer = base(tmp_path / "base", "qwen")
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    with caplog.at_level(logging.WARNING):
        trainer = trained(model, tokenizer, tmp_path / "out", text_pairs(6))
    assert trainer.processing_class.pad_token == "<|endoftext|>" and "Padding with" not in caplog.text


def test_the_families_pad_tokens_are_their_own(assets):
    """Llama 3's base model with its EOS, padded with the token that ends its turns."""
    tokenizer = AutoTokenizer.from_pretrained(assets / "tokenizers" / "llama3_1")
    tokenizer.eos_token, tokenizer.pad_token = "<|end_of_text|>", "<|eot_id|>"
    assert choose_pad_token(tokenizer, 128256) == "<|reserved_special_token_0|>"
    tokenizer = AutoTokenizer.from_pretrained(assets / "tokenizers" / "qwen2_5")
    assert choose_pad_token(tokenizer, 151936) == "<|endoftext|>"  # turns end in <|im_end|> and a new line


def test_a_checkpoint_that_pads_with_its_template_s_end_is_found_out(tmp_path):
    """As trainers saved it before: the scorer and plain transformers score different tokens, and check says why."""
    model, tokenizer = base(tmp_path / "base", "qwen")
    saved = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    saved.config.pad_token_id, saved.config.problem_type = tokenizer.pad_token_id, "regression"
    saved.save_pretrained(tmp_path / "old")
    tokenizer.save_pretrained(tmp_path / "old")
    found = {one.check: one for one in check_model(str(tmp_path / "old"))}
    assert not found["pad token"].ok and "the chat template ends conversations with it" in found["pad token"].found
    assert not found["scores in fp32"].ok


def test_a_pooling_head_refuses_what_ends_in_the_pad_token(tmp_path):
    """A head of another name is scored where its own pooling looks, which would be another token."""
    _, tokenizer = base(tmp_path / "base", "qwen")
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": 0}
    options = {**sizes, **ids, "vocab_size": len(tokenizer), "num_labels": 1}
    try:
        config = AutoConfig.for_model("modernbert-decoder", **options)
    except StrictDataclassFieldValidationError:
        pytest.skip(f"transformers {transformers.__version__} refuses its own defaults of this family")
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    scorer, row = RewardScorer(model, tokenizer), conversations(1)[0]
    with pytest.raises(
        ValueError, match=r"completions\[0\]: column 'completion': ends in the pad token '<\|im_end\|>'"
    ):
        scorer.score([row["prompt"]], [row["chosen"]])
    assert scorer.score(["a"], ["b"]) == scorer.score(["a"], ["b"])  # text ends in the EOS
