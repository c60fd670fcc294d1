"""Whole sweeps whose answers are scored: the score chooses the trial, whatever stops the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import chaos_runs as runs
import pytest
from mlflow import MlflowClient
from own import scored_toy

from sweeps.record import samples
from sweeps.record.events import TrialStarted, TrialState
from trainables.specs import TrialSpec

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

SWEEP = (
    "toy",
    "trainable=own.scored_toy",
    # The loss is lowest at 3e-4, and most answers are right at 1e-3: the default, which is trained to its end.
    "training.learning_rate=0.001",
    "search_space={training.learning_rate: {choice: [0.0001, 0.0003, 0.0005]}}",
    "searcher={kind: grid}",
    "scheduler={kind: asha, grace_steps: 3}",
    "objective={metric: exact_match, mode: max}",
    "evaluation.metrics=[exact_match]",
    "budget.trials=4",
    "budget.steps_per_trial=9",
    "cluster.slots_per_host=2",
)


def test_the_score_of_each_finalist_chooses_whatever_stopped_the_others(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    shutil.copytree(Path(scored_toy.__file__).parent, tmp_path / "own")
    run = runs.start(tmp_path, "launch", *SWEEP, "evaluation.when=best")
    assert run.wait() == 0, run.err.read_text()
    best, told = run.answer()["best"], run.err.read_text()
    assert (best["metric"], best["params"]["learning_rate"], best["step"]) == ("exact_match", 1e-3, 9)
    assert f"exact_match: best (t00) {10 * best['value']:.0f} of 10 answers right (base 1)" in told

    folder = tmp_path / "results" / "toy"
    trials = runs.record(folder).trials
    lowest = min(trials.values(), key=lambda trial: trial.value("eval_loss"))
    assert f"t{lowest.number:02d} has the lowest eval_loss ({lowest.value('eval_loss'):.4f})" in told
    assert (lowest.params["learning_rate"], lowest.state) == (3e-4, TrialState.COMPLETED)
    assert {trial.state for trial in trials.values()} == {TrialState.COMPLETED, TrialState.STOPPED}
    for trial in trials.values():
        right = scored_toy.right_answers(TrialSpec.model_validate_json(trial.spec), trial.best_step or 0)
        assert trial.value("exact_match") == right / 10, "a trial has the same answers at a step, whenever it is scored"
    winning = trials[best["trial_key"]]
    answers = samples.read_samples(folder / winning.adapter / samples.OF_TRIAL)
    answered = sum(each.scores["exact_match"] for each in answers)
    assert answered == 10 * best["value"] == 10 * winning.value("exact_match")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    logged = client.get_run(best["run_id"]).data.metrics
    assert (logged["best_exact_match"], logged["best_eval_loss"]) == (best["value"], winning.value("eval_loss"))
    assert "samples.jsonl" in [file.path for file in client.list_artifacts(best["run_id"])]
    parent = run.answer()["parent_run"]
    assert client.get_run(parent).data.metrics["base_exact_match"] == 0.1
    assert "base_samples.jsonl" in [file.path for file in client.list_artifacts(parent)]
    assert json.loads((folder / "config.json").read_text())["config"]["scheduler"]["metric"] == "eval_loss"


def test_a_broken_score_ends_the_sweep_with_its_first_report_and_resume_makes_up_for_what_is_missing(
    tmp_path, empty_database
):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    shutil.copytree(Path(scored_toy.__file__).parent, tmp_path / "own")
    limit, folder = tmp_path / "own" / "breaks_at", tmp_path / "results" / "toy"
    limit.write_text("1")
    # t00 has steps left when the base fails: the host evaluates the base between the first report and the next pass.
    run = runs.start(tmp_path, "launch", *SWEEP, "training.step_seconds=0.5")
    assert run.wait() == 2, run.err.read_text()
    told = "evaluation.metrics: the answers of the base cannot be scored: row 0: ValueError: no number: mend"
    assert f"error: {told}" in run.err.read_text()
    assert any(trial.state is TrialState.PAUSED for trial in runs.record(folder).trials.values())
    assert runs.record(folder).base is None

    limit.write_text("9")
    run = runs.start(tmp_path, "resume", str(folder))
    assert run.wait() == 1, run.err.read_text()
    trials, told = runs.record(folder).trials, run.err.read_text()
    assert {trial.state for trial in trials.values()} <= {TrialState.COMPLETED, TrialState.STOPPED}
    (lacking,) = [trial for trial in trials.values() if trial.lacking]
    assert (lacking.number, lacking.state, lacking.best_step) == (0, TrialState.COMPLETED, 9)
    assert "(its best); no exact_match: row 0: ValueError: no number" in told
    assert "\nt00: no exact_match: row 0: ValueError: no number\n" in told
    assert "scores are missing; mend what gives them, and score the kept adapters again with:\n" in told
    best = run.answer()["best"]
    assert best is None or best["trial_key"] != lacking.trial_key
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiments = [each.experiment_id for each in client.search_experiments()]

    def logged() -> dict[str, float]:
        (found,) = client.search_runs(experiments, f"tags.`sweep.trial_key` = '{lacking.trial_key}'")
        return found.data.metrics

    assert "best_eval_loss" in logged() and "exact_match" not in logged()

    limit.unlink()
    begun = sum(isinstance(event, TrialStarted) for event in runs.events(folder))
    run = runs.start(tmp_path, "resume", str(folder))
    assert run.wait() == 0, run.err.read_text()
    assert "scoring the answers of 1 trial: t00" in run.err.read_text()
    assert begun == sum(isinstance(event, TrialStarted) for event in runs.events(folder)), "nothing is trained again"
    made_up = runs.record(folder).trials[lacking.trial_key]
    assert (made_up.lacking, made_up.value("exact_match"), logged()["exact_match"]) == ({}, 0.9, 0.9)
    assert run.answer()["best"]["trial_key"] == lacking.trial_key
    run = runs.start(tmp_path, "resume", str(folder))
    assert run.wait() == 0 and "finished already: no trial is run" in run.err.read_text()
