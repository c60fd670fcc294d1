"""The time left is an estimate, and none is told where nothing tells it."""

from __future__ import annotations

import pytest
from sweep_events import begun, ended, infeasible, record, reported, started

from sweeps.record.events import Event, SweepPlanned, TrialParked, TrialState
from sweeps.report.time_left import Rates, Trained, seconds_left

# 10 steps are done; the latest report is of second 15.
TRAINED: list[Event] = [
    begun(),
    started("aaa", 0, r=8),
    reported("aaa", 5, 2.0),
    started("bbb", 1, r=4),
    reported("bbb", 5, 1.5),
]
PARKED = TrialParked(time=15.0, trial_key="aaa", step=5)
PLAN = SweepPlanned(time=0.0, steps=40, seconds=None)
ONE_A_SECOND = Rates(1.0, 100.0)


def over(state: TrialState, *, by_person: bool = False) -> Event:
    return ended("bbb", state, by_person_or_budget=by_person)


def left(*more: Event, trials: int | None = 4, rates: Rates | None = ONE_A_SECOND) -> float | None:
    found = record([*TRAINED, *more])
    return seconds_left(found, rates, Trained.of(found.trials.values()).steps, trials, at_launch=4)


@pytest.mark.parametrize("state", [TrialState.STOPPED, TrialState.COMPLETED, TrialState.DIVERGED])
def test_once_a_trial_has_ended_the_others_take_as_many_steps(state: TrialState) -> None:
    # 4 trials of 5 steps each, 10 of them done, at one step a second; one that never trained tells nothing.
    assert left(PLAN, over(state), infeasible("ccc", 2)) == pytest.approx(10.0)
    assert left(over(state), rates=None) is None
    assert left(over(state), trials=None) is None


@pytest.mark.parametrize(
    "more", [[], [over(TrialState.STOPPED, by_person=True)], [over(TrialState.COMPLETED), PARKED], [PARKED]]
)
def test_before_that_and_while_trials_are_parked_the_plan_tells_how_many_steps_there_are(more: list[Event]) -> None:
    assert left(PLAN, *more) == pytest.approx(40 - 10)
    assert left(PLAN, *more, trials=6) == pytest.approx(60 - 10)
    assert left(*more) is None, "without a plan nothing tells"


def test_a_sweep_that_took_more_steps_than_expected_has_no_time_left_to_tell() -> None:
    assert left(over(TrialState.COMPLETED), trials=2) is None


def test_what_is_trained_in_no_time_or_not_at_all_has_no_rate() -> None:
    before, after = Trained(10, 100), Trained(20, 300)
    assert Rates.between(before, after, 5.0) == Rates(2.0, 40.0)
    assert Rates.between(before, after, 0.0) is None
    assert Rates.between(after, after, 5.0) is None
