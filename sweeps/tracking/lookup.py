"""Reads sweeps, their trials and adapters from MLflow, by id or name."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.errors import first_line
from sweeps.config import messages
from sweeps.config.model import SweepConfig
from sweeps.config.passwords import whole
from sweeps.errors import ConfigError, Failed, NotStored, SweepError
from sweeps.record import digests
from sweeps.record.events import TrialState
from sweeps.record.folder import SweepFolder, noted_by
from sweeps.record.run_names import label
from sweeps.tracking import run_tags, stores
from sweeps.tracking.client import paged, quiet, without_retries
from sweeps.tracking.failures import answering, is_away, of_artifacts
from sweeps.tracking.stores import NamedSweep
from trainables.contract import Evaluation
from trainables.inputs import json_text
from trainables.objective import COSTS

_PAGE = 1000
_MOST_NAMED = 3
"""Sweeps that a message names at most."""


@dataclass(frozen=True)
class TrialRun:
    """A trial, as read from its run in MLflow."""

    run_id: str
    trial_key: str
    number: int
    state: str
    adapter_sha256: str | None
    """None if the adapter was not uploaded."""
    rows_sha256: str | None
    """Digest of eval_rows.json."""
    refused: str | None
    """Why the adapter was not uploaded."""
    metrics: Mapping[str, float]
    """Metric -> its latest value."""
    params: Mapping[str, str]
    repeats: str | None = None
    """Key of the trial whose point this trial trains again with another seed; None for a trial that repeats none."""

    @property
    def label(self) -> str:
        """Returns the trial's name in tables."""
        return label(self.number)

    def best(self, metric: str) -> float:
        """Returns the metric at its best step, or one of the `COSTS`; NaN if the trial has none."""
        return self.metrics.get(metric if metric in COSTS else f"best_{metric}", math.nan)

    @property
    def steps(self) -> int:
        """Returns the last logged number of optimizer steps; 0 if there is none."""
        return int(self.metrics.get("steps", 0))

    def is_ranked(self, metric: str) -> bool:
        """Tells whether the trial may be promoted by this metric."""
        ranked = self.state in (state.value for state in TrialState if state.is_ranked)
        return ranked and math.isfinite(self.best(metric))


@dataclass(frozen=True)
class ReportedRows:
    """Losses that a trial reported for each row, and the digest of the file that holds them."""

    evaluation: Evaluation
    sha256: str


@dataclass(frozen=True)
class TrackedSweep:
    """A sweep and its trials, as read from MLflow."""

    sweep_id: str
    parent_run: str
    state: str
    config: SweepConfig
    fingerprints: Mapping[str, str]
    """Identify the base and the data with which the sweep began."""
    data_fingerprint: str | None
    """Identifies the tokens that the sweep trained on."""
    trials: tuple[TrialRun, ...]
    test_rows: int = 0
    """Rows for promotion alone, of data.test or drawn from data.train; 0 if there are none."""


def holds(uri: str, sweep_id: str) -> bool:
    """Tells whether the store has a run of the sweep; False if no store answers."""
    with suppress(SweepError):
        stores.check_store(uri)
        with answering(uri), without_retries():
            return Lookup(uri).holds(sweep_id)
    return False


def experiment_of(named: NamedSweep) -> tuple[str, str]:
    """Returns the ids of a sweep's experiment in the store and of the sweep, from its folder's note, else from MLflow.

    Raises `SweepError` if the store does not hold the sweep, or cannot be asked.
    """
    noted = {} if named.folder is None else noted_by(SweepFolder(named.folder))
    experiment = noted.get("experiment_id")
    if experiment is not None and noted.get("uri") == named.uri:
        return str(experiment), named.sweep
    with answering(named.uri):
        return Lookup(named.uri).experiment(named)


