"""A host that may hang is told with its trials, what is usual, and the way out."""

from __future__ import annotations

import pytest
from sweep_events import begun, hosts, started

from cluster.pace import Silent
from sweeps.record.sweep_record import SweepRecord
from sweeps.report.silent_hosts import warning

HANGS = Silent(pid=7, node="10.0.0.1", trials=("bbb", "ccc", "aaa"), what="step", usual=21.0, since=100.0)


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (HANGS, "for 12 min 00 s its step has not ended, and the slowest so far took 21 s."),
        (HANGS.model_copy(update={"what": "evaluation", "usual": None}), "its first evaluation has not ended."),
        (HANGS.model_copy(update={"what": "answer", "usual": None}), "it answers no call."),
    ],
)
def test_what_is_said_of_a_host_that_may_hang(host: Silent, said: str) -> None:
    record = SweepRecord()
    for event in (begun(), hosts(), started("aaa", 0), started("bbb", 11), started("ccc", 100)):
        record = record.apply(event)
    line = warning(host, record, 820.0)
    assert line.startswith("the host of t00, t11, t100 (process 7 on 10.0.0.1) may hang: ")
    assert said in line
    assert "kill -9 7" in line
