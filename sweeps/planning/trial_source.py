"""The trials of a sweep, one after the other: the default configuration, `searcher.points`, then the searcher's own.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from search_spaces.domains import Value
from search_spaces.space import SearchSpace
from sweeps.config import points
from sweeps.config.model import SweepConfig
from sweeps.config.points import Scalar
from sweeps.planning.target_modules import Targets
from sweeps.record.events import PointInfeasible, TrialState
from sweeps.searchers import Searcher
from trainables.specs import TrialSpec

LEAST_REPLACED = 10
"""Infeasible points that a sweep of a small budget replaces; one of a larger budget as many as budget.trials."""
REPEATS = 1000
"""Points in a row that were all there before, after which the space counts as used up."""


@dataclass(frozen=True)
class PlannedTrial:
    """A trial that has not started."""

    number: int
    trial_key: str
    spec: TrialSpec
    params: Mapping[str, Scalar]


def planned(
    number: int, config: SweepConfig, point: Mapping[str, Value], fingerprints: Mapping[str, str]
) -> PlannedTrial:
    """The trial at a point of a sweep's space."""
    spec = points.apply(config.base, point, config.seed)
    return PlannedTrial(number, points.trial_key(spec, fingerprints), spec, points.params(spec, point))


def refused_default(
    config: SweepConfig, space: SearchSpace, fingerprints: Mapping[str, str], targets: Targets, time: float
) -> PointInfeasible | None:
    """The default configuration, where it cannot be trained: number 0 is its own, and no other trial passes for it."""
    own = config.adapter.target_modules
    if targets.problem(own) is None or not config.searcher.start_with_default:
        return None
    trial = planned(0, config, points.default(config.base, space), fingerprints)
    reason = f"the default configuration: {points.word(own)} is left out"
    return PointInfeasible(time=time, trial_key=trial.trial_key, number=0, params=dict(trial.params), reason=reason)


class TrialSource:
    """Hands out trials until budget.trials of them count, or the space has no new point."""

    def __init__(
        self,
        config: SweepConfig,
        space: SearchSpace,
        fingerprints: Mapping[str, str],
        known: Mapping[str, TrialState] | None = None,
        targets: Targets | None = None,
    ) -> None:
        """The trials from the first one on.

        Args:
            config: the sweep.
            space: its search space.
            fingerprints: what identifies base and data.
            known: trials of a sweep that goes on, by key: those that are over or parked are not handed out again, the
                others are, under the numbers that they had.
            targets: what target modules mean on the base; each value for itself when it is not known.
        """
        self._config = config
        self._known = known or {}
        self._space = space
        self._fingerprints = fingerprints
        self._targets = targets or Targets()
        self._searcher: Searcher = config.searcher.build(space, config.seed)
        self._seen: set[str] = set()
        self._left = config.budget.trials
        self._replaceable = max(LEAST_REPLACED, config.budget.trials)
        self._infeasible = sum(not state.counts_as_trial for state in self._known.values())
        self._last_reason = ""
        self._first = iter(points.beginning(config, space))

    def next(self) -> PlannedTrial | None:
        """The next trial; None when there is none for now (`replace` may make room for one)."""
        if self._left == 0:
            return None
        for point in self._candidates():
            trial = self._trial(point)
            if trial is None or trial.trial_key in self._seen:
                continue
            if self.gave_up is not None and trial.trial_key not in self._known:
                return None
            self._seen.add(trial.trial_key)
            state = self._known.get(trial.trial_key, TrialState.PENDING)
            if state.counts_as_trial:
                self._left -= 1
            if not state.is_final and state is not TrialState.PARKED:
                return trial
            if self._left == 0:
                return None
        return None

    def replace(self, reason: str) -> None:
        """A trial that was handed out turned out infeasible: there may be one more, unless there were too many."""
        self._left += 1
        self._infeasible += 1
        self._last_reason = f" (the last: {reason})"

    @property
    def gave_up(self) -> str | None:
        """Why no infeasible point is replaced any more, where there were too many of them and trials are lacking."""
        if self._infeasible < self._replaceable or self._left == 0:
            return None
        return (
            f"{self._infeasible} points cannot be trained{self._last_reason}, and no sweep replaces more than "
            f"budget.trials, or {LEAST_REPLACED}: take such values out of the search space"
        )

    def _candidates(self) -> Iterable[Mapping[str, Value]]:
        yield from self._first
        for _ in range(REPEATS):
            point = self._searcher.suggest()
            if point is None:
                return
            yield point

    def _trial(self, point: Mapping[str, Value]) -> PlannedTrial | None:
        """The trial at the point, under the first name of its modules; None where they cannot be trained."""
        trial = self._at(point)
        if trial.trial_key in self._known:
            return trial  # perhaps begun by a version that took each name for a trial of its own
        if self._targets.problem(trial.spec.adapter.target_modules) is not None:
            return None
        return self._at(self._targets.represent(point))

    def _at(self, point: Mapping[str, Value]) -> PlannedTrial:
        return planned(len(self._seen), self._config, point, self._fingerprints)
