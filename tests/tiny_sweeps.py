"""A whole QLoRA sweep of a tiny model, as files that `qsweep` reads."""

from __future__ import annotations

import json
from pathlib import Path

import tiny_models

SWEEP = """
name: tiny
model: {source: model}
quantization: {scheme: nf4, double_quant: true, compute_dtype: float32}
data: {train: rows.jsonl, prompt: "{question}", completion: "{answer}", max_length: 96, eval_examples: 4}
training: {batch_size: 2}
search_space:
  adapter.r: {choice: [2, 4, 8]}
  adapter.target_modules: {choice: [attention-qv, all-linear]}
  training.learning_rate: {loguniform: [1.0e-3, 3.0e-2]}
budget: {trials: 5, steps_per_trial: 9}
cluster: {slots_per_host: 2}
"""


def write(folder: Path) -> None:
    """Writes sweep.yaml with the model and the rows that it names."""
    tiny_models.save("llama", folder / "model")
    rows = [{"question": f"What is {n} and {n + 7}?", "answer": f"It is {2 * n + 7}."} for n in range(24)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sweep.yaml").write_text(SWEEP)
