"""Events and records of trials in few words, for the tests of what is made of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sweeps.record.events import (
    BaseEvaluated,
    Event,
    HostsStarted,
    PointInfeasible,
    RequestAnswered,
    SweepStarted,
    TrialEnded,
    TrialParked,
    TrialReported,
    TrialScored,
    TrialStarted,
    TrialState,
)
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.supply.trial_source import PlannedTrial
from trainables.contract import StepRecord


def begun(time: float = 0.0, config: str = "{}") -> SweepStarted:
    """The sweep begins."""
    return SweepStarted(sweep_id="toy-1", time=time, config=config)


def hosts(time: float = 0.5, **more: Any) -> HostsStarted:
    """A driver has its hosts."""
    usual = {"since": time, "hosts": 1, "slots": 2, "held": 1, "held_seconds": 0.0, "device": "cpu"}
    return HostsStarted.model_validate({"time": time, **usual, **more})


def answered(time: float = 5.0, **more: Any) -> RequestAnswered:
    """A request was answered."""
    usual = {"request": str(time), "sender": "a test", "asked": "more", "is_accepted": True, "message": "yes"}
    return RequestAnswered.model_validate({"time": time, **usual, **more})


def base(loss: float, rows: int = 32) -> BaseEvaluated:
    """The base was evaluated."""
    return BaseEvaluated(time=0.5, metrics={"eval_loss": loss}, rows=rows, hardware="cpu float32")


def started(key: str, number: int = 0, time: float = 1.0, **params: bool | int | float | str) -> TrialStarted:
    """A trial holds a slot."""
    return TrialStarted(time=time, trial_key=key, number=number, params=params, spec="{}", point={})


def infeasible(key: str, number: int = 0, reason: str = "no such layer", **params: Any) -> PointInfeasible:
    """A point that never held a slot."""
    return PointInfeasible(time=1.0, trial_key=key, number=number, params=params, reason=reason, point={})


def recorded(*trials: tuple[PlannedTrial, TrialState]) -> dict[str, TrialRecord]:
    """What a log has of trials that were handed out, by key."""
    return {
        each.trial_key: TrialRecord(
            each.trial_key, each.number, each.params, spec=each.spec.model_dump_json(), point=each.point, state=state
        )
        for each, state in trials
    }


def history(first: int, last: int) -> tuple[StepRecord, ...]:
    """The steps `first` to `last`, told apart by their losses."""
    return tuple(
        StepRecord(
            step=step,
            train_loss=10.0 - step / 100,
            learning_rate=1e-4,
            grad_norm=1.0,
            tokens=step * 100,
            seconds=step * 0.5,
            time=float(step),
        )
        for step in range(first, last + 1)
    )


def reported(
    key: str, step: int, loss: float, *, since: int = 0, best: tuple[int, float] | None = None, **more: Any
) -> TrialReported:
    """A report at `step` on the steps after `since`; it is the trial's best unless `best` is (step, loss).

    `more` are other fields of the report.
    """
    best_step, best_loss = best or (step, loss)
    folder = f"trials/{key}/best-{step:06d}" if best_step == step else None
    return TrialReported(
        time=10.0 + step,
        trial_key=key,
        step=step,
        metrics={"eval_loss": loss},
        best_step=best_step,
        best_metrics={"eval_loss": best_loss},
        history=history(since + 1, step),
        tokens=step * 100,
        seconds=step * 0.5,
        peak_memory_bytes=1000 + step,
        trainable_params=64,
        evaluated_time=10.0 + step,
        adapter=folder,
    ).model_copy(update=more)


def scored(key: str, step: int, **scores: float) -> TrialScored:
    """A finalist's answers at its best step were scored."""
    return TrialScored(time=99.5, trial_key=key, step=step, metrics=scores)


def parked(key: str, step: int) -> TrialParked:
    """A trial gave its slot back after its report at `step`."""
    return TrialParked(time=50.0, trial_key=key, step=step)


def ended(key: str, state: TrialState, reason: str = "", **more: Any) -> TrialEnded:
    """A trial is over."""
    return TrialEnded(time=99.0, trial_key=key, state=state, reason=reason, **more)


def record(events: Iterable[Event]) -> SweepRecord:
    """What the events add up to."""
    whole = SweepRecord()
    for event in events:
        whole = whole.apply(event)
    return whole
