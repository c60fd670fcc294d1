"""ASHA's stopping form: ours against Ray's own scheduler on the same reports."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import AsyncHyperBandScheduler

from sweeps.schedulers import Decision, Direction, Ended, Reported, Started, TrialStatus
from sweeps.schedulers.asha import Stop, cutoff

POINTS = {2: (2, 4, 8, 16, 32), 3: (1, 3, 9, 27), 4: (3, 12, 48)}
VALUES = st.one_of(st.floats(-1e6, 1e6), st.integers(0, 5).map(float))


def rays(factor: int, direction: Direction) -> Any:
    points = POINTS[factor]
    return AsyncHyperBandScheduler("step", "loss", direction, max_t=points[-1], grace_period=points[0],
                                   reduction_factor=factor)  # fmt: skip


@settings(max_examples=60)
@given(st.data(), st.sampled_from([2, 3, 4]), st.sampled_from(["min", "max"]))
def test_verdicts_are_those_of_rays_scheduler_on_the_same_reports(data, factor, direction):
    ours, theirs, points = Stop(POINTS[factor], factor, direction), rays(factor, direction), POINTS[factor]
    trials = {str(number): SimpleNamespace(trial_id=str(number)) for number in range(12)}
    for name, trial in trials.items():
        ours.take(Started(name))
        theirs.on_trial_add(None, trial)
    reached = dict.fromkeys(trials, 0)
    while reached:
        name = data.draw(st.sampled_from(sorted(reached)))
        step, value = points[reached[name]], data.draw(VALUES)
        expected = theirs.on_trial_result(None, trials[name], {"step": step, "loss": value})
        assert ours.take(Reported(name, step, value)) == {"CONTINUE": Decision.GO_ON, "STOP": Decision.STOP}[expected]
        reached[name] += 1
        if expected == "STOP":
            del reached[name]


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40), st.integers(2, 12))
def test_the_cutoff_is_numpys_percentile_to_the_last_bit(rewards: list[float], factor: int) -> None:
    assert cutoff(sorted(rewards), factor) == np.nanpercentile(rewards, (1 - 1 / factor) * 100)


def test_a_protected_trial_goes_on_and_still_moves_the_cutoff() -> None:
    rule = Stop((1, 2, 4), 2)
    for name in "abc":
        rule.take(Started(name, is_protected=name == "a"))
    told = [("b", 1, 1.0), ("a", 1, 3.0), ("c", 1, 2.5), ("a", 4, 3.0)]
    go_on, stop = Decision.GO_ON, Decision.STOP
    assert [rule.take(Reported(*each)) for each in told] == [go_on, go_on, stop, stop]


def test_a_trial_that_diverged_moves_no_cutoff() -> None:
    rule = Stop((1, 3, 9), 3)
    for name in "abc":
        rule.take(Started(name))
    assert rule.take(Reported("a", 1, float("nan"))) is Decision.STOP
    rule.take(Ended("b", is_diverged=True))
    assert rule.take(Reported("c", 1, 7.0)) is Decision.GO_ON  # the first one that counts there
    assert [rule.status(name) for name in "abcd"] == [TrialStatus.OVER, TrialStatus.OVER, TrialStatus.RUNNING, None]
