"""Turns a point of the search space into a trial: its specification, seed, key and params. Pure."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from search_spaces.domains import Value
from search_spaces.space import Point, SearchSpace
from sweeps.config import messages
from trainables.specs import TrialSpec

if TYPE_CHECKING:
    from sweeps.config.model import SweepConfig

Scalar = bool | int | float | str

ALWAYS_LOGGED = ("r", "lora_alpha", "target_modules", "learning_rate")
PACING = (
    "training.step_seconds",
    "training.eval_seconds",
    "training.snapshot_every",
    "training.gradient_checkpointing",
    "training.engine",
    "training.pass_tokens",
    "quantization.residency",
)
"""Fields that change how long a step takes, but not its results, except for rounding."""
_OF_MODELS = (
    *("lora_dropout", "use_rslora", "use_dora", "init", "weight_decay", "max_grad_norm"),
    *("lora_plus_ratio", "adam_beta1", "adam_beta2", "optimizer"),
)
"""Settings that a trainable without a model ignores."""
LATER: Mapping[str, object] = {
    **{"init": "default", "use_dora": False},
    **{"lora_plus_ratio": None, "adam_beta1": 0.9, "adam_beta2": 0.999, "optimizer": "adamw"},
}
"""Field that came later -> the value that every trial had before. Keys leave out this value, so that they stay."""
_PARAMS = {"quantization.scheme": "quantization"}
"""Searched field -> its param, where this is not the last part of the field's name."""
_OTHER_ALPHA = {"adapter.lora_alpha": "alpha_over_r", "adapter.alpha_over_r": "lora_alpha"}


def base_value(base: TrialSpec, field: str) -> Value:
    """Returns the value of a searched field in `base`, in the form of a point."""
    if field == "adapter.alpha_over_r":
        return base.adapter.alpha / base.adapter.r
    if field == "adapter.lora_alpha":
        return base.adapter.alpha
    if field == "training.lora_plus_ratio":
        return base.training.lora_plus_ratio or 1.0
    section, name = field.split(".", 1)
    value: Value = getattr(getattr(base, section), name)
    return value


def completed(base: TrialSpec, space: SearchSpace, point: Point) -> Point:
    """Fills in the searched fields that a point leaves out, from `base`; {} becomes the point of `base` itself."""
    return space.restrict({**{field: base_value(base, field) for field in space.domains}, **point})


def beginning(config: SweepConfig, space: SearchSpace) -> list[Point]:
    """Returns the points before the searcher's own: the default configuration, then searcher.points."""
    default: list[Point] = [{}] if config.searcher.start_with_default else []
    return [completed(config.base, space, point) for point in (*default, *config.searcher.points)]


def unsearched(space: SearchSpace, point: Point) -> list[str]:
    """Returns "FIELD: reason" for each field of a point that the space does not search."""
    searched = list(space.domains)
    return [
        f"{field}: is not searched{messages.meant_field(field, searched)} (searched: {', '.join(searched)})"
        for field in point
        if field not in space.domains
    ]


def inactive(base: TrialSpec, space: SearchSpace, point: Point) -> list[str]:
    """Returns "FIELD: reason" for each searched field of a point that its other values make inactive."""
    whole, together = completed(base, space, point), "is not searched together with the point's other values: remove it"
    return [f"{field}: {together}" for field in point if field not in whole]


def outside(base: TrialSpec, space: SearchSpace) -> Point:
    """Returns the values of `base` that lie outside the space: searched field -> value."""
    own = completed(base, space, {})
    return {field: value for field, value in own.items() if not space.domains[field].contains(value)}


def apply(base: TrialSpec, point: Point, sweep_seed: int, repeat: int = 0) -> TrialSpec:
    """Returns the specification of the trial at `point`; raises pydantic.ValidationError for values out of range.

    `repeat` is 0, or the number of the repeat; each repeat has another seed.
    """
    raw: dict[str, Any] = base.model_dump()
    for field, value in point.items():
        section, name = field.split(".", 1)
        raw[section][name] = value
        if field in _OTHER_ALPHA:
            raw[section][_OTHER_ALPHA[field]] = None
    spec = TrialSpec.model_validate(raw)
    # After validation: only a number, a word or a list of words has a seed.
    return spec.model_copy(update={"seed": seed(sweep_seed, point, repeat)})


