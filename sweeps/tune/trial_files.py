"""A trial's files in the sweep's folder: snapshots, rows and the best adapter, read and written by the trial process.

A process on the driver's node writes the files itself. For processes on other nodes the keeper writes, an actor on the
driver's node. The keeper knows which process has a trial now. It refuses what an earlier process still sends from a
node that was cut off and came back.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps.errors import BudgetUsedUp
from sweeps.record import digests, samples, snapshots
from sweeps.record.folder import Kind, SweepFolder, writing
from sweeps.record.snapshots import Disk, SavedTrial
from sweeps.record.whole_files import write_whole
from sweeps.tune.actor_calls import ask
from trainables.contract import AnsweredRow
from trainables.objective import Objective, Standing

KEEPER = "folder-keeper"
TRIALS_IN_MEMORY = 8
"""Trials whose files are in the keeper's memory at the same time. Further files wait in Ray's object store."""


class FolderFiles:
    """A trial's files on this machine's disk. A repeated call has the same effect as one call."""

    node_id = ""
    """Ray's id of the process's node if that node may differ from the driver's; else empty."""

    def __init__(self, settings: Mapping[str, Any], trial_key: str) -> None:
        """Opens the files of a trial.

        Args:
            settings: `dir`, `disk_bytes`, `objective` and `parks` of the trial's configuration.
        """
        self._folder = SweepFolder(Path(settings["dir"]))
        self._key = trial_key
        objective = Objective.model_validate(settings["objective"])
        self._disk = Disk(self._folder, settings["disk_bytes"], objective, settings["parks"])

    def saved(self) -> SavedTrial:
        """Returns the trial's state in its latest undamaged snapshot; an empty state if there is none."""
        return snapshots.read(self._folder, self._key)[0]

    def snapshot(self) -> bytes | None:
        """Returns the pack's part of the latest undamaged snapshot."""
        return snapshots.read(self._folder, self._key)[1]

    def digest(self, adapter: str) -> str | None:
        """Returns the digest that an adapter had when it was written; see `digests.as_written`."""
        return digests.as_written(self._folder.path / adapter)

    def keep_best(
        self,
        step: int,
        adapter: Mapping[str, bytes],
        rows: Mapping[str, Any],
        best: Standing,
        is_repeat: bool = False,
        answers: Sequence[AnsweredRow] = (),
    ) -> str:
        """Writes the trial's best adapter and its evaluation. Returns its folder, relative to the sweep's folder.

        Args:
            rows: the document of the evaluation.
            best: the trial's best evaluation before this one.
            is_repeat: whether the trial is a repeat; snapshots of parked trials then make room.
            answers: the answered rows of this evaluation, if answers were scored.

        Raises:
            BudgetUsedUp: budget.disk has no room for the adapter.
            StorageError: the disk cannot be written.
        """
        files = {f"adapter/{name}": content for name, content in adapter.items()}
        document = {"step": step, "adapter_sha256": digests.of_files(adapter), **rows}
        files["eval_rows.json"] = json.dumps(document).encode()
        if answers:
            files[samples.OF_TRIAL] = samples.text(answers).encode()
        with self._room("best", files, best, is_repeat) as is_room:
            if not is_room:
                raise BudgetUsedUp("budget.disk is used up: no room for another adapter")
            kept = self._folder.keep(self._key, "best", step, files)
        return str(kept.relative_to(self._folder.path))

    def keep_rows(self, step: int, rows: Mapping[str, Any]) -> None:
        """Writes the evaluation of a report, row by row, so that trials can be compared after equal steps.

        Writes nothing if budget.disk has no room beside the latest snapshots: only comparisons need the rows.

        Raises:
            StorageError: the disk cannot be written.
        """
        files = {"eval_rows.json": json.dumps({"step": step, **rows}).encode()}
        with self._room("snapshot", files, Standing()) as is_room:
            if is_room:
                self._folder.keep(self._key, "rows", step, files)

    def keep_snapshot(self, progress: SavedTrial, snapshot: bytes, best: Standing) -> bool:
        """Writes a snapshot and removes older ones; returns False if budget.disk has no room for the snapshot.

        Args:
            best: the trial's best evaluation.

        Raises:
            StorageError: the disk cannot be written.
        """
        files = snapshots.files(progress, snapshot)
        with self._room("snapshot", files, best) as is_room:
            if is_room:
                self._folder.keep(self._key, "snapshot", progress.step, files)
        self._folder.drop_snapshots(self._key, but=snapshots.KEPT)
        return is_room

    @contextmanager
    def _room(
        self, kind: Kind, files: Mapping[str, bytes], best: Standing, takes_parked: bool = False
    ) -> Iterator[bool]:
        """Yields whether budget.disk has room for the files. Turns an error of the disk into a `StorageError`."""
        with (
            writing(self._folder.trial(self._key)),
            self._disk.room(kind, sum(map(len, files.values())), best, takes_parked) as is_room,
        ):
            yield is_room


class Replaced(RuntimeError):  # noqa: N818 - reads as what happened
    """Raised when another process has the trial now."""


