"""What the driver says of hosts and broker between the steps of Ray Tune, with a broker that is no Ray actor."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from sweeps.tune import watch
from sweeps.tune.watch import Watch

LOST = "the broker is lost: another is made, and trials lease again"


class World:
    """A watch with its clock, what it said, and what it told the driver of hosts."""

    def __init__(self) -> None:
        self.now, self.said, self.hosts, self.asked = 0.0, list[str](), list[tuple[object, ...]](), 0
        self.held = 2
        self.error: Exception = ActorDiedError()
        """What a broker that is lost answers."""
        self.is_lost, self.lines, self.wanted = False, list[str](), list[object]()
        broker = SimpleNamespace(
            news=SimpleNamespace(remote=self._news),
            standing=SimpleNamespace(remote=lambda: (2, 8, self.held, ())),
            latest=SimpleNamespace(remote=dict),
            want=SimpleNamespace(remote=self.wanted.append),
            stop=SimpleNamespace(remote=lambda: None),
        )
        display = SimpleNamespace(say=self.said.append, latest=lambda _steps: None)
        self.driver = SimpleNamespace(
            trials_to_stop=set(),
            hosts_changed=lambda *told: self.hosts.append(told),
            hosts_at_start="auto",
            hosts_wanted="auto",
            lines_said=0,
        )
        self.request, self.queue = SimpleNamespace(check=lambda: None), SimpleNamespace(live=2)
        self.watch = Watch(self.request, broker, self.queue, display, None, self.driver)  # type: ignore[arg-type]

    def _news(self, known: int, wait_seconds: float) -> object:
        self.asked += 1
        return self.error if self.is_lost else self.lines[known:]

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            assert not self.watch.stop_all()
            self.now += 0.1


def get(answer: object) -> object:
    if isinstance(answer, Exception):
        raise answer
    return answer


@pytest.fixture
def world(monkeypatch) -> World:
    found = World()
    monkeypatch.setattr(watch.ray, "wait", lambda asked, timeout: (asked, []))
    monkeypatch.setattr(watch.ray, "get", get)
    monkeypatch.setattr(watch.time, "monotonic", lambda: found.now)
    return found


def test_a_broker_that_stays_away_is_told_of_once_and_asked_for_less_and_less_often(world):
    world.is_lost = True
    world.run(7.0)
    assert world.said == [LOST]
    assert world.asked <= 5
    world.run(100.0)
    assert world.said == [LOST]
    assert world.asked <= 16
    world.is_lost, world.lines = False, ["hosts started: 2 hosts, 8 slots"]
    world.run(11.0)
    assert world.said == [LOST, "hosts started: 2 hosts, 8 slots"]
    world.is_lost = True
    world.run(0.2)
    assert world.said[-1] == LOST, "the next loss is news again"


def test_a_broker_that_was_out_of_reach_repeats_no_line_and_is_told_again_what_is_wanted(world):
    world.lines, world.driver.hosts_wanted = ["host lost A", "host started B"], 2
    world.run(1.0)
    world.error, world.is_lost = ActorUnavailableError("the connection broke", None), True
    world.run(1.0)
    world.is_lost, world.lines, world.driver.hosts_wanted = False, [*world.lines, "host started C"], "auto"
    world.run(3.0)
    away = "the broker is lost, or out of reach for a moment: when another is made, trials lease again"
    assert world.said == ["host lost A", "host started B", away, "host started C"]
    assert world.wanted == [2, "auto"]


@pytest.mark.parametrize("lines", [["hosts started: 1 host"], ["hosts started: 1 host", "host lost D"]])
def test_all_that_another_broker_says_is_said_though_ray_called_the_old_one_unavailable(world, lines):
    world.lines = ["host lost A", "host started B"]
    world.run(1.0)
    world.error, world.is_lost = ActorUnavailableError("it restarts", None), True
    world.run(1.0)
    world.is_lost, world.lines = False, lines
    world.run(3.0)
    assert world.said[3:] == lines


def test_what_was_said_of_the_start_is_not_said_again(world):
    world.lines = ["a host died while it started: it was killed; another is made"]
    world.driver.lines_said = 1
    world.watch = Watch(world.request, world.watch._broker, world.queue, world.watch._display, None, world.driver)
    world.run(1.0)
    assert world.said == []
    world.lines.append("host started (process 1 on 10.0.0.1): 2 hosts, 8 slots")
    world.run(1.0)
    assert world.said == world.lines[1:]


def test_the_driver_is_told_how_many_hosts_there_are_after_each_line_about_them(world):
    world.run(0.5)
    assert world.hosts == []
    world.lines = ["host started (process 1 on 10.0.0.1): 2 hosts, 8 slots"]
    world.run(0.5)
    assert (world.said, world.hosts) == (world.lines, [(2, 8, 2, ())])


def test_the_driver_is_told_how_many_hosts_hold_a_gpu_though_no_line_says_that_one_loads(world):
    world.held = 3
    world.run(20.0)
    assert world.said == []
    assert world.hosts[-1] == (2, 8, 3, ())
    assert len(world.hosts) <= 5, "asked now and then"
    world.is_lost = True
    world.run(1.0)
    asked = len(world.hosts)
    world.run(100.0)
    assert len(world.hosts) == asked, "nobody is there to be asked"


def test_another_broker_hears_of_the_stops_that_were_asked_for_while_none_was_there(world):
    told: list[tuple[object, ...]] = []

    def tell(*words: object) -> None:
        if not world.is_lost:
            told.append(words)

    broker = world.watch._broker
    broker.stop_trial, broker.stop = SimpleNamespace(remote=tell), SimpleNamespace(remote=tell)
    world.driver.stop_parked = lambda trial_key: False
    world.is_lost = True
    world.run(0.2)
    world.driver.trials_to_stop.add("k3")
    world.watch._stop.check = lambda: "interrupted"
    world.watch._queue = SimpleNamespace(live=1)
    world.run(0.2)
    assert told == [], "nobody is there"
    world.is_lost = False
    world.run(2.0)
    assert set(told) == {(), ("k3",)}


def test_the_broker_is_told_once_how_many_hosts_are_wanted_and_another_broker_again(world):
    world.run(1.0)
    assert world.wanted == []
    world.driver.hosts_wanted = 2
    world.run(1.0)
    assert world.wanted == [2]
    world.is_lost = True
    world.run(3.0)
    assert world.wanted == [2], "nobody is there to be told"
    world.is_lost = False
    world.run(11.0)
    assert world.wanted == [2, 2]


def test_a_sweep_that_is_asked_to_end_waits_for_long_steps_and_says_how_many_did_not_end(world):
    world.request.check = lambda: "interrupted"
    world.run(100.0)
    world.queue.live = 1
    world.run(19.0)
    assert world.said == []
    world.now += 2.0
    assert world.watch.stop_all()
    assert world.watch.stop_all()
    assert world.said == [
        "1 trial was not saved within 120 s: what may have been trained since the last snapshot is lost"
    ], "once"


def test_a_sweep_whose_trials_are_saved_ends_at_once(world):
    world.request.check, world.queue.live = lambda: "interrupted", 0
    assert world.watch.stop_all()
    assert world.said == []
