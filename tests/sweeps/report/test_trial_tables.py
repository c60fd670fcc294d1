"""Tables of trials: in the terminal and in MLflow's notes."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from sweep_events import base, begun, ended, parked, record, reported, started

from sweeps.record.events import Event, SweepEnded, TargetSettled, TrialState
from sweeps.record.run_names import run_name, short_run_name
from sweeps.record.selection import choose
from sweeps.record.sweep_record import SweepRecord
from sweeps.report import trial_tables
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
    SweepEnded(time=9.0, reason="finished"),
]


def sweep(*changes: Event) -> SweepRecord:
    return record([*EVENTS, *changes])


def markdown(found: SweepRecord, separation: Separation | None = None) -> list[str]:
    return trial_tables.markdown(found, choose(found), separation).splitlines()


def terminal(found: SweepRecord, *more: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=140)
    console.print(trial_tables.terminal(found, trial_tables.order(found), *more))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_the_terminals_table_has_a_line_for_each_trial_the_best_first_then_by_number_and_the_base_last() -> None:
    lines = [line.split() for line in terminal(sweep(base(4.57114)))]
    assert lines == [
        ["trial", "r", "alpha", "modules", "lr", "steps", "best", "eval_loss", "at", "state"],
        ["t01", "8", "32", "attention-qv", "0.00123", "9", "1.2500", "9", "COMPLETED"],
        ["t00", "16", "32", "attention-qv", "0.0002", "3", "2.0000", "3", "STOPPED"],
        ["t02", "16", "32", "attention-qv", "0.0002", "3", "1.0000", "3", "DIVERGED"],
        ["t03", "16", "32", "attention-qv", "0.0002", "0", "-", "FAILED"],
        ["base", "0", "4.5711", "0", "no", "adapter"],
    ]


def test_a_value_of_a_space_neither_moves_the_cursor_nor_colours_the_table() -> None:
    found = sweep(
        started("e", 4, **PARAMS | {"target_modules": "\x1b[31mRED[bold]"}),
        TargetSettled(time=1.0, value="\x1b[31mRED[bold]", same_as="mlp"),
    )
    assert "\\x1b[31mRED[bold]" in terminal(found)[-1]
    assert "\x1b" not in "".join([*markdown(found), *trial_tables.notes(found)])


def test_mlflows_note_begins_with_the_answer_and_has_the_same_table() -> None:
    lines = markdown(sweep(base(4.57114)))
    assert lines[0].startswith("**best: t01, eval_loss 1.2500 at step 9** (r 8, lora_alpha 32,")
    assert lines[2].startswith("- t01 is better than the base without an adapter (4.5711)")
    assert lines[4] == "| trial | r | alpha | modules | lr | steps | best eval_loss | at | state |"
    assert lines[-1] == "| base |  |  |  |  | 0 | 4.5711 | 0 | no adapter |"
    assert {line.count("|") for line in lines[4:]} == {10} and len(lines) == 11


def test_mlflows_note_says_why_there_is_no_best_and_of_an_interrupted_sweep_names_the_best_so_far() -> None:
    failed = record([started("a"), ended("a", TrialState.FAILED), EVENTS[-1]])
    assert markdown(failed)[0].startswith("**best: no trial completed")
    first: list[Event] = [started("a", 0, r=8), reported("a", 3, 2.0), parked("a", 3)]
    found = record([*first, started("b", 1, r=16), reported("b", 1, 2.5), ended("b", TrialState.PAUSED)])
    lines = markdown(found)
    assert lines[0].startswith("**best so far: t00, eval_loss 2.0000 at step 3** (r 8)")
    lines = markdown(found.apply(reported("a", 9, 1.5)))
    assert lines[0] == "**best so far: t00, eval_loss 1.5000 at step 9** (r 8)"
    behind = record([*first, reported("a", 9, 1.5), started("b", 1, r=16), reported("b", 3, 1.75)])
    assert markdown(behind)[0] == "**best so far: t01, eval_loss 1.7500 at step 3** (r 16)"
    alone = "- t00, eval_loss 1.5000 at step 9 has gone further alone: trials that have not ended are compared after "
    assert markdown(behind)[2] == f"{alone}equal steps"


def test_of_many_trials_mlflows_note_holds_the_best_ones_and_says_how_many_there_are() -> None:
    told: list[Event] = [begun()]
    for number in range(200):
        key = f"k{number}"
        told += [started(key, number, **PARAMS), reported(key, 3, 2.0 - number / 200)]
        told.append(ended(key, TrialState.COMPLETED))
    lines = markdown(record(told))
    rows = [line.split()[1] for line in lines if line.startswith("| t")]
    assert rows[1:3] == ["t199", "t198"] and len(rows) == 1 + trial_tables.MOST_ROWS
    assert lines[-1] == "160 more trials are in the table of runs."
    assert len("\n".join(lines)) < 8000


@pytest.mark.parametrize(
    ("compared", "told"),
    [
        (Comparison("a", 0.75, -0.1, 1.6), "no"),
        (Comparison("a", 0.75, 0.5, 1.0, steps=(3, 3), point=3), "yes"),
        (Comparison("a", 0.75, 0.5, 1.0, steps=(3, 9)), "yes (3/9)"),
    ],
)
def test_whether_a_trial_is_apart_from_the_best_is_a_column_with_unequal_steps(compared: Comparison, told: str) -> None:
    against_base = Comparison("base", 3.25, 3.0, 3.5)
    head, *lines = terminal(sweep(base(4.5)), None, Separation(32, 0.975, (compared,), against_base, 0))
    assert head.rstrip().endswith("state       differs")
    assert [line.rstrip().rpartition("  ")[2] for line in lines] == ["COMPLETED", told, "DIVERGED", "FAILED", "yes"]


def test_where_no_interval_is_known_there_is_no_such_column() -> None:
    untold = Separation(32, 0.975, (Comparison("a", 0.75, None, None, "1 evaluation row"),), None, 0)
    assert not any("differs" in line for line in [*terminal(sweep(), None, untold), *markdown(sweep(), untold)])


def test_a_repeat_stands_below_its_trial_and_says_so() -> None:
    begins = started("again", 9).model_copy(update={"repeats": "b"})
    lines = terminal(sweep(begins, reported("again", 9, 1.0), ended("again", TrialState.COMPLETED)))
    assert [line[:15].strip().split("  ")[0] for line in lines[1:3]] == ["t01", "t09 (t01 again)"]


# Several objectives: no trial is the best alone, and the answer shows those that no other one beats


def trial(key: str, number: int, loss: float, params: int) -> list[Event]:
    return [started(key, number), reported(key, 3, loss, trainable_params=params), ended(key, TrialState.COMPLETED)]


def test_tables_have_each_objective_and_mark_the_pareto_set() -> None:
    config = '{"objective": [{"metric": "eval_loss"}, {"metric": "trainable_params"}]}'
    trials = [*trial("large", 0, 1.0, 9_000_000), *trial("small", 1, 1.5, 1_000_000), *trial("poor", 2, 2.0, 2_000_000)]
    whole = record([begun(config=config), base(3.0), *trials])
    head, *rows = (line.split() for line in terminal(whole))
    assert head == ["trial", "steps", "best", "eval_loss", "at", "trainable_params", "state", "Pareto"]
    assert rows == [
        ["t00", "3", "1.0000", "3", "9,000,000", "COMPLETED", "yes"],
        ["t01", "3", "1.5000", "3", "1,000,000", "COMPLETED", "yes"],
        ["t02", "3", "2.0000", "3", "2,000,000", "COMPLETED"],
        ["base", "0", "3.0000", "0", "-", "no", "adapter"],
    ]
    lines = markdown(whole)
    assert lines[2].startswith("- Pareto set of eval_loss and trainable_params: t00, t01;")
    assert "| t02 | 3 | 2.0000 | 3 | 2,000,000 | COMPLETED |  |" in lines


def test_a_runs_name_reads_well_and_the_short_one_fits_mlflows_table() -> None:
    assert run_name(7, PARAMS | {"r": 64, "learning_rate": 1}) == "t07 r64 a32 lr1.0e+0 attention-qv"
    assert run_name(123, PARAMS | {"target_modules": "q" * 99}) == f"t123 r16 a32 lr2.0e-4 {'q' * 24}"
    told = {"attention-qv": "qv", "all-linear": "all", "mlp": "mlp", "q_proj,v_proj": "q,v"}
    for modules, short in told.items():
        name = short_run_name(7, PARAMS | {"target_modules": modules})
        assert name == f"t07 r16 a32 lr2.0e-4 {short}" and len(name) <= 24
