"""Wraps MLflow's client: its timeouts and retries, its database, and the runs of one sweep.

Every call of `Runs` can be made twice. Runs are found by tag before they are created.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from sweeps.config.passwords import whole
from sweeps.config.uris import artifact_root, sqlite_file
from sweeps.errors import StorageError
from sweeps.record.whole_files import draft_of
from sweeps.tracking import run_tags, timeouts
from sweeps.tracking.metric_points import MetricPoint

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
ENVIRONMENT = {
    _TIMEOUT: "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Defaults of MLflow's environment variables; values that users set stay."""
LONGEST_PARAM = 6000
"""Maximum characters of a param's value (mlflow/utils/validation.py, 3.17.2)."""


def quiet() -> None:
    """Sets MLflow's environment, and silences messages that users do not need."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import logging

    import mlflow  # noqa: F401 - its import sets log levels

    # Database migrations and artifact uploads log at INFO.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Prints a database's errors with a traceback, although it raises them too (mlflow/store/db/utils.py, 3.17.2).
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


@contextmanager
def without_retries() -> Iterator[None]:
    """Lets the client send each request of the block once, in all threads, unless users set it otherwise.

    The tracking writer repeats failed requests itself, and looks for the run first: retries of the client would block
    the writer for minutes, and make a run twice if only an answer was lost. What a launch asks before it starts must
    not wait for minutes either. All other requests need retries: one answer of a busy server must not cost a promotion
    its evaluation (mlflow/environment_variables.py, 3.17.2).
    """
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    with _set(name, os.environ.get(name, "0")):
        yield


@contextmanager
def patient() -> Iterator[None]:
    """Gives the requests of the block, which send or fetch artifacts, `timeouts.FILE_SECONDS`; more if users set more.

    Sets the environment of the process, so requests of other threads get as much time. MLflow has no separate timeout
    for artifacts, and fetches them in threads of its own (`_download_file` in
    mlflow/store/artifact/http_artifact_repo.py and `download_artifacts` in artifact_repo.py beside it, 3.17.2).
    """
    with _set(_TIMEOUT, str(max(timeouts.FILE_SECONDS, int(os.environ[_TIMEOUT])))):
        yield


@contextmanager
def _set(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _make_tables(file: Path) -> None:
    from mlflow import MlflowClient

    # The first call makes the tables.
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments(max_results=1)


def make_database(uri: str, make_tables: Callable[[Path], object] = _make_tables) -> None:
    """Makes the SQLite database of a URI if there is none yet; the database appears whole or not at all.

    MLflow makes a database in place, in seconds and without a lock: two sweeps at once, or one that is killed
    meanwhile, leave a database that no MLflow can open (store/tracking/sqlalchemy_store.py, 3.17.2).

    Raises:
        StorageError: there is a journal of a lost database of this name, whose writer was killed in a transaction.
            SQLite would apply the journal to the new database, which would then hold parts of the lost runs.
    """
    file = sqlite_file(uri)
    if file is None or file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(file)
    try:
        make_tables(draft)
        left = [str(journal) for ending in ("-journal", "-wal") if (journal := Path(f"{file}{ending}")).exists()]
        # If another sweep was faster, the journal belongs to its database.
        if left and not file.exists():
            raise StorageError(f"{file}: is not there, but {left[0]} is: delete that, or put its database back")
        # On a file system without locks or hard links, MLflow makes the database in place after all.
        with suppress(OSError):
            file.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)


def paged(search: Callable[..., Any]) -> Iterator[Any]:
    """Yields all results of a search of MLflow's client, which takes `page_token` and returns a page at a time."""
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _short(value: str) -> str:
    """Returns a param's value. Cuts a value that is too long for MLflow, and appends its digest."""
    if len(value) <= LONGEST_PARAM:
        return value
    return f"{value[: LONGEST_PARAM - 20]}... {hashlib.sha256(value.encode()).hexdigest()[:12]}"


