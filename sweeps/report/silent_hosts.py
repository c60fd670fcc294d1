"""What people read of a host that may hang. Pure."""

from __future__ import annotations

from cluster.pace import Silent
from sweeps.config.number_words import duration
from sweeps.record.run_names import label
from sweeps.record.sweep_record import SweepRecord


def warning(host: Silent, record: SweepRecord, now: float) -> str:
    """Which host, for how long, what is usual, and the way out; `now` is in seconds since the epoch."""
    numbers = sorted(record.trials[key].number for key in host.trials if key in record.trials)
    trials = ", ".join(map(label, numbers))
    if host.what == "answer":
        found = "it answers no call"
    elif host.usual is None:
        found = f"its first {host.what} has not ended"
    else:
        found = f"its {host.what} has not ended, and the slowest so far took {duration(max(1.0, host.usual))}"
    return (
        f"the host of {trials or 'no trial'} (process {host.pid} on {host.node}) may hang: for "
        f"{duration(now - host.since)} {found}. If its GPU or its disk hangs, end it there (kill -9 {host.pid}): "
        "another is made, and its trials go on from their last snapshots"
    )
