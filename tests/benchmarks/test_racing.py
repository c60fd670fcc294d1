"""The study of evaluations that end early: when one ends, and what it is compared with."""

from random import Random

import pytest
from simulator import SimulatedSweep

from benchmarks.racing import LOOKS, differences, rows_looked_at


def test_a_trial_that_is_far_worse_ends_at_the_first_look():
    assert rows_looked_at(1.0, 64, Random(0)) == LOOKS[0]


@pytest.mark.parametrize("difference", [-1.0, -0.1])
def test_a_trial_that_is_better_is_evaluated_on_all_rows(difference):
    assert [rows_looked_at(difference, 64, Random(seed)) for seed in range(50)] == [64] * 50


def test_no_evaluation_ends_at_its_last_row():
    assert rows_looked_at(1.0, 16, Random(0)) == 16


def test_at_a_tie_one_of_a_hundred_ends_early():
    ended = sum(rows_looked_at(0.0, 256, Random(seed)) < 256 for seed in range(2_000))
    # Four looks at 2.8 standard errors, with heavier tails for 16 rows: 1.4 % at most; 28 +- 5 of 2,000.
    assert ended <= 45


def test_under_promote_the_cutoff_is_the_last_trial_that_may_go_on():
    told = [(float(number), number, 3, 2.0 - number / 64) for number in range(22)] + [(30.0, 0, 81, 1.0)]
    seen = list(differences("promote, breadth", SimulatedSweep(measured=told)))
    # 21 of 64 trials may go on from the first rung: the 22nd is the first that can lose for certain.
    assert seen[:21] == [None] * 21
    assert seen[21] == pytest.approx(told[21][3] - 2.0)
    assert seen[22] is None


def test_under_stop_the_cutoff_is_that_of_the_trials_before():
    told = [(float(number), number, 3, value) for number, value in enumerate((1.0, 2.0, 4.0, 1.5))]
    seen = list(differences("stop", SimulatedSweep(measured=told)))
    assert seen[0] is None
    assert seen[1] == pytest.approx(1.0)
    # The best third of 1, 2 and 4 begins at the linear 1/3 quantile, 1 + 2/3.
    assert seen[3] == pytest.approx(1.5 - (1 + 2 / 3))
