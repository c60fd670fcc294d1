"""What early stopping must hold on the simulator. The tables of docs/simulator.md have more seeds."""

from __future__ import annotations

from functools import cache
from random import Random
from statistics import fmean

import pytest
from simulator import ARRIVALS, Curve, Listed, Setting, curves, simulate

from sweeps.schedulers.asha import Promote, Stop
from sweeps.schedulers.fifo import Fifo

POINTS = (3, 9, 27, 81)
SEEDS = 40
NOISE = 0.03


RULES = {
    "breadth": lambda: Promote(POINTS, 3),
    "paper": lambda: Promote(POINTS, 3, "paper"),
    "stop": lambda: Stop(POINTS, 3),
}


@cache
def sweeps(rule, arrival):
    trials = [list(curves(64, Random(seed), POINTS[-1])) for seed in range(SEEDS)]
    return [
        simulate(RULES[rule](), Listed(ARRIVALS[arrival](each)), Setting(noise=NOISE), Random(seed))
        for seed, each in enumerate(trials)
    ]


@pytest.mark.parametrize("arrival", ARRIVALS)
def test_promotion_takes_a_ninth_of_the_full_grid_in_any_order_of_arrival(arrival):
    done = sweeps("breadth", arrival)
    # 64 x 3 + 21 x 6 + 7 x 18 + 2 x 54 = 552, a little more when one of so few diverges on its way.
    assert fmean(each.steps for each in done) == pytest.approx(552, abs=5)
    # .0175 is the mean regret with 300 seeds; the standard error of 40 is about .004.
    assert fmean(each.regret(81) for each in done) <= 0.0175 + 2 * 0.004


def test_the_stopping_form_takes_twice_as_much_when_trials_improve():
    stop, breadth = (fmean(each.steps for each in sweeps(rule, "improving")) for rule in ("stop", "breadth"))
    assert stop > 2 * breadth


@pytest.mark.parametrize("slots", [1, 4, 64])
def test_slots_work_side_by_side_and_none_idles_while_a_trial_may_go_on(slots):
    done = simulate(Fifo(POINTS), Listed([Curve(1, 1, 1)] * 64), Setting(slots), Random(0))
    assert (done.steps, done.makespan) == (64 * 81, 64 * 81 / slots)


@pytest.mark.parametrize(
    ("default", "makespan"),
    [
        # 12 trials on 4 slots: three are at 9 at 18, the best one is at 27 at 36 and goes on in the tail.
        (11, 18 + 18 + 54),
        # The default leads at 27, at 27: no other goes on, and it is at 81 at 81.
        (0, 81),
    ],
)
def test_no_slot_waits_for_the_default_while_the_best_of_the_others_may_go_on_to_the_end(default, makespan):
    ends = [default, *(end for end in range(12) if end != default)]
    listed = Listed([Curve(end, 0, 1) for end in ends])
    assert simulate(Promote(POINTS, 3), listed, Setting(4, protects_first=True), Random(0)).makespan == makespan


def test_the_answer_of_a_sweep_that_is_cut_short_is_the_best_until_then():
    good, bad = Curve(1.0, 1.0, 1.0), Curve(2.0, 1.0, 1.0)
    outcome = simulate(Fifo((3, 9)), Listed([bad, good]), Setting(), Random(0))
    assert outcome.answer(2) is None
    assert [outcome.answer(until).trial for until in (9, 12)] == [0, 1]
    assert outcome.regret(9, until=12) == pytest.approx(good.loss(3) - good.loss(9))


def test_a_sweep_that_is_cut_short_has_a_better_answer_in_the_order_of_the_paper():
    """At a quarter, half and three quarters of the time that `breadth` takes; docs/search.md has the half."""
    breadth, paper = sweeps("breadth", "random"), sweeps("paper", "random")
    for share in (0.25, 0.5, 0.75):
        until = share * fmean(each.makespan for each in breadth)
        assert 2 * fmean(each.regret(81, until) for each in paper) < fmean(each.regret(81, until) for each in breadth)
