"""The broker on a real Ray: who gets a slot, and what becomes of hosts that die."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster import broker
from cluster.broker_answers import Lease, Ready
from cluster.connect import connected
from cluster.errors import LeaseOver
from cluster.hosts import HostOptions, SlotLimits
from trainables import toy
from trainables.contract import Opened
from trainables.objective import SortKey
from trainables.specs import TrialSpec

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

DEADLINE = 240.0
TOY = TrialSpec(trainable="toy", steps=100)
TRIALS = ("a", "b", "c", "d", "e")


def in_broker() -> Any:
    """A trial that calls hosts. It is defined here so that it travels: the broker cannot import this module."""

    class Calling:
        def __init__(self, owner: Any, *_words: Any) -> None:
            self.owner = owner

        async def answer(self, question: Any, wait_seconds: float) -> Any:
            host_id, method, *words = question

            async def ask(host: Any) -> Any:
                if method == "kill":
                    return ray.kill(host)
                asked = getattr(host, method).remote(*words)
                return await (asked[0] if isinstance(asked, list) else asked)

            return await self.owner.call(host_id, ask)

        async def end(self) -> None: ...

    return Calling


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
        asked = Asked(broker.create(TOY, limits, HostOptions(hosts=2), in_broker()))
        yield asked, asked.start(), asked.slots()


@pytest.fixture
def hired(shared):
    """The shared broker; no trial has a lease before or after."""
    yield shared[0]
    for trial in TRIALS:
        shared[0].vacate(trial)


def called(asked: Asked, lease: Lease, *question: Any) -> Any:
    return asked.next_result(lease.id, 1, (lease.host_id, *question), DEADLINE)


def opened(asked: Asked, lease: Lease) -> Any:
    return called(asked, lease, "open", lease.id, TOY.model_dump_json(), None)


def advanced(asked: Asked, lease: Lease, target: int) -> Any:
    return called(asked, lease, "advance", lease.id, target, SortKey(), 0, DEADLINE)


def test_start_says_what_hosts_and_slots_there_are(shared):
    _, ready, slots = shared
    assert isinstance(ready, Ready)
    assert ready.slots == slots == 4
    assert [(host.device, host.slots) for host in ready.hosts] == [("cpu", 2)] * 2
    assert len({host.pid for host in ready.hosts}) == 2
    assert ready.data == toy.prepare(TOY, Path("unused")).summary
    assert all((host.estimated_bytes or 0) > 0 for host in ready.hosts)


def test_slots_spread_over_the_hosts_and_go_to_who_waits_as_they_become_free(hired):
    leases = [hired.acquire(trial, DEADLINE) for trial in TRIALS[:4]]
    assert len({lease.id for lease in leases}) == 4
    assert len({lease.host_id for lease in leases[:2]}) == 2
    assert hired.acquire("e", 0.05) is None
    waiting = hired.handle.acquire.remote("e", DEADLINE)
    assert ray.wait([waiting], timeout=0.05)[0] == []
    hired.vacate("b")
    assert ray.get(waiting, timeout=DEADLINE).id.startswith("e")
    assert hired.acquire("b", 0.05) is None


def test_a_trial_trains_on_its_host_until_it_gives_its_slot_back(hired):
    first = hired.acquire("a", DEADLINE)
    assert opened(hired, first) == Opened(step=0, trainable_params=16_000)
    assert hired.latest() == {}
    outcome = advanced(hired, first, 3)
    assert (outcome.step, outcome.evaluation.loss) == (3, toy.loss_at(TOY, 3))
    assert (outcome.has_snapshot, outcome.snapshot) == (True, None), "the bytes travel apart"
    assert outcome.peak_memory_bytes > 0
    assert {key: step.step for key, step in hired.latest().items()} == {"a": 3}
    hired.vacate("a")
    second = hired.acquire("a", DEADLINE)
    opened(hired, second)
    assert advanced(hired, second, 3).step == 3
    with pytest.raises(LeaseOver):
        advanced(hired, first, 3)


def test_a_host_that_died_is_replaced_once_and_its_leases_are_gone(hired):
    leases = [hired.acquire(trial, DEADLINE) for trial in TRIALS[:4]]
    died, other = leases[:2]
    opened(hired, died)
    opened(hired, other)
    called(hired, died, "kill")
    with pytest.raises(ray.exceptions.RayActorError):
        while True:  # ray.kill returns before the process is gone
            advanced(hired, died, 3)
    again = hired.acquire("a", DEADLINE)
    assert again.host_id not in {lease.host_id for lease in leases}
    assert again.id != died.id
    assert opened(hired, again).step == 0
    assert advanced(hired, again, 3).step == 3
    assert advanced(hired, other, 3).step == 3, "the other host went on"
    assert hired.slots() == 4
    hired.acquire("c", DEADLINE)
    assert hired.acquire("e", 0.05) is None
