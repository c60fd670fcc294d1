"""What the driver writes down of its hosts, and what it says of them."""

from __future__ import annotations

from pathlib import Path

from sweep_events import begun, hosts, started

from cluster.pace import Silent
from sweeps.record.events import HostsChanged
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal
from sweeps.tune.host_news import tell_changes

HANGS = Silent(pid=7, node="10.0.0.1", trials=("aaa",), what="step", usual=2.0, since=100.0)


def test_a_host_that_may_hang_is_told_once_and_written_down_until_it_goes_on(tmp_path: Path) -> None:
    journal, said = Journal(SweepFolder(tmp_path)), list[str]()
    for event in (begun(), hosts(), started("aaa")):
        journal.add(event)

    def tell(time: float, *silent: Silent) -> int:
        tell_changes(HostsChanged(time=time, hosts=1, slots=2, held=1, silent=silent), journal, said.append)
        return journal.log.length

    assert tell(700.0) == tell(750.0), "nothing has changed"
    found = tell(800.0, HANGS)
    assert len(said) == 1
    assert said[0].startswith("warning: the host of t00 (process 7 on 10.0.0.1) may hang: for 11 min 40 s its step")
    assert tell(805.0, HANGS.model_copy(update={"since": 100.1, "trials": ()})) == found
    assert Journal(SweepFolder(tmp_path)).record.hosts.silent == (HANGS,)
    tell(900.0)
    assert journal.record.hosts.silent == ()
    tell(2000.0, HANGS.model_copy(update={"since": 1000.0}))
    assert len(said) == 2, "it hangs once more"
    journal.close()
