"""axolotl's keys as settings of this package, and every key that is not taken told, refused or unknown.

Expected values are written by hand from axolotl's documentation and this package's options.
"""

from pathlib import Path

import pytest
import yaml

from hf_rewardplug import PRMConfig, RewardConfig
from hf_rewardplug.integrations.axolotl import keys
from hf_rewardplug.integrations.axolotl.config import own_options, translate
from hf_rewardplug.integrations.axolotl.data import TAKEN_OF_DATA

GUIDE_ORM = """
base_model: google/gemma-2-2b
model_type: AutoModelForSequenceClassification
num_labels: 1
reward_model: true
chat_template: gemma
datasets:
  - path: argilla/distilabel-intel-orca-dpo-pairs
    type: bradley_terry.chat_template
"""
GUIDE_PRM = """
base_model: Qwen/Qwen2.5-3B
model_type: AutoModelForTokenClassification
num_labels: 2
process_reward_model: true
datasets:
  - path: trl-lib/math_shepherd
    type: stepwise_supervised
"""
ORM = {"base_model": "m", "reward_model": True, "datasets": [{"path": "p", "type": "bradley_terry.chat_template"}]}
PRM = {"base_model": "m", "process_reward_model": True, "datasets": [{"path": "p", "type": "stepwise_supervised"}]}


def config(raw=None, **more) -> dict:
    return translate({**(raw or ORM), **more}).config


def test_the_two_configs_of_the_guide():
    orm, prm = (translate(yaml.safe_load(text)) for text in (GUIDE_ORM, GUIDE_PRM))
    assert (orm.task, orm.model, orm.config["chat_template"]) == ("orm", "google/gemma-2-2b", "gemma")
    assert orm.config["adapter"] == "bradley_terry.chat_template"
    assert orm.entries[0].path == "argilla/distilabel-intel-orca-dpo-pairs" and orm.entries[0].split == "train"
    assert (prm.task, prm.model, prm.config["num_labels"]) == ("prm", "Qwen/Qwen2.5-3B", 2)
    assert prm.config["adapter"] == "stepwise_supervised" and prm.entries[0].path == "trl-lib/math_shepherd"
    assert orm.ignored == prm.ignored == {} and orm.peft is orm.quantization is orm.template is None
    assert orm.config["max_length"] == 512 and orm.config["per_device_train_batch_size"] == 1  # axolotl's defaults