class Holder(NamedTuple):
    """A process that has a trial."""

    process: str
    """Id of the process, never used again."""
    node_id: str
    """Ray's id of the process's node."""
    attempt: int
    """Number that the driver gave to this process, higher than those of all earlier processes."""


def holder(folder: Path, trial_key: str) -> Holder | None:
    """Returns the latest process of the trial on any node but the head's share; None if there was none."""
    try:
        process, node_id, attempt = (folder / trial_key).read_text().split()
        return Holder(process, node_id, int(attempt))
    except OSError:
        return None


class FolderKeeper:
    """The keeper's actor; see `create_keeper`. Holders are on disk, because Ray may restart the actor."""

    def __init__(self, settings: Mapping[str, Any], holders: str) -> None:
        """Creates a keeper.

        Args:
            settings: as for `FolderFiles`.
            holders: a folder of this driver in which the keeper notes which process has which trial.
        """
        self._settings = settings
        self._holders = Path(holders)
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()

    def take_up(self, trial_key: str, process: str, node_id: str, attempt: int) -> None:
        """Gives the trial to this process. Returns after an earlier process has finished its present write.

        Raises:
            StorageError: the disk cannot be written.
            Replaced: a process of a later attempt has the trial.
        """
        with self._lock(trial_key), writing(self._holders / trial_key):
            held = holder(self._holders, trial_key)
            if held is not None and held.attempt > attempt:
                raise Replaced(f"another process has the trial {trial_key} now")
            write_whole(self._holders / trial_key, f"{process} {node_id} {attempt}".encode())

    def call(self, trial_key: str, process: str, method: str, *arguments: Any) -> Any:
        """Calls a method of the trial's `FolderFiles`.

        Raises:
            Replaced: another process has the trial.
        """
        with self._lock(trial_key):
            held = holder(self._holders, trial_key)
            if held is None or held.process != process:
                raise Replaced(f"another process has the trial {trial_key} now")
            return getattr(FolderFiles(self._settings, trial_key), method)(*arguments)

    def _lock(self, trial_key: str) -> threading.Lock:
        with self._guard:
            return self._locks[trial_key]


def create_keeper(settings: Mapping[str, Any], holders: Path) -> Any:
    """Starts the keeper on the driver's node. Other processes find the actor as KEEPER in the driver's namespace."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {
        "name": KEEPER,
        "num_cpus": 0,
        "max_concurrency": TRIALS_IN_MEMORY,
        "scheduling_strategy": here,
        "max_restarts": -1,
    }
    return ray.remote(FolderKeeper).options(**options).remote(dict(settings), str(holders))


def files_of(config: Mapping[str, Any]) -> FolderFiles | KeptFiles:
    """Returns the files of the trial in a Tune configuration: on this disk, or through the keeper.

    Raises:
        ValueError: there is no keeper.
    """
    if not config["is_anywhere"]:
        return FolderFiles(config, config["trial_key"])
    node_id = str(ray.get_runtime_context().get_node_id())
    return KeptFiles(ray.get_actor(KEEPER), config["trial_key"], node_id, config["attempt"])


class KeptFiles:
    """`FolderFiles` for a process on any node. Large files go through Ray's object store."""

    def __init__(self, keeper: Any, trial_key: str, node_id: str, attempt: int) -> None:
        """Takes the trial over from earlier processes, which can no longer write.

        Raises:
            Replaced: a later process has the trial.
        """
        self._keeper = keeper
        self._key = trial_key
        self._process = uuid.uuid4().hex
        self.node_id = node_id
        _asked(keeper, "take_up", trial_key, self._process, node_id, attempt)

    def saved(self) -> SavedTrial:
        """See `FolderFiles`."""
        saved: SavedTrial = self._call("saved")
        return saved

    def snapshot(self) -> bytes | None:
        """See `FolderFiles`."""
        snapshot: bytes | None = self._call("snapshot")
        return snapshot

    def digest(self, adapter: str) -> str | None:
        """See `FolderFiles`."""
        digest: str | None = self._call("digest", adapter)
        return digest

    def keep_best(self, step: int, adapter: Mapping[str, bytes], *others: Any) -> str:
        """See `FolderFiles`."""
        return str(self._call("keep_best", step, ray.put(dict(adapter)), *others))

    def keep_rows(self, step: int, rows: Mapping[str, Any]) -> None:
        """See `FolderFiles`."""
        self._call("keep_rows", step, dict(rows))

    def keep_snapshot(self, progress: SavedTrial, snapshot: bytes, best: Standing) -> bool:
        """See `FolderFiles`."""
        return bool(self._call("keep_snapshot", progress, ray.put(snapshot), best))

    def _call(self, method: str, *arguments: Any) -> Any:
        return _asked(self._keeper, "call", self._key, self._process, method, *arguments)


def _asked(keeper: Any, *words: Any) -> Any:
    """Returns the keeper's answer; raises the keeper's own error."""
    try:
        return ask(keeper, *words)
    except RayTaskError as error:
        raise (error.cause or error) from None
