"""From Ray Tune's callbacks to the sweep's events. Nothing here talks to a server, so nothing here can fail for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ray.tune import Callback
from ray.tune.experiment import Trial

from sweeps.errors import StorageError
from sweeps.journal import Journal
from sweeps.lifecycle import Event, PointInfeasible, TrialEnded, TrialReported, TrialStarted, TrialState
from sweeps.stop import Reason
from trainables.contract import Report, StepRecord

STOPPED_BY_SCHEDULER = "stopped by the scheduler"


class Owner(Protocol):
    """Who is told what the journal cannot know."""

    def reported(self, trial_key: str, adapter: str | None) -> None:
        """The journal has a report of the trial, with this adapter folder if it is the best so far."""

    def trial_ended(self, trial_key: str) -> None:
        """The trial is over."""

    def process_lost(self, number: int) -> None:
        """The process of the trial of this number died; Ray Tune starts another."""

    def end_sweep(self, reason: Reason, message: str) -> None:
        """A trial found that the sweep cannot go on."""


class JournalCallback(Callback):
    """Writes what happens to the trials into the journal."""

    def __init__(self, journal: Journal, clock: Callable[[], float], owner: Owner) -> None:
        """A callback; `clock` gives seconds since the epoch."""
        self._journal = journal
        self._clock = clock
        self._owner = owner
        self.failure: StorageError | None = None
        """Why the journal takes no more events."""
        self.unreported: dict[str, tuple[StepRecord, ...]] = {}
        """Trial key -> the steps since its last report, of trials that were interrupted."""

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """The trial holds a slot, or reports. What else it says is an end: see `on_trial_complete`."""
        key = trial.config["trial_key"]
        if "opened" in result or "report" in result:
            self._begin(trial)
        if "report" in result:
            report = Report.model_validate_json(result["report"])
            told = TrialReported(
                time=report.time,
                trial_key=key,
                report=report,
                adapter=result["adapter"],
                adapter_sha256=result["adapter_sha256"],
            )
            if self._add(told):
                self._owner.reported(key, told.adapter)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial is over: by itself, or by the scheduler when its last report says that it was still running."""
        result = trial.last_result or {}
        if "state" not in result or "opened" in result:
            return  # The sweep's end did not wait for its first report; it says of the trial how it ended.
        state = TrialState(result["state"])
        reason = result.get("reason", "")
        if state is TrialState.PAUSED:
            # The end of the sweep says of it how it ended.
            self.unreported[trial.config["trial_key"]] = _steps(result.get("history", ()))
            if "ends_sweep" in result:
                self._owner.end_sweep(result["ends_sweep"], reason)
            return
        if state is TrialState.RUNNING:
            state, reason = TrialState.STOPPED, STOPPED_BY_SCHEDULER
        self._end(trial, state, reason, result.get("history", ()))

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial's process failed and is started again."""
        self._owner.process_lost(trial.config["number"])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial's process failed for good."""
        self._end(trial, TrialState.FAILED, _last_line(trial))

    def _add(self, event: Event) -> bool:
        """Whether the journal took the event. Never raises: into Tune, which would end with a traceback."""
        try:
            self._journal.add(event)
        except StorageError as error:
            self.failure = self.failure or error
            self._owner.end_sweep("failed", str(error))
            return False
        return True

    def _begin(self, trial: Trial) -> bool:
        """Whether the journal has the trial as running; it comes again after a retry."""
        known = self._journal.record.trials.get(trial.config["trial_key"])
        if known is not None and known.state is TrialState.RUNNING:
            return True
        return self._add(TrialStarted(spec=trial.config["spec"], **self._who(trial)))

    def _end(self, trial: Trial, state: TrialState, reason: str, history: Sequence[str] = ()) -> None:
        key = trial.config["trial_key"]
        if key in self._journal.record.trials or state is not TrialState.INFEASIBLE:
            began = key in self._journal.record.trials or self._begin(trial)
            ended = TrialEnded(time=self._clock(), trial_key=key, state=state, reason=reason, history=_steps(history))
            told = began and self._add(ended)
        else:
            told = self._add(PointInfeasible(reason=reason, **self._who(trial)))
        if told:
            self._owner.trial_ended(key)

    def _who(self, trial: Trial) -> dict[str, Any]:
        """What the first event of a trial says, whichever it is."""
        return {"time": self._clock()} | {name: trial.config[name] for name in ("trial_key", "number", "params")}


def _steps(history: Sequence[str]) -> tuple[StepRecord, ...]:
    return tuple(StepRecord.model_validate_json(step) for step in history)


def _last_line(trial: Trial) -> str:
    error = trial.get_error()
    lines = str(error).strip().splitlines() if error is not None else []
    return lines[-1] if lines else "its process failed"
