"""Holds what all parts of a driver know of the sweep's trials: event log, rule and requests to stop.

The rule learns from the log. After a restart the log is completed by what the rule had decided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from sweeps.config import bases, resource
from sweeps.config.model import SweepConfig
from sweeps.record import limits
from sweeps.record.events import Event, TrialEnded, TrialParked, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal, rule_event
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.schedulers import Rule, Started, TrialStatus
from sweeps.steering.answering import STOPPED_BY_REQUEST
from sweeps.steering.stop import StopState
from sweeps.supply.trial_source import PlannedTrial, planned_again
from sweeps.tune.trial_progress import LastReport
from trainables.contract import StepRecord
from trainables.specs import TrialSpec

STOPPED_BY_SCHEDULER = "stopped by the scheduler"


class SweepTrials:
    """Keeps log and rule in step, and knows which trials somebody asked to stop."""

    def __init__(
        self, config: SweepConfig, journal: Journal, folder: SweepFolder, stop: StopState, clock: Callable[[], float]
    ) -> None:
        """Feeds the log so far to a new rule, and listens to the log from now on.

        Args:
            stop: whether the sweep is to end, and why.
            clock: gives seconds since the epoch.
        """
        self.config, self.journal, self.folder, self.stop, self.clock = config, journal, folder, stop, clock
        compared = resource.of(config)
        self.rule: Rule = compared.scheduler.build(compared.total, config.stops.mode)
        self.rule.parks_protected = bases.are_searched(config)
        self.to_stop: set[str] = set()
        """Keys of the trials that somebody asked to stop and that have not ended."""
        self.unreported: dict[str, tuple[StepRecord, ...]] = {}
        """Trial key -> the steps since the trial's last report, for interrupted trials."""
        self._protects_first = config.searcher.start_with_default
        """Whether trial 0 is trained to its end, whatever it reports."""
        self._unit = compared.unit
        self._runs = count(1)
        self._is_settled = False
        for event, _ in journal.take_so_far():
            self._tell_rule(event, journal.record)
        journal.listen(self._tell_rule)

    @property
    def amended(self) -> SweepConfig:
        """Returns the configuration with the changes that were asked for since the launch."""
        return limits.changed(self.config, self.journal.record.changes)

    def _tell_rule(self, event: Event, record: SweepRecord) -> None:
        """Tells the rule of an event, but not of repeats: repeats must not change which trials are the best."""
        trial = record.trials.get(getattr(event, "trial_key", None) or "")
        if trial is not None and trial.repeats is not None:
            return
        told = rule_event(event, self.config.stops, self._protects_first)
        if told is not None:
            self.rule.take(told)

    # What is known of a trial

    def record(self, trial_key: str) -> TrialRecord | None:
        """Returns the log's record of a trial; None if the trial has not begun."""
        return self.journal.record.trials.get(trial_key)

    def last_report(self, trial_key: str) -> LastReport:
        """Returns the last report of a trial in the log."""
        return LastReport.of(self.record(trial_key))

    def is_parked(self, trial_key: str) -> bool:
        """Tells whether the rule has parked the trial."""
        return self.rule.status(trial_key) is TrialStatus.PARKED

    def interrupted(self) -> set[str]:
        """Returns the keys of the trials that an earlier driver left unfinished and not parked."""
        trials = self.journal.record.trials.values()
        return {t.trial_key for t in trials if not t.state.is_final and t.state is not TrialState.PARKED}

    def parked(self) -> dict[str, PlannedTrial]:
        """Returns the trials that an earlier driver parked and the rule may resume, by their keys."""
        return {key: planned_again(trial) for key, trial in self.journal.record.trials.items() if self.is_parked(key)}

    # What becomes of them

    def settle(self) -> None:
        """Writes, once, the decisions of the rule that an earlier driver did not write before it died."""
        if self._is_settled:
            return
        self._is_settled = True
        to_stop = self.journal.record.trials_to_stop
        for trial in list(self.journal.record.trials.values()):
            status = None if trial.state.is_final else self._status(trial)
            if status is TrialStatus.OVER and (trial.repeats or self._is_at_last_point(trial)):
                self._end(trial, TrialState.COMPLETED, "")
            elif status is TrialStatus.OVER:
                self._end(trial, TrialState.STOPPED, STOPPED_BY_SCHEDULER)
            elif status is not None and trial.trial_key in to_stop:
                self._end(trial, TrialState.STOPPED, STOPPED_BY_REQUEST, by_person=True)
            elif status is TrialStatus.PARKED and trial.state is not TrialState.PARKED:
                self.journal.add(TrialParked(time=self.clock(), trial_key=trial.trial_key, step=trial.step))

    def begin(self, trial: PlannedTrial) -> bool:
        """Tells the rule that this trial gets a slot, before Tune has the trial. So no other trial gets the slot.

        Returns whether the trial is in the tail now. Its rank may change until the log says that the trial goes on,
        because other trials report meanwhile.
        """
        if trial.repeats is not None:
            return False
        self.rule.take(Started(trial.trial_key, is_protected=self.protects(trial.number)))
        return self.rule.is_in_tail(trial.trial_key)

    def protects(self, number: int) -> bool:
        """Tells whether the trial of this number is the default configuration, trained to its end in any case."""
        return self._protects_first and number == 0

    def next_run(self) -> int:
        """Returns a number for the next run of a trial, higher than all before; see `Broker.next_result`."""
        return next(self._runs)

    def stop_parked(self, trial_key: str) -> bool:
        """Ends a trial that somebody asked to stop if the trial is parked; returns whether it was."""
        trial = self.record(trial_key)
        if trial is None or trial.state is not TrialState.PARKED or not self.is_parked(trial_key):
            return False
        self._end(trial, TrialState.STOPPED, STOPPED_BY_REQUEST, by_person=True)
        self.to_stop.discard(trial_key)
        return True

    def end_parked(self, trial: TrialRecord, budget: str = "", may_go_on: bool = False) -> None:
        """Ends a trial that is parked when the sweep ends, with its rank at its rung.

        Args:
            budget: the budget that ended the sweep, in words; it also ended the trials that were due to go on.
            may_go_on: whether somebody may raise this budget.
        """
        ranked = self.rule.rank(trial.trial_key)
        place = f": rank {ranked[1]} of {ranked[2]} {self._at(ranked[0])}" if ranked is not None else ""
        is_due = bool(budget) and self.rule.is_due(trial.trial_key)
        reason = f"{budget}, before it went on" if is_due else STOPPED_BY_SCHEDULER
        self._end(trial, TrialState.STOPPED, reason + place, by_person=is_due, may_go_on=may_go_on)

    def end_interrupted(self, trial: TrialRecord, state: TrialState, reason: str, may_go_on: bool) -> None:
        """Ends a trial that the end of the sweep interrupts: STOPPED, or PAUSED if the trial may go on later."""
        # The snapshot of a paused trial holds the steps since its last report.
        unreported = self.unreported.get(trial.trial_key, ())
        if unreported and state is TrialState.PAUSED:
            reason += f"; goes on from step {unreported[-1].step}"
        history = unreported if state is TrialState.STOPPED else ()
        self._end(trial, state, reason, True, may_go_on, history)

    def _at(self, point: int) -> str:
        return f"at step {point}" if self._unit == "step" else f"after {point} examples"

    def _end(
        self,
        trial: TrialRecord,
        state: TrialState,
        reason: str,
        by_person: bool = False,
        may_go_on: bool = False,
        history: Sequence[StepRecord] = (),
    ) -> None:
        ended = TrialEnded(
            time=self.clock(),
            trial_key=trial.trial_key,
            state=state,
            reason=reason,
            by_person_or_budget=by_person,
            may_go_on=may_go_on,
            history=tuple(history),
        )
        self.journal.add(ended)
        if state.is_final and not may_go_on:
            self.folder.drop_snapshots(trial.trial_key)

    def _status(self, trial: TrialRecord) -> TrialStatus | None:
        if trial.repeats is None:
            return self.rule.status(trial.trial_key)
        steps = TrialSpec.model_validate_json(trial.spec).steps
        return TrialStatus.OVER if trial.reported_step == steps else TrialStatus.RUNNING

    def _is_at_last_point(self, trial: TrialRecord) -> bool:
        return self.rule.resource(trial.trial_key) == self.rule.points[-1]
