"""What a sweep is expected to take: trials at each rung, steps, and time, from plays of its rule."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured_rates import rate
from simulator import Curve, Listed, Setting, simulate
from sweep_files import RATES, toy

from sweeps.config.model import SweepConfig
from sweeps.planning.capacity import Machine
from sweeps.planning.forecast import Forecast, RowsAndRates, UnitTimes, forecast, play, plays
from sweeps.planning.rates import Range, rate_key
from sweeps.schedulers import Rule
from sweeps.schedulers.asha import Promote, Stop
from sweeps.schedulers.fifo import Fifo

POINTS = (3, 9, 27)
RULES: dict[str, Callable[[], Rule]] = {
    "fifo": lambda: Fifo(POINTS),
    "stop": lambda: Stop(POINTS, 3),
    "promote": lambda: Promote(POINTS, 3),
}
ONE = 1, 1
STEPS = UnitTimes()


def sweep(kind: str, trials: int, **sections: Any) -> SweepConfig:
    """A sweep of trials of 27 steps under one of the rules."""
    scheduler = {"kind": kind} if kind == "fifo" else {"kind": "asha", "variant": kind}
    budget = {"trials": trials, "steps_per_trial": 27}
    searcher = {"kind": "random", "start_with_default": False, **sections.pop("searcher", {})}
    return toy(RATES, scheduler=scheduler, budget=budget, searcher=searcher, **sections)[0]


@pytest.mark.parametrize(
    ("rule", "arrival", "counts"),
    [
        ("fifo", range(9), (9, 9, 9)),
        ("stop", range(9), (9, 1, 1)),  # the best comes first
        ("stop", range(8, -1, -1), (9, 9, 9)),  # each is better than those before it
        ("promote", range(9), (9, 3, 1)),
        ("promote", range(8, -1, -1), (9, 3, 1)),
    ],
)
def test_a_play_counts_who_comes_to_each_rung(rule: str, arrival: range, counts: tuple[int, ...]) -> None:
    played = play(RULES[rule](), [float(quality) for quality in arrival], *ONE, False, STEPS)
    assert played.counts == counts
    assert played.makespan == played.units(POINTS)
    protected = play(Promote(POINTS, 3), [9.0, *map(float, range(8))], *ONE, True, STEPS)
    assert protected.counts == (9, 4, 2), "the first is trained to the end"


@given(
    trials=st.integers(1, 40), hosts=st.integers(1, 9), slots=st.integers(1, 9), rule=st.sampled_from(sorted(RULES)),
    protects_first=st.booleans(), evaluation=st.sampled_from([0.0, 2.5]),
)  # fmt: skip
def test_a_play_ends_with_fewer_trials_at_each_rung(trials, hosts, slots, rule, protects_first, evaluation) -> None:
    lengths, qualities = UnitTimes(1.0, evaluation), [float(quality) for quality in range(trials)]
    counts, makespan, _ = played = play(RULES[rule](), qualities, hosts, slots, protects_first, lengths)
    assert counts[0] == trials
    work, longest = lengths.time_for(played.units(POINTS), sum(counts)), lengths.time_for(POINTS[-1], len(POINTS))
    # No host trains more than one trial's steps at a time, and no trial's steps are trained side by side.
    assert max(work / hosts, longest) <= makespan + 1e-6
    assert makespan <= work + 1e-6
    assert hosts > 1 or makespan == pytest.approx(work)
    assert all(later <= earlier for earlier, later in pairwise(counts))
    assert counts[-1] >= 1


@pytest.mark.parametrize(
    ("rule", "trials", "hosts", "makespan"),
    [
        ("fifo", 9, (4, 1), 81),  # a host trains three trials, one after the other
        ("fifo", 9, (4, 3), 81),  # a host trains three trials, side by side
        ("fifo", 4, (9, 2), 27),
        ("promote", 9, (9, 1), 27),
        ("promote", 9, (3, 1), 9 + 6 + 18),
    ],
)
def test_a_play_takes_as_long_as_what_follows_one_another(
    rule: str, trials: int, hosts: tuple[int, int], makespan: int
) -> None:
    qualities = [float(quality) for quality in range(trials)]
    assert play(RULES[rule](), qualities, *hosts, False, STEPS).makespan == makespan


def test_many_trials_are_played_in_part() -> None:
    made = plays(sweep("promote", 9_000), 9_000, 1, 4, STEPS)
    assert {each.counts[0] for each in made} == {9_000}
    assert all(2_900 < each.counts[1] < 3_100 for each in made)


def test_repeats_follow_the_trials_and_hosts_share_them() -> None:
    (without,), (repeated,) = (
        plays(sweep("fifo", 9, searcher={"repeats": repeats}), 9, 4, 1, UnitTimes(1.0, 2.0)) for repeats in (0, 3)
    )
    assert (repeated.repeats, repeated.counts) == (9, without.counts)
    # Nine more trials of 27 steps and three evaluations: one host trains three of them.
    assert repeated.makespan == without.makespan + 3 * (27 + 3 * 2)
    assert repeated.units(POINTS) == without.units(POINTS) + 9 * 27
    assert repeated.evaluations == without.evaluations + 9 * 3


@pytest.mark.parametrize(("trials", "slots"), [(3, 3), (6, 3), (24, 16)])
def test_what_is_expected_is_the_mean_of_many_sweeps(trials: int, slots: int) -> None:
    """Simulated with curves that do not cross; the default configuration ranks anywhere.

    The few plays are 3 % off at most as a rule, and the mean here has a standard error of 1.5 % at most: 6 % are more
    than two of both.
    """
    config = sweep("promote", trials, searcher={"start_with_default": True}, cluster={"slots_per_host": slots})
    seen = forecast(*parsed(config), Machine("cuda", 1, None), slots, RowsAndRates()).steps
    rng, setting, totals = random.Random(1), Setting(slots=slots, protects_first=True), []
    for _ in range(200):
        flat = [Curve(rng.random(), 0.0, 1.0) for _ in range(trials)]
        totals.append(simulate(Promote(POINTS, 3), Listed(flat), setting, rng).steps)
    assert seen.expected == pytest.approx(fmean(totals), rel=0.06)
    assert fmean(seen.low <= total <= seen.high for total in totals) > 0.7, "nine of ten hold the tenth in four of five"


@pytest.mark.parametrize(("trials", "slots"), [(12, 1), (12, 4), (16, 1)])
def test_the_mean_lies_in_its_range_where_a_few_plays_take_far_fewer_steps(trials: int, slots: int) -> None:
    """Of 12 trials with rungs up to 486 of 500 steps, the middle 80% of all plays lies above the mean of all."""
    asha = {"kind": "asha", "variant": "promote", "grace_steps": 6}
    budget = {"trials": trials, "steps_per_trial": 500}
    config = toy(RATES, scheduler=asha, budget=budget, cluster={"slots_per_host": slots})[0]
    seen = forecast(*parsed(config), Machine("cuda", 1, None), slots, RowsAndRates()).steps
    assert seen.low <= seen.expected <= seen.high


def parsed(config: SweepConfig) -> tuple[SweepConfig, Any]:
    return config, toy(RATES)[1]


def timed(config: SweepConfig, hosts: int = 1, gpus: int = 0, **fields: Any) -> Forecast:
    """The forecast on hosts of one slot: by default 20 s to start, 2 s a step, 1 s an evaluation or trial."""
    key = rate_key(config, "here")
    machine = Machine("cuda" if gpus else "cpu", hosts, None, spread=max(1, gpus))
    return forecast(*parsed(config), machine, 1, RowsAndRates([rate(key, **fields)], key))


def test_several_hosts_take_what_follows_one_another_and_each_gpu_of_them_is_paid_for() -> None:
    """Of nine trials one host trains three; the base is one more evaluation, which four hosts share."""
    found = timed(sweep("fifo", 9), hosts=4, gpus=2)
    assert found.seconds.expected == pytest.approx(20 + 9 + 3 * (27 * 2 + 3) + 1 / 4)
    assert found.gpu_hours.expected == pytest.approx(8 * found.seconds.expected / 3600)
    assert timed(sweep("fifo", 9), hosts=4).gpu_hours == Range(0, 0, 0)
    # The share of evaluation is of all work, whoever does it.
    assert timed(sweep("fifo", 4), hosts=4).evaluation_share == pytest.approx(13 / (4 * 27 * 2 + 13))
    assert timed(sweep("fifo", 4), step_seconds=0.0).evaluation_share is None


def test_the_most_steps_take_as_much_longer_as_they_are_more() -> None:
    """Under this rule all 9 trials may take all 27 steps; 20 s of start and 1 s for each trial stay."""
    stopped, whole = timed(sweep("stop", 9)), timed(sweep("fifo", 9))
    assert whole.most_seconds == whole.seconds
    assert stopped.seconds is not None and stopped.most_seconds is not None
    # All steps of 2 s and all evaluations of 1 s, or a few more: early report points are close to each other.
    work = 9 * (27 * 2 + 3) + 1
    assert work <= stopped.most_seconds.expected - 29 < 1.15 * work
    assert stopped.seconds.expected < stopped.most_seconds.expected


@pytest.mark.parametrize(
    ("when", "trials", "evaluations"), [("every", 9, 28), ("last", 9, 10), ("best", 9, 6), ("best", 3, 4)]
)
def test_answers_are_scored_at_each_report_at_the_last_one_or_of_finalists_and_of_the_base(when, trials, evaluations):
    scores = {"metrics": ["exact_match"], "when": when}
    found = timed(sweep("fifo", trials, searcher={"start_with_default": when == "best"}, evaluation=scores)).answers
    assert found.evaluations == evaluations


def test_evaluations_on_parts_of_the_rows_count_as_these_parts() -> None:
    """Nine trials on a quarter, three on a half and one on all rows; the first trial is on all rows at each point."""
    parts, qualities = UnitTimes(1.0, 8.0, (0.25, 0.5, 1.0)), [float(quality) for quality in range(9)]
    played = play(Promote(POINTS, 3), qualities, *ONE, False, parts)
    assert (played.counts, played.evaluations) == ((9, 3, 1), 13)
    assert played.whole_evaluations(parts, False) == 9 / 4 + 3 / 2 + 1
    assert played.makespan == played.units(POINTS) + 8 * played.whole_evaluations(parts, False)
    protected = play(Promote(POINTS, 3), qualities, *ONE, True, parts)
    assert protected.whole_evaluations(parts, True) == 9 / 4 + 3 / 2 + 1 + 3 / 4 + 1 / 2
    assert protected.makespan == protected.units(POINTS) + 8 * protected.whole_evaluations(parts, True)
