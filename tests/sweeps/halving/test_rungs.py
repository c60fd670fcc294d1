"""Rungs, and ASHA's rule: ours for the plan, Ray's for the sweep, and that both say the same."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.halving import rungs as module
from sweeps.halving.rungs import asha_steps, next_point, rungs
from sweeps.schedulers import asha, fifo

TABLE = [
    # grace_steps, reduction_factor, steps, rungs
    (1, 3, 243, (1, 3, 9, 27, 81, 243)),  # the logarithm of Ray 2.60 loses 81
    (1, 10, 1000, (1, 10, 100, 1000)),
    (3, 3, 81, (3, 9, 27, 81)),
    (3, 3, 80, (3, 9, 27, 80)),
    (3, 3, 82, (3, 9, 27, 81, 82)),
    (4, 3, 36, (4, 12, 36)),
    (4, 2, 36, (4, 8, 16, 32, 36)),
    (2, 3, 3, (2, 3)),
    (3, 3, 3, (3,)),
    (5, 3, 3, (3,)),
    (1, 2, 1, (1,)),
]
SETTINGS = st.tuples(st.integers(1, 50), st.integers(2, 12), st.integers(1, 5000))


@pytest.mark.parametrize(("grace", "factor", "steps", "expected"), TABLE)
def test_rungs_are_powers_of_the_factor_and_the_last_step(
    grace: int, factor: int, steps: int, expected: tuple[int, ...]
) -> None:
    assert rungs(grace, factor, steps) == expected


@given(SETTINGS)
def test_rungs_rise_and_end_at_the_last_step(settings: tuple[int, int, int]) -> None:
    grace, factor, steps = settings
    found = rungs(grace, factor, steps)
    assert found[-1] == steps
    assert all(low < high for low, high in pairwise(found))
    assert all(high == low * factor for low, high in pairwise(found[:-1]))
    assert found[0] == min(grace, steps)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 3), (2, 3), (3, 9), (8, 9), (9, 27), (26, 27), (27, None), (99, None)]
)
def test_the_next_report_comes_at_the_first_point_after_the_step(step: int, expected: int | None) -> None:
    assert next_point((3, 9, 27), step) == expected


# The configurations


@pytest.mark.parametrize("config", [asha.Config(), fifo.Config()])
def test_fifo_reports_where_asha_compares(config: asha.Config | fifo.Config) -> None:
    assert config.points(81) == (3, 9, 27, 81)


def test_fifo_expects_every_step_of_every_trial() -> None:
    assert fifo.Config().expected_steps(81, 16, 4) == 81 * 16


def test_fifo_stops_nobody() -> None:
    scheduler = fifo.Config().build(9)
    assert [scheduler.on_trial_result(None, trial("a"), {"step": 3, "eval_loss": loss}) for loss in (1.0, 9.0)] == [
        "CONTINUE",
        "CONTINUE",
    ]


# Ray's own scheduler


def trial(name: str) -> Any:
    """What Ray's scheduler looks at of a trial."""
    return SimpleNamespace(trial_id=name, config={})


def built(grace: int, factor: int, steps: int) -> Any:
    scheduler = asha.Config(grace_steps=grace, reduction_factor=factor).build(steps)
    assert scheduler.set_search_properties("eval_loss", "min")
    return scheduler


@pytest.mark.parametrize(("grace", "factor", "steps", "expected"), TABLE)
def test_rays_scheduler_has_exactly_our_rungs(grace: int, factor: int, steps: int, expected: tuple[int, ...]) -> None:
    scheduler = built(grace, factor, steps)
    assert [milestone for milestone, _ in scheduler._brackets[0]._rungs] == list(reversed(expected[:-1]))
    assert len(scheduler._brackets) == 1
    assert (scheduler._max_t, scheduler._time_attr) == (expected[-1], "step")