def test_the_settings_are_arguments_of_the_configs(tmp_path):
    here = {"output_dir": str(tmp_path), "bf16": False, "learning_rate": "2e-5", "sequence_len": 64, "optimizer": "sgd"}
    given = {**config(**here), "use_cpu": True}
    args = RewardConfig(**given)
    assert (args.learning_rate, args.max_length, args.optim, args.lr_scheduler_type) == (2e-5, 64, "sgd", "cosine")
    assert args.warmup_steps == 0.03 and args.save_strategy == "epoch" and args.eval_strategy == "no"
    assert not args.gradient_checkpointing and args.overlong == "drop" and args.weight_decay == 0
    args = PRMConfig(**config(PRM, **here, excess_length_strategy="raise", step_token="<s>"), use_cpu=True)
    assert (args.overlong, args.step_token, args.num_labels, args.max_length) == ("error", "<s>", 2, 64)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"micro_batch_size": 3, "gradient_accumulation_steps": 5}, {"per_device_train_batch_size": 3}),
        ({"micro_batch_size": 3, "eval_batch_size": 7}, {"per_device_eval_batch_size": 7}),
        ({"num_epochs": 3, "max_steps": 9}, {"num_train_epochs": 3, "max_steps": 9}),
        ({"lr_scheduler": "linear", "warmup_steps": 10}, {"lr_scheduler_type": "linear", "warmup_steps": 10}),
        ({"warmup_ratio": 0.1}, {"warmup_steps": 0.1}),
        ({"seed": 7, "max_grad_norm": "1e-1"}, {"seed": 7, "max_grad_norm": 0.1}),
        ({"center_rewards_coefficient": "1e-2"}, {"center_rewards_coefficient": 0.01}),
        ({"gradient_checkpointing": True}, {"gradient_checkpointing": True}),
        ({"bf16": "auto"}, {"bf16": False, "fp16": False, "model_init_kwargs": {"dtype": "float32"}}),
        ({"bf16": True}, {"bf16": True, "fp16": False, "model_init_kwargs": {"dtype": "bfloat16"}}),
        ({"bf16": "full"}, {"bf16": True, "bf16_full_eval": True}),
        ({"bf16": False, "fp16": True}, {"bf16": False, "fp16": True}),
        ({"save_steps": 5, "eval_steps": 5, "val_set_size": 0.1}, {"save_steps": 5, "eval_steps": 5}),
        ({"eval_steps": 5, "val_set_size": 0.1}, {"eval_strategy": "steps", "eval_on_start": True}),
        ({"eval_steps": 5}, {"eval_strategy": "no"}),  # nothing is held out
        ({"evals_per_epoch": 4, "num_epochs": 2, "val_set_size": 9}, {"eval_strategy": "steps", "eval_steps": 0.125}),
        ({"evals_per_epoch": 1, "val_set_size": 9}, {"eval_strategy": "no"}),
        ({"logging_steps": 2, "save_total_limit": 1}, {"logging_steps": 2, "save_total_limit": 1}),
        ({"deepspeed": "zero2.json"}, {"deepspeed": "zero2.json"}),
        ({"fsdp_config": {"fsdp_offload_params": True}}, {"fsdp": True, "fsdp_config": {"cpu_offload": True}}),
        ({"use_trackio": True, "trackio_project_name": "p"}, {"report_to": ["trackio"], "project": "p"}),
        ({"model_revision": "r", "bf16": False}, {"model_init_kwargs": {"dtype": "float32", "revision": "r"}}),
        ({"hub_model_id": "me/it"}, {"hub_model_id": "me/it", "push_to_hub": True, "hub_private_repo": True}),
        ({"excess_length_strategy": "truncate"}, {"overlong": "truncate"}),
        ({"micro_batch_size": 3}, {"per_device_eval_batch_size": 3}),
        ({"micro_batch_size": "2", "max_steps": "9", "seed": "7"}, {"max_steps": 9, "seed": 7}),
        ({"bf16": "false", "prefix_sharing": "false"}, {"bf16": False, "prefix_sharing": False}),
        ({"bf16": False, "bfloat16": True}, {"bf16": True}),
        ({"label_smoothing": "1e-1"}, {"label_smoothing": 0.1}),
        ({"attributes": ["a"], "attribute_weights": ["2"], "loss_type": "mse"}, {"attribute_weights": [2]}),
        ({"sequence_len": "64", "eval_sequence_len": "64"}, {"max_length": 64}),
        ({"lr_scheduler_kwargs": {"min_lr": "1e-6"}}, {"lr_scheduler_kwargs": {"min_lr": 1e-6}}),
        ({"save_strategy": False, "eval_strategy": False}, {"save_strategy": "no", "eval_strategy": "no"}),
        ({"hub_model_id": "", "deepspeed": "", "adapter": "", "wandb_name": ""}, {"report_to": []}),
        ({"wandb_project": "p", "wandb_run_id": "r"}, {"report_to": ["wandb"], "run_name": "r"}),
        ({"wandb_project": "p", "use_wandb": False}, {"report_to": []}),
        (
            {"early_stopping_patience": 2, "val_set_size": 0.1, "eval_steps": 2, "save_steps": 4},
            {"metric_for_best_model": "loss", "load_best_model_at_end": True},
        ),
        ({"curriculum_sampling": True}, {"train_sampling_strategy": "sequential"}),
        ({"prefix_sharing": False, "sdp_attention": True}, {"prefix_sharing": False}),
        ({"max_tokens_per_batch": 4096, "group_by_prefix": True}, {"max_tokens_per_batch": 4096}),
    ],
)
def test_keys(given, expected):
    assert expected.items() <= config(**given).items()


