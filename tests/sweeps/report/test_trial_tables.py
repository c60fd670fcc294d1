"""Tables, lines and names: what people read of a sweep."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from sweep_events import base, begun, ended, parked, record, reported, started

from sweeps.record.events import DataPrepared, Event, SweepEnded, TargetSettled, TrialState
from sweeps.record.run_names import run_name, short_run_name
from sweeps.record.selection import choose
from sweeps.record.sweep_record import SweepRecord
from sweeps.report import trial_tables
from sweeps.report.live_table import Lines, Table, describe
from sweeps.statistics.comparison import Comparison, Separation

PARAMS: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "attention-qv", "learning_rate": 0.0002}
EVENTS: list[Event] = [
    begun(),
    started("a", 0, **PARAMS),
    started("b", 1, **PARAMS | {"r": 8, "alpha_over_r": 4, "learning_rate": 0.00123456}),
    started("c", 2, **PARAMS),
    started("d", 3, **PARAMS),
    reported("a", 3, 2.0),
    reported("b", 3, 1.5),
    reported("c", 3, 1.0),
    ended("c", TrialState.DIVERGED, "loss nan"),
    reported("b", 9, 1.25, since=3),
    ended("b", TrialState.COMPLETED),
    ended("a", TrialState.STOPPED, "stopped by the scheduler"),
    ended("d", TrialState.FAILED),
]


def sweep(*changes: Event) -> SweepRecord:
    return record([*EVENTS, *changes])


def text(thing: object) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(thing)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def markdown(found: SweepRecord, separation: Separation | None = None) -> list[str]:
    return trial_tables.markdown(found, choose(found.trials.values(), found.objective), separation).splitlines()


def terminal(found: SweepRecord, *more: Any) -> list[str]:
    return text(trial_tables.terminal(found, trial_tables.order(found), *more)).splitlines()


# Tables


def test_trials_are_ordered_best_first_then_by_number() -> None:
    assert [trial.trial_key for trial in trial_tables.order(sweep())] == ["b", "a", "c", "d"]


def test_the_terminals_table_shows_each_trial_in_a_line() -> None:
    lines = terminal(sweep())
    assert lines[0].split() == ["trial", "r", "alpha", "modules", "lr", "steps", "best", "eval_loss", "at", "state"]
    assert lines[1].split() == ["t01", "8", "32", "attention-qv", "0.00123", "9", "1.2500", "9", "COMPLETED"]
    assert lines[4].split() == ["t03", "16", "32", "attention-qv", "0.0002", "0", "-", "FAILED"]


def test_a_value_of_a_space_neither_moves_the_cursor_nor_colours_the_table() -> None:
    found = sweep(
        started("e", 4, **PARAMS | {"target_modules": "\x1b[31mRED[bold]"}),
        TargetSettled(time=1.0, value="\x1b[31mRED[bold]", same_as="mlp"),
    )
    assert "\\x1b[31mRED[bold]" in terminal(found)[-1]
    assert "\x1b" not in "".join([*markdown(found), *trial_tables.notes(found)])


def test_a_note_stands_below_the_table() -> None:
    lines = terminal(sweep(), "t00: outside the space")
    assert lines[-1].strip() == "t00: outside the space"
    assert len(lines) == 6


def test_markdown_begins_with_the_answer() -> None:
    lines = markdown(sweep())
    assert lines[0].startswith("**Best: t01, eval_loss 1.2500** at step 9 (r 8, lora_alpha 32,")
    assert lines[2] == "| trial | r | lora_alpha | target_modules | learning_rate | steps | best_eval_loss | state |"
    assert len(lines) == 4 + 4
    assert {line.count("|") for line in lines[2:]} == {9}


def test_the_base_is_the_last_row() -> None:
    found = sweep(base(4.57114))
    last = terminal(found)[-1]
    assert last.split() == ["base", "0", "4.5711", "0", "no", "adapter"]
    assert markdown(found)[-1] == "| base |  |  |  |  | 0 | 4.5711 | no adapter |"


def test_whether_a_trial_is_apart_from_the_best_is_a_column() -> None:
    found = sweep(base(4.5))
    separation = Separation(32, 0.975, (Comparison("a", 0.75, -0.1, 1.6),), Comparison("base", 3.25, 3.0, 3.5), 0)
    lines = terminal(found, None, separation)
    assert lines[0].endswith("state       differs")
    ends = {line.split()[0]: line.split()[-1] for line in lines[1:]}
    assert ends == {"t01": "COMPLETED", "t00": "no", "t02": "DIVERGED", "t03": "FAILED", "base": "yes"}
    note = markdown(found, separation)
    rows = [line for line in note if line.startswith("|")]
    assert rows[0].endswith("| state | differs |")
    assert [row.split("|")[-2].strip() for row in rows[2:]] == ["", "no", "", "", "yes"]
    assert note[2].startswith("- better than the base without an adapter (4.5000)")
    assert note[3].startswith("- t00 cannot be told apart from it")
    assert note[4] == ""


def test_the_column_names_the_steps_where_they_are_unequal() -> None:
    equal = Comparison("a", 0.75, 0.5, 1.0, steps=(3, 3), point=3)
    for compared, told in ((equal, "yes"), (replace(equal, steps=(3, 9), point=None), "yes (3/9)")):
        lines = terminal(sweep(), None, Separation(32, 0.975, (compared,), None, 0))
        (line,) = (line for line in lines if line.split()[0] == "t00")
        assert line.rstrip().endswith(f"STOPPED    {told}")


def test_there_is_no_column_where_nothing_can_be_told() -> None:
    found = sweep()
    separation = Separation(1, 0.975, (Comparison("a", 0.75, None, None, "1 evaluation row"),), None, 0)
    assert "differs" not in "\n".join(terminal(found, None, separation))
    assert "differs" not in "\n".join(markdown(found, separation))


def test_markdown_says_why_there_is_no_best() -> None:
    found = record([started("a"), ended("a", TrialState.FAILED)])
    assert markdown(found)[0].startswith("No best trial: no trial completed")


def test_markdown_of_an_interrupted_sweep_names_the_best_so_far() -> None:
    first: list[Event] = [started("a", 0, r=8), reported("a", 3, 2.0), parked("a", 3)]
    found = record([*first, started("b", 1, r=16), reported("b", 1, 2.5), ended("b", TrialState.PAUSED)])
    lines = markdown(found)
    assert lines[0].startswith("**Best so far: t00, eval_loss 2.0000** at step 3 (r 8): trials were interrupted, ")
    found = found.apply(ended("b", TrialState.COMPLETED))
    lines = markdown(found)
    assert lines[0] == "**Best: t01, eval_loss 2.5000** at step 1 (r 16)."
    assert lines[2] == "- the best of the trials that have ended; lower so far: t00 2.0000"


# Lines


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (started("b", 1, **PARAMS), "t01 r16 a32 lr2.0e-4 attention-qv: started"),
        (started("a", 0, **PARAMS), "t00 r16 a32 lr2.0e-4 attention-qv: goes on from step 3"),
        (parked("a", 3), "t00 parked at step 3: others train first"),
        (reported("a", 3, 2.0), "t00 step 3: eval_loss 2.0000 (its best)"),
        (reported("a", 9, 2.5, best=(3, 2.0)), "t00 step 9: eval_loss 2.5000 (its best: 2.0000)"),
        (ended("a", TrialState.COMPLETED), "t00 COMPLETED at step 3"),
        (ended("a", TrialState.STOPPED, "stopped by the scheduler"), "t00 STOPPED at step 3: stopped by the scheduler"),
        (base(4.57114), "base without an adapter: eval_loss 4.5711 on 32 rows"),
        (base(2.5, 1), "base without an adapter: eval_loss 2.5000 on 1 row"),
        (begun(), None),
        (SweepEnded(time=0.0, reason="finished"), None),
        (
            DataPrepared(
                time=0.0,
                summary={
                    "train_rows": 30,
                    "eval_rows": 5,
                    "longest_row": 96,
                    "truncated_rows": 0,
                    "dropped_rows": 0,
                },
            ),
            "data: 30 rows to train on, 5 to evaluate on; the longest row has 96 tokens",
        ),
        (
            DataPrepared(
                time=0.0,
                summary={"train_rows": 30, "eval_rows": 5, "longest_row": 64, "truncated_rows": 4, "dropped_rows": 1},
            ),
            "data: 30 rows to train on, 5 to evaluate on; the longest row has 64 tokens; "
            "4 cut to data.max_length, 1 left out (no completion left)",
        ),
        (DataPrepared(time=0.0, summary={"train_rows": 0}), None),
    ],
)
def test_an_event_in_one_line(event: Event, line: str | None) -> None:
    found = describe(event, record([started("a", 0, **PARAMS), reported("a", 3, 2.0)]))
    assert found == line


def told(make: Callable[[Console], Lines], events: Sequence[Event]) -> str:
    console = Console(file=io.StringIO(), width=40)
    found = SweepRecord()
    lines = make(console)
    for event in events:
        found = found.apply(event)
        lines(event, found)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_log_gets_a_line_for_each_event_with_its_time() -> None:
    times = iter([61.0, 62.5, 3723.0])
    lines = told(lambda console: Lines(console, 1.0, lambda: next(times)), [begun(), *EVENTS[1:4]]).splitlines()
    assert [line[:6] for line in lines] == ["01:00 ", "01:01 ", "62:02 "]
    assert lines[1].endswith("attention-qv: started")  # longer than the console: not broken


def test_what_is_odd_about_the_data_is_a_line_each() -> None:
    counts = dict.fromkeys(["train_rows", "eval_rows", "longest_row", "truncated_rows", "dropped_rows"], 7)
    prepared = DataPrepared(time=0.0, summary={**counts}, warnings=("data.train: odd", "data.eval: [few]"))
    lines = told(lambda console: Lines(console, 0.0, lambda: 0.0), [begun(), prepared]).splitlines()
    assert [line[6:] for line in lines[1:]] == ["warning: data.train: odd", "warning: data.eval: [few]"]
    table = Table(Console(file=io.StringIO()), lambda: 0.0, 1)
    table(prepared, record([prepared]))
    assert isinstance(table._live.console.file, io.StringIO)
    above = table._live.console.file.getvalue().splitlines()
    assert above[1:] == ["warning: data.train: odd", "warning: data.eval: [few]"]


def test_markup_in_a_message_is_no_markup() -> None:
    lines = told(
        lambda console: Lines(console, 0.0, lambda: 0.0),
        [started("a", 0, **PARAMS), ended("a", TrialState.FAILED, "KeyError: [bold] [/]")],
    )
    assert "KeyError: [bold] [/]" in lines


def test_the_live_table_shows_trials_best_and_time_left() -> None:
    now = 10.0
    said = io.StringIO()
    table = Table(Console(file=said), lambda: now, planned=8)
    found = SweepRecord()
    counts = dict.fromkeys(["train_rows", "eval_rows", "longest_row", "truncated_rows", "dropped_rows"], 7)
    data = DataPrepared(time=0.0, summary={**counts})
    for event in [begun(), data, *EVENTS[1:]]:
        found = found.apply(event)
        table(event, found)
    now = 40.0
    shown = text(table._draw())
    assert "data: 7 rows to train on" in said.getvalue()
    assert "t03" in shown
    # 15 steps in 30 seconds, by 4 trials: the other 4 take as many
    assert "0:40 · 4/8 trials · 1 stopped 1 completed 1 diverged 1 failed · best 1.2500 (t01)" in " ".join(
        shown.split()
    )
    assert "50 tokens/s" in shown
    assert "about 0:30 left" in " ".join(shown.split())


def test_the_live_best_may_still_be_running() -> None:
    table = Table(Console(file=io.StringIO()), lambda: 0.0, planned=8)
    running = sweep(started("e", 4, **PARAMS), reported("e", 3, 0.5))
    table(begun(), running)
    assert "best 0.5000 (t04)" in text(table._draw())


def test_what_is_said_stays_when_the_live_table_is_erased() -> None:
    out = Console(file=io.StringIO(), force_terminal=True, width=100, height=30)
    with Table(out, lambda: 0.0, 1) as table:
        for number in range(9):
            table.say(f"note {number}")
    assert isinstance(out.file, io.StringIO)
    assert re.findall(r"note \d", out.file.getvalue()) == [f"note {number}" for number in range(9)]


# Names


def test_a_runs_name_reads_well() -> None:
    assert run_name(7, PARAMS | {"r": 64, "learning_rate": 1}) == "t07 r64 a32 lr1.0e+0 attention-qv"
    assert run_name(123, PARAMS | {"target_modules": "q" * 99}) == f"t123 r16 a32 lr2.0e-4 {'q' * 24}"


@pytest.mark.parametrize(
    ("modules", "short"), [("attention-qv", "qv"), ("all-linear", "all"), ("mlp", "mlp"), ("q_proj,v_proj", "q,v")]
)
def test_a_runs_name_fits_mlflows_table(modules: str, short: str) -> None:
    name = short_run_name(7, PARAMS | {"target_modules": modules})
    assert name == f"t07 r16 a32 lr2.0e-4 {short}"
    assert len(name) <= 24


def test_a_repeat_stands_below_its_trial_and_says_so() -> None:
    again: list[Event] = [
        started("again", 9).model_copy(update={"repeats": "b"}),
        reported("again", 9, 1.0),
        ended("again", TrialState.COMPLETED),
    ]
    found = record([*EVENTS, *again])
    lines = terminal(found)
    names = [line[:15].strip() for line in lines[1:]]
    assert [name.split()[0] for name in names][:2] == ["t01", "t09"]
    assert names[1].startswith("t09 (t01 again)")
    assert "| t09 (t01 again) |" in "\n".join(markdown(found))


def many(count: int) -> SweepRecord:
    """That many trials, the later the better; of ten of them one still trains, and one is parked."""
    told: list[Event] = []
    for number in range(count):
        key = f"k{number}"
        told += [started(key, number, **PARAMS), reported(key, 3, 2.0 - number / 1000)]
        if number % 10 == 5:
            told.append(parked(key, 3))
        elif number % 10:
            told.append(ended(key, TrialState.COMPLETED))
    return record([begun(), *told])


def test_of_many_trials_the_live_table_shows_those_that_train_and_the_best_ones() -> None:
    table = Table(Console(file=io.StringIO(), height=24), lambda: 0.0, 100)
    table(begun(), many(100))
    lines = text(table._draw()).splitlines()
    rows = [line.split()[0] for line in lines if line.lstrip().startswith("t") and line.strip()[1].isdigit()]
    assert rows == [*(f"t{number}0" for number in range(9)), "t90", *(f"t{number}" for number in range(93, 100))]
    assert lines[-2].startswith("83 more trials: qsweep status shows all")
    assert len(lines) <= 24


def test_of_many_trials_mlflows_note_holds_the_best_ones_and_says_how_many_there_are() -> None:
    found = many(1000)
    lines = markdown(found)
    rows = [line.split()[1] for line in lines if line.startswith("| t")]
    assert rows[1:3] == ["t999", "t998"] and len(rows) == 1 + trial_tables.MOST_ROWS
    assert lines[-1] == "960 more trials are in the table of runs."
    assert len("\n".join(lines)) < 8000
