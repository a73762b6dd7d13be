"""The table of kinds, against transformers' own tables; a config's block, against blocks written by hand."""

import pytest
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, LlamaConfig
from transformers.models.auto import modeling_auto

from hf_rewardplug.model.description import Description
from hf_rewardplug.model.kinds import ATTRIBUTES, LM, ORM, PRM, kind_of, kind_of_class, kind_of_task, labels_of


@pytest.mark.parametrize(
    ("kind", "auto_class", "names"),
    [
        (ORM, AutoModelForSequenceClassification, modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
        (PRM, AutoModelForTokenClassification, modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES),
    ],
)
def test_every_class_that_transformers_lists_belongs_to_its_kind(kind, auto_class, names):
    assert kind.auto_class is auto_class
    classes = [name for entry in names.values() for name in ([entry] if isinstance(entry, str) else entry)]
    assert len(classes) > 40 and {kind_of_class(name) for name in classes} == {kind}


def test_peft_s_task_types_are_the_table_s():
    assert [kind_of_task(task) for task in ("SEQ_CLS", "TOKEN_CLS", "CAUSAL_LM", None)] == [ORM, PRM, LM, None]


@pytest.mark.parametrize(
    ("class_name", "block", "expected", "labels"),
    [
        ("LlamaForSequenceClassification", {}, ORM, (1,)),
        ("LlamaForSequenceClassification", {"kind": "orm", "attribute_weights": [1.0, 0.5]}, ATTRIBUTES, (2,)),
        ("LlamaForTokenClassification", {"kind": "prm"}, PRM, (1, 2)),
        ("LlamaForCausalLM", {"kind": "prm", "good_token": "+", "bad_token": "-"}, LM, ()),
        ("LlamaForCausalLM", {"kind": "orm"}, ORM, (1,)),  # and is refused as one
        ("LlamaForSequenceClassification", {"kind": "prm"}, PRM, (1, 2)),  # likewise
        ("TheirRewardModel", {}, ORM, (1,)),
        ("TheirRewardModel", {"kind": "prm"}, PRM, (1, 2)),
    ],
)
def test_a_config_s_word_goes_before_the_class(class_name, block, expected, labels):
    description = Description.of(LlamaConfig(rewardplug=block))
    kind = kind_of(class_name, description)
    assert kind is expected and labels_of(kind, description) == labels


@pytest.mark.parametrize("config", [{}, {"rewardplug": None}, LlamaConfig(), LlamaConfig(rewardplug=None)])
def test_a_config_of_another_s_says_nothing(config):
    assert Description.of(config) == Description.checked(config, "here") == Description()


def test_null_is_left_out_and_what_is_not_known_is_not_read():
    block = {"kind": "prm", "step_separator": "", "step_token": None, "score_position": "last", "next": 1}
    description = Description.checked(LlamaConfig(rewardplug=block), "here")
    assert description == Description(kind="prm", step_separator="")


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ([], r"here: rewardplug is \[\]; expected an object"),
        ({"rows": 1}, r"here: rewardplug\.rows is 1; expected text"),
        ({"chat_template_kwargs": []}, r"rewardplug\.chat_template_kwargs is \[\]; expected an object"),
        ({"attribute_weights": [1.0]}, r"rewardplug\.attribute_weights is \[1.0\]; expected a list of numbers, one a"),
        ({"attribute_weights": [1.0, True]}, "expected a list of numbers, one a label"),
        ({"head": ["Linear", 1]}, "expected a list of names of layers"),
        ({"calibration": {"mean": 0, "std": "1"}}, 'expected an object {"mean": number, "std": number}'),
    ],
)
def test_a_block_that_no_trainer_wrote_is_refused(block, why):
    with pytest.raises(ValueError, match=why):
        Description.checked(LlamaConfig(rewardplug=block, num_labels=2), "here")
