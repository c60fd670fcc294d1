"""Whole sweeps of the toy from the command line: real Ray, real MLflow. See test_quickstart.py for QLoRA."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import chaos_runs as runs
import pytest
from mlflow import MlflowClient

from sweeps.record.events import TrialReported, TrialStarted, TrialState
from sweeps.record.folder import read_events
from trainables import toy
from trainables.specs import TrialSpec

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

DEADLINE = 500.0
TWO = "cluster.slots_per_host=2"
"""Trials side by side, and not more: Python takes seconds to start the process of each."""


@pytest.fixture
def home(tmp_path, empty_database) -> Path:
    """A folder to launch from, with an empty tracking database: making one takes seconds."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def start(tmp_path):
    """Starts `qsweep launch WORDS`, or another verb, in the test's folder; nothing of it outlives the test."""
    started = []

    def start(*words: str, verb: str = "launch") -> runs.Run:
        started.append(runs.start(tmp_path, verb, *words))
        return started[-1]

    yield start
    for run in started:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait(DEADLINE)


def ended(run: runs.Run) -> int:
    """The run's exit code; it has shown no traceback on the way."""
    code = run.process.wait(DEADLINE)
    told = run.err.read_text()
    assert "Traceback" not in told, told
    return code


def succeeded(run: runs.Run) -> dict:
    """What the run printed as JSON."""
    assert ended(run) == 0, run.err.read_text()
    return run.answer()


def specs(sweep: Path) -> dict[str, TrialSpec]:
    """Trial key -> what it trained."""
    events = [event for event, _ in read_events(sweep / "events.jsonl")]
    return {
        event.trial_key: TrialSpec.model_validate_json(event.spec)
        for event in events
        if isinstance(event, TrialStarted)
    }


def mlflow_runs(folder: Path, sweep: str | None = None) -> dict[str | None, list]:
    """Runs by trial key, of one sweep or of all; None stands for the parents."""
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiments = [found.experiment_id for found in client.search_experiments()]
    found: dict[str | None, list] = {}
    of = f"tags.`sweep.id` = '{sweep}'" if sweep is not None else ""
    for run in client.search_runs(experiments, of, max_results=1000):
        found.setdefault(run.data.tags.get("sweep.trial_key"), []).append(run)
    return found


def statuses(folder: Path, sweep: str | None = None) -> dict[str, set[str]]:
    """sweep.state -> run statuses of the trials in it."""
    table: dict[str, set[str]] = {}
    for key, found in mlflow_runs(folder, sweep).items():
        if key is not None:
            for run in found:
                table.setdefault(run.data.tags["sweep.state"], set()).add(run.info.status)
    return table


def test_two_launches_of_one_name_at_once_get_two_folders_and_share_a_new_database(start, tmp_path):
    """Of each its answer, its events and MLflow say the same. The second one stops no trial early: each runs to its
    end, and once it has finished, one more is asked for."""
    fifo = ("budget.trials=3", "scheduler.kind=fifo", "seed=4")
    both = [start("toy", "budget.trials=6", "seed=3", TWO), start("toy", *fifo, TWO)]
    answers = [succeeded(run) for run in both]
    assert_every_trial_ran_to_its_end(answers[1], 3)
    assert {answer["dir"] for answer in answers} == {str(tmp_path / "results" / name) for name in ("toy", "toy-2")}
    assert len({answer["sweep"] for answer in answers}) == 2
    for answer, trials in zip(answers, (6, 3), strict=True):
        runs.assert_whole(Path(answer["dir"]), f"sqlite:///{tmp_path}/mlflow.db", trials)
    parents = {run.info.run_id: run for run in mlflow_runs(tmp_path)[None]}
    assert parents.keys() == {answer["parent_run"] for answer in answers}
    assert len({run.info.experiment_id for run in parents.values()}) == 1
    for run in both:
        # That MLflow is waited for at the end is no trouble: on a slow machine it is.
        assert "tracking:" not in run.err.read_text().replace("tracking: waiting for MLflow", "")
        assert "INFO" not in run.err.read_text()
    assert_a_toy_sweep_is_the_same_everywhere(answers[0], tmp_path, parents[answers[0]["parent_run"]])
    assert_a_finished_sweep_goes_on_for_one_more_trial(start, Path(answers[1]["dir"]))


