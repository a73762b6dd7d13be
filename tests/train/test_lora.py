"""LoRA, QLoRA and full fine-tuning: the head trains in fp32, is saved, and is restored, whoever made the adapter."""

import pytest
import torch
import transformers
from datasets import Dataset
from packaging.version import Version
from peft import AutoPeftModelForSequenceClassification, IA3Config, LoraConfig, PeftModel, get_peft_model
from rows import quick, solutions, text_pairs
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer, merge_adapter
from hf_rewardplug.model.head import RewardHead, install_reward_head

KINDS = {
    "orm": (RewardTrainer, RewardConfig, text_pairs, AutoModelForSequenceClassification, 1),
    "prm": (PRMTrainer, PRMConfig, solutions, AutoModelForTokenClassification, 2),
}


@pytest.fixture(scope="module")
def model_path(assets):
    return str(assets / "stories260K")


def plain_base(kind: str, model_path: str, **kwargs):
    torch.manual_seed(0)
    *_, auto_class, labels = KINDS[kind]
    return auto_class.from_pretrained(model_path, num_labels=labels, **kwargs)


def trainer_for(kind: str, model, folder, tokenizer=None, options=None, **arguments):
    trainer_class, config_class, make, *_ = KINDS[kind]
    rows = {"train_dataset": Dataset.from_list(make(12)), "eval_dataset": Dataset.from_list(make(4, 1))}
    return trainer_class(
        model, config_class(**quick(folder, **(options or {}))), processing_class=tokenizer, **rows, **arguments
    )


def head_of(trainer) -> RewardHead:
    base = trainer.model.get_base_model() if isinstance(trainer.model, PeftModel) else trainer.model
    copies = getattr(base.score, "modules_to_save", None)
    return base.score if copies is None else copies[trainer.model.active_adapter]


def scores(model, batch: dict) -> torch.Tensor:
    with torch.no_grad():
        logits = model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits.flatten(0, 1)[batch["score_positions"]] if logits.ndim == 3 else logits


def padded_batch(trainer) -> dict:
    collator = type(trainer.data_collator)(trainer.data_collator.pad_token_id)
    return collator([dict(row) for row in trainer.eval_dataset])


