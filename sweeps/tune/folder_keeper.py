"""The files of trials whose processes are on other nodes than the sweep's folder.

The keeper is one actor on the driver's node. It reads and writes for these processes, and knows which process has a
trial now: what an earlier one still sends, from a node that was cut off and came back, is refused.
"""

from __future__ import annotations

import threading
import uuid
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps.record.folder import writing
from sweeps.record.snapshots import SavedTrial
from sweeps.record.whole_files import write_whole
from sweeps.tune.broker_calls import ask
from sweeps.tune.trial_files import FolderFiles

NAME = "folder-keeper"
AT_ONCE = 8
"""Files of so many trials are in the keeper's memory at once; others wait in Ray's object store."""


class Replaced(RuntimeError):  # noqa: N818 - reads as what happened
    """Another process has the trial now."""


class Holder(NamedTuple):
    """The process that has a trial."""

    process: str
    """Its own id, which is never used again."""
    node_id: str
    """Ray's id of its node."""
    attempt: int
    """Which of the driver's attempts it is, of all trials together; see `processes.numbered`."""


def holder(folder: Path, trial_key: str) -> Holder | None:
    """The process that took the trial up last on another node; None where none did."""
    try:
        process, node_id, attempt = (folder / trial_key).read_text().split()
        return Holder(process, node_id, int(attempt))
    except OSError:
        return None


class FolderKeeper:
    """The actor's class; see `create`. Who has which trial is on disk: Ray may start the actor anew."""

    def __init__(self, settings: Mapping[str, Any], holders: str) -> None:
        """A keeper.

        Args:
            settings: as those of `FolderFiles`.
            holders: a folder of this driver's, for who has which trial.
        """
        self._settings = settings
        self._holders = Path(holders)
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()

    def take_up(self, trial_key: str, process: str, node_id: str, attempt: int) -> None:
        """From now on this process has the trial. What an earlier one was writing is on disk when this returns.

        Raises:
            StorageError: the disk takes no more.
            Replaced: a later attempt has it. Tune may start a process for a trial, and give it another one meanwhile.
        """
        with self._lock(trial_key), writing(self._holders / trial_key):
            held = holder(self._holders, trial_key)
            if held is not None and held.attempt > attempt:
                raise Replaced(f"another process has the trial {trial_key} now")
            write_whole(self._holders / trial_key, f"{process} {node_id} {attempt}".encode())

    def call(self, trial_key: str, process: str, method: str, *arguments: Any) -> Any:
        """Calls a method of the trial's `FolderFiles`.

        Raises:
            Replaced: another process has the trial now.
        """
        with self._lock(trial_key):
            held = holder(self._holders, trial_key)
            if held is None or held.process != process:
                raise Replaced(f"another process has the trial {trial_key} now")
            return getattr(FolderFiles(self._settings, trial_key), method)(*arguments)

    def _lock(self, trial_key: str) -> threading.Lock:
        with self._guard:
            return self._locks[trial_key]


def create(settings: Mapping[str, Any], holders: Path) -> Any:
    """Starts the keeper on the driver's own node. Others find it under NAME in the driver's namespace."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": NAME, "num_cpus": 0, "max_concurrency": AT_ONCE, "scheduling_strategy": here, "max_restarts": -1}
    return ray.remote(FolderKeeper).options(**options).remote(dict(settings), str(holders))


def files_of(config: Mapping[str, Any]) -> FolderFiles | KeptFiles:
    """The files of the trial that Tune tells a process of: on this machine, or on the driver's when it may be another.

    Raises:
        ValueError: there is no keeper.
    """
    if not config["is_anywhere"]:
        return FolderFiles(config, config["trial_key"])
    node_id = str(ray.get_runtime_context().get_node_id())
    return KeptFiles(ray.get_actor(NAME), config["trial_key"], node_id, config["attempt"])


class KeptFiles:
    """A trial's files, as `FolderFiles`, for a process on any node. Large ones go through Ray's object store."""

    def __init__(self, keeper: Any, trial_key: str, node_id: str, attempt: int) -> None:
        """Takes the trial up: no earlier process of it can write any more.

        Raises:
            Replaced: a later one has it.
        """
        self._keeper = keeper
        self._key = trial_key
        self._process = uuid.uuid4().hex
        self.node_id = node_id
        _asked(keeper, "take_up", trial_key, self._process, node_id, attempt)

    def saved(self) -> SavedTrial:
        """As that of `FolderFiles`."""
        saved: SavedTrial = self._call("saved")
        return saved

    def snapshot(self) -> bytes | None:
        """As that of `FolderFiles`."""
        snapshot: bytes | None = self._call("snapshot")
        return snapshot

    def digest(self, adapter: str) -> str | None:
        """As that of `FolderFiles`."""
        digest: str | None = self._call("digest", adapter)
        return digest

    def keep_best(
        self, step: int, adapter: Mapping[str, bytes], rows: Mapping[str, Any], loss: float, is_repeat: bool = False
    ) -> str:
        """As that of `FolderFiles`."""
        return str(self._call("keep_best", step, ray.put(dict(adapter)), dict(rows), loss, is_repeat))

    def keep_rows(self, step: int, rows: Mapping[str, Any]) -> None:
        """As that of `FolderFiles`."""
        self._call("keep_rows", step, dict(rows))

    def keep_snapshot(self, progress: SavedTrial, snapshot: bytes, loss: float) -> bool:
        """As that of `FolderFiles`."""
        return bool(self._call("keep_snapshot", progress, ray.put(snapshot), loss))

    def _call(self, method: str, *arguments: Any) -> Any:
        return _asked(self._keeper, "call", self._key, self._process, method, *arguments)


def _asked(keeper: Any, *words: Any) -> Any:
    """The keeper's answer; raises what it has raised."""
    try:
        return ask(keeper, *words)
    except RayTaskError as error:
        raise (error.cause or error) from None
