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
from cluster.leases import Grant, NotReady, Ready
from trainables import toy
from trainables.contract import Opened
from trainables.objective import Standing
from trainables.specs import TrialSpec

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

DEADLINE = 240.0
TOY = TrialSpec(trainable="toy", steps=100)
FAULTY = """
from trainables.errors import DataError
from trainables.toy import *


def prepare(base, cache):
    raise DataError("data.train: rows.jsonl has no rows")
"""


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    """A Ray of these tests' own. Its processes also import from the folder that it was started in."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "faulty").mkdir()
    (folder / "faulty" / "rows.py").write_text(FAULTY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with connected("local", "tests"):
            yield


class Asked:
    """A broker whose methods are called and awaited."""

    def __init__(self, handle) -> None:
        self.handle = handle

    def __getattr__(self, method: str) -> Callable:
        return lambda *arguments: ray.get(getattr(self.handle, method).remote(*arguments), timeout=DEADLINE)


def limits(slots: int) -> SlotLimits:
    return SlotLimits(slots=slots, at_most=4, largest=(TOY,))


@pytest.fixture(scope="module")
def shared(cluster):
    """One broker with two hosts of two slots, for tests that leave it as it was."""
    handle = broker.create(TOY, limits(2), HostOptions(hosts=2))
    yield Asked(handle), ray.get(handle.start.remote(), timeout=DEADLINE)
    ray.kill(handle)


TRIALS = ("a", "b", "c", "d", "e")


@pytest.fixture
def hired(shared):
    """The shared broker; no trial has a lease before or after."""
    yield shared[0]
    for trial in TRIALS:
        shared[0].release(trial)


@pytest.fixture
def make(cluster, monkeypatch):
    """Makes brokers that a test may harm."""
    handles = []

    def make(base: TrialSpec = TOY, hosts: int = 1, slots: int = 2) -> Asked:
        monkeypatch.setattr(broker, "NAME", f"harmed-{time.monotonic()}")
        handles.append(broker.create(base, limits(slots), HostOptions(hosts=hosts)))
        return Asked(handles[-1])

    yield make
    for handle in handles:
        ray.kill(handle)


def opened(grant: Grant, trial: TrialSpec = TOY):
    return ray.get(grant.host.open.remote(grant.lease, trial.model_dump_json(), None), timeout=DEADLINE)


def advanced(grant: Grant, target: int):
    return ray.get(grant.host.advance.remote(grant.lease, target, Standing(), 0, DEADLINE), timeout=2 * DEADLINE)


def test_start_says_what_hosts_and_slots_there_are(shared):
    asked, ready = shared
    assert isinstance(ready, Ready)
    assert ready.slots == asked.slots() == 4
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


def test_a_host_that_died_is_replaced_once_and_its_leases_are_gone(make):
    asked = make(hosts=2, slots=1)
    asked.start()
    grant = asked.acquire("a", DEADLINE)
    other = asked.acquire("b", DEADLINE)
    opened(grant)
    opened(other)
    ray.kill(grant.host)
    until = time.monotonic() + DEADLINE
    with pytest.raises(ray.exceptions.RayActorError):
        while time.monotonic() < until:  # ray.kill returns before the process is gone
            advanced(grant, 3)
    ray.get([asked.handle.lost.remote(grant.host_id) for _ in range(2)], timeout=DEADLINE)
    again = asked.acquire("a", DEADLINE)
    assert again.host_id not in (grant.host_id, other.host_id)
    assert again.lease != grant.lease
    assert opened(again).step == 0
    assert advanced(again, 3).step == 3
    with pytest.raises(LeaseOver):
        ray.get(again.host.advance.remote(grant.lease, 3, Standing(), 0, 0.0), timeout=DEADLINE)
    assert advanced(other, 3).step == 3, "the other host went on"
    assert asked.slots() == 2
    assert asked.acquire("c", 0.05) is None


def test_a_mistake_in_the_data_is_told_in_the_trainables_own_words(make):
    answer = make(TOY.model_copy(update={"trainable": "faulty.rows"})).start()
    assert isinstance(answer, NotReady)
    assert answer.message == "data.train: rows.jsonl has no rows"