def assert_a_toy_sweep_is_the_same_everywhere(answer: dict, home: Path, parent) -> None:
    sweep = Path(answer["dir"])
    assert answer.keys() == {
        *("sweep", "dir", "parent_run", "trials", "states", "best", "base", "comparisons", "spent", "planned")
    }
    assert answer["trials"] == sum(answer["states"].values()) == 6
    assert answer["states"].keys() <= {"COMPLETED", "STOPPED"}
    assert "STOPPED" in answer["states"], "early stopping stopped nobody"
    runs.assert_every_step_once(sweep)
    assert statuses(home, answer["sweep"]) == {"COMPLETED": {"FINISHED"}, "STOPPED": {"FINISHED"}}
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["sweep.id"] == answer["sweep"]
    assert_best_is_the_lowest_curve(answer, sweep)
    assert_mlflow_agrees_on_the_best(answer, home)
    assert_what_was_spent_is_told(answer, sweep, parent)
    assert answer["base"] == {"metric": "eval_loss", "value": toy.START_LOSS, "rows": 1}
    assert parent.data.metrics["base_eval_loss"] == toy.START_LOSS
    told = answer["comparisons"]
    assert [other["unknown"] for other in told["trials"]] == [
        "1 evaluation row, at least 10 are needed for an interval"
    ] * 5
    assert "differs" not in parent.data.tags["mlflow.note.content"], "one evaluation row tells nothing"


def assert_a_finished_sweep_goes_on_for_one_more_trial(start, sweep: Path) -> None:
    extended = start(str(sweep), "budget.trials=4", verb="extend")
    assert ended(extended) == 0
    assert f"qsweep resume {sweep} goes on with it" in extended.err.read_text()
    succeeded(start(str(sweep), verb="resume"))
    assert runs.record(sweep).counts() == {"COMPLETED": 4}
    assert runs.record(sweep).is_finished


def assert_what_was_spent_is_told(answer: dict, sweep: Path, parent) -> None:
    trials = runs.record(sweep).trials.values()
    told = answer["spent"]
    assert told["steps"] == sum(trial.step for trial in trials) < told["full_steps"] == 6 * 27
    assert told["tokens"] == sum(trial.tokens for trial in trials) > 0
    assert told["gpu_hours"] == 0
    spent = {name: parent.data.metrics[name] for name in told}
    assert spent == pytest.approx(told)
    # One host, and it took a while until it was asked for.
    assert 0 < parent.data.metrics["host_seconds"] < told["seconds"]


def assert_best_is_the_lowest_curve(answer: dict, sweep: Path) -> None:
    """Curves do not cross, so a scheduler that compares at equal steps never stops the lowest."""
    best, trials = answer["best"], specs(sweep)
    assert best.keys() == {"trial_key", "run_id", "metric", "value", "step", "params"}
    spec = trials[best["trial_key"]]
    assert toy.floor(spec) == min(toy.floor(other) for other in trials.values())
    assert (best["metric"], best["step"], best["value"]) == ("eval_loss", 27, toy.loss_at(spec, 27))
    assert best["params"]["r"] == spec.adapter.r
    assert best["params"]["lora_alpha"] == spec.adapter.alpha
    assert best["params"]["learning_rate"] == spec.training.learning_rate