def test_the_options_of_process_reward_models_of_the_run_or_of_its_data():
    options = {"step_separator": "\n\n", "max_completion_length": 99, "train_on_last_step_only": True}
    assert options.items() <= config(PRM, **options).items()
    assert options.items() <= config(PRM, datasets=[{**PRM["datasets"][0], **options}]).items()
    quoted = {"max_completion_length": "99", "train_on_last_step_only": "true", "step_separator": "true"}
    read = {"max_completion_length": 99, "train_on_last_step_only": True, "step_separator": "true"}
    assert read.items() <= config(PRM, datasets=[{**PRM["datasets"][0], **quoted}]).items()
    two = [{**PRM["datasets"][0], "step_separator": "a"}, {"path": "q", "step_separator": "b"}]
    with pytest.raises(ValueError, match=r"`datasets\[1\].step_separator` is 'b', but 'a' in an entry before"):
        config(PRM, datasets=two)
    with pytest.raises(ValueError, match="`step_separator` is set in some entries of `datasets` alone"):
        config(PRM, datasets=[two[0], {"path": "q"}])
    with pytest.raises(ValueError, match="`step_separator` is an option of process reward models"):
        config(datasets=[two[0]])
    with pytest.raises(ValueError, match="`step_separator` is an option of process reward models"):
        config(step_separator="a")
    with pytest.raises(ValueError, match=r"`step_separator` has two values, 'a' \(datasets\), 'b' \(the top\)"):
        config(PRM, datasets=[two[0]], step_separator="b")


