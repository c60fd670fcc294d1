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
from sweeps.record.events import TrialState
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
    answers = samples.read(folder / winning.adapter / samples.OF_TRIAL)
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
