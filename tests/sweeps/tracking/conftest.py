"""An empty MLflow, a sweep's folder, and the sink between them."""

from __future__ import annotations

import json
import shutil

import pytest
from mlflow import MlflowClient
from tracked_sweeps import SWEEP

from sweeps.config.model import SweepConfig, Tracking
from sweeps.record.folder import SweepFolder
from sweeps.saved_sweep import document
from sweeps.tracking.sink import MlflowSink
from trainables.specs import DataSpec, ModelSpec


@pytest.fixture
def uri(empty_database, tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def config(uri) -> SweepConfig:
    return SweepConfig(
        name="demo",
        trainable="toy",
        model=ModelSpec(source="tiny/model"),
        data=DataSpec(train="train.jsonl", text="{text}"),
        tracking=Tracking(uri=uri, experiment="family"),
    )


@pytest.fixture
def folder(config, tmp_path) -> SweepFolder:
    made = SweepFolder(tmp_path / "results" / "demo")
    made.path.mkdir(parents=True)
    made.config.write_text(json.dumps(document(config, SWEEP)))
    return made


@pytest.fixture
def sink(config, folder) -> MlflowSink:
    return MlflowSink(config, SWEEP, folder)


@pytest.fixture
def client(uri) -> MlflowClient:
    return MlflowClient(tracking_uri=uri)
