"""The trials of a sweep, one after the other: the default configuration, `searcher.points`, then the searcher's own.

Pure.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from search_spaces.space import Point, SearchSpace
from sweeps.config import points, resource
from sweeps.config.model import SweepConfig
from sweeps.config.points import Scalar
from sweeps.record import limits
from sweeps.record.events import PointInfeasible, TrialState
from sweeps.record.selection import rank
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.searchers import REPEATED, Searcher
from sweeps.supply import warm_start
from sweeps.supply.target_modules import Targets
from trainables.contract import FailureKind
from trainables.specs import TrainingSpec, TrialSpec

LEAST_REPLACED = 10
"""Infeasible points that a sweep of a small budget replaces; one of a larger budget as many as budget.trials."""
_FAILURES: Mapping[TrialState, FailureKind] = {
    TrialState.DIVERGED: "diverged",
    TrialState.INFEASIBLE: "infeasible",
    TrialState.OUT_OF_MEMORY: "out_of_memory",
    TrialState.FAILED: "failed",
}
USED_UP = 1000
"""Points in a row that the searcher has all suggested before, after which the space counts as used up."""
MOST_SUGGESTED = 100 * USED_UP
"""Points that a searcher is asked for until there is one to begin at: those of 10,000 earlier trials come first."""


@dataclass(frozen=True)
class PlannedTrial:
    """A trial that has not started."""

    number: int
    trial_key: str
    spec: TrialSpec
    params: Mapping[str, Scalar]
    point: Point | None
    """Searched field -> value; None of a trial that a version without it has begun."""
    repeats: str | None = None
    """Key of the trial whose point it repeats with another seed."""


def planned(
    number: int, config: SweepConfig, point: Point, fingerprints: Mapping[str, str], repeat: int = 0
) -> PlannedTrial:
    """The trial at a point of a sweep's space."""
    spec = resource.of(config).with_steps(points.apply(config.base, point, config.seed, repeat))
    params = points.params(spec, point)
    return PlannedTrial(number, points.trial_key(spec, fingerprints), spec, params, dict(point))


def refused_default(
    config: SweepConfig, space: SearchSpace, fingerprints: Mapping[str, str], targets: Targets, time: float
) -> PointInfeasible | None:
    """The default configuration, where it cannot be trained: number 0 is its own, and no other trial passes for it."""
    own = config.adapter.target_modules
    if targets.problem(own) is None or not config.searcher.start_with_default:
        return None
    trial = planned(0, config, points.completed(config.base, space, {}), fingerprints)
    reason = f"the default configuration: {points.word(own)} is left out"
    return PointInfeasible(
        time=time,
        trial_key=trial.trial_key,
        number=0,
        params=dict(trial.params),
        reason=reason,
        point=dict(trial.point or {}),
    )


