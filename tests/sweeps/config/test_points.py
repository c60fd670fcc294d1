"""A point becomes a trial: its specification, a seed from the point alone, and a key for all that decides numbers."""

from __future__ import annotations

from typing import Any

import pytest
from sweep_files import RATES

from search_spaces.space import SearchSpace
from sweeps.config import points
from trainables.specs import AdapterSpec, DataSpec, ModelSpec, QuantizationSpec, TrainingSpec, TrialSpec

PRINTS = {"model": "folder:0123", "data.train": "4567", "data.form": "89ab"}
MODEL = ModelSpec(source="hub/model")
DATA = DataSpec(train="rows.jsonl", prompt="{q}", completion="{a}")
POINT: points.Point = {
    "adapter.r": 16,
    "adapter.alpha_over_r": 2,
    "adapter.target_modules": ("v_proj", "q_proj"),
    "adapter.use_rslora": True,
    "training.learning_rate": 0.00021,
}


def trial(**sections: Any) -> TrialSpec:
    return TrialSpec(**{"model": MODEL, "data": DATA, **sections})


def key(spec: TrialSpec, prints: dict[str, str] = PRINTS) -> str:
    return points.trial_key(spec, prints)


@pytest.mark.parametrize(
    ("base", "point", "alpha"),
    [
        (AdapterSpec(r=8, lora_alpha=4), {"adapter.alpha_over_r": 2}, 16),
        (AdapterSpec(r=8, alpha_over_r=4), {"adapter.lora_alpha": 10}, 10),
        (AdapterSpec(r=8, alpha_over_r=4), {"adapter.r": 16}, 64),
    ],
)
def test_searching_one_alpha_takes_the_place_of_the_other(base: AdapterSpec, point: points.Point, alpha: float) -> None:
    assert points.apply(trial(adapter=base), point, 0).adapter.alpha == alpha


def test_the_default_point_is_the_base_at_the_searched_fields() -> None:
    ratio = {"adapter.alpha_over_r": {"choice": [1], "when": {"adapter.r": 2}}}
    space, base = SearchSpace.parse({"adapter.r": {"choice": [2, 4]}, **ratio, **RATES}), trial()
    point = points.completed(base, space, {})
    assert point == {"adapter.r": 16, "training.learning_rate": 2e-4}  # no alpha: it is searched at rank 2 only
    assert points.apply(base, point, 0).adapter.alpha == base.adapter.alpha


def test_seeds_never_change() -> None:
    """A change here is another seed for every trial of every sweep that can be gone on with."""
    seeds = points.seed(0, {}), points.seed(0, POINT), points.seed(7, POINT)
    assert seeds == (802111681, 1788665148, 566055549)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"adapter.alpha_over_r": 2}, {"adapter.alpha_over_r": 2.0}),
        ({"adapter.r": 8, "training.batch_size": 4}, {"training.batch_size": 4, "adapter.r": 8}),
        ({"adapter.target_modules": ("a", "b")}, {"adapter.target_modules": ("b", "a")}),
    ],
)
def test_the_same_point_has_the_same_seed(one: points.Point, other: points.Point) -> None:
    assert points.seed(3, one) == points.seed(3, other)


def test_keys_never_change() -> None:
    """A change here makes every finished trial of every sweep a stranger when the sweep goes on.

    Defaults may change: a sweep's folder keeps every value.
    """
    kept = TrainingSpec(warmup_ratio=0.03)
    assert key(TrialSpec(training=kept)) == "aeb1c8876d9c"
    assert key(points.apply(trial(training=kept), POINT, 7)) == "9d8b9d848d49"


SAID_TWICE = [
    (AdapterSpec(r=8, alpha_over_r=4), AdapterSpec(r=8, lora_alpha=32)),
    (AdapterSpec(target_modules=("q_proj", "v_proj")), AdapterSpec(target_modules=("v_proj", "q_proj"))),
]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (trial(), trial(model=ModelSpec(source="/elsewhere/model", revision="main", trust_remote_code=True))),
        (trial(), trial(data=DataSpec(train="/elsewhere/rows.csv", text="{t}"))),
        (trial(), trial(model=None, data=None)),
        (trial(), trial(training=TrainingSpec(step_seconds=1.5, gradient_checkpointing=True))),
        (trial(), trial(quantization=QuantizationSpec(residency="4bit"))),
        *((trial(adapter=one), trial(adapter=other)) for one, other in SAID_TWICE),
    ],
)
def test_paths_pacing_and_other_words_for_the_same_are_not_in_the_key(one: TrialSpec, other: TrialSpec) -> None:
    assert key(one) == key(other)


