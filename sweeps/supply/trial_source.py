"""Hands out the trials of a sweep: the default configuration, `searcher.points`, then points of the searcher. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
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
"""Infeasible points that any sweep replaces; a sweep with a larger budget.trials replaces that many."""
_FAILURES: Mapping[TrialState, FailureKind] = {
    TrialState.DIVERGED: "diverged",
    TrialState.INFEASIBLE: "infeasible",
    TrialState.OUT_OF_MEMORY: "out_of_memory",
    TrialState.FAILED: "failed",
}
USED_UP = 1000
"""Repeated suggestions in a row after which the space counts as used up."""
MOST_SUGGESTED = 100 * USED_UP
"""Maximum number of suggestions for one new trial. A resumed searcher repeats up to 10,000 earlier trials first."""


@dataclass(frozen=True)
class PlannedTrial:
    """A trial that has not started."""

    number: int
    trial_key: str
    spec: TrialSpec
    params: Mapping[str, Scalar]
    point: Point
    """Searched field -> value."""
    repeats: str | None = None
    """Key of the trial whose point is repeated with another seed."""


def planned(
    number: int, config: SweepConfig, point: Point, fingerprints: Mapping[str, str], repeat: int = 0
) -> PlannedTrial:
    """Returns the trial at a point of a sweep's space."""
    spec = resource.of(config).with_steps(points.apply(config.base, point, config.seed, repeat))
    params = points.params(spec, point)
    return PlannedTrial(number, points.trial_key(spec, fingerprints), spec, params, dict(point))


def refused_default(
    config: SweepConfig, space: SearchSpace, fingerprints: Mapping[str, str], targets: Targets, time: float
) -> PointInfeasible | None:
    """Returns an event if the default configuration cannot be trained. No other trial then gets its number, 0."""
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
        point=dict(trial.point),
    )


