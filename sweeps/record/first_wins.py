"""Leaves out of a sweep's events what says nothing new. Pure.

A metric point is known by (trial_key, metric, step); the first one wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sweeps.record.events import BaseEvaluated, Event, PointInfeasible, TargetSettled, TrialEnded, TrialReported
from sweeps.record.sweep_record import SweepRecord


def first_wins(events: Iterable[Event], record: SweepRecord | None = None) -> Iterator[tuple[Event, SweepRecord]]:
    """Passes on each event that says something new, with the record after it.

    A report at or before the trial's last reported step is dropped, and history that is known is cut: after a
    restart a step may be trained again, and its first numbers stay. So does the first evaluation of the base.
    """
    record = record or SweepRecord()
    for event in events:
        if isinstance(event, TargetSettled) and event.value in record.targets:
            continue
        if isinstance(event, PointInfeasible) and event.trial_key in record.trials:
            continue
        if isinstance(event, BaseEvaluated) and record.base is not None:
            continue
        if isinstance(event, TrialReported):
            known = record.trials[event.trial_key]
            if event.report.step <= known.reported_step:
                continue
            fresh = tuple(step for step in event.report.history if step.step > known.step)
            event = event.model_copy(update={"report": event.report.model_copy(update={"history": fresh})})
        if isinstance(event, TrialEnded):
            fresh = tuple(step for step in event.history if step.step > record.trials[event.trial_key].step)
            event = event.model_copy(update={"history": fresh})
        record = record.apply(event)
        yield event, record
