"""Turns Ray Tune's results into events of the sweep, and tells Tune whether a trial goes on.

No function here calls a server, so a server that is down cannot stop a trial. Tune sees a parked trial as ended, and
sees the resumed trial as a new one (see `trial_queue`); the trial's state is in the sweep's folder. Tune's own PAUSED
does not fit: Tune's limiters count a paused trial as live, and Tune writes checkpoints of paused trials and starts all
of them again after a restart (tune/execution/tune_controller.py, 2.60).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from cluster.deaths import GUILTY_AFTER
from sweeps.errors import SweepError
from sweeps.record.events import PointInfeasible, TrialEnded, TrialParked, TrialReported, TrialStarted, TrialState
from sweeps.record.run_names import label
from sweeps.schedulers import TrialStatus
from sweeps.statistics.trials import is_gain
from sweeps.steering.answering import STOPPED_BY_REQUEST
from sweeps.tune.sweep_trials import STOPPED_BY_SCHEDULER, SweepTrials
from trainables.contract import StepRecord
from trainables.slot_failures import failure_of

NO_ROOM = "budget.disk is used up: no room for the snapshot of one more parked trial"


class Became(NamedTuple):
    """The state in which a trial ended for Tune."""

    state: TrialState
    """PAUSED: the trial left because the sweep ends. PARKED: the trial releases its slot and may be resumed."""
    reason: str = ""
    by_person: bool = False


def what_became(result: Mapping[str, Any], is_to_stop: bool, is_parked: bool) -> Became | None:
    """Returns how a trial ended for Tune; None if the sweep ended before the trial's first report.

    Args:
        result: the last result of the trial.
        is_to_stop: whether somebody asked to stop the trial.
        is_parked: whether the rule has parked the trial.
    """
    if "state" not in result or "opened" in result:
        return None
    became = Became(TrialState(result["state"]), result.get("reason", ""))
    if became.state is TrialState.PAUSED and ("ends_sweep" in result or not is_to_stop):
        return became
    is_running = became.state is TrialState.RUNNING
    if became.state is TrialState.PAUSED or (is_running and is_parked and is_to_stop):
        return Became(TrialState.STOPPED, STOPPED_BY_REQUEST, by_person=True)
    if is_running:
        return Became(TrialState.PARKED) if is_parked else Became(TrialState.STOPPED, STOPPED_BY_SCHEDULER)
    return became


def _in_order(told: Callable[..., None]) -> Callable[..., bool]:
    """Makes a callback end the sweep in order on an error, and return whether no callback has failed so far.

    If Tune saw the error, Tune would start the trial again without end, or end all trials with a traceback.
    """

    @wraps(told)
    def guarded(self: JournalCallback, *words: Any, **info: Any) -> bool:
        try:
            told(self, *words, **info)
        except Exception as error:
            self.failure = self.failure or error
            message = str(error) if isinstance(error, SweepError) else failure_of(error).message
            self._trials.stop.ask("failed", message)
        return self.failure is None

    return guarded


class JournalCallback(Callback):
    """Writes the events of the trials into the event log."""

    def __init__(self, trials: SweepTrials, say: Callable[[str], None], release: Callable[[str, int], object]) -> None:
        """Creates the callback.

        Args:
            say: shows a line to the user.
            release: ends a run of a trial, by the trial's key and the number of the run.
        """
        self._trials, self._journal = trials, trials.journal
        self._say, self._release = say, release
        self.failure: Exception | None = None
        """The first error of a callback, such as a journal that cannot be written."""

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Calls `write`."""
        self.write(trial, result)

    @_in_order
    def write(self, trial: Trial, result: dict[str, Any]) -> None:
        """Writes that the trial holds a slot, or its report. `on_trial_complete` handles a trial's end.

        The scheduler calls this method first, then Tune calls it again; the second call writes nothing new. For a last
        result (`done`) Tune asks no scheduler (tune/execution/tune_controller.py, `_process_trial_result`, 2.60), so
        that Tune's call is the only one.
        """
        if "opened" in result or "report" in result:
            self._begin(trial)
        if "report" in result:
            report: TrialReported = result["report"]
            folder = self._trials.folder
            gain = is_gain(folder, self._journal.record, report)
            self._journal.add(report.model_copy(update={"time": self._trials.clock(), "is_gain": gain}))
            if report.adapter is not None:
                # The log named the older adapter until now.
                folder.prune_adapters(report.trial_key, folder.path / report.adapter)

    @_in_order
    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Writes how the trial ended: by itself, or by the scheduler if its last result says RUNNING."""
        key, result = trial.config["trial_key"], trial.last_result or {}
        became = what_became(result, key in self._trials.to_stop, self._trials.is_parked(key))
        if became is None:
            return
        if became.state is TrialState.PAUSED:
            self._trials.unreported[key] = result.get("history", ())
            if "ends_sweep" in result:
                self._trials.stop.ask(result["ends_sweep"], became.reason)
        elif self.failure is not None:
            return  # The log may lack the trial's last report. The trial repeats that report to the next driver.
        elif became.state is TrialState.PARKED:
            self._park(trial, result)
        else:
            self._end(trial, became, result.get("history", ()))

    @_in_order
    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tells the trial's next stub what Tune knows."""
        trial.config["reported"] = self._trials.last_report(trial.config["trial_key"])._asdict()
        self._say(f"{label(trial.config['number'])}: its process is lost: another is made, and the trial goes on")

    @_in_order
    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Ends a trial whose stub died too often in a row."""
        reason = f"its process died {GUILTY_AFTER} times in a row with no new result in between: {_last_line(trial)}"
        self._end(trial, Became(TrialState.FAILED, reason))

    def _begin(self, trial: Trial) -> None:
        """Writes that the trial runs, unless the log says so already."""
        known = self._trials.record(trial.config["trial_key"])
        if known is None or known.state is not TrialState.RUNNING:
            told = {name: trial.config[name] for name in ("spec", "repeats", "is_in_tail")}
            self._journal.add(TrialStarted(**told, **self._who(trial)))

    def _park(self, trial: Trial, result: Mapping[str, Any]) -> None:
        key = trial.config["trial_key"]
        self._journal.add(TrialParked(time=self._trials.clock(), trial_key=key, step=result["step"]))
        self._release(key, trial.config["run"])
        if not result["is_saved"]:
            self._trials.stop.ask("budget", NO_ROOM)

    def _end(self, trial: Trial, ended: Became, history: Sequence[StepRecord] = ()) -> None:
        key = trial.config["trial_key"]
        known = self._trials.record(key)
        if known is not None and known.state.is_final:
            return  # A second end would first write that the trial runs again.
        if known is None and ended.state is TrialState.INFEASIBLE:
            infeasible = PointInfeasible(reason=ended.reason, repeats=trial.config["repeats"], **self._who(trial))
            self._journal.add(infeasible)
        else:
            self._begin(trial)  # The trial may have failed before it held a slot.
            event = TrialEnded(
                time=self._trials.clock(),
                trial_key=key,
                state=ended.state,
                reason=ended.reason,
                by_person_or_budget=ended.by_person,
                history=tuple(history),
            )
            self._journal.add(event)
        self._trials.to_stop.discard(key)
        self._release(key, trial.config["run"])
        self._trials.folder.drop_snapshots(key)

    def _who(self, trial: Trial) -> dict[str, Any]:
        """Returns the fields that the first event of a trial has, of either kind."""
        names = ("trial_key", "number", "params", "point")
        return {"time": self._trials.clock()} | {name: trial.config[name] for name in names}


class RuleScheduler(FIFOScheduler):
    """Ray Tune's scheduler: ends a trial in Tune when the sweep's rule stops or parks the trial."""

    def __init__(self, trials: SweepTrials, write: Callable[[Trial, dict[str, Any]], bool]) -> None:
        """Creates the scheduler.

        Args:
            trials: hold the rule. The journal tells the rule of each report.
            write: writes a result into the log, and returns whether it could. The scheduler has to call `write`,
                because Tune asks its scheduler before it calls its callbacks.
        """
        super().__init__()
        self._rule = trials.rule
        self._write = write

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Returns Tune's word for whether the trial goes on after its report."""
        if not self._write(trial, result):
            # The trial's present snapshot holds the report, and its next snapshot would not.
            return str(self.STOP)
        if trial.config.get("repeats") is not None:
            return str(self.CONTINUE)  # A repeat is always trained to its end.
        is_over = "report" in result and self._rule.status(trial.config["trial_key"]) is not TrialStatus.RUNNING
        return str(self.STOP if is_over else self.CONTINUE)

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Returns None, so that Tune gives a free process to a trial that has no process.

        If a scheduler chooses a trial, Tune gives that trial the first free process and throws away the process that
        starts for the trial (`_maybe_reuse_cached_actor`). Tune's own schedulers choose the oldest waiting trial. So
        whenever a trial ends while the process of another trial starts, that process is lost.
        """


def _last_line(trial: Trial) -> str:
    error = trial.get_error()
    lines = str(error).strip().splitlines() if error is not None else []
    return lines[-1] if lines else "its process failed"
