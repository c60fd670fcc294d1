"""How many epochs a trial is: in the plan as far as it can be known, and after the data is ready."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sweep_files import QLORA, write_rows

from sweeps.config import load
from sweeps.config.load import Sweep
from sweeps.config.model import SweepConfig
from sweeps.config.number_words import epochs
from sweeps.planning import this_machine
from sweeps.planning.forecast import rows_per_trial
from sweeps.report.plan_lines import plan_lines

RATES = "search_space: {training.learning_rate: {loguniform: [1.0e-5, 1.0e-3]}"


def sweep(folder: Path, text: str = "", *changes: str) -> Sweep:
    write_rows(folder)
    (folder / "s.yaml").write_text(QLORA + text)
    return load.load("s.yaml", changes, folder)


@pytest.mark.parametrize(
    ("steps", "rows", "train_rows", "says"),
    [
        (243, (972, 972), 7473, "a trial of 243 steps trains on 972 rows: 0.13 epochs of all 7,473 rows"),
        (
            243,
            (972, 3888),
            7473,
            "a trial of 243 steps trains on 972 to 3,888 rows: 0.13 to 0.52 epochs of all 7,473 rows",
        ),
        (None, (336, 336), 672, "a trial trains on 336 rows: 0.5 epochs of all 672 rows"),
        (1, (8, 8), 8, "a trial of 1 step trains on 8 rows: 1 epoch of all 8 rows"),
        (81, (324, 324), 2_000_000, "a trial of 81 steps trains on 324 rows: 0.00016 epochs of all 2,000,000 rows"),
        (900, (7200, 7200), 600, "a trial of 900 steps trains on 7,200 rows: 12 epochs of all 600 rows"),
        (81, (324, 324), None, "a trial of 81 steps trains on 324 rows; how many epochs that is, launch says when"),
    ],
)
def test_epochs_in_words(steps: int, rows: tuple[int, int], train_rows: int | None, says: str) -> None:
    found = epochs(steps, rows, train_rows)
    assert found.startswith(says) if train_rows is None else found == says


def in_steps(config: SweepConfig) -> SweepConfig:
    """The sweep as a version saved it that compared trials after equal steps, whatever their batch."""
    budget = config.budget.model_copy(update={"examples_per_trial": None, "steps_per_trial": 81})
    return config.model_copy(update={"budget": budget})


@pytest.mark.parametrize(
    ("space", "rows"),
    [
        ("", (324, 324)),
        (", training.batch_size: {choice: [2, 16]}", (162, 1296)),
        (", training.batch_size: {choice: [8, 16]}", (324, 1296)),
        (", training.gradient_accumulation_steps: {randint: [1, 4]}, training.batch_size: {choice: [2]}", (162, 1296)),
    ],
)
def test_rows_of_a_trial_follow_the_space_and_the_default_that_runs_too(
    tmp_path: Path, space: str, rows: tuple[int, int]
) -> None:
    found = sweep(tmp_path, f"{RATES}{space}}}\n")
    assert rows_per_trial(in_steps(found.config), found.space) == rows
    if space:
        assert rows_per_trial(found.config, found.space) == (336, 336)


def test_without_the_default_only_the_space_counts(tmp_path: Path) -> None:
    text = (
        f"{RATES}, training.batch_size: {{choice: [8, 16]}}}}\nsearcher: {{kind: random, start_with_default: false}}\n"
    )
    found = sweep(tmp_path, text)
    assert rows_per_trial(in_steps(found.config), found.space) == (648, 1296)


def test_the_plan_says_how_many_epochs_a_trial_is(tmp_path: Path) -> None:
    planned = this_machine.plan_here(sweep(tmp_path))
    assert (planned.rows_per_trial, planned.train_rows) == ((324, 324), 25)
    assert planned.as_json()["epochs"] == (12.96, 12.96)
    assert "      a trial of 81 steps trains on 324 rows: 13 epochs of all 25 rows" in plan_lines(planned)


def test_the_plan_says_that_rows_of_the_hub_are_not_counted_yet(tmp_path: Path) -> None:
    planned = this_machine.plan_here(sweep(tmp_path, "", "data.train=openai/gsm8k:main"))
    assert (planned.train_rows, planned.as_json()["epochs"]) == (None, None)
    assert any(line.endswith("launch says when the data is ready") for line in plan_lines(planned))


@pytest.mark.parametrize(("to_launch", "told"), [(False, True), (True, False)])
def test_a_plan_speaks_of_the_rows_and_a_launch_once_all_are_ready(tmp_path: Path, to_launch: bool, told: bool) -> None:
    planned = this_machine.plan_here(sweep(tmp_path), to_launch)
    assert any("5 rows to evaluate on" in warning for warning in planned.warnings) == told
    assert any("epochs" in line for line in plan_lines(planned)) == told


def test_the_toy_has_no_epochs() -> None:
    planned: Any = this_machine.plan_here(load.load("toy", [], Path.cwd()))
    assert planned.rows_per_trial is None
    assert not any("epoch" in line for line in plan_lines(planned))
