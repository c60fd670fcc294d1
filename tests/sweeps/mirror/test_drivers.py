"""Drivers of one mirror against each other, against a store that does not answer, and against a place that is wrong."""

from __future__ import annotations

import threading
from unittest.mock import Mock

import mirrors
import pytest
from obstore.exceptions import GenericError
from typer.testing import CliRunner

from cluster.object_store import reason
from sweeps.cli import app
from sweeps.errors import StorageError
from sweeps.mirror import fetching, timeouts
from sweeps.mirror.fetching import fetch
from sweeps.mirror.manifest import OwnManifest
from sweeps.mirror.store import Store, StoreError
from sweeps.record.folder import SweepFolder


def elsewhere(monkeypatch):
    """From now on this is another machine."""
    monkeypatch.setattr(fetching, "_here", lambda *_: None)


def kill(monkeypatch):
    """From now on a driver leaves as SIGKILL makes it."""
    monkeypatch.setattr(OwnManifest, "leave", lambda self: self._has_ended.set())


def test_a_second_driver_is_refused_while_the_first_is_heard_of(bucket, folder, tmp_path, monkeypatch):
    with mirrors.driving(folder) as drive:
        drive.report("k1", 3)
        drive.settle()
        elsewhere(monkeypatch)
        told = r"the driver on \S+ \(process \d+\) drives this sweep, and was heard of \d+ s ago: .* with --take-over"
        with pytest.raises(StorageError, match=told):
            fetch(f"{bucket.uri}/toy", tmp_path / "b", print)
        assert drive.ended == []
        assert drive.drain() is None
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_driver_that_was_killed_is_replaced_when_asked_or_long_not_heard_of(
    bucket, folder, tmp_path, monkeypatch, is_asked
):
    kill(monkeypatch)
    mirrors.drive(folder, 3)
    kept = tmp_path / "lost"
    folder.path.rename(kept)
    before = bucket.names()
    refused = CliRunner().invoke(app, ["resume", f"{bucket.uri}/toy", "--storage", str(tmp_path / "b")])
    assert (refused.exit_code, "--take-over" in refused.stderr) == (2, True), refused.output
    assert (bucket.names(), (tmp_path / "b").exists()) == (before, False)
    if not is_asked:
        monkeypatch.setattr(Store, "age", lambda *_: timeouts.SILENT_SECONDS)
    fetched = fetch(f"{bucket.uri}/toy", tmp_path / "b", print, is_asked)
    assert mirrors.files(fetched) == mirrors.files(kept)
    mirrors.drive(SweepFolder(fetched), 9)


