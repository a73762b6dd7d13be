"""axolotl's keys: which are taken under which name, which change nothing here, and which are not supported.

In: a key. Out: its name in this package's configs, or the reason why it is not taken. Two groups are not taken:
`IGNORED` keys are named in the log, since the run is the same without them; `REFUSED` keys are an error, since the run
would be another.
Every key of axolotl 0.19 and 0.21 is here that is no option of this package (`tests/with_axolotl/test_schema.py`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ...checks import nearest

SAME = frozenset(
    """
    auto_find_batch_size center_rewards_coefficient dataloader_drop_last dataloader_num_workers dataloader_pin_memory
    dataloader_prefetch_factor dataset_num_proc ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters
    ddp_timeout full_determinism gradient_checkpointing_kwargs greater_is_better hub_model_id hub_revision
    hub_strategy learning_rate
    load_best_model_at_end logging_steps lr_scheduler_kwargs max_grad_norm max_steps metric_for_best_model output_dir
    pad_to_multiple_of remove_unused_columns save_only_model seed torch_compile_backend torch_compile_mode
    torch_empty_cache_steps trackio_space_id trust_remote_code weight_decay adam_beta1 adam_beta2 adam_epsilon
    optim_target_modules accelerator_config
    """.split()
)
"""keys that the configs of this package call the same"""

RENAMED = {
    "dataset_processes": "dataset_num_proc",
    "num_epochs": "num_train_epochs",
    "sequence_len": "max_length",
    "trackio_project_name": "project",
}
"""keys that they call otherwise"""

LORA = {"lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"} | {
    key: key.partition("_")[2]
    for key in """
    lora_r lora_target_modules lora_target_parameters lora_modules_to_save lora_fan_in_fan_out lora_rank_pattern
    lora_alpha_pattern peft_layers_to_transform peft_layers_pattern peft_use_dora peft_use_rslora
    peft_layer_replication peft_init_lora_weights peft_trainable_token_indices peft_ensure_weight_tying
    """.split()
}
"""keys of `adapter: lora` and `qlora` -> arguments of `peft.LoraConfig`"""

LIGER = {
    "liger_rope": "rope",
    "liger_rms_norm": "rms_norm",
    "liger_layer_norm": "layer_norm",
    "liger_glu_activation": "swiglu",
    "liger_swiglu": "swiglu",
}
"""keys of axolotl's Liger plugin -> `liger_kernel_config`"""

ATTENTION = {
    "flash_attention": "flash_attention_2",
    "sdp_attention": "sdpa",
    "eager_attention": "eager",
    "flex_attention": "flex_attention",
}
"""flags -> `attn_implementation`"""

ATTENTION_OF_TREES = "prefix trees have an attention of their own (`prefix_sharing: false` takes it)"

ENVIRONMENT = {"comet_mode": "COMET_START_MODE"} | {
    key: key.upper()
    for key in """
    wandb_project wandb_entity wandb_watch wandb_mode wandb_run_id wandb_log_model mlflow_tracking_uri
    mlflow_experiment_name hf_mlflow_log_artifacts comet_api_key comet_workspace comet_project_name
    comet_experiment_key
    """.split()
}
"""keys of trackers -> environment variables that the trackers read"""

REPORTS = {
    f"use_{tracker.partition('_')[0]}": tracker for tracker in "wandb mlflow tensorboard comet_ml trackio".split()
}

PROJECTS = {
    "wandb_project": "use_wandb",
    "mlflow_experiment_name": "use_mlflow",
    "comet_project_name": "use_comet",
    "trackio_project_name": "use_trackio",
}
"""keys that turn a tracker on by naming its project"""

OWN_TEMPLATES = {
    **dict.fromkeys(("qwen_25", "qwen3", "qwen3_5"), "<|im_start|>"),
    **dict.fromkeys(("gemma3", "gemma3n"), "<start_of_turn>"),
    **dict.fromkeys(("phi_3", "phi_35"), "<|end|>"),
    **dict.fromkeys(("mistral_v1", "mistral_v2v3", "mistral_v3_tekken", "mistral_v7_tekken"), "[INST]"),
    "llama4": "<|header_start|>",
}
"""names of `chat_template` for a family whose tokenizers carry the template -> a mark that it has"""

