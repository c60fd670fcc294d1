"""A host's training loop that ends with its test."""

from __future__ import annotations

import time

import pytest

from cluster.loop import PackLoop


@pytest.fixture
def started():
    """Starts a loop on a pack; it is stopped after the test, whatever became of it."""
    loops = []

    def start(pack, slots: int = 2, clock=time.monotonic) -> PackLoop:
        loops.append((PackLoop(pack, slots, clock), pack))
        return loops[-1][0]

    yield start
    for loop, pack in loops:
        for gate in getattr(pack, "gates", {}).values():
            gate.open()
        loop.stop()
