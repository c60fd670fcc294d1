"""What people see between reports, and that nothing is left on their terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console
from sweep_events import ended, history, record, reported, started

from sweeps.lifecycle import SweepRecord, TrialState
from sweeps.progress import QUIET_SECONDS, Lines, Table

NAMED = {"r": 8, "lora_alpha": 16, "target_modules": "attention-qv", "learning_rate": 3e-4}
EVENTS = [started("aaaa", 0, **NAMED), started("bbbb", 1, **NAMED), reported("aaaa", 3, 0.7)]


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def out() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=False)


def shown(out: Console) -> list[str]:
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue().splitlines()


@pytest.fixture
def lines(out: Console, clock: Clock) -> Iterator[Lines]:
    with Lines(out, 100.0, clock) as display:
        display(EVENTS[-1], record(EVENTS))
        yield display


def steps(**at: int) -> dict:
    return {key: history(step, step)[0] for key, step in at.items()}


def test_a_quiet_log_says_now_and_then_where_trials_stand(lines: Lines, out: Console, clock: Clock) -> None:
    clock.now += QUIET_SECONDS - 1
    lines.latest(steps(aaaa=5, bbbb=7))
    assert len(shown(out)) == 1
    clock.now += 1
    lines.latest(steps(aaaa=5, bbbb=7))
    lines.latest(steps(aaaa=6, bbbb=8))
    assert shown(out)[1:] == ["01:00 on the way: t00 step 5 train_loss 9.9500, t01 step 7 train_loss 9.9300"]


def test_trials_that_are_over_or_unknown_are_not_on_the_way(lines: Lines, out: Console, clock: Clock) -> None:
    whole = [*EVENTS, ended("bbbb", TrialState.STOPPED)]
    lines(whole[-1], record(whole))
    clock.now += QUIET_SECONDS
    lines.latest(steps(bbbb=7, cccc=9))
    assert not any("on the way" in line for line in shown(out))


def drawn(table: Table, out: Console) -> str:
    with out.capture() as capture:
        out.print(table._draw())
    return capture.get()


def test_the_table_counts_steps_between_reports(out: Console, clock: Clock) -> None:
    table = Table(out, 100.0, clock, 54, 2)
    table(EVENTS[-1], record(EVENTS))
    table.latest(steps(aaaa=2, bbbb=7))
    rows = {line.split()[0]: line.split() for line in drawn(table, out).splitlines() if line.strip().startswith("t0")}
    # A step that is older than the last report is not shown.
    assert (rows["t00"][5], rows["t01"][5]) == ("3", "7")
    assert "2/2 trials" in drawn(table, out)


def test_nothing_is_on_the_way_before_the_first_event(out: Console, clock: Clock) -> None:
    display = Lines(out, 100.0, clock)
    clock.now += QUIET_SECONDS
    display.latest(steps(aaaa=1))
    assert shown(out) == []
    assert record([]) == SweepRecord()
