"""A refit is a sweep of one trial: its settings and its seed are those of the chosen trial, its schedule is longer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sweep_files
import tiny_models
from sweep_events import ended, reported
from typer.testing import CliRunner

from sweeps import launch as launching
from sweeps import saved_sweep
from sweeps.cli import app
from sweeps.config import points, resource
from sweeps.config.load import LoadedSweep
from sweeps.config.model import SweepConfig
from sweeps.errors import ConfigError, SweepError
from sweeps.record.events import DataPrepared, Event, SweepEnded, SweepStarted, TrialStarted, TrialState, to_line
from sweeps.record.folder import SweepFolder
from sweeps.supply.trial_source import planned
from sweeps.tracking import run_tags
from trainables.data import dataset, sources
from trainables.specs import DataSpec, TrialSpec

NOW = 10_000.0


def of_trials(sweep: LoadedSweep, folder: Path, *values: dict[str, Any], **data: Any) -> SweepFolder:
    """A finished sweep with a trial for each point, the last one the best, in `folder`/results/NAME."""
    config, there = sweep.config, SweepFolder(folder / "results" / sweep.config.name)
    prints = saved_sweep.fingerprints(sweep, {})
    events: list[Event] = [
        SweepStarted(time=1.0, config=config.model_dump_json(), sweep_id="x-1", fingerprints=prints),
        DataPrepared(time=2.0, summary=data),
    ]
    for number, point in enumerate(values):
        trial = planned(number, config, points.completed(config.base, sweep.space, point), prints)
        key, steps = trial.trial_key, trial.spec.steps
        events.append(
            TrialStarted(
                time=3.0, trial_key=key, number=number, params=dict(trial.params), point=dict(trial.point),
                spec=trial.spec.model_dump_json(),
            )
        )  # fmt: skip
        events += [reported(key, steps, 1.0 / (number + 1), time=4.0), ended(key, TrialState.COMPLETED)]
    events.append(SweepEnded(time=100.0, reason="finished"))
    there.path.mkdir(parents=True)
    there.config.write_text(json.dumps(saved_sweep.document(config, "x-1")))
    there.events.write_text("".join(to_line(event) + "\n" for event in events))
    return there


def refit(folder: SweepFolder, trial: str | None = None, all_rows: bool = False, **length: float) -> LoadedSweep:
    return launching.refit(folder, trial, length, all_rows, NOW)


def only(sweep: LoadedSweep) -> TrialSpec:
    """What the refit's one trial trains."""
    (point,) = points.beginning(sweep.config, sweep.space)
    return planned(0, sweep.config, point, {}).spec


def told(caught: pytest.ExceptionInfo[ConfigError]) -> str:
    (line,) = caught.value.problems
    return line


SEARCHED = """
name: x
trainable: toy
training: {schedule: cosine}
scheduler: {kind: asha, grace_steps: 2, reduction_factor: 3}
searcher: {kind: tpe}
budget: {trials: 9, steps_per_trial: 18, wall_clock: 1h, target: 0.1, patience: 3, disk: 5GB}
search_space:
  adapter.r: {choice: [4, 8]}
  adapter.alpha_over_r: {choice: [1, 2]}
  adapter.target_modules: {choice: [attention-qv, [q_proj, v_proj]]}
  training.learning_rate: {loguniform: [1.0e-4, 1.0e-2]}
"""
BEST: dict[str, Any] = {"adapter.r": 8, "adapter.alpha_over_r": 1, "adapter.target_modules": ("q_proj", "v_proj")}


def test_the_best_trial_is_trained_anew_for_longer_with_its_own_seed(tmp_path):
    sweep = sweep_files.loaded(tmp_path, SEARCHED, "cluster.slots_per_host=3")
    first = of_trials(sweep, tmp_path, {"adapter.r": 4}, BEST)
    found = refit(first, steps_per_trial=54)
    before = TrialSpec.model_validate_json(sweeps_spec(first, 1))
    assert only(found) == before.model_copy(update={"steps": 54})
    assert resource.of(found.config).points == (2, 6, 18, 54)
    config = found.config
    assert (config.name, config.budget.count, config.cluster.hosts) == ("x-refit", 1, 1)
    assert (config.cluster.slots_per_host, config.experiment) == ("auto", "x")
    kept = config.budget.model_dump(include={"wall_clock", "gpu_hours", "target", "patience", "disk"})
    assert kept == {"wall_clock": None, "gpu_hours": None, "target": None, "patience": None, "disk": "5GB"}
    assert Path(config.storage) == tmp_path / "results"


