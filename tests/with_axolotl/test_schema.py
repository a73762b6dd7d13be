"""Every key of axolotl's real schema is taken, told or refused here, and no key is made up."""

from axolotl.utils.schemas.config import AxolotlInputConfig
from axolotl.utils.schemas.datasets import DPODataset, SFTDataset, StepwiseSupervisedDataset
from axolotl.utils.schemas.enums import CustomSupportedOptimizers

from hf_rewardplug.integrations.axolotl import keys, options
from hf_rewardplug.integrations.axolotl.data import TAKEN_OF_DATA

OF_PLUGINS = {"cut_cross_entropy", "liger_cross_entropy", "liger_fused_linear_cross_entropy", "liger_use_token_scaling"}


def names(*schemas) -> set[str]:
    found = set()
    for schema in schemas:
        for name, field in schema.model_fields.items():
            found |= {name} | ({field.validation_alias} if isinstance(field.validation_alias, str) else set())
    return found


def test_keys_of_a_run():
    assert keys.known() - OF_PLUGINS - {*keys.LIGER} == names(AxolotlInputConfig)


def test_keys_of_a_data_set():
    known = TAKEN_OF_DATA | {*keys.IGNORED_OF_DATA, *keys.REFUSED_OF_DATA}
    ours = {"column_mapping", "ignore_columns", "subset", "weight"}
    assert known - ours == names(SFTDataset, DPODataset, StepwiseSupervisedDataset)


def test_optimizers():
    assert set(options._OWN_OPTIMIZERS) == {one.value for one in CustomSupportedOptimizers}