def seed(sweep_seed: int, point: Point, repeat: int = 0) -> int:
    """Returns the trial's own seed in [0, 2**31), from only the sweep's seed, the point and the repeat."""
    values = {field: word(value) for field, value in point.items()}
    identity = {"seed": sweep_seed, "point": values} | ({"repeat": repeat} if repeat else {})
    return int(_digest(identity)[:8], 16) >> 1


def trial_key(spec: TrialSpec, fingerprints: Mapping[str, str]) -> str:
    """Hashes everything that decides the trial's numbers to 12 hex digits.

    Leaves out names, paths and the fields of PACING. Fingerprints of base and data stand for their paths.
    """
    adapter = spec.adapter.model_dump(exclude={"alpha_over_r"}) | {
        "lora_alpha": float(spec.adapter.alpha),
        "target_modules": word(spec.adapter.target_modules),
    }
    identity = {
        "trainable": spec.trainable.rpartition("/")[2],
        "fingerprints": dict(fingerprints),
        "quantization": spec.quantization.model_dump(exclude=_paced("quantization")),
        "adapter": _without_later(adapter),
        "training": _without_later(spec.training.model_dump(exclude=_paced("training"))),
        "steps": spec.steps,
        "seed": spec.seed,
    }
    return _digest(identity)[:12]


def _without_later(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if name not in LATER or value != LATER[name]}


def _paced(section: str) -> set[str]:
    return {field.partition(".")[2] for field in PACING if field.startswith(f"{section}.")}


def params(spec: TrialSpec, point: Point) -> dict[str, Scalar]:
    """Returns the params to compare, by short name: r, lora_alpha, target_modules, learning_rate, searched fields."""
    shown: dict[str, Scalar] = {
        "r": spec.adapter.r,
        "lora_alpha": _plain(spec.adapter.alpha),
        "target_modules": word(spec.adapter.target_modules),
        "learning_rate": spec.training.learning_rate,
    }
    for field, value in point.items():
        shown.setdefault(param(field), word(value))
    return shown


def param(field: str) -> str:
    """Returns the short name of a searched field: its param in MLflow, and its column in tables."""
    return _PARAMS.get(field, field.partition(".")[2])


def settings(spec: TrialSpec) -> dict[str, Scalar]:
    """Returns all other settings that decide the trial's numbers, by short name, so that sweeps can be compared.

    Leaves out settings of a model or of data that the trial does not have. `log10_learning_rate` is for charts, whose
    axes are linear.
    """
    lora = spec.adapter.model_dump(include=set(_OF_MODELS))
    training = spec.training.model_dump(exclude={"learning_rate"} | _paced("training"))
    values: dict[str, Any] = {"log10_learning_rate": round(math.log10(spec.training.learning_rate), 4)}
    values |= {"steps_per_trial": spec.steps, "seed": spec.seed, **lora, **training}
    if spec.model is None:
        for name in _OF_MODELS:
            del values[name]
    else:
        quantization = spec.quantization
        values |= {"base_model": spec.model.source, "base_revision": spec.model.revision}
        values |= {"quantization": quantization.scheme, "compute_dtype": quantization.compute_dtype}
        values |= {"double_quant": quantization.is_double}
    if spec.data is not None:
        data = spec.data.model_dump(include={"max_length", "eval_examples", "train_on"})
        values |= {"train_data": spec.data.train, **data}
    return {name: "none" if value is None else word(value) for name, value in values.items()}


def word(value: Value) -> Scalar:
    """Returns the value as params show it; a list of modules becomes one word."""
    if isinstance(value, tuple):
        return ",".join(sorted(value))  # modules in another order are the same modules
    return _plain(value) if isinstance(value, float) else value


def _plain(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
