"""Requests reach a driver through Ray's head service, and its answers come back as files, without a job."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import ConnectionFailed, ServiceFailed
from cluster.submission import remote_mailbox
from cluster.submission.remote_mailbox import Answer, RemoteMailbox, ask

SWEEP = "toy-20261127-1"
FIRST, SECOND = f"{1:020d}-0123abcd", f"{2:020d}-0123abcd"


class Cluster:
    """Ray's head service and the log folder of the driver's node, as the driver and the dashboard see them."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.kept: dict[bytes, bytes] = {}
        self.fails = 0
        self.looks = 0
        self.looked = threading.Condition()

    # What the driver calls.
    def internal_kv_keys(self, prefix: bytes, _namespace: None, _timeout: float) -> list[bytes]:
        with self.looked:
            self.looks += 1
            self.looked.notify_all()
        self.fails -= 1
        if self.fails >= 0:
            raise RuntimeError("the head service is away")
        return [key for key in self.kept if key.startswith(prefix)]

    def internal_kv_get(self, key: bytes, _namespace: None, _timeout: float) -> bytes | None:
        return self.kept.get(key)

    def internal_kv_del(self, key: bytes, _is_prefix: bool, _namespace: None, _timeout: float) -> None:
        del self.kept[key]

    # What the laptop calls.
    def put(self, name: str, content: bytes) -> None:
        self.kept[f"gcs://{name}".encode()] = content

    def files(self, _node: str, folder: str) -> frozenset[str]:
        return frozenset(path.name for path in (self.logs / folder).glob("*"))

    def file(self, _node: str, path: str) -> str:
        return (self.logs / path).read_text()

    def wait_for_looks(self, count: int) -> None:
        with self.looked:
            self.looked.wait_for(lambda: self.looks >= count, 30)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(tmp_path)
    monkeypatch.setattr("ray.experimental.internal_kv.internal_kv_get_gcs_client", lambda: made)
    node = SimpleNamespace(get_logs_dir_path=lambda: str(tmp_path))
    monkeypatch.setattr("ray._private.worker._global_node", node)
    monkeypatch.setattr(remote_mailbox, "TURN_SECONDS", 0.01)
    monkeypatch.setattr(remote_mailbox, "WAITING_SECONDS", 0.01)
    return made


@contextmanager
def driver(answer: Answer) -> Iterator[None]:
    with RemoteMailbox(SWEEP, answer).open():
        yield


def asked(cluster: Any, request_id: str, content: bytes, turns: int = 3000) -> str | None:
    pause, left = threading.Event(), itertools.count(turns, -1)
    return ask(cluster, SWEEP, "node", request_id, content, lambda: pause.wait(0.01) or next(left) <= 0)


def echo(request_id: str, content: bytes) -> bytes:
    return f"{request_id}: ".encode() + content


def test_an_answer_comes_back_and_the_request_is_gone(cluster: Cluster) -> None:
    with driver(echo):
        assert asked(cluster, FIRST, b"where are you") == f"{FIRST}: where are you"
        assert asked(cluster, SECOND, b"and now") == f"{SECOND}: and now"
        cluster.wait_for_looks(cluster.looks + 2)
        assert cluster.kept == {}
        (folder,) = (cluster.logs / "qsweep").iterdir()
        assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o600"}
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_request_is_asked_again_until_there_is_an_answer(cluster: Cluster) -> None:
    answers = iter([None, None, b"yes"])
    with driver(lambda _id, _content: next(answers)):
        assert asked(cluster, FIRST, b"x") == "yes"


def test_where_nobody_listens_nothing_is_sent(cluster: Cluster) -> None:
    assert asked(cluster, FIRST, b"x") is None
    with driver(echo):
        pass
    assert asked(cluster, FIRST, b"x") is None, "the driver has ended"
    assert cluster.kept == {}


def test_requests_of_another_sweep_are_left_alone(cluster: Cluster) -> None:
    cluster.kept[b"gcs://qsweep-0000000000000000-x.zip"] = b"x"
    with driver(echo):
        cluster.wait_for_looks(2)
    assert len(cluster.kept) == 1


@pytest.mark.parametrize(
    ("request_id", "content"), [("../../etc", b"x"), ("", b"x"), (FIRST, b"x" * (remote_mailbox.MOST_BYTES + 1))]
)
def test_what_is_no_request_is_thrown_away(cluster: Cluster, request_id: str, content: bytes) -> None:
    cluster.put(remote_mailbox._package(SWEEP, request_id), content)
    with driver(echo):
        cluster.wait_for_looks(2)
        assert cluster.files("node", remote_mailbox._folder(SWEEP)) == {remote_mailbox.LISTENING}
    assert cluster.kept == {}


def test_a_head_service_that_was_away_is_asked_again(cluster: Cluster) -> None:
    cluster.fails = 3
    with driver(echo):
        assert asked(cluster, FIRST, b"x") == f"{FIRST}: x"


def test_looks_that_fail_are_no_answer(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, files = itertools.count(), cluster.files

    def fail_twice(node: str, folder: str) -> frozenset[str]:
        if next(looks) in (1, 2):
            raise ServiceFailed("http://head: answers with HTTP 500")
        return files(node, folder)

    monkeypatch.setattr(cluster, "files", fail_twice)
    with driver(echo):
        assert asked(cluster, FIRST, b"x") == f"{FIRST}: x"


def test_a_folder_that_another_user_has_made_is_not_used(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_mailbox.os, "getuid", lambda: os.geteuid() + 1)
    with driver(echo):
        assert asked(cluster, FIRST, b"x") is None


def test_a_driver_that_stops_listening_is_told_apart_from_one_that_is_slow(cluster: Cluster) -> None:
    def stop_at_the_second(request_id: str, _content: bytes) -> None:
        if request_id == SECOND:
            (cluster.logs / remote_mailbox._folder(SWEEP) / "listening").unlink(missing_ok=True)

    with driver(stop_at_the_second):
        with pytest.raises(ConnectionFailed, match="has not answered within 30 s"):
            asked(cluster, FIRST, b"x", turns=3)
        with pytest.raises(ConnectionFailed, match="stopped taking requests"):
            asked(cluster, SECOND, b"x")


def test_the_last_answers_can_be_fetched_after_the_end_and_go_with_the_next_sweep(cluster: Cluster) -> None:
    with driver(echo):
        asked(cluster, FIRST, b"x")
    folder = remote_mailbox._folder(SWEEP)
    assert cluster.files("node", folder) == {f"{FIRST}.json"}
    os.utime(cluster.logs / folder / f"{FIRST}.json", (0, 0))
    with RemoteMailbox("another", echo).open():
        assert not (cluster.logs / folder).exists()


def test_a_cluster_that_shows_no_files_is_asked_by_a_job(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> frozenset[str]:
        raise ServiceFailed("http://head: answers with HTTP 500")

    monkeypatch.setattr(cluster, "files", fail)
    assert asked(cluster, FIRST, b"x") is None


def test_a_log_folder_that_cannot_be_written_ends_no_sweep(cluster: Cluster) -> None:
    (cluster.logs / "qsweep").write_text("a file")
    with driver(echo):
        assert asked(cluster, FIRST, b"x") is None
