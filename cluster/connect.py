"""Connects to Ray: starts a cluster of this process's own, or joins one that runs already."""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import ray
from ray._private import services
from ray.exceptions import AuthenticationError

from cluster import timeouts
from cluster.errors import ConnectionFailed, NotStarted, first_line, not_let_in
from cluster.libraries import replaced
from cluster.ray_files import private_token, ray_folder

# Ray reads these at import or start. Without them its reporters, loggers and usage questions would hide the sweep's own
# output.
ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": f"{timeouts.RAY_ENDS_ITSELF_SECONDS:.0f}",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # How many trials may wait for their processes at once. Tune's default is 1 without a limiter of Tune's own. The
    # searcher hands out no more trials than there are slots; so the trials of hosts that join later start together.
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
DRIVERS_SECRETS = frozenset({
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "DATABRICKS_CLIENT_SECRET",
    "DATABRICKS_TOKEN",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_URI",
    "MYSQL_PWD",
    "PGPASSWORD",
    "POSTGRES_PASSWORD",
})  # fmt: skip
"""Variables that the driver's clients of MLflow and of the object store read, and no process of Ray's needs. The id of
AWS's key is among them because AWS's own client takes an id without its secret for a mistake."""
HIDDEN = "qsweep-ray"
"""The name that the raylet of a private Ray has in the list of processes. `ray.init("auto")` and `ray start` look for a
Ray on this machine among processes called raylet (ray/_private/services.py, 2.60: `_is_raylet_process`)."""
HEADS = ("gcs_server", "raylet", HIDDEN)
"""Daemons without which Ray does not work."""


class Cluster:
    """Ray as this process starts or joins it. All but `connected` may be called from another thread."""

    def __init__(self, address: Literal["local", "auto"] | str) -> None:
        """Starts nothing; `connected` does.

        Args:
            address: `local` starts a cluster of its own and never joins one that happens to be there; `auto` joins the
                one on this node; anything else is the address of one.
        """
        self._address = address
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._service: tuple[str, int] | None = None
        """Address of the head service, when the cluster is not this process's own."""
        self.joined: str | None = None
        """Address of a joined cluster's head service as text, also where `auto` has found it."""
        self.patience_seconds = 0.0
        """Seconds to wait for Ray once it is lost. 0 for an own cluster, whose daemons nobody starts again."""
        self.has_started = False
        self.is_ending = False
        self.is_abandoned = False
        self._was_lost = False
        self._probed, self._answers = -math.inf, True

    @contextmanager
    def connected(self, namespace: str) -> Iterator[None]:
        """Connects to Ray while the block runs; `namespace` holds the names of this sweep's actors.

        Raises:
            ConnectionFailed: no cluster is at the address.
            NotStarted: no cluster could be started here.
        """
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        own = ray_folder() if self._address == "local" else nullcontext()
        with _undisturbed(), private_token(), own as folder, _apart(self._daemons):
            if folder is not None:
                self._start(namespace, folder)
            else:
                self._join(namespace)
            hear_again()
            self.has_started = True
            try:
                yield
            finally:
                self._probed = -math.inf  # An error of Ray's may have ended the block before the next probe was due.
                self._was_lost, self.is_ending = self.is_lost(), True
                _shut_down()
                hear_again()

    def is_lost(self) -> bool:
        """Tells whether the joined head service is gone, or a daemon of `HEADS` that this process has started."""
        if not self.has_started or self.is_ending:
            return self._was_lost
        if self._service is not None:
            if time.monotonic() - self._probed >= timeouts.HEAD_PROBE_SECONDS:
                self._answers, self._probed = _listens(self._service, timeouts.HEAD_ANSWER_SECONDS), time.monotonic()
            return not self._answers
        return any(daemon.poll() is not None for daemon in self._daemons if _name(daemon) in HEADS)

    def abandon(self) -> None:
        """Kills the daemons that this process has started. Other threads that wait for Ray may then wait for ever."""
        self.is_abandoned = True
        # Those threads fail one after the other, and each would print a traceback. Tune's own thread would log one when
        # it saves its state after Ray's folder is gone.
        threading.excepthook = lambda _what: None
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        self._end_daemons()

    def _end_daemons(self) -> None:
        for daemon in self._daemons:
            with suppress(OSError):
                # Its whole group, because the raylet's agents need a minute to notice its end.
                os.killpg(daemon.pid, signal.SIGKILL)

    def _join(self, namespace: str) -> None:
        named = f"cluster.address: {self._address!r}"
        if not is_there(self._address):
            raise ConnectionFailed(
                f"{named}: nothing listens there: is the cluster up, and is it the address of its head service (port "
                "6379 as a rule; `ray start --head` prints it)?"
            )
        try:
            _init(self._address, namespace)
        except AuthenticationError as error:
            raise ConnectionFailed(f"{named}: {not_let_in(str(error)) or error}") from error
        except (ConnectionError, ValueError, RuntimeError) as error:
            way_out = "start Ray (docs/cluster.md), or train on this machine alone with cluster.profile=local"
            raise ConnectionFailed(
                f"{named}: no Ray cluster there: {first_line(error).partition('. ')[0]}: {way_out}"
            ) from error
        self.joined = str(ray.get_runtime_context().gcs_address)
        host, _, port = self.joined.rpartition(":")
        self._service, self.patience_seconds = (host.strip("[]"), int(port)), timeouts.LOST_HEAD_SECONDS

    def _start(self, namespace: str, folder: Path) -> None:
        """Starts Ray, and tries twice: on a busy machine Ray's own time-outs may be too short."""
        for attempt in (1, 2):
            try:
                self._try_to_start(namespace, folder)
                return
            except Exception as error:  # Ray has no error of its own for a daemon that does not start
                if attempt == 2 or self.is_abandoned:
                    raise NotStarted(f"Ray does not start on this machine, tried twice: {first_line(error)}") from error

    def _try_to_start(self, namespace: str, folder: Path) -> None:
        try:
            options = {"include_dashboard": False, "object_store_memory": 512 * 2**20, "_temp_dir": str(folder)}
            with _without_idle_daemons():
                _init("local", namespace, **options)
        except BaseException:
            ray.shutdown()
            self._end_daemons()
            for daemon in self._daemons:
                with suppress(subprocess.TimeoutExpired):
                    daemon.wait(timeouts.DAEMON_END_SECONDS)
            self._daemons.clear()
            raise