def test_a_folder_whose_driver_was_killed_goes_on_at_once(folder, monkeypatch):
    with monkeypatch.context() as killed:
        kill(killed)
        mirrors.drive(folder, 3)
        # Killed right after its note, before it has replaced the manifest.
        killed.setattr(Store, "write", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            mirrors.drive(folder)
    with mirrors.driving(folder) as drive:
        drive.report("k1", 9)
        assert drive.drain() is None
        assert drive.said == []


def test_a_driver_with_nothing_to_send_is_heard_of_and_ends_when_it_is_replaced(bucket, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(timeouts, "RENEW_SECONDS", 0.05)
    with mirrors.driving(folder) as drive:
        drive.report("k1", 3)
        assert drive.drain() is None
        first = bucket.document("toy/manifest.json")
        mirrors.until(lambda: bucket.document("toy/manifest.json")["serial"] > first["serial"] + 3)
        assert {**bucket.document("toy/manifest.json"), "serial": 0} == {**first, "serial": 0}
        elsewhere(monkeypatch)
        fetch(f"{bucket.uri}/toy", tmp_path / "b", print, take_over=True)
        mirrors.until(lambda: drive.ended)


def test_of_two_fetches_at_once_only_the_last_goes_on(bucket, folder, tmp_path, monkeypatch):
    mirrors.drive(folder, 3)
    folder.path.rename(tmp_path / "lost")
    uri = f"{bucket.uri}/toy"

    def as_another_does(line):
        (draft,) = (tmp_path / "b").iterdir()
        elsewhere(monkeypatch)
        fetch(uri, tmp_path / "b", print)
        assert draft.is_dir(), "only what a killed fetch has left is removed"

    first = fetch(uri, tmp_path / "b", as_another_does)
    with pytest.raises(StorageError, match="has gone on elsewhere since"):
        mirrors.drive(SweepFolder(first), 9)
    mirrors.drive(SweepFolder(tmp_path / "b" / "toy"), 9)


def test_a_sweep_that_was_fetched_under_another_name_is_not_fetched_again(bucket, folder, tmp_path, monkeypatch):
    """As when `resume` is killed before it has written down where the folder is."""
    mirrors.drive(folder, 3)
    folder.path.rename(tmp_path / "lost")
    (tmp_path / "b" / "toy").mkdir(parents=True)
    fetched = fetch(f"{bucket.uri}/toy", tmp_path / "b", print)
    assert fetched == tmp_path / "b" / "toy-2"
    said: list[str] = []
    assert fetch(f"{bucket.uri}/toy", tmp_path / "b", said.append) == fetched
    assert said == [f"the sweep's folder is on this machine: {fetched}"]


def test_a_driver_that_was_cut_off_is_fenced(bucket, folder, tmp_path, monkeypatch):
    cut, here = threading.Event(), threading.get_ident()
    real = Store.write

    def write(self, name, content, before):
        # The threads of the first driver are cut off; the second one fetches in this thread.
        if cut.is_set() and threading.get_ident() != here:
            raise StoreError("cut off")
        return real(self, name, content, before)

    monkeypatch.setattr(Store, "write", write)
    with mirrors.driving(folder) as drive:
        drive.report("k1", 3)
        drive.settle()
        cut.set()
        elsewhere(monkeypatch)
        fetched = fetch(f"{bucket.uri}/toy", tmp_path / "b", print, take_over=True)
        before = bucket.names()
        manifest = bucket.read("toy/manifest.json")
        cut.clear()
        drive.report("k1", 9)
        mirrors.until(lambda: drive.ended)
        assert "has taken this sweep over" in drive.ended[0]
        end = drive.mirror.drain(mirrors.DEADLINE_SECONDS, lambda: False)
        assert (end.lost, end.behind) == (drive.ended[0], None)
        assert not end.is_whole
    assert len(drive.ended) == 1
    assert bucket.read("toy/manifest.json") == manifest
    assert set(before) <= set(bucket.names())
    assert (fetched / "trials" / "k1" / "best-000003").is_dir()


def test_a_manifest_whose_answer_was_lost_is_this_drivers_own(bucket, folder, monkeypatch):
    real = Store.write
    lost: list[bytes] = []

    def answer_lost(self, name, content, before):
        version = real(self, name, content, before)
        if not lost:
            lost.append(content)
            raise StoreError("does not answer in time")
        return version

    with mirrors.driving(folder) as drive:
        drive.report("k1", 3)
        drive.settle()
        monkeypatch.setattr(Store, "write", answer_lost)
        drive.report("k1", 9)
        mirrors.until(lambda: lost)
        drive.report("k1", 12)
        assert drive.drain() is None
        assert drive.ended == []
    assert bucket.document("toy/manifest.json")["has_left"]


def test_an_outage_delays_the_mirror_and_nothing_else(server, bucket, folder, tmp_path):
    with mirrors.driving(folder) as drive:
        drive.report("k1", 3)
        mirrors.until(lambda: "toy/manifest.json" in bucket.names())
        server.stop()
        try:
            drive.report("k1", 9)
            mirrors.until(lambda: drive.said)
            drive.report("k1", 12)
            drive.finish("k1")
        finally:
            server.start()  # other tests use it too
        mirrors.until(lambda: len(drive.said) == 2)
        assert drive.drain() is None
        assert drive.said == [
            f"mirror: {bucket.uri}/toy: does not answer; training goes on, and the mirror follows later",
            f"mirror: {bucket.uri}/toy is back, and holds everything",
        ]
    kept = tmp_path / "lost"
    folder.path.rename(kept)
    assert mirrors.files(fetch(f"{bucket.uri}/toy", tmp_path / "b", print)) == mirrors.files(kept)
    assert "trials/k1/best-000012/eval_rows.json" in mirrors.files(kept)


@pytest.mark.parametrize(
    ("endpoint", "place", "told"),
    [
        (None, "s3://no-such-bucket/p", "no-such-bucket/p/toy: there is no such bucket: make it, or name another"),
        ("http://127.0.0.1:9", "s3://b-b/p", "s3://b-b/p/toy: does not answer"),
    ],
)
def test_a_wrong_place_is_told_at_launch_and_leaves_nothing(bucket, tmp_path, monkeypatch, endpoint, place, told):
    if endpoint is not None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StorageError, match=told):
        mirrors.created(place, tmp_path / "a", monkeypatch)
    assert list((tmp_path / "a").rglob("toy*")) == []


def test_credentials_that_are_missing_are_told():
    asked = GenericError("Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 3s")
    assert reason(asked, "s3://b/p").startswith("no credentials are found: set AWS_ACCESS_KEY_ID")
    denied = GenericError("Server returned non-2xx status code: 403 Forbidden: <Code>InvalidAccessKeyId</Code>")
    assert reason(denied, "gs://b/p").startswith("access is denied to these credentials: set GOOGLE_APPLICATION_")


def test_a_sweep_in_a_folder_has_no_mirror(tmp_path, monkeypatch):
    with mirrors.driving(mirrors.created(str(tmp_path / "results"), tmp_path / "a", monkeypatch)) as drive:
        assert drive.mirror is None