CHANGES: dict[str, list[tuple[str, Any]]] = {
    "quantization": [("scheme", "fp4"), ("double_quant", False), ("compute_dtype", "float16")],
    "adapter": [
        *(("r", 8), ("alpha_over_r", 1), ("lora_alpha", 8), ("lora_dropout", 0.1), ("use_rslora", True)),
        ("init", "gaussian"),
        ("use_dora", True),
        *(("target_modules", "mlp"), ("target_modules", ("q_proj",))),
    ],
    "training": [
        *(("batch_size", 8), ("gradient_accumulation_steps", 2), ("learning_rate", 1e-4), ("schedule", "cosine")),
        *(("warmup_ratio", 0.0), ("weight_decay", 0.1), ("max_grad_norm", None)),
        ("lora_plus_ratio", 16.0),
        ("optimizer", "adamw_8bit"),
        *(("adam_beta1", 0.8), ("adam_beta2", 0.99)),
    ],
}
SECTIONS: dict[str, Any] = {"quantization": QuantizationSpec, "adapter": AdapterSpec, "training": TrainingSpec}


def test_whatever_decides_numbers_is_in_the_key() -> None:
    others = [trial(trainable="toy"), trial(steps=80), trial(seed=1)]
    for name, changes in CHANGES.items():
        others += [trial(**{name: SECTIONS[name].model_validate({field: value})}) for field, value in changes]
    keys = [key(spec) for spec in [trial(), *others]]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", SECTIONS)
def test_every_field_is_paced_or_tried_above(name: str) -> None:
    """A new field fails here until somebody decides whether it is in the key."""
    paced = {field.removeprefix(f"{name}.") for field in points.PACING}
    assert {field for field, _ in CHANGES[name]} == SECTIONS[name].model_fields.keys() - paced


def test_base_model_and_data_are_in_the_key_by_fingerprint() -> None:
    assert len({key(trial(), prints) for prints in (PRINTS, PRINTS | {"data.form": "9"}, PRINTS | {"new": "9"})}) == 3


def test_params_hold_every_searched_field_under_its_short_name() -> None:
    shown = points.params(points.apply(trial(), POINT, 0), POINT)
    expected = {"alpha_over_r": 2, "target_modules": "q_proj,v_proj", "use_rslora": True, "lora_alpha": 32}
    assert {name: shown[name] for name in expected} == expected
    assert all(type(value) in (bool, int, float, str) for value in shown.values())
    assert AdapterSpec.model_fields.keys().isdisjoint(TrainingSpec.model_fields), "two fields of one short name"


REAL = TrialSpec(
    model=ModelSpec(source="owner/model", revision="main"),
    quantization=QuantizationSpec(scheme="nf4"),
    adapter=AdapterSpec(r=8, lora_dropout=0.1, use_rslora=True),
    data=DataSpec(train="https://host/rows.jsonl", text="{text}", max_length=256),
    training=TrainingSpec(batch_size=2, gradient_accumulation_steps=8, warmup_ratio=0.1, max_grad_norm=None),
    steps=27,
    seed=5,
)
SETTINGS = {
    "log10_learning_rate": -3.699, "steps_per_trial": 27, "seed": 5, "lora_dropout": 0.1, "use_rslora": True,
    "batch_size": 2, "gradient_accumulation_steps": 8, "schedule": "linear", "warmup_ratio": 0.1, "weight_decay": 0,
    "max_grad_norm": "none", "base_model": "owner/model", "base_revision": "main", "quantization": "nf4",
    "compute_dtype": "auto", "double_quant": True, "train_data": "https://host/rows.jsonl", "max_length": 256,
    "eval_examples": 200,
}  # fmt: skip


def test_a_real_trial_names_all_of_its_settings() -> None:
    found = points.settings(REAL)
    assert {name: found[name] for name in SETTINGS} == SETTINGS
    # A field of training or of the adapter that is added later is a param without further ado.
    shown = found.keys() | points.params(REAL, {}).keys()
    pacing = {field.partition(".")[2] for field in points.PACING}
    assert TrainingSpec.model_fields.keys() - pacing <= shown
    assert AdapterSpec.model_fields.keys() - {"alpha_over_r"} <= shown


def test_a_toy_names_what_makes_sense_for_it() -> None:
    toy = {"log10_learning_rate", "steps_per_trial", "seed", "batch_size", "gradient_accumulation_steps", "schedule"}
    assert points.settings(TrialSpec(trainable="toy")).keys() == toy | {"warmup_ratio"}
