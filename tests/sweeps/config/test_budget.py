"""The budget's fields together, as a file gives them."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_files import TOY

from sweeps.config import load
from sweeps.config.load import Sweep
from sweeps.errors import ConfigError


def loaded(folder: Path, text: str, *changes: str) -> Sweep:
    (folder / "s.yaml").write_text(TOY + text)
    return load.load("s.yaml", changes, folder)


def wrong(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text)
    return list(caught.value.problems)


def test_a_trial_is_as_long_as_one_field_says(tmp_path: Path) -> None:
    assert wrong(tmp_path, "budget: {steps_per_trial: 9, examples_per_trial: 90, epochs_per_trial: 1.0}\n") == [
        "budget: steps_per_trial and examples_per_trial and epochs_per_trial say how long a trial is: give one of them"
    ]


@pytest.mark.parametrize("given", ["steps_per_trial: 27", "epochs_per_trial: 2.0"])
def test_an_override_of_a_trial_s_length_takes_the_place_of_the_file_s(tmp_path: Path, given: str) -> None:
    text = f"budget: {{trials: 4, {given}}}\n"
    by_examples = loaded(tmp_path, text, "budget.examples_per_trial=40").config.budget
    assert (by_examples.trials, by_examples.examples_per_trial) == (4, 40)
    by_steps = loaded(tmp_path, text, "budget.steps_per_trial=9").config.budget
    assert (by_steps.steps_per_trial, by_steps.examples_per_trial, by_steps.epochs_per_trial) == (9, None, None)


def test_an_override_that_empties_a_length_keeps_the_file_s_other_one(tmp_path: Path) -> None:
    budget = loaded(tmp_path, "budget: {steps_per_trial: 27}\n", "budget.examples_per_trial=null").config.budget
    assert (budget.steps_per_trial, budget.examples_per_trial) == (27, None)


def test_auto_needs_a_budget_of_time(tmp_path: Path) -> None:
    assert wrong(tmp_path, "budget: {trials: auto}\n") == [
        "budget.trials: auto fills a budget of time: give budget.wall_clock or budget.gpu_hours with it"
    ]
    for clock in ("wall_clock: 1h", "gpu_hours: 2.0"):
        assert loaded(tmp_path, f"budget: {{trials: auto, {clock}}}\n").config.budget.trials == "auto"


def test_a_type_of_gpu_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path) -> None:
    (problem,) = wrong(tmp_path, "cluster: {gpu: H1000}\n")
    assert problem.startswith("cluster.gpu: 'H1000'")
    assert "H100, H200" in problem
    assert loaded(tmp_path, "cluster: {gpu: h100}\n").config.cluster.gpu == "H100"
