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
from pathlib import Path

import pytest
from ray._private import services
from ray.exceptions import AuthenticationError

from cluster import connect, timeouts
from cluster.errors import ConnectionFailed, NotStarted


@pytest.fixture
def failing(monkeypatch):
    """Makes Ray's start time out the first times, with a daemon left each time; answers the daemons."""
    left: list[subprocess.Popen[bytes]] = []

    def fail(cluster: connect.Cluster, times: int):
        def init(address: str, namespace: str, **options: object) -> None:
            if len(left) < times:
                left.append(subprocess.Popen(["sleep", "600"], start_new_session=True))
                cluster._daemons.append(left[-1])
                raise TimeoutError("Timed out after 60 seconds\nwhile waiting for the raylet")

        monkeypatch.setattr(connect, "_init", init)
        return left

    yield fail
    for daemon in left:
        daemon.kill()
        daemon.wait()


def test_ray_that_does_not_start_is_started_once_more(failing):
    cluster = connect.Cluster("local")
    left = failing(cluster, 1)
    cluster._start("sweep", Path("/tmp/nowhere"))
    assert [daemon.poll() for daemon in left] == [-9], "what the first start left is gone"


def test_ray_that_does_not_start_twice_is_told_of_in_one_line(failing):
    cluster = connect.Cluster("local")
    left = failing(cluster, 2)
    with pytest.raises(NotStarted) as told:
        cluster._start("sweep", Path("/tmp/nowhere"))
    assert str(told.value) == "Ray does not start on this machine, tried twice: Timed out after 60 seconds"
    assert [daemon.poll() for daemon in left] == [-9, -9]


class _Id(str):
    """A node's id as Ray's client gives it."""

    def hex(self) -> str:
        return str(self)


def test_the_node_that_starts_is_looked_for_again_and_again_before_ray_looks(monkeypatch):
    looks, answers = [], [{}, {_Id("other"): 1}, {_Id("other"): 1, _Id("mine"): 1}]

    class Client:
        def __init__(self, address: str) -> None:
            looks.append(address)

        def get_all_node_info(self):
            return answers.pop(0)

    def rays_own(address: str, node_id: str) -> str:
        looks.append(f"{node_id} after {len(answers)}")
        return "its node"

    monkeypatch.setattr(connect, "GcsClient", Client)
    monkeypatch.setattr(services, "get_node", rays_own)
    with connect._without_waits():
        assert services.get_node("head:1", "mine") == "its node"
    assert looks == ["head:1", "mine after 0"]
    assert services.get_node is rays_own


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


def test_an_own_cluster_is_lost_with_a_daemon_that_it_cannot_do_without(tmp_path):
    for name in ("raylet", "log_monitor"):
        (tmp_path / name).symlink_to("/bin/sleep")
    cluster = connect.Cluster("local")
    cluster._daemons += [subprocess.Popen([str(tmp_path / name), "600"]) for name in ("raylet", "log_monitor")]
    raylet, other = cluster._daemons
    try:
        cluster.has_started = True
        assert not cluster.is_lost()
        other.kill()
        other.wait()
        assert not cluster.is_lost()
        raylet.kill()
        raylet.wait()
        assert cluster.is_lost()
    finally:
        for daemon in (raylet, other):
            daemon.kill()
            daemon.wait()


def test_a_cluster_that_was_joined_is_lost_when_its_head_service_listens_no_more(monkeypatch):
    monkeypatch.setattr(timeouts, "HEAD_PROBE_SECONDS", 0.0)
    cluster = connect.Cluster("auto")
    cluster.has_started = True
    with socket.create_server(("127.0.0.1", 0)) as service:
        cluster._service = service.getsockname()
        assert not cluster.is_lost()
    assert cluster.is_lost()


def test_a_cluster_that_was_lost_just_before_the_block_ended_is_known_to_be_lost(monkeypatch):
    monkeypatch.setattr(connect, "_shut_down", lambda: None)
    cluster = connect.Cluster("auto")
    with socket.create_server(("127.0.0.1", 0)) as service:
        place = service.getsockname()
        monkeypatch.setattr(cluster, "_join", lambda _: setattr(cluster, "_service", place))
        # What Ray raises then does not tell the cause.
        with pytest.raises(ConnectionError), cluster.connected("sweep"):
            assert not cluster.is_lost()
            service.close()
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
        blocks: list[list] = [
            [] for _ in range(100_000)
        ]  # more than enough for a collection of the youngest generation
        freed_meanwhile.append(seen() is None and bool(blocks))

    monkeypatch.setattr(connect.ray, "shutdown", shutdown)
    connect._shut_down()
    assert freed_meanwhile == [False]
    assert gc.isenabled()
