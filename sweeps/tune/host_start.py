"""The start of a sweep's hosts, as the driver tells of it: what happens meanwhile, and what is known at its end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray

from cluster.hosts import PROCESS_LOST
from cluster.leases import Ready
from sweeps.record.events import HostsStarted


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
