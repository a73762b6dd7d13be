"""Every key of axolotl's real schema is taken, told or refused here, and no key is made up."""

from importlib.metadata import version

from axolotl.utils.schemas.config import AxolotlInputConfig
from axolotl.utils.schemas.datasets import DPODataset, SFTDataset, StepwiseSupervisedDataset
from axolotl.utils.schemas.enums import CustomSupportedOptimizers

from hf_rewardplug.integrations.axolotl import keys, options
from hf_rewardplug.integrations.axolotl.config import own_options
from hf_rewardplug.integrations.axolotl.data import TAKEN_OF_DATA

SINCE_0_21 = set(
    """
    balance_labels diffusion_lm dpo_ld_alpha eval_on_start export fa_varlen_kwargs_in_collator full_determinism
    label_balance_window_optim_steps lora_fp32_gradients mixlora_expert_lora_alpha mixlora_expert_lora_dropout
    mixlora_expert_lora_r mixlora_jitter_noise mixlora_num_experts mixlora_router_aux_loss_coef
    mixlora_router_init_range mixlora_top_k nf4_backend nvfp4_merge_aware sync_profiler_start_step sync_profiler_steps
    torch_compile_regional use_dft
    """.split()
)
OF_OTHERS, OPTIMIZERS_OF_OTHERS = {"0.19.0": (SINCE_0_21, {"scao", "muon_8bit"}), "0.21.0": ({"fsdp"}, set())}[
    version("axolotl")
]
OF_PLUGINS = {"cut_cross_entropy", "liger_cross_entropy", "liger_fused_linear_cross_entropy", "liger_use_token_scaling"}


def names(*schemas) -> set[str]:
    found = set()
    for schema in schemas:
        for name, field in schema.model_fields.items():
            found |= {name} | ({field.validation_alias} if isinstance(field.validation_alias, str) else set())
    return found


def test_keys_of_a_run():
    theirs = names(AxolotlInputConfig) - {*own_options("orm")}  # 0.21 has some of this package's options too
    assert not OF_OTHERS & theirs
    assert keys.known() - OF_PLUGINS - {*keys.LIGER} == theirs | OF_OTHERS


def test_keys_of_a_data_set():
    known = TAKEN_OF_DATA | {*keys.IGNORED_OF_DATA, *keys.REFUSED_OF_DATA}
    ours = {"column_mapping", "ignore_columns", "subset", "weight"}
    assert known - ours == names(SFTDataset, DPODataset, StepwiseSupervisedDataset) - {"weight"}  # 0.21's own


def test_optimizers():
    assert set(options._OWN_OPTIMIZERS) == {one.value for one in CustomSupportedOptimizers} | OPTIMIZERS_OF_OTHERS