@contextmanager
def connected(address: Literal["local", "auto"] | str, namespace: str) -> Iterator[None]:
    """Connects to Ray while the block runs; see `Cluster`."""
    with Cluster(address).connected(namespace):
        yield


def _init(address: str, namespace: str, **options: object) -> None:
    ray.init(
        address=address,
        namespace=namespace,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=True,
        **options,
    )


def _shut_down() -> None:
    """Ends Ray while no garbage is collected.

    When another thread frees a reference to an object of Ray's while Ray ends, the whole process ends with exit code 1
    and no message (core_worker_process.cc, 2.60: `GetCoreWorker` after the worker is gone). So garbage is freed before
    Ray ends, and what becomes garbage meanwhile is freed after.
    """
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if was_enabled:
            gc.enable()


def is_there(address: str) -> bool:
    """Tells whether something listens at HOST:PORT; True for other addresses. Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    is_known = port.isdigit() and "://" not in host
    return not is_known or _listens((host.strip("[]"), int(port)), timeouts.JOIN_SECONDS)


def _listens(service: tuple[str, int], seconds: float) -> bool:
    try:
        with socket.create_connection(service, seconds):
            return True
    except (OSError, OverflowError):  # OverflowError: the port is above 65535
        return False


def _name(daemon: subprocess.Popen[bytes]) -> str:
    words = daemon.args
    return Path(str(words[0])).name if isinstance(words, list) else ""


def _apart(daemons: list[subprocess.Popen[bytes]]) -> AbstractContextManager[None]:
    """Starts Ray's daemons in sessions of their own, hidden and without the driver's secrets, and lists them.

    Job schedulers and `timeout` send SIGTERM to a whole process group, and the daemons must not end before the trials
    are saved. All of Ray's processes inherit the daemons' environment. Ray has no option for any of this
    (ray/_private/services.py, 2.60: `start_ray_process`). The daemons still end with this process: the kernel kills
    them when their parent is gone (`set_kill_on_parent_death_linux`).
    """
    popen = services.ConsolePopen

    def start(words: list[str], env: Mapping[str, str] | None = None, **options: Any) -> Any:
        given = os.environ if env is None else env
        public = {name: value for name, value in given.items() if name not in DRIVERS_SECRETS}
        if Path(words[0]).name == "raylet":
            options["executable"], words = words[0], [HIDDEN, *words[1:]]
        daemon = popen(words, **options, env=public, start_new_session=True)
        daemons.append(daemon)
        return daemon

    return replaced(services, ConsolePopen=start)


def _without_idle_daemons() -> AbstractContextManager[None]:
    """Lets Ray start without daemons that a sweep's own Ray does not need; Ray 2.60 has no option for this.

    They are the autoscaler's monitor, the dashboard's server, and the monitor that sends logs to a driver. Each is a
    Python process that a busy machine starts slowly: without them Ray starts some seconds sooner.
    """
    daemons = ("start_monitor", "start_api_server", "start_log_monitor")
    return replaced(ray._private.node.Node, **dict.fromkeys(daemons, lambda *_arguments, **_options: None))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keeps Ray from handling SIGTERM itself, and from printing a message for every process that dies.

    Ray has an option for neither (ray/_private/worker.py, 2.60: `init` and `connect` set a handler that exits at once;
    `listen_error_messages` prints even without `log_to_driver`). The sweep itself reports what became of its processes.
    """
    silent = replaced(ray._private.worker, print_to_stdstream=lambda *_arguments, **_options: None)
    with replaced(ray._private.utils, set_sigterm_handler=lambda _handler: None), silent:
        yield


def hear_again() -> None:
    """Puts Python's handler of SIGTERM back.

    Ray's C++ part replaces the handler without Python's knowledge when it opens its log, and resets the handler when it
    closes the log (observed with 2.60). Ray's handler calls Python's, and sets an alarm that ends the process after 3
    seconds (absl/debugging/failure_signal_handler.cc).
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        if signal.getsignal(signal.SIGALRM) == signal.SIG_DFL:  # else the alarm is one of Python's
            signal.alarm(0)