def test_lora_and_quantization():
    given = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "lora_target_modules": ["q_proj"]}
    settings = translate({**ORM, **given})
    assert settings.peft == {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj"]}
    assert settings.quantization is None
    settings = translate(
        {**ORM, "adapter": "qlora", "lora_target_linear": True, "load_in_4bit": True, "peft_use_dora": True}
    )
    assert settings.peft == {"target_modules": "all-linear", "use_dora": True}
    assert settings.quantization["load_in_4bit"] and settings.quantization["bnb_4bit_quant_type"] == "nf4"
    assert settings.quantization["bnb_4bit_compute_dtype"] == "float32"  # bf16: auto, where there is none
    assert settings.quantization["bnb_4bit_quant_storage"] == "bfloat16"
    assert translate({**ORM, "adapter": "lora", "load_in_8bit": True}).quantization == {"load_in_8bit": True}
    four = {"adapter": "qlora", "load_in_4bit": True, "bf16": True, "bnb_config_kwargs": {"bnb_4bit_quant_type": "fp4"}}
    quantization = translate({**ORM, **four}).quantization
    assert (quantization["bnb_4bit_compute_dtype"], quantization["bnb_4bit_quant_type"]) == ("bfloat16", "fp4")


@pytest.mark.parametrize(
    ("given", "named", "template"),
    [
        ({"chat_template": "chatml"}, "chatml", None),
        ({"chat_template": "tokenizer_default"}, None, None),
        ({"chat_template": "tokenizer_default_fallback_llama3"}, None, ("fallback", "llama3")),
        ({"chat_template": "jinja", "chat_template_jinja": "{{ messages }}"}, None, ("text", "{{ messages }}")),
        ({"chat_template_jinja": "own.jinja"}, None, ("file", "own.jinja")),
        ({"chat_template": "qwen_25"}, None, ("own", "<|im_start|>")),
    ],
)
def test_chat_templates(given, named, template):
    settings = translate({**ORM, **given})
    assert settings.config.get("chat_template") == named and settings.template == template


def test_trackers_get_their_environment():
    settings = translate(
        {**ORM, "use_wandb": True, "wandb_project": "p", "wandb_name": "n", "mlflow_tracking_uri": "u"}
    )
    assert settings.environment == {"WANDB_PROJECT": "p", "MLFLOW_TRACKING_URI": "u"}
    assert settings.config["report_to"] == ["wandb"] and settings.config["run_name"] == "n"


def test_what_is_switched_off_asks_for_nothing():
    entry = {**ORM["datasets"][0], "message_field_role": "role", "chat_template": "tokenizer_default"}
    off = {
        **{"context_parallel_size": 1, "dp_shard_size": 1, "eval_sequence_len": 512, "peft": {"loftq_config": None}},
        **{"test_datasets": [], "early_stopping_patience": 0, "special_tokens": {"pad_token": None}, "rl": ""},
    }
    settings = translate({**ORM, **off, "datasets": [entry]})
    assert settings.ignored == {} and settings.special_tokens == {} and settings.patience is None
    assert settings.config == translate(ORM).config


def test_keys_of_what_is_not_asked_for_are_told():
    assert set(translate({**ORM, "lora_r": 8, "lora_target_linear": True}).ignored) == {"lora_r", "lora_target_linear"}
    assert set(translate({**ORM, "chat_template": "gemma", "chat_template_jinja": "{{ x }}"}).ignored) == {
        "chat_template_jinja"
    }
    settings = translate({**PRM, "center_rewards_coefficient": 0.01})
    assert set(settings.ignored) == {"center_rewards_coefficient"} == set(settings.ignored) - set(settings.config)
    fsdp = {"fsdp_offload_params": True, "fsdp_use_orig_params": True, "mixed_precision_policy": "bf16"}
    settings = translate({**ORM, "fsdp_config": fsdp})
    assert set(settings.ignored) == {
        *("fsdp_version", "fsdp_config.mixed_precision_policy", "fsdp_config.use_orig_params")
    }
    assert set(translate({**ORM, "fsdp_config": {**fsdp, "fsdp_version": 1}}).ignored) == {
        "fsdp_config.mixed_precision_policy"
    }


def test_test_datasets_have_a_test_split_of_their_own(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}")
    tests = [{"path": "hub/id"}, {"path": "hub/id", "split": "validation"}, {"path": str(tmp_path / "rows.jsonl")}]
    settings = translate({**ORM, "test_datasets": tests, "datasets": [{"path": "p", "name": ["a", "b"]}]})
    assert [one.split for one in settings.test_entries] == ["test", "validation", "train"]
    assert [(one.name, one.split) for one in settings.entries] == [("a", "train"), ("b", "train")]
    files = translate({**ORM, "test_datasets": [{**ORM["datasets"][0], "data_files": "a.jsonl"}]}).test_entries[0]
    assert (files.split, files.data_files) == ("train", "a.jsonl")


def test_what_changes_nothing_is_told_key_by_key():
    given = {"sample_packing": True, "pad_to_sequence_len": True, "flash_attention": True, "dataset_prepared_path": "d"}
    entry = {**ORM["datasets"][0], "train_on_eos": "all"}
    plugins = ["axolotl.integrations.spectrum.SpectrumPlugin", "axolotl.integrations.liger.LigerPlugin"]
    settings = translate({**ORM, **given, "datasets": [entry], "plugins": plugins, "liger_rope": True})
    told = settings.ignored
    assert set(told) == {*given, "datasets[0].train_on_eos", f"plugins: {plugins[0]}"}
    assert "nothing is padded" in told["sample_packing"] and "prefix_sharing: false" in told["flash_attention"]
    assert settings.config["use_liger_kernel"] and settings.config["liger_kernel_config"] == {"rope": True}
    assert translate({**ORM, **dict.fromkeys(given, False)}).ignored == {}  # what is false is no wish
    assert translate({**ORM, "rl": None, "streaming": False}).ignored == {}


def test_keys_that_axolotl_has_since_0_21():
    given = {"full_determinism": True, "logging_nan_inf_filter": True, "chat_template_kwargs": {"a": 1}}
    options = config(**given, val_set_size=0.1, eval_steps=2, eval_on_start=False, nf4_backend="bitsandbytes")
    assert given.items() <= options.items() and options["eval_on_start"] is False
    assert config(val_set_size=0.1, eval_steps=2)["eval_on_start"] and not config(eval_on_start=True)["eval_on_start"]
    entry = ORM["datasets"][0]
    settings = translate({**ORM, "sync_profiler_steps": 2, "mixlora_top_k": 2, "datasets": [{**entry, "weight": 0.5}]})
    assert {*settings.ignored} == {"sync_profiler_steps", "mixlora_top_k", "datasets[0].weight"}
    ours = "hf_rewardplug.integrations.axolotl:RewardPlugPlugin"  # as its entry point names it
    assert translate({**ORM, "plugins": [ours]}).ignored == {}


def test_attention_is_taken_where_prefixes_are_not_shared():
    for padded in ({"prefix_sharing": False}, {"torch_compile": True}):
        settings = translate({**ORM, **padded, "attn_implementation": "sdpa", "bf16": False})
        assert settings.config["model_init_kwargs"] == {"dtype": "float32", "attn_implementation": "sdpa"}
        assert settings.ignored == {}


def test_heads_of_this_package_s_own_options():
    judge = {"model_type": "AutoModelForCausalLM", "good_token": "+", "bad_token": "-"}
    assert config(PRM, **judge)["good_token"] == "+"
    scores = {"loss_type": "mse", "attributes": ["help", "truth"], "num_labels": 2}
    assert config(**scores)["attributes"] == ["help", "truth"] and "num_labels" not in config(**scores)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"sequence_length": 9},
            "`sequence_length` is no key of axolotl's or of this package. Did you mean `sequence_len`?",
        ),
        ({"micro_batchsize": 9}, "Did you mean `micro_batch_size`?"),
        ({"prefix_shering": True}, "Did you mean `prefix_sharing`?"),
        ({"datasets": [{"path": "p", "splits": "x"}]}, "Did you mean `split`? (in `datasets[0]`)"),
        ({"datasets": [{"type": "preference"}]}, "`datasets[0]` has no `path`"),
        ({"datasets": [{"path": "p", "type": "bradley_terry.chat"}]}, "`datasets[0].type`: "),
        ({"datasets": [{"path": "p", "type": {"field_prompt": "x"}}]}, "other columns by `column_mapping`"),
        ({"datasets": [{"path": 5}]}, "`datasets[0].path` is 5; expected text"),
        ({"datasets": [{"path": "p", "column_mapping": "x"}]}, "`datasets[0].column_mapping` is 'x'; expected keys"),
        ({"datasets": [{"path": "p", "split": 5}]}, "`datasets[0].split` is 5; expected text"),
        ({"datasets": [{"path": "p", "shards": "some"}]}, "`datasets[0].shards` is 'some'; expected a whole number"),
        ({"datasets": [{"path": "p", "data_files": {"train": "x"}}]}, "expected text, in quotes or a list"),
        ({"prefix_sharing": "maybe"}, "`prefix_sharing` is 'maybe'; expected true or false"),
        ({"attributes": "a"}, "`attributes` is 'a'; expected a list"),
        ({"max_tokens_per_batch": True}, "`max_tokens_per_batch` is True; expected a whole number"),
        ({"loss_type": 5}, "`loss_type` is 5; expected text, in quotes"),
        ({"bf16": "maybe"}, "`bf16: maybe`; expected auto, true, false or full"),
        ({"special_tokens": "<pad>"}, "`special_tokens` is '<pad>'; expected keys with values"),
        ({"plugins": "p.Q"}, "`plugins` is 'p.Q'; expected a list"),
        ({"fsdp_config": ["a"]}, "`fsdp_config` is ['a']; expected keys with values"),
        ({"fsdp_config": {"transfromer_layer_cls_to_wrap": "L"}}, "Did you mean `transformer_layer_cls_to_wrap`? (in"),
        ({"micro_batch_size": 0}, "`micro_batch_size` is 0; expected 1 or more"),
        ({"max_steps": "many"}, "`max_steps` is 'many'; expected a whole number"),
        ({"lora_r": 1.5, "adapter": "lora"}, "`lora_r` is 1.5; expected a whole number"),
        ({"label_smoothing": "some"}, "`label_smoothing` is 'some'; expected a number"),
        ({"excess_length_strategy": "cut"}, "`excess_length_strategy: cut`; expected drop, truncate or raise"),
        ({"context_parallel_size": 2}, "sequences are not cut over devices"),
        ({"early_stopping_patience": 2}, "set `eval_steps`, and `val_set_size` or `test_datasets`"),
        (
            {"early_stopping_patience": 2, "val_set_size": 0.1, "eval_steps": 2, "save_steps": 3},
            "the first a multiple of the second",
        ),
        (
            {"early_stopping_patience": 2, "val_set_size": 0.1, "evals_per_epoch": 4, "saves_per_epoch": 2},
            "set `save_steps` and `eval_steps`, in steps",
        ),
        ({"fp16": "no"}, "`fp16` is 'no'; expected true or false"),
        ({"datasets": None}, "expected a list of entries"),
        ({"datasets": [{"path": "p", "chat_template": "gemma"}]}, "the whole run has one template"),
        ({"rl": "dpo", "unfrozen_parameters": ["a"]}, "  rl: it is no reward modelling"),
        ({"rl": "dpo", "unfrozen_parameters": ["a"]}, "  unfrozen_parameters: parts of the model are not frozen"),
        ({"reward_model": False}, "Neither `reward_model: true` nor"),
        ({"process_reward_model": True}, "a run trains one of them"),
        ({"base_model": None}, "`base_model` is not set"),
        ({"model_type": "AutoModelForCausalLM"}, "expected AutoModelForSequenceClassification"),
        ({"num_labels": 2}, "`num_labels: 2`; expected 1, or leave it out"),
        ({"learning_rate": "fast"}, "`learning_rate` is 'fast'; expected a number"),
        ({"optimizer": "muon"}, "axolotl's own"),
        ({"optimizer": "scao"}, "axolotl's own"),
        ({"optimizer": "muon_8bit"}, "axolotl's own"),
        ({"use_dft": True}, "use_dft: it is no reward modelling"),
        ({"nf4_backend": "torchao"}, "nf4_backend: the weights are trained as they are"),
        ({"torch_compile_regional": True}, "torch_compile_regional: compilation is left to"),
        ({"full_determinism": "some"}, "`full_determinism` is 'some'; expected true or false"),
        ({"lr_scheduler": "rex"}, "axolotl's own"),
        ({"adapter": "llama-adapter"}, "expected lora or qlora"),
        ({"load_in_8bit": True}, "`adapter` is not"),
        ({"adapter": "qlora"}, "needs `load_in_4bit: true`"),
        ({"chat_template": "cohere"}, "tokenizer_default (the model's own), or jinja"),
        ({"bf16": True, "fp16": True}, "take one of them"),
        ({"deepspeed": "a", "fsdp_config": {"version": 2}}, "take one of them"),
        ({"batch_size": 8, "gradient_accumulation_steps": 2}, "leave `batch_size` out"),
        ({"gradient_checkpointing": "offload"}, "expected true or false"),
    ],
)
def test_what_cannot_be_had_is_an_error(given, message):
    with pytest.raises(ValueError) as error:
        translate({**ORM, **given})
    assert message in str(error.value)


def test_no_key_has_two_meanings():
    groups = [
        keys.SAME,
        keys.RENAMED,
        keys.LORA,
        keys.LIGER,
        keys.ATTENTION,
        keys.ENVIRONMENT,
        keys.REPORTS,
        keys.SPECIAL,
    ]
    names = [name for group in (*groups, keys.IGNORED, keys.REFUSED) for name in group]
    assert len(names) == len(set(names))
    assert not {*own_options("orm"), *own_options("prm")} & set(names)
    assert not set(keys.IGNORED_OF_DATA) & set(keys.REFUSED_OF_DATA)


def test_the_docs_name_every_key():
    docs = (Path(__file__).resolve().parents[2] / "docs" / "migrating.md").read_text()
    of_data = {*TAKEN_OF_DATA, *keys.IGNORED_OF_DATA, *keys.REFUSED_OF_DATA}
    assert [name for name in (*keys.known(), *of_data) if f"`{name}" not in docs] == []
