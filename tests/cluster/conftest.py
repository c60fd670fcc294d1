"""A host's training loop that ends with its test, and tests that are coroutines."""

from __future__ import annotations

import asyncio
import inspect
import time

import pytest

from cluster.loop import PackLoop


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a test that is a coroutine, in an event loop of its own, for half a minute at most."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    scene = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    asyncio.run(asyncio.wait_for(scene, 30))
    return True


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
