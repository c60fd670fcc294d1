"""How a trial's process asks the broker, and says what went wrong."""

from __future__ import annotations

import threading
import time
from typing import Any

import ray

from cluster.hosts import PROCESS_LOST
from trainables.inputs.legible import legible

RETRY_SECONDS = 0.5
BROKER_SECONDS = 120.0
"""How long to wait for a broker that died to be made anew."""


def ask(broker: Any, method: str, *arguments: Any) -> Any:
    """The broker's answer; while Ray makes a broker that died anew, asks again."""
    deadline = time.monotonic() + BROKER_SECONDS
    while True:
        try:
            return ray.get(getattr(broker, method).remote(*arguments))
        except PROCESS_LOST:
            if time.monotonic() > deadline:
                raise
            threading.Event().wait(RETRY_SECONDS)


def last_words(error: Exception) -> str:
    """The exception's kind and the last line of its text, if it has any."""
    lines = str(error).strip().splitlines()
    return legible(f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__)