FSDP = frozenset(
    """
    version activation_checkpointing cpu_offload cpu_ram_efficient_loading state_dict_type auto_wrap_policy
    transformer_layer_cls_to_wrap min_num_params reshard_after_forward forward_prefetch backward_prefetch
    use_orig_params sync_module_states limit_all_gathers
    """.split()
)
"""keys of `fsdp_config` that transformers takes"""

FSDP_OF_AXOLOTL = ("cpu_offload_pin_memory", "mixed_precision_policy")
"""keys that axolotl alone takes"""

OF_FSDP_1 = frozenset("forward_prefetch backward_prefetch use_orig_params sync_module_states limit_all_gathers".split())

_SIZES = "sequence_parallel_degree context_parallel_size tensor_parallel_size dp_shard_size dp_replicate_size".split()

SPECIAL = frozenset(
    """
    base_model base_model_config model_type type_of_model model_config model_kwargs overrides_of_model_kwargs
    model_revision revision_of_model num_labels reward_model process_reward_model tokenizer_config special_tokens
    chat_template chat_template_jinja datasets test_datasets val_set_size excess_length_strategy optimizer optim_args
    lr_scheduler cosine_min_lr_ratio warmup_steps warmup_ratio evals_per_epoch saves_per_epoch early_stopping_patience
    gradient_checkpointing bf16 fp16 tf32 bfloat16 float16 float32 adapter lora_target_linear load_in_8bit load_in_4bit
    bnb_config_kwargs peft_autocast_adapter_dtype deepspeed fsdp fsdp_config fsdp_version fsdp_final_state_dict_type
    torch_compile batch_size curriculum_sampling resume_from_checkpoint auto_resume_from_checkpoints use_kernels
    attn_implementation wandb_name mlflow_run_name trackio_run_name plugins micro_batch_size eval_batch_size
    gradient_accumulation_steps save_strategy save_steps save_total_limit eval_strategy evaluation_strategy eval_steps
    eval_on_start
    """.split()
)
"""keys that `config.py` and `options.py` read by rules of their own"""

