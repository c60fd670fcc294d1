"""The training loop of a host when it breaks or is stopped: every call that waits or comes later says so."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

import pytest
from pack_loops import DEADLINE, BrokenPack, GatedPack, ask, opened, trial

from cluster.loop import PackLoop
from trainables import toy
from trainables.objective import Standing


def calls(loop: PackLoop):
    return {
        "advance": lambda: loop.advance("a", 3, Standing(), 0, DEADLINE),
        "advance an unknown lease": lambda: loop.advance("unknown", 3, Standing(), 0, DEADLINE),
        "open": lambda: loop.open("b", trial(), None).result(DEADLINE),
        "evaluate the base": lambda: loop.evaluate_base().result(DEADLINE),
        "close": lambda: loop.close("a").result(DEADLINE),
    }


def wait_until_refused(loop: PackLoop) -> None:
    deadline = time.monotonic() + DEADLINE
    with pytest.raises(RuntimeError):
        while time.monotonic() < deadline:
            loop.close("nobody")
            threading.Event().wait(0.01)


def test_a_pack_that_raises_breaks_the_loop_and_every_call_says_so(started):
    loop = started(BrokenPack())
    opened(loop, "a")
    for call in calls(loop).values():
        with pytest.raises(RuntimeError, match=r"training loop broke: RuntimeError.*CUDA error"):
            call()
    assert isinstance(loop.fatal, RuntimeError)


def test_calls_that_waited_when_the_loop_broke_say_so(started):
    pack = BrokenPack(1)
    loop = started(pack)
    opened(loop, "a")
    ask(loop, "a", 3)
    pack.gates[1].wait_until_reached()
    waiting: list[Future] = [loop.open("b", trial(), None), loop.close("a")]
    pack.gates[1].open()
    for future in waiting:
        with pytest.raises(RuntimeError, match="training loop broke"):
            future.result(DEADLINE)


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
    for call in [lambda: waiting.result(DEADLINE), *calls(loop).values()]:
        with pytest.raises(RuntimeError, match="training loop was stopped"):
            call()


class SpoiltPack(toy.ToyPack):
    """CUDA tells of an error late: a method that is not to blame raises it."""

    def __init__(self, *spoilt: str) -> None:
        super().__init__()
        for method in spoilt:
            setattr(self, method, self._raise)

    def _raise(self, *_arguments):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize(
    ("spoilt", "call"),
    [
        ("snapshot", lambda loop: loop.advance("a", 3, Standing(), 0, DEADLINE)),
        ("snapshot", lambda loop: loop.advance("often", 3, Standing(), 0, DEADLINE)),
        ("snapshot", lambda loop: loop.save("a", 0).result(DEADLINE)),
        ("adapter", lambda loop: loop.advance("a", 3, Standing(), 0, DEADLINE)),
        ("evaluate_base", lambda loop: loop.evaluate_base().result(DEADLINE)),
        ("close", lambda loop: loop.close("a").result(DEADLINE)),
    ],
)
def test_an_error_that_spoils_the_process_breaks_the_loop_wherever_it_is_told(started, spoilt, call):
    loop = started(SpoiltPack(spoilt), slots=3)
    for lease, spec in (("a", trial()), ("often", trial(snapshot_every=1))):
        opened(loop, lease, spec)
    with pytest.raises(RuntimeError, match=r"training loop broke: RuntimeError.*CUDA error"):
        call(loop)
    assert loop.fatal is not None, "before the caller hears of it, so that its host ends first"
    with pytest.raises(RuntimeError, match="training loop broke"):
        opened(loop, "b")


def test_commands_behind_the_one_that_breaks_the_loop_are_refused(started):
    pack = GatedPack(1)
    pack.evaluate_base = SpoiltPack()._raise  # type: ignore[method-assign]
    loop = started(pack)
    opened(loop, "a")
    ask(loop, "a", 100)
    pack.gates[1].wait_until_reached()
    waiting: list[Future] = [loop.evaluate_base(), loop.close("a"), loop.open("b", trial(), None)]
    pack.gates[1].open()
    for future in waiting:
        with pytest.raises(RuntimeError, match="training loop broke"):
            future.result(DEADLINE)
