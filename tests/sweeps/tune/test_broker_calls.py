"""What a trial's process makes of what hosts and the broker answer; without Ray."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from cluster.errors import LeaseOver
from cluster.leases import Grant
from sweeps.tune import broker_calls


def test_a_lease_that_was_over_before_it_was_opened_is_no_failure_of_the_trial(monkeypatch):
    def get(asked: object) -> object:
        raise LeaseOver("the lease a-1 was over before it was opened")

    monkeypatch.setattr(broker_calls.ray, "wait", lambda asked, timeout: (asked, []))
    monkeypatch.setattr(broker_calls.ray, "get", get)
    monkeypatch.setattr(broker_calls, "RETRY_SECONDS", 0.0)
    host = SimpleNamespace(open=SimpleNamespace(remote=lambda *_: object()))
    assert broker_calls.open_lease(Grant("a-1", "host-1", host), "{}", None, lambda: True) is None


@pytest.mark.parametrize(
    ("error", "is_away", "told", "goes_on"),
    [
        (ActorDiedError(), False, "lost", False),
        (ActorUnavailableError("the connection broke", None), False, "not_reached", True),
        (ActorUnavailableError("the connection broke", None), True, "not_reached", False),
        (ActorDiedError(), True, "not_reached", False),
    ],
)
def test_a_host_that_cannot_be_reached_is_not_called_lost_as_long_as_it_may_be_there(
    monkeypatch, error, is_away, told, goes_on
):
    monkeypatch.setattr(broker_calls, "RETRY_SECONDS", 0.0)
    asked: list[tuple[str, ...]] = []
    keeps = broker_calls.tell_lost(lambda *words: asked.append(words), "host-1", error, is_away)
    assert (asked, keeps) == ([(told, "host-1")], goes_on)
