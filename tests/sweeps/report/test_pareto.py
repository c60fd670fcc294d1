"""With several objectives no trial is the best alone: the answer shows those that no other one beats."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from sweep_events import base, ended, record, reported, started

from sweeps.record.events import Event, SweepStarted, TrialReported, TrialState
from sweeps.record.selection import choose
from sweeps.record.sweep_record import SweepRecord
from sweeps.report import best_compared, trial_tables
from sweeps.report.live_table import describe
from trainables.contract import Metrics

LOSS_AND_SIZE = '{"objective": [{"metric": "eval_loss"}, {"metric": "trainable_params"}]}'
LOSS_AND_ACCURACY = '{"objective": [{"metric": "eval_loss"}, {"metric": "eval_accuracy", "mode": "max"}]}'


def trial(key: str, number: int, metrics: Metrics, params: int) -> list[Event]:
    event = reported(key, 3, metrics["eval_loss"])
    report = event.report.model_copy(
        update={"metrics": metrics, "best_metrics": metrics, "trainable_params": params},
    )
    return [started(key, number), event.model_copy(update={"report": report}), ended(key, TrialState.COMPLETED)]


def sweep(config: str) -> SweepRecord:
    return record(
        [
            SweepStarted(sweep_id="toy-1", time=0.0, config=config),
            base(3.0),
            *trial("large", 0, {"eval_loss": 1.0, "eval_accuracy": 0.5}, 9_000_000),
            *trial("small", 1, {"eval_loss": 1.5, "eval_accuracy": 0.25}, 1_000_000),
            *trial("poor", 2, {"eval_loss": 2.0, "eval_accuracy": 0.125}, 2_000_000),
        ]
    )


def table(whole: SweepRecord) -> list[list[str]]:
    file = io.StringIO()
    Console(file=file, width=140).print(trial_tables.terminal(whole, trial_tables.order(whole)))
    return [line.split() for line in file.getvalue().splitlines()]


def test_the_table_has_each_objective_and_marks_the_pareto_set() -> None:
    head, *rows = table(sweep(LOSS_AND_SIZE))
    assert head == ["trial", "steps", "best", "eval_loss", "at", "trainable_params", "state", "Pareto"]
    assert rows == [
        ["t00", "3", "1.0000", "3", "9,000,000", "COMPLETED", "yes"],
        ["t01", "3", "1.5000", "3", "1,000,000", "COMPLETED", "yes"],
        ["t02", "3", "2.0000", "3", "2,000,000", "COMPLETED"],
        ["base", "0", "3.0000", "0", "-", "no", "adapter"],
    ]


def test_the_note_in_mlflow_has_them_too() -> None:
    whole = sweep(LOSS_AND_SIZE)
    lines = trial_tables.markdown(whole, choose(whole.trials.values(), whole.objective)).splitlines()
    assert lines[2].startswith("- Pareto set of eval_loss and trainable_params: t00, t01;")
    assert "| trial | steps | best_eval_loss | trainable_params | state | Pareto |" in lines
    assert "| t01 | 3 | 1.5000 | 1,000,000 | COMPLETED | yes |" in lines
    assert "| t02 | 3 | 2.0000 | 2,000,000 | COMPLETED |  |" in lines
    assert "| base | 0 | 3.0000 | - | no adapter |  |" in lines


@pytest.mark.parametrize(
    ("config", "answer"),
    [
        ("{}", None),
        (LOSS_AND_ACCURACY, "Pareto set of eval_loss and eval_accuracy: t00;"),
        (LOSS_AND_SIZE, "Pareto set of eval_loss and trainable_params: t00, t01;"),
    ],
)
def test_the_closing_lines_name_the_pareto_set(config: str, answer: str | None) -> None:
    line = best_compared.pareto_set(sweep(config))
    assert line is None if answer is None else line is not None and line.startswith(answer)


def test_a_report_shows_the_objectives_that_it_has() -> None:
    whole = sweep(LOSS_AND_ACCURACY)
    event = next(
        event
        for event in trial("small", 1, {"eval_loss": 1.5, "eval_accuracy": 0.25}, 1)
        if isinstance(event, TrialReported)
    )
    assert describe(event, whole) == "t01 step 3: eval_loss 1.5000, eval_accuracy 0.2500 (its best)"
