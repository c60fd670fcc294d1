"""The baseline: a search as people write it with Ray Tune, HF Trainer, PEFT, bitsandbytes and Ray's MLflow callback.

It uses nothing of this project. One trial holds one core and one thread, and as many trials run at once as there are
cores. Each trial loads the 4-bit base, trains, and evaluates at the rungs. Gradient checkpointing is off and rows are
padded within their own batch only, since both make it faster.

    python -m tests.benchmarks.plain_ray_tune JOB.json RESULT.json

JOB.json: {model, dtype, rows, points, rungs, reduction_factor, early, batch_size, pad_id, tracking_uri, folder}.
`model` is a folder with a 4-bit base, `rows` a file {train: [{input_ids, labels}], eval: [...]}, `rungs` the steps to
report at, the last of them the end; `early` chooses Ray's ASHA or no early stopping. RESULT.json: {reports: [...]}.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

EVAL_BATCH = 4
MODULES = {"attention-qv": ["q_proj", "v_proj"], "all-linear": "all-linear",
           "attention": ["q_proj", "k_proj", "v_proj", "o_proj"]}  # fmt: skip


def adapted(model: str, dtype: str, point: dict[str, Any]) -> Any:
    """The base in 4 bits with an adapter; in bfloat16 norms, embeddings and head stay float32, as PEFT makes them."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM

    place = {"": "cuda:0" if torch.cuda.is_available() else "cpu"}
    base = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), device_map=place)
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes 0.50.2 loses gradients after the first evaluation on CPUs with AVX512-BF16 without this.
            module.support_avx512bf16_for_cpu = False
    base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    rank = point["adapter.r"]
    modules = MODULES[point["adapter.target_modules"]]
    return get_peft_model(base, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules, task_type="CAUSAL_LM"))


def padded(batch: list[dict[str, list[int]]], pad_id: int) -> dict[str, Any]:
    """The rows as tensors, as long as the longest of them."""
    import torch

    longest = max(len(row["input_ids"]) for row in batch)
    fill = {"input_ids": pad_id, "labels": -100}
    made = {name: [row[name] + [value] * (longest - len(row[name])) for row in batch]
            for name, value in fill.items()}  # fmt: skip
    made["attention_mask"] = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in batch]
    return {name: torch.tensor(values) for name, values in made.items()}


def train(config: dict[str, Any], job: dict[str, Any], rows: dict[str, Any]) -> None:
    """One trial."""
    import torch
    from ray import tune
    from transformers import Trainer, TrainerCallback, TrainingArguments

    torch.set_num_threads(1)
    point, tokens = config["point"], 0

    class Reporting(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_evaluate = state.global_step in job["rungs"]

    class TokenMean(Trainer):
        """Its evaluation is the mean over labelled tokens, as this project's is; HF's own is a mean of batches."""

        def training_step(self, model, inputs, num_items_in_batch=None):
            nonlocal tokens
            tokens += int(inputs["attention_mask"].sum())
            return super().training_step(model, inputs, num_items_in_batch)

        def evaluate(self, *args, **kwargs):
            total, counted = 0.0, 0
            self.model.eval()
            with torch.no_grad():
                for batch in self.get_eval_dataloader():
                    labels = int((batch["labels"][:, 1:] != -100).sum())
                    total += float(self.model(**batch).loss) * labels
                    counted += labels
            self.model.train()
            metrics = {"eval_loss": total / counted, "step": self.state.global_step, "tokens": tokens}
            # It notes that the evaluation is done; else the last one comes twice.
            self.callback_handler.on_evaluate(self.args, self.state, vars(self)["control"], metrics)
            tune.report(metrics)
            return metrics

    arguments = TrainingArguments(
        output_dir=f"{job['folder']}/trainer", per_device_train_batch_size=job["batch_size"],
        per_device_eval_batch_size=EVAL_BATCH, max_steps=job["rungs"][-1],
        learning_rate=point["training.learning_rate"], lr_scheduler_type="linear", warmup_steps=0,
        bf16=job["dtype"] == "bfloat16", report_to="none", save_strategy="no", logging_strategy="no",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False, disable_tqdm=True, seed=0, remove_unused_columns=False,
    )  # fmt: skip
    TokenMean(
        model=adapted(job["model"], job["dtype"], point), args=arguments, train_dataset=rows["train"],
        eval_dataset=rows["eval"], data_collator=partial(padded, pad_id=job["pad_id"]), callbacks=[Reporting()],
    ).train()  # fmt: skip


def sweep(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs the trials; returns every report of every trial."""
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler

    ray.init(num_cpus=os.cpu_count(), include_dashboard=False)
    rows = json.loads(Path(job["rows"]).read_text())
    # Like lengths side by side: less padding.
    rows["eval"].sort(key=lambda row: len(row["input_ids"]))
    asha = ASHAScheduler(
        time_attr="step", metric="eval_loss", mode="min", max_t=job["rungs"][-1], grace_period=job["rungs"][0],
        reduction_factor=job["reduction_factor"],
    )  # fmt: skip
    on = {"cpu": 1, "gpu": 1} if ray.cluster_resources().get("GPU") else {"cpu": 1}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(train, job=job, rows=rows), on),
        param_space={"point": tune.grid_search(job["points"])},
        tune_config=tune.TuneConfig(scheduler=asha if job["early"] else None),
        run_config=tune.RunConfig(
            name="plain",
            storage_path=f"{job['folder']}/ray_results",
            callbacks=[MLflowLoggerCallback(tracking_uri=job["tracking_uri"], experiment_name="plain")],
        ),
    )
    reports = []
    for result in tuner.fit():
        if result.error is not None:
            raise result.error
        for line in (Path(result.path) / "result.json").read_text().splitlines():
            told = json.loads(line)
            names = ("step", "eval_loss", "tokens")
            reports.append({"trial": told["trial_id"]} | {name: told[name] for name in names})
    return reports


if __name__ == "__main__":
    described, answer = (Path(word) for word in sys.argv[1:3])
    answer.write_text(json.dumps({"reports": sweep(json.loads(described.read_text()))}, indent=1))
