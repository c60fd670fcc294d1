"""The trials of a sweep, as all parts of its driver know them: event log, rule and requests to stop.

The rule is told by the log what happens. After a restart the log is brought to where the rule stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from sweeps.config import resource
from sweeps.config.model import SweepConfig
from sweeps.record import limits
from sweeps.record.events import Event, TrialEnded, TrialParked, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal, rule_event
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.schedulers import Rule, Standing, Started
from sweeps.steering.answering import STOPPED_BY_REQUEST
from sweeps.steering.stop import StopState
from sweeps.supply.trial_source import PlannedTrial, again
from sweeps.tune.trial_progress import LastReport
from trainables.contract import StepRecord
from trainables.specs import TrialSpec

STOPPED_BY_SCHEDULER = "stopped by the scheduler"


class SweepTrials:
    """Keeps log and rule in step, and knows what somebody asked of which trial."""

    def __init__(
        self, config: SweepConfig, journal: Journal, folder: SweepFolder, stop: StopState, clock: Callable[[], float]
    ) -> None:
        """Tells a new rule what the log has so far, and listens to the log from now on.

        Args:
            stop: whether the sweep is to end, and why.
            clock: gives seconds since the epoch.
        """
        self.config, self.journal, self.folder, self.stop, self.clock = config, journal, folder, stop, clock
        compared = resource.of(config)
        self.rule: Rule = compared.scheduler.build(compared.total, config.stops.mode)
        self.to_stop: set[str] = set()
        """Keys of the trials that somebody asked to stop, and that have not ended yet."""
        self.unreported: dict[str, tuple[StepRecord, ...]] = {}
        """Trial key -> the steps since its last report, of trials that were interrupted."""
        self._protects_first = config.searcher.start_with_default
        """Trial 0 is trained to its end whatever it reports."""
        self._unit = compared.unit
        self._attempts = count(1)
        self._is_settled = False
        for event, _ in journal.take_so_far():
            self._tell_rule(event, journal.record)
        journal.listen(self._tell_rule)

    @property
    def amended(self) -> SweepConfig:
        """The sweep with what somebody has changed since its launch."""
        return limits.changed(self.config, self.journal.record.changes)

    def _tell_rule(self, event: Event, record: SweepRecord) -> None:
        """Tells the rule of an event. It knows nothing of repeats: they must not change who is among the best."""
        trial = record.trials.get(getattr(event, "trial_key", None) or "")
        if trial is not None and trial.repeats is not None:
            return
        told = rule_event(event, self.config.stops, self._protects_first)
        if told is not None:
            self.rule.take(told)

    # What is known of a trial

    def record(self, trial_key: str) -> TrialRecord | None:
        """What the log says of a trial; None of one that has not begun."""
        return self.journal.record.trials.get(trial_key)

    def last_report(self, trial_key: str) -> LastReport:
        """The last report of a trial that the log has."""
        return LastReport.of(self.record(trial_key))

    def saved(self, trial_key: str) -> object:
        """What a trial has brought to safety: its last report and its last snapshot. Compares with itself alone."""
        known = self.record(trial_key)
        # A trial that has just begun is at step 0, as one that has not.
        return known.step if known is not None else 0, self.folder.all(trial_key, "snapshot")[:1]

    def is_parked(self, trial_key: str) -> bool:
        """Whether the rule has ended the trial in Tune only to resume it later."""
        return self.rule.standing(trial_key) is Standing.PARKED

    def interrupted(self) -> set[str]:
        """Keys of the trials that an earlier driver left in the middle."""
        trials = self.journal.record.trials.values()
        return {t.trial_key for t in trials if not t.state.is_final and t.state is not TrialState.PARKED}

    def parked(self) -> dict[str, PlannedTrial]:
        """Trial key -> each trial that an earlier driver has parked, and that may be resumed."""
        return {key: again(trial) for key, trial in self.journal.record.trials.items() if self.is_parked(key)}

    # What becomes of them

    def settle(self) -> None:
        """Writes of each trial, once, what was decided on it and an earlier driver did not live to write."""
        if self._is_settled:
            return
        self._is_settled = True
        to_stop = self.journal.record.trials_to_stop
        for trial in list(self.journal.record.trials.values()):
            standing = None if trial.state.is_final else self._standing(trial)
            if standing is Standing.OVER and (trial.repeats or self._is_at_last_point(trial)):
                self._end(trial, TrialState.COMPLETED, "")
            elif standing is Standing.OVER:
                self._end(trial, TrialState.STOPPED, STOPPED_BY_SCHEDULER)
            elif standing is not None and trial.trial_key in to_stop:
                self._end(trial, TrialState.STOPPED, STOPPED_BY_REQUEST, by_person=True)
            elif standing is Standing.PARKED and trial.state is not TrialState.PARKED:
                self.journal.add(TrialParked(time=self.clock(), trial_key=trial.trial_key, step=trial.step))

    def begin(self, trial: PlannedTrial) -> bool:
        """A slot is for this trial, before its process is there: the slot is for no other one.

        Answers whether the trial is in the tail. By the time that the log says that the trial goes on, others may have
        reported, and its rank then does not tell.
        """
        if trial.repeats is not None:
            return False
        self.rule.take(Started(trial.trial_key, is_protected=self._protects_first and trial.number == 0))
        return self.rule.is_in_tail(trial.trial_key)

    def next_attempt(self) -> int:
        """A number for the next process that a trial may get, higher than all before; see `trial_files.Holder`."""
        return next(self._attempts)

    def stop_parked(self, trial_key: str) -> bool:
        """Ends a trial that somebody asked to stop, if it is parked; answers whether it was."""
        trial = self.record(trial_key)
        if trial is None or trial.state is not TrialState.PARKED or not self.is_parked(trial_key):
            return False
        self._end(trial, TrialState.STOPPED, STOPPED_BY_REQUEST, by_person=True)
        self.to_stop.discard(trial_key)
        return True

    def end_parked(self, trial: TrialRecord, budget: str = "", may_go_on: bool = False) -> None:
        """Ends a trial that is parked when the sweep ends: it is stopped at its rung, with its rank there.

        Args:
            budget: what is used up, if that ended the sweep: it ended the trials that were to go on, too.
            may_go_on: whether somebody may raise that budget.
        """
        ranked = self.rule.rank(trial.trial_key)
        place = f": rank {ranked[1]} of {ranked[2]} {self._at(ranked[0])}" if ranked is not None else ""
        is_due = bool(budget) and self.rule.is_due(trial.trial_key)
        reason = f"{budget}, before it went on" if is_due else STOPPED_BY_SCHEDULER
        self._end(trial, TrialState.STOPPED, reason + place, by_person=is_due, may_go_on=may_go_on)

    def end_unscored(self, trial: TrialRecord, reason: str) -> None:
        """Ends a finalist, again, whose answers cannot be scored: a score is never missing without its reason."""
        self._end(trial, TrialState.FAILED, f"its answers could not be scored: {reason}")

    def end_interrupted(self, trial: TrialRecord, state: TrialState, reason: str, may_go_on: bool) -> None:
        """Ends a trial that the sweep's end interrupts: STOPPED, or PAUSED where the trial goes on later."""
        # What a paused trial has trained since its last report goes on with it, in its snapshot.
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

    def _standing(self, trial: TrialRecord) -> Standing | None:
        if trial.repeats is None:
            return self.rule.standing(trial.trial_key)
        steps = TrialSpec.model_validate_json(trial.spec).steps
        return Standing.OVER if trial.reported_step == steps else Standing.RUNNING

    def _is_at_last_point(self, trial: TrialRecord) -> bool:
        return self.rule.resource(trial.trial_key) == self.rule.points[-1]