def sweeps_spec(folder: SweepFolder, number: int) -> str:
    from sweeps.record.folder import read_events

    started = [event for event, _ in read_events(folder.events) if isinstance(event, TrialStarted)]
    return started[number].spec


def test_without_a_length_it_takes_the_next_report_point_and_a_named_trial_is_taken_in_place_of_the_best(tmp_path):
    first = of_trials(sweep_files.loaded(tmp_path, SEARCHED), tmp_path, {"adapter.r": 4}, BEST)
    found = refit(first, "t00")
    assert only(found).adapter.r == 4
    assert only(found).steps == 3 * 18


def test_a_refit_of_a_refit_keeps_its_name(tmp_path):
    first = of_trials(sweep_files.loaded(tmp_path, SEARCHED), tmp_path, BEST)
    second = of_trials(refit(first, steps_per_trial=20), tmp_path, BEST)
    assert refit(second).config.name == "x-refit"


@pytest.mark.parametrize("batch", [4, 16])
def test_a_searched_batch_keeps_the_report_points_of_equal_examples(tmp_path, batch):
    space = "search_space: {training.batch_size: {choice: [4, 16]}}"
    text = f"name: x\ntrainable: toy\n{space}\nscheduler: {{grace_steps: 4}}\nbudget: {{steps_per_trial: 36}}\n"
    sweep = sweep_files.loaded(tmp_path, text)
    points_before = resource.of(sweep.config).points
    found = refit(of_trials(sweep, tmp_path, {"training.batch_size": batch}), steps_per_trial=54)
    assert only(found).steps == 54
    assert resource.of(found.config).points[:3] == points_before[:3] == (16, 48, 144)


def test_who_a_refit_comes_from_is_in_its_file_and_in_the_tags_of_its_run(tmp_path):
    first = of_trials(sweep_files.loaded(tmp_path, SEARCHED), tmp_path, BEST)
    config = refit(first).config
    key = planned(0, config, BEST, {}).trial_key
    origin = config.refit_of
    assert origin is not None
    assert (origin.sweep, origin.trial) == ("x-1", "t00")
    tags = run_tags.sweep_made("x-refit-2", config)
    assert (tags[run_tags.REFIT_OF], tags[run_tags.REFIT_OF_TRIAL]) == ("x-1", origin.trial_key)
    assert len(key) == len(origin.trial_key)
    assert SweepConfig.model_validate(config.model_dump(mode="json")) == config
    plain, _ = sweep_files.toy()
    assert run_tags.REFIT_OF not in run_tags.sweep_made("x-1", plain)


def test_a_sweep_without_a_value_and_a_trial_that_is_not_there_are_told(tmp_path):
    none = of_trials(sweep_files.loaded(tmp_path, SEARCHED), tmp_path)
    with pytest.raises(SweepError, match="there is no best trial to refit: no trial began"):
        refit(none)
    with pytest.raises(ConfigError) as caught:
        refit(none, "t07")
    assert told(caught) == "the sweep has no trial t07: none has begun yet"


def test_two_lengths_are_refused(tmp_path):
    first = of_trials(sweep_files.loaded(tmp_path, SEARCHED), tmp_path, BEST)
    with pytest.raises(ConfigError) as caught:
        refit(first, steps_per_trial=5, epochs_per_trial=2.0)
    assert told(caught) == "budget: steps_per_trial and epochs_per_trial say how long a trial is: give one of them"


# Rows

ROWS = sweep_files.QLORA + "search_space: {adapter.r: {choice: [4, 8]}}\n"


