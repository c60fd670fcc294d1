"""What holds under every rule: no rung is passed over, a replay decides the same, no slot idles; and the rungs."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_players import Play, after, play

from sweeps.schedulers import Decision, Ended, Idle, Reported, Rule, Started, TrialStatus, next_point, rungs
from sweeps.schedulers.asha import Promote, Stop
from sweeps.schedulers.fifo import Fifo
from sweeps.schedulers.median import Median

POINTS = (1, 3, 9, 27)
RULES: dict[str, Callable[[], Rule]] = {
    "fifo": lambda: Fifo(POINTS),
    "median": lambda: Median(POINTS),
    "stop": lambda: Stop(POINTS, 3),
    "breadth": lambda: Promote(POINTS, 3),
    "paper": lambda: Promote(POINTS, 3, "paper"),
    "patient": lambda: Promote(POINTS, 2, overfit_patience=1),
}
EVERY = pytest.mark.parametrize("name", list(RULES))


def lived(rule: Rule, seed: int) -> Play:
    """A sweep in which trials cross, fail and diverge."""
    rng = random.Random(seed)

    def value(_name: str, _point: int) -> float | None:
        lot = rng.random()
        return None if lot < 0.08 else float("nan") if lot < 0.16 else round(rng.random(), 1)

    return play(rule, value, rng.randint(1, 25), rng.randint(1, 4), rng.choice, rng.random() < 0.5)


@EVERY
@settings(max_examples=30)
@given(seed=st.integers(0, 10**9), cut=st.floats(0, 1))
def test_a_replay_of_the_events_stands_where_the_rule_stood(name: str, seed: int, cut: float) -> None:
    played = lived(RULES[name](), seed)
    for trial in {event.trial for event in played.events}:
        seen = [report.resource for report in played.reports if report.trial == trial]
        assert tuple(seen) == POINTS[: len(seen)], "no point is passed without a report"
    events, at = played.events, int(cut * len(played.events))
    rules = [after(RULES[name](), events[:at]) for _ in range(2)]
    for event in events[at:]:
        first, second = ([rule.next(is_exhausted) for is_exhausted in (False, True)] for rule in rules)
        assert first == second
        assert rules[0].take(event) == rules[1].take(event)
    assert vars(rules[0]) == vars(rules[1])


@EVERY
def test_a_trial_that_goes_on_after_an_interruption_reports_no_point_again(name: str) -> None:
    rule = RULES[name]()
    rule.take(Started("a", is_protected=True))
    rule.take(Reported("a", 1, 2.0))
    rule.take(Started("a", is_protected=True))
    assert rule.take(Reported("a", 1, 7.0)) is Decision.GO_ON
    assert rule.next_point("a") == 3


@EVERY
def test_a_late_report_is_ranked_at_each_point_that_it_passed(name: str) -> None:
    rule = RULES[name]()
    rule.take(Started("a"))
    rule.take(Reported("a", 4, 2.0))
    assert rule.next_point("a") == 9
    rule.take(Started("a"))
    rule.take(Reported("a", 27, 1.0))
    assert (rule.next_point("a"), rule.status("a")) == (None, TrialStatus.OVER)


def test_a_parked_trial_that_someone_ends_is_not_resumed() -> None:
    rule = Promote((1, 3), 3)
    for event in (Started("a"), Reported("a", 1, 2.0), Ended("a")):
        rule.take(event)
    assert (rule.status("a"), rule.next(is_exhausted=True)) == (TrialStatus.OVER, Idle.OVER)


def test_overfit_patience_counts_reports_in_a_row_that_are_worse_than_the_best() -> None:
    rule = Fifo((1, 2, 3, 4, 5, 6), overfit_patience=2)
    rule.take(Started("a"))
    found = [rule.take(Reported("a", step, value)) for step, value in enumerate([5.0, 6.0, 4.0, 4.5, 4.2], 1)]
    assert found == [*[Decision.GO_ON] * 4, Decision.STOP]


# Median stopping


def test_median_stops_a_trial_whose_best_is_worse_than_the_median_of_the_others_means() -> None:
    rule = Median((1, 2, 4), "max")
    for name in "abcde":
        rule.take(Started(name))
    for name, value in [("a", 1.0), ("b", 2.0), ("c", 3.0)]:
        assert rule.take(Reported(name, 1, value)) is Decision.GO_ON  # too few others
    assert rule.take(Reported("d", 1, 1.9)) is Decision.STOP
    assert rule.take(Reported("e", 1, 2.0)) is Decision.GO_ON  # of 1, 2, 3 and 1.9 the median is 1.95
    for name, value in [("a", 5.0), ("b", 2.0), ("c", 3.0)]:  # means: 3, 2, 3
        rule.take(Reported(name, 2, value))
    assert rule.take(Reported("e", 2, 2.5)) is Decision.STOP


# Rungs


RUNGS = [
    # grace_steps, reduction_factor, steps, rungs
    (1, 3, 243, (1, 3, 9, 27, 81, 243)),  # the logarithm of Ray 2.60 loses 81
    (3, 3, 82, (3, 9, 27, 81, 82)),
    (4, 2, 36, (4, 8, 16, 32, 36)),
    (3, 3, 3, (3,)),
    (5, 3, 3, (3,)),
]
RUNG_SETTINGS = st.tuples(st.integers(1, 50), st.integers(2, 12), st.integers(1, 5000))


@pytest.mark.parametrize(("grace", "factor", "steps", "expected"), RUNGS)
def test_rungs_are_powers_of_the_factor_and_the_last_step(grace, factor, steps, expected) -> None:
    assert rungs(grace, factor, steps) == expected


@given(RUNG_SETTINGS)
def test_rungs_rise_and_end_at_the_last_step(given: tuple[int, int, int]) -> None:
    grace, factor, steps = given
    found = rungs(grace, factor, steps)
    assert found[-1] == steps
    assert all(low < high for low, high in pairwise(found))
    assert all(high == low * factor for low, high in pairwise(found[:-1]))
    assert found[0] == min(grace, steps)


def test_the_next_report_comes_at_the_first_point_after_the_step() -> None:
    found = [next_point((3, 9, 27), step) for step in (0, 2, 3, 8, 9, 26, 27, 99)]
    assert found == [3, 3, 9, 9, 27, 27, None, None]
