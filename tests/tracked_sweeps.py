"""A small sweep's events, and what MLflow holds of it once they are delivered."""

from __future__ import annotations

from itertools import islice
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities import ViewType
from sweep_events import begun, ended, reported, started

from sweeps.config.model import SweepConfig, Tracking
from sweeps.record import digests
from sweeps.record.events import DataPrepared, Event, SweepEnded, TrialReported, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.record.sweep_record import new_events
from sweeps.tracking.sink import MlflowSink
from trainables.specs import DataSpec, ModelSpec, TrialSpec

SWEEP = "demo-20260101-000000-abcd"
PARAMS: dict[str, Any] = {
    "r": 8,
    "lora_alpha": 16,
    "target_modules": "attention-qv",
    "learning_rate": 3e-4,
    "use_rslora": False,
}
NAMED = {name: PARAMS[name] for name in ("r", "lora_alpha", "target_modules", "learning_rate")}
SPEC = TrialSpec(trainable="toy", seed=5)
SUMMARY: dict[str, Any] = {"fingerprint": "0123456789abcdef", "train_rows": 12, "eval_rows": 3, "longest_row": 40}


def configuration(uri: str) -> SweepConfig:
    """Of a sweep that is tracked there."""
    return SweepConfig(
        name="demo",
        trainable="toy",
        model=ModelSpec(source="tiny/model"),
        data=DataSpec(train="train.jsonl", text="{text}"),
        tracking=Tracking(uri=uri, experiment="family"),
    )


def sweep_events(folder: SweepFolder) -> list[Event]:
    """Two trials: the first is best at its first report, the second is stopped by the scheduler."""
    for key in ("aaaa", "bbbb"):
        keep_adapter(folder, key, 3)
    return [
        begun(),
        DataPrepared(time=0.5, summary=SUMMARY),
        started("aaaa", 0, **PARAMS),
        reported("aaaa", 3, 0.7),
        started("bbbb", 1, 2.0, **PARAMS).model_copy(update={"spec": SPEC.model_dump_json()}),
        reported("bbbb", 3, 0.9),
        ended("bbbb", TrialState.STOPPED, "stopped by the scheduler"),
        reported("aaaa", 9, 0.8, since=3, best=(3, 0.7)),
        ended("aaaa", TrialState.COMPLETED),
        over(),
    ]


def with_digest(events: list, folder: SweepFolder) -> list:
    """The events as a trial tells them that names the digest of what it wrote."""
    return [
        event.model_copy(update={"adapter_sha256": digests.of_folder(folder.path / event.adapter / "adapter")})
        if isinstance(event, TrialReported) and event.adapter
        else event
        for event in events
    ]


def over(reason: Literal["finished", "budget", "interrupted", "failed"] = "finished") -> SweepEnded:
    return SweepEnded(time=100.0, reason=reason)


def keep_adapter(folder: SweepFolder, key: str, step: int) -> None:
    """Writes a best adapter to where the events say that it is."""
    files = {"adapter/adapter_config.json": b"{}", "adapter/adapter_model.safetensors": key.encode()}
    folder.keep(key, "best", step, files | {"eval_rows.json": b'{"row_losses": [1.0]}'})


def deliver(sink: MlflowSink, events: list, times: int = 1, since: int = 0) -> None:
    """The sink takes each event so many times; those before number `since` were delivered."""
    for event, record in islice(new_events(events), since, None):
        for _ in range(times):
            sink.apply(event, record)


def runs(client: MlflowClient) -> list:
    ids = [found.experiment_id for found in client.search_experiments(ViewType.ALL)]
    return client.search_runs(ids, run_view_type=ViewType.ALL, order_by=["start_time ASC"])


def run_of(client: MlflowClient, key: str | None):
    active = [run for run in runs(client) if run.info.lifecycle_stage == "active"]
    (found,) = [run for run in active if run.data.tags.get("sweep.trial_key") == key]
    return found


def history(client: MlflowClient, run_id: str, metric: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run_id, metric))


def files(client: MlflowClient, run_id: str, path: str | None = None) -> list[str]:
    found: list[str] = []
    for entry in client.list_artifacts(run_id, path):
        found += files(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return sorted(found)


def everything(client: MlflowClient) -> dict:
    """All that MLflow knows of the runs, to compare."""
    return {
        run.info.run_id: (
            run.info.status,
            run.info.start_time,
            run.info.end_time,
            run.data.tags,
            run.data.params,
            {name: sorted(client.get_metric_history(run.info.run_id, name), key=str) for name in run.data.metrics},
            files(client, run.info.run_id),
            [entry.dataset.to_dictionary() for entry in run.inputs.dataset_inputs],
        )
        for run in runs(client)
    }
