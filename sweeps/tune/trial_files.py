"""What a trial's process reads and writes in the sweep's folder: its snapshots, its rows and its best adapter.

A process on the folder's own node writes there itself. For processes on other nodes the keeper does, an actor on the
driver's node. The keeper knows which process has a trial now: what an earlier one still sends, from a node that was cut
off and came back, is refused.
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
"""Files of so many trials are in the keeper's memory together; others wait in Ray's object store."""


class FolderFiles:
    """One trial's files, on this machine's own disk. Each call may be repeated: it does the same again."""

    node_id = ""
    """Ray's id of the process's node when that may be another than the driver's; else empty."""

    def __init__(self, settings: Mapping[str, Any], trial_key: str) -> None:
        """The files of a trial.

        Args:
            settings: what the driver tells each trial: `dir`, `disk_bytes`, `objective` and `parks`.
        """
        self._folder = SweepFolder(Path(settings["dir"]))
        self._key = trial_key
        objective = Objective.model_validate(settings["objective"])
        self._disk = Disk(self._folder, settings["disk_bytes"], objective, settings["parks"])

    def saved(self) -> SavedTrial:
        """The trial's state in its latest snapshot that is not damaged; an empty one where there is none."""
        return snapshots.read(self._folder, self._key)[0]

    def snapshot(self) -> bytes | None:
        """The pack's part of that snapshot."""
        return snapshots.read(self._folder, self._key)[1]

    def digest(self, adapter: str) -> str | None:
        """The digest of an adapter of the trial when it was written; see `digests.as_written`."""
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
        """Writes the trial's best adapter, with what it evaluates to; its folder, relative to the sweep's.

        Args:
            rows: the document of its evaluation.
            best: the trial's best evaluation before.
            is_repeat: the trial repeats another, so those that are parked have had their turn.
            answers: those of this evaluation, where they were scored.

        Raises:
            BudgetUsedUp: budget.disk has no room for it.
            StorageError: the disk takes no more.
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
        """Writes what a report evaluates to, row by row, so that trials can be compared after equal steps.

        Where budget.disk has no room beside the latest snapshots, nothing is written: nothing else needs the rows.

        Raises:
            StorageError: the disk takes no more.
        """
        files = {"eval_rows.json": json.dumps({"step": step, **rows}).encode()}
        with self._room("snapshot", files, Standing()) as is_room:
            if is_room:
                self._folder.keep(self._key, "rows", step, files)

    def keep_snapshot(self, progress: SavedTrial, snapshot: bytes, best: Standing) -> bool:
        """Writes a snapshot and removes those that it replaces; False where budget.disk has no room for it.

        Args:
            best: the trial's best evaluation.

        Raises:
            StorageError: the disk takes no more.
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
        """Whether budget.disk has room for the files; what the disk refuses meanwhile is a `StorageError`."""
        with (
            writing(self._folder.trial(self._key)),
            self._disk.room(kind, sum(map(len, files.values())), best, takes_parked) as is_room,
        ):
            yield is_room


class Replaced(RuntimeError):  # noqa: N818 - reads as what happened
    """Another process has the trial now."""


class Holder(NamedTuple):
    """The process that has a trial."""

    process: str
    """Its own id, which is never used again."""
    node_id: str
    """Ray's id of its node."""
    attempt: int
    """A number that the driver gave the trial with this process, higher than those of all processes before."""


def holder(folder: Path, trial_key: str) -> Holder | None:
    """The process that took the trial up last on another node; None where none did."""
    try:
        process, node_id, attempt = (folder / trial_key).read_text().split()
        return Holder(process, node_id, int(attempt))
    except OSError:
        return None


class FolderKeeper:
    """The actor's class; see `create_keeper`. Who has which trial is on disk: Ray may start the actor anew."""

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
            Replaced: a process of a later attempt has it.
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


def create_keeper(settings: Mapping[str, Any], holders: Path) -> Any:
    """Starts the keeper on the driver's own node. Others find it under KEEPER in the driver's namespace."""
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
    """The files of the trial that Tune tells a process of: on this machine, or on the driver's when it may be another.

    Raises:
        ValueError: there is no keeper.
    """
    if not config["is_anywhere"]:
        return FolderFiles(config, config["trial_key"])
    node_id = str(ray.get_runtime_context().get_node_id())
    return KeptFiles(ray.get_actor(KEEPER), config["trial_key"], node_id, config["attempt"])


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

    def keep_best(self, step: int, adapter: Mapping[str, bytes], *others: Any) -> str:
        """As that of `FolderFiles`."""
        return str(self._call("keep_best", step, ray.put(dict(adapter)), *others))

    def keep_rows(self, step: int, rows: Mapping[str, Any]) -> None:
        """As that of `FolderFiles`."""
        self._call("keep_rows", step, dict(rows))

    def keep_snapshot(self, progress: SavedTrial, snapshot: bytes, best: Standing) -> bool:
        """As that of `FolderFiles`."""
        return bool(self._call("keep_snapshot", progress, ray.put(snapshot), best))

    def _call(self, method: str, *arguments: Any) -> Any:
        return _asked(self._keeper, "call", self._key, self._process, method, *arguments)


def _asked(keeper: Any, *words: Any) -> Any:
    """The keeper's answer; raises what it has raised."""
    try:
        return ask(keeper, *words)
    except RayTaskError as error:
        raise (error.cause or error) from None
