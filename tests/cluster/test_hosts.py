"""What a host does beside its loop, without Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from cluster.hosts import Host
from trainables.engine_paths import EnginePath, Settled
from trainables.specs import TrialSpec


def test_a_host_that_has_prepared_tests_its_paths_no_second_time():
    settled = Settled(path=EnginePath(engine="flat", residency="4bit"), pass_tokens=9)
    settle_path = Mock(return_value=settled)
    host: Any = SimpleNamespace(
        _settled=None, _base=TrialSpec(steps=1), _trainable=SimpleNamespace(settle_path=settle_path)
    )
    assert [Host._settle(host, b""), Host._settle(host, b"")] == [settled, settled]
    settle_path.assert_called_once()
    assert (host._base.training.engine, host._base.training.pass_tokens) == ("flat", 9)
