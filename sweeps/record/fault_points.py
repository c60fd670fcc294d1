"""Named points, between two steps of a write, at which a test can kill this process."""

from __future__ import annotations

import os

VARIABLE = "QSWEEP_FAULT"


def point(name: str) -> None:
    """Ends this process as SIGKILL would, if QSWEEP_FAULT names this point."""
    if os.environ.get(VARIABLE) == name:
        os._exit(137)
