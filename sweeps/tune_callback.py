"""From Ray Tune's callbacks to the sweep's events. Nothing here talks to a server, so nothing here can fail for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ray.tune import Callback
from ray.tune.experiment import Trial

from sweeps.errors import StorageError
from sweeps.journal import Journal
from sweeps.lifecycle import Event, TrialEnded, TrialReported, TrialStarted, TrialState
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

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial's process runs; comes again after a retry."""
        config = trial.config
        known = self._journal.record.trials.get(config["trial_key"])
        if known is None or known.state is not TrialState.RUNNING:
            self._add(
                TrialStarted(
                    time=self._clock(),
                    trial_key=config["trial_key"],
                    number=config["number"],
                    params=config["params"],
                    spec=config["spec"],
                )
            )

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """A report, or the end that the trial itself found."""
        key = trial.config["trial_key"]
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
        state = TrialState(result.get("state", TrialState.FAILED))
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

    def _end(self, trial: Trial, state: TrialState, reason: str, history: Sequence[str] = ()) -> None:
        key = trial.config["trial_key"]
        ended = TrialEnded(time=self._clock(), trial_key=key, state=state, reason=reason, history=_steps(history))
        if self._add(ended):
            self._owner.trial_ended(key)


def _steps(history: Sequence[str]) -> tuple[StepRecord, ...]:
    return tuple(StepRecord.model_validate_json(step) for step in history)


def _last_line(trial: Trial) -> str:
    error = trial.get_error()
    lines = str(error).strip().splitlines() if error is not None else []
    return lines[-1] if lines else "its process failed"
