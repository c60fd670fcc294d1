"""What a sweep's log says to its rule: the same while the sweep runs as when it goes on later. Pure."""

from __future__ import annotations

from sweeps import schedulers
from sweeps.record.events import Event, PointInfeasible, TrialEnded, TrialReported, TrialStarted, TrialState
from trainables.objective import Objective


def rule_event(event: Event, objective: Objective, protects_first: bool) -> schedulers.Event | None:
    """The event as the rule takes it; None for those that say nothing to it.

    Args:
        objective: names the metric that the rule goes by.
        protects_first: whether trial 0 is trained to its end whatever it reports.
    """
    match event:
        case TrialStarted():
            is_protected = protects_first and event.number == 0
            return schedulers.Started(event.trial_key, is_protected, event.is_in_tail)
        case TrialReported():
            return schedulers.Reported(event.trial_key, event.report.point, objective.of(event.report.metrics))
        case PointInfeasible():
            return schedulers.Ended(event.trial_key)
        case TrialEnded() if event.state.is_final and not event.may_go_on:
            return schedulers.Ended(event.trial_key, is_diverged=event.state is TrialState.DIVERGED)
        case _:
            return None  # A trial that was interrupted, or may go on, does so where it was; a parked one waits.
