"""A point becomes a trial: its specification, a seed from the point alone, and a key for all that decides numbers."""

from __future__ import annotations

from typing import Any

import pytest

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


# The specification


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
    space = SearchSpace.parse(
        {
            "adapter.r": {"choice": [2, 4]},
            "adapter.alpha_over_r": {"choice": [1], "when": {"adapter.r": 2}},
            "training.learning_rate": {"loguniform": [1e-5, 1e-3]},
        }
    )
    base = trial()
    point = points.completed(base, space, {})
    assert point == {"adapter.r": 16, "training.learning_rate": 2e-4}  # no alpha: it is searched at rank 2 only
    assert points.apply(base, point, 0).adapter.alpha == base.adapter.alpha


# The seed


def test_seeds_never_change() -> None:
    """A change here is another seed for every trial of every sweep that can be gone on with."""
    assert points.seed(0, {}) == 802111681
    assert points.seed(0, POINT) == 1788665148
    assert points.seed(7, POINT) == 566055549


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


# The key


def test_keys_never_change() -> None:
    """A change here makes every finished trial of every sweep a stranger when the sweep goes on.

    Defaults may change: a sweep's folder keeps every value.
    """
    kept = TrainingSpec(warmup_ratio=0.03)
    assert key(TrialSpec(training=kept)) == "aeb1c8876d9c"
    assert key(points.apply(trial(training=kept), POINT, 7)) == "9d8b9d848d49"


@pytest.mark.parametrize(
    "same",
    [
        trial(model=ModelSpec(source="/elsewhere/model", revision="main", trust_remote_code=True)),
        trial(data=DataSpec(train="/elsewhere/rows.csv", text="{t}")),
        trial(model=None, data=None),
        trial(training=TrainingSpec(step_seconds=1.5, gradient_checkpointing=True)),
        trial(quantization=QuantizationSpec(residency="4bit")),
    ],
)
def test_paths_and_pacing_are_not_in_the_key(same: TrialSpec) -> None:
    assert key(same) == key(trial())


OTHERS: list[TrialSpec] = [
    trial(trainable="toy"),
    trial(steps=80),
    trial(seed=1),
    *(
        trial(quantization=QuantizationSpec.model_validate({name: value}))
        for name, value in [("scheme", "fp4"), ("double_quant", False), ("compute_dtype", "float16")]
    ),
    *(
        trial(adapter=AdapterSpec.model_validate({name: value}))
        for name, value in [
            ("r", 8),
            ("alpha_over_r", 1),
            ("lora_alpha", 8),
            ("lora_dropout", 0.1),
            ("target_modules", "mlp"),
            ("target_modules", ("q_proj",)),
            ("use_rslora", True),
        ]
    ),
    *(
        trial(training=TrainingSpec.model_validate({name: value}))
        for name, value in [
            ("batch_size", 8),
            ("gradient_accumulation_steps", 2),
            ("learning_rate", 1e-4),
            ("schedule", "cosine"),
            ("warmup_ratio", 0.0),
            ("weight_decay", 0.1),
            ("max_grad_norm", None),
        ]
    ),
]


def test_whatever_decides_numbers_is_in_the_key() -> None:
    keys = [key(spec) for spec in [trial(), *OTHERS]]
    assert len(set(keys)) == len(keys)


def test_every_field_of_adapter_training_and_quantization_is_paced_or_tried_above() -> None:
    """A new field fails here until somebody decides whether it is in the key."""
    default = trial()
    for section in ("quantization", "adapter", "training"):
        kept = getattr(default, section)
        changed = {
            name
            for other in OTHERS
            for name in type(kept).model_fields
            if getattr(getattr(other, section), name) != getattr(kept, name)
        }
        paced = {field.partition(".")[2] for field in points.PACING if field.startswith(f"{section}.")}
        assert changed == set(type(kept).model_fields) - paced


def test_base_model_and_data_are_in_the_key_by_fingerprint() -> None:
    assert len({key(trial(), prints) for prints in (PRINTS, PRINTS | {"data.form": "9"}, PRINTS | {"new": "9"})}) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (AdapterSpec(r=8, alpha_over_r=4), AdapterSpec(r=8, lora_alpha=32)),
        (AdapterSpec(target_modules=("q_proj", "v_proj")), AdapterSpec(target_modules=("v_proj", "q_proj"))),
    ],
)
def test_the_same_adapter_said_otherwise_has_the_same_key(one: AdapterSpec, other: AdapterSpec) -> None:
    assert key(trial(adapter=one)) == key(trial(adapter=other))


# What people compare


def test_params_hold_every_searched_field_under_its_short_name() -> None:
    point: points.Point = {
        "adapter.alpha_over_r": 2.0,
        "adapter.target_modules": ("v_proj", "q_proj"),
        "adapter.use_rslora": True,
    }
    shown = points.params(points.apply(trial(), point, 0), point)
    assert shown["alpha_over_r"] == 2
    assert shown["target_modules"] == "q_proj,v_proj"
    assert shown["use_rslora"] is True
    assert shown["lora_alpha"] == 32
    assert all(type(value) in (bool, int, float, str) for value in shown.values())


def test_no_two_searchable_fields_share_a_short_name() -> None:
    assert AdapterSpec.model_fields.keys().isdisjoint(TrainingSpec.model_fields)
