"""What the driver says of hosts and broker between the steps of Ray Tune, with a broker that is no Ray actor."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fake_actors import FakeCalls, actor
from ray.exceptions import ActorDiedError, ActorUnavailableError
from sweep_events import begun, hosts, reported, started
from sweep_files import toy

from cluster.broker_answers import News, Ready
from cluster.hosts import HostFacts
from sweeps.record.events import HostsChanged, RequestAnswered, TrialParked, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal
from sweeps.steering.stop import StopState
from sweeps.supply.target_modules import Targets
from sweeps.tune.host_news import StartedHosts
from sweeps.tune.sweep_trials import SweepTrials
from sweeps.tune.watch import Watch
from trainables.contract import Summary

LOST = "the broker is lost: another is made, and trials go on"

READY = Ready(
    data=Summary(fingerprint="1", train_rows=4, eval_rows=2),
    hosts=(HostFacts(pid=1, node="", device="cpu", slots=1, estimated_bytes=None),),
)


class World:
    """A watch with its clock, what it said, and what it told the broker."""

    def __init__(self, folder: SweepFolder) -> None:
        self.calls, self.said, self.asked = FakeCalls(), list[str](), 0
        self.held, self.broker = 2, "first"
        self.error: Exception = ActorDiedError()
        """What a broker that is lost answers."""
        self.is_lost, self.lines, self.wanted = False, list[str](), list[object]()
        self.told: list[tuple[object, ...]] = []
        """What the broker was told while it was there."""
        self.live, self.stop = 2, StopState()
        self.journal = Journal(folder)
        for event in (begun(), hosts()):
            self.journal.add(event)
        self.counted: list[tuple[int, int, int | None]] = []
        """Hosts, slots and hosts that hold a GPU, by each event about them."""
        self.journal.listen(self._count)
        config, _ = toy(searcher={"kind": "random", "start_with_default": False}, scheduler={"grace_steps": 3})
        self.trials = SweepTrials(config, self.journal, folder, self.stop, lambda: 5.0)
        broker = actor(
            news=self._news, standing=lambda: (2, 8, self.held, ()), latest=dict, want=self.wanted.append,
            stop=lambda: self._tell("stop"), stop_trial=lambda key: self._tell("stop_trial", key),
        )  # fmt: skip
        display: Any = SimpleNamespace(say=self.said.append, latest=lambda _steps: None)
        started = StartedHosts(READY, broker, Targets(), "auto", lines_said=0)
        self.watch = Watch(started, self.trials, lambda: self.live, display, (), self.calls)

    def want(self, hosts: int | None) -> None:
        """Somebody has asked for so many hosts; for as many as there are, where it is None."""
        answered = RequestAnswered(
            time=9.0, request=f"{len(self.journal.record.answered)}", sender="me", asked="set", is_accepted=True,
            message="", changes={"cluster.hosts": hosts or "auto"},
        )  # fmt: skip
        self.journal.add(answered)

    def _count(self, event: object, _record: object) -> None:
        if isinstance(event, HostsChanged):
            self.counted.append((event.hosts, event.slots, event.held))

    def _tell(self, *words: object) -> None:
        if not self.is_lost:
            self.told.append(words)

    def _news(self, known: int, wait_seconds: float) -> object:
        self.asked += 1
        return self.error if self.is_lost else News(self.broker, self.lines[known:])

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            assert not self.watch.stop_all()
            self.calls.time += 0.1


@pytest.fixture
def world(tmp_path) -> World:
    return World(SweepFolder(tmp_path))


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
    world.lines = ["host lost A", "host started B"]
    world.want(2)
    world.run(1.0)
    world.error, world.is_lost = ActorUnavailableError("the connection broke", None), True
    world.run(1.0)
    world.is_lost, world.lines = False, [*world.lines, "host started C"]
    world.want(None)
    world.run(3.0)
    away = "the broker is lost, or out of reach for a moment: when another is made, trials go on"
    assert world.said == ["host lost A", "host started B", away, "host started C"]
    assert world.wanted == [2, "auto"]


def test_all_that_another_broker_says_is_said_though_ray_called_the_old_one_unavailable(world):
    lines = ["hosts started: 1 host", "host started B"]
    world.lines = ["host lost A", "host started B"]
    world.run(1.0)
    world.error, world.is_lost = ActorUnavailableError("it restarts", None), True
    world.run(1.0)
    world.is_lost, world.lines, world.broker = False, lines, "second"
    world.run(3.0)
    assert world.said[3:] == lines


def test_the_log_has_how_many_hosts_hold_a_gpu_though_no_line_says_that_one_loads(world):
    world.held = 3
    world.run(20.0)
    assert world.said == []
    assert world.counted == [(2, 8, 3)]
    world.is_lost, world.held = True, 4
    world.run(100.0)
    assert world.counted == [(2, 8, 3)], "nobody is there to be asked"


def test_another_broker_hears_of_the_stops_that_were_asked_for_while_none_was_there(world):
    world.is_lost = True
    world.run(0.2)
    world.trials.to_stop.add("k3")
    world.stop.ask("interrupted", "interrupted")
    world.live = 1
    world.run(0.2)
    assert world.told == [], "nobody is there"
    world.is_lost = False
    world.run(2.0)
    assert set(world.told) == {("stop",), ("stop_trial", "k3")}


def test_a_parked_trial_that_somebody_stops_ends_without_the_broker(world):
    for event in (started("a"), reported("a", 3, 1.0), TrialParked(time=1.0, trial_key="a", step=3)):
        world.journal.add(event)
    world.trials.to_stop.add("a")
    world.run(0.2)
    assert (world.told, world.trials.to_stop) == ([], set())
    assert world.journal.record.trials["a"].state is TrialState.STOPPED


def test_the_broker_is_told_once_how_many_hosts_are_wanted_and_another_broker_again(world):
    world.run(1.0)
    assert world.wanted == []
    world.want(2)
    world.run(1.0)
    world.is_lost = True
    world.run(3.0)
    assert world.wanted == [2], "nobody is there to be told again"
    world.is_lost = False
    world.run(11.0)
    assert world.wanted == [2, 2]


def test_a_sweep_that_is_asked_to_end_waits_for_long_steps_and_says_how_many_did_not_end(world):
    world.stop.ask("interrupted", "interrupted")
    world.run(100.0)
    world.live = 1
    world.run(19.0)
    assert world.said == []
    world.calls.time += 2.0
    assert world.watch.stop_all() and world.watch.stop_all()
    assert world.said == [
        "1 trial was not saved within 120 s: what may have been trained since the last snapshot is lost"
    ], "once"
