"""MLflow as this project needs it: every call can be made twice, runs are found by tag before they are created."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from sweeps.errors import SweepError
from sweeps.passwords import without_password, without_passwords
from sweeps.tracking.uris import artifact_root, sqlite_file

# No retries: the tracking writer repeats what failed, looking for the run first. The client's own retries block it for
# minutes, and create a run twice when only the answer was lost (mlflow/environment_variables.py, 3.17.2).
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class Point(NamedTuple):
    """One metric value. Equal points are stored once by MLflow."""

    key: str
    value: float
    time: float
    """Seconds since the epoch."""
    step: int


def make_database(uri: str) -> None:
    """Makes the SQLite database of a URI where there is none yet; it appears whole or not at all.

    MLflow makes one in place, in seconds and without a lock: two sweeps at once, or one that is killed meanwhile, leave
    a database that no MLflow opens any more (store/tracking/sqlalchemy_store.py, 3.17.2).
    """
    file = sqlite_file(uri)
    if file is None or file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    try:
        _migrate(draft)
        # Another sweep may have been faster: its database is the one then. And where a file system has no hard links,
        # MLflow makes it in place after all.
        with suppress(OSError):
            file.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)


def _migrate(file: Path) -> None:
    from mlflow import MlflowClient

    # The first call makes the tables.
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments(max_results=1)


_PASSING = (401, 403, 408, 409, 429)
"""Answers of the 400s that another try may not get: credentials are mended, a server is less busy."""


def is_refusal(error: Exception) -> bool:
    """Whether MLflow will never take what it was sent: another try would fail as well."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    # Among others: points of a run that somebody has deleted (store/tracking/sqlalchemy_store.py, 3.17.2).
    if isinstance(error, HTTPError) and error.response is not None:
        # An artifact: all else comes as MlflowException. Too large for a proxy, for one; what is left may pass.
        return 400 <= error.response.status_code < 500 and error.response.status_code not in _PASSING
    refused = isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE"
    return refused or isinstance(error, FileNotFoundError)


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """What MLflow fails with inside the block is the user's to mend: raised as `SweepError`, without passwords."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    # The last: a database whose driver is not installed.
    except (MlflowException, RequestException, SQLAlchemyError, ModuleNotFoundError) as error:
        reason = (without_passwords(str(error).strip(), uri).splitlines() or [type(error).__name__])[0]
        raise SweepError(f"MLflow ({without_password(uri)}): {reason}") from error


def quiet() -> None:
    """Sets MLflow's environment, and keeps from the screen what has no reader there."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import logging

    import mlflow  # noqa: F401 - it sets levels of its own when it is imported

    # Database migrations and artifact uploads talk at INFO.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Runs:
    """The runs of one experiment on one tracking server or database."""

    def __init__(self, uri: str, experiment: str) -> None:
        quiet()
        from mlflow import MlflowClient

        make_database(uri)
        self._client = MlflowClient(tracking_uri=uri)
        self.uri = uri
        self.experiment_id = self._experiment(experiment)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                created: str = self._client.create_experiment(name, artifact_location=artifact_root(self.uri))
                return created
            except MlflowException:
                # Another sweep may have made it in between.
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def open(self, identity: Mapping[str, str], name: str, tags: Mapping[str, str], time: float) -> str:
        """The id of the run with exactly these identifying tags; created, and set RUNNING, when there is none."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in identity.items())
        if "sweep.trial_key" not in identity:
            wanted += " and tags.`sweep.trial_key` IS NULL"
        found = self._client.search_runs([self.experiment_id], wanted, max_results=1, order_by=["start_time ASC"])
        if found:
            return str(found[0].info.run_id)
        run = self._client.create_run(
            self.experiment_id, start_time=int(time * 1000), tags={**tags, **identity}, run_name=name
        )
        return str(run.info.run_id)

    def remove_doubles(self, sweep_id: str, used: Collection[str] = ()) -> None:
        """Leaves one run for the sweep and one for each of its trials, and deletes the others.

        A create whose answer was lost may take effect after `open` has looked for its run and made another. Of doubles
        the one in `used` stays, else the one that has more metrics.
        """
        groups: dict[str | None, list[Any]] = {}
        for run in self._of_sweep(sweep_id):
            groups.setdefault(run.data.tags.get("sweep.trial_key"), []).append(run)
        for runs in groups.values():
            runs.sort(key=lambda run: (run.info.run_id not in used, -len(run.data.metrics), run.info.run_id))
            for double in runs[1:]:
                self._client.delete_run(double.info.run_id)

    def _of_sweep(self, sweep_id: str) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs([self.experiment_id], f"tags.`sweep.id` = '{sweep_id}'", page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def still_running(self, sweep_id: str) -> dict[str, str]:
        """Run id -> trial key of the sweep's trials whose run is RUNNING."""
        return {
            run.info.run_id: run.data.tags["sweep.trial_key"]
            for run in self._of_sweep(sweep_id)
            if run.info.status == "RUNNING" and "sweep.trial_key" in run.data.tags
        }

    def running(self, run_id: str) -> None:
        """Marks the run as running (again)."""
        self._client.update_run(run_id, status="RUNNING")

    def log(
        self,
        run_id: str,
        points: Sequence[Point] = (),
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, object] | None = None,
    ) -> None:
        """Adds metric points, params and tags in as few requests as MLflow's limits allow."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(p.key, p.value, int(p.time * 1000), p.step) for p in points]
        for start in range(0, max(len(metrics), 1), 900):
            first = start == 0
            self._client.log_batch(
                run_id,
                metrics[start : start + 900],
                [Param(key, str(value)) for key, value in (params or {}).items()] if first else [],
                [RunTag(key, str(value)) for key, value in (tags or {}).items()] if first else [],
            )

    def text(self, run_id: str, path: str, content: str) -> None:
        """Writes a text artifact."""
        self._client.log_text(run_id, content, path)

    def folder(self, run_id: str, folder: Path) -> None:
        """Uploads a folder's content to the root of the run's artifacts."""
        if not folder.is_dir():
            # MLflow would upload nothing, without a word.
            raise FileNotFoundError(f"{folder} is missing")
        self._client.log_artifacts(run_id, str(folder))

    def dataset(self, run_id: str, name: str, digest: str, profile: str, source: str) -> None:
        """Says which data the run used."""
        from mlflow.entities import Dataset, DatasetInput

        entity = Dataset(name=name, digest=digest, source_type="local", source=source, profile=profile)
        self._client.log_inputs(run_id, [DatasetInput(entity, [])])

    def experiment_tag(self, key: str, value: str) -> None:
        """Sets a tag of the experiment."""
        self._client.set_experiment_tag(self.experiment_id, key, value)

    def finish(self, run_id: str, status: str, time: float) -> None:
        """Ends the run with FINISHED, KILLED or FAILED."""
        self._client.set_terminated(run_id, status, int(time * 1000))
