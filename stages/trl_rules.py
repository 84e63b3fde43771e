"""What this project adds to and takes from the vocabulary of TRL's configs in `train:`."""

from typing import Any

OURS: dict[str, dict[str, Any]] = {
    "batch_size": {
        "type": ["int"],
        "default": 8,
        "help": "Sequences per optimizer step over all devices: pairs in DPO, completions in GRPO.",
    }
}
# A stage kind that samples while it trains counts completions, and samples them in whole groups.
ROLLOUT_CONFIGS = ("GRPOConfig", "RLOOConfig")

# Schedules that end above 0, and the settings of each (transformers/optimization.py).
MIN_LR_SCHEDULES = {
    "cosine_with_min_lr": frozenset({"num_cycles", "min_lr", "min_lr_rate"}),
    "cosine_warmup_with_min_lr": frozenset(
        {"num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"}
    ),
}

# What to do instead, and the fields that are refused with it.
_OWNED = (
    (
        "`seed` of the chain or the stage sets it",
        "seed data_seed",
    ),
    (
        "the store chooses the stage's folder; see --runs",
        "output_dir",
    ),
    (
        "write `batch_size`, the number of sequences per step over all devices, and `micro_batch`",
        "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps "
        "auto_find_batch_size",
    ),
    (
        "it counts micro-batches, which differ between machines; write "
        "`generation_batch_size`, the completions of one rollout",
        "steps_per_generation",
    ),
    (
        "write `checkpoint_every` in the stage",
        "save_strategy save_steps save_total_limit save_only_model save_on_each_node "
        "enable_jit_checkpoint",
    ),
    (
        "rows come tokenised, cut and packed from the stage's data stream; write `packing` and "
        "`max_length`",
        "packing_strategy eval_packing padding_free completion_only_loss",
    ),
    (
        "held-out loss is measured before the first step and at the end; write `eval_steps` for more",
        "eval_on_start",
    ),
    (
        "a loss that is no finite number ends the stage, which says where it came from",
        "logging_nan_inf_filter",
    ),
    (
        "means are over the whole global batch on every topology",
        "average_tokens_across_devices",
    ),
    (
        "choose a backend with `launch`",
        "fsdp fsdp_config deepspeed accelerator_config parallelism_config local_rank use_cpu "
        "ddp_backend ddp_find_unused_parameters ddp_static_graph ddp_broadcast_buffers "
        "no_cuda",
    ),
    (
        "write it in the model config",
        "model_init_kwargs trust_remote_code chat_template_path eos_token pad_token",
    ),
    (
        "write `columns` in the data config",
        "dataset_text_field dataset_kwargs remove_unused_columns label_names include_for_metrics",
    ),
    (
        "rows come in the order of the stage's data stream",
        "train_sampling_strategy shuffle_dataset length_column_name group_by_length",
    ),
    (
        "probes and the gate judge checkpoints",
        "load_best_model_at_end metric_for_best_model greater_is_better",
    ),
    (
        "the command line decides; try -v",
        "disable_tqdm log_level log_level_replica log_on_each_node debug skip_memory_metrics "
        "do_train do_eval do_predict",
    ),
    (
        "write `logging_steps`",
        "logging_strategy",
    ),
    (
        "held-out loss is logged when the data has a validation part; write `eval_steps` to "
        "set how often",
        "eval_strategy",
    ),
    (
        "an interrupted stage continues by itself when the same command runs again",
        "resume_from_checkpoint ignore_data_skip restore_callback_states_from_checkpoint",
    ),
    (
        "write `trackers` in the chain",
        "report_to run_name project trackio_space_id trackio_bucket_id "
        "trackio_static_space_id logging_dir",
    ),
    (
        "write `teacher`",
        "teacher_model_name_or_path teacher_model_revision teacher_model_init_kwargs",
    ),
    (
        "every stage leaves an ordinary Hugging Face folder; upload that",
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push "
        "hub_revision log_completions_hub_repo",
    ),
    (
        "the reference is the stage named by `reference`, and stays as it is",
        "sync_ref_model ref_model_mixup_alpha ref_model_sync_steps",
    ),
)
RUNNER_OWNED = {name: instead for instead, names in _OWNED for name in names.split()}

# Names that older versions of TRL had and that many recipes still carry.
FORMER = {
    "evaluation_strategy": "eval_steps",
    "max_seq_length": "max_length",
    "warmup_ratio": "warmup_steps, which is a share of all steps when it is below 1",
}
# Intervals; a bound per config goes before the general one.
BOUNDS = {
    "adam_beta1": "[0, 1)",
    "adam_beta2": "[0, 1)",
    "adam_epsilon": "(0, inf)",
    "batch_size": "[1, inf)",
    "beta": "[0, inf)",
    "dataloader_num_workers": "[0, inf)",
    "dataset_num_proc": "[1, inf)",
    "epsilon": "(0, inf)",
    "epsilon_high": "(0, inf)",
    "eval_steps": "(0, inf)",
    "generation_batch_size": "[1, inf)",
    "label_smoothing": "[0, 1)",
    "label_smoothing_factor": "[0, 1)",
    "ld_alpha": "[0, 1]",
    "learning_rate": "[0, inf)",
    "logging_steps": "(0, inf)",
    "max_completion_length": "[1, inf)",
    "max_grad_norm": "[0, inf)",
    "max_length": "[2, inf)",
    "min_p": "[0, 1]",
    "num_generations": "[2, inf)",
    "num_generations_eval": "[1, inf)",
    "num_iterations": "[1, inf)",
    "num_train_epochs": "(0, inf)",
    "pad_to_multiple_of": "[1, inf)",
    "repetition_penalty": "(0, inf)",
    "temperature": "(0, inf)",
    "top_entropy_quantile": "[0, 1]",
    "top_k": "[0, inf)",
    "top_p": "(0, 1]",
    "torch_empty_cache_steps": "[1, inf)",
    "warmup_steps": "[0, inf)",
    "weight_decay": "[0, inf)",
    "DistillationConfig.beta": "[0, 1]",
}
