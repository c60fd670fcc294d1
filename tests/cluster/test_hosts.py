"""What a host does beside its loop, without Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cluster.hosts import Host
from trainables.engine_paths import EnginePath, Settled
from trainables.specs import TrialSpec


def test_a_host_that_has_prepared_tests_its_paths_no_second_time() -> None:
    path, asked = EnginePath(engine="flat", residency="4bit"), list[TrialSpec]()
    settled = Settled(path=path, pass_tokens=9)

    def settle_path(base: TrialSpec, _data: bytes, _cache: object) -> Settled | None:
        asked.append(base)
        return settled

    host: Any = SimpleNamespace(
        _settled=None, _base=TrialSpec(steps=1), _trainable=SimpleNamespace(settle_path=settle_path)
    )
    assert [Host._settle(host, b""), Host._settle(host, b"")] == [settled, settled]
    assert len(asked) == 1
    assert (host._base.training.engine, host._base.training.pass_tokens) == ("flat", 9)