def assert_mlflow_agrees_on_the_best(answer: dict, folder: Path) -> None:
    best = answer["best"]
    trials = mlflow_runs(folder, answer["sweep"])
    (run,) = trials[best["trial_key"]]
    assert run.info.run_id == best["run_id"]
    assert run.data.metrics["best_eval_loss"] == best["value"]
    assert run.data.metrics["best_step"] == best["step"]
    # All other settings are params too.
    assert {name: str(value) for name, value in best["params"].items()}.items() <= run.data.params.items()
    assert {"batch_size", "schedule", "steps_per_trial"} <= run.data.params.keys()
    adapter = folder / "mlartifacts" / best["run_id"] / "artifacts" / "adapter" / "toy_adapter.json"
    assert json.loads(adapter.read_text())["step"] == best["step"]
    lowest = min(
        run.data.metrics["best_eval_loss"] for key, found in trials.items() if key is not None for run in found
    )
    assert lowest == best["value"]


def test_a_trial_that_diverges_is_failed_an_infeasible_one_is_replaced_and_two_objectives_give_a_pareto_set(
    start, home
):
    space = "{adapter.r: {choice: [300, 2, 8]}, training.learning_rate: {choice: [3.0e-4, 0.05]}}"
    grid = ["searcher={kind: grid, start_with_default: false}", "scheduler.kind=fifo", f"search_space={space}"]
    objective = "objective=[{metric: eval_accuracy, mode: max}, {metric: trainable_params}]"
    run = start("toy", *grid, objective, "budget.trials=4", TWO)
    answer = succeeded(run)
    assert "starting the hosts\n" in run.err.read_text(), "toy has no base model to load, and no rows to prepare"
    assert answer["states"] == {"COMPLETED": 2, "DIVERGED": 2, "INFEASIBLE": 2}
    assert answer["trials"] == 6
    assert_the_pareto_set_has_both_sizes(answer, run.err.read_text(), home)
    assert statuses(home) == {"COMPLETED": {"FINISHED"}, "DIVERGED": {"FAILED"}}, "what never trained is no run"
    sweep = home / "results" / "toy"
    runs.assert_whole(sweep, f"sqlite:///{home}/mlflow.db", 4)
    for key, spec in specs(sweep).items():
        (tracked,) = mlflow_runs(home)[key]
        state = "DIVERGED" if spec.training.learning_rate == 0.05 else "COMPLETED"
        assert tracked.data.tags["sweep.state"] == state
        assert {"DIVERGED": "step 5: train_loss nan", "COMPLETED": ""}[state] in tracked.data.tags[
            "mlflow.note.content"
        ]
    refused = [trial for trial in runs.record(sweep).trials.values() if trial.state is TrialState.INFEASIBLE]
    assert {trial.reason for trial in refused} == {"adapter.r: 300 exceeds 256"}
    (parent,) = mlflow_runs(home)[None]
    assert all(f"| t{trial.number:02d} | 300 |" in parent.data.tags["mlflow.note.content"] for trial in refused)


def assert_the_pareto_set_has_both_sizes(answer: dict, told: str, home: Path) -> None:
    """The toy is better with a higher rank, which has more parameters: neither trial beats the other one in both."""
    by_size = sorted(answer["pareto"], key=lambda each: each["metrics"]["trainable_params"])
    assert [each["params"]["r"] for each in by_size] == [2, 8]
    assert "Pareto set of eval_accuracy and trainable_params" in told
    best, better = answer["best"], by_size[1]["metrics"]["eval_accuracy"]
    assert better > by_size[0]["metrics"]["eval_accuracy"]
    assert (best["metric"], best["value"], best["params"]["r"]) == ("eval_accuracy", better, 8)
    (run,) = mlflow_runs(home)[best["trial_key"]]
    assert run.data.metrics["best_eval_accuracy"] == better
    record = runs.record(home / "results" / "toy")
    assert run.data.metrics["best_eval_loss"] == record.trials[best["trial_key"]].value("eval_loss")


def assert_every_trial_ran_to_its_end(answer: dict, trials: int) -> None:
    assert answer["states"] == {"COMPLETED": trials}
    assert_best_is_the_lowest_curve(answer, Path(answer["dir"]))
    points: dict[str, list[int]] = {}
    for event in runs.events(Path(answer["dir"])):
        if isinstance(event, TrialReported):
            points.setdefault(event.trial_key, []).append(event.step)
    assert list(points.values()) == [[3, 9, 27]] * trials