def play(scheduler: Any, points: tuple[int, ...], losses: list[float]) -> list[int]:
    """The step at which each trial ends, when they arrive one after the other."""
    ends = []
    for number, loss in enumerate(losses):
        scheduler.on_trial_add(None, trial(str(number)))
        for point in points:
            action = scheduler.on_trial_result(None, trial(str(number)), {"step": point, "eval_loss": loss})
            if action == "STOP":
                break
        ends.append(point)
    return ends


@settings(deadline=None, max_examples=60)
@given(st.permutations(range(14)), st.sampled_from([(1, 2, 20), (1, 3, 27), (2, 4, 100), (3, 3, 81), (5, 3, 4)]))
def test_rays_scheduler_decides_by_our_rule(order: list[int], settings: tuple[int, int, int]) -> None:
    points = rungs(*settings)
    ends = play(built(*settings), points, [float(-quality) for quality in order])
    assert sum(ends) == module._play(points, settings[1], order)
    recorded: list[list[int]] = [[] for _ in points]
    for quality, end in zip(order, ends, strict=True):
        for rung, point in enumerate(points[:-1]):
            if point > end:
                break
            assert module._survives(quality, sorted(recorded[rung]), settings[1]) == (end > point)
            recorded[rung].append(quality)


def test_rays_scheduler_decides_once_about_a_report_that_comes_twice() -> None:
    scheduler = built(1, 3, 9)
    play(scheduler, (1,), [1.0, 2.0, 3.0])
    before = {milestone: dict(recorded) for milestone, recorded in scheduler._brackets[0]._rungs}
    scheduler.on_trial_result(None, trial("0"), {"step": 1, "eval_loss": 9.0})
    assert {milestone: dict(recorded) for milestone, recorded in scheduler._brackets[0]._rungs} == before


def test_a_result_without_a_loss_says_nothing_to_rays_scheduler() -> None:
    """How a trial that diverged or was interrupted ends: it must not move a rung's cutoff."""
    scheduler = built(1, 3, 9)
    scheduler.on_trial_add(None, trial("a"))
    assert scheduler.on_trial_result(None, trial("a"), {"step": 1, "state": "DIVERGED"}) == "CONTINUE"
    scheduler.on_trial_complete(None, trial("a"), {"step": 1, "state": "DIVERGED"})
    assert all(recorded == {} for _, recorded in scheduler._brackets[0]._rungs)


def rung_content(scheduler: Any) -> dict[int, dict[str, float]]:
    return {milestone: dict(recorded) for milestone, recorded in scheduler._brackets[0]._rungs}


def test_replaying_reports_fills_the_rungs_as_the_first_time() -> None:
    reports = [("a", 1, 3.0), ("b", 1, 2.0), ("b", 3, 1.9), ("c", 1, 4.0), ("a", 3, 1.0), ("b", 9, 1.8)]
    lived = built(1, 3, 9)
    for name in ("a", "b", "c"):
        lived.on_trial_add(None, trial(name))
    actions = [
        lived.on_trial_result(None, trial(name), {"step": step, "eval_loss": loss}) for name, step, loss in reports
    ]
    config = asha.Config(grace_steps=1, reduction_factor=3)
    again = config.build(9)
    stopped = config.replay(again, reports)
    assert rung_content(again) == rung_content(lived)
    assert actions == ["CONTINUE", "CONTINUE", "CONTINUE", "STOP", "CONTINUE", "STOP"]
    assert stopped == {"c"}  # b has done all its steps: nobody stopped it


def test_a_report_that_was_judged_under_an_earlier_driver_is_not_judged_again() -> None:
    config, scheduler = asha.Config(grace_steps=1, reduction_factor=3), built(1, 3, 9)
    config.replay(scheduler, [("a", 1, 3.0), ("b", 1, 2.0), ("a", 3, 2.5), ("b", 3, 1.9)])
    before = rung_content(scheduler)
    resumed = SimpleNamespace(trial_id="t1", config={"reported": {"step": 3}})
    scheduler.on_trial_add(None, resumed)
    for step in (1, 3):
        assert scheduler.on_trial_result(None, resumed, {"step": step, "eval_loss": 3.0}) == "CONTINUE"
    assert rung_content(scheduler) == before


