"""From Ray Tune's callbacks to the sweep's events. Nothing here talks to a server, so nothing here can fail for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

from ray.tune import Callback
from ray.tune.experiment import Trial

from sweeps.errors import SweepError
from sweeps.record.events import PointInfeasible, TrialEnded, TrialParked, TrialReported, TrialStarted, TrialState
from sweeps.record.journal import Journal
from sweeps.record.sweep_record import TrialRecord
from sweeps.steering.answering import STOPPED_BY_REQUEST
from sweeps.tune.processes import DEATHS
from trainables.contract import Report, StepRecord
from trainables.isolation import failure_of

if TYPE_CHECKING:
    from sweeps.tune.driver import Driver

STOPPED_BY_SCHEDULER = "stopped by the scheduler"
NO_ROOM = "budget.disk is used up: no room for the snapshot of one more parked trial"


class LastReport(NamedTuple):
    """What the journal has of a trial."""

    step: int
    best_step: int
    best_metrics: dict[str, float] | None

    @classmethod
    def of(cls, known: TrialRecord | None) -> LastReport:
        """That of a trial, by its record."""
        if known is None or known.best_step is None:
            return cls(0, 0, None)
        return cls(known.reported_step, known.best_step, dict(known.best_metrics))


def _in_order(told: Callable[..., None]) -> Callable[..., bool]:
    """Ends the sweep in order when something fails here; answers whether nothing has failed so far.

    Raised into Tune, it would make Tune start the trial again without end, or leave all trials with a traceback.
    """

    @wraps(told)
    def guarded(self: JournalCallback, *words: Any, **info: Any) -> bool:
        try:
            told(self, *words, **info)
        except Exception as error:
            self.failure = self.failure or error
            message = str(error) if isinstance(error, SweepError) else failure_of(error).message
            self._driver.end_sweep("failed", message)
        return self.failure is None

    return guarded


class JournalCallback(Callback):
    """Writes what happens to the trials into the journal."""

    def __init__(self, journal: Journal, clock: Callable[[], float], driver: Driver) -> None:
        """A callback; `clock` gives seconds since the epoch."""
        self._journal = journal
        self._clock = clock
        self._driver = driver
        self.failure: Exception | None = None
        """Why the journal takes no more events, or what else has failed here."""
        self.unreported: dict[str, tuple[StepRecord, ...]] = {}
        """Trial key -> the steps since its last report, of trials that were interrupted."""

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """See `take`."""
        self.take(trial, result)

    @_in_order
    def take(self, trial: Trial, result: dict[str, Any]) -> None:
        """The trial holds a slot, or reports. What else it says is an end: see `on_trial_complete`.

        The scheduler says so first, and Tune again: the second time is nothing new.
        """
        key = trial.config["trial_key"]
        if "opened" in result or "report" in result:
            self._begin(trial)
        if "report" in result:
            report = Report.model_validate_json(result["report"])
            told = TrialReported(
                time=self._clock(),
                trial_key=key,
                report=report,
                adapter=result["adapter"],
                adapter_sha256=result["adapter_sha256"],
            )
            self._journal.add(told)
            self._driver.reported(key, told.adapter)

    @_in_order
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial is over: by itself, or by the scheduler when its last report says that it was still running."""
        key, result = trial.config["trial_key"], trial.last_result or {}
        if "state" not in result or "opened" in result:
            return  # The sweep's end did not wait for its first report; it says of the trial how it ended.
        state, reason = TrialState(result["state"]), result.get("reason", "")
        is_to_stop = self._driver.is_to_stop(key)
        if state is TrialState.PAUSED and ("ends_sweep" in result or not is_to_stop):
            # The end of the sweep says of it how it ended.
            self.unreported[key] = _steps(result.get("history", ()))
            if "ends_sweep" in result:
                self._driver.end_sweep(result["ends_sweep"], reason)
            return
        if self.failure is not None:
            return  # So here too: the log may lack its last report, which the next driver is told again.
        is_parked = state is TrialState.RUNNING and self._driver.is_parked(key)
        if is_parked and not is_to_stop:
            self._park(trial, result)
            return
        by_person = is_parked or state is TrialState.PAUSED
        if by_person:
            state, reason = TrialState.STOPPED, STOPPED_BY_REQUEST
        elif state is TrialState.RUNNING:
            state, reason = TrialState.STOPPED, STOPPED_BY_SCHEDULER
        self._end(trial, state, reason, result.get("history", ()), by_person)

    @_in_order
    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial's process failed and is started again; it is told what the journal has of the trial by now."""
        known = self._journal.record.trials.get(trial.config["trial_key"])
        trial.config["reported"] = LastReport.of(known)._asdict()
        self._driver.process_lost(trial.config["number"])

    @_in_order
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """The trial's process died once too often."""
        reason = f"its process died {DEATHS} times in a row with nothing saved in between: {_last_line(trial)}"
        self._end(trial, TrialState.FAILED, reason)

    def _begin(self, trial: Trial) -> None:
        """Says that the trial runs, unless that is known; it comes again after a retry."""
        known = self._journal.record.trials.get(trial.config["trial_key"])
        if known is None or known.state is not TrialState.RUNNING:
            config = trial.config
            told = {name: config[name] for name in ("spec", "repeats", "is_in_tail")}
            self._journal.add(TrialStarted(**told, **self._who(trial)))

    def _park(self, trial: Trial, result: dict[str, Any]) -> None:
        key = trial.config["trial_key"]
        self._journal.add(TrialParked(time=self._clock(), trial_key=key, step=result["step"]))
        self._driver.trial_parked(key)
        if not result["is_saved"]:
            self._driver.end_sweep("budget", NO_ROOM)

    def _end(
        self, trial: Trial, state: TrialState, reason: str, history: Sequence[str] = (), by_person: bool = False
    ) -> None:
        key = trial.config["trial_key"]
        known = self._journal.record.trials.get(key)
        if known is not None and known.state.is_final:
            return  # Said again, it would bring the trial back first.
        if known is None and state is TrialState.INFEASIBLE:
            self._journal.add(PointInfeasible(reason=reason, repeats=trial.config["repeats"], **self._who(trial)))
        else:
            self._begin(trial)  # It may have failed before it held a slot.
            ended = TrialEnded(
                time=self._clock(),
                trial_key=key,
                state=state,
                reason=reason,
                by_person_or_budget=by_person,
                history=_steps(history),
            )
            self._journal.add(ended)
        self._driver.trial_ended(key)

    def _who(self, trial: Trial) -> dict[str, Any]:
        """What the first event of a trial says, whichever it is."""
        return {"time": self._clock()} | {
            name: trial.config[name] for name in ("trial_key", "number", "params", "point")
        }


def _steps(history: Sequence[str]) -> tuple[StepRecord, ...]:
    return tuple(StepRecord.model_validate_json(step) for step in history)


def _last_line(trial: Trial) -> str:
    error = trial.get_error()
    lines = str(error).strip().splitlines() if error is not None else []
    return lines[-1] if lines else "its process failed"
