"""Ray that does not start, and Ray that goes. No Ray is started here."""

from __future__ import annotations

import gc
import logging
import logging.handlers
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest
from ray._private import services
from ray.exceptions import AuthenticationError

from cluster import connect, timeouts
from cluster.errors import ConnectionFailed, NotStarted


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes, which are gone after the test."""
    with ExitStack() as ends:

        def start(*words: object) -> subprocess.Popen[bytes]:
            started = ends.enter_context(subprocess.Popen(list(map(str, words)), start_new_session=True))
            ends.callback(started.kill)
            return started

        yield start


@pytest.mark.parametrize("failures", [1, 2])
def test_ray_that_does_not_start_is_started_once_more_and_then_told_of_in_one_line(monkeypatch, process, failures):
    cluster, left = connect.Cluster("local"), list[subprocess.Popen[bytes]]()

    def init(address: str, namespace: str, **options: object) -> None:
        if len(left) < failures:
            left.append(process("sleep", 600))
            cluster._daemons.append(left[-1])
            raise TimeoutError("Timed out after 60 seconds\nwhile waiting for the raylet")

    monkeypatch.setattr(connect, "_init", init)
    told = r"^Ray does not start on this machine, tried twice: Timed out after 60 seconds$"
    with pytest.raises(NotStarted, match=told) if failures == 2 else nullcontext():
        cluster._start("sweep", Path("/tmp/nowhere"))
    assert [daemon.poll() for daemon in left] == [-9] * failures, "what a start has left is gone"


def test_a_ray_that_is_left_behind_fails_in_silence(monkeypatch):
    told: list[object] = []
    rays, logged = logging.getLogger("ray"), logging.handlers.BufferingHandler(10)
    before = rays.level
    monkeypatch.setattr(rays, "handlers", [logged])
    monkeypatch.setattr(threading, "excepthook", told.append)
    goes = threading.Event()

    def wait_for_ray() -> None:
        goes.wait(60)
        raise ConnectionError("failed to connect to all addresses")

    thread = threading.Thread(target=wait_for_ray)
    thread.start()
    connect.Cluster("local").abandon()
    goes.set()
    thread.join()
    logging.getLogger("ray.tune.execution.experiment_state").error("Saving experiment state failed")
    rays.setLevel(before)
    assert (told, logged.buffer) == ([], [])


def test_an_own_cluster_is_lost_with_a_daemon_that_it_cannot_do_without(tmp_path, process):
    for name in ("raylet", "log_monitor"):
        (tmp_path / name).symlink_to("/bin/sleep")
    cluster = connect.Cluster("local")
    cluster._daemons += [process(tmp_path / name, 600) for name in ("raylet", "log_monitor")]
    cluster.has_started = True
    assert not cluster.is_lost()
    for daemon, is_lost in zip(reversed(cluster._daemons), (False, True), strict=True):
        daemon.kill()
        daemon.wait()
        assert cluster.is_lost() == is_lost


@pytest.mark.parametrize(("probe_seconds", "is_seen"), [(0.0, True), (600.0, False)])
def test_a_cluster_that_was_joined_is_lost_when_its_head_service_listens_no_more(monkeypatch, probe_seconds, is_seen):
    """Also where that was just before the block ended: what Ray raises then does not tell the cause."""
    monkeypatch.setattr(timeouts, "HEAD_PROBE_SECONDS", probe_seconds)
    monkeypatch.setattr(connect, "_shut_down", lambda: None)
    cluster = connect.Cluster("auto")
    with socket.create_server(("127.0.0.1", 0)) as service:
        place = service.getsockname()
        monkeypatch.setattr(cluster, "_join", lambda _: setattr(cluster, "_service", place))
        with pytest.raises(ConnectionError), cluster.connected("sweep"):
            assert not cluster.is_lost()
            service.close()
            assert cluster.is_lost() == is_seen
            raise ConnectionError("failed to connect to all addresses")
    assert cluster.is_lost()


def test_an_address_where_nothing_listens_is_told_of_at_once(monkeypatch):
    # Ray itself tries for minutes.
    monkeypatch.setattr(connect, "_init", lambda *_, **__: pytest.fail("Ray was asked"))
    with socket.create_server(("127.0.0.1", 0)) as service:
        address = f"127.0.0.1:{service.getsockname()[1]}"
    told = f"cluster.address: '{address}': nothing listens there: is the cluster up"
    with pytest.raises(ConnectionFailed, match=told), connect.connected(address, "sweep"):
        pass


def test_a_cluster_that_wants_a_token_says_how_to_give_one(monkeypatch):
    def init(address: str, namespace: str, **options: object) -> None:
        raise AuthenticationError("Token authentication is enabled but no authentication token was found")

    monkeypatch.setattr(connect, "_init", init)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    told = "cluster.address: 'auto': the cluster wants a token and got none .*RAY_AUTH_TOKEN_PATH"
    with pytest.raises(ConnectionFailed, match=told), connect.connected("auto", "sweep"):
        pass


def test_no_ray_at_the_address_says_how_to_start_one_and_not_what_ray_advises(monkeypatch):
    def init(address: str, namespace: str, **options: object) -> None:
        raise ConnectionError("Could not find any running Ray instance. Please specify the one to connect to")

    monkeypatch.setattr(connect, "_init", init)
    told = "no Ray cluster there: Could not find any running Ray instance: start Ray .*or train on this machine alone"
    with pytest.raises(ConnectionFailed, match=told), connect.connected("auto", "sweep"):
        pass


def test_ray_of_the_sweeps_own_has_the_environment_without_the_drivers_secrets(tmp_path, monkeypatch):
    for name in connect.DRIVERS_SECRETS:
        monkeypatch.setenv(name, "canary-7f31")
    monkeypatch.setenv("HF_TOKEN", "hf-0815")
    daemons: list[subprocess.Popen[bytes]] = []
    with connect._apart(daemons), (tmp_path / "environment").open("wb") as file:
        # As Ray starts each of its daemons, whose processes inherit the environment.
        services.start_ray_process(["env"], "raylet", fate_share=False, stdout_file=file)
        [daemon] = daemons
        daemon.wait(60)
    given = (tmp_path / "environment").read_text()
    assert "canary-7f31" not in given
    assert "HF_TOKEN=hf-0815" in given, "hosts fetch models with it"
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "canary-7f31", "the driver needs it"


ALARMED = """
import signal
from cluster.connect import hear_again
signal.alarm(600)
hear_again()
print("left:", signal.alarm(0))
"""


def test_a_process_that_heard_sigterm_while_ray_started_is_not_ended_by_rays_alarm():
    done = subprocess.run([sys.executable, "-c", ALARMED], capture_output=True, text=True, check=True)
    assert done.stdout == "left: 0\n"


def test_no_garbage_is_collected_while_ray_ends(monkeypatch):
    class Reference:
        """As one of Ray's: freeing it while Ray ends takes the process with it."""

    freed_meanwhile = []

    def shutdown() -> None:
        late = Reference()
        late.cycle = late  # type: ignore[attr-defined]
        seen = weakref.ref(late)
        del late
        # More than enough for a collection of the youngest generation.
        blocks: list[list] = [[] for _ in range(100_000)]
        freed_meanwhile.append(seen() is None and bool(blocks))

    monkeypatch.setattr(connect.ray, "shutdown", shutdown)
    connect._shut_down()
    assert freed_meanwhile == [False]
    assert gc.isenabled()
