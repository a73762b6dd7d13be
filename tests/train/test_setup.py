"""What both constructors make before TRL's is called: ready parts, checks first, untouched args."""

import copy
import inspect

import pytest
import torch
import trl
from datasets import Dataset, IterableDataset
from peft import LoraConfig, PeftModel
from rows import quick, solutions, text_pairs
from transformers import AutoTokenizer, DataCollatorForTokenClassification
from trl.trainer.reward_trainer import DataCollatorForPreference

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer
from hf_rewardplug.model.head import RewardHead
from hf_rewardplug.train import data_trainer

KINDS = {
    "orm": (RewardTrainer, RewardConfig, text_pairs, DataCollatorForPreference(pad_token_id=0)),
    "prm": (PRMTrainer, PRMConfig, solutions, DataCollatorForTokenClassification(None)),
}


@pytest.fixture(scope="module")
def model_path(assets):
    return str(assets / "stories260K")


def options_of(args) -> dict:
    """Everything that an object of options holds, copied."""
    kinds = (dict, list, str, int, float, bool, type(None))
    known = {name: value for name, value in vars(args).items() if isinstance(value, kinds)}
    return copy.deepcopy({**known, "accelerator_config": vars(args.accelerator_config)})


@pytest.mark.parametrize("kind", KINDS)
def test_the_caller_s_args_are_left_as_they_are(kind, model_path, tmp_path):
    trainer_class, config_class, make, _ = KINDS[kind]
    options = {"use_liger_kernel": True, "accelerator_config": {"dispatch_batches": True}}
    options |= {"model_init_kwargs": {"dtype": "float32"}, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    args = config_class(**quick(tmp_path, **options))
    before, peft_config = options_of(args), LoraConfig(r=2, target_modules=["q_proj"])
    adapter_before = copy.deepcopy(peft_config.to_dict())
    trainer = trainer_class(model_path, args, train_dataset=Dataset.from_list(make(6)), peft_config=peft_config)
    trainer.train()
    assert options_of(args) == before and peft_config.to_dict() == adapter_before
    assert trainer.args is not args and not trainer.args.accelerator_config.dispatch_batches
    assert trainer.args.model_init_kwargs == {"dtype": "float32"}


@pytest.mark.parametrize("attributes", [None, ["kind", "brief"]])
def test_trl_s_constructor_gets_parts_that_are_ready(attributes, model_path, tmp_path, monkeypatch):
    """Nothing of the model, the tokenizer and the collator is another behind it."""
    seen = {}

    def constructor(self, **arguments):
        model, collator = arguments["model"], arguments["data_collator"]
        head = model.get_base_model().score.modules_to_save["default"]
        seen.update(arguments, labels=model.config.num_labels, head=head, pad=collator.pad_token_id)
        seen.update(ready=type(head) is RewardHead and collator.prefix_sharing, weight=head.weight.detach().clone())
        theirs(self, **arguments)

    theirs = trl.RewardTrainer.__init__
    monkeypatch.setattr(trl.RewardTrainer, "__init__", constructor)
    rows, options = text_pairs(6), {}
    if attributes:
        options = {"loss_type": "mse", "attributes": attributes}
        rated = {"attributes": {"kind": 1.0, "brief": 0.5}}
        rows = [{"prompt": row["prompt"], "completion": row["chosen"], **rated} for row in rows]
    trainer = RewardTrainer(
        model_path,
        RewardConfig(**quick(tmp_path, **options)),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"]),
    )
    assert seen["ready"] and isinstance(seen["model"], PeftModel) and seen["labels"] == 1  # TRL insists on one
    assert trainer.model is seen["model"] and trainer.processing_class is seen["processing_class"]
    assert trainer.data_collator is seen["data_collator"] and trainer.args is seen["args"]
    assert torch.equal(seen["head"].weight, seen["weight"]) and seen["head"].weight.dtype == torch.float32
    assert seen["pad"] == trainer.processing_class.pad_token_id == trainer.model.config.pad_token_id
    assert list(trainer.model.config.id2label.values()) == (attributes or ["LABEL_0"])


ALTERNATIVES = [{"text": text, "label": 1, "parent": -1} for text in ("b", "c")]


@pytest.mark.parametrize(
    ("kind", "rows", "options", "match"),
    [
        ("orm", text_pairs(4), {"loss_type": "plackett_luce"}, "loss_type='plackett_luce' needs more"),
        ("orm", text_pairs(4), {"loss_type": "rao_kupper"}, "the columns tie needs more"),
        ("orm", [{**row, "weight": 2.0} for row in text_pairs(4)], {}, "the columns weight needs more"),
        ("prm", solutions(4), {"good_token": "a", "bad_token": "b"}, "read at score positions alone"),
        ("prm", [{"prompt": "a", "nodes": ALTERNATIVES}] * 4, {}, "trees of steps"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_collator_that_does_not_fit_is_told_before_the_data_are_encoded(
    kind, rows, options, match, model_path, tmp_path, monkeypatch
):
    trainer_class, config_class, _, collator = KINDS[kind]

    def encoded(*arguments, **named):
        raise AssertionError("the rows are encoded already")

    monkeypatch.setattr(data_trainer, "prepare_dataset", encoded)
    arguments = {
        "train_dataset": Dataset.from_list(rows),
        "processing_class": AutoTokenizer.from_pretrained(model_path),
    }
    with pytest.raises(ValueError, match=f"{match}.*Leave `data_collator` out, or derive yours"):
        trainer_class(model_path, config_class(**quick(tmp_path, **options)), collator, **arguments)


def test_nothing_is_read_before_what_can_be_checked_without(tmp_path):
    """No model is there, and the rows would raise."""

    def rows():
        raise AssertionError("the rows are read")
        yield

    stream = IterableDataset.from_generator(rows)
    with pytest.raises(ValueError, match="loss_type='plackett_luce' needs more"):
        RewardTrainer(
            "org/no-such-model",
            RewardConfig(**quick(tmp_path, loss_type="plackett_luce")),
            DataCollatorForPreference(pad_token_id=0),
            stream,
        )


@pytest.mark.parametrize("trainer_class", [RewardTrainer, PRMTrainer])
def test_a_constructor_can_be_read_at_a_glance(trainer_class):
    assert len(inspect.getsource(trainer_class.__init__).splitlines()) <= 40
