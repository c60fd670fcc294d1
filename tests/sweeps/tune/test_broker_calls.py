"""What a trial's process makes of what hosts and the broker answer; without Ray."""

from __future__ import annotations

from types import SimpleNamespace

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
