"""A sweep is asked to end by a signal or by its budget."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from unittest.mock import Mock

import pytest

from sweeps.record.limits import Reached
from sweeps.steering.mailbox import StopSweep
from sweeps.steering.stop import SIGNALS, Interrupted, StopState, on_signals, raising_on_signals


def test_a_budget_ends_the_sweep_at_its_deadline() -> None:
    clock = Mock(side_effect=[0.0, 99.9, 100.0, 0.0])
    stop = StopState(limit=lambda: Reached("budget.wall_clock", "is used up") if clock() >= 100.0 else None)
    assert [stop.check() for _ in range(4)] == [None, None, "budget", "budget"]
    assert (stop.message, stop.can_be_raised) == ("budget.wall_clock is used up", True)


def test_once_there_was_nothing_left_to_train_no_more_can_be_asked_for() -> None:
    stop = StopState()
    assert stop.last_call(lambda: "t01") == "t01" and stop.takes_more
    assert stop.last_call(lambda: None) is None and not stop.takes_more
    assert not StopState(reason="budget").takes_more
    assert not StopState(is_over=True).takes_more


@pytest.mark.usefixtures("hears_signals")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_once_and_is_told(number: int) -> None:
    said: list[str] = []
    posted: list[StopSweep] = []
    stop = StopState()
    before = {each: signal.getsignal(each) for each in SIGNALS}
    with on_signals(stop, said.append, posted.append):
        signal.raise_signal(number)
        assert (stop.check(), stop.signal) == ("interrupted", number)
    assert len(said) == 1
    assert posted == [StopSweep(sender=signal.Signals(number).name)]
    assert {each: signal.getsignal(each) for each in SIGNALS} == before


def test_the_second_signal_ends_the_process_at_once() -> None:
    code = """
import os, signal
from sweeps.steering.stop import StopState, on_signals
with on_signals(StopState(), print):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here")
"""
    done = subprocess.run([sys.executable, "-u", "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 128 + signal.SIGTERM
    assert "still here" not in done.stdout
    assert done.stdout.startswith("stopping: trials are saved at their next step")


@pytest.mark.usefixtures("hears_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_has_no_order_to_end_in(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, raising_on_signals():
        signal.raise_signal(number)
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    stop, before = StopState(), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        for listening in (on_signals(stop, print), raising_on_signals()):
            with listening:
                signal.raise_signal(signal.SIGHUP)
        assert stop.reason is None
    finally:
        signal.signal(signal.SIGHUP, before)
