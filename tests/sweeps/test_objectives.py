"""A whole sweep with two objectives: its answer is a Pareto set, and promotion asks which of it is wanted."""

from __future__ import annotations

import shutil

import chaos_runs as runs
import pytest
from mlflow import MlflowClient

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

OBJECTIVE = "objective=[{metric: eval_accuracy, mode: max}, {metric: trainable_params}]"
SPACE = "search_space={adapter.r: {choice: [2, 8, 32, 128]}}"


def test_two_objectives_give_a_pareto_set(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    words = ["toy", OBJECTIVE, SPACE, "searcher={kind: grid, start_with_default: false}", "scheduler={kind: fifo}"]
    short = ("budget.trials=4", "budget.steps_per_trial=9", "cluster.slots_per_host=2")
    run = runs.start(tmp_path, "launch", *words, *short)
    assert run.wait() == 0, run.err.read_text()
    answer = run.answer()

    # The toy is better with a higher rank, which has more parameters: no trial beats another one in both.
    by_size = sorted(answer["pareto"], key=lambda each: each["metrics"]["trainable_params"])
    assert [each["params"]["r"] for each in by_size] == [2, 8, 32, 128]
    accuracies = [each["metrics"]["eval_accuracy"] for each in by_size]
    assert accuracies == sorted(accuracies)
    best = answer["best"]
    assert (best["metric"], best["value"], best["params"]["r"]) == ("eval_accuracy", accuracies[-1], 128)
    assert "Pareto set of eval_accuracy and trainable_params" in run.err.read_text()

    logged = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(best["run_id"]).data.metrics
    assert logged["best_eval_accuracy"] == best["value"]
    record = runs.record(tmp_path / "results" / "toy")
    assert logged["best_eval_loss"] == record.trials[best["trial_key"]].value("eval_loss")

    refused = runs.start(tmp_path, "promote", "toy", "--model", "toys")
    assert refused.wait() == 2, refused.err.read_text()
    assert "--trial KEY" in refused.err.read_text() and "--metric NAME" in refused.err.read_text()