_IGNORED = {
    "batches are packed trees of prefixes, nothing is padded": """
        pad_to_sequence_len sample_packing eval_sample_packing sample_packing_group_size sample_packing_bin_size
        sample_packing_sequentially sample_packing_mp_start_method sample_packing_eff_est multipack_real_batches
        batch_flattening group_by_length max_packed_sequence_len pretrain_multipack_buffer_size pretrain_multipack_attn
        pretraining_sample_concatenation streaming_multipack_buffer_size balance_labels
        label_balance_window_optim_steps""",
    "prefix trees have an attention of their own (`prefix_sharing: false` takes `attn_implementation`)": """
        xformers_attention sage_attention flex_attn_compile_kwargs sdpa_varlen flash_attn_d512 large_head_attention
        gemma4_hybrid_attn_impl flash_optimum flash_attn_rms_norm flash_attn_cross_entropy flash_attn_fuse_mlp
        s2_attention fused_attn_kernel fa_varlen_kwargs_in_collator""",
    "rows are encoded by the trainer, and `datasets` keeps them": """
        dataset_prepared_path skip_prepare_dataset num_dataset_shards_to_save dataset_keep_in_memory
        push_dataset_to_hub is_preprocess preprocess_iterable total_num_tokens total_supervised_tokens""",
    "the trainer shuffles the rows of every epoch": "shuffle_merged_datasets shuffle_before_merging_datasets",
    "the launcher and the device decide": """
        device device_map world_size local_rank ddp max_memory gpu_memory_limit low_cpu_mem_usage
        experimental_skip_move_to_device lora_on_cpu embeddings_skip_upcast""",
    "fast tokenizers are loaded as they are": """
        tokenizer_use_fast tokenizer_legacy tokenizer_type tokenizer_save_jinja_files""",
    "the reward is of the whole sequence, there are no tokens to train on": "train_on_inputs eot_tokens",
    "adapters are fp32 here, and so are their gradients": "lora_fp32_gradients",
    "fused LoRA kernels are axolotl's": "lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel",
    "there is no vocabulary-wide loss": """
        chunked_cross_entropy chunked_cross_entropy_num_chunks cut_cross_entropy liger_cross_entropy
        liger_fused_linear_cross_entropy liger_use_token_scaling""",
    "the logs always say tokens, unique tokens and tokens a second": "include_tokens_per_second include_tkps",
    "it samples text from a language model": """
        eval_table_size eval_max_new_tokens generate_samples num_generation_samples generation_max_new_tokens
        generation_temperature generation_top_p generation_top_k generation_prompt_ratio generation_do_sample
        do_causal_lm_eval eval_causal_lm_metrics do_bench_eval bench_dataset bench_split""",
    "it is axolotl's own housekeeping": """
        axolotl_config_path strict gc_steps gc_collect_steps profiler_steps profiler_steps_start save_first_step
        dynamic_checkpoint loss_watchdog_threshold loss_watchdog_patience use_otel_metrics otel_metrics_host
        otel_metrics_port is_falcon_derived_model is_llama_derived_model is_mistral_derived_model is_qwen_derived_model
        merge_lora merge_method gradio_title gradio_share gradio_server_name gradio_server_port gradio_max_new_tokens
        gradio_temperature save_safetensors hf_use_auth_token comet_online comet_experiment_config torchdistx_path
        sync_profiler_steps sync_profiler_start_step export""",
    "it belongs to a key that is not set here": """
        trl vllm ray_run_name ray_num_workers resources_per_worker role_boundaries
        qgalore_rank qgalore_update_proj_gap qgalore_scale qgalore_proj_type qgalore_proj_quant qgalore_proj_bits
        qgalore_proj_group_size qgalore_cos_threshold qgalore_gamma_proj qgalore_queue_size dion_lr dion_momentum
        dion_rank_fraction dion_rank_multiple_of adam_beta3 adam_epsilon2 jagged_restart_warmup_steps
        jagged_restart_anneal_steps relora_prune_ratio relora_prune_method relora_cpu_offload lisa_n_layers
        lisa_layers_attribute loraplus_lr_embedding scaling_softmax_factor scaling_softmax_bias eaft_alpha eaft_k
        tiled_mlp_num_shards tiled_mlp_use_original_mlp pose_split_on_token_ids pose_max_context_len pose_num_chunks
        heads_k_stride ring_attn_func fp8_config fp8_enable_fsdp_float8_all_gather fp32_norm_classes
        model_quantization_config_kwargs rl_beta dpo_beta dpo_use_weighting dpo_label_smoothing dpo_use_liger_kernel
        dpo_padding_free dpo_loss_type dpo_loss_weights dpo_use_logits_to_keep dpo_generate_during_eval dpo_norm_loss
        precompute_ref_log_probs rpo_alpha orpo_alpha simpo_gamma cpo_alpha kto_desirable_weight
        kto_undesirable_weight image_size image_resize_algorithm processor_kwargs min_sample_len max_prompt_len
        cls_model_config lr_div_factor dpo_ld_alpha nvfp4_merge_aware mixlora_num_experts mixlora_top_k
        mixlora_router_aux_loss_coef mixlora_router_init_range mixlora_jitter_noise mixlora_expert_lora_r
        mixlora_expert_lora_alpha mixlora_expert_lora_dropout""",
}

