"""Every upstream method that this package overrides or calls by a private name, with the signature it was written for.

A failure here means: read what changed upstream, adapt the override, and only then this table.
"""

import inspect

import pytest
import transformers
import trl
from peft.utils import _set_trainable
from transformers.integrations.liger import apply_liger_kernel
from transformers.modeling_utils import set_zero3_state
from trl.chat_template_utils import clone_chat_template
from trl.trainer.base_trainer import _BaseTrainer
from trl.trainer.utils import create_model_from_path, disable_dropout_in_model, get_config_model_id

from hf_rewardplug import PRMTrainer, RewardTrainer

OVERRIDDEN = [
    (trl.RewardTrainer, "_prepare_dataset", ["dataset", "processing_class", "args", "dataset_name"]),
    (trl.RewardTrainer, "_set_signature_columns_if_needed", []),
    (trl.RewardTrainer, "compute_loss", ["model", "inputs", "return_outputs", "num_items_in_batch"]),
    (trl.RewardTrainer, "evaluate", ["eval_dataset", "ignore_keys", "metric_key_prefix"]),
    (trl.RewardTrainer, "log", ["logs", "start_time"]),
    (trl.RewardTrainer, "_save_checkpoint", ["model", "trial"]),
    (_BaseTrainer, "create_model_card", ["model_name", "dataset_name", "tags"]),
    (transformers.Trainer, "add_callback", ["callback"]),
    (transformers.Trainer, "save_model", ["output_dir", "_internal_call"]),
    (transformers.Trainer, "_get_num_items_in_batch", ["batch_samples", "device"]),
    (transformers.Trainer, "get_batch_samples", ["epoch_iterator", "num_batches", "device"]),
    (transformers.Trainer, "get_tp_size", []),
    (transformers.Trainer, "get_total_train_batch_size", ["args"]),
    (transformers.Trainer, "_track_num_input_tokens", ["inputs"]),
    (transformers.Trainer, "_get_eval_sampler", ["eval_dataset"]),
    (transformers.Trainer, "_prepare_inputs", ["inputs"]),
    (transformers.Trainer, "get_train_dataloader", []),
    (transformers.Trainer, "_remove_unused_columns", ["dataset", "description"]),
    (transformers.Trainer, "_save", ["output_dir", "state_dict"]),
    (transformers.Trainer, "_load_best_model", []),
    (transformers.Trainer, "_save_rng_state", ["output_dir"]),
    (transformers.Trainer, "_get_output_dir", ["trial"]),
    (transformers.Trainer, "train", ["resume_from_checkpoint", "trial", "ignore_keys_for_eval"]),
    (transformers.Trainer, "predict", ["test_dataset", "ignore_keys", "metric_key_prefix"]),
    (transformers.Trainer, "prediction_step", ["model", "inputs", "prediction_loss_only", "ignore_keys"]),
    (
        transformers.Trainer,
        "evaluation_loop",
        ["dataloader", "description", "prediction_loss_only", "ignore_keys", "metric_key_prefix"],
    ),
]


@pytest.mark.parametrize(
    ("owner", "name", "parameters"), OVERRIDDEN, ids=lambda value: getattr(value, "__name__", value)
)
def test_upstream_signature(owner, name, parameters):
    assert list(inspect.signature(getattr(owner, name)).parameters)[1:] == parameters


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (_set_trainable, ["model", "adapter_name", "module_names", "inference_mode"]),
        (clone_chat_template, ["model", "tokenizer", "source_tokenizer_path"]),
        (create_model_from_path, ["model_id", "architecture", "kwargs"]),
        (disable_dropout_in_model, ["model"]),
        (set_zero3_state, []),
        (apply_liger_kernel, ["model", "kernel_config"]),
        (get_config_model_id, ["config"]),
    ],
)
def test_upstream_function(function, parameters):
    assert list(inspect.signature(function).parameters)[: len(parameters)] == parameters


def test_ligers_registry_takes_models():
    registry = pytest.importorskip("liger_kernel.transformers.monkey_patch").MODEL_TYPE_TO_APPLY_LIGER_FN
    for kind in ("llama", "qwen2", "gemma2"):
        assert {"rope", "rms_norm", "fused_linear_cross_entropy", "model"} <= inspect.signature(
            registry[kind]
        ).parameters.keys()


def test_the_table_names_every_override():
    tabled = {name for _, name, _ in OVERRIDDEN}
    ours = {cls for trainer in (RewardTrainer, PRMTrainer) for cls in trainer.__mro__ if "rewardplug" in cls.__module__}
    assert len(ours) == 6
    for trainer in ours:
        for name in vars(trainer):
            overrides = any(hasattr(base, name) for base in (trl.RewardTrainer, transformers.Trainer))
            if callable(getattr(trainer, name)) and overrides and not name.startswith("__"):
                assert name in tabled, f"{trainer.__name__}.{name} overrides an upstream method that no test watches"


def test_every_argument_of_trl_is_taken_in_its_order():
    ours, theirs = (list(inspect.signature(cls.__init__).parameters) for cls in (RewardTrainer, trl.RewardTrainer))
    assert ours == theirs
    prm_of_1_13 = (
        "self model args data_collator train_dataset eval_dataset processing_class model_init compute_metrics "
        "callbacks optimizers preprocess_logits_for_metrics peft_config"
    ).split()
    assert list(inspect.signature(PRMTrainer.__init__).parameters)[: len(prm_of_1_13)] == prm_of_1_13
