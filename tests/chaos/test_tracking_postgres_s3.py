"""A team's MLflow, with PostgreSQL, S3 and a password: sweeps, resume and promotion work as on one SQLite file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import chaos_runs as runs
import promotions
import pytest
from mlflow import MlflowClient
from promotions import MODEL, Trial, run
from tracking_stacks import Stack, stack

from sweeps.promotion.versions import models, rollback
from sweeps.record import digests
from trainables import qlora

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    with stack(tmp_path_factory.mktemp("team")) as running:
        yield running


@pytest.fixture
def known(team, monkeypatch) -> Stack:
    """The server, which knows this process by the password in its environment."""
    for name, value in team.credentials.items():
        monkeypatch.setenv(name, value)
    return team


def objects(team: Stack) -> dict[str, bytes]:
    """Key -> content of all artifacts."""
    return {name: team.objects.read(name) for name in team.objects.names()}


def secrets_found(team: Stack, *folders: Path) -> list[str]:
    """Where a password can be read: in files of the folders, the server's log, its database or its bucket."""
    texts = {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    texts |= {"log": team.log.read_bytes(), "database": team.database.dump().encode()}
    texts |= {f"s3 {key}": content for key, content in objects(team).items()}
    return [place for place, text in texts.items() for secret in team.secrets if secret.encode() in text]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A short path: Ray makes its sockets below it."""
    with tempfile.TemporaryDirectory(prefix="qs-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_a_sweep_that_is_killed_goes_on_and_its_passwords_are_written_nowhere(known, tmp_path, ray_folder):
    words = [*runs.TOY, f"tracking.uri={known.uri}", "training.step_seconds=0.3"]
    first, sweep = runs.launched(tmp_path, *words, reports_first=2, QSWEEP_RAY_DIR=str(ray_folder))
    runs.kill(first.process.pid)
    again = runs.start(tmp_path, "resume", "results/toy", QSWEEP_RAY_DIR=str(ray_folder))
    assert again.wait() == 0, again.err.read_text()
    found = runs.assert_whole(sweep, known.uri, 6)
    runs.assert_every_step_once(sweep)

    stored, client = objects(known), MlflowClient(known.uri)
    for child in runs.assert_none_running(sweep, known.uri):
        key = child.data.tags.get("sweep.trial_key")
        if key is None:
            continue
        place = child.info.artifact_uri.removeprefix("mlflow-artifacts:/")
        files = {
            name.rpartition("/adapter/")[2]: content for name, content in stored.items() if f"{place}/adapter/" in name
        }
        assert digests.of_files(files) == found.trials[key].adapter_sha256 == child.data.tags["sweep.adapter_sha256"]
    assert client.search_experiments()[0].artifact_location.startswith("mlflow-artifacts:")
    assert "CREATE TABLE public.runs" in known.database.dump()
    assert list(ray_folder.rglob("raylet.out")), "Ray's logs are looked at too"
    assert secrets_found(known, tmp_path, ray_folder) == []


def test_promotion_and_rollback(known, tmp_path, monkeypatch):
    promotions.write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QSWEEP_CACHE", str(tmp_path / "cache"))
    config = promotions.config(tmp_path, known.uri)
    trained = promotions.train(config, tmp_path / "cache")
    fingerprint = qlora.prepare(config.base, tmp_path / "cache").summary.fingerprint
    for name, adapter in (("first", "weak"), ("second", "strong")):
        of = config.model_copy(update={"name": name})
        promotions.deliver(of, f"{name}-1", tmp_path / "results" / name, [Trial(trained[adapter])], fingerprint)
    client = MlflowClient(known.uri)

    def aliases() -> dict[str, str]:
        return {alias: str(at) for alias, at in client.get_registered_model(MODEL).aliases.items()}

    assert run("first-1", tracking_uri=known.uri).exit_code == 0
    assert run("second", tracking_uri=known.uri).exit_code == 0
    assert aliases() == {"challenger": "2", "champion": "2", "previous": "1"}
    assert run(tmp_path / "results" / "second").already_champion
    assert run("first", tracking_uri=known.uri).exit_code == 1
    assert rollback(MODEL, None, "champion", known.uri).version == "1"
    assert aliases() == {"challenger": "2", "champion": "1", "previous": "2"}
    (told,) = models(MODEL, known.uri)
    assert [entry.action for entry in told[0].history] == ["promote", "promote", "rollback"]

    packaged = [name for name in objects(known) if name.endswith("/MLmodel")]
    assert len(packaged) == 2, packaged
    assert secrets_found(known, tmp_path) == []
    assert json.dumps(dict(os.environ)).count(known.secrets[2]) == 0  # the bucket's key is the server's alone
