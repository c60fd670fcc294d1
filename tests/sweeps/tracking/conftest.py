"""An empty MLflow, a sweep's folder, and the sink between them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tracked_sweeps import SWEEP, configuration, deliver, sweep_events, with_digest

from sweeps.config.model import SweepConfig
from sweeps.record.folder import SweepFolder
from sweeps.saved_sweep import document
from sweeps.tracking.sink import MlflowSink


@dataclass(frozen=True)
class Tracked:
    """A sweep's folder, and the store that it is sent to."""

    uri: str
    config: SweepConfig
    folder: SweepFolder
    sink: MlflowSink
    client: MlflowClient


def _tracked(path: Path, empty_database: Path) -> Tracked:
    shutil.copy(empty_database, path / "mlflow.db")
    uri = f"sqlite:///{path}/mlflow.db"
    config = configuration(uri)
    folder = SweepFolder(path / "results" / "demo")
    folder.path.mkdir(parents=True)
    folder.config.write_text(json.dumps(document(config, SWEEP)))
    return Tracked(uri, config, folder, MlflowSink(config, SWEEP, folder), MlflowClient(tracking_uri=uri))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, empty_database) -> Tracked:
    """A sweep that was sent from its begin to its end, to be read."""
    made = _tracked(tmp_path_factory.mktemp("whole"), empty_database)
    deliver(made.sink, with_digest(sweep_events(made.folder), made.folder))
    return made


@pytest.fixture
def stored(empty_database, tmp_path, monkeypatch) -> Tracked:
    monkeypatch.chdir(tmp_path)
    return _tracked(tmp_path, empty_database)


def part(name: str):
    """A fixture: a part of `stored`."""
    return pytest.fixture(name=name)(lambda stored: getattr(stored, name))


uri = part("uri")
config = part("config")
folder = part("folder")
sink = part("sink")
client = part("client")
