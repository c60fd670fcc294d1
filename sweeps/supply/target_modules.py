"""What the values of adapter.target_modules mean on a sweep's base model: which are one and the same, which can't be.

The trainable says it of the base's own modules before any trial starts. Equal values run once, under the first of them;
what cannot be trained is never drawn. Pure.
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
    """What the trainable said of the values."""

    stands_for: Mapping[TargetModules, TargetModules] = field(default_factory=dict)
    """Value -> the first value with the same modules; only where it is another."""
    problems: Mapping[TargetModules, str] = field(default_factory=dict)
    """Value -> why no adapter can be trained there."""

    def represent(self, point: Point) -> Point:
        """The point under the name that its modules have in this sweep."""
        first = self.stands_for.get(_modules(point[FIELD])) if FIELD in point else None
        return point if first is None else {**point, FIELD: first}

    def problem(self, target_modules: TargetModules) -> str | None:
        """Why a trial of these modules cannot be trained, if so."""
        return self.problems.get(target_modules)

    def events(self, time: float) -> list[TargetSettled]:
        """A line for each value that is not what it seems."""
        same = [
            TargetSettled(time=time, value=_word(value), same_as=_word(first))
            for value, first in self.stands_for.items()
            if _word(value) != _word(first)
        ]
        return same + [
            TargetSettled(time=time, value=_word(value), problem=problem) for value, problem in self.problems.items()
        ]


def asked(config: SweepConfig, space: SearchSpace) -> tuple[TargetModules, ...]:
    """The values that trials may have, the file's own first: it keeps its name, and so does the default."""
    own = [config.adapter.target_modules] if _uses_own(space) or config.searcher.start_with_default else []
    return tuple(dict.fromkeys([*own, *_searched(space)]))


def settle(answers: Sequence[Target]) -> Targets:
    """What follows from the trainable's answers, in the order of `asked`."""
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
    """What the event log says of the values; each stands for itself where it says nothing, as before it is known.

    Args:
        settled: value as it is shown -> what is so of it; see `SweepRecord.targets`.
        values: as `asked` answers them.
    """
    shown = {_word(value): value for value in values}
    told = {value: settled[word] for word, value in shown.items() if word in settled}
    return Targets(
        stands_for={value: shown[each.same_as] for value, each in told.items() if each.same_as in shown},
        problems={value: each.problem for value, each in told.items() if each.problem is not None},
    )


def check(config: SweepConfig, space: SearchSpace, targets: Targets) -> list[str]:
    """Why there is nothing to train, a line for each value; empty where there is something."""
    values = [*_searched(space), *([config.adapter.target_modules] if _uses_own(space) else [])]
    problems = [targets.problem(value) for value in values]
    return [] if None in problems else list(dict.fromkeys(problem for problem in problems if problem is not None))


def _searched(space: SearchSpace) -> list[TargetModules]:
    domain = space.domains.get(FIELD)
    return [] if domain is None else [_modules(value) for value in domain.values() or ()]


def _uses_own(space: SearchSpace) -> bool:
    """Whether the searcher's points may leave the field as it is in the file."""
    return FIELD not in space.domains or bool(space.domains[FIELD].when)


def _modules(value: Value) -> TargetModules:
    return value if isinstance(value, str | tuple) else str(value)


def _word(value: TargetModules) -> str:
    return str(points.word(value))
