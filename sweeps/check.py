"""Checks that need more than one section: the search space against the specification, and local files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from search_spaces.domains import Value
from search_spaces.space import SearchSpace
from sweeps import points, problems
from sweeps.config import SweepConfig
from trainables import registry
from trainables.specs import AdapterSpec, DataSpec, ModelSpec, TrainingSpec, TrialSpec

_FIELDS = [f"adapter.{name}" for name in AdapterSpec.model_fields] + [
    f"training.{name}" for name in TrainingSpec.model_fields
]
_PACING = ("training.step_seconds", "training.gradient_checkpointing")


def fields(space: SearchSpace) -> list[str]:
    """Searched fields, and fields that conditions ask for, that the specification does not have."""
    wrong = [f"search_space.{field}: {reason}" for field in space.domains if (reason := _field(field))]
    for name, conditions in space.conditions().items():
        for condition in conditions:
            if condition.field not in _FIELDS:
                wrong.append(f"search_space.{name}: when: {problems.unknown('field', condition.field, _FIELDS)}")
    return wrong


def space(base: TrialSpec, space: SearchSpace) -> list[str]:
    """What keeps this space from being searched around this base, "search_space.FIELD: reason" each."""
    wrong = [line for field in space.domains for line in _values(base, field, space)]
    if space.may_meet("adapter.lora_alpha", "adapter.alpha_over_r"):
        wrong.append("search_space.adapter.lora_alpha: says the same as adapter.alpha_over_r: search one of them")
    return wrong


def _field(field: str) -> str | None:
    if field in _PACING:
        return "changes how fast a step is, not what it computes: there is nothing to search"
    if field in _FIELDS:
        return None
    section = field.split(".", 1)[0]
    if section in ("model", "quantization", "data", "trainable"):
        return (
            "all trials of a sweep share one base model and one data set, so only adapter.* and training.* may be "
            "searched; run one sweep for each value"
        )
    return problems.unknown("field", field, _FIELDS)


def _values(base: TrialSpec, field: str, space: SearchSpace) -> list[str]:
    """Values of the domain that the specification does not take."""
    wrong: dict[str, None] = {}
    for value in space.domains[field].extremes():
        try:
            points.apply(base, {field: value}, 0)
        except ValidationError as error:
            for line in problems.of_validation(error, _raw(base, field, value)):
                wrong[f"search_space.{line}"] = None
    return list(wrong)


def _raw(base: TrialSpec, field: str, value: Value) -> dict[str, Any]:
    section, name = field.split(".", 1)
    raw = base.model_dump()
    raw[section][name] = value
    return raw


def local_files(raw: Mapping[str, Any], config: SweepConfig | None) -> list[str]:
    """Problems with the model's and the data's files, as far as their own sections are right."""
    try:
        trainable = registry.find(str(raw.get("trainable", "qlora")))
    except LookupError as error:
        return [f"trainable: {error}"]
    wrong = [
        f"{section}: is required by the trainable {raw.get('trainable', 'qlora')}"
        for section in sorted(trainable.REQUIRES)
        if raw.get(section) is None
    ]
    if config is not None:
        return wrong + trainable.check(config.base)
    parts: dict[str, Any] = {}
    for section, kind in (("model", ModelSpec), ("data", DataSpec)):
        try:
            parts[section] = kind.model_validate(raw[section]) if raw.get(section) is not None else None
        except ValidationError:
            parts[section] = None
    return wrong + trainable.check(TrialSpec(trainable=str(raw.get("trainable", "qlora")), **parts))