class TrialSource:
    """Hands out trials until budget.trials of them count, or the space has no new point.

    Each method takes the present record of the sweep. Points that users add while the sweep runs do not count towards
    budget.trials.
    """

    def __init__(
        self, config: SweepConfig, space: SearchSpace, record: SweepRecord, targets: Targets | None = None
    ) -> None:
        """Begins with the first trial, or continues a resumed sweep from its record.

        The record's trials that are neither over nor parked are handed out again first. The best points of
        `searcher.warm_start` come after those of `searcher.points`.
        """
        self._config = config
        self._space = space
        self._fingerprints = record.fingerprints
        self._targets = targets or Targets()
        self._searcher: Searcher = config.searcher.build(space, config.seed)
        self._objective = config.objectives[0]
        self._compared = resource.of(config)
        self._learned: dict[str, TrialRecord] = {}
        """Trial key -> the trial's record when the searcher last learned from it."""
        known = sorted(record.trials.values(), key=lambda trial: trial.number)
        self._begun = [t for t in known if not t.state.is_final and t.state is not TrialState.PARKED]
        self._handed_out: set[str] = set()
        """Keys of the trials that this source handed out, without repeats."""
        self._seen = {trial.trial_key for trial in known}
        self._numbers = {trial.number for trial in known}
        self._free_number = 0
        """All lower numbers are taken."""
        self._is_used_up = False
        """Whether no new point was found, and the searcher has learned nothing since."""
        self._refused: frozenset[str] = frozenset()
        """Names of the bases that no host can hold."""
        self._suggested: set[str] = set()
        """Keys of the trials that the searcher suggested under this driver."""
        earlier = record.earlier
        self._first = iter([*points.beginning(config, space), *warm_start.best_points(earlier, space)])
        for known_point in earlier.own if earlier is not None else ():
            training = points.apply(config.base, known_point.point, 0).training
            reached = self._compared.total if known_point.step is None else self._reached(known_point.step, training)
            # The searcher learns a trial's value at its last step, not its best value.
            loss = known_point.loss if known_point.last is None else known_point.last
            self._searcher.tell(known_point.point, reached, loss, known_point.step is None)

    def next(self, record: SweepRecord) -> PlannedTrial | None:
        """Returns the next trial; None if there is none now. An infeasible trial later makes room for another."""
        if self._begun:
            return planned_again(self._begun.pop(0))
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

    def refuse(self, bases: frozenset[str]) -> None:
        """Hands out no new point of the searcher on these bases from now on. Given points turn out infeasible."""
        self._refused = bases

    def still_due(self, drawn: Sequence[PlannedTrial], record: SweepRecord) -> list[PlannedTrial]:
        """Returns those of the trials that `next` returned, and that have not begun, that may still begin.

        Takes the others back: budget.patience is used up meanwhile, say, or budget.trials lower.
        """
        self._handed_out -= {trial.trial_key for trial in drawn}
        is_over = self.gave_up(record) is not None or self.out_of_patience(record) is not None
        kept = [] if is_over else drawn[: max(0, self._left(record))]
        self._handed_out |= {trial.trial_key for trial in kept}
        return list(kept)

    def added(self, record: SweepRecord) -> PlannedTrial | None:
        """Returns the next trial that a user asked for and that was not handed out yet; None if there is none."""
        if self._config.searcher.start_with_default and 0 not in self._numbers:
            return None  # Number 0 belongs to the default configuration, which comes first.
        for trial in self._asked_for(record):
            if trial.trial_key not in self._seen:
                self._learn(record)
                # Modules that cannot be trained are handed out too: the host's message tells the user why.
                return self._hand_out(trial)
        return None

    def repeat(self, record: SweepRecord) -> PlannedTrial | None:
        """Returns the next repeat of one of the best trials; None after the last. Call it when all trials are over."""
        ranked = rank(record.trials.values(), self._objective)
        whole = [trial for trial in ranked if trial.state is TrialState.COMPLETED]
        for repeat in range(1, self._config.searcher.repeats + 1):
            for trial in whole[:REPEATED]:
                repeated = self._at(trial.point, repeat)
                if repeated.trial_key not in self._seen:
                    self._seen.add(repeated.trial_key)
                    self._numbers.add(repeated.number)
                    return dataclasses.replace(repeated, repeats=trial.trial_key)
        return None

    def gave_up(self, record: SweepRecord) -> str | None:
        """Says why infeasible points are no longer replaced; None if they are, or no trial is lacking."""
        infeasible = [trial for trial in self._own(record) if not trial.state.counts_as_trial]
        if len(infeasible) < max(LEAST_REPLACED, self._count(record)) or self._left(record) <= 0:
            return None
        last = max(infeasible, key=lambda trial: trial.number)
        return (
            f"{len(infeasible)} points cannot be trained (the last: {last.reason}), and no sweep replaces more than "
            f"budget.trials, or {LEAST_REPLACED}: take such values out of the search space"
        )

    def out_of_patience(self, record: SweepRecord) -> str | None:
        """Says that budget.patience lets no other trial begin although trials are left; else None."""
        reached = limits.out_of_patience(limits.changed(self._config, record.changes).budget, record)
        left = self._left(record)
        if reached is None or left <= 0:
            return None
        return f"{reached}: {left} of budget.trials {self._count(record)} were not tried"

    def lacking(self, record: SweepRecord) -> str | None:
        """Says how many trials of budget.trials had no new point; None if no trial is lacking."""
        left = self._left(record)
        if not self._is_used_up or left <= 0:
            return None
        return f"{left} of budget.trials {self._count(record)} were not tried: the space has no new point"

    def _asked_for(self, record: SweepRecord) -> list[PlannedTrial]:
        return [self._at(self._targets.represent(point)) for point in record.added]

    def _own(self, record: SweepRecord) -> list[TrialRecord]:
        """Returns the record's trials without repeats and without trials that users asked for."""
        added = {trial.trial_key for trial in self._asked_for(record)}
        return [trial for key, trial in record.trials.items() if trial.repeats is None and key not in added]

    def _count(self, record: SweepRecord) -> int:
        return limits.changed(self._config, record.changes).budget.count

    def _left(self, record: SweepRecord) -> int:
        """Counts the trials that budget.trials still allows; an infeasible trial uses none of it."""
        begun = sum(trial.state.counts_as_trial for trial in self._own(record))
        added = {trial.trial_key for trial in self._asked_for(record)}
        return self._count(record) - begun - len(self._handed_out - record.trials.keys() - added)

    def _hand_out(self, trial: PlannedTrial) -> PlannedTrial:
        self._seen.add(trial.trial_key)
        self._numbers.add(trial.number)
        self._handed_out.add(trial.trial_key)
        self._searcher.tell(trial.point, 0, None, False)
        return trial

    def _learn(self, record: SweepRecord) -> None:
        """Tells the searcher all new results."""
        for key, trial in sorted(record.trials.items(), key=lambda item: item[1].number):
            earlier, self._learned[key] = self._learned.get(key), trial
            if trial.repeats is not None or trial is earlier:
                continue
            self._is_used_up = False
            if earlier is None:
                self._searcher.tell(trial.point, 0, None, False)
            for step, metrics in trial.evals[len(earlier.evals) if earlier is not None else 0 :]:
                reached = self._reached(step, TrialSpec.model_validate_json(trial.spec).training)
                # Searchers compare values at equal points, so the last point may have a metric of its own. With
                # evaluation.when: best, no report has a score.
                is_last = reached == self._compared.total and self._config.evaluation.when != "best"
                goal = self._objective if is_last else self._config.stops
                value = goal.loss(trial.at_rung.get(step, metrics).get(goal.metric, math.inf))
                unscored: FailureKind = "diverged" if goal.metric in metrics else "failed"
                outcome: float | FailureKind = value if math.isfinite(value) else unscored
                self._searcher.tell(trial.point, reached, outcome, reached == self._compared.total)
            failure = _FAILURES.get(trial.state)
            if failure is not None:
                self._searcher.tell(trial.point, trial.step, failure, False)

    def _reached(self, step: int, training: TrainingSpec) -> int:
        """Converts a trial's steps to the unit of the resource."""
        if self._compared.unit == "step":
            return step
        at = dict(zip(self._compared.steps(training), self._compared.points, strict=True))
        return at.get(step, step * resource.rows_per_step(training))

    def _candidates(self) -> Iterator[PlannedTrial]:
        """Yields candidates, new or not, until the searcher repeats itself.

        The searcher of a resumed sweep begins with its first point again. So only points that this searcher suggested
        before count as repeated, not trials of earlier drivers.
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
            if trial.spec.base_name not in self._refused:
                yield trial

    def _new(self, trial: PlannedTrial) -> PlannedTrial | None:
        """Returns the trial with the first equal target modules; None if it exists or cannot be trained."""
        if self._targets.problem(trial.spec.adapter.target_modules) is not None:
            return None
        trial = self._at(self._targets.represent(trial.point))
        return None if trial.trial_key in self._seen else trial

    def _at(self, point: Point, repeat: int = 0) -> PlannedTrial:
        while self._free_number in self._numbers:
            self._free_number += 1
        return planned(self._free_number, self._config, point, self._fingerprints, repeat)


def planned_again(trial: TrialRecord) -> PlannedTrial:
    """Returns a trial that has begun, with its own number, key and spec."""
    spec = TrialSpec.model_validate_json(trial.spec)
    return PlannedTrial(trial.number, trial.trial_key, spec, trial.params, trial.point, trial.repeats)