class TrialSource:
    """Hands out trials until budget.trials of them count, or the space has no new point.

    What is known of the sweep comes with each question, as its record. The points that somebody asks for while the
    sweep runs are trials beyond budget.trials.
    """

    def __init__(
        self, config: SweepConfig, space: SearchSpace, record: SweepRecord, targets: Targets | None = None
    ) -> None:
        """Begins with the first trial, or where the record leaves a sweep that goes on.

        Args:
            config: as the sweep was launched.
            record: trials that are neither over nor parked are handed out again first. The best points of
                `searcher.warm_start` come after those of `searcher.points`.
            targets: what target modules mean on the base; each value for itself when that is not known.
        """
        self._config = config
        self._space = space
        self._fingerprints = record.fingerprints
        self._targets = targets or Targets()
        self._searcher: Searcher = config.searcher.build(space, config.seed)
        self._objective = config.objectives[0]
        self._compared = resource.of(config)
        self._learned: dict[str, TrialRecord] = {}
        """Trial key -> the record that the searcher has learned from last."""
        known = sorted(record.trials.values(), key=lambda trial: trial.number)
        self._begun = [t for t in known if not t.state.is_final and t.state is not TrialState.PARKED]
        self._handed_out: set[str] = set()
        """Keys of the trials that this source has handed out, repeats left out."""
        self._seen = {trial.trial_key for trial in known}
        self._numbers = {trial.number for trial in known}
        self._free_number = 0
        """No number below it is free."""
        self._is_used_up = False
        """No new point was found, and the searcher has learned nothing since."""
        self._suggested: set[str] = set()
        """Keys of the trials at the points that the searcher has suggested, here and not under earlier drivers."""
        earlier = record.earlier
        self._first = iter([*points.beginning(config, space), *warm_start.first(earlier, space)])
        for known_point in earlier.own if earlier is not None else ():
            training = points.apply(config.base, known_point.point, 0).training
            reached = self._compared.total if known_point.step is None else self._reached(known_point.step, training)
            # The searcher learns what a trial came to at its last step, not the best of its values.
            loss = known_point.loss if known_point.last is None else known_point.last
            self._searcher.tell(known_point.point, reached, loss, known_point.step is None)

    def next(self, record: SweepRecord) -> PlannedTrial | None:
        """The next trial; None when there is none for now: one that turns out infeasible makes room for another."""
        if self._begun:
            return again(self._begun.pop(0))
        if self._left(record) <= 0 or self.gave_up(record) is not None or self.out_of_patience(record) is not None:
            return None
        self._learn(record)
        if self._is_used_up:
            return None
        for candidate in self._candidates():
            trial = self._new(candidate)
            if trial is not None:
                return self._hand_out(trial)
        self._is_used_up = True
        return None

    def added(self, record: SweepRecord) -> PlannedTrial | None:
        """The next trial that somebody has asked for and that was not handed out yet; None when there is none."""
        if self._config.searcher.start_with_default and 0 not in self._numbers:
            return None  # Number 0 is the default's own.
        for trial in self._asked_for(record):
            if trial.trial_key not in self._seen:
                self._learn(record)
                # Also one whose modules cannot be trained: its host says so, and whoever asked for it can read that.
                return self._hand_out(trial)
        return None

    def repeat(self, record: SweepRecord) -> PlannedTrial | None:
        """The next repeat of one of the best trials, to be asked for once all others are over; None after the last."""
        ranked = rank(record.trials.values(), self._objective)
        whole = [trial for trial in ranked if trial.state is TrialState.COMPLETED]
        for repeat in range(1, self._config.searcher.repeats + 1):
            for trial in whole[:REPEATED]:
                repeated = self._at(trial.point, repeat) if trial.point is not None else None
                if repeated is not None and repeated.trial_key not in self._seen:
                    self._seen.add(repeated.trial_key)
                    self._numbers.add(repeated.number)
                    return dataclasses.replace(repeated, repeats=trial.trial_key)
        return None

    def gave_up(self, record: SweepRecord) -> str | None:
        """Why no infeasible point is replaced any more, where there were too many of them and trials are lacking."""
        infeasible = [trial for trial in self._own(record) if not trial.state.counts_as_trial]
        if len(infeasible) < max(LEAST_REPLACED, self._count(record)) or self._left(record) <= 0:
            return None
        last = max(infeasible, key=lambda trial: trial.number)
        return (
            f"{len(infeasible)} points cannot be trained (the last: {last.reason}), and no sweep replaces more than "
            f"budget.trials, or {LEAST_REPLACED}: take such values out of the search space"
        )

    def out_of_patience(self, record: SweepRecord) -> str | None:
        """Why no other trial begins, where trials are left and budget.patience is used up; None while one may."""
        reached = limits.out_of_patience(limits.changed(self._config, record.changes).budget, record)
        left = self._left(record)
        if reached is None or left <= 0:
            return None
        return f"{reached}: {left} of budget.trials {self._count(record)} were not tried"

    def lacking(self, record: SweepRecord) -> str | None:
        """How many trials of budget.trials there are no points for, in words; None where none is lacking."""
        left = self._left(record)
        if not self._is_used_up or left <= 0:
            return None
        return f"{left} of budget.trials {self._count(record)} were not tried: the space has no new point"

    def _asked_for(self, record: SweepRecord) -> list[PlannedTrial]:
        """The trials at the points that somebody has asked for."""
        return [self._at(self._targets.represent(point)) for point in record.added]

    def _own(self, record: SweepRecord) -> list[TrialRecord]:
        """The trials of the record that budget.trials is for."""
        added = {trial.trial_key for trial in self._asked_for(record)}
        return [trial for key, trial in record.trials.items() if trial.repeats is None and key not in added]

    def _count(self, record: SweepRecord) -> int:
        """budget.trials as it is now."""
        return limits.changed(self._config, record.changes).budget.count

    def _left(self, record: SweepRecord) -> int:
        """How many more trials count towards budget.trials: an infeasible one does not."""
        begun = sum(trial.state.counts_as_trial for trial in self._own(record))
        added = {trial.trial_key for trial in self._asked_for(record)}
        return self._count(record) - begun - len(self._handed_out - record.trials.keys() - added)

    def _hand_out(self, trial: PlannedTrial) -> PlannedTrial:
        self._seen.add(trial.trial_key)
        self._numbers.add(trial.number)
        self._handed_out.add(trial.trial_key)
        self._searcher.tell(trial.point or {}, 0, None, False)
        return trial

    def _learn(self, record: SweepRecord) -> None:
        """Tells the searcher what is new. Trials without a point are from logs of earlier versions."""
        for key, trial in sorted(record.trials.items(), key=lambda item: item[1].number):
            earlier, self._learned[key] = self._learned.get(key), trial
            if trial.point is None or trial.repeats is not None or trial is earlier:
                continue
            self._is_used_up = False
            if earlier is None:
                self._searcher.tell(trial.point, 0, None, False)
            for step, metrics in trial.evals[len(earlier.evals) if earlier is not None else 0 :]:
                reached = self._reached(step, TrialSpec.model_validate_json(trial.spec).training)
                # Searchers compare what trials came to at equal points, so the metric may be another at the last one.
                # With evaluation.when: best no report has a score.
                is_last = reached == self._compared.total and self._config.evaluation.when != "best"
                goal = self._objective if is_last else self._config.stops
                value = goal.loss(goal.of(metrics))
                outcome: float | FailureKind = value if math.isfinite(value) else "diverged"
                self._searcher.tell(trial.point, reached, outcome, reached == self._compared.total)
            failure = _FAILURES.get(trial.state)
            if failure is not None:
                self._searcher.tell(trial.point, trial.step, failure, False)

    def _reached(self, step: int, training: TrainingSpec) -> int:
        """How far so many steps bring a trial, in the unit in which trials are compared."""
        if self._compared.unit == "step":
            return step
        at = dict(zip(self._compared.steps(training), self._compared.points, strict=True))
        return at.get(step, step * resource.rows_per_step(training))

    def _candidates(self) -> Iterator[PlannedTrial]:
        """Trials to begin, among others that are there already, until the searcher repeats itself.

        The searcher of a sweep that goes on begins with its first point again, so a point that it suggests for the
        first time here says nothing of the space, whatever became of it before.
        """
        yield from map(self._at, self._first)
        repeated = 0
        for _ in range(MOST_SUGGESTED):
            point = self._searcher.suggest()
            if point is None:
                return
            trial = self._at(point)
            repeated = repeated + 1 if trial.trial_key in self._suggested else 0
            if repeated == USED_UP:
                return
            self._suggested.add(trial.trial_key)
            yield trial

    def _new(self, trial: PlannedTrial) -> PlannedTrial | None:
        """The trial under the first name of its modules; None where it is there already, or cannot be trained."""
        if trial.trial_key in self._seen:  # perhaps begun by a version that took each name for a trial of its own
            return None
        if self._targets.problem(trial.spec.adapter.target_modules) is not None:
            return None
        trial = self._at(self._targets.represent(trial.point or {}))
        return None if trial.trial_key in self._seen else trial

    def _at(self, point: Point, repeat: int = 0) -> PlannedTrial:
        while self._free_number in self._numbers:
            self._free_number += 1
        return planned(self._free_number, self._config, point, self._fingerprints, repeat)


def again(trial: TrialRecord) -> PlannedTrial:
    """A trial that has begun, as it was."""
    spec = TrialSpec.model_validate_json(trial.spec)
    return PlannedTrial(trial.number, trial.trial_key, spec, trial.params, trial.point, trial.repeats)