def test_fifo_has_nothing_to_remember() -> None:
    config = fifo.Config()
    assert config.replay(config.build(9), [("a", 3, 1.0), ("b", 3, 9.0)]) == set()


# The rule


@pytest.mark.parametrize(
    ("quality", "recorded", "factor", "goes_on"),
    [
        (0, [], 3, True),  # the first at a rung always goes on
        (1, [2], 3, False),
        (3, [2], 3, True),
        (5, [1, 9], 2, True),  # the median of 1 and 9 is 5
        (4, [1, 9], 2, False),
        (6, [1, 9], 3, False),  # 1 + 2/3 * 8 = 6.33
        (7, [1, 9], 3, True),
        (3, [1, 2, 3, 4], 3, True),  # the quantile is an element
        (2, [1, 2, 3, 4], 3, False),
    ],
)
def test_a_trial_goes_on_at_or_above_the_quantile(
    quality: int, recorded: list[int], factor: int, goes_on: bool
) -> None:
    assert module._survives(quality, recorded, factor) is goes_on


@given(st.lists(st.integers(0, 1000), unique=True, max_size=30), st.integers(0, 1000), st.integers(2, 5))
def test_a_better_report_never_stops_where_a_worse_one_goes_on(recorded: list[int], quality: int, factor: int) -> None:
    if module._survives(quality, sorted(recorded), factor):
        assert module._survives(quality + 1, sorted(recorded), factor)


# Steps of a sweep


@pytest.mark.parametrize(("points", "trials"), [((3, 9, 27, 81), 16), ((4, 12, 36), 8), ((81,), 5), ((1, 2), 1)])
def test_expected_steps_lie_between_one_rung_each_and_all(points: tuple[int, ...], trials: int) -> None:
    steps = asha_steps(points, 3, trials)
    assert steps.worst == points[-1] * trials
    assert points[0] * trials <= steps.expected <= steps.worst


def test_a_single_rung_stops_nobody() -> None:
    assert asha_steps((81,), 3, 5).expected == 81 * 5


def test_expected_steps_are_the_same_at_every_call() -> None:
    assert asha_steps((3, 9, 27, 81), 3, 16) == asha_steps((3, 9, 27, 81), 3, 16)


def test_stopping_saves_more_of_a_longer_sweep() -> None:
    shares = [steps.expected / steps.worst for steps in (asha_steps((3, 9, 27, 81), 3, n) for n in (2, 8, 32, 128))]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.25


def test_a_harder_cut_saves_more() -> None:
    assert asha_steps((4, 16, 64), 4, 32).expected < asha_steps((4, 16, 64), 2, 32).expected


def test_two_trials_are_expected_to_take_what_can_be_reckoned() -> None:
    # The first runs to the end; the second too when it is better, which is every other time.
    assert asha_steps((10, 100), 2, 2).expected == pytest.approx(100 + (100 + 10) / 2, abs=5)


def test_asha_expects_what_playing_its_rule_gives() -> None:
    config = asha.Config(grace_steps=4, reduction_factor=3)
    assert config.expected_steps(36, 8, 2) == asha_steps((4, 12, 36), 3, 8).expected


def test_first_trial_is_spared_when_it_is_the_default():
    scheduler = asha.Config(grace_steps=1, reduction_factor=2).build(4, spares_first=True)
    scheduler.set_search_properties("eval_loss", "min")
    trials = [SimpleNamespace(trial_id=str(number), config={"number": number}) for number in range(3)]
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    losses = [3.0, 1.0, 2.5]
    decisions = [
        scheduler.on_trial_result(None, trials[number], {"step": 1, "eval_loss": losses[number]})
        for number in (1, 0, 2)
    ]
    assert decisions == ["CONTINUE", "CONTINUE", "STOP"]
    assert scheduler.on_trial_result(None, trials[0], {"step": 4, "eval_loss": 3.0}) == "STOP"
