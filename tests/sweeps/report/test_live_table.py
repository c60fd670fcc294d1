"""What people see while a sweep runs, and that nothing is left on their terminal."""

from __future__ import annotations

import io
import re
from functools import partial
from typing import Any

import pytest
from rich.console import Console
from sweep_events import answered, base, begun, ended, history, parked, record, reported, scored, started

from sweeps.record.events import DataPrepared, Event, SweepEnded, TrialState
from sweeps.record.sweep_record import SweepRecord
from sweeps.report.live_table import Lines, Table, describe
from sweeps.report.passing_line import PassingLine
from sweeps.timeouts import PASSING_SECONDS, QUIET_SECONDS

NAMED: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": "attention-qv", "learning_rate": 3e-4}
EVENTS: list[Event] = [started("aaaa", 0, **NAMED), started("bbbb", 1, **NAMED), reported("aaaa", 3, 0.7)]
ROWS = "data: 30 rows to train on, 5 to evaluate on; the longest row has 96 tokens"
LEFT_OUT = "4 cut to data.max_length, 1 left out (no completion left)"
COUNTS: dict[str, Any] = {"train_rows": 30, "eval_rows": 5, "longest_row": 96, "truncated_rows": 0, "dropped_rows": 0}
PREPARED = DataPrepared(time=98.0, summary=COUNTS)


def prepared(**counts: int) -> DataPrepared:
    return PREPARED.model_copy(update={"summary": COUNTS | counts})