class Lookup:
    """Reads sweeps from an existing tracking store."""

    def __init__(self, uri: str) -> None:
        quiet()
        from mlflow import MlflowClient

        self._uri = whole(uri)
        self._client = MlflowClient(tracking_uri=self._uri)

    def sweep(
        self,
        named: NamedSweep,
        way_out: str | None = None,
        other_than: str | None = None,
        with_trial: Callable[[TrialRun], bool] | None = None,
    ) -> TrackedSweep:
        """Returns the sweep of an id, or the newest sweep of a name.

        Args:
            way_out: advice of the error message if there is no such sweep; None for `named.way_out`.
            other_than: id of a sweep to pass over.
            with_trial: passes over sweeps without a trial for which it is true.

        Raises:
            SweepError: there is no such sweep, or it cannot be read.
        """
        way_out = way_out or named.way_out
        parents = self._parents(named, way_out, other_than)
        for parent in parents:
            children = self._search(run_tags.equals(run_tags.PARENT_RUN, parent.info.run_id))
            trials = sorted(map(_trial, children), key=lambda trial: trial.number)
            if with_trial is None or any(map(with_trial, trials)):
                return self._tracked(parent, trials)
        ids = ", ".join(parent.data.tags[run_tags.SWEEP_ID] for parent in parents)
        raise SweepError(f"{named.sweep}: no trial of it has a result in {named.uri} (looked at {ids}); {way_out}")

    def _tracked(self, parent: Any, trials: Iterable[TrialRun]) -> TrackedSweep:
        tags = parent.data.tags
        return TrackedSweep(
            sweep_id=tags[run_tags.SWEEP_ID],
            parent_run=parent.info.run_id,
            state=tags.get(run_tags.STATE, ""),
            config=self._config(parent.info.run_id),
            fingerprints={
                name.removeprefix(run_tags.FINGERPRINT): value
                for name, value in tags.items()
                if name.startswith(run_tags.FINGERPRINT)
            },
            data_fingerprint=tags.get(run_tags.DATA_FINGERPRINT),
            test_rows=int(tags.get(run_tags.TEST_ROWS, 0)),
            trials=tuple(trials),
        )

    def experiment(self, named: NamedSweep) -> tuple[str, str]:
        """Returns the ids of the sweep's experiment and of the sweep. Raises `SweepError` if there is none."""
        parent = self._parents(named, named.way_out)[0]
        return parent.info.experiment_id, parent.data.tags[run_tags.SWEEP_ID]

    def holds(self, sweep_id: str) -> bool:
        """Tells whether there is a run of the sweep."""
        return bool(self._search(run_tags.equals(run_tags.SWEEP_ID, sweep_id)))

    def files(self, run_id: str, path: str) -> dict[str, bytes]:
        """Returns the files of a folder of the run's artifacts.

        Raises `NotStored` if it is missing or empty, `Failed` if it cannot be fetched, else `SweepError`.
        """
        with tempfile.TemporaryDirectory() as folder, _readable(run_id, path):
            files = digests.read_files(self._download(run_id, path, folder))
        if not files:
            raise NotStored(f"run {run_id}: has no {path} in MLflow")
        return files

    def file(self, run_id: str, path: str) -> bytes:
        """Returns one file of the run's artifacts. Raises as `files` does."""
        with tempfile.TemporaryDirectory() as folder, _readable(run_id, path):
            return self._download(run_id, path, folder).read_bytes()

    def reported(self, run_id: str) -> ReportedRows:
        """Returns the losses that the trial reported at its best step. Raises as `files` does."""
        content = self.file(run_id, "eval_rows.json")
        with _readable(run_id, "eval_rows.json"):
            evaluation = Evaluation.of_document(json_text.parse(content))
            if not evaluation.row_losses or len(evaluation.row_losses) != len(evaluation.row_tokens):
                raise ValueError("a row has no loss, or no number of tokens")
            if evaluation.hardware and len(evaluation.hardware.split()) != 2:
                raise ValueError(f"hardware: {evaluation.hardware!r} is not a device and a type")
        return ReportedRows(evaluation, hashlib.sha256(content).hexdigest())

    def _download(self, run_id: str, path: str, folder: str) -> Path:
        """Fetches a file or folder of the run's artifacts into `folder`.

        Looks for the artifact first: a server may give the same error for a missing file and for a store of artifacts
        that does not answer, and MLflow's client then asks again for minutes. Fetches from that store itself: the
        client's own way drops the reason of a failure (store/artifact/runs_artifact_repo.py, 3.17.2).

        Raises:
            NotStored: the artifact is missing.
            Failed: the artifact is there, but the disk or the store fails; see also `of_artifacts`.
        """
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        try:
            with of_artifacts():
                stored = {each.path for each in self._client.list_artifacts(run_id, path.rpartition("/")[0] or None)}
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            # The run itself is gone, as after `mlflow gc`.
            stored = set()
        if path not in stored:
            raise NotStored(f"run {run_id}: has no {path} in MLflow")
        uri = f"{self._client.get_run(run_id).info.artifact_uri}/{path}"
        try:
            with of_artifacts():
                return Path(download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=self._uri))
        except (MlflowException, OSError) as error:
            if is_away(error):
                raise
            why = f"cannot be fetched from there to {folder}: {str(error).splitlines()[-1]}"
            raise Failed(f"run {run_id}: its {path} is in MLflow, and {why}") from error

    def _parents(self, named: NamedSweep, way_out: str, other_than: str | None = None) -> list[Any]:
        """Returns the run of the sweep of this id, or of all sweeps of this name, newest first; at least one."""
        sweep, of_sweeps = named.sweep, run_tags.OF_A_SWEEP
        if "'" not in sweep:
            of_id = self._search(f"{run_tags.equals(run_tags.SWEEP_ID, sweep)} and {of_sweeps}")
            parents = of_id or self._search(f"{run_tags.equals(run_tags.NAME, sweep)} and {of_sweeps}")
            others = [run for run in parents if run.data.tags[run_tags.SWEEP_ID] != other_than]
            if others:
                return others
        tags = (run.data.tags for run in self._search(of_sweeps))
        names = list(dict.fromkeys(of[run_tags.NAME] for of in tags if run_tags.NAME in of))[:_MOST_NAMED]
        newest = f"; the newest there: {', '.join(names)}" if names else ""
        raise SweepError(f"{sweep}: no sweep of this id or name in {named.uri}{newest}; {way_out}")

    def _search(self, condition: str) -> list[Any]:
        found = paged(partial(self._client.search_experiments, max_results=_PAGE))
        experiments = [experiment.experiment_id for experiment in found]
        newest = {"max_results": _PAGE, "order_by": ["start_time DESC"]}
        return list(paged(partial(self._client.search_runs, experiments, condition, **newest)))

    def _config(self, run_id: str) -> SweepConfig:
        path = "sweep/config.json"
        content = self.file(run_id, path)
        with _readable(run_id, path):
            raw = json_text.parse(content)["config"]
        try:
            return SweepConfig.model_validate(raw)
        except ValidationError as error:
            raise ConfigError(messages.of_validation(error, raw)) from None


@contextmanager
def _readable(run_id: str, path: str) -> Iterator[None]:
    """Raises `SweepError` if the block cannot read an artifact. Errors of a store that is away pass through."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError, ValueError, KeyError, TypeError) as error:
        if is_away(error):
            raise
        raise SweepError(f"run {run_id}: its {path} cannot be read: {first_line(error)}") from error


def _trial(run: Any) -> TrialRun:
    tags = run.data.tags
    return TrialRun(
        run_id=run.info.run_id,
        trial_key=tags.get(run_tags.TRIAL_KEY, ""),
        number=int(tags.get(run_tags.NUMBER, "0")),
        state=tags.get(run_tags.STATE, ""),
        adapter_sha256=tags.get(run_tags.ADAPTER_SHA256) or None,
        rows_sha256=tags.get(run_tags.EVAL_ROWS_SHA256),
        refused=tags.get(run_tags.ADAPTER_REFUSED) if tags.get(run_tags.ADAPTER_SHA256) == "" else None,
        metrics=dict(run.data.metrics),
        params=dict(run.data.params),
        repeats=tags.get(run_tags.REPEATS),
    )
