"""Words of PEFT, TRL, transformers, Axolotl, Unsloth and LLaMA-Factory: the key here, or that there is none. Pure."""

_OTHERS = {
    "adapter.r": "rank lora_r lora_rank",
    "adapter.lora_alpha": "alpha",
    "adapter.alpha_over_r": "alpha_ratio",
    "adapter.lora_dropout": "dropout",
    "adapter.target_modules": "modules lora_target lora_target_modules lora_target_linear",
    "adapter.use_rslora": "rslora",
    "adapter.init": "init_lora_weights",
    "model.source": "base_model model_name model_id model_name_or_path pretrained_model_name_or_path",
    "model.revision": "model_revision",
    "quantization.scheme": "load_in_4bit bnb_4bit_quant_type quantization_bit",
    "quantization.double_quant": "bnb_4bit_use_double_quant double_quantization",
    "quantization.compute_dtype": "bf16 fp16 dtype torch_dtype bnb_4bit_compute_dtype",
    "data.train": "dataset datasets dataset_name train_file",
    "data.text": "dataset_text_field",
    "data.train_on": "assistant_only_loss",
    "data.max_length": "max_seq_length max_seq_len sequence_len cutoff_len model_max_length",
    "data.eval_examples": "val_set_size val_size test_size",
    "training.batch_size": "per_device_train_batch_size micro_batch_size",
    "training.gradient_accumulation_steps": "gradient_accumulation",
    "training.learning_rate": "lr",
    "training.lora_plus_ratio": "loraplus_lr_ratio",
    "training.schedule": "lr_scheduler lr_scheduler_type",
    "training.warmup_ratio": "warmup_steps",
    "training.optimizer": "optim",
    "training.adam_beta1": "adam_betas betas",
    "training.max_grad_norm": "clip_grad gradient_clipping",
    "training.gradient_checkpointing": "use_gradient_checkpointing",
    "training.snapshot_every": "save_steps",
    "budget.trials": "num_samples n_trials",
    "budget.steps_per_trial": "max_steps",
    "budget.epochs_per_trial": "epochs num_epochs num_train_epochs",
    "scheduler.grace_steps": "eval_steps",
    "scheduler.overfit_patience": "early_stopping_patience",
    "objective.metric": "metric_for_best_model",
    "tracking.uri": "report_to",
    "tracking.experiment": "wandb_project",
    "storage": "output_dir",
}
KEYS = {other: key for key, others in _OTHERS.items() for other in others.split()}
"""Another tool's word -> the key here, with its section."""

_ONE_BASE = "the base is shared and stays as it is"
_LOSS = "the loss is that of data.completion, or with data.text that of the whole text"
_NO_SPREAD = "a trial trains on one host; cluster.gpus_per_host spreads the base over the GPUs of a host"
_NO_PACKING = "rows are not joined; the engines flat and grouped compute without padding anyway"
NOT_HERE = {
    "use_qalora": "adapters are LoRA, with adapter.use_rslora or adapter.use_dora if you like",
    "modules_to_save": f"only adapters train: {_ONE_BASE}",
    "rank_pattern": "all modules of an adapter have one rank: adapter.r",
    "alpha_pattern": "all modules of an adapter have one alpha: adapter.lora_alpha",
    "load_in_8bit": "quantization.scheme is nf4, fp4 or none",
    "neftune_noise_alpha": "no noise is added to embeddings",
    "resume_from_checkpoint": "qsweep resume goes on with a sweep; qsweep refit trains its best trial anew, for longer",
    "train_on_inputs": _LOSS,
    "completion_only_loss": _LOSS,
    "packing": _NO_PACKING,
    "sample_packing": _NO_PACKING,
    "deepspeed": _NO_SPREAD,
    "fsdp": _NO_SPREAD,
    "attn_implementation": "training.engine chooses how passes are computed",
    "flash_attention": "training.engine chooses how passes are computed",
}
"""Another tool's word -> why there is no such key, or what takes its place."""
