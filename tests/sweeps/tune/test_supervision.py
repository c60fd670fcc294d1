"""The driver waits for Ray as long as there is hope, and no longer."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from sweeps import timeouts
from sweeps.errors import RayGone
from sweeps.steering.stop import StopState
from sweeps.timeouts import LEAVE_SECONDS, START_STOP_SECONDS, STOP_SECONDS
from sweeps.tune.supervision import LEFT_BEHIND, supervise


@dataclass
class FakeRay:
    """Ray as the test wants it."""

    has_started: bool = True
    is_ending: bool = False
    patience_seconds: float = 0.0
    lost: bool = False
    abandoned: bool = False

    def is_lost(self) -> bool:
        return self.lost

    def abandon(self) -> None:
        self.abandoned = True


class Clock:
    """Goes on at every look; the work ends when the test says so."""

    def __init__(self, step_seconds: float = 1.0) -> None:
        self.now, self._step = 0.0, step_seconds

    def __call__(self) -> float:
        return self.now

    def look(self) -> None:
        self.now += self._step


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    monkeypatch.setattr(timeouts, "SUPERVISION_SECONDS", 0.001)


@pytest.fixture
def stuck():
    """Work that waits until the test is over."""
    over = threading.Event()
    yield lambda: over.wait(60) and None
    over.set()


def running() -> bool:
    """Trials are not over."""
    return False


def test_what_the_work_raises_is_raised_unless_ray_is_lost():
    def broken() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        supervise(broken, FakeRay(), StopState(), lambda: None, running)
    with pytest.raises(RayGone, match="daemons are gone"):
        supervise(broken, FakeRay(lost=True, patience_seconds=1e9), StopState(), lambda: None, running)


def test_lost_ray_is_not_waited_for(stuck):
    ray, clock = FakeRay(lost=True, patience_seconds=5.0), Clock()
    with pytest.raises(RayGone, match="daemons are gone"):
        supervise(stuck, ray, StopState(), clock.look, running, clock)
    assert ray.abandoned
    assert 5.0 < clock.now < 10.0


@pytest.mark.parametrize(
    ("started", "seconds", "told"),
    [
        (True, STOP_SECONDS, "does not answer"),
        (False, START_STOP_SECONDS, "^Ray had not started yet: nothing was trained$"),
    ],
)
def test_ray_that_does_not_end_when_asked_is_left_behind(stuck, started, seconds, told):
    assert LEAVE_SECONDS <= STOP_SECONDS / 2, "trials have less time to save themselves than Ray has to end"
    ray, clock = FakeRay(has_started=started), Clock(step_seconds=seconds / 4)
    with pytest.raises(RayGone, match=told):
        supervise(stuck, ray, StopState(reason="interrupted"), clock.look, running, clock)
    assert seconds < clock.now < 2 * seconds


def test_finalists_are_scored_for_as_long_as_it_takes_until_a_person_ends_the_sweep(stuck):
    clock, scoring = Clock(step_seconds=STOP_SECONDS), StopState(reason="budget", is_scoring=True)

    def look() -> None:
        clock.look()
        if clock.now > 3 * STOP_SECONDS:
            scoring.ask("interrupted", "interrupted")

    with pytest.raises(RayGone, match="does not answer"):
        supervise(stuck, FakeRay(), scoring, look, running, clock)
    assert clock.now > 4 * STOP_SECONDS and scoring.reason == "interrupted"


def test_ray_that_does_not_end_once_the_trials_are_over_is_left_behind_and_the_sweep_keeps_its_own_end(stuck):
    ray, clock = FakeRay(is_ending=True), Clock(step_seconds=10)
    assert supervise(stuck, ray, StopState(), clock.look, lambda: True, clock) == LEFT_BEHIND
    assert ray.abandoned

    def broken() -> None:
        raise ValueError("the raylet is gone")

    assert supervise(broken, FakeRay(lost=True), StopState(), lambda: None, lambda: True) == LEFT_BEHIND
    with pytest.raises(ValueError, match="raylet"):
        supervise(broken, FakeRay(), StopState(), lambda: None, lambda: True)


def test_ray_that_is_there_is_waited_for():
    clock, ended = Clock(step_seconds=1e6), threading.Event()

    def look() -> None:
        clock.look()
        if clock.now > 3e6:
            ended.set()

    def work() -> None:
        ended.wait(60)

    supervise(work, FakeRay(), StopState(), look, running, clock)
    assert clock.now > 3e6
