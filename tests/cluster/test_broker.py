"""The broker on a real Ray: who gets a slot, and what becomes of hosts that die."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from cluster import broker
from cluster.connect import connected
from cluster.errors import LeaseOver
from cluster.hosts import HostOptions, SlotLimits
from cluster.leases import Grant, Ready
from trainables import toy
from trainables.contract import Opened
from trainables.objective import Standing
from trainables.specs import TrialSpec

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

DEADLINE = 240.0
TOY = TrialSpec(trainable="toy", steps=100)
TRIALS = ("a", "b", "c", "d", "e")


class Asked:
    """A broker whose methods are called and awaited."""

    def __init__(self, handle) -> None:
        self.handle = handle

    def __getattr__(self, method: str) -> Callable:
        return lambda *arguments: ray.get(getattr(self.handle, method).remote(*arguments), timeout=DEADLINE)


@pytest.fixture(scope="module")
def shared():
    """One broker with two hosts of two slots, in a Ray of these tests' own, what its start said, and its slots then."""
    with connected("local", "tests"):
        limits = SlotLimits(slots=2, at_most=4, largest=(TOY,))
        asked = Asked(broker.create(TOY, limits, HostOptions(hosts=2)))
        yield asked, asked.start(), asked.slots()


@pytest.fixture
def hired(shared):
    """The shared broker; no trial has a lease before or after."""
    yield shared[0]
    for trial in TRIALS:
        shared[0].release(trial)


def opened(grant: Grant):
    return ray.get(grant.host.open.remote(grant.lease, TOY.model_dump_json(), None), timeout=DEADLINE)


def advanced(grant: Grant, target: int):
    return ray.get(grant.host.advance.remote(grant.lease, target, Standing(), 0, DEADLINE), timeout=2 * DEADLINE)


def test_start_says_what_hosts_and_slots_there_are(shared):
    _, ready, slots = shared
    assert isinstance(ready, Ready)
    assert ready.slots == slots == 4
    assert [(host.device, host.slots) for host in ready.hosts] == [("cpu", 2)] * 2
    assert len({host.pid for host in ready.hosts}) == 2
    assert ready.data == toy.prepare(TOY, Path("unused")).summary
    assert all((host.estimated_bytes or 0) > 0 for host in ready.hosts)


def test_slots_spread_over_the_hosts_and_go_to_who_waits_as_they_become_free(hired):
    grants = [hired.acquire(trial, DEADLINE) for trial in TRIALS[:4]]
    assert len({grant.lease for grant in grants}) == 4
    assert len({grant.host_id for grant in grants[:2]}) == 2
    assert hired.acquire("e", 0.05) is None
    waiting = hired.handle.acquire.remote("e", DEADLINE)
    assert ray.wait([waiting], timeout=0.05)[0] == []
    hired.release("b")
    assert ray.get(waiting, timeout=DEADLINE).lease.startswith("e")
    assert hired.acquire("b", 0.05) is None


def test_a_lease_trains_on_its_host_and_is_over_once_its_trial_asks_again(hired):
    first = hired.acquire("a", DEADLINE)
    assert opened(first) == Opened(step=0, trainable_params=16_000)
    assert hired.latest() == {}
    outcome = advanced(first, 3)
    assert (outcome.step, outcome.evaluation.loss) == (3, toy.loss_at(TOY, 3))
    assert outcome.peak_memory_bytes > 0
    assert {key: step.step for key, step in hired.latest().items()} == {"a": 3}
    second = hired.acquire("a", DEADLINE)
    opened(second)
    assert advanced(second, 3).step == 3
    with pytest.raises(LeaseOver):
        advanced(first, 3)


def test_a_host_that_died_is_replaced_once_and_its_leases_are_gone(hired):
    grants = [hired.acquire(trial, DEADLINE) for trial in TRIALS[:4]]
    died, other = grants[:2]
    opened(died)
    opened(other)
    ray.kill(died.host)
    until = time.monotonic() + DEADLINE
    try:
        with pytest.raises(ray.exceptions.RayActorError):
            while time.monotonic() < until:  # ray.kill returns before the process is gone
                advanced(died, 3)
    finally:  # other tests use the broker too
        ray.get([hired.handle.lost.remote(died.host_id) for _ in range(2)], timeout=DEADLINE)
    again = hired.acquire("a", DEADLINE)
    assert again.host_id not in {grant.host_id for grant in grants}
    assert again.lease != died.lease
    assert opened(again).step == 0
    assert advanced(again, 3).step == 3
    with pytest.raises(LeaseOver):
        ray.get(again.host.advance.remote(died.lease, 3, Standing(), 0, 0.0), timeout=DEADLINE)
    assert advanced(other, 3).step == 3, "the other host went on"
    assert hired.slots() == 4
    hired.acquire("c", DEADLINE)
    assert hired.acquire("e", 0.05) is None
