"""What a trial's process reads and writes in the sweep's folder: its snapshots, its rows and its best adapter."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweeps.errors import BudgetUsedUp
from sweeps.record import digests, snapshots
from sweeps.record.disk_budget import Disk
from sweeps.record.folder import Kind, SweepFolder, writing
from sweeps.record.snapshots import SavedTrial
from trainables.objective import Objective


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
        self, step: int, adapter: Mapping[str, bytes], rows: Mapping[str, Any], loss: float, is_repeat: bool = False
    ) -> str:
        """Writes the trial's best adapter, with what it evaluates to; its folder, relative to the sweep's.

        Args:
            rows: the document of its evaluation.
            loss: the trial's best value before, by `Objective.loss`.
            is_repeat: the trial repeats another, so those that are parked have had their turn.

        Raises:
            BudgetUsedUp: budget.disk has no room for it.
            StorageError: the disk takes no more.
        """
        files = {f"adapter/{name}": content for name, content in adapter.items()}
        document = {"step": step, "adapter_sha256": digests.of_files(adapter), **rows}
        files["eval_rows.json"] = json.dumps(document).encode()
        with self._room("best", files, loss, is_repeat) as is_room:
            if not is_room:
                raise BudgetUsedUp("budget.disk is used up: no room for another adapter")
            best = self._folder.keep(self._key, "best", step, files)
        return str(best.relative_to(self._folder.path))

    def keep_rows(self, step: int, rows: Mapping[str, Any]) -> None:
        """Writes what a report evaluates to, row by row, so that trials can be compared after equal steps.

        Where budget.disk has no room beside the latest snapshots, nothing is written: nothing else needs the rows.

        Raises:
            StorageError: the disk takes no more.
        """
        files = {"eval_rows.json": json.dumps({"step": step, **rows}).encode()}
        with self._room("snapshot", files, math.inf) as is_room:
            if is_room:
                self._folder.keep(self._key, "rows", step, files)

    def keep_snapshot(self, progress: SavedTrial, snapshot: bytes, loss: float) -> bool:
        """Writes a snapshot and removes those that it replaces; False where budget.disk has no room for it.

        Args:
            loss: the trial's best value, by `Objective.loss`.

        Raises:
            StorageError: the disk takes no more.
        """
        files = snapshots.files(progress, snapshot)
        with self._room("snapshot", files, loss) as is_room:
            if is_room:
                self._folder.keep(self._key, "snapshot", progress.step, files)
        self._folder.drop_snapshots(self._key, but=snapshots.KEPT)
        return is_room

    @contextmanager
    def _room(self, kind: Kind, files: Mapping[str, bytes], loss: float, takes_parked: bool = False) -> Iterator[bool]:
        """Whether budget.disk has room for the files; what the disk refuses meanwhile is a `StorageError`."""
        with (
            writing(self._folder.trial(self._key)),
            self._disk.room(kind, sum(map(len, files.values())), loss, takes_parked) as is_room,
        ):
            yield is_room
