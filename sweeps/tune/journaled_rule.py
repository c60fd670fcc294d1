"""A sweep's rule, told by its journal what happens. After a restart the journal is brought to where the rule stands."""

from __future__ import annotations

from collections.abc import Callable

from sweeps.config import resource
from sweeps.config.model import SweepConfig
from sweeps.config.resource import Unit
from sweeps.record.events import Event, TrialEnded, TrialParked, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal
from sweeps.record.rule_events import rule_event
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.schedulers import Rule, Standing, Started
from sweeps.steering.answering import STOPPED_BY_REQUEST
from sweeps.supply.trial_source import PlannedTrial, again
from sweeps.tune.callback import STOPPED_BY_SCHEDULER
from trainables.specs import TrialSpec


class Ruling:
    """Keeps a rule and a journal in step."""

    def __init__(self, rule: Rule, journal: Journal, folder: SweepFolder, protects_first: bool, unit: Unit) -> None:
        """Tells a rule that has seen nothing what happened so far, and listens to the journal from now on.

        Args:
            protects_first: whether trial 0 is trained to its end whatever it reports.
            unit: what the rule's points count.
        """
        self.rule = rule
        self._journal = journal
        self._folder = folder
        self._protects_first = protects_first
        self._unit = unit
        for event, _ in journal.take_so_far():
            self._tell(event, journal.record)
        journal.listen(self._tell)

    @classmethod
    def of(cls, config: SweepConfig, journal: Journal, folder: SweepFolder, clock: Callable[[], float]) -> Ruling:
        """The ruling of a sweep as its log tells it, `settle`d."""
        compared = resource.of(config)
        rule = compared.scheduler.build(compared.total, config.objectives[0].mode)
        ruling = cls(rule, journal, folder, config.searcher.start_with_default, compared.unit)
        ruling.settle(clock)
        return ruling

    def _tell(self, event: Event, record: SweepRecord) -> None:
        """Tells the rule of an event. It knows nothing of repeats: they must not change who is among the best."""
        trial = record.trials.get(getattr(event, "trial_key", None) or "")
        if trial is not None and trial.repeats is not None:
            return
        told = rule_event(event, record.objective, self._protects_first)
        if told is not None:
            self.rule.take(told)

    def settle(self, clock: Callable[[], float]) -> None:
        """Writes of each trial what was decided on it and an earlier driver did not live to write."""
        to_stop = self._journal.record.trials_to_stop
        for trial in list(self._journal.record.trials.values()):
            standing = None if trial.state.is_final else self._standing(trial)
            if standing is Standing.OVER and (trial.repeats or self._is_at_last_point(trial)):
                self._end(trial, TrialState.COMPLETED, "", clock())
            elif standing is Standing.OVER:
                self._end(trial, TrialState.STOPPED, STOPPED_BY_SCHEDULER, clock())
            elif standing is not None and trial.trial_key in to_stop:
                self._end(trial, TrialState.STOPPED, STOPPED_BY_REQUEST, clock(), by_person=True)
            elif standing is Standing.PARKED and trial.state is not TrialState.PARKED:
                self._journal.add(TrialParked(time=clock(), trial_key=trial.trial_key, step=trial.step))

    def begin(self, trial: PlannedTrial) -> bool:
        """A slot is for this trial, before its process is there: the slot is for no other one.

        Answers whether the trial is in the tail. By the time that the journal says that it goes on, others may have
        reported, and its rank then does not tell.
        """
        if trial.repeats is not None:
            return False
        self.rule.take(Started(trial.trial_key, is_protected=self._protects_first and trial.number == 0))
        return self.rule.is_in_tail(trial.trial_key)

    def _standing(self, trial: TrialRecord) -> Standing | None:
        if trial.repeats is None:
            return self.rule.standing(trial.trial_key)
        steps = TrialSpec.model_validate_json(trial.spec).steps
        return Standing.OVER if trial.reported_step == steps else Standing.RUNNING

    def _is_at_last_point(self, trial: TrialRecord) -> bool:
        return self.rule.resource(trial.trial_key) == self.rule.points[-1]

    def interrupted(self) -> set[str]:
        """Keys of the trials that an earlier driver left in the middle."""
        trials = self._journal.record.trials.values()
        return {t.trial_key for t in trials if not t.state.is_final and t.state is not TrialState.PARKED}

    def parked(self) -> dict[str, PlannedTrial]:
        """Trial key -> each trial that an earlier driver has parked, and that may be resumed."""
        return {key: again(trial) for key, trial in self._journal.record.trials.items() if self.is_parked(key)}

    def is_parked(self, trial_key: str) -> bool:
        """Whether the rule has parked the trial."""
        return self.rule.standing(trial_key) is Standing.PARKED

    def stop_parked(self, trial_key: str, time: float) -> bool:
        """Ends a trial that somebody asked to stop, if it is parked; answers whether it was."""
        trial = self._journal.record.trials.get(trial_key)
        if trial is None or trial.state is not TrialState.PARKED or not self.is_parked(trial_key):
            return False
        self._end(trial, TrialState.STOPPED, STOPPED_BY_REQUEST, time, by_person=True)
        return True

    def end_parked(self, trial: TrialRecord, time: float, budget: str = "", may_go_on: bool = False) -> None:
        """Ends a trial that is parked when the sweep ends: it is stopped at its rung, with its rank there.

        Args:
            budget: what is used up, if that ended the sweep: it ended the trials that were to go on, too.
            may_go_on: whether somebody may raise that budget.
        """
        ranked = self.rule.rank(trial.trial_key)
        place = f": rank {ranked[1]} of {ranked[2]} {self._at(ranked[0])}" if ranked is not None else ""
        is_due = bool(budget) and self.rule.is_due(trial.trial_key)
        reason = f"{budget}, before it went on" if is_due else STOPPED_BY_SCHEDULER
        ended = TrialEnded(
            time=time,
            trial_key=trial.trial_key,
            state=TrialState.STOPPED,
            reason=reason + place,
            by_person_or_budget=is_due,
            may_go_on=may_go_on,
        )
        self._write(ended)

    def _at(self, point: int) -> str:
        return f"at step {point}" if self._unit == "step" else f"after {point} examples"

    def _end(self, trial: TrialRecord, state: TrialState, reason: str, time: float, by_person: bool = False) -> None:
        self._write(
            TrialEnded(time=time, trial_key=trial.trial_key, state=state, reason=reason, by_person_or_budget=by_person)
        )

    def _write(self, ended: TrialEnded) -> None:
        self._journal.add(ended)
        if not ended.may_go_on:
            self._folder.drop_snapshots(ended.trial_key)
