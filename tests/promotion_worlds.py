"""MLflow with promotable sweeps in it, and what tests do to it: `import promotion_worlds`."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from promotions import MODEL, broken, run

from cluster.scoring.host import ScoringHost
from sweeps.record import fault_points
from sweeps.tracking import stores
from sweeps.tracking.lookup import Lookup
from trainables.scoring.requests import ScoringRequest, ScoringResult

FIRST, SECOND, ODD = "first-20260101-000000-aaaa", "second-20260102-000000-bbbb", "odd-20260103-000000-cccc"
TWIN, FAILED = "twin-20260104-000000-dddd", "failed-20260105-000000-eeee"


class World(NamedTuple):
    """An MLflow with sweeps in it."""

    uri: str
    root: Path
    client: MlflowClient

    def sweep(self, name: str) -> Path:
        return self.root / "results" / name

    def aliases(self) -> dict[str, str]:
        return {alias: str(at) for alias, at in self.client.get_registered_model(MODEL).aliases.items()}

    def versions(self) -> list[str]:
        return sorted(str(found.version) for found in self.client.search_model_versions(f"name = '{MODEL}'"))

    def tags(self, version: str = "1") -> dict[str, str]:
        return dict(self.client.get_model_version(MODEL, version).tags)

    def adapter(self, sweep_id: str, key: str) -> Path:
        """The artifacts of a trial's adapter."""
        place = stores.NamedSweep(self.uri, sweep_id)
        (trial,) = [each for each in Lookup(self.uri).sweep(place).trials if each.trial_key == key]
        return self.root / "mlartifacts" / trial.run_id / "artifacts" / "adapter"


def copy_of(source: Path, target: Path) -> World:
    """A copy of MLflow and the sweeps' folders; the base and the rows stay where they are."""
    # MLflow remembers, per process, where a run's artifacts are.
    _artifact_repos_cache.clear()
    for name in ("mlflow.db", "mlartifacts", "results"):
        (shutil.copytree if (source / name).is_dir() else shutil.copy)(source / name, target / name)
    with closing(sqlite3.connect(target / "mlflow.db")) as database, database:
        for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
            database.execute(f"update {table} set {column} = replace({column}, ?, ?)", (str(source), str(target)))
    for config in target.glob("results/*/config.json"):
        config.write_text(config.read_text().replace(f"{source}/mlflow.db", f"{target}/mlflow.db"))
    uri = f"sqlite:///{target}/mlflow.db"
    return World(uri, target, MlflowClient(tracking_uri=uri))


def refused(world, match: str, sweep: str = "second", **asked) -> None:
    """The promotion is refused by an error of ours, and nothing was written."""
    before = (world.root / "mlflow.db").read_bytes()
    with pytest.raises(Exception, match=match) as error:
        run(world.sweep(sweep), **asked)
    assert error.type.__module__.startswith(("sweeps.", "cluster.", "trainables.")), error.type
    assert (world.root / "mlflow.db").read_bytes() == before


def break_losses(monkeypatch: pytest.MonkeyPatch, rows: str, *names: str) -> None:
    """The losses of these adapters are not finite on some rows: those of `ScoringRequest.rows`."""
    score = ScoringHost.score

    def scored(host: ScoringHost, request: ScoringRequest) -> ScoringResult:
        adapters = dict(request.adapters)
        if request.rows == rows:
            adapters |= {name: broken(adapters[name]) for name in names}
        return score(host, request.model_copy(update={"adapters": adapters}))

    monkeypatch.setattr(ScoringHost, "score", scored)


def killed_at(point: str, action: Callable[[], object]) -> None:
    """Carries the action out in a process that dies at a fault point."""
    child = os.fork()
    if child == 0:
        os.environ[fault_points.VARIABLE] = point
        try:
            action()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137


def package_of(world, version: str) -> Path:
    """The folder of a version's package."""
    identity = world.tags(version)["promotion.identity"]
    (folder,) = world.root.glob(f"mlartifacts/*/artifacts/promoted/{MODEL}/{identity}")
    return folder
