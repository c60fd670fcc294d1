"""The time left is an estimate, and none is told where nothing tells it."""

from __future__ import annotations

import pytest
from sweep_events import begun, ended, infeasible, reported, started

from sweeps.record.events import Event, SweepPlanned, TrialParked, TrialState
from sweeps.record.sweep_record import SweepRecord
from sweeps.report.time_left import seconds_left

# 10 steps are done; the latest report is of second 15.
TRAINED: list[Event] = [
    begun(),
    SweepPlanned(time=0.0, steps=40, seconds=None),
    started("aaa", 0, r=8),
    reported("aaa", 5, 2.0),
    started("bbb", 1, r=4),
    reported("bbb", 5, 1.5),
]
PARKED = TrialParked(time=15.0, trial_key="aaa", step=5)


def over(state: TrialState, *, by_person: bool = False) -> Event:
    return ended("bbb", state).model_copy(update={"time": 15.0, "by_person_or_budget": by_person})


def left(*more: Event, trials: int | None = 4, now: float = 17.0, speed: float | None = 1.0) -> float | None:
    record = SweepRecord()
    for event in (*TRAINED, *more):
        record = record.apply(event)
    return seconds_left(record, speed, trials, now, at_launch=4)


@pytest.mark.parametrize("state", [TrialState.STOPPED, TrialState.COMPLETED, TrialState.DIVERGED])
def test_the_time_left_is_known_once_a_trial_has_ended(state: TrialState) -> None:
    # 4 trials of 5 steps each, 10 of them done, at one step a second; 2 seconds have passed since.
    assert left(over(state)) == pytest.approx(8.0)
    assert left(over(state), now=1e6) == 0.0
    assert left() is None
    assert left(over(state), speed=None) is None
    assert left(over(state), trials=None) is None


def test_a_trial_that_a_person_stopped_or_that_never_trained_tells_nothing() -> None:
    assert left(over(TrialState.STOPPED, by_person=True)) is None
    never_trained = infeasible("ccc", 2).model_copy(update={"time": 15.0})
    assert left(over(TrialState.COMPLETED), never_trained) == pytest.approx(8.0)


def test_while_trials_are_parked_the_plan_tells_how_many_steps_there_are() -> None:
    assert left(over(TrialState.COMPLETED), PARKED) == pytest.approx(40 - 10 - 2)
    assert left(over(TrialState.COMPLETED), PARKED, trials=6) == pytest.approx(60 - 10 - 2)
    assert left(PARKED) is None


def test_a_sweep_that_took_more_steps_than_expected_has_no_time_left_to_tell() -> None:
    assert left(over(TrialState.COMPLETED), trials=2) is None


def test_a_log_without_a_plan_tells_nothing_while_trials_are_parked() -> None:
    record = SweepRecord()
    for event in (*TRAINED[:1], *TRAINED[2:], over(TrialState.COMPLETED), PARKED):
        record = record.apply(event)
    assert seconds_left(record, 1.0, 4, 17.0, at_launch=4) is None