class Runs:
    """The runs of one sweep on one tracking server or database."""

    def __init__(self, uri: str, experiment: str, sweep_id: str = "", known: str | None = None) -> None:
        """Finds the experiment of this name, and makes it if there is none.

        Args:
            known: id of the experiment that held the sweep's runs before; its name may have changed.

        Raises:
            StorageError: people have deleted the experiment. MLflow makes no other of its name.
        """
        quiet()
        from mlflow import MlflowClient

        make_database(uri)
        self._client = MlflowClient(tracking_uri=whole(uri))
        self.uri = uri
        self._ours = run_tags.equals(run_tags.SWEEP_ID, sweep_id)
        # A new database counts from 1 again: the experiment of a known id may be another sweep's.
        is_ours = known is not None and bool(self._client.search_runs([known], self._ours, max_results=1))
        stored = self._client.get_experiment(known) if is_ours else self._named(experiment)
        self.experiment_id = str(stored.experiment_id)
        if stored.lifecycle_stage == "deleted":
            way_out = f"mlflow experiments restore --experiment-id {self.experiment_id} brings it back"
            raise StorageError(f"the experiment {stored.name} is deleted in MLflow: {way_out}")

    def _named(self, name: str) -> Any:
        from mlflow.exceptions import MlflowException

        stored = self._client.get_experiment_by_name(name)
        if stored is None:
            try:
                made = self._client.create_experiment(name, artifact_location=artifact_root(self.uri))
                return self._client.get_experiment(made)
            except MlflowException:
                # Another sweep may have made it in between.
                stored = self._client.get_experiment_by_name(name)
                if stored is None:
                    raise
        return stored

    def of_sweep(self, used: Collection[str] = ()) -> dict[str | None, Any]:
        """Returns the sweep's run, under None, and the run of each of its trials, by trial key.

        Deletes all but one of several runs of a trial: a create request whose answer was lost may take effect after
        another run was made. Keeps the run in `used`, else the one with the most data.
        """
        groups: dict[str | None, list[Any]] = {}
        for run in paged(partial(self._client.search_runs, [self.experiment_id], self._ours)):
            groups.setdefault(run.data.tags.get(run_tags.TRIAL_KEY), []).append(run)
        return {key: self._one_of(runs, used) for key, runs in groups.items()}

    def _one_of(self, runs: list[Any], used: Collection[str]) -> Any:
        def place(run: Any) -> tuple[bool, int, str]:
            written = len(run.data.metrics) + len(run.data.params) + len(run.data.tags)
            return run.info.run_id not in used, -written, run.info.run_id

        runs.sort(key=place)
        for double in runs[1:]:
            self._client.delete_run(double.info.run_id)
        return runs[0]

    def create(self, name: str, tags: Mapping[str, str], time: float) -> str:
        """Makes a run, which is RUNNING, and returns its id."""
        run = self._client.create_run(self.experiment_id, int(time * 1000), dict(tags), name)
        return str(run.info.run_id)

    def running(self, run_id: str) -> None:
        """Marks the run as running (again)."""
        self._client.update_run(run_id, status="RUNNING")

    def log(
        self,
        run_id: str,
        points: Sequence[MetricPoint] = (),
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, object] | None = None,
    ) -> None:
        """Adds metric points, params and tags, in as few requests as MLflow's limits allow."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(p.key, p.value, p.milliseconds, p.step) for p in points]
        for start in range(0, max(len(metrics), 1), 900):
            first = start == 0
            self._client.log_batch(
                run_id,
                metrics[start : start + 900],
                [Param(key, _short(str(value))) for key, value in (params or {}).items()] if first else [],
                [RunTag(key, str(value)) for key, value in (tags or {}).items()] if first else [],
            )

    def show(self, run_id: str, points: Sequence[MetricPoint]) -> None:
        """Makes MLflow show the values of these points, where it shows others.

        A sweep that goes on from its mirror may end a trial before the last step that the lost machine sent. MLflow
        shows the value of the highest step; promotion ranks by the shown value.
        """
        data = self._client.get_run(run_id).data
        hidden = [p for p in points if data.metrics.get(p.key, p.value) != p.value and math.isfinite(p.value)]
        if hidden:
            # `RunData.metrics` leaves out steps (mlflow/entities/run_data.py, 3.17.2).
            behind = 1 + max(metric.step for metric in data.to_proto().metrics)
            self.log(run_id, [p._replace(step=behind) for p in hidden])

    def text(self, run_id: str, path: str, content: str) -> None:
        """Writes a text artifact."""
        self._client.log_text(run_id, content, path)

    def folder(self, run_id: str, folder: Path) -> None:
        """Uploads a folder's content to the root of the run's artifacts."""
        if not folder.is_dir():
            # MLflow would upload nothing and raise nothing.
            raise FileNotFoundError(f"{folder} is missing")
        with patient():
            self._client.log_artifacts(run_id, str(folder))

    def dataset(self, run_id: str, name: str, digest: str, profile: str, source: str) -> None:
        """Records which data the run used."""
        from mlflow.entities import Dataset, DatasetInput

        entity = Dataset(name=name, digest=digest, source_type="local", source=source, profile=profile)
        self._client.log_inputs(run_id, [DatasetInput(entity, [])])

    def experiment_tag(self, key: str, value: str) -> None:
        """Sets a tag of the experiment."""
        self._client.set_experiment_tag(self.experiment_id, key, value)

    def finish(self, run_id: str, status: str, time: float) -> None:
        """Ends the run with FINISHED, KILLED or FAILED."""
        self._client.set_terminated(run_id, status, int(time * 1000))
