"""A sweep is looked for by its id alone, before another may bear it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import NoCredentialsError
from mlflow import MlflowClient
from sweep_events import begun, started
from tracked_sweeps import PARAMS, SWEEP, deliver, run_of, sweep_events

from sweeps.config.model import SweepConfig
from sweeps.errors import Failed, NotStored, SweepError
from sweeps.record.folder import SweepFolder
from sweeps.tracking import stores
from sweeps.tracking.failures import answering
from sweeps.tracking.lookup import Lookup, experiment_of, holds
from sweeps.tracking.sink import MlflowSink


@pytest.mark.parametrize("deleted", [(), ("run",), ("run", "experiment")])
def test_a_sweep_is_found_though_it_was_deleted_since_it_would_be_restored(
    sink: MlflowSink, client: Any, uri: str, deleted: tuple[str, ...]
) -> None:
    assert not holds(uri, SWEEP)
    deliver(sink, [begun()])
    if "run" in deleted:
        client.delete_run(sink.parent_run)
    if "experiment" in deleted:
        client.delete_experiment(sink.experiment_id)
    assert holds(uri, SWEEP)
    assert not holds(uri, "demo")


@pytest.mark.parametrize("away", ["sqlite:///nowhere/mlflow.db", "http://127.0.0.1:1"])
def test_a_store_that_does_not_answer_holds_none(away: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not holds(away, SWEEP)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_answers_late_is_not_waited_for(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(Lookup, "holds", lambda *_: answered.wait())
    assert not holds(uri, SWEEP, seconds=0.1)
    answered.set()


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


def test_what_a_store_of_artifacts_says_is_told(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a server names a bucket, and this machine has no key to it: boto3's errors are no MlflowException."""
    monkeypatch.setattr(MlflowClient, "list_artifacts", Mock(side_effect=NoCredentialsError()))
    with pytest.raises(Failed, match=r"^the store of MLflow's artifacts: NoCredentialsError: Unable to locate cred"):
        Lookup(uri).files("0" * 32, "adapter")


def test_what_cannot_be_read_for_a_reason_without_words_is_told_by_the_kind_of_error(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lookup, "_download", Mock(side_effect=OSError()))
    with pytest.raises(SweepError, match=r"run r: its eval_rows\.json cannot be read: OSError$"):
        Lookup(uri).reported("r")


def test_a_link_in_an_adapter_is_followed_within_the_run_and_refused_by_its_reason_beyond(
    sink: MlflowSink, client: Any, uri: str, folder: SweepFolder, tmp_path: Path
) -> None:
    deliver(sink, sweep_events(folder))
    lookup, run = Lookup(uri), run_of(client, "aaaa").info
    before = lookup.files(run.run_id, "adapter")
    artifacts = Path(run.artifact_uri.removeprefix("file://"))
    linked = sorted((artifacts / "adapter").iterdir())[0]
    for place in (artifacts / "beside", tmp_path / "beyond"):
        linked.rename(place)
        linked.symlink_to(place)
        if place.is_relative_to(artifacts):
            assert lookup.files(run.run_id, "adapter") == before
            linked.unlink()
            place.rename(linked)
    with pytest.raises(Failed, match=r"cannot be fetched from there: Invalid path: .* outside the artifact directory$"):
        lookup.files(run.run_id, "adapter")


def test_an_adapter_for_which_the_disk_here_has_no_room_is_a_failure_of_the_machine(
    sink: MlflowSink, client: Any, uri: str, folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(sink, sweep_events(folder))
    lookup, run = Lookup(uri), run_of(client, "aaaa").info.run_id
    full = Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x"))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy2", full)  # by which MLflow fetches from a folder
        with pytest.raises(Failed, match=r"its adapter is in MLflow, and cannot be fetched .* no room for it in "):
            lookup.files(run, "adapter")
        with pytest.raises(Failed, match=r"its eval_rows\.json is in MLflow, and cannot be fetched "):
            lookup.reported(run)
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(Failed, match=r"^this machine: .*No space left on device"), answering(uri):
        lookup.files(run, "adapter")
