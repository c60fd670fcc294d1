"""Finds values of adapter.target_modules that are equal on a sweep's base, and values that cannot be trained. Pure.

The trainable resolves all values on the base before any trial starts. Equal values run once, under the first of them. A
value that cannot be trained is never drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from search_spaces.domains import Value
from search_spaces.space import Point, SearchSpace
from sweeps.config import points
from sweeps.config.model import SweepConfig
from sweeps.record.events import TargetSettled
from trainables.contract import Target, TargetModules

FIELD = "adapter.target_modules"


@dataclass(frozen=True)
class Targets:
    """Equal and untrainable values on a sweep's base."""

    stands_for: Mapping[TargetModules, TargetModules] = field(default_factory=dict)
    """Value -> the first value with the same modules, if this is another value."""
    problems: Mapping[TargetModules, str] = field(default_factory=dict)
    """Value -> why no adapter can be trained on its modules."""

    def represent(self, point: Point) -> Point:
        """Replaces the point's target modules by the first equal value."""
        first = self.stands_for.get(_modules(point[FIELD])) if FIELD in point else None
        return point if first is None else {**point, FIELD: first}

    def problem(self, target_modules: TargetModules) -> str | None:
        """Says why these modules cannot be trained; None if they can."""
        return self.problems.get(target_modules)

    def events(self, time: float) -> list[TargetSettled]:
        """Returns an event for each value that equals another value or cannot be trained."""
        same = [
            TargetSettled(time=time, value=_word(value), same_as=_word(first))
            for value, first in self.stands_for.items()
            if _word(value) != _word(first)
        ]
        return same + [
            TargetSettled(time=time, value=_word(value), problem=problem) for value, problem in self.problems.items()
        ]


def possible_values(config: SweepConfig, space: SearchSpace) -> tuple[TargetModules, ...]:
    """Returns the values that trials may have. The file's own value comes first, so it stands for its equals."""
    own = [config.adapter.target_modules] if _uses_own(space) or config.searcher.start_with_default else []
    return tuple(dict.fromkeys([*own, *_searched(space)]))


def settle(answers: Sequence[Target]) -> Targets:
    """Groups the trainable's answers, which come in the order of `asked`."""
    first: dict[tuple[str, ...], TargetModules] = {}
    for answer in answers:
        if answer.problem is None:
            first.setdefault(answer.modules, answer.value)
    stands_for = {answer.value: first[answer.modules] for answer in answers if answer.problem is None}
    return Targets(
        stands_for={value: other for value, other in stands_for.items() if other != value},
        problems={answer.value: answer.problem for answer in answers if answer.problem is not None},
    )


def from_log(settled: Mapping[str, TargetSettled], values: Sequence[TargetModules]) -> Targets:
    """Reads the groups of `values` from `SweepRecord.targets`. A value that is not there stands for itself."""
    shown = {_word(value): value for value in values}
    told = {value: settled[word] for word, value in shown.items() if word in settled}
    return Targets(
        stands_for={value: shown[each.same_as] for value, each in told.items() if each.same_as in shown},
        problems={value: each.problem for value, each in told.items() if each.problem is not None},
    )


def check_targets(config: SweepConfig, space: SearchSpace, targets: Targets) -> list[str]:
    """Says why no value can be trained, a line for each problem; empty if one can."""
    values = [*_searched(space), *([config.adapter.target_modules] if _uses_own(space) else [])]
    problems = [targets.problem(value) for value in values]
    return [] if None in problems else list(dict.fromkeys(problem for problem in problems if problem is not None))


def _searched(space: SearchSpace) -> list[TargetModules]:
    domain = space.domains.get(FIELD)
    return [] if domain is None else [_modules(value) for value in domain.values() or ()]


def _uses_own(space: SearchSpace) -> bool:
    """Tells whether the searcher's points may keep the file's own value."""
    return FIELD not in space.domains or bool(space.domains[FIELD].when)


def _modules(value: Value) -> TargetModules:
    return value if isinstance(value, str | tuple) else str(value)


def _word(value: TargetModules) -> str:
    return str(points.word(value))
