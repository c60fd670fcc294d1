"""All that decides a trial's numbers is a param of its run, searched or not: two sweeps can be compared."""

from __future__ import annotations

from sweeps.config import points
from trainables.specs import AdapterSpec, DataSpec, ModelSpec, QuantizationSpec, TrainingSpec, TrialSpec

REAL = TrialSpec(
    model=ModelSpec(source="owner/model", revision="main"),
    quantization=QuantizationSpec(scheme="nf4"),
    adapter=AdapterSpec(r=8, lora_dropout=0.1, use_rslora=True),
    data=DataSpec(train="rows.jsonl", text="{text}", max_length=256),
    training=TrainingSpec(batch_size=2, gradient_accumulation_steps=8, warmup_ratio=0.1, max_grad_norm=None),
    steps=27,
    seed=5,
)
EXPECTED = {
    "log10_learning_rate": -3.699,
    "steps_per_trial": 27,
    "seed": 5,
    "lora_dropout": 0.1,
    "use_rslora": True,
    "batch_size": 2,
    "gradient_accumulation_steps": 8,
    "schedule": "linear",
    "warmup_ratio": 0.1,
    "weight_decay": 0,
    "max_grad_norm": "none",
    "base_model": "owner/model",
    "base_revision": "main",
    "quantization": "nf4",
    "compute_dtype": "auto",
    "double_quant": True,
    "train_data": "rows.jsonl",
    "max_length": 256,
    "eval_examples": 200,
}


def test_a_real_trial_names_all_of_its_settings():
    found = points.settings(REAL)
    assert {name: found[name] for name in EXPECTED} == EXPECTED


def test_a_toy_names_what_makes_sense_for_it():
    toy = {"log10_learning_rate", "steps_per_trial", "seed", "batch_size", "gradient_accumulation_steps", "schedule"}
    assert points.settings(TrialSpec(trainable="toy")).keys() == toy | {"warmup_ratio"}


def test_passwords_are_in_no_param():
    data = DataSpec(train="https://me:secret@host/rows.jsonl", text="{text}")
    shown = points.settings(REAL.model_copy(update={"data": data}))
    assert shown["train_data"] == "https://me:***@host/rows.jsonl"


def test_all_that_the_trial_key_stands_for_is_a_param():
    """A field of training or of the adapter that is added later is one without further ado."""
    shown = points.settings(REAL).keys() | points.params(REAL, {}).keys()
    pacing = {field.partition(".")[2] for field in points.PACING}
    assert TrainingSpec.model_fields.keys() - pacing <= shown
    assert AdapterSpec.model_fields.keys() - {"alpha_over_r"} <= shown
