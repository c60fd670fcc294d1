"""Checks the fields and values of the search space against the specification of a trial.

All trials of a sweep share one model and one data set: a space holds fields of `adapter` and `training`, and those of
`quantization` that make another base of the model.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import ValidationError

import search_spaces
from search_spaces.domains import Domain, Value
from search_spaces.space import PORTFOLIO, Point, SearchSpace
from sweeps.config import bases, messages, points
from sweeps.config.model import SweepConfig
from trainables import catalogue
from trainables.contract import Trainable
from trainables.errors import NotTrainable
from trainables.quantization import SCHEMES
from trainables.specs import AdapterSpec, EvaluationSpec, TrainingSpec, TrialSpec

_FIELDS = [
    *(f"adapter.{name}" for name in AdapterSpec.model_fields),
    *(f"training.{name}" for name in TrainingSpec.model_fields),
    *bases.FIELDS,
]
_SEARCHABLE = [field for field in _FIELDS if field not in points.PACING]


def mistakes(config: SweepConfig, space: SearchSpace, trainable: Trainable | None) -> list[str]:
    """Returns "search_space.FIELD: reason" for each mistake in a searched field; checks each field alone."""
    base = _values_alone(config)
    wrong = []
    for field, domain in space.domains.items():
        reason = _field(field)
        wrong += [f"{field}: {reason}"] if reason is not None else _values(base, field, domain, trainable)
        for condition in domain.when:
            if condition.field not in _FIELDS:
                wrong.append(f"{field}: when: {messages.unknown_field(condition.field, _SEARCHABLE)}")
            elif condition.field not in space.domains:
                never = [line for value in condition.values for line in _value(base, condition.field, value, None)]
                wrong += [f"{field}: when: {line}" for line in never]
    return [f"search_space.{line}" for line in wrong]


def _values_alone(config: SweepConfig) -> TrialSpec:
    """Returns the default configuration without model and data, so that a check of values reads no file."""
    return config.base.model_copy(update={"model": None, "data": None})


def explicit_points(config: SweepConfig, space: SearchSpace, trainable: Trainable | None) -> list[str]:
    """Returns "searcher.points.NUMBER: FIELD: reason" for each mistake; the space must have none."""
    return [
        f"searcher.points.{number}: {line}"
        for number, point in enumerate(config.searcher.points)
        for line in one_point(config, space, trainable, point)
    ]


def one_point(config: SweepConfig, space: SearchSpace, trainable: Trainable | None, point: Point) -> dict[str, None]:
    """Returns "FIELD: reason" for each mistake in a point that a user chose."""
    base = _values_alone(config)
    return dict.fromkeys(
        points.unsearched(space, point)
        or [line for field in point for line in _value(base, field, point[field], trainable)]
        or points.inactive(config.base, space, point)
    )


def with_base(config: SweepConfig, space: SearchSpace) -> SearchSpace:
    """Returns the space with the configuration's own values of the fields in its conditions."""
    known = [field for field in space.condition_fields() if field in _FIELDS]
    return space.with_base({field: points.base_value(config.base, field) for field in known})


def portfolio(config: SweepConfig, space: SearchSpace) -> tuple[SearchSpace, list[str], list[str]]:
    """Returns the space with a portfolio of whole points, a line for each mistake, and a line on points left out.

    A field that a point leaves out gets the value of the file itself, as in `searcher.points`. Points of a named
    space's own portfolio that no longer fit the changed fields are left out. In any other portfolio they are mistakes.
    The space comes from `with_base`, and its fields exist.
    """
    whole = []
    wrong: dict[str, None] = {}
    for point in space.portfolio:
        lines = _portfolio_problems(config, space, point)
        wrong |= dict.fromkeys(lines)
        if not lines:
            whole.append(points.completed(config.base, space, point))
    fitting = replace(space, portfolio=tuple(whole))
    if not wrong:
        return fitting, [], []
    named = (search_spaces.load(name).portfolio for name in search_spaces.available())
    if space.portfolio not in named:
        return space, [f"search_space.{PORTFOLIO}: {line}" for line in wrong], []
    told = f"{len(space.portfolio) - len(whole)} of its {len(space.portfolio)} points do not fit the changed fields"
    return fitting, [], [f"search_space.{PORTFOLIO}: {told} and are left out"]


