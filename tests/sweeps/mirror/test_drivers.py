"""Drivers of one mirror against each other, against a store that does not answer, and against a place that is wrong."""

from __future__ import annotations

import json
import threading
from functools import partial

import mirrors
import pytest
from obstore.exceptions import GenericError

from cluster.object_store import reason
from sweeps.errors import StorageError
from sweeps.mirror import fetching, lease, opening, timeouts
from sweeps.mirror.fetching import fetch
from sweeps.mirror.lease import HeldLease
from sweeps.mirror.store import Store, StoreError

OFTEN = 240
"""Renewals of a lease of 60 s, which does not lapse however busy the machine is."""


def elsewhere(monkeypatch):
    """From now on this is another machine."""
    monkeypatch.setattr(opening, "boot", lambda: "another machine")
    monkeypatch.setattr(fetching, "_here", lambda *_: None)


def test_a_second_driver_is_refused_while_the_first_is_heard_of(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(timeouts, "RENEWALS", OFTEN)
    folder = mirrors.created(bucket.uri, tmp_path / "a", monkeypatch)
    with mirrors.driving(folder) as drive:
        drive.report("k1", 3)
        mirrors.until(lambda: "toy/manifest.json" in bucket.names())
        elsewhere(monkeypatch)
        said: list[str] = []
        told = r"the driver on \S+ \(process \d+\) drives this sweep: its lease .* lives until ..:..:.. at least"
        with pytest.raises(StorageError, match=told):
            fetch(f"{bucket.uri}/toy", tmp_path / "b", said.append)
        assert "waits until" in said[0]
        assert drive.ended == []
        assert drive.drain() is None
    assert not (tmp_path / "b").exists()


def test_a_driver_that_was_killed_is_replaced_once_its_lease_has_lapsed(bucket, folder, tmp_path, monkeypatch):
    with mirrors.driving(folder) as drive:
        drive.report("k1", 3)
        assert drive.drain() is None
        monkeypatch.setattr(HeldLease, "release", lambda _: None)  # as SIGKILL leaves it
    kept = tmp_path / "lost"
    folder.path.rename(kept)
    elsewhere(monkeypatch)
    waited: list[float] = []
    said: list[str] = []
    monkeypatch.setattr(timeouts, "LOOK_SECONDS", 10.0)
    monkeypatch.setattr(lease, "take", partial(lease.take, clock=lambda: sum(waited), pause=waited.append))
    assert mirrors.files(fetch(f"{bucket.uri}/toy", tmp_path / "b", said.append)) == mirrors.files(kept)
    assert 60.0 <= sum(waited) <= 68.0
    assert "has not ended in order: this one waits until" in said[0]


def test_a_folder_whose_driver_was_killed_goes_on_at_once(folder, monkeypatch):
    monkeypatch.setattr(HeldLease, "release", lambda _: None)  # as SIGKILL leaves it
    mirrors.drive(folder, 3)
    with mirrors.driving(folder) as drive:
        drive.report("k1", 9)
        assert drive.drain() is None
        assert drive.said == []


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


def test_a_driver_that_was_cut_off_is_fenced(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(timeouts, "LEASE_SECONDS", 1.0)
    folder = mirrors.created(bucket.uri, tmp_path / "a", monkeypatch)
    cut, here = threading.Event(), threading.get_ident()
    real = Store.write

    def write(self, name, content, before):
        # The threads of the first driver are cut off; the second one's lease is taken in this thread.
        if cut.is_set() and threading.get_ident() != here:
            raise StoreError("cut off")
        return real(self, name, content, before)

    monkeypatch.setattr(Store, "write", write)
    with mirrors.driving(folder) as drive:
        drive.report("k1", 3)
        drive.settle()
        cut.set()
        elsewhere(monkeypatch)
        monkeypatch.setattr(HeldLease, "keep", lambda *_: None)  # the second driver is only to take the mirror
        monkeypatch.setattr(timeouts, "LEASE_SECONDS", mirrors.DEADLINE_SECONDS)
        fetched = fetch(f"{bucket.uri}/toy", tmp_path / "b", print)
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
    assert [name for name in bucket.names() if "trials/k1/best-000009" in name] == []
    assert set(before) <= set(bucket.names())
    assert (fetched / "trials" / "k1" / "best-000003").is_dir()


def test_a_renewal_whose_answer_was_lost_is_renewed_once_more(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(timeouts, "RENEWALS", OFTEN)
    folder = mirrors.created(bucket.uri, tmp_path / "a", monkeypatch)
    real = Store.write
    written: list[int] = []

    def answer_lost(self, name, content, before):
        version = real(self, name, content, before)
        if name == "lease.json":
            written.append(json.loads(content)["beat"])
            if len(written) == 1:
                raise StoreError("does not answer in time")
        return version

    with mirrors.driving(folder) as drive:
        monkeypatch.setattr(Store, "write", answer_lost)
        mirrors.until(lambda: len(written) >= 3)
        assert written[:3] == [1, 2, 3]
        drive.report("k1", 3)
        assert drive.drain() is None
        assert (drive.ended, drive.said) == ([], [])


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