class Clock:
    """Time that stands still until a test moves it."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def out() -> Console:
    return Console(file=io.StringIO(), width=120, height=24, force_terminal=False)


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


asked = partial(answered, asked="stop the sweep", message="trials are saved")


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (started("bbbb", 1, **NAMED), "t01 r8 a16 lr3.0e-4 attention-qv: started"),
        (started("aaaa", 0, **NAMED), "t00 r8 a16 lr3.0e-4 attention-qv: goes on from step 3"),
        (parked("aaaa", 3), "t00 parked at step 3: goes on if it is among the best"),
        (reported("aaaa", 3, 2.0), "t00 step 3: eval_loss 2.0000 (its best)"),
        (reported("aaaa", 9, 2.5, best=(3, 2.0)), "t00 step 9: eval_loss 2.5000 (its best: 2.0000)"),
        (scored("aaaa", 3, exact_match=0.75), "t00 scored at step 3: exact_match 0.7500"),
        (ended("aaaa", TrialState.COMPLETED), "t00 COMPLETED at step 3"),
        (ended("aaaa", TrialState.FAILED, "KeyError: [bold] [/]"), "t00 FAILED at step 3: KeyError: [bold] [/]"),
        (base(2.5, 1), "base without an adapter: eval_loss 2.5000 on 1 row"),
        (begun(), None),
        (SweepEnded(time=0.0, reason="finished"), None),
        (PREPARED, ROWS),
        (
            prepared(truncated_rows=4, dropped_rows=1),
            f"{ROWS}; 4 cut to data.max_length, 1 left out (no completion left)",
        ),
        (prepared(train_rows=0), None),
        (prepared(test_rows=1200), ROWS.replace("evaluate on", "evaluate on, 1,200 to test on")),
        (asked(sender="qsweep stop"), "stop the sweep (qsweep stop): trials are saved"),
        (asked(sender="SIGINT"), None),  # the driver has answered itself
        (asked(sender="SIGINT", is_accepted=False), "stop the sweep (SIGINT): refused: trials are saved"),
    ],
)
def test_an_event_in_one_line(event: Event, line: str | None) -> None:
    assert describe(event, record(EVENTS)) == ([] if line is None else [line])


def test_a_log_gets_a_line_for_each_event_with_its_time_and_each_warning(out: Console, clock: Clock) -> None:
    found, display = SweepRecord(), Lines(out, 39.0, clock)
    failed = ended("aaaa", TrialState.FAILED, "KeyError: [bold] [/]")
    for event in (begun(), EVENTS[0], failed, PREPARED.model_copy(update={"warnings": ("data.eval: [few]",)})):
        found = found.apply(event)
        display(event, found)
        clock.now += 3600
    assert shown(out) == [
        "61:01 t00 r8 a16 lr3.0e-4 attention-qv: started",
        "121:01 t00 FAILED at step 0: KeyError: [bold] [/]",
        f"181:01 {ROWS}",
        "181:01 warning: data.eval: [few]",
    ]


def test_a_quiet_log_says_now_and_then_where_trials_stand(lines: Lines, out: Console, clock: Clock) -> None:
    clock.now += QUIET_SECONDS - 1
    lines.latest(steps(aaaa=5, bbbb=7))
    clock.now += 1
    lines.latest(steps(aaaa=5, bbbb=7))
    for step in (6, 6):  # in the second time the trial evaluates
        clock.now += QUIET_SECONDS
        lines.latest(steps(aaaa=step))
    assert shown(out)[1:] == [
        "01:00 on the way: t00 step 5 train_loss 9.9500, t01 step 7 train_loss 9.9300",
        "02:00 on the way: t00 step 6 train_loss 9.9400",
    ]


def test_trials_that_wait_are_over_or_unknown_are_not_on_the_way_and_passwords_are_not_shown(lines, out, clock):
    whole: list[Event] = [*EVENTS, ended("bbbb", TrialState.STOPPED), parked("aaaa", 6)]
    lines(whole[-1], record(whole))
    clock.now += QUIET_SECONDS
    lines.latest(steps(aaaa=6, bbbb=7, cccc=9))
    lines.say("a host could not be made: no route to https://ana:hunter2@models.test/x; trying again")
    *others, line = shown(out)
    assert not any("on the way" in line for line in others)
    assert "hunter2" not in line and "models.test" in line


def drawn(table: Table, out: Console) -> str:
    with out.capture() as capture:
        out.print(table._draw())
    return capture.get()


def test_the_table_shows_steps_between_reports_the_best_so_far_and_repeats_apart(out: Console, clock: Clock) -> None:
    table, again = Table(out, clock, 4), started("cccc", 2, **NAMED).model_copy(update={"repeats": "aaaa"})
    events: list[Event] = [begun(), *EVENTS[:2], again, EVENTS[2], begun(90.0)]
    table(events[-1], record(events))
    table.latest(steps(aaaa=2, bbbb=7))
    text = drawn(table, out)
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip().startswith("t0")}
    # A step that is older than the last report is not shown.
    assert (rows["t00"][5], rows["t01"][5]) == ("3", "7")
    # The first driver lived until its last event, at 13; ten seconds are this one's.
    assert "0:23 · 2/4 trials and 1 repeat · 3 running · best 0.7000 (t00)" in " ".join(text.split())


def test_tokens_per_second_and_the_time_left_are_those_of_the_present_driver(out: Console, clock: Clock) -> None:
    table = Table(out, clock, 4)
    events: list[Event] = [begun(), *EVENTS, begun(90.0), PREPARED]
    table(PREPARED, record(events))
    clock.now += 10
    assert "tokens/s" not in drawn(table, out)
    # Both go on from snapshots behind their reports: those steps were another driver's.
    table.latest(steps(aaaa=4))
    clock.now += 10
    table.latest(steps(aaaa=7, bbbb=1))
    assert "15 tokens/s" in drawn(table, out)
    whole = [*events, reported("aaaa", 8, 0.6, since=3), ended("aaaa", TrialState.COMPLETED)]
    table(whole[-1], record(whole))
    # 4 steps in 20 seconds; 4 trials of 8 steps are 32, of which 9 are done.
    assert "about 1:55 left" in " ".join(drawn(table, out).split())


def test_what_is_said_stays_when_the_live_table_is_erased() -> None:
    out = Console(file=io.StringIO(), force_terminal=True, width=100, height=30)
    with Table(out, lambda: 0.0, 1) as table:
        table(PREPARED.model_copy(update={"warnings": ("odd",)}), record([]))
        for number in range(9):
            table.say(f"note {number}")
    text = "\n".join(shown(out))
    assert "data: 30 rows" in text and "warning: odd" in text
    assert re.findall(r"note \d", text) == [f"note {number}" for number in range(9)]


def test_of_many_trials_the_table_shows_those_that_train_and_the_best_ones(out: Console, clock: Clock) -> None:
    """The later a trial the better; of ten of them one still trains, and one is parked."""
    told: list[Event] = [begun()]
    for number in range(100):
        key = f"k{number}"
        told += [started(key, number, **NAMED), reported(key, 3, 2.0 - number / 1000)]
        if number % 10:
            told.append(parked(key, 3) if number % 10 == 5 else ended(key, TrialState.COMPLETED))
    table = Table(out, clock, 100)
    table(told[0], record(told))
    lines = drawn(table, out).splitlines()
    rows = [line.split()[0] for line in lines if re.match(r" *t\d", line)]
    assert rows == [*(f"t{number}0" for number in range(9)), "t90", *(f"t{number}" for number in range(93, 100))]
    assert lines[-2].startswith("83 more trials: qsweep status shows all")
    assert len(lines) <= 24


def line_on(clock: Clock, **console: Any) -> tuple[PassingLine, io.StringIO]:
    out = io.StringIO()
    return PassingLine(Console(file=out, _environ={"TERM": "xterm"}, **console), clock), out


def test_of_a_line_that_passes_a_terminal_shows_the_latest_alone_and_a_log_one_now_and_then(clock: Clock) -> None:
    line, out = line_on(clock, force_terminal=True, width=10)
    line.show("t01: 8 of")
    line.show("[b]" + "x" * 30)
    line.end()
    assert out.getvalue() == "t01: 8 of\r\x1b[2K[b]xxxxxx\r\x1b[2K"
    line, out = line_on(clock, force_terminal=False, width=40)
    line.show("at once")
    clock.now += PASSING_SECONDS
    line.show("8 of 80 rows")
    line.show("16 of 80 rows")
    clock.now += PASSING_SECONDS
    line.end()  # another line is printed
    line.show("24 of 80 rows")
    clock.now += PASSING_SECONDS
    line.show("8 of 80 rows")
    assert out.getvalue() == "8 of 80 rows\n", "nothing has moved on"
