"""Seconds and bytes that pace a mirror, and why."""

from __future__ import annotations

EVERY_SECONDS = 2.0
"""Seconds between two looks at the folder: a lost machine costs this time, and the time that sending takes."""
LONGEST_PAUSE_SECONDS = 15.0
"""Longest pause between two tries while the store does not answer; the first pause is `EVERY_SECONDS`."""
PATIENCE_SECONDS = 3.0
"""Seconds after which a drain says that it waits."""
SETTLED_SECONDS = 1.0
"""Seconds after a change for which a trial's folder is looked at again: its time is only exact to a tick."""

RENEW_SECONDS = 30.0
"""Seconds between two renewals of the manifest: two may fail before a living driver is taken for dead."""
SILENT_SECONDS = 120.0
"""Age of a manifest from which its driver is taken for dead: `resume` elsewhere then needs no `--take-over`."""

BULK_SECONDS = 300.0
"""Maximum seconds for the transfer of one part of a file."""
PART_BYTES = 8 << 20
"""Bytes of a part of a file. A larger file is sent in parts, so that no file is in memory as a whole."""
PARALLEL_TRANSFERS = 4
"""Objects that are sent or read at once, and parts of each: at most 128 MB of memory."""
LOG_PART_BYTES = 1 << 20
"""Bytes of a part of the event log. The last part grows, and is sent again with its new events."""
