"""Every upstream method that this package overrides or calls by a private name, with the signature it was written for.

A failure here means: read what changed upstream, adapt the override, and only then this table.
"""

import ast
import inspect
import textwrap
from hashlib import blake2b
from pathlib import Path

import pytest
import transformers
import trl
from packaging.version import Version
from peft.utils import _set_trainable
from transformers.integrations.liger import apply_liger_kernel
from transformers.modeling_utils import set_zero3_state
from trl.chat_template_utils import clone_chat_template
from trl.trainer.base_trainer import _BaseTrainer
from trl.trainer.utils import create_model_from_path, get_config_model_id

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
    (transformers.Trainer, "_load_callback_state", []),
    (transformers.Trainer, "save_state", []),
    (transformers.Trainer, "_clip_grad_norm", ["model"]),
    (transformers.Trainer, "_save_rng_state", ["output_dir"]),
    (transformers.Trainer, "_get_output_dir", ["trial"]),
    (transformers.Trainer, "train", ["resume_from_checkpoint", "trial", "ignore_keys_for_eval"]),
    (transformers.Trainer, "call_model_init", ["trial"]),
    (
        transformers.Trainer,
        "hyperparameter_search",
        ["hp_space", "compute_objective", "n_trials", "direction", "backend", "hp_name", "kwargs"],
    ),
    (transformers.Trainer, "_hp_search_setup", ["trial"]),
    (transformers.Trainer, "_get_train_sampler", ["train_dataset"]),
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
    assert len(ours) == 8
    for trainer in ours:
        for name in vars(trainer):
            overrides = any(hasattr(base, name) for base in (trl.RewardTrainer, transformers.Trainer))
            if callable(getattr(trainer, name)) and overrides and not name.startswith("__"):
                assert name in tabled, f"{trainer.__name__}.{name} overrides an upstream method that no test watches"


SHARED = {
    "_name _paper _tag_names loss_is_scaled_for_ga": "TRL's own switches, which a subclass sets",
    "can_return_loss label_names model_accepts_loss_kwargs": "what TRL's RewardTrainer sets, set for both",
    "_signature_columns": "where transformers looks for the columns to keep",
    "current_gradient_accumulation_steps": "read by `compute_loss`, which may be called before `train` sets it",
    "model_init": "what transformers calls before each training",
}
"""attributes that upstream sets or defines and this package sets as well, and why"""


def written_to(tree: ast.AST, *objects: str) -> set[str]:
    """Names of the attributes that the code gives to a variable of one of these names."""
    targets = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    return {node.attr for node in targets if isinstance(node.value, ast.Name) and node.value.id in objects}


def names_of(cls: type) -> set[str]:
    """What a class defines, and what its methods set."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    return {name for name in vars(cls) if not name.startswith("__")} | written_to(tree, "self")


def test_no_name_of_ours_is_written_by_upstream():
    """transformers' hyperparameter search writes `trainer.objective`, which once was this package's."""
    upstream = set()
    for cls in {*trl.RewardTrainer.__mro__, *_BaseTrainer.__mro__} - {object}:
        upstream |= names_of(cls)
    for module in Path(inspect.getfile(transformers)).parent.glob("**/*.py"):
        if module.parent.name in ("transformers", "integrations", "utils"):
            upstream |= written_to(ast.parse(module.read_text(encoding="utf-8")), "trainer", "local_trainer")
    assert {"objective", "optimizer", "_metrics", "hp_name", "call_model_init"} <= upstream
    ours = {cls for trainer in (RewardTrainer, PRMTrainer) for cls in trainer.__mro__ if "rewardplug" in cls.__module__}
    tabled = {name for _, name, _ in OVERRIDDEN}
    shared = {name for cls in ours for name in names_of(cls) & upstream} - tabled
    assert shared == {name for names in SHARED for name in names.split()} & upstream


CONSTRUCTOR_OF = {
    "1.9.0": "7c81f6c0f3fb07b6",
    "1.14.1": "2d1d9575d56f3327",
    "1.16.0": "d0de85cfbbe90579",
}
"""TRL's version -> digest of the source of `RewardTrainer.__init__`, which was read beside `train/setup.py`: what it
does to a model and a tokenizer that are ready, and which options `as_trl_expects` must hide from it"""


def test_the_constructor_of_trl_is_one_that_was_read():
    source = inspect.getsource(trl.RewardTrainer.__init__)
    found, known = blake2b(source.encode(), digest_size=8).hexdigest(), CONSTRUCTOR_OF.get(trl.__version__)
    if known is None and Version(trl.__version__) < Version(max(CONSTRUCTOR_OF, key=Version)):
        pytest.skip("between versions that were read")
    assert found == known, "read what TRL's constructor does now beside train/setup.py, and only then write this down"


def test_every_argument_of_trl_is_taken_in_its_order():
    ours, theirs = (list(inspect.signature(cls.__init__).parameters) for cls in (RewardTrainer, trl.RewardTrainer))
    assert ours == [*theirs, "model_init"]
    prm_of_1_13 = (
        "self model args data_collator train_dataset eval_dataset processing_class model_init compute_metrics "
        "callbacks optimizers preprocess_logits_for_metrics peft_config"
    ).split()
    assert list(inspect.signature(PRMTrainer.__init__).parameters)[: len(prm_of_1_13)] == prm_of_1_13


def test_a_family_s_class_can_be_stood_in_for():
    """`SavedModel.reading` registers a class that builds the saved head, keeps it fp32, and takes itself out again."""
    mapping = transformers.AutoModelForSequenceClassification._model_mapping
    assert list(inspect.signature(mapping.register).parameters) == ["key", "value", "exist_ok"]
    assert isinstance(mapping._extra_content, dict)
    assert "_keep_in_fp32_modules_strict" in inspect.getsource(transformers.PreTrainedModel._get_dtype_plan)
