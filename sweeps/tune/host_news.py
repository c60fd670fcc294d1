"""A sweep's hosts, as the driver tells of them: what happens while they start, and what changes afterwards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray

from cluster.hosts import PROCESS_LOST
from cluster.leases import Ready
from sweeps.record.events import HostsChanged, HostsStarted
from sweeps.record.journal import Journal
from sweeps.report.silent_hosts import warning


class StartNews:
    """Says each line that the broker has about hosts that start or die."""

    def __init__(self, broker: Any, say: Callable[[str], None]) -> None:
        """Nothing said; `say` takes one line."""
        self._broker, self._say = broker, say
        self.said = 0
        """So many of the broker's lines were said."""
        self._asked: Any = None

    def look(self) -> None:
        """Says what has come since the last look, and asks for more; never waits."""
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            asked, self._asked = self._asked, None
            with suppress(*PROCESS_LOST):  # Whoever waits for the broker's answer sees that too.
                lines = ray.get(asked)
                self.said += len(lines)
                for line in lines:
                    self._say(line)
        if self._asked is None:
            self._asked = self._broker.news.remote(self.said, 0.0)

    def begin_anew(self) -> None:
        """The broker was lost: another one counts its lines from the beginning."""
        self.said, self._asked = 0, None


def hosts_started(answer: Ready, since: float, time: float) -> HostsStarted:
    """The event for hosts that were asked for at `since` and are ready at `time`, in seconds since the epoch."""
    first = answer.hosts[0]
    return HostsStarted(
        time=time,
        since=since,
        hosts=len(answer.hosts),
        slots=answer.slots,
        held=max(answer.held, len(answer.hosts)),
        held_seconds=answer.held_seconds,
        device=first.device,
        gpus_per_host=max(1, len(first.gpu_ids)),
        engine=first.engine,
    )


def tell_changes(now: HostsChanged, journal: Journal, say: Callable[[str], None]) -> None:
    """Adds what has changed to the journal, and says of each host that may hang, once."""
    known = journal.record.hosts
    if known is None:
        return
    before = {(host.node, host.pid): host for host in known.silent}
    # As it was found first: since when it is silent is measured anew each time, and comes out a little different.
    now = now.model_copy(update={"silent": tuple(before.get((each.node, each.pid), each) for each in now.silent)})
    for host in now.silent:
        if (host.node, host.pid) not in before:
            say(f"warning: {warning(host, journal.record, now.time)}")
    if (now.hosts, now.slots, now.held, now.silent) != (known.hosts, known.slots, known.holding, known.silent):
        journal.add(now)
