"""The training loop of a host when it breaks or is stopped: every call that waits or comes later says so."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from functools import partial

import pytest
from pack_loops import CUDA_ERROR, DEADLINE, NONE, GatedPack, ask, failing, opened, trial

from cluster.loop import PackLoop

BROKE = rf"training loop broke: RuntimeError.*{CUDA_ERROR}"
CALLS = {
    "advance": lambda loop: loop.advance("a", 3, NONE, 0, DEADLINE),
    "advance an unknown lease": lambda loop: loop.advance("unknown", 3, NONE, 0, DEADLINE),
    "open": lambda loop: loop.open("b", trial(), None).result(DEADLINE),
    "evaluate the base": lambda loop: loop.evaluate_base().result(DEADLINE),
    "close": lambda loop: loop.close("a").result(DEADLINE),
}


def wait_until_refused(loop: PackLoop) -> None:
    deadline = time.monotonic() + DEADLINE
    with pytest.raises(RuntimeError):
        while time.monotonic() < deadline:
            loop.close("nobody")
            threading.Event().wait(0.01)


def test_calls_that_waited_when_the_loop_broke_and_later_ones_say_so(started):
    pack = failing("step", RuntimeError(CUDA_ERROR), 1)
    loop = started(pack)
    opened(loop, "a")
    ask(loop, "a", 3)
    pack.gates[1].wait_until_reached()
    waiting: list[Future] = [loop.open("b", trial(), None), loop.close("a")]
    pack.gates[1].open()
    calls = [
        *(partial(future.result, DEADLINE) for future in waiting),
        *(partial(each, loop) for each in CALLS.values()),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match=BROKE):
            call()
    assert isinstance(loop.fatal, RuntimeError)


def test_stop_lets_the_running_step_end_and_refuses_what_waits(started):
    pack = GatedPack(1)
    loop = started(pack)
    opened(loop, "a")
    ask(loop, "a", 100)
    pack.gates[1].wait_until_reached()
    waiting = loop.open("b", trial(), None)
    stopping = threading.Thread(target=loop.stop)
    stopping.start()
    wait_until_refused(loop)
    assert stopping.is_alive()
    pack.gates[1].open()
    stopping.join(DEADLINE)
    assert not stopping.is_alive()
    assert pack.steps == 1
    for call in (lambda _loop: waiting.result(DEADLINE), *CALLS.values()):
        with pytest.raises(RuntimeError, match="training loop was stopped"):
            call(loop)


@pytest.mark.parametrize(
    ("spoilt", "call"),
    [
        ("snapshot", CALLS["advance"]),
        ("snapshot", lambda loop: loop.advance("often", 3, NONE, 0, DEADLINE)),
        ("snapshot", lambda loop: loop.save("a", 0).result(DEADLINE)),
        ("adapter", CALLS["advance"]),
        ("evaluate_base", CALLS["evaluate the base"]),
        ("close", CALLS["close"]),
    ],
)
def test_an_error_that_spoils_the_process_breaks_the_loop_wherever_it_is_told(started, spoilt, call):
    """CUDA tells of an error late: a method that is not to blame raises it."""
    loop = started(failing(spoilt, RuntimeError(CUDA_ERROR)), slots=3)
    for lease, spec in (("a", trial()), ("often", trial(snapshot_every=1))):
        opened(loop, lease, spec)
    with pytest.raises(RuntimeError, match=BROKE):
        call(loop)
    assert loop.fatal is not None, "before the caller hears of it, so that its host ends first"


def test_commands_behind_the_one_that_breaks_the_loop_are_refused(started):
    pack = failing("evaluate_base", RuntimeError(CUDA_ERROR), 1)
    loop = started(pack)
    opened(loop, "a")
    ask(loop, "a", 100)
    pack.gates[1].wait_until_reached()
    waiting: list[Future] = [loop.evaluate_base(), loop.close("a"), loop.open("b", trial(), None)]
    pack.gates[1].open()
    for future in waiting:
        with pytest.raises(RuntimeError, match="training loop broke"):
            future.result(DEADLINE)
