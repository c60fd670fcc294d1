"""What people see between reports, and that nothing is left on their terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from sweep_events import begun, ended, history, record, reported, started

from sweeps.record.events import DataPrepared, Event, RequestAnswered, TrialParked, TrialState
from sweeps.record.sweep_record import SweepRecord
from sweeps.report.live_table import Lines, Table
from sweeps.timeouts import QUIET_SECONDS

NAMED: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": "attention-qv", "learning_rate": 3e-4}
EVENTS: list[Event] = [started("aaaa", 0, **NAMED), started("bbbb", 1, **NAMED), reported("aaaa", 3, 0.7)]
PREPARED = DataPrepared(
    time=98.0, summary=dict.fromkeys(["train_rows", "eval_rows", "longest_row", "truncated_rows", "dropped_rows"], 7)
)


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
def lines(out: Console, clock: Clock) -> Lines:
    display = Lines(out, 100.0, clock)
    display(EVENTS[-1], record(EVENTS))
    return display


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


def test_where_trials_stand_is_said_again_only_when_it_has_changed(lines: Lines, out: Console, clock: Clock) -> None:
    for step in (5, 5, 6):  # at step 5 the trial evaluates for two minutes
        clock.now += QUIET_SECONDS
        lines.latest(steps(aaaa=step))
    assert [line.split()[6] for line in shown(out)[1:]] == ["5", "6"]


def test_trials_that_wait_are_over_or_unknown_are_not_on_the_way(lines: Lines, out: Console, clock: Clock) -> None:
    whole: list[Event] = [*EVENTS, ended("bbbb", TrialState.STOPPED), TrialParked(time=9.0, trial_key="aaaa", step=6)]
    lines(whole[-1], record(whole))
    clock.now += QUIET_SECONDS
    lines.latest(steps(aaaa=6, bbbb=7, cccc=9))
    assert not any("on the way" in line for line in shown(out))


def drawn(table: Table, out: Console) -> str:
    with out.capture() as capture:
        out.print(table._draw())
    return capture.get()


def test_the_table_counts_steps_between_reports(out: Console, clock: Clock) -> None:
    table = Table(out, clock, 2)
    table(EVENTS[-1], record(EVENTS))
    table.latest(steps(aaaa=2, bbbb=7))
    rows = {line.split()[0]: line.split() for line in drawn(table, out).splitlines() if line.strip().startswith("t0")}
    # A step that is older than the last report is not shown.
    assert (rows["t00"][5], rows["t01"][5]) == ("3", "7")
    assert "2/2 trials" in drawn(table, out)


def test_repeats_are_counted_apart_from_the_trials_that_were_planned(out: Console, clock: Clock) -> None:
    table = Table(out, clock, 4)
    again = started("cccc", 2, **NAMED).model_copy(update={"repeats": "aaaa"})
    table(again, record([*EVENTS, again]))
    assert "2/4 trials and 1 repeat" in drawn(table, out)


def test_tokens_per_second_are_those_of_the_present_driver(out: Console, clock: Clock) -> None:
    table = Table(out, clock, 2)
    events: list[Event] = [begun(), EVENTS[0], EVENTS[2], begun(90.0), PREPARED]
    table(PREPARED, record(events))
    events.append(started("bbbb", 1, 101.0))
    table(events[-1], record(events))
    clock.now += 10
    assert "tokens/s" not in drawn(table, out)
    # The first of them goes on from a snapshot behind its report: those steps were another driver's.
    table.latest(steps(aaaa=5))
    clock.now += 10
    table.latest(steps(aaaa=8, bbbb=1))
    assert "20 tokens/s" in drawn(table, out)


def test_the_clock_shows_what_all_drivers_took(out: Console, clock: Clock) -> None:
    table = Table(out, clock, 2)
    whole: list[Event] = [begun(), *EVENTS, begun(90.0)]
    table(whole[-1], record(whole))
    # The first driver until its last event, at 13, and ten seconds of this one.
    assert drawn(table, out).splitlines()[-1].startswith("0:23 ")


@pytest.mark.parametrize(
    ("sender", "is_accepted", "told"),
    [
        ("qsweep stop", True, ["00:00 stop the sweep (qsweep stop): trials are saved"]),
        ("SIGINT", True, []),
        ("SIGINT", False, ["00:00 stop the sweep (SIGINT): refused: trials are saved"]),
    ],
)
def test_a_signal_that_the_driver_has_answered_itself_is_not_told_again(
    out: Console, clock: Clock, sender: str, is_accepted: bool, told: list[str]
) -> None:
    said = "trials are saved"
    answer = RequestAnswered(
        time=9.0, request="1", sender=sender, asked="stop the sweep", is_accepted=is_accepted, message=said
    )
    Lines(out, 100.0, clock)(answer, record([answer]))
    assert shown(out) == told


def test_nothing_is_on_the_way_before_the_first_event(out: Console, clock: Clock) -> None:
    display = Lines(out, 100.0, clock)
    clock.now += QUIET_SECONDS
    display.latest(steps(aaaa=1))
    assert shown(out) == []
    assert record([]) == SweepRecord()


def test_a_line_with_a_password_in_it_is_shown_without(lines: Lines, out: Console) -> None:
    lines.say("a host could not be made: no route to https://ana:hunter2@models.test/x; trying again")
    (line,) = shown(out)[-1:]
    assert "hunter2" not in line
    assert "models.test" in line
