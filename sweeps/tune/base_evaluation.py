"""Where a sweep starts from: the base without an adapter, evaluated once, before the first trial's first step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray

from cluster.hosts import PROCESS_LOST
from trainables.contract import Evaluation, Failure

RETRY_SECONDS = 10.0
"""Pause after a host was lost over it, or there was none."""


class BaseEvaluation:
    """Asks the broker for it, and looks now and then whether the answer is there."""

    def __init__(self, broker: Any, tell: Callable[[Evaluation | Failure], None]) -> None:
        """Asks at once: what is asked of a host before its trials open is done first. `tell` is called once."""
        self._broker = broker
        self._tell = tell
        self._pending: Any = broker.evaluate_base.remote()
        self._again = 0.0
        """When to ask again, in monotonic seconds."""
        self._over = False

    def look(self, wait_seconds: float = 0.0) -> None:
        """Tells of the answer once it is there; waits for it as long as is said."""
        if self._over or time.monotonic() < self._again:
            return
        if self._pending is None:
            self._pending = self._broker.evaluate_base.remote()
        if not ray.wait([self._pending], timeout=wait_seconds)[0]:
            return
        try:
            answer: Evaluation | Failure | None = ray.get(self._pending)
        except PROCESS_LOST:
            answer = None  # The broker is being made anew.
        self._pending = None
        if answer is None:
            self._again = time.monotonic() + RETRY_SECONDS
            return
        self._over = True
        self._tell(answer)
