"""How many epochs a trial is: in the plan as far as it can be known, and after the data is ready."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_files import QLORA, write_rows

from sweeps.config import load, resource
from sweeps.config.load import Sweep
from sweeps.config.number_words import epochs
from sweeps.planning import this_machine
from sweeps.report.plan_lines import plan_lines


def sweep(folder: Path, text: str = "", *changes: str) -> Sweep:
    write_rows(folder)
    (folder / "s.yaml").write_text(QLORA + text)
    return load.load("s.yaml", changes, folder)


@pytest.mark.parametrize(
    ("steps", "rows", "train_rows", "says"),
    [
        (None, 336, 672, "a trial trains on 336 rows: 0.5 epochs of all 672 rows"),
        (1, 8, 8, "a trial of 1 step trains on 8 rows: 1 epoch of all 8 rows"),
        (9, 324, 2_000_000, "a trial of 9 steps trains on 324 rows: 0.00016 epochs of all 2,000,000 rows"),
        (900, 7200, 600, "a trial of 900 steps trains on 7,200 rows: 12 epochs of all 600 rows"),
        (81, 324, None, "a trial of 81 steps trains on 324 rows; how many epochs that is, launch says when"),
    ],
)
def test_epochs_in_words(steps: int, rows: int, train_rows: int | None, says: str) -> None:
    found = epochs(steps, rows, train_rows)
    assert found.startswith(says) if train_rows is None else found == says


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("training: {gradient_accumulation_steps: 2}\n", 648),
        ("search_space: {training.batch_size: {choice: [2, 16]}}\n", 336),
    ],
)
def test_rows_of_a_trial_follow_its_steps_and_batch_or_are_equal_whatever_the_batch(
    tmp_path: Path, text: str, rows: int
) -> None:
    assert resource.rows_per_trial(sweep(tmp_path, text).config) == rows


def test_the_plan_says_how_many_epochs_a_trial_is(tmp_path: Path) -> None:
    planned = this_machine.plan_here(sweep(tmp_path))
    assert (planned.rows_per_trial, planned.train_rows) == (324, 25)
    assert planned.as_json()["epochs"] == 12.96
    assert "      a trial of 81 steps trains on 324 rows: 13 epochs of all 25 rows" in plan_lines(planned)


@pytest.mark.parametrize(("to_launch", "told"), [(False, True), (True, False)])
def test_a_plan_speaks_of_the_rows_and_a_launch_once_all_are_ready(tmp_path: Path, to_launch: bool, told: bool) -> None:
    planned = this_machine.plan_here(sweep(tmp_path), to_launch)
    assert any("5 rows to evaluate on" in warning for warning in planned.warnings) == told
    assert any("epochs" in line for line in plan_lines(planned)) == told
