"""The seconds and bytes that pace a mirror, and why."""

from __future__ import annotations

from sweeps.config import environment

EVERY_SECONDS = 2.0
"""Pause between two looks at the folder: what a lost machine costs, beside the time that sending takes."""
LONGEST_PAUSE_SECONDS = 15.0
"""Between two tries while the store does not answer; the first pause is `EVERY_SECONDS`."""
PATIENCE_SECONDS = 3.0
"""After so long, a drain says that it waits."""
SETTLED_SECONDS = 1.0
"""A trial's folder that was changed less long ago is looked at again: its clock does not tell two changes in a tick."""

LEASE_SECONDS = environment.number("QSWEEP_LEASE_SECONDS", 60.0, 1.0, 3600.0)
"""How long another driver waits before it takes over from one that is not heard of."""
RENEWALS = 4
"""How often a lease is renewed while it lasts: two renewals may fail without a driver that is taken for dead."""
LOOK_SECONDS = 1.0
"""Pause between two looks at another driver's lease."""

BULK_SECONDS = 300.0
"""How long the transfer of one part of a file may take."""
PART_BYTES = 8 << 20
"""A larger file is sent in parts, so that it is never in memory as a whole."""
AT_ONCE = 4
"""Objects that are sent or read at once, and parts of each: 128 MB of memory at most."""
LOG_PART_BYTES = 1 << 20
"""Bytes of a part of the event log. The last part, which grows, is sent again with what is new."""
