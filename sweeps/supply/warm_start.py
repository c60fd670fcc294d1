"""Takes over trials of an earlier sweep into a new one (`searcher.warm_start`). Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import cast

from pydantic import ValidationError

from search_spaces.domains import Domain, Value
from search_spaces.space import Point, SearchSpace
from sweeps.config import points, resource
from sweeps.config.model import SweepConfig
from sweeps.record.events import EarlierTrials

FIRST = 3
"""Best points of the earlier sweep that are tried first."""
_NOT_COMPARED = {"seed", "log10_learning_rate", "base_model", "base_revision", "train_data"}
"""Params that need not be equal: the seed, a copy of learning_rate, and names whose fingerprints are compared."""
_EARLIEST = {name: "none" if value is None else str(value) for name, value in points.LATER.items()}
"""Params of trials from before these settings."""


def refusal(new: SweepConfig, earlier: SweepConfig) -> str | None:
    """Says why a new sweep cannot learn from an earlier one; None if it can."""
    pairs = {
        "trainable": (earlier.trainable, new.trainable),
        "base model family": (_family(earlier), _family(new)),
        "form of the rows": (_form(earlier), _form(new)),
        "objective": (_objective(earlier), _objective(new)),
    }
    for what, (before, now) in pairs.items():
        if before != now:
            return f"its {what} is {before}, and this sweep's is {now}: leave it out, or name another sweep"
    return None


def is_same_task(
    new: SweepConfig, earlier: SweepConfig, fingerprints: Mapping[str, str], earlier_fingerprints: Mapping[str, str]
) -> bool:
    """Tells whether losses of trials with the same settings compare: equal base, rows and steps; see `is_own`."""
    return (
        bool(fingerprints)
        and dict(fingerprints) == dict(earlier_fingerprints)
        and new.budget.steps_per_trial == earlier.budget.steps_per_trial
        and new.budget.examples_per_trial == earlier.budget.examples_per_trial
        and _precision(new) == _precision(earlier)
        and _rows(new) == _rows(earlier)
    )


def has_our_settings(config: SweepConfig, point: Point, params: Mapping[str, str]) -> bool:
    """Tells whether a trial of the same task had the settings that the new sweep would give its point, seed aside.

    They differ where the trial has other values in fields that the new sweep does not search.
    """
    try:
        spec = resource.of(config).with_steps(points.apply(config.base, point, config.seed))
    except ValidationError:  # the point lies outside the space and cannot be trained
        return False
    ours, params = {**points.settings(spec), **points.params(spec, {})}, {**_EARLIEST, **params}
    return all(_is_equal(str(value), params.get(name, "")) for name, value in ours.items() if name not in _NOT_COMPARED)


def point(space: SearchSpace, params: Mapping[str, str]) -> Point | None:
    """Reads a trial's point in the new sweep's space from its params in MLflow; None if a field has no value there.

    The params are those of `points.params` and `points.settings`, as text.
    """
    values: dict[str, Value] = {}
    for name in space.order:
        if not space.is_active(name, values):
            continue
        value = _value(space.domains[name], _text(name, params))
        if value is None:
            return None
        values[name] = value
    return {name: values[name] for name in space.domains if name in values}


def best_points(earlier: EarlierTrials | None, space: SearchSpace) -> list[Point]:
    """Returns the best points of the earlier sweep that lie in the new sweep's space, best first."""
    ranked = sorted(earlier.trials if earlier is not None else (), key=lambda trial: trial.loss)
    inside: list[Point] = []
    for trial in ranked:
        # A point that was trained with several seeds is one point.
        if space.contains(trial.point) and trial.point not in inside:
            inside.append(trial.point)
    return inside[:FIRST]


def _family(config: SweepConfig) -> str:
    """Returns the first word of the base model's name: llama, qwen, smollm."""
    if config.model is None:
        return "none"
    word = re.match(r"[a-z]+", config.model.source.rstrip("/").rpartition("/")[2].rpartition(":")[2].lower())
    return word[0] if word is not None else config.model.source


def _objective(config: SweepConfig) -> str:
    first = config.objectives[0]
    return f"{'lower' if first.mode == 'min' else 'higher'} {first.metric}"


def _form(config: SweepConfig) -> str:
    data = config.data
    if data is None:
        return "none"
    return next(form for form in ("completion", "messages", "text") if getattr(data, form) is not None)


def _precision(config: SweepConfig) -> object:
    return config.quantization.model_dump(exclude={"residency"})


def _rows(config: SweepConfig) -> object:
    """Returns the settings of `data` that decide which rows are evaluated and how; fingerprints cover its files."""
    places = {"train", "eval", "test"}
    return None if config.data is None else config.data.model_dump(exclude=places)


def _text(field: str, params: Mapping[str, str]) -> str | None:
    if field == "adapter.alpha_over_r":
        alpha, r = params.get("lora_alpha"), params.get("r")
        return str(float(alpha) / float(r)) if alpha is not None and r is not None else None
    if field == "training.lora_plus_ratio" and params.get("lora_plus_ratio", "none") == "none":
        return "1"
    return {**_EARLIEST, **params}.get(points.param(field))


def _value(domain: Domain, text: str | None) -> Value | None:
    if text is None:
        return None
    if domain.is_ordered:
        number = _number(text)
        values = domain.values() if domain.size is not None else None
        if values is None or number is None:
            return number
        # A ratio of two params may differ in the last digit.
        return next((value for value in values if math.isclose(cast(float, value), number)), None)
    return next((value for value in domain.values() or () if str(points.word(value)).lower() == text.lower()), None)


def _is_equal(ours: str, theirs: str) -> bool:
    numbers = _number(ours), _number(theirs)
    if numbers[0] is None or numbers[1] is None:
        return ours == theirs
    return math.isclose(*cast(tuple[float, float], numbers))  # a ratio of two params: see `_value`


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
