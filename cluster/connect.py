"""The connection to Ray: a cluster of this process's own, or the one that runs here already."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import ray

from cluster.errors import ConnectionFailed
from cluster.ray_files import private_token, ray_folder

# Read by Ray at import or start: its reporters, loggers and usage questions would drown the sweep's own output, and its
# strict metric check would end a sweep for a trial that diverged before its first evaluation.
ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def connected(address: Literal["local", "auto"] | str, namespace: str) -> Iterator[None]:
    """Ray, for as long as the block runs.

    Args:
        address: `local` starts a cluster of its own and never joins one that happens to be there; `auto` joins the
            one on this node; anything else is the address of one.
        namespace: where this sweep's actors are named.

    Raises:
        ConnectionFailed: none could be started or joined.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _undisturbed(), private_token(), ray_folder() if address == "local" else nullcontext() as folder:
        yield from _connected(address, namespace, folder)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keeps Ray from taking SIGTERM over, and from printing what its raylets have to say of every process that died.

    Ray has switches for neither (ray/_private/worker.py, 2.60: `init` and `connect` set a handler that exits at once;
    `listen_error_messages` prints whatever `log_to_driver` says). The sweep says itself what became of its processes.
    """
    handler, printer = ray._private.utils.set_sigterm_handler, ray._private.worker.print_to_stdstream
    ray._private.utils.set_sigterm_handler = lambda _handler: None
    ray._private.worker.print_to_stdstream = lambda *_arguments, **_options: None
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler, ray._private.worker.print_to_stdstream = handler, printer


def _connected(address: str, namespace: str, folder: Path | None) -> Iterator[None]:
    options: dict[str, object] = {}
    if folder is not None:
        options = {"include_dashboard": False, "object_store_memory": 512 * 2**20, "_temp_dir": str(folder)}
    try:
        ray.init(
            address=address,
            namespace=namespace,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
            **options,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConnectionFailed(f"cluster.address: {address!r}: no Ray cluster there: {error}") from error
    _hear_again()
    try:
        yield
    finally:
        ray.shutdown()
        _hear_again()


def _hear_again() -> None:
    """Puts Python's handler of SIGTERM back.

    Ray's C++ side takes the signal over behind Python's back when it opens its log, and resets it when it closes that
    (found by trying, 2.60).
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