def rows_of(sweep: LoadedSweep, part: sources.SplitName) -> list[str]:
    data = sweep.config.data
    assert data is not None
    return [str(placed.row["question"]) for placed in sources.part_of(data, part)]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are looked at, and no model is loaded: its fingerprint is its name."""
    from trainables import qlora

    monkeypatch.setattr(qlora.model_source, "fingerprint", lambda model: model.source)


@pytest.mark.usefixtures("model")
def test_rows_that_changed_since_are_refused(tmp_path):
    sweep_files.write_rows(tmp_path)
    first = of_trials(sweep_files.loaded(tmp_path, ROWS), tmp_path, {})
    assert only(refit(first)).steps == 243
    sweep_files.write_rows(tmp_path, rows=31)
    with pytest.raises(ConfigError) as caught:
        refit(first)
    assert told(caught) == "data.train: its content is not what the sweep began with: launch a new sweep"


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("held_out", [True, False])
def test_all_rows_are_those_to_train_on_and_to_evaluate_on_and_only_the_test_rows_are_evaluated(tmp_path, held_out):
    sweep_files.write_rows(tmp_path)
    sweep_files.write_rows(tmp_path, "test.jsonl", 7, first=100)
    sweep_files.write_rows(tmp_path, "eval.jsonl", 9, first=50)
    changes = ["data.test=test.jsonl", *([] if held_out else ["data.eval=eval.jsonl"])]
    sweep = sweep_files.loaded(tmp_path, ROWS, *(change.replace("=", f"={tmp_path}/") for change in changes))
    found = refit(of_trials(sweep, tmp_path, {}), all_rows=True, epochs_per_trial=2.0)
    trained = {f"q{n}" for n in (*range(30), *(() if held_out else range(50, 59)))}
    assert set(rows_of(found, "train")) == trained
    assert len(rows_of(found, "train")) == len(trained)
    assert rows_of(found, "eval") == rows_of(found, "test") == [f"q{n}" for n in range(100, 107)]
    assert found.preview.train_rows == len(trained)
    assert found.preview.eval_rows == 7
    steps = -(-2 * len(trained) // 4)
    assert only(found).steps == steps
    assert resource.of(found.config).steps(found.config.training) == (steps,), "evaluated once: no step is chosen by it"


@pytest.mark.usefixtures("model")
def test_test_rows_drawn_from_the_same_file_stay_out_of_all_rows(tmp_path):
    sweep_files.write_rows(tmp_path)
    sweep = sweep_files.loaded(tmp_path, ROWS, "data.test_examples=6")
    found = refit(of_trials(sweep, tmp_path, {}, test_rows=6), all_rows=True)
    tested = rows_of(sweep, "test")
    assert rows_of(found, "eval") == tested
    assert set(rows_of(found, "train")) == {f"q{n}" for n in range(30)} - set(tested)
    assert (found.preview.train_rows, found.preview.eval_rows, found.preview.test_rows) == (24, 6, 6)


@pytest.mark.usefixtures("model")
def test_all_rows_without_test_rows_are_refused(tmp_path):
    sweep_files.write_rows(tmp_path)
    with pytest.raises(ConfigError) as caught:
        refit(of_trials(sweep_files.loaded(tmp_path, ROWS), tmp_path, {}), all_rows=True)
    rule = "the rows held out are trained on, and there is no data.test to evaluate on"
    assert told(caught) == f"--all-rows: {rule}: leave --all-rows out, or launch a sweep that has data.test"


def test_a_sweep_that_chooses_among_trials_may_not_have_all_rows(tmp_path):
    sweep_files.write_rows(tmp_path)
    (line,) = sweep_files.refused(tmp_path, ROWS, "data.all_rows=true", "data.test_examples=5")
    assert line == "data.all_rows: is for a trial that was chosen already: qsweep refit SWEEP --all-rows"


def test_prepared_rows_are_all_of_train_and_the_test_rows_for_evaluation(tmp_path):
    sweep_files.write_rows(tmp_path)
    sweep_files.write_rows(tmp_path, "test.jsonl", 7, first=100)
    data = DataSpec(
        train=str(tmp_path / "rows.jsonl"), test=str(tmp_path / "test.jsonl"), prompt="{question}",
        completion="{answer}", eval_examples=5, hold_out="drawn",
    )  # fmt: skip
    own, every = (
        dataset.prepare(each, tiny_models.tokenizer(), tmp_path).summary
        for each in (data, data.model_copy(update={"all_rows": True}))
    )
    assert (own.train_rows, own.eval_rows, own.test_rows) == (25, 5, 7)
    assert (every.train_rows, every.eval_rows, every.test_rows) == (30, 7, 7)
    assert (every.eval_rows_in_train, every.test_rows_in_eval, every.test_rows_in_train) == (0, 0, 0)
    assert not [line for line in every.warnings if "chose" in line]


def test_the_command_plans_it_and_starts_nothing(tmp_path):
    first = of_trials(sweep_files.loaded(tmp_path, SEARCHED), tmp_path, BEST)
    told = CliRunner().invoke(app, ["refit", str(first.path), "--steps", "54", "--plan", "--json"])
    plan = json.loads(told.stdout.splitlines()[-1])
    assert (plan["trials"], plan["points"], plan["expected_steps"]) == (1, [2, 6, 18, 54], 54)
    assert told.exit_code == 0
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["x"]
