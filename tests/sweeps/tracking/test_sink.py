"""What MLflow shows of a sweep. MLflow is real, on SQLite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from sweep_events import begun, ended, parked, reported, scored, started
from sweep_events import history as steps_between
from tracked_sweeps import (
    NAMED,
    PARAMS,
    SPEC,
    SUMMARY,
    SWEEP,
    deliver,
    everything,
    files,
    history,
    keep_adapter,
    over,
    run_of,
    runs,
    sweep_events,
    with_digest,
)

from sweeps.config.points import settings
from sweeps.record import digests, samples
from sweeps.record.events import TrialState
from sweeps.tracking import run_tags
from sweeps.tracking.client import Runs
from sweeps.tracking.failures import is_refusal
from sweeps.tracking.sink import MlflowSink
from trainables.contract import AnsweredRow


def test_a_sweep_is_one_parent_and_one_child_per_trial(whole):
    sink, client = whole.sink, whole.client
    assert len(runs(client)) == 3
    parent = run_of(client, None)
    tags = parent.data.tags
    assert (parent.info.run_name, tags["sweep.name"], tags["sweep.id"]) == (SWEEP, "demo", SWEEP)
    assert "mlflow.parentRunId" not in tags
    for key in ("aaaa", "bbbb"):
        child = run_of(client, key)
        assert (child.data.tags["sweep.id"], child.data.tags["mlflow.parentRunId"]) == (SWEEP, parent.info.run_id)
        assert child.info.experiment_id == parent.info.experiment_id == sink.experiment_id
        assert sink.run_ids[key] == child.info.run_id
    assert client.get_experiment(sink.experiment_id).name == "family"
    assert sink.parent_run == parent.info.run_id


def text(client: MlflowClient, run_id: str, path: str) -> str:
    return Path(client.download_artifacts(run_id, path)).read_text()


def test_a_child_has_its_params_number_name_and_spec(whole):
    child = run_of(whole.client, "bbbb")
    expected = {**PARAMS, **settings(SPEC), **PARAMS}
    assert child.data.params == {name: str(value) for name, value in expected.items()}
    assert (child.info.run_name, child.data.tags["sweep.number"]) == ("t01 r8 a16 lr3.0e-4 qv", "1")
    assert json.loads(text(whole.client, child.info.run_id, "trial.json")) == SPEC.model_dump(mode="json")


def test_metrics_are_there_by_optimizer_step(whole):
    client = whole.client
    run_id = run_of(client, "aaaa").info.run_id
    steps = range(1, 10)
    expected = {
        "train_loss": [(step, 10.0 - step / 100) for step in steps],
        "learning_rate": [(step, 1e-4) for step in steps],
        "grad_norm": [(step, 1.0) for step in steps],
        "eval_loss": [(3, 0.7), (9, 0.8)],
        "best_eval_loss": [(3, 0.7), (9, 0.7)],
        "best_step": [(3, 3.0), (9, 3.0)],
        "steps": [(3, 3.0), (9, 9.0)],
        "trainable_params": [(3, 64.0), (9, 64.0)],
        "tokens": [(3, 300.0), (9, 900.0)],
        "seconds": [(3, 1.5), (9, 4.5)],
        "peak_memory_bytes": [(3, 1003.0), (9, 1009.0)],
    }
    assert {name: history(client, run_id, name) for name in expected} == expected
    assert run_of(client, "aaaa").data.metrics.keys() == expected.keys()
    (point,) = [point for point in client.get_metric_history(run_id, "train_loss") if point.step == 2]
    assert point.timestamp == 2_000


def test_a_finalist_gets_its_scores_by_its_best_step_and_the_files_that_hold_them(sink, folder, client):
    told = with_digest(sweep_events(folder), folder)
    deliver(sink, told[:-1])
    kept = folder.path / "trials" / "aaaa" / "best-000003"
    (kept / "eval_rows.json").write_text('{"row_losses": [1.0], "exact_match": 0.5}')
    (kept / "samples.jsonl").write_text('{"answer": "yes"}\n')
    deliver(sink, [*told[:-1], scored("aaaa", 3, exact_match=0.5), told[-1]], times=2, since=len(told) - 1)
    run_id = run_of(client, "aaaa").info.run_id
    assert history(client, run_id, "exact_match") == [(3, 0.5)]
    assert history(client, run_id, "best_exact_match") == [(9, 0.5)]
    assert text(client, run_id, "samples.jsonl") == '{"answer": "yes"}\n'
    assert "exact_match" in text(client, run_id, "eval_rows.json")
    tags = run_of(client, "aaaa").data.tags
    assert tags["sweep.eval_rows_sha256"] == digests.of_file(kept / "eval_rows.json")
    assert tags["sweep.adapter_sha256"] == digests.of_folder(kept / "adapter")


def answered(answer: str, score: float) -> AnsweredRow:
    return AnsweredRow(
        row=0, place="line 7", prompt="2 + 2", expected="four", answer=answer, is_ended=True, scores={"right": score}
    )


def test_the_rows_on_which_the_best_trial_and_the_base_differ_are_a_table_of_the_sweeps_run(sink, folder, client):
    told = sweep_events(folder)
    objective = '{"objective": {"metric": "right", "mode": "max"}}'
    kept = folder.path / "trials" / "aaaa" / "best-000003"
    (kept / samples.OF_TRIAL).write_text(samples.text([answered("four", 1.0)]))
    folder.base_samples.write_text(samples.text([answered("<b>5</b>", 0.0)]))
    first = told[0].model_copy(update={"config": objective})
    deliver(sink, [first, *told[1:-1], scored("aaaa", 3, right=1.0), told[-1]], times=2)
    parent = run_of(client, None)
    table = client.load_table(sink.experiment_id, run_tags.ANSWERS, [parent.info.run_id]).to_dict("records")
    assert table == [
        {"place": "line 7", "prompt": "2 + 2", "expected": "four", "base": "<b>5</b>", "t00": "four", "right base": 0.0,
         "right t00": 1.0}
    ]  # fmt: skip


def test_a_trial_that_ends_behind_its_last_report_says_what_it_took(sink, client):
    end = ended("aaaa", TrialState.DIVERGED, history=steps_between(1, 5))
    deliver(sink, [begun(), started("aaaa", **NAMED), end])
    metrics = run_of(client, "aaaa").data.metrics
    assert (metrics["steps"], metrics["tokens"], metrics["seconds"]) == (5, 500, 2.5)


def test_params_that_are_too_long_for_mlflow_are_told_apart(sink, client):
    modules = [",".join([f"layers.{number}.q_proj" for number in range(500)] + [last]) for last in ("a", "b")]
    trials = [started(f"key{at}", at, **{**NAMED, "target_modules": words}) for at, words in enumerate(modules)]
    deliver(sink, [begun(), *trials], times=2)
    kept = [run_of(client, f"key{at}").data.params["target_modules"] for at in (0, 1)]
    assert all(len(words) <= 6000 and words.startswith("layers.0.q_proj,") for words in kept)
    assert kept[0] != kept[1]


def test_a_report_with_more_points_than_one_request_takes_arrives_whole(sink, client):
    deliver(sink, [begun(), started("aaaa", **NAMED), reported("aaaa", 400, 0.7)])
    run_id = run_of(client, "aaaa").info.run_id
    for name in ("train_loss", "grad_norm"):
        assert [step for step, _ in history(client, run_id, name)] == list(range(1, 401))


def test_the_adapter_of_the_best_step_is_an_artifact_with_its_digest(whole):
    run = run_of(whole.client, "aaaa")
    run_id = run.info.run_id
    written = digests.of_files({"adapter_config.json": b"{}", "adapter_model.safetensors": b"aaaa"})
    assert run.data.tags["sweep.adapter_sha256"] == written
    adapter = ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
    assert files(whole.client, run_id) == [*adapter, "eval_rows.json", "trial.json"]
    assert text(whole.client, run_id, adapter[1]) == "aaaa"
    beside = Path(whole.uri.removeprefix("sqlite:///")).parent
    assert (beside / "mlartifacts" / run_id / "artifacts" / "adapter").is_dir()
    assert {path.name for path in beside.iterdir()} == {"mlflow.db", "mlartifacts", "results"}


def test_an_adapter_that_a_better_one_has_replaced_is_not_waited_for_and_a_lost_one_leaves_no_run_running(
    sink, folder, client
):
    keep_adapter(folder, "aaaa", 9)
    deliver(sink, [begun(), started("aaaa", 0, **PARAMS), reported("aaaa", 3, 0.7), ended("aaaa", TrialState.PAUSED)])
    run = run_of(client, "aaaa")
    assert (run.info.status, files(client, run.info.run_id)) == ("KILLED", ["trial.json"])
    events = [begun(), started("bbbb", 0, **PARAMS), reported("bbbb", 3, 0.7), ended("bbbb", TrialState.COMPLETED)]
    with pytest.raises(FileNotFoundError, match="best-000003 is missing") as raised:
        deliver(sink, events)
    assert is_refusal(raised.value)
    assert run_of(client, "bbbb").info.status == "FINISHED"


def test_an_adapter_that_was_changed_on_disk_is_not_uploaded(config, folder, client):
    said: list[str] = []
    sink = MlflowSink(config, SWEEP, folder, said.append)
    events = with_digest(sweep_events(folder), folder)
    adapter = folder.trial("aaaa") / "best-000003" / "adapter"
    (adapter / "evil.py").write_bytes(b"other")
    deliver(sink, events)
    run = run_of(client, "aaaa")
    assert run.info.status == "FINISHED"
    assert files(client, run.info.run_id) == ["trial.json"]
    assert "not those that the trial wrote" in run.data.tags["sweep.adapter_refused"]
    assert run.data.tags["sweep.adapter_sha256"] == ""
    assert "adapter/adapter_model.safetensors" in files(client, run_of(client, "bbbb").info.run_id)
    assert [line for line in said if "best-000003" in line and "not uploaded" in line]


def test_the_parent_says_when_it_began_and_what_identifies_base_and_data(config, folder, client):
    """A sweep without data has a fingerprint, and no data set."""
    sink = MlflowSink(config.model_copy(update={"data": None}), SWEEP, folder)
    began = begun(5.0).model_copy(update={"fingerprints": {"model": "folder:12", "data.train": "34"}})
    deliver(sink, [began, sweep_events(folder)[1]])
    parent = run_of(client, None)
    shown = {name: text for name, text in parent.data.tags.items() if "fingerprint" in name}
    assert shown == {
        "fingerprint.model": "folder:12", "fingerprint.data.train": "34", "data.fingerprint": SUMMARY["fingerprint"],
    }  # fmt: skip
    assert (parent.info.start_time, parent.inputs.dataset_inputs) == (5_000, [])


def test_the_parent_says_what_the_sweep_is_and_names_the_best_trial(whole):
    client = whole.client
    parent = run_of(client, None)
    assert parent.data.params == {
        "trainable": "toy", "trials": "16", "steps_per_trial": "81", "scheduler": "asha", "searcher": "random",
        "seed": "0", "base_model": "tiny/model", "quantization": "nf4",
    }  # fmt: skip
    assert text(client, parent.info.run_id, "sweep/config.json") == whole.folder.config.read_text()
    tags = parent.data.tags
    assert {"version.python", "version.ray", "version.torch", "version.mlflow"} <= tags.keys()
    (entry,) = parent.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("demo", SUMMARY["fingerprint"])
    assert json.loads(entry.dataset.profile) == SUMMARY
    assert json.loads(entry.dataset.source) == {"train": "train.jsonl", "eval": None, "test": None}
    assert (tags["sweep.best_trial_key"], tags["sweep.best_run"]) == ("aaaa", run_of(client, "aaaa").info.run_id)
    assert history(client, parent.info.run_id, "best_eval_loss") == [(12, 0.7)]  # by the steps of both trials
    assert tags["mlflow.note.content"].startswith("**best: t00, eval_loss 0.7000 at step 3**")


def test_the_parent_shows_a_better_trial_that_a_resumed_sweep_finds_at_an_earlier_step(sink, folder, client):
    events: list = []
    for number, (key, step, loss) in enumerate((("aaaa", 9, 0.7), ("bbbb", 3, 0.6))):
        keep_adapter(folder, key, step)
        events += [begun(), started(key, number, **PARAMS), reported(key, step, loss)]
        events += [ended(key, TrialState.COMPLETED), over()]
    deliver(sink, events)
    parent = run_of(client, None)
    assert (parent.data.tags["sweep.best_trial_key"], parent.data.metrics["best_eval_loss"]) == ("bbbb", 0.6)


def test_a_sweep_without_a_best_trial_says_so(sink, client):
    deliver(sink, [begun(), started("aaaa", **NAMED), ended("aaaa", TrialState.DIVERGED), over()])
    parent = run_of(client, None)
    assert "sweep.best_run" not in parent.data.tags
    assert parent.data.tags["mlflow.note.content"].startswith("**best: no trial completed")


def test_statuses_tell_failures_from_ends_that_were_asked_for(sink, client):
    table = [
        (TrialState.COMPLETED, False, "FINISHED"),
        (TrialState.STOPPED, False, "FINISHED"),
        (TrialState.STOPPED, True, "KILLED"),
        (TrialState.PAUSED, True, "KILLED"),
        (TrialState.DIVERGED, False, "FAILED"),
        (TrialState.INFEASIBLE, False, "FAILED"),
        (TrialState.OUT_OF_MEMORY, False, "FAILED"),
        (TrialState.FAILED, False, "FAILED"),
    ]
    events: list = [begun(), *(started(f"key{number}", number, **NAMED) for number in range(len(table)))]
    deliver(sink, events)
    shown = [(run_of(client, f"key{at}").info.status, run_of(client, f"key{at}").data.tags) for at in range(len(table))]
    assert {(status, tags["sweep.state"]) for status, tags in shown} == {("RUNNING", "RUNNING")}
    ends = [
        ended(f"key{number}", state, "because", by_person_or_budget=by_budget)
        for number, (state, by_budget, _) in enumerate(table)
    ]
    deliver(sink, [*events, *ends], since=len(events))
    for number, (state, _, status) in enumerate(table):
        run = run_of(client, f"key{number}")
        told = (run.data.tags["sweep.state"], run.info.status, run.info.end_time, run.data.tags["mlflow.note.content"])
        assert told == (state.value, status, 99_000, f"{state.value} at step 0: because")


def test_the_sweeps_own_status_and_that_it_runs_again_when_it_goes_on(sink, client):
    table: dict[Any, str] = {"finished": "FINISHED", "budget": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
    events: list = []

    def shown(event) -> tuple:
        events.append(event)
        deliver(sink, events, since=len(events) - 1)
        parent = run_of(client, None)
        return parent.info.status, parent.data.tags["sweep.state"], parent.info.end_time

    for reason, status in table.items():
        assert shown(begun())[:2] == ("RUNNING", "RUNNING")
        assert shown(over(reason)) == (status, reason, 100_000)


def test_every_event_once_more_from_any_sink_changes_nothing(sink, config, folder, client):
    events = sweep_events(folder)
    deliver(sink, events)
    once = everything(client)
    again = MlflowSink(config, SWEEP, folder)
    deliver(again, events, times=2)
    assert everything(client) == once
    assert (again.parent_run, again.run_ids) == (sink.parent_run, sink.run_ids)


def test_another_sweep_of_the_same_trials_has_runs_of_its_own(sink, config, folder, client):
    deliver(sink, sweep_events(folder))
    deliver(MlflowSink(config, "demo-2", folder), sweep_events(folder))
    assert len(runs(client)) == 6


def test_an_experiment_that_another_sweep_made_in_between_is_used(uri, client, monkeypatch):
    made = client.create_experiment("family")
    found, answers = MlflowClient.get_experiment_by_name, iter([None])
    monkeypatch.setattr(
        MlflowClient, "get_experiment_by_name", lambda self, name: next(answers, "ask") and found(self, name)
    )
    assert Runs(uri, "family").experiment_id == made


def test_a_parked_trial_is_not_over_and_is_parked_again_when_an_interrupted_sweep_goes_on(sink, client, folder):
    keep_adapter(folder, "aaaa", 3)
    events: list = []

    def shown(*more) -> tuple[str, str, str]:
        """The trial's state and its run's status once more was delivered, and the sweep's note."""
        events.extend(more)
        deliver(sink, events, since=len(events) - len(more))
        run, note = run_of(client, "aaaa"), run_of(client, None).data.tags["mlflow.note.content"]
        return run.data.tags["sweep.state"], run.info.status, note.splitlines()[0]

    runs_on = "RUNNING: the best trial is named here when the sweep ends"
    begins = started("aaaa", **NAMED)
    assert shown(begun(), begins, reported("aaaa", 3, 0.7), parked("aaaa", 3)) == ("PARKED", "RUNNING", runs_on)
    assert run_of(client, "aaaa").data.tags["mlflow.note.content"] == "PARKED at step 3, 2 s, best 0.7000"
    assert shown(begins) == ("RUNNING", "RUNNING", runs_on)
    paused = ended("aaaa", TrialState.PAUSED, by_person_or_budget=True)
    state, status, note = shown(parked("aaaa", 3), paused, over("interrupted"))
    assert (state, status) == ("PAUSED", "KILLED")
    assert note.startswith("**best so far: t00, eval_loss 0.7000 at step 3**")
    assert shown(begun(200.0), parked("aaaa", 3)) == ("PARKED", "RUNNING", runs_on)