_REFUSED = {
    "it is no reward modelling; take `reward_model` or `process_reward_model` alone": """
        rl ebft pretraining_dataset use_pose use_eaft use_dft diffusion_lm""",
    "no streams of axolotl's are read; the recipes stream (`--dataset_streaming`)": "streaming",
    "parts of the model are not frozen here; train a LoRA adapter (`adapter: lora`), or all of it": """
        unfrozen_parameters freeze_mm_modules lisa_step_interval""",
    "the weights are trained as they are; quantize with `load_in_4bit` and `adapter: qlora`": """
        qat quantization gptq fp8 model_quantization_config use_onebitllms qlora_sharded_model_loading
        quantize_moe_experts peft nf4_backend""",
    "an adapter goes on from its checkpoint: `resume_from_checkpoint`": "lora_model_dir",
    "the learning rate has one schedule and one value for all weights here": """
        relora jagged_restart_steps lr_quadratic_warmup cosine_constant_lr_ratio lr_groups embedding_lr
        embedding_lr_scale loraplus_lr_ratio""",
    "the embedding grows by a pad token alone; add tokens to the model and its tokenizer first": """
        tokens added_tokens_overrides fix_untrained_tokens resize_token_embeddings_to_32x mean_resizing_embeddings
        shrink_embeddings""",
    "it changes the model, which is trained as it is": """
        reinit_weights rope_scaling noisy_embedding_alpha neftune_noise_alpha overrides_of_model_config scaling_softmax
        fp32_norms experts_implementation llama4_linearized_experts tiled_mlp ple_cpu_offload""",
    "the trainer is this package's": "trainer_cls use_ray",
    "sequences are not cut over devices here; take FSDP or DeepSpeed": """
        sequence_parallel_degree context_parallel_size tensor_parallel_size dp_shard_size dp_replicate_size""",
    "activations are recomputed here (`gradient_checkpointing: true`), not moved": """
        activation_offloading layer_offloading selective_checkpointing""",
    "text alone is read": "processor_type tokenizer_use_mistral_common",
    "evaluation and training have one length here: `sequence_len`": "eval_sequence_len",
    "rows are taken as they are; give an entry of `datasets` its own `split`, such as 'train[:1000]'": """
        dataset_shard_num dataset_shard_idx dataset_exact_deduplication""",
    "templates take what their rows hold; write it into the template (`chat_template: jinja`)": """
        default_system_message""",
    "compilation is left to `torch_compile`, for padded batches": """
        deepcompile torch_compile_options torch_compile_regional""",
}

IGNORED = {key: why for why, keys in _IGNORED.items() for key in keys.split()}
"""key -> why the run is the same without it"""

REFUSED = {key: why for why, keys in _REFUSED.items() for key in keys.split()}
"""key -> why it is not supported, and what is"""

IGNORED_OF_DATA = dict.fromkeys(
    """
    conversation input_format preprocess_shards trust_remote_code field field_human field_model field_thinking
    template_thinking_key logprobs_field temperature roles_to_train train_on_eos train_on_eot message_field_training
    message_field_training_detail split_thinking input_transform
    """.split(),
    "a reward model's rows have no use for it",
)

REFUSED_OF_DATA = {
    key: why
    for why, keys in {
        "the whole run has one template; set it at the top": "chat_template chat_template_jinja",
        "messages have `role` and `content` here; write the rows so, or register an adapter": """
            message_property_mappings message_field_role message_field_content roles field_messages""",
        "system turns stay; take them out of the rows": "drop_system_message",
    }.items()
    for key in keys.split()
}


def asks(cfg: Mapping[str, Any], key: str) -> bool:
    """Whether a refused key asks for something: it does not where it is empty, or says what is done anyway.

    >>> asks({"streaming": False}, "streaming"), asks({}, "streaming"), asks({"rl": "dpo"}, "rl")
    (False, False, True)
    >>> asks({"tensor_parallel_size": 1}, "tensor_parallel_size"), asks({"eval_sequence_len": 512}, "eval_sequence_len")
    (False, False)
    """
    as_here = {"eval_sequence_len": cfg.get("sequence_len", 512), "nf4_backend": "bitsandbytes"}
    return _is_set(cfg.get(key)) and cfg[key] != (1 if key in _SIZES else as_here.get(key))


def _is_set(value: Any) -> bool:
    """
    >>> _is_set({"loftq_config": None}), _is_set([]), _is_set("dpo")
    (False, False, True)
    """
    return any(map(_is_set, value.values())) if isinstance(value, dict) else bool(value)


def known() -> set[str]:
    """Every key of axolotl's schema, and of its Liger plugin."""
    taken = (SAME, RENAMED, LORA, LIGER, ATTENTION, ENVIRONMENT, REPORTS, SPECIAL)
    return {name for group in (*taken, IGNORED, REFUSED) for name in group}


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What is said of a key that nobody knows.

    >>> unknown_key("sequnce_len", ["sequence_len", "seed"])
    "`sequnce_len` is no key of axolotl's or of this package. Did you mean `sequence_len`?"
    """
    return f"`{key}` is no key of axolotl's or of this package. Did you mean `{nearest(key, sorted(known))}`?"