def _portfolio_problems(config: SweepConfig, space: SearchSpace, point: Point) -> list[str]:
    return points.unsearched(space, point) or [
        *points.inactive(config.base, space, point),
        *(
            _outside(space, field, value, field in point)
            for field, value in points.completed(config.base, space, point).items()
            if not space.domains[field].contains(value)
        ),
    ]


def _outside(space: SearchSpace, field: str, value: Value, is_given: bool) -> str:
    rule = space.domains[field].refusal(value)
    if is_given:
        return f"{field}: {rule}, or move the point to searcher.points, which may lie outside"
    return f"{field}: a point leaves it out, and the file's own {rule} in the point"


def fields_together(space: SearchSpace) -> list[str]:
    """Returns a line for each field that cannot be searched beside another; `space` comes from `with_base`."""
    wrong = []
    if set(space.condition_fields()) <= set(_FIELDS) and space.may_meet("adapter.lora_alpha", "adapter.alpha_over_r"):
        wrong.append("search_space.adapter.lora_alpha: says the same as adapter.alpha_over_r: search one of them")
    double, scheme = (space.domains.get(f"quantization.{name}") for name in ("double_quant", "scheme"))
    if double is not None and scheme is not None:
        plain = [name for name, its in SCHEMES.items() if scheme.contains(name) and not its.is_quantised]
        asked = [value for each in double.when if each.field == "quantization.scheme" for value in each.values]
        if plain and (not asked or set(plain) & set(asked)):
            others = ", ".join(str(each) for each in scheme.values() or () if each not in plain)
            wrong.append(
                f"search_space.quantization.double_quant: says nothing where quantization.scheme is {plain[0]}: add "
                f"when: {{quantization.scheme: [{others}]}}"
            )
    return wrong


def _field(field: str) -> str | None:
    if field in points.PACING:
        return "changes how fast a step is, not what it computes: there is nothing to search"
    if field in _FIELDS:
        return None
    section = field.split(".", 1)[0]
    if section in ("model", "quantization", "data", "trainable"):
        return (
            "all trials of a sweep share one model and one data set, so only adapter.*, training.* and "
            f"{', '.join(bases.FIELDS)} may be searched; run one sweep for each value, and qsweep compare tells them "
            "apart"
        )
    return messages.unknown_field(field, _SEARCHABLE)


def _values(base: TrialSpec, field: str, domain: Domain, trainable: Trainable | None) -> list[str]:
    wrong: dict[str, None] = {}
    for value in domain.extremes():
        wrong |= dict.fromkeys(_value(base, field, value, trainable))
    if "uniform" in domain.form and any(line.endswith("must be a whole number") for line in wrong):
        rule = f"must be a whole number, and {domain.form} draws fractions"
        return [f"{field}: {rule}: write {{randint: [low, high]}}, or list the values in {{choice: [...]}}"]
    return list(wrong)


def _value(base: TrialSpec, field: str, value: Value, trainable: Trainable | None) -> list[str]:
    try:
        # No searched value depends on the graders, which take long to check.
        spec = points.apply(base, {field: value}, 0).model_copy(update={"evaluation": EvaluationSpec()})
    except ValidationError as error:
        section, name = field.split(".", 1)
        return messages.of_validation(error, {section: {name: value}})
    lines = refused_by(trainable, spec) if trainable is not None else []
    return [line for line in lines if line.startswith(f"{field}:")]


def refused_by(trainable: Trainable, spec: TrialSpec) -> list[str]:
    """Returns a line for each reason why the trainable refuses `spec`."""
    try:
        return catalogue.check_base(trainable, spec)
    except NotTrainable as error:
        return [f"trainable: {spec.trainable}: {error}"]
