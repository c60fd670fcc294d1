"""A sweep is looked for by its id alone, before another may bear it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from typing import Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import NoCredentialsError
from mlflow import MlflowClient
from sweep_events import begun, started
from tracked_sweeps import PARAMS, SWEEP, deliver, run_of

from sweeps.config.model import SweepConfig
from sweeps.errors import Failed, NotStored
from sweeps.record.folder import SweepFolder
from sweeps.tracking import stores
from sweeps.tracking.lookup import Lookup, experiment_of, holds
from sweeps.tracking.sink import MlflowSink


def test_a_sweep_is_found_by_its_id_until_its_run_is_deleted(sink: MlflowSink, client: Any, uri: str) -> None:
    assert not holds(uri, SWEEP)
    deliver(sink, [begun()])
    assert holds(uri, SWEEP)
    assert not holds(uri, "demo")
    client.delete_run(sink.parent_run)
    assert not holds(uri, SWEEP)


@pytest.mark.parametrize("away", ["sqlite:///nowhere/mlflow.db", "http://127.0.0.1:1"])
def test_a_store_that_does_not_answer_holds_none(away: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not holds(away, SWEEP)
    assert list(tmp_path.iterdir()) == []


def test_a_repeat_is_known_by_the_trial_whose_point_it_has(sink: MlflowSink, uri: str) -> None:
    again = started("bbbb", 1, **PARAMS).model_copy(update={"repeats": "aaaa"})
    deliver(sink, [begun(), started("aaaa", **PARAMS), again])
    trials = Lookup(uri).sweep(stores.NamedSweep(uri, SWEEP)).trials
    assert [(trial.trial_key, trial.repeats) for trial in trials] == [("aaaa", None), ("bbbb", "aaaa")]


def test_of_sweeps_with_one_name_the_newest_is_meant(
    sink: MlflowSink, folder: Any, config: SweepConfig, uri: str
) -> None:
    deliver(sink, [begun(1.0)])
    deliver(MlflowSink(config, "demo-20260102-000000-abcd", folder), [begun(2.0)])
    assert Lookup(uri).sweep(stores.NamedSweep(uri, "demo")).sweep_id == "demo-20260102-000000-abcd"


def test_the_page_of_a_sweep_is_found_by_its_folder_where_that_is_named_else_by_mlflow(
    sink: MlflowSink, folder: SweepFolder, uri: str
) -> None:
    deliver(sink, [begun()])
    told = (sink.experiment_id, SWEEP)
    assert experiment_of(stores.NamedSweep(uri, "demo")) == told
    server = stores.NamedSweep("http://nobody:5000", SWEEP, folder.path)
    folder.tracking.write_text(json.dumps({"uri": server.uri, "experiment_id": "7"}))
    assert experiment_of(server) == ("7", SWEEP)
    assert experiment_of(stores.NamedSweep(uri, SWEEP, folder.path)) == told, "the folder notes another store"


def test_a_run_that_is_gone_has_no_files(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `mlflow gc`, which removes the rows of a run too."""
    # A server may answer with an error after which MLflow's client asks again for minutes.
    monkeypatch.setattr(MlflowClient, "download_artifacts", Mock(side_effect=AssertionError("asked for")))
    with pytest.raises(NotStored, match=r"run 0{32}: has no promoted/m/1 in MLflow"):
        Lookup(uri).files("0" * 32, "promoted/m/1")
    with pytest.raises(NotStored, match=r"has no eval_rows\.json in MLflow"):
        Lookup(uri).reported("0" * 32)


@pytest.mark.parametrize(
    ("where", "error", "told"),
    [
        # As where a server names a bucket, and this machine has no key to it: boto3's errors are no MlflowException.
        (
            *((MlflowClient, "list_artifacts"), NoCredentialsError()),
            r"^the store of MLflow's artifacts: NoCredentialsError: Unable to locate cred",
        ),
        # MLflow fetches from a folder by it.
        (
            *((shutil, "copy2"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x")),
            "its adapter is in MLflow, and cannot be fetched .*No space left",
        ),
    ],
)
def test_an_adapter_that_cannot_be_fetched_is_a_failure(whole, monkeypatch, where, error, told) -> None:
    run = run_of(whole.client, "aaaa").info.run_id
    monkeypatch.setattr(*where, Mock(side_effect=error))
    with pytest.raises(Failed, match=told):
        Lookup(whole.uri).files(run, "adapter")