def check_head_lives(kind: str, trainer, model_path: str, folder) -> None:
    """It trains in fp32, and a plain PEFT load of what was saved gives the trained model's scores."""
    head = head_of(trainer)
    assert type(head) is RewardHead and head.weight.dtype == torch.float32 and head.weight.requires_grad
    before = head.weight.detach().clone()
    trainer.train()
    assert not torch.equal(head.weight, before)
    trainer.save_model(str(folder / "saved"))
    batch = padded_batch(trainer)
    loaded = PeftModel.from_pretrained(plain_base(kind, model_path), folder / "saved")
    assert torch.equal(loaded.base_model.model.score.modules_to_save["default"].weight, head.weight)
    torch.testing.assert_close(scores(loaded, batch), scores(trainer.model, batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("right_task", "targets"),
    [
        (False, ["q_proj", "v_proj"]),
        (False, "all-linear"),
        (False, ["q_proj", "score"]),
        (True, ["q_proj", "v_proj"]),
        (False, "IA3"),
    ],
)
def test_a_ready_made_adapter_s_head(kind, right_task, targets, model_path, tmp_path):
    """PEFT freezes it without a task type, and wraps it where it is a target."""
    task = {"orm": "SEQ_CLS", "prm": "TOKEN_CLS"}[kind] if right_task else None
    config = LoraConfig(r=2, target_modules=targets, task_type=task)
    if targets == "IA3":
        config = IA3Config(target_modules=["k_proj", "score"], feedforward_modules=["score"])
    model = get_peft_model(plain_base(kind, model_path), config)
    trainer = trainer_for(kind, model, tmp_path, AutoTokenizer.from_pretrained(model_path))
    assert not any("score" in name for name, _ in trainer.model.named_parameters() if "lora" in name)
    check_head_lives(kind, trainer, model_path, tmp_path)


def test_a_frozen_adapter_is_refused(model_path, tmp_path):
    model = get_peft_model(plain_base("orm", model_path), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    frozen = PeftModel.from_pretrained(plain_base("orm", model_path), tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"The adapter is frozen, so nothing would train.*is_trainable=True"):
        trainer_for("orm", frozen, tmp_path, AutoTokenizer.from_pretrained(model_path))


def test_a_frozen_head_is_told_in_training_alone(model_path, tmp_path, caplog):
    """An adapter loaded for scoring is frozen whole, and nothing is wrong with it."""
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"])
    get_peft_model(plain_base("orm", model_path), config).save_pretrained(tmp_path / "adapter")
    for trains in (False, True):
        model = PeftModel.from_pretrained(plain_base("orm", model_path), tmp_path / "adapter", is_trainable=trains)
        for name, parameter in model.named_parameters():
            if ".score." in name:
                parameter.requires_grad_(False)
        caplog.clear()
        install_reward_head(model)
        assert ("reward head is frozen" in caplog.text) is trains


def test_an_adapter_of_another_name_and_one_beside_an_older_model(model_path, tmp_path):
    """PEFT saves the first in a folder of its own; the second's folder has a head that is not its."""
    full = trainer_for("orm", model_path, tmp_path)
    full.train()
    full.save_model(str(tmp_path / "saved"))
    model = get_peft_model(plain_base("orm", model_path), LoraConfig(r=2, target_modules=["q_proj"]), "mine")
    named = trainer_for("orm", model, tmp_path, AutoTokenizer.from_pretrained(model_path))
    default = trainer_for("orm", model_path, tmp_path, peft_config=LoraConfig(r=2, target_modules=["q_proj"]))
    for trainer, folder in ((named, "saved/mine"), (default, "saved")):
        trainer.train()
        trainer.save_model(str(tmp_path / "saved"))
        loaded = PeftModel.from_pretrained(plain_base("orm", model_path), tmp_path / folder)
        assert torch.equal(loaded.base_model.model.score.modules_to_save["default"].weight, head_of(trainer).weight)


def test_an_adapter_s_folder_is_no_model(model_path, tmp_path):
    get_peft_model(plain_base("orm", model_path), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "a")
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"is an adapter, not a model. .*is_trainable=True.*merge_adapter"):
            trainer_for(kind, str(tmp_path / "a"), tmp_path, AutoTokenizer.from_pretrained(model_path))


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_goes_on_from_its_own_head(kind, model_path, tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj"])
    first = trainer_for(kind, model_path, tmp_path, peft_config=config)
    first.train()
    first.save_model(str(tmp_path / "first"))
    again = PeftModel.from_pretrained(plain_base(kind, model_path), tmp_path / "first", is_trainable=True)
    second = trainer_for(kind, again, tmp_path, AutoTokenizer.from_pretrained(model_path))
    assert torch.equal(head_of(second).weight, head_of(first).weight)
    check_head_lives(kind, second, model_path, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_resumed_run_and_every_way_to_load_restore_the_head(kind, tuning, model_path, tmp_path):
    auto_class, labels = KINDS[kind][3:]
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    arguments = {"peft_config": LoraConfig(r=2, target_modules="all-linear")} if tuning == "lora" else {}
    whole = trainer_for(kind, model_path, tmp_path, options=options, **arguments)
    whole.train()
    resumed = trainer_for(kind, model_path, tmp_path, options=options, **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    batch, expected = padded_batch(whole), scores(whole.model, padded_batch(whole))
    if tuning == "full" or Version(transformers.__version__) >= Version("5.23"):  # 5.16 forgets an adapter's head
        plain = auto_class.from_pretrained(tmp_path / "checkpoint-4", num_labels=labels)
        torch.testing.assert_close(scores(plain, batch), expected, rtol=0, atol=1e-5)
    if tuning == "lora":
        merge_adapter(str(tmp_path / "checkpoint-4"), str(tmp_path / "merged"))
        merged = auto_class.from_pretrained(tmp_path / "merged")
        torch.testing.assert_close(scores(merged, batch), expected, rtol=0, atol=1e-5)
        assert AutoTokenizer.from_pretrained(tmp_path / "merged").pad_token_id == merged.config.pad_token_id
    if (tuning, kind) == ("lora", "orm"):
        loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-4", num_labels=1)
        torch.testing.assert_close(scores(loaded, batch), expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def model_of_64(model_path, tmp_path_factory):
    """bitsandbytes' CPU kernels want multiples of 64."""
    folder = tmp_path_factory.mktemp("model_of_64")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1}
    torch.manual_seed(0)
    config = LlamaConfig(**sizes, num_key_value_heads=1, vocab_size=512, pad_token_id=0)
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_path).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ready_made", [False, True])
def test_qlora(kind, ready_made, model_of_64, tmp_path):
    pytest.importorskip("bitsandbytes")
    model_path = model_of_64
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    config = LoraConfig(r=2, target_modules=["q_proj"])
    if ready_made:
        if kind == "prm":
            quantized = plain_base(kind, model_path, quantization_config=quantization, device_map="cpu")
            with pytest.raises(ValueError, match=r"The reward head is quantized .*llm_int8_skip_modules"):
                trainer_for(
                    kind, get_peft_model(quantized, config), tmp_path, AutoTokenizer.from_pretrained(model_path)
                )
        quantization.llm_int8_skip_modules = ["score"]
        base = plain_base(kind, model_path, quantization_config=quantization, device_map="cpu")
        model, arguments = get_peft_model(base, config), {}
        head = base.score.weight.detach().clone()
    else:
        model, arguments, head = model_path, {"peft_config": config, "quantization_config": quantization}, None
    trainer = trainer_for(kind, model, tmp_path, AutoTokenizer.from_pretrained(model_path), **arguments)
    assert type(trainer.model.get_base_model().model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    if ready_made:
        assert torch.equal(head_of(trainer).weight, head), "TRL's cast to bf16 must not round it"
    weight = head_of(trainer).weight
    assert weight.dtype == torch.float32 and weight.requires_grad
    before = weight.detach().clone()
    trainer.train()
    assert not torch.equal(weight, before)
    trainer.save_model(str(tmp_path / "saved"))
    quantization.llm_int8_skip_modules = ["score"]
    quantized = plain_base(kind, model_path, quantization_config=quantization, device_map="cpu")
    loaded = PeftModel.from_pretrained(quantized, tmp_path / "saved")
    assert torch.equal(loaded.base_model.model.score.modules_to_save["default"].weight, weight)
    batch = padded_batch(trainer)
    torch.testing.assert_close(scores(loaded, batch), scores(trainer.model, batch), rtol=0, atol=2e-3)  # TRL: bf16 LoRA
    merge_adapter(str(tmp_path / "saved"), str(tmp_path / "merged"))
    merged = KINDS[kind][3].from_pretrained(tmp_path / "merged")
    assert torch.equal(merged.score.weight, weight) and not getattr(merged, "is_loaded_in_4bit", False)
