"""What a sweep is expected to take by playing its rule."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sweeps.halving.cost import Cost, played_cost
from sweeps.halving.fifo import Fifo
from sweeps.halving.stop import Stop


def cost(points: Sequence[int], factor: int, trials: int) -> Cost:
    return played_cost(lambda: Stop(points, factor), trials)


@pytest.mark.parametrize(("points", "trials"), [((3, 9, 27, 81), 16), ((4, 12, 36), 8), ((81,), 5), ((1, 2), 1)])
def test_expected_steps_lie_between_one_rung_each_and_all(points: tuple[int, ...], trials: int) -> None:
    found = cost(points, 3, trials)
    assert found.worst == points[-1] * trials
    assert points[0] * trials <= found.expected <= found.worst


def test_a_single_rung_stops_nobody() -> None:
    assert cost((81,), 3, 5).expected == 81 * 5


def test_fifo_takes_every_step_of_every_trial_however_many() -> None:
    assert played_cost(lambda: Fifo((3, 9)), 4_321) == (9 * 4_321, 9 * 4_321)


def test_expected_steps_are_the_same_at_every_call() -> None:
    assert cost((3, 9, 27, 81), 3, 16) == cost((3, 9, 27, 81), 3, 16)


def test_stopping_saves_more_of_a_longer_sweep() -> None:
    shares = [found.expected / found.worst for found in (cost((3, 9, 27, 81), 3, n) for n in (2, 8, 32, 128))]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.25


def test_a_harder_cut_saves_more() -> None:
    assert cost((4, 16, 64), 4, 32).expected < cost((4, 16, 64), 2, 32).expected


def test_two_trials_are_expected_to_take_what_can_be_reckoned() -> None:
    # The first runs to the end; the second too when it is better, which is every other time.
    assert cost((10, 100), 2, 2).expected == pytest.approx(100 + (100 + 10) / 2, abs=5)
